//! PostgreSQL's client programs: which of the installed ones fits the server.
//!
//! `pg_dump` refuses a server newer than itself, and a newer major writes archives that an older `pg_restore` cannot
//! read, so the server's own major is best and the next newer one second; among those the newest minor release.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, Result};

/// The client programs of one installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PgTools {
    folder: PathBuf,
    /// Version of `pg_dump`, for example `15.20`.
    pub(crate) version: String,
    /// Its major version.
    pub(crate) major: u32,
    /// Its minor version.
    pub(crate) minor: u32,
}

/// Folders with one folder a version below them, and what is below that.
const VERSIONED: [(&str, &str, &str); 7] = [
    ("/usr/lib/postgresql", "", "bin"),
    ("/usr", "pgsql-", "bin"),
    ("/usr/libexec", "postgresql", ""),
    ("/opt/homebrew/opt", "postgresql@", "bin"),
    ("/usr/local/opt", "postgresql@", "bin"),
    ("/home/linuxbrew/.linuxbrew/opt", "postgresql@", "bin"),
    ("/Applications/Postgres.app/Contents/Versions", "", "bin"),
];

/// Folders without a version in their name.
const PLAIN: [&str; 4] =
    ["/opt/homebrew/opt/libpq/bin", "/usr/local/opt/libpq/bin", "/usr/local/pgsql/bin", "/opt/bitnami/postgresql/bin"];

/// Whose version the programs have to reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    /// That of the server which is read.
    Server,
    /// That of the pg_dump which made a run.
    Run,
}

impl PgTools {
    /// Finds the programs for a server of `server_version_num` (150020): in `bin_dir` alone if given, else in `PATH`,
    /// then in the usual folders. Runs `pg_dump --version` of each candidate.
    ///
    /// # Errors
    /// `pg_dump` not found, and `pg_dump` too old, each with the version that is needed and how to get it.
    pub(crate) fn find(bin_dir: Option<&Path>, server_version_num: u32, whose: Whose) -> Result<Self> {
        let major = server_version_num / 10_000;
        let found = Self::all(bin_dir);
        let best = found
            .iter()
            .filter(|tools| tools.major >= major)
            .min_by_key(|tools| (tools.major, std::cmp::Reverse(tools.minor)));
        let Some(best) = best else { return Err(unfit(bin_dir, major, whose, &found)) };
        for program in [best.pg_dumpall(), best.pg_restore()] {
            if !program.is_file() {
                return Err(install(Error::failed(format!("{} is missing beside pg_dump", program.display())), major));
            }
        }
        Ok(best.clone())
    }

    /// The newest programs of those that [`PgTools::find`] chooses from.
    pub(crate) fn newest(bin_dir: Option<&Path>) -> Option<Self> {
        let whole = |tools: &Self| tools.pg_dumpall().is_file() && tools.pg_restore().is_file();
        Self::all(bin_dir).into_iter().filter(whole).max_by_key(|tools| (tools.major, tools.minor))
    }

    /// The programs of `bin_dir` alone if given, else of `PATH` and the usual folders.
    fn all(bin_dir: Option<&Path>) -> Vec<Self> {
        let folders = bin_dir.map_or_else(usual_folders, |folder| vec![folder.to_owned()]);
        let mut found: Vec<Self> = Vec::new();
        for folder in folders {
            if let Some(tools) = Self::at(&folder)
                && found.iter().all(|known| known.folder != tools.folder)
            {
                found.push(tools);
            }
        }
        found
    }

    /// The programs of a folder; `None` without a `pg_dump` that prints its version.
    fn at(folder: &Path) -> Option<Self> {
        let program = folder.join("pg_dump");
        // Debian's /usr/bin/pg_dump is a script that picks a version by the connection's parameters, so that what it
        // says now need not be what runs later. What it would run is in the usual folders.
        let real = program.canonicalize().ok()?;
        if real.file_name()? == "pg_wrapper" {
            return None;
        }
        let output = Command::new(&program).arg("--version").output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        let version = parse_version(&text)?;
        let mut numbers = version.split('.').map(|part| {
            let digits = part.find(|c: char| !c.is_ascii_digit()).map_or(part, |end| part.get(..end).unwrap_or(part));
            digits.parse().unwrap_or(0)
        });
        let (major, minor) = (numbers.next()?, numbers.next().unwrap_or(0));
        Some(Self { folder: real.parent()?.to_owned(), version, major, minor })
    }

    /// The program that describes and dumps a database.
    #[must_use]
    pub(crate) fn pg_dump(&self) -> PathBuf {
        self.folder.join("pg_dump")
    }

    /// The program that dumps roles.
    #[must_use]
    pub(crate) fn pg_dumpall(&self) -> PathBuf {
        self.folder.join("pg_dumpall")
    }

    /// The program that restores archives.
    #[must_use]
    pub(crate) fn pg_restore(&self) -> PathBuf {
        self.folder.join("pg_restore")
    }

    /// The program that runs SQL scripts; not looked for, it may be missing.
    #[must_use]
    pub(crate) fn psql(&self) -> PathBuf {
        self.folder.join("psql")
    }
}

/// `15.20` of `pg_dump (PostgreSQL) 15.20 (Debian 15.20-1.pgdg12+1)`; also `18beta1`, `19devel`.
fn parse_version(text: &str) -> Option<String> {
    let (_, rest) = text.split_once(')')?;
    let version = rest.split_whitespace().next()?;
    version.starts_with(|c: char| c.is_ascii_digit()).then(|| version.to_owned())
}

fn usual_folders() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> =
        std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default();
    for (parent, prefix, below) in VERSIONED {
        let Ok(entries) = std::fs::read_dir(parent) else { continue };
        let mut names: Vec<_> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit())))
            .collect();
        names.sort();
        folders.extend(names.into_iter().map(|name| Path::new(parent).join(name).join(below)));
    }
    folders.extend(PLAIN.map(PathBuf::from));
    folders
}

fn unfit(bin_dir: Option<&Path>, major: u32, whose: Whose, found: &[PgTools]) -> Error {
    let newest = found.iter().max_by_key(|tools| (tools.major, tools.minor));
    let place = bin_dir.map_or_else(String::new, |folder| format!(" in {}", folder.display()));
    let what = match whose {
        Whose::Server => "the server is",
        Whose::Run => "the run was made by pg_dump of",
    };
    let error = match newest {
        Some(tools) => Error::failed(format!(
            "pg_dump is too old: {what} PostgreSQL {major}, the newest pg_dump found{place} is {} ({})",
            tools.version,
            tools.pg_dump().display()
        )),
        None => Error::failed(format!("pg_dump not found{place}: version {major} or newer is needed")),
    };
    install(error, major)
}

fn install(error: Error, major: u32) -> Error {
    error
        .hint(format!(
            "apt-get install postgresql-client-{major} (from apt.postgresql.org), dnf install postgresql{major} or brew install postgresql@{major}"
        ))
        .hint("or name the folder of the programs with --pg-bin-dir")
}

#[cfg(test)]
mod tests {
    use super::parse_version;

    #[test]
    fn versions_are_read_from_what_pg_dump_says() {
        let of = |text| parse_version(text).unwrap_or_default();
        assert_eq!(of("pg_dump (PostgreSQL) 15.20 (Debian 15.20-1.pgdg12+1)\n"), "15.20");
        assert_eq!(of("pg_dump (PostgreSQL) 18.1\n"), "18.1");
        assert_eq!(of("pg_dump (PostgreSQL) 19devel\n"), "19devel");
        assert_eq!(of("pg_dump: error\n"), "");
    }
}
