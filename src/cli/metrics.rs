//! Metrics in the text format of Prometheus: a file for the textfile collector of node_exporter, and `status --prometheus`.

use std::collections::BTreeMap;
use std::path::Path;

use crate::notify::event::{Event, Notification};

/// One value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Metric {
    /// Without `pgstow_`.
    pub(crate) name: &'static str,
    pub(crate) help: &'static str,
    pub(crate) labels: Vec<(&'static str, String)>,
    pub(crate) value: f64,
}

impl Metric {
    pub(crate) fn new(name: &'static str, help: &'static str, value: f64) -> Self {
        Self { name, help, labels: Vec::new(), value }
    }

    pub(crate) fn with(mut self, label: &'static str, value: &str) -> Self {
        self.labels.push((label, value.to_owned()));
        self
    }

    fn series(&self) -> String {
        let escaped = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let labels = self.labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value)));
        format!("pgstow_{}{{{}}}", self.name, labels.collect::<Vec<_>>().join(","))
    }
}

/// A number of bytes or rows as a value.
#[allow(clippy::cast_precision_loss, reason = "metrics are floating-point numbers; exact up to 2^53")]
pub(crate) const fn number(value: u64) -> f64 {
    value as f64
}

/// The text of values: those of one name together, behind its description.
pub(crate) fn text(metrics: &[Metric]) -> String {
    let mut families: BTreeMap<&str, Vec<&Metric>> = BTreeMap::new();
    for metric in metrics {
        families.entry(metric.name).or_default().push(metric);
    }
    let mut text = String::new();
    for (name, family) in families {
        let help = family.first().map_or("", |metric| metric.help);
        text.push_str(&format!("# HELP pgstow_{name} {help}\n# TYPE pgstow_{name} gauge\n"));
        for metric in family {
            text.push_str(&format!("{} {}\n", metric.series(), metric.value));
        }
    }
    text
}

const LAST_SUCCESS: &str = "last_success_timestamp_seconds";

/// Writes the metrics of a command that ended. A file that cannot be written is a warning.
pub(crate) fn write(file: &Path, command: &'static str, notification: &Notification, figures: &[Metric]) {
    let own = |name, help, value| {
        let store = notification.store.as_deref().unwrap_or_default();
        Metric::new(name, help, value).with("command", command).with("store", store)
    };
    let now = jiff::Timestamp::now().as_second();
    #[allow(clippy::cast_precision_loss, reason = "seconds since 1970 are far below 2^53")]
    let now = now as f64;
    let mut metrics = vec![
        own("exit_code", "Exit code of the last command.", f64::from(notification.exit_code.unwrap_or_default())),
        own("finished_timestamp_seconds", "End of the last command.", now),
        own("duration_seconds", "Time that the last command took.", notification.seconds.unwrap_or_default()),
    ];
    let mut success = own(LAST_SUCCESS, "End of the last command that succeeded.", now);
    if notification.event == Event::Success {
        metrics.push(success);
    } else if let Some(before) = before(file, &success.series()) {
        success.value = before;
        metrics.push(success);
    }
    metrics.extend(figures.iter().cloned());
    // A collector reads at any moment: the file is replaced as a whole.
    let new = file.with_extension(format!("prom.{}", std::process::id()));
    let written = std::fs::write(&new, text(&metrics)).and_then(|()| std::fs::rename(&new, file));
    if let Err(error) = written {
        tracing::warn!("write {}: {error}", file.display());
    }
}

/// The value that a series had in the file.
fn before(file: &Path, series: &str) -> Option<f64> {
    let text = std::fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
}

/// The metrics of what `status --json` says about a store.
pub(crate) fn of_health(found: &serde_json::Value, database: Option<&str>) -> Vec<Metric> {
    let store = found["store"].as_str().unwrap_or_default();
    let own = |name, help, value| {
        let metric = Metric::new(name, help, value).with("store", store);
        database.map_or(metric.clone(), |database| metric.with("database", database))
    };
    let ok = found["ok"].as_bool().unwrap_or_default();
    let mut metrics = vec![own("status_ok", "1 when a recent, complete backup is there.", f64::from(u8::from(ok)))];
    for (field, name, help) in [
        ("age_seconds", "latest_age_seconds", "Age of the latest run."),
        ("stored_bytes", "latest_stored_bytes", "Bytes of the latest run in the store."),
        ("objects", "latest_objects", "Objects of the latest run."),
        ("max_age_seconds", "max_age_seconds", "Age from which on the latest run is too old."),
    ] {
        metrics.extend(found[field].as_f64().map(|value| own(name, help, value)));
    }
    metrics
}
