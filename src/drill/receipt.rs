//! The account of a drill: what was compared and found. It is printed, and left in the store as a receipt
//! (`receipts/<run>/<utc>-drill.json`), which `list` and later drills of a sample read.

use serde::Serialize;

use crate::drill::sample::Sample;
use crate::restore::forget::Forgotten;
use crate::restore::source::Loaded;
use crate::runs::receipts::Head;

/// Observations of one step of a drill, in words.
#[derive(Debug, Default)]
pub(crate) struct Observations {
    /// Parts of the run that did not come back as they were saved.
    pub(crate) differences: Vec<String>,
    /// Parts that this server cannot hold.
    pub(crate) not_proven: Vec<String>,
    /// Anything else a person should know.
    pub(crate) notes: Vec<String>,
}

/// The verdict of a drill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Everything came back as it was saved.
    Proven,
    /// As far as this server can hold the run, it came back as it was saved.
    ProvenInPart,
    /// Something is not what was saved.
    Different,
}

/// The account of a drill.
#[derive(Debug, Serialize)]
pub(crate) struct Receipt {
    #[serde(flatten)]
    pub(crate) head: Head,
    pub(crate) server_version: String,
    pub(crate) tables: u64,
    pub(crate) rows: u64,
    pub(crate) seconds: f64,
    pub(crate) restore_seconds: f64,
    pub(crate) differences: Vec<String>,
    pub(crate) not_proven: Vec<String>,
    pub(crate) notes: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sample: Option<Sample>,
    /// Rows that were erased after everything was compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) forgotten: Option<Forgotten>,
}

impl Receipt {
    /// The account of a drill that has found nothing yet, on a server of this `server_version_num`.
    pub(crate) fn new(loaded: &Loaded, server_version_num: u32) -> Self {
        Self {
            head: Head::new("drill", &loaded.run.manifest.run, &loaded.manifest_sha256, false),
            server_version: version(server_version_num),
            tables: 0,
            rows: 0,
            seconds: 0.0,
            restore_seconds: 0.0,
            differences: Vec::new(),
            not_proven: Vec::new(),
            notes: Vec::new(),
            sample: None,
            forgotten: None,
        }
    }

    /// Adds the observations of a step.
    pub(crate) fn add(&mut self, step: Observations) {
        self.differences.extend(step.differences);
        self.not_proven.extend(step.not_proven);
        self.notes.extend(step.notes);
    }

    /// The verdict.
    pub(crate) const fn verdict(&self) -> Verdict {
        match (self.head.ok, self.not_proven.is_empty()) {
            (true, true) => Verdict::Proven,
            (true, false) => Verdict::ProvenInPart,
            (false, _) => Verdict::Different,
        }
    }
}

/// `15.20` of 150020.
fn version(number: u32) -> String {
    format!("{}.{}", number / 10_000, number % 10_000)
}
