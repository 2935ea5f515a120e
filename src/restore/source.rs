//! A run that is going to be restored: its manifest, definitions and roles in memory, and what of it is left out.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use libpgdump::format::ArchiveMetadata;
use libpgdump::{Entry, ObjectType};

use crate::archive::catalogue::{namespace, tag, with_dependents};
use crate::archive::head;
use crate::error::{Error, Result};
use crate::format::manifest::Manifest;
use crate::objects::stored_run::StoredRun;
use crate::postgres::programs::tools::{PgTools, Whose};
use crate::postgres::target::mark::{self, MARK};
use crate::restore::options::Options;
use crate::restore::roles::Script;
use crate::runs::contents::{self, Disagreement};
use crate::runs::find;
use crate::seal::decode::Decoding;
use crate::seal::hash;
use crate::seal::keys::Keys;
use crate::shutdown::aside;
use crate::sql::names::TableName;
use crate::store::Store;

/// A run with what of it is small: its manifest, definitions and roles.
pub(crate) struct Loaded {
    pub(crate) run: StoredRun,
    /// SHA-256 of the manifest's bytes.
    pub(crate) manifest_sha256: String,
    pub(crate) meta: ArchiveMetadata,
    pub(crate) script: Script,
    /// The database that was saved held an unfinished restore: its mark was taken out of the entries.
    pub(crate) unfinished: bool,
    /// Entries in which a schema still has its saved name, which is another here.
    pub(crate) unrenamed: HashMap<i32, String>,
}

/// The note about a run of a database that held an unfinished restore.
pub(crate) const UNFINISHED: &str =
    "when this run was made, the database held an unfinished restore: the run may contain only a part of that one";

/// Takes the mark of an unfinished restore out of a run that was made of such a database: it would mark the target.
fn without_mark(run: &mut StoredRun, meta: &mut ArchiveMetadata) -> bool {
    let is_mark = |e: &Entry| {
        namespace(e) == MARK
            || (namespace(e).is_empty() && (tag(e) == MARK || tag(e) == format!("SCHEMA {MARK}")))
            || (e.desc == ObjectType::Comment
                && tag(e).starts_with("DATABASE ")
                && e.defn
                    .as_deref()
                    .is_some_and(|defn| defn.split_once(" IS '").is_some_and(|(_, text)| mark::is_mark(text))))
    };
    let before = meta.entries.len();
    meta.entries.retain(|entry| !is_mark(entry));
    if run.manifest.schemas.iter().any(|schema| schema.name == MARK) {
        let mut manifest: Manifest = (*run.manifest).clone();
        manifest.schemas.retain(|schema| schema.name != MARK);
        run.manifest = Arc::new(manifest);
    }
    before > meta.entries.len()
}

impl Loaded {
    pub(crate) async fn read(store: Store, wanted: &str, keys: &Keys) -> Result<Self> {
        let found = find::trusted(&store, wanted, &keys.trust).await?;
        let bytes = found.bytes;
        let manifest_sha256 = aside(move || hash::sha256(&bytes)).await?;
        let mut run = StoredRun::new(store, found.manifest, &keys.identities)?;
        let manifest = &run.manifest;
        let database = run.read(&manifest.database.object).await?;
        let mut meta = aside(move || head::read(&mut database.as_slice()))
            .await?
            .map_err(|error| Error::damage(format!("{}: {error}", manifest.database.object.key)))?;
        let script = Script::new(&run.read(&manifest.roles.object).await?);
        let unfinished = without_mark(&mut run, &mut meta);
        Ok(Self { run, manifest_sha256, meta, script, unfinished, unrenamed: HashMap::new() })
    }

    /// Every disagreement of the manifest with what the run's own objects say they contain.
    ///
    /// # Errors
    /// A store that cannot be read; a RESTORE.md that is damaged or missing is `verify`'s business.
    pub(crate) async fn disagreements(&self) -> Result<Vec<Disagreement>> {
        let mut found = contents::disagreements(&self.run.manifest, &self.meta.entries);
        let Some(object) = &self.run.manifest.restore_md else { return Ok(found) };
        match self.run.read_with(object, &Decoding::AS_STORED).await {
            Ok(text) => {
                let problem = contents::large_objects_unnamed(&self.run.manifest, &String::from_utf8_lossy(&text));
                found.extend(problem.map(|problem| Disagreement { schema: String::new(), problem }));
            }
            Err(error) => tracing::debug!("RESTORE.md of the run: {error}"),
        }
        Ok(found)
    }

    /// The programs that read the run's archives.
    pub(crate) fn tools(&self, options: &Options) -> Result<PgTools> {
        PgTools::find(
            options.pg_bin_dir.as_deref(),
            major(&self.run.manifest.source.pg_dump_version) * 10_000,
            Whose::Run,
        )
    }
}

/// The objects of a whole run that a drill leaves out.
#[derive(Debug, Clone, Default)]
pub(crate) struct LeaveOut {
    /// Dump ids of entries.
    pub(crate) entries: HashSet<i32>,
    /// Tables whose rows are not loaded.
    pub(crate) tables: HashSet<TableName>,
    /// Extensions that the target cannot have.
    pub(crate) extensions: BTreeSet<String>,
    /// Libraries that no session could load, by which settings are left out.
    pub(crate) libraries: BTreeSet<String>,
    /// The large objects.
    pub(crate) large_objects: bool,
    /// Keep what is restored from acting: cron jobs come back inactive.
    pub(crate) quiet: bool,
}

impl LeaveOut {
    /// The saved objects of a partial run that depend on objects it does not contain.
    pub(crate) fn of_gaps(loaded: &Loaded) -> Self {
        let mut entries: HashSet<i32> =
            loaded.run.manifest.dependents.iter().flat_map(|gap| &gap.entries).copied().collect();
        with_dependents(&loaded.meta.entries, &mut entries);
        let tables = loaded.meta.entries.iter().filter(|e| e.desc == ObjectType::Table && entries.contains(&e.dump_id));
        let tables = tables.map(|e| TableName::new(namespace(e), tag(e))).collect();
        Self { entries, tables, ..Self::default() }
    }
}

/// Those of these entries that are left out; rows go without saying.
pub(crate) fn gaps<'a>(entries: impl IntoIterator<Item = &'a Entry>, out: &LeaveOut) -> Vec<&'a Entry> {
    entries.into_iter().filter(|e| out.entries.contains(&e.dump_id) && e.desc != ObjectType::TableData).collect()
}

/// `15` of `15.20`.
pub(crate) fn major(version: &str) -> u32 {
    let digits =
        version.find(|c: char| !c.is_ascii_digit()).map_or(version, |end| version.get(..end).unwrap_or(version));
    digits.parse().unwrap_or(0)
}
