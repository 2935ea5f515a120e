//! The findings of the checks, one line each, and their text.

use serde::Serialize;

use crate::error::Error;
use crate::human;

/// The severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// Nothing to do.
    Ok,
    /// A backup works, but something is worth a look.
    Warning,
    /// A backup would fail.
    Error,
}

/// One finding.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Check {
    /// `database` or `store`.
    pub(crate) area: &'static str,
    /// The checked thing.
    pub(crate) name: &'static str,
    /// Its severity.
    pub(crate) level: Level,
    /// The finding.
    pub(crate) text: String,
    /// The cures.
    pub(crate) cures: Vec<String>,
}

/// All findings, in the order of the checks.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) checks: Vec<Check>,
}

impl Report {
    pub(crate) fn ok(&mut self, area: &'static str, name: &'static str, text: impl Into<String>) {
        self.checks.push(Check { area, name, level: Level::Ok, text: text.into(), cures: Vec::new() });
    }

    pub(crate) fn warn(
        &mut self,
        area: &'static str,
        name: &'static str,
        text: impl Into<String>,
        cures: impl IntoIterator<Item = String>,
    ) {
        let cures = cures.into_iter().collect();
        self.checks.push(Check { area, name, level: Level::Warning, text: text.into(), cures });
    }

    pub(crate) fn error(
        &mut self,
        area: &'static str,
        name: &'static str,
        text: impl Into<String>,
        cures: impl IntoIterator<Item = String>,
    ) {
        let cures = cures.into_iter().collect();
        self.checks.push(Check { area, name, level: Level::Error, text: text.into(), cures });
    }

    /// An error of the program as a finding; its hints are the cures.
    pub(crate) fn failed(&mut self, area: &'static str, name: &'static str, error: &Error) {
        self.error(area, name, error.message(), error.hints().iter().cloned());
    }

    /// The worst level; ok when nothing was checked.
    pub(crate) fn verdict(&self) -> Level {
        self.checks.iter().map(|check| check.level).max().unwrap_or(Level::Ok)
    }

    pub(crate) fn count(&self, level: Level) -> usize {
        self.checks.iter().filter(|check| check.level == level).count()
    }

    /// For people: areas, a line a check, its cures below it.
    pub(crate) fn text(&self) -> String {
        let width = self.checks.iter().map(|check| check.name.len()).max().unwrap_or_default();
        let mut text = String::new();
        let mut area = "";
        for check in &self.checks {
            if check.area != area {
                area = check.area;
                text.push_str(&format!("{}{area}\n", if text.is_empty() { "" } else { "\n" }));
            }
            let level = match check.level {
                Level::Ok => "ok",
                Level::Warning => "warning",
                Level::Error => "error",
            };
            text.push_str(&format!("  {level:<7}  {:<width$}  {}\n", check.name, human::plain(&check.text)));
            for cure in &check.cures {
                text.push_str(&format!("           {:width$}  -> {}\n", "", human::plain(cure)));
            }
        }
        text
    }
}
