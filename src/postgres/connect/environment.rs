//! The process's environment as connection parameters see it: empty variables count as unset, as in libpq.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use crate::sql::letters::Letters;

/// The process's environment as it was when asked, or a made-up one.
#[derive(Default)]
pub(crate) struct Environment {
    pub(super) variables: BTreeMap<String, String>,
}

impl Environment {
    pub(super) fn of_process() -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, Letters::default().decode(value.as_bytes())))
        };
        Self { variables: std::env::vars_os().filter_map(text).collect() }
    }

    /// A variable's value; empty counts as unset, as in libpq.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The home directory, by `HOME`.
    pub(crate) fn home(&self) -> Option<PathBuf> {
        self.get("HOME").map(PathBuf::from)
    }

    /// The user this process runs as, by the password database, else by `USER`.
    pub(super) fn user(&self) -> Option<String> {
        use std::os::unix::fs::MetadataExt as _;
        let by_id = || user_named(std::fs::metadata("/proc/self").ok()?.uid());
        by_id().or_else(|| self.get("USER").or_else(|| self.get("LOGNAME")).map(str::to_owned))
    }
}

/// The name of a user of this machine, by the password database.
pub(super) fn user_named(id: u32) -> Option<String> {
    let (id, users) = (id.to_string(), std::fs::read_to_string("/etc/passwd").ok()?);
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == id).then(|| name.to_owned())
    })
}
