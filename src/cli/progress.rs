//! The progress of a command: bars on a terminal, log lines otherwise.
//!
//! Log lines and bars share stderr; [`LogWriter`] lifts the bars while a line is written.

use std::collections::VecDeque;
use std::io::{self, IsTerminal as _, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanCount, MultiProgress, ProgressBar, ProgressStyle};
use tokio_util::task::AbortOnDropHandle;

use crate::backup::counters::Counters;
use crate::cli::args::{Global, Progress as When};
use crate::human;
use crate::restore::progress::Progress as Loaded;

fn bars() -> &'static MultiProgress {
    static BARS: OnceLock<MultiProgress> = OnceLock::new();
    BARS.get_or_init(MultiProgress::new)
}

/// True where bars are drawn: asked for, or stderr is a terminal and logs are not for a machine.
#[must_use]
pub fn draws_bars(global: &Global) -> bool {
    match global.progress {
        When::Always => true,
        When::Never => false,
        When::Auto => io::stderr().is_terminal() && global.log_format == crate::cli::args::LogFormat::Text,
    }
}

/// A bar among the others, or a hidden one where none are drawn. Position and length are the caller's.
#[must_use]
pub fn bar(global: &Global, length: u64, template: &str) -> ProgressBar {
    if !draws_bars(global) {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_not_ours| ProgressStyle::default_bar());
    bars().add(ProgressBar::new(length).with_style(style.progress_chars("=> ")))
}

/// Log lines that are kept for notifications.
const KEPT: usize = 100;

static LINES: Mutex<VecDeque<String>> = Mutex::new(VecDeque::new());

fn keep(line: &[u8]) {
    let mut lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
    if lines.len() == KEPT {
        lines.pop_front();
    }
    lines.push_back(human::plain(String::from_utf8_lossy(line).trim_end()));
}

/// The last lines of the log, at most so many.
pub(crate) fn tail(most: usize) -> Vec<String> {
    let lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
    lines.iter().skip(lines.len().saturating_sub(most)).cloned().collect()
}

/// Writes log lines to stderr without tearing the bars.
#[derive(Debug, Default)]
pub struct LogWriter {}

impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        keep(line);
        bars().suspend(|| io::stderr().write_all(line))?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Time between two drawings of the bar, and between two log lines where there is no bar.
const DRAW: Duration = Duration::from_millis(125);
const LOG: Duration = Duration::from_secs(10);

/// The work of a command at one moment.
struct Moment {
    /// Position and length of the bar.
    done: u64,
    total: u64,
    /// Bytes so far, for the rate.
    bytes: u64,
    text: String,
}

/// A bar, or a log line now and then, until it is dropped.
#[derive(Debug)]
pub(crate) struct Shown {
    bar: ProgressBar,
    _task: AbortOnDropHandle<()>,
}

impl Shown {
    /// The progress of a backup: position by the size on disk of what was drained, the only total known before.
    #[must_use]
    pub(crate) fn backup(global: &Global, counters: &Arc<Counters>) -> Self {
        let counters = Arc::clone(counters);
        Self::start(global, move || {
            let total = counters.total()?;
            let done = |n: &AtomicU64| n.load(Ordering::Relaxed);
            let bytes = done(&counters.raw);
            let text = format!(
                "schemas {}/{}  tables {}  rows {}  {}",
                done(&counters.schemas),
                total.schemas,
                done(&counters.tables),
                HumanCount(done(&counters.rows)),
                HumanBytes(bytes),
            );
            Some(Moment { done: done(&counters.disk), total: total.disk, bytes, text })
        })
    }

    /// The progress of a restore: bytes of COPY text taken of those of the run.
    #[must_use]
    pub(crate) fn restore(global: &Global, counters: &Arc<Loaded>) -> Self {
        let counters = Arc::clone(counters);
        Self::start(global, move || {
            let (done, total) = (counters.taken.load(Ordering::Relaxed), counters.total.load(Ordering::Relaxed));
            let text = format!("rows: {} of {}", HumanBytes(done), HumanBytes(total));
            (total > 0).then_some(Moment { done, total, bytes: done, text })
        })
    }

    /// Shows moments from the first on; `None` where the amount of work is not known yet.
    fn start(global: &Global, now: impl Fn() -> Option<Moment> + Send + 'static) -> Self {
        let bar = bar(global, 0, "{bar:32} {percent:>3} %  {msg}  {elapsed} (left {eta})");
        let (shown, draws) = (bar.clone(), draws_bars(global));
        let task = tokio::spawn(async move {
            let mut started = None;
            let mut ticks = tokio::time::interval(if draws { DRAW } else { LOG });
            ticks.tick().await;
            loop {
                ticks.tick().await;
                let Some(Moment { done, total, bytes, text }) = now() else { continue };
                let begun = *started.get_or_insert_with(Instant::now);
                #[allow(clippy::cast_precision_loss, reason = "a rate for people")]
                let rate = bytes as f64 / begun.elapsed().as_secs_f64().max(0.001);
                let text = format!("{text} at {}/s", human_rate(rate));
                if draws {
                    shown.set_length(total);
                    shown.set_position(done.min(total));
                    shown.set_message(text);
                } else {
                    tracing::info!("{text}");
                }
            }
        });
        Self { bar, _task: AbortOnDropHandle::new(task) }
    }

    /// Takes the bar away.
    pub(crate) fn end(self) {
        self.bar.finish_and_clear();
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate for people, never negative")]
fn human_rate(bytes_a_second: f64) -> HumanBytes {
    HumanBytes(bytes_a_second as u64)
}
