//! What the tests tried, counted for the report of `infra/test`: one line for each fault, bad input, role, server and
//! encoding, in the file that `PGSTOW_TEST_TALLY` names. Without that variable nothing is written.

use std::fs::OpenOptions;
use std::io::Write as _;

/// What a run made of the faults it met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It completed, with the same objects as without faults.
    Survived,
    /// It failed as promised: one error, nothing promoted, nothing left open.
    Failed,
    /// Anything else. The test fails too.
    Lost,
}

/// One line: words of one kind, then which one.
pub fn note(kind: &str, which: &str) {
    let Some(path) = std::env::var_os("PGSTOW_TEST_TALLY") else { return };
    // One write, so that lines of tests that run at the same time do not mix.
    let line = format!("{kind}\t{}\n", which.replace(['\n', '\t'], " "));
    let file = OpenOptions::new().create(true).append(true).open(&path);
    file.and_then(|mut file| file.write_all(line.as_bytes())).expect("PGSTOW_TEST_TALLY can be written");
}

/// So many faults of one kind were injected and did hit something.
pub fn injected(fault: &str, times: usize) {
    (0..times).for_each(|_| note("fault", fault));
}

/// How one run (of the program, or of the part of it that a test drives) that met at least one fault ended.
pub fn ended(outcome: Outcome, how: &str) {
    note(
        match outcome {
            Outcome::Survived => "survived",
            Outcome::Failed => "failed",
            Outcome::Lost => "lost",
        },
        how,
    );
}

/// An input that is wrong, damaged or hostile was given to the program, which said so.
pub fn bad_input(what: &str) {
    note("bad input", what);
}
