//! The request of a restore: what of a run comes back, into which database, and as whose.
//!
//! Owns which requests make sense; the values are what a person may ask for, and a combination without a sense cannot be
//! built where a type can say so. [`Options::check`] refuses the rest before anything is read.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::archive::schema_names::SchemaNames;
use crate::error::{Error, Result};
use crate::postgres::connect::conninfo::ConnInfo;
use crate::restore::forget::list::List;

/// The content that comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// Definitions and rows.
    Everything,
    /// Definitions, no rows.
    Definitions,
    /// Rows and sequence values, into tables that exist.
    Rows {
        /// Empty the tables first.
        replace: bool,
    },
}

/// The state of the database before the restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Destination {
    /// It exists and must be empty; of [`Content::Rows`] the tables must be.
    Empty,
    /// It is created first.
    Create,
    /// It exists and may hold other things.
    Existing,
    /// It was made for this restore, is empty, and is dropped afterwards: it is not marked.
    Scratch,
}

/// The planner's statistics that are gathered at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Statistics {
    /// None.
    None,
    /// Rough ones where autovacuum completes them, full ones elsewhere.
    Rough,
    /// Full ones.
    Full,
}

/// The roles that a run needs and the server may lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Roles {
    /// They must exist.
    Present,
    /// Missing ones are created; those that exist are never touched.
    Create {
        /// With their saved passwords.
        passwords: bool,
    },
}

/// The owner of what is restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owners {
    /// The saved one.
    Saved,
    /// The role that restores.
    Restoring,
}

/// The tablespaces that the run names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Tablespaces {
    /// The same ones, but for these pairs of a saved name and the one here.
    Named(Vec<(String, String)>),
    /// The database's own for everything.
    Default,
}

/// The privileges on what is restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Privileges {
    /// The saved ones.
    Saved,
    /// Those that PostgreSQL gives to an owner.
    Owner,
}

/// The kind of database that is restored into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// A plain database.
    Plain,
    /// A Supabase project: the role is no superuser, and the platform's schemas exist.
    Supabase {
        /// Empty the platform's tables before their rows come.
        replace: bool,
    },
}

/// The request of one restore.
#[allow(clippy::struct_excessive_bools, reason = "independent wishes of a person, not states")]
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// The database.
    pub(crate) target: ConnInfo,
    /// The kind of database it is.
    pub(crate) profile: Profile,
    /// Its state before the restore.
    pub(crate) destination: Destination,
    /// The content that comes back.
    pub(crate) content: Content,
    /// Only these schemas and the tables below; a whole run where both are empty.
    pub(crate) schemas: Vec<String>,
    /// Only these tables, as `schema.table`.
    pub(crate) tables: Vec<String>,
    /// Missing roles.
    pub(crate) roles: Roles,
    /// The owner of what is restored.
    pub(crate) owners: Owners,
    /// Privileges and default privileges.
    pub(crate) privileges: Privileges,
    /// Tablespaces.
    pub(crate) tablespaces: Tablespaces,
    /// The planner's statistics.
    pub(crate) statistics: Statistics,
    /// Restore although the database is the very one that was saved.
    pub(crate) allow_source: bool,
    /// Remove an unfinished restore although the database holds what is not of it.
    pub(crate) start_over: bool,
    /// Go on although something is known to be missing before anything is changed.
    pub(crate) best_effort: bool,
    /// Stop at the first object that the server refuses, instead of listing it and going on.
    pub(crate) exit_on_error: bool,
    /// Sessions that load rows and build indexes at the same time.
    pub(crate) jobs: u16,
    /// Folder of pg_restore and psql; by itself PATH, then the usual folders.
    pub(crate) pg_bin_dir: Option<PathBuf>,
    /// Longest time to connect.
    pub(crate) connect_timeout: Duration,
    /// Longest wait for a lock of a table that exists.
    pub(crate) lock_timeout: Duration,
    /// Keys of rows that are erased after they came.
    pub(crate) forget: Option<Arc<List>>,
    /// Schemas that get other names than in the run.
    pub(crate) schema_names: SchemaNames,
    /// Owners that others take the place of.
    pub(crate) owner_names: Vec<(String, String)>,
}

