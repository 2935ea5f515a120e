//! The manifest of a run and the `latest` pointer: what a run is, written last. Owns the format `pgstow/1`.
//!
//! Readers ignore unknown fields; writers write every field they know. The JSON Schema of the format comes from these
//! types (`pgstow schema`), so the doc comments here are the format's documentation.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The value of `format` in every manifest this program writes and reads.
pub const FORMAT: &str = "pgstow/1";

/// The value of `encryption.scheme` that this program writes and reads.
pub const AGE: &str = "age";

/// The completeness of a run.
///
/// A run covers every schema of the database except PostgreSQL's own (`pg_*`, `information_schema`), with every
/// object in it, and the roles of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Everything that a run covers was saved.
    Complete,
    /// Some relations could not be read and were left out on request; `skipped` names each.
    Partial,
}

/// The manifest of one run.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Manifest {
    /// Always `pgstow/1`.
    pub format: String,
    /// Name of the run: `20261122T150405Z-1a2b3c` (UTC start, random tail).
    pub run: String,
    /// `complete` or `partial`.
    pub status: Status,
    /// Start of the run, RFC 3339 in UTC.
    pub started_at: String,
    /// End of the run, RFC 3339 in UTC, when the manifest was written.
    pub finished_at: String,
    /// The note of a person about the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The round that the run belongs to: the name that all tasks of one start of `pgstow run` have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round: Option<String>,
    /// Notifications of the start that had failed when the manifest was written. Those that fail later stand in what the
    /// command prints.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_notified: Vec<NotNotified>,
    /// The anomalies of the run, beside the one that `latest` named when it was made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub anomalies: Vec<Anomaly>,
    /// True where `latest` was not moved to the run because of them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub held: bool,
    /// The program that made the run.
    pub tool: Tool,
    /// The database that was saved.
    pub source: Source,
    /// Compression of the objects: `zstd:3`, `gzip:6` or `none`.
    pub compression: String,
    /// Encryption of the objects, absent when they are not encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Encryption>,
    /// Sums over the run.
    pub totals: Totals,
    /// The roles script.
    pub roles: Roles,
    /// The archive of the whole database's DDL and sequence values.
    pub database: Database,
    /// The archive of the large objects.
    pub large_objects: LargeObjects,
    /// RESTORE.md of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore_md: Option<Object>,
    /// One entry a schema, in the order of their names.
    pub schemas: Vec<Schema>,
    /// Objects of the database that are missing from this run because they could not be read, each with its reason.
    pub skipped: Vec<Skipped>,
    /// Objects that this run contains but that cannot be restored, since they depend on something in `skipped`: each
    /// with the error that its restore gives.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dependents: Vec<Skipped>,
    /// The extensions of the database, with their versions; absent in runs that did not save them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extensions: Vec<Extension>,
    /// Things that no logical backup by this role can contain: kept from the role by design, or outside the database.
    pub omitted: Vec<Omitted>,
}

impl Manifest {
    /// Every object that the manifest names, the manifest itself not counted.
    pub(crate) fn objects(&self) -> Vec<&Object> {
        let mut objects = vec![&self.roles.object, &self.database.object];
        objects.extend(&self.large_objects.object);
        objects.extend(&self.restore_md);
        for schema in &self.schemas {
            objects.push(&schema.dump);
            for table in &schema.tables {
                objects.push(&table.file);
                objects.extend(&table.index);
            }
        }
        objects
    }

    /// True where a table's objects must contain a block of rows.
    pub(crate) fn has_rows_of(&self, schema: &str, table: &Table) -> bool {
        let is_skipped = |gap: &Skipped| gap.schema == schema && gap.name == table.name;
        table.kind == TableKind::Table && !self.skipped.iter().any(is_skipped)
    }
}

