//! The end of a command that did not fail: what its exit code says.

/// The ways in which a command ends that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Done. Exit 0.
    Done,
    /// The answer is no, and stdout said so. Exit 1.
    Failed,
    /// Done, but partial. Exit 3.
    Partial,
    /// Damage or a difference was found and reported. Exit 4.
    Damage,
}
