//! A notification: an event of a command, in the form that a webhook gets as JSON.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Event {
    /// The command begins.
    Start,
    /// Everything was done.
    Success,
    /// Done, but partial: the manifest says what is missing.
    Partial,
    /// Done, and far from the run before: something vanished, shrank or grew.
    Anomaly,
    /// Done, but `latest` does not name the new run.
    LatestNotMoved,
    /// The command failed.
    Failure,
    /// Damage, or a difference, was found.
    Damage,
    /// The command was asked to end before it was done.
    Interrupted,
}

impl Event {
    /// The word for it, as in the JSON.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Success => "success",
            Self::Partial => "partial",
            Self::Anomaly => "anomaly",
            Self::LatestNotMoved => "latest-not-moved",
            Self::Failure => "failure",
            Self::Damage => "damage",
            Self::Interrupted => "interrupted",
        }
    }

    /// True for what a person should look at.
    pub(crate) const fn is_problem(self) -> bool {
        !matches!(self, Self::Start | Self::Success)
    }
}

/// The body of a webhook (`pgstow schema notification` prints its JSON Schema).
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Notification {
    /// Always `pgstow-notification/1`; fields may be added.
    pub(crate) format: String,
    /// The same for the start and the end of one command.
    pub(crate) id: String,
    /// When, RFC 3339 in UTC.
    pub(crate) at: String,
    /// The event.
    pub(crate) event: Event,
    /// The command: `backup`, `verify`, `drill`, `prune` or `run`.
    pub(crate) command: String,
    /// The database's name in pgstow.toml, or the database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    /// The store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) store: Option<String>,
    /// The machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) host: Option<String>,
    /// The run that the command made or looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) run: Option<String>,
    /// The exit code; absent at the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) exit_code: Option<u8>,
    /// The time that the command took; absent at the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) seconds: Option<f64>,
    /// One sentence.
    pub(crate) message: String,
    /// Hints: each says what to do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) hints: Vec<String>,
    /// The last lines of the log, where something is wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) log: Vec<String>,
}

impl Notification {
    /// A notification of this moment.
    pub(crate) fn now(event: Event, command: &str, message: String) -> Self {
        Self {
            format: "pgstow-notification/1".to_owned(),
            id: String::new(),
            at: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            event,
            command: command.to_owned(),
            name: None,
            store: None,
            host: std::env::var("HOSTNAME").ok().or_else(hostname).filter(|name| !name.is_empty()),
            run: None,
            exit_code: None,
            seconds: None,
            message,
            hints: Vec::new(),
            log: Vec::new(),
        }
    }
}

fn hostname() -> Option<String> {
    Some(std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?.trim().to_owned())
}