impl Object {
    /// Its volumes; an object that was not split is one volume.
    pub(crate) fn volumes(&self) -> Vec<Volume> {
        if self.volumes.is_empty() {
            return vec![Volume { key: self.key.clone(), bytes: self.bytes, sha256: self.sha256.clone() }];
        }
        self.volumes.clone()
    }

    /// Its key without the number of its first volume.
    pub(crate) fn whole_key(&self) -> &str {
        let key = self.key.as_str();
        if self.volumes.is_empty() { key } else { key.rsplit_once('.').map_or(key, |(whole, _number)| whole) }
    }
}

/// The ways in which a run can be odd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AnomalyKind {
    /// A schema of the run before is not there.
    SchemaVanished,
    /// A table of the run before is not there.
    TableVanished,
    /// There are fewer rows.
    RowsFell,
    /// There are more rows.
    RowsRose,
    /// There are fewer bytes.
    BytesFell,
    /// There are more bytes.
    BytesRose,
}

/// Something odd about a run: rows or bytes, before and now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Anomaly {
    /// The kind.
    pub kind: AnomalyKind,
    /// The schema; absent where it is about the whole database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    /// The table; absent where it is about more than one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// Rows, or bytes, of the run before.
    pub before: u64,
    /// The same of this run.
    pub after: u64,
}

impl std::fmt::Display for Anomaly {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (before, after) = (self.before, self.after);
        match (&self.schema, &self.table) {
            (Some(schema), Some(table)) => write!(f, "table {schema}.{table}: ")?,
            (Some(schema), None) => write!(f, "schema {schema}: ")?,
            (None, _) => f.write_str("all tables: ")?,
        }
        match self.kind {
            AnomalyKind::SchemaVanished | AnomalyKind::TableVanished => write!(f, "vanished, with {before} rows"),
            AnomalyKind::RowsFell => write!(f, "rows fell from {before} to {after}"),
            AnomalyKind::RowsRose => write!(f, "rows rose from {before} to {after}"),
            AnomalyKind::BytesFell => write!(f, "bytes fell from {before} to {after}"),
            AnomalyKind::BytesRose => write!(f, "bytes rose from {before} to {after}"),
        }
    }
}

/// An extension of the saved database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Extension {
    /// Its name.
    pub name: String,
    /// Its version there.
    pub version: String,
}

/// A notification that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NotNotified {
    /// The kind of the receiver and its host.
    pub target: String,
    /// The event.
    pub event: String,
    /// The failure.
    pub error: String,
}

/// The program that made a run.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Tool {
    /// `pgstow`.
    pub name: String,
    /// Version of the program.
    pub version: String,
}

/// The database that was saved, as it was at the snapshot.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Source {
    /// Host name, address or socket folder.
    pub host: String,
    /// TCP port (or socket number).
    pub port: u16,
    /// Name of the database.
    pub database: String,
    /// Identity of the database: `<system identifier>/<database oid>`, or a hash of host, port and name where the role
    /// may not read the system identifier.
    pub identity: String,
    /// `server_version` of the server.
    pub server_version: String,
    /// Version of the pg_dump that described the catalogue.
    pub pg_dump_version: String,
    /// Encoding of the database; the objects are in UTF8 unless this is `SQL_ASCII`, or they say otherwise themselves: a table's
    /// `encoding`, the `ENCODING` entry of an archive, the `SET client_encoding` of a script.
    pub encoding: String,
    /// The `lc_monetary` that amounts of `money` are written with; absent in runs that wrote them as the database does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lc_monetary: Option<String>,
    /// Name of the exported snapshot.
    pub snapshot: String,
    /// WAL position at the snapshot (`0/1A2B3C8`), absent when the role may not ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wal_lsn: Option<String>,
    /// The timeline that the server was on, absent when the role may not ask and in runs of before it was noted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<Timeline>,
    /// True when the source was a standby.
    pub in_recovery: bool,
    /// The role that made the backup.
    pub role: String,
    /// True when that role is a superuser.
    pub superuser: bool,
}