impl Options {
    /// The restore of a whole run into this database, created first, with nothing else asked for.
    pub(crate) const fn whole(target: ConnInfo, connect_timeout: Duration) -> Self {
        Self {
            target,
            profile: Profile::Plain,
            destination: Destination::Create,
            content: Content::Everything,
            schemas: Vec::new(),
            tables: Vec::new(),
            roles: Roles::Present,
            owners: Owners::Saved,
            privileges: Privileges::Saved,
            tablespaces: Tablespaces::Named(Vec::new()),
            statistics: Statistics::Rough,
            allow_source: false,
            start_over: false,
            best_effort: false,
            exit_on_error: false,
            jobs: 4,
            pg_bin_dir: None,
            connect_timeout,
            lock_timeout: Duration::from_secs(30),
            forget: None,
            schema_names: SchemaNames(Vec::new()),
            owner_names: Vec::new(),
        }
    }

    /// Refuses combinations without a sense.
    ///
    /// # Errors
    /// Kind `Usage`.
    pub(crate) fn check(&self) -> Result<()> {
        let rows_only = matches!(self.content, Content::Rows { .. });
        if rows_only && self.destination == Destination::Create {
            return Err(Error::usage("--data-only needs tables that exist: it cannot be combined with --create"));
        }
        if self.forget.is_some() && !self.has_rows() {
            return Err(Error::usage("--forget erases rows: it cannot be combined with --schema-only"));
        }
        if self.profile == Profile::Plain {
            return Ok(());
        }
        let odd = [
            (self.destination == Destination::Create, "--create", "the project's database exists"),
            (rows_only, "--data-only", "leave it out: --schema auth loads the rows of auth"),
            (!self.tables.is_empty(), "--table", "use --schema, or restore the table without the profile"),
        ];
        match odd.iter().find(|(given, _, _)| *given) {
            Some((_, flag, hint)) => {
                Err(Error::usage(format!("{flag} cannot be combined with --profile supabase")).hint(*hint))
            }
            None => Ok(()),
        }
    }

    /// The words of the forget list in a mark; another list makes another restore.
    pub(crate) fn forgets(&self) -> String {
        let list = self.forget.as_ref().and_then(|list| list.sha256.get(..16));
        list.map_or_else(String::new, |sha256| format!(" --forget {sha256}"))
    }

    /// True for a whole run, not a part of it.
    pub(crate) const fn is_whole(&self) -> bool {
        self.schemas.is_empty() && self.tables.is_empty()
    }

    /// True where definitions are restored.
    pub(crate) const fn has_definitions(&self) -> bool {
        !matches!(self.content, Content::Rows { .. })
    }

    /// True where rows are restored.
    pub(crate) const fn has_rows(&self) -> bool {
        !matches!(self.content, Content::Definitions)
    }

    /// True where everything belongs to the role that restores.
    pub(crate) fn ignores_owners(&self) -> bool {
        self.owners == Owners::Restoring
    }

    /// True where the saved privileges are restored.
    pub(crate) fn has_privileges(&self) -> bool {
        self.privileges == Privileges::Saved
    }

    /// The name here of a tablespace of the run; `None` for the database's own.
    pub(crate) fn tablespace<'a>(&'a self, saved: &'a str) -> Option<&'a str> {
        match &self.tablespaces {
            Tablespaces::Default => None,
            Tablespaces::Named(pairs) => {
                let here = pairs.iter().find(|(old, _)| old == saved).map(|(_, new)| new.as_str());
                Some(here.unwrap_or(saved)).filter(|name| !name.is_empty())
            }
        }
    }

    /// True where missing roles are created.
    pub(crate) const fn creates_roles(&self) -> bool {
        matches!(self.roles, Roles::Create { .. })
    }
}
