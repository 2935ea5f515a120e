//! The one error type. It owns what a person reads when something went wrong and which exit code a script sees.
//!
//! Rules: the message names the thing and the operation, lower case, no final period; hints say what to do next.
//! An error is printed once, by `main`, on stderr. A message never contains a secret: connection strings are
//! redacted by their type (`postgres::conninfo`), never by the care of the caller.

use std::fmt;

/// Result with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a caller can decide on; each kind is one exit code of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The operation failed; nothing was promoted. Exit 1.
    Failed,
    /// Wrong usage or configuration. Exit 2.
    Usage,
    /// Done, but partial; the manifest (or the report) says what is missing. Exit 3.
    Partial,
    /// Verification or a drill found damage or a difference. Exit 4.
    Damage,
    /// Interrupted by SIGINT. Exit 130.
    Interrupted,
    /// Interrupted by SIGTERM. Exit 143.
    Terminated,
}

impl Kind {
    /// The process exit code of this kind.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Partial => 3,
            Self::Damage => 4,
            Self::Interrupted => 130,
            Self::Terminated => 143,
        }
    }
}

/// An error with its exit code, one message and any number of hints.
#[derive(Debug, Clone)]
pub struct Error {
    kind: Kind,
    message: String,
    hints: Vec<String>,
}

impl Error {
    /// An error of the given kind.
    #[must_use]
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hints: Vec::new() }
    }

    /// A failed operation (exit 1).
    #[must_use]
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Kind::Failed, message)
    }

    /// Wrong usage or configuration (exit 2).
    #[must_use]
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    /// Damage found in stored data (exit 4 in `verify` and `drill`).
    #[must_use]
    pub fn damage(message: impl Into<String>) -> Self {
        Self::new(Kind::Damage, message)
    }

    /// Adds a `hint:` line.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Puts `operation: ` before the message: the outer layer says what it was doing.
    #[must_use]
    pub fn context(mut self, operation: impl fmt::Display) -> Self {
        self.message = format!("{operation}: {}", self.message);
        self
    }

    /// Changes the kind, for a layer that knows better what the failure means.
    #[must_use]
    pub fn with_kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// What the caller can decide on.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// The message without hints.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The hints, in order.
    #[must_use]
    pub fn hints(&self) -> &[String] {
        &self.hints
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        // An error of ours that travelled through an `io` interface comes out unchanged.
        match error.downcast::<Self>() {
            Ok(own) => own,
            Err(other) => Self::failed(other.to_string()),
        }
    }
}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        Self::other(error)
    }
}

/// Adds what was being done to an error of any make.
pub trait Context<T> {
    /// Turns the error into a failed operation whose message begins with `operation`.
    fn context(self, operation: impl fmt::Display) -> Result<T>;
    /// Like [`Context::context`], the text made only in the case of an error.
    fn with_context<D: fmt::Display>(self, operation: impl FnOnce() -> D) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, operation: impl fmt::Display) -> Result<T> {
        self.map_err(|error| error.into().context(operation))
    }

    fn with_context<D: fmt::Display>(self, operation: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|error| error.into().context(operation()))
    }
}
