//! The facts about extensions that want care around a restore: one table, read by backup, doctor, restore, drill and
//! RESTORE.md. An extension that is not in it is restored as pg_dump describes it, with the rows of its tables.
//!
//! Sources: the extensions' manuals (TimescaleDB, *Logical backup with pg_dump and pg_restore*; pg_cron, *Setting up*;
//! Citus, *Backup and restore*; pglogical, *Limitations*; pgaudit, *Settings*).

/// An extension that wants care.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Care {
    /// Its name.
    pub(crate) name: &'static str,
    /// It can only be created where its library is in `shared_preload_libraries`.
    pub(crate) preload: bool,
    /// The setting that names the one database of a server that it can be in.
    pub(crate) one_database: Option<&'static str>,
    /// Its function that is called when it is there and nothing else is, and the one that is called at the end.
    pub(crate) around: Option<(&'static str, &'static str)>,
    /// It can only be restored in the version that was saved.
    pub(crate) same_version: bool,
    /// The warning for a person when a backup is made.
    pub(crate) note: Option<&'static str>,
}

const PLAIN: Care = Care { name: "", preload: true, one_database: None, around: None, same_version: false, note: None };

/// The extensions that want care.
const ALL: &[Care] = &[
    Care { name: "pg_cron", one_database: Some("cron.database_name"), ..PLAIN },
    Care {
        name: "timescaledb",
        around: Some(("timescaledb_pre_restore", "timescaledb_post_restore")),
        same_version: true,
        note: Some(
            "restore, drill and RESTORE.md call timescaledb_pre_restore() and timescaledb_post_restore(); the server must \
             have the same version of the extension, and only the whole database can be restored",
        ),
        ..PLAIN
    },
    Care {
        name: "citus",
        note: Some(
            "rows of distributed tables come back into ordinary tables of the coordinator: run create_distributed_table \
             or create_reference_table for each after a restore",
        ),
        ..PLAIN
    },
    Care {
        name: "pglogical",
        preload: false,
        note: Some(
            "its nodes and subscriptions come back as rows: where pglogical is preloaded a restored database may connect \
             to the same providers; drop them there (pglogical.drop_subscription, pglogical.drop_node)",
        ),
        ..PLAIN
    },
    Care { name: "pgaudit", ..PLAIN },
    Care { name: "pg_tle", ..PLAIN },
];

/// The care that an extension wants.
pub(crate) fn care(name: &str) -> Option<&'static Care> {
    ALL.iter().find(|care| care.name == name)
}

/// The names of the extensions that a person should know something of, as literals.
pub(crate) fn noted() -> Vec<&'static Care> {
    ALL.iter().filter(|care| care.note.is_some()).collect()
}

impl Care {
    /// The lines for `postgresql.conf` without which the extension cannot be created in this database.
    pub(crate) fn configuration(&self, database: &str) -> Vec<String> {
        let library = format!("shared_preload_libraries = '{}'  # added to what is there", self.name);
        let database = self.one_database.map(|setting| format!("{setting} = '{}'", database.replace('\'', "''")));
        Some(library).filter(|_| self.preload).into_iter().chain(database).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_for_pg_cron_name_library_and_database() {
        let lines = care("pg_cron").unwrap().configuration("it's");
        assert_eq!(
            lines,
            ["shared_preload_libraries = 'pg_cron'  # added to what is there", "cron.database_name = 'it''s'"]
        );
        assert!(care("hstore").is_none());
    }
}
