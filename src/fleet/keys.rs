//! The keys that the file knows: the flags of the steps. The command line makes the list, which therefore cannot drift.

use crate::error::Error;
use crate::runs::select;

/// The steps of a database, in their order. `status` is no step of a night, but has settings of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Step {
    Backup,
    /// Into a second store.
    Copy,
    Verify,
    Prune,
    Drill,
    Status,
}

impl Step {
    pub(crate) const ALL: [Self; 6] = [Self::Backup, Self::Copy, Self::Verify, Self::Prune, Self::Drill, Self::Status];

    /// The verb on the command line, and the name of its table in the file.
    pub(crate) const fn verb(self) -> &'static str {
        match self {
            Self::Backup => "backup",
            Self::Copy => "copy",
            Self::Verify => "verify",
            Self::Prune => "prune",
            Self::Drill => "drill",
            Self::Status => "status",
        }
    }

    /// The step whose settings stand in the table of this name; those of `backup` stand in the section itself.
    pub(crate) fn of_table(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|step| *step != Self::Backup && step.verb() == name)
    }

    /// True for a step that may have the key `every`.
    pub(crate) const fn recurs(self) -> bool {
        matches!(self, Self::Verify | Self::Drill)
    }
}

/// The number of values that a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Takes {
    /// None: `true` or `false`.
    Nothing,
    One,
    Many,
}

/// A flag, as a key of the file.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    /// The flag's long name.
    pub(crate) name: String,
    /// The steps that have it.
    pub(crate) steps: Vec<Step>,
    /// The variable that the flag is read from where it is not given.
    pub(crate) variable: Option<String>,
    pub(crate) takes: Takes,
    /// True for a flag that a number is given to.
    pub(crate) is_number: bool,
    /// The values it may have, where they are few.
    pub(crate) values: Vec<String>,
    pub(crate) help: String,
}

/// The connection string of the database has a shorter name in the file.
pub(crate) const URL: &str = "url";
/// The store of the runs.
pub(crate) const STORE: &str = "store";
/// The least time from one verification, or drill, to the next.
pub(crate) const EVERY: &str = "every";
/// Variables of the environment of the database's processes.
pub(crate) const ENV: &str = "env";
/// Most backups that are made of one server at the same time.
pub(crate) const PER_SERVER: &str = "per-server";

/// The keys that the file knows.
#[derive(Debug, Clone)]
pub(crate) struct Keys(pub(crate) Vec<Key>);

impl Keys {
    pub(crate) fn named(&self, name: &str) -> Option<&Key> {
        self.0.iter().find(|key| key.name == name)
    }

    /// True for a key that may stand in a section itself: it is a flag of `backup`, or of several steps.
    pub(crate) fn is_shared(key: &Key) -> bool {
        key.steps.contains(&Step::Backup) || key.steps.len() > 1
    }

    /// The names that a section itself knows.
    pub(crate) fn of_sections(&self) -> Vec<&str> {
        self.0.iter().filter(|key| Self::is_shared(key)).map(|key| key.name.as_str()).collect()
    }

    /// The names that the table of a step knows.
    pub(crate) fn of_step(&self, step: Step) -> Vec<&str> {
        let mut names: Vec<&str> =
            self.0.iter().filter(|key| key.steps.contains(&step)).map(|key| key.name.as_str()).collect();
        names.extend(step.recurs().then_some(EVERY));
        names
    }
}

/// An error for a key that is not known where it stands.
pub(crate) fn unknown(place: &str, name: &str, known: &[&str]) -> Error {
    let error = Error::usage(format!("{place}: unknown key {name:?}"));
    match select::nearest(name, known).as_slice() {
        [] => error.hint("`pgstow manual fleet` explains the file; `pgstow schema config` prints its JSON Schema"),
        near => error.hint(format!("did you mean {}?", near.join(" or ").replace('"', ""))),
    }
}
