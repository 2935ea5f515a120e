//! The progress of a command: bars on a terminal, log lines otherwise.
//!
//! Log lines and bars share stderr; [`LogWriter`] lifts the bars while a line is written.

use std::collections::VecDeque;
use std::io::{self, IsTerminal as _, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressStyle};
use tokio_util::task::AbortOnDropHandle;

use crate::backup::counters::Counters;
use crate::cli::args::{Global, Progress as When};
use crate::human;
use crate::restore::progress::Progress as Loaded;
use crate::store::Store;

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
            let text = format!("{}/{} tables  {}", done(&counters.tables), total.tables, HumanBytes(bytes));
            Some(Moment { done: done(&counters.disk), total: total.disk, bytes, text })
        })
    }

    /// The progress of a restore: bytes of COPY text taken of those of the run.
    #[must_use]
    pub(crate) fn restore(global: &Global, counters: &Arc<Loaded>) -> Self {
        let counters = Arc::clone(counters);
        Self::start(global, move || {
            let (done, total) = (counters.taken.load(Ordering::Relaxed), counters.total.load(Ordering::Relaxed));
            let text = format!("{} of {}", HumanBytes(done), HumanBytes(total));
            (total > 0).then_some(Moment { done, total, bytes: done, text })
        })
    }

    /// The progress of a command that reads a run: stored bytes read of those to be read.
    #[must_use]
    pub(crate) fn reading(global: &Global, store: &Store) -> Self {
        let traffic = Arc::clone(store.traffic());
        Self::start(global, move || {
            let (done, total) = traffic.now();
            let text = format!("{} of {}", HumanBytes(done.min(total)), HumanBytes(total));
            (total > 0).then_some(Moment { done, total, bytes: done, text })
        })
    }

    /// Shows moments from the first on; `None` where the amount of work is not known yet.
    fn start(global: &Global, now: impl Fn() -> Option<Moment> + Send + 'static) -> Self {
        let bar = bar(global, 0, "{bar:10} {percent:>3} %  {wide_msg}");
        let (shown, draws) = (bar.clone(), draws_bars(global));
        let task = tokio::spawn(async move {
            let mut pace = Pace::default();
            let mut ticks = tokio::time::interval(if draws { DRAW } else { LOG });
            ticks.tick().await;
            loop {
                ticks.tick().await;
                let Some(Moment { done, total, bytes, text }) = now() else { continue };
                let text = format!("{text}  {}", pace.words(Instant::now(), done, bytes, total));
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

/// Time that the rate is taken over: long enough for a table that goes slowly, short enough to follow a network that
/// has become slower.
const WINDOW: Duration = Duration::from_mins(1);
/// Least time between two points that are remembered.
const STEP: Duration = Duration::from_millis(500);
/// No time left is named before so much is known.
const LEAST: Duration = Duration::from_secs(3);

/// The speed of the work in the last minute.
#[derive(Debug, Default)]
struct Pace {
    /// Moment, position and bytes, the oldest first.
    points: VecDeque<(Instant, u64, u64)>,
}

impl Pace {
    /// Rate in bytes, and the time left by the position.
    fn words(&mut self, now: Instant, done: u64, bytes: u64, total: u64) -> String {
        let is_due = self.points.back().is_none_or(|(at, ..)| now.duration_since(*at) >= STEP);
        if is_due {
            self.points.push_back((now, done, bytes));
        }
        while self.points.len() > 2 && self.points.get(1).is_some_and(|(at, ..)| now.duration_since(*at) >= WINDOW) {
            self.points.pop_front();
        }
        let Some((since, done_then, bytes_then)) = self.points.front() else { return String::new() };
        let seconds = now.duration_since(*since).as_secs_f64().max(0.001);
        let rate = HumanBytes(a_second(bytes.saturating_sub(*bytes_then), seconds));
        let speed = a_second(done.saturating_sub(*done_then), seconds);
        if now.duration_since(*since) < LEAST || speed == 0 || done >= total {
            return format!("{rate}/s");
        }
        let left = Duration::from_secs((total - done).div_ceil(speed));
        format!("{rate}/s  left {}", rough(left))
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a rate for people, never negative"
)]
fn a_second(amount: u64, seconds: f64) -> u64 {
    (amount as f64 / seconds) as u64
}

/// `45s`, `3m 20s`, `2h 5m`: two units.
fn rough(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        _ => format!("{}h {}m", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_follows_the_last_minute() {
        let begun = Instant::now();
        let mut pace = Pace::default();
        let mut words = String::new();
        // 100 a second for two minutes, then 10.
        for second in 0..=240_u64 {
            let done = if second <= 120 { second * 100 } else { 12_000 + (second - 120) * 10 };
            words = pace.words(begun + Duration::from_secs(second), done, done << 20, 14_400);
            if second == 120 {
                assert_eq!(words, "100.00 MiB/s  left 24s");
            }
        }
        assert_eq!(words, "10.00 MiB/s  left 2m 0s");
        let longest = format!("12345/12345 tables  123.45 GiB  {}", "1023.99 MiB/s  left 123h 59m");
        assert!(longest.len() + "========== 100 %  ".len() <= 80, "{}", longest.len());
    }
}