/// A line of a cluster's history: every promotion and every recovery to a point in time begins a new one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Timeline {
    /// Its number; a new cluster is on timeline 1.
    pub id: u32,
    /// The timelines before it, absent when the role may not read them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<Vec<Ancestor>>,
}

/// A timeline before the server's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Ancestor {
    /// Its number.
    pub timeline: u32,
    /// WAL position where the server left it.
    pub left_at: String,
}

/// The encryption of the objects: all but the manifest and RESTORE.md are age files of their own (their keys end in
/// `.age`, before the number of a volume).
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Encryption {
    /// `age` (age-encryption.org/v1).
    pub scheme: String,
    /// The public keys the objects are sealed to (`age1...`): the secret key of any one opens them.
    pub recipients: Vec<String>,
}

/// Sums over a run.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
pub struct Totals {
    /// Number of schemas.
    pub schemas: u64,
    /// Number of tables, of every kind, that have a file.
    pub tables: u64,
    /// Number of rows.
    pub rows: u64,
    /// Bytes of COPY text, counted once.
    pub raw_bytes: u64,
    /// Bytes in the store, of all objects except the manifest.
    pub stored_bytes: u64,
    /// Number of objects in the store, the manifest not counted.
    pub objects: u64,
}

/// The roles script.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Roles {
    /// The stored script.
    pub object: Object,
    /// True when it contains password hashes (the role could read `pg_authid`).
    pub passwords: bool,
}

/// The archive of the whole database's DDL.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Database {
    /// The stored archive.
    pub object: Object,
}

/// The archive of the large objects.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct LargeObjects {
    /// The stored archive, absent when the database has no large object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<Object>,
    /// Number of large objects that it contains.
    pub count: u64,
    /// Bytes of large objects' contents.
    #[serde(default)]
    pub bytes: u64,
    /// Sum over the large objects of XXH3-128(oid as 4 little-endian bytes, then the content), wrapping:
    /// `xxh3-128-sum:<32 hex>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// A stored object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Object {
    /// Key relative to the run.
    pub key: String,
    /// Size as stored (compressed, encrypted).
    pub bytes: u64,
    /// SHA-256 of the stored bytes, 64 lower-case hex digits.
    pub sha256: String,
    /// Size of the plain content.
    pub raw_bytes: u64,
    /// The volumes, in order, where a provider's size limit asked for a split; `key` then names the first, and `bytes`
    /// and `sha256` are of the volumes put together. Their keys end in `.001`, `.002`, ... .
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Volume>,
}

/// One volume of a split object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Volume {
    /// Key relative to the run.
    pub key: String,
    /// Size as stored.
    pub bytes: u64,
    /// SHA-256 of the stored bytes.
    pub sha256: String,
}

/// One schema of a run.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Schema {
    /// Name of the schema.
    pub name: String,
    /// Owner of the schema.
    pub owner: String,
    /// Its archive with its rows.
    pub dump: Object,
    /// Its tables, in the order of the archive's table of contents.
    pub tables: Vec<Table>,
    /// Objects that its archive needs from elsewhere when restored on its own (`schema`, `extension`, `role` and their
    /// names).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<String>,
}

/// The kind of a table in the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum TableKind {
    /// An ordinary table or a partition that holds rows.
    #[serde(rename = "table")]
    Table,
    /// A partitioned table: its rows are in its partitions.
    #[serde(rename = "partitioned table")]
    PartitionedTable,
    /// A foreign table: its rows are elsewhere.
    #[serde(rename = "foreign table")]
    ForeignTable,
    /// A materialised view: refreshed on restore.
    #[serde(rename = "materialized view")]
    MaterializedView,
}

impl TableKind {
    /// The words of the manifest.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::PartitionedTable => "partitioned table",
            Self::ForeignTable => "foreign table",
            Self::MaterializedView => "materialized view",
        }
    }
}

