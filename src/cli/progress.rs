//! What a person sees while a command runs: bars on a terminal, log lines otherwise.
//!
//! Log lines and bars share stderr; [`LogWriter`] lifts the bars while a line is written.

use std::io::{self, IsTerminal as _, Write};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanCount, MultiProgress, ProgressBar, ProgressStyle};
use tokio_util::task::AbortOnDropHandle;

use crate::backup::counters::Counters;
use crate::cli::args::{Global, Progress as When};
use crate::restore::progress::Progress as Loaded;

fn bars() -> &'static MultiProgress {
    static BARS: OnceLock<MultiProgress> = OnceLock::new();
    BARS.get_or_init(MultiProgress::new)
}

/// Whether bars are drawn: asked for, or stderr is a terminal and logs are not for a machine.
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

/// How often the bar is drawn, and how often a log line is written where there is no bar.
const DRAW: Duration = Duration::from_millis(125);
const LOG: Duration = Duration::from_secs(10);

/// The progress of a backup: position by the size on disk of what was drained, the only total known before.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    _task: AbortOnDropHandle<()>,
}

impl Progress {
    /// Shows the counters, from the moment the amount of work is known until it is dropped.
    #[must_use]
    pub(crate) fn start(global: &Global, counters: &Arc<Counters>) -> Self {
        let bar = bar(global, 0, "{bar:32} {percent:>3} %  {msg}  {elapsed} (left {eta})");
        let (counters, shown, draws) = (Arc::clone(counters), bar.clone(), draws_bars(global));
        let task = tokio::spawn(async move {
            let mut started = None;
            let mut ticks = tokio::time::interval(if draws { DRAW } else { LOG });
            ticks.tick().await;
            loop {
                ticks.tick().await;
                let Some(total) = counters.total() else { continue };
                let begun = *started.get_or_insert_with(Instant::now);
                let done = |n: &std::sync::atomic::AtomicU64| n.load(Ordering::Relaxed);
                let raw = done(&counters.raw);
                #[allow(clippy::cast_precision_loss, reason = "a rate for people")]
                let rate = raw as f64 / begun.elapsed().as_secs_f64().max(0.001);
                let text = format!(
                    "schemas {}/{}  tables {}  rows {}  {} at {}/s",
                    done(&counters.schemas),
                    total.schemas,
                    done(&counters.tables),
                    HumanCount(done(&counters.rows)),
                    HumanBytes(raw),
                    human_rate(rate),
                );
                if draws {
                    shown.set_length(total.disk);
                    shown.set_position(done(&counters.disk).min(total.disk));
                    shown.set_message(text);
                } else {
                    tracing::info!("{text}");
                }
            }
        });
        Self { bar, _task: AbortOnDropHandle::new(task) }
    }

    /// Takes the bar away.
    pub fn end(self) {
        self.bar.finish_and_clear();
    }
}

/// The progress of a restore: bytes of COPY text taken of those of the run.
#[derive(Debug)]
pub struct Loading {
    bar: ProgressBar,
    _task: AbortOnDropHandle<()>,
}

impl Loading {
    /// Shows these counters until it is dropped, as soon as there is something to load.
    #[must_use]
    pub(crate) fn start(global: &Global, counters: &Arc<Loaded>) -> Self {
        let bar = bar(global, 0, "{bar:32} {percent:>3} %  {msg}  {elapsed} (left {eta})");
        let (counters, shown, draws) = (Arc::clone(counters), bar.clone(), draws_bars(global));
        let task = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(if draws { DRAW } else { LOG });
            let mut started = None;
            loop {
                ticks.tick().await;
                let (done, total) = (counters.taken.load(Ordering::Relaxed), counters.total.load(Ordering::Relaxed));
                if total == 0 {
                    continue;
                }
                let started = *started.get_or_insert_with(Instant::now);
                #[allow(clippy::cast_precision_loss, reason = "a rate for people")]
                let rate = done as f64 / started.elapsed().as_secs_f64().max(0.001);
                let text = format!("rows: {} of {} at {}/s", HumanBytes(done), HumanBytes(total), human_rate(rate));
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
    pub fn end(self) {
        self.bar.finish_and_clear();
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate for people, never negative")]
fn human_rate(bytes_a_second: f64) -> HumanBytes {
    HumanBytes(bytes_a_second as u64)
}
