//! What a person sees while a command runs: bars on a terminal, log lines otherwise.
//!
//! Log lines and bars share stderr; [`LogWriter`] lifts the bars while a line is written.

use std::io::{self, Write};
use std::sync::OnceLock;

use indicatif::MultiProgress;

fn bars() -> &'static MultiProgress {
    static BARS: OnceLock<MultiProgress> = OnceLock::new();
    BARS.get_or_init(MultiProgress::new)
}

/// Writes log lines to stderr without tearing the bars.
#[derive(Debug, Default)]
pub struct LogWriter {}

impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        bars().suspend(|| io::stderr().write_all(line))?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