/// One table of a schema.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Table {
    /// Name of the table.
    pub name: String,
    /// Kind of the table.
    pub kind: TableKind,
    /// Rows saved.
    pub rows: u64,
    /// Content fingerprint: the wrapping 128-bit sum of XXH3-128 (seed 0) over the COPY text lines, each without its
    /// newline, the end marker `\.` not counted: `xxh3-128-sum:<32 hex>`. Does not depend on the order of rows.
    pub digest: String,
    /// The same, each line's hash multiplied (wrapping) by its 1-based position before it is added:
    /// `xxh3-128-wsum:<32 hex>`. Depends on the order of rows, so swapped pieces of an object are seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<String>,
    /// Bytes of its COPY text, without the end marker.
    pub raw_bytes: u64,
    /// Its SQL file.
    pub file: Object,
    /// The index of the pieces of a large table's rows (see [`Index`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<Object>,
    /// The extension that owns the table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extension: Option<String>,
    /// The condition (`WHERE ...`) of an extension's configuration table: only rows that meet it were saved, since
    /// `CREATE EXTENSION` makes the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// The encoding of its rows, where they have values without an equivalent in UTF8; its `COPY` statement says so too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<String>,
}

/// An object that is missing from a run, or that cannot be restored from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Skipped {
    /// Schema of the object; empty for an object that is in none.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// `table`, `sequence`, `schema`, `large object`, ...
    pub kind: String,
    /// Reason, in plain words.
    pub reason: String,
    /// Of what is in `dependents`: the numbers of its entries in the table of contents of `@database.dump`. A restore
    /// leaves these out, and what depends on them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub entries: Vec<i32>,
}

impl Skipped {
    /// Its name with that of its schema, where it is in one.
    pub(crate) fn display_name(&self) -> String {
        if self.schema.is_empty() || self.kind == "schema" {
            return self.name.clone();
        }
        format!("{}.{}", self.schema, self.name)
    }
}

/// Something that no logical backup by this role can contain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Omitted {
    /// `subscription`, `user mapping`, `role passwords`, `vault root key`, `storage files`, ...
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Reason, and what a person must do.
    pub reason: String,
}

/// The index of the pieces of a large table (`<schema>/<table>.index`, JSON, never compressed; encrypted with its run).
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Index {
    /// Always `pgstow/1`.
    pub format: String,
    /// Schema of the table.
    pub schema: String,
    /// Name of the table.
    pub table: String,
    /// The `COPY ... FROM stdin;` statement the rows belong to.
    pub copy: String,
    /// The columns whose smallest and largest values each piece names, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<IndexColumn>,
    /// Consecutive pieces; each is whole rows and decompresses on its own. Together they are all rows of the table.
    pub pieces: Vec<Piece>,
}

/// A column of a large table by which rows are looked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct IndexColumn {
    /// Name of the column.
    pub name: String,
    /// Its type, as pg_dump writes it: whole numbers, `date`, timestamps or `uuid`.
    #[serde(rename = "type")]
    pub kind: String,
}

/// One piece of a table's rows in its SQL file: offset, bytes and SHA-256 are of the compressed text, which is what the
/// stored object (its volumes put together) is after decryption.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Piece {
    /// Offset of its first byte in the compressed text.
    pub offset: u64,
    /// Its bytes there.
    pub bytes: u64,
    /// Its rows.
    pub rows: u64,
    /// SHA-256 of these bytes.
    pub sha256: String,
    /// For each of `columns`, the smallest and the largest value in these rows, as PostgreSQL writes them; NULL does not
    /// count. `null` where they are not known, or there is no value.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ranges: Vec<Option<[String; 2]>>,
}

/// The pointer `latest.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Latest {
    /// Name of the run.
    pub run: String,
    /// Key of its manifest, relative to the prefix.
    pub manifest: String,
    /// SHA-256 of the manifest's bytes.
    pub sha256: String,
    /// `finished_at` of the run.
    pub finished_at: String,
    /// `source.identity` of the run: a prefix belongs to one database.
    pub identity: String,
}
