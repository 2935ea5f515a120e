//! The output of a command for a CI: GitHub's annotations and summary of the step, GitLab's sections of the log.
//! Nothing of it is on stdout. A step of `pgstow run` leaves it to that.

use std::io::Write as _;

use crate::fleet::child::SUPERVISED;
use crate::notify::event::{Event, Notification};

fn is_set(name: &str) -> bool {
    std::env::var(name).is_ok_and(|value| value == "true") && std::env::var_os(SUPERVISED).is_none()
}

fn line(text: &str) {
    // Nothing better can be done for a stderr that is gone.
    let _unwritable = std::io::stderr().write_all(text.as_bytes());
}

/// The log of a command as a section that GitLab can fold.
#[derive(Debug)]
pub(crate) struct Section(Option<String>);

impl Section {
    pub(crate) fn begin(command: &str) -> Self {
        if !is_set("GITLAB_CI") {
            return Self(None);
        }
        let name = format!("pgstow_{command}_{:08x}", rand::random::<u32>());
        let now = jiff::Timestamp::now().as_second();
        line(&format!("\x1b[0Ksection_start:{now}:{name}[collapsed=true]\r\x1b[0Kpgstow {command}\n"));
        Self(Some(name))
    }

    pub(crate) fn end(self) {
        if let Some(name) = self.0 {
            line(&format!("\x1b[0Ksection_end:{}:{name}\r\x1b[0K\n", jiff::Timestamp::now().as_second()));
        }
    }
}

/// Under GitHub Actions: an annotation of what is wrong, and the result in the summary of the step.
pub(crate) fn report(command: &str, notification: &Notification, text: &str) {
    if !is_set("GITHUB_ACTIONS") {
        return;
    }
    let level = match notification.event {
        Event::Start | Event::Success => None,
        Event::Partial | Event::Anomaly | Event::LatestNotMoved => Some("warning"),
        Event::Failure | Event::Damage | Event::Interrupted => Some("error"),
    };
    if let Some(level) = level {
        let hints: Vec<String> = notification.hints.iter().map(|hint| format!("\nhint: {hint}")).collect();
        let message = escaped(&format!("{}{}", notification.message, hints.concat()));
        line(&format!("::{level} title=pgstow {command}::{message}\n"));
    }
    let Some(path) = std::env::var_os("GITHUB_STEP_SUMMARY").filter(|path| !path.is_empty()) else { return };
    let shown = if text.is_empty() { &notification.message } else { text };
    // A fence longer than any in the text.
    let summary =
        format!("### pgstow {command}: {}\n\n``````text\n{}\n``````\n", notification.event.as_str(), shown.trim_end());
    let opened = std::fs::OpenOptions::new().append(true).create(true).open(path);
    if let Err(error) = opened.and_then(|mut file| file.write_all(summary.as_bytes())) {
        tracing::warn!("write the summary of the step: {error}");
    }
}

/// The data of a workflow command.
fn escaped(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}
