//! The answer of a detection: the server, every schema and relation, and what the role cannot read of them.

use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;

use crate::format::manifest::{Extension, Omitted};
use crate::sql::names::quote;

/// Everything the policy covers in one database.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Detection {
    /// Every covered schema, by name.
    pub(crate) schemas: Vec<SchemaInfo>,
    /// Every table, partitioned table, foreign table, materialised view and sequence of them, by schema and name.
    pub(crate) relations: Vec<Relation>,
    /// The number of large objects.
    pub(crate) large_objects: i64,
    /// The objects that this role cannot read, with the cure.
    pub(crate) unreadable: Vec<Unreadable>,
    /// The objects that no dump by this role can contain, or that live outside of the database.
    pub(crate) omitted: Vec<Omitted>,
    /// The extensions of the database.
    pub(crate) extensions: Vec<Extension>,
    /// The server and the role.
    pub(crate) server: ServerInfo,
}

/// The server, the database and the role.
#[allow(clippy::struct_excessive_bools, reason = "independent facts about a server, not states")]
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct ServerInfo {
    /// `server_version_num`.
    pub(crate) version_num: u32,
    /// `server_version`.
    pub(crate) version: String,
    /// Name of the database.
    pub(crate) database: String,
    /// Its oid.
    pub(crate) database_oid: u32,
    /// Its encoding.
    pub(crate) encoding: String,
    /// The role of the session.
    pub(crate) role: String,
    /// True when it is a superuser.
    pub(crate) superuser: bool,
    /// True when row-level security does not apply to it.
    pub(crate) bypass_rls: bool,
    /// True when the server is a standby.
    pub(crate) in_recovery: bool,
    /// `<system identifier>/<database oid>`; where the role may not read that, `hash/<md5>` of the server's address,
    /// port and database name as the server sees them.
    pub(crate) identity: String,
    /// Setting of the server.
    pub(crate) max_locks_per_transaction: i64,
    /// Setting of the server.
    pub(crate) max_connections: i64,
    /// Setting of the server.
    pub(crate) max_prepared_transactions: i64,
    /// Connections kept for superusers.
    pub(crate) reserved_connections: i64,
    /// Most connections of this role at once, -1 without a limit.
    pub(crate) role_connection_limit: i64,
    /// Client connections open now, of all roles; what the role may see of them.
    pub(crate) connections: i64,
    /// Bytes of a block.
    pub(crate) block_size: i64,
    /// True when `pg_authid`, and so the roles' password hashes, can be read.
    pub(crate) reads_passwords: bool,
}

/// One covered schema.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct SchemaInfo {
    /// Its oid.
    pub(crate) oid: u32,
    /// Its name.
    pub(crate) name: String,
    /// Its owner.
    pub(crate) owner: String,
    /// The extension it is a member of.
    pub(crate) extension: Option<String>,
    /// True when the policy's query shows it to this role.
    pub(crate) by_policy_query: bool,
    /// True when the role has USAGE on it.
    pub(crate) usable: bool,
    /// The reason why the policy's query does not show it.
    pub(crate) note: Option<String>,
}

/// The kind of a relation, written by PostgreSQL's letters (`pg_class.relkind`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum RelKind {
    /// An ordinary table or a partition that holds rows.
    #[serde(rename = "r")]
    Table,
    #[serde(rename = "p")]
    PartitionedTable,
    #[serde(rename = "f")]
    ForeignTable,
    #[serde(rename = "m")]
    MaterializedView,
    #[serde(rename = "S")]
    Sequence,
}

impl RelKind {
    /// The kind of a letter; `None` for a relation of another kind.
    pub(super) const fn of(letter: char) -> Option<Self> {
        Some(match letter {
            'r' => Self::Table,
            'p' => Self::PartitionedTable,
            'f' => Self::ForeignTable,
            'm' => Self::MaterializedView,
            'S' => Self::Sequence,
            _ => return None,
        })
    }

    /// True for ordinary and partitioned tables: `LOCK TABLE` takes these only.
    pub(crate) const fn is_lockable(self) -> bool {
        matches!(self, Self::Table | Self::PartitionedTable)
    }
}

/// One relation of a covered schema.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Relation {
    /// Its oid.
    pub(crate) oid: u32,
    /// Its schema.
    pub(crate) schema: String,
    /// Its name.
    pub(crate) name: String,
    /// Its kind.
    pub(crate) relkind: RelKind,
    /// `p` permanent, `u` unlogged, `t` temporary.
    pub(crate) persistence: char,
    /// Its access method, `heap` for most tables.
    pub(crate) access_method: Option<String>,
    /// Its owner.
    pub(crate) owner: String,
    /// The extension it is a member of.
    pub(crate) extension: Option<String>,
    /// True when that extension registered it as configuration (`pg_extension_config_dump`).
    pub(crate) extension_config: bool,
    /// The filter of that registration (`WHERE ...`), if there is one.
    pub(crate) filter: Option<String>,
    /// Rows by the planner's statistics; 0 where there are none.
    pub(crate) estimated_rows: i64,
    /// Bytes on disk with TOAST, without indexes. Of the last VACUUM or ANALYZE while another session holds or awaits
    /// an exclusive lock, since asking for the size would wait for it.
    pub(crate) bytes: i64,
    /// Blocks of the main fork; the same caution.
    pub(crate) heap_blocks: i64,
    /// True when it is a partition.
    pub(crate) partition: bool,
    /// The reason why the role cannot read it.
    pub(crate) unreadable: Option<String>,
}

/// The kind of something that the role cannot read. It decides what pg_dump leaves out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum GapKind {
    #[serde(rename = "table")]
    Table,
    #[serde(rename = "sequence")]
    Sequence,
    #[serde(rename = "schema")]
    Schema,
    #[serde(rename = "large object")]
    LargeObject,
}

impl fmt::Display for GapKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Table => "table",
            Self::Sequence => "sequence",
            Self::Schema => "schema",
            Self::LargeObject => "large object",
        })
    }
}

/// Something this role cannot read.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Unreadable {
    /// Its schema; empty for a large object.
    pub(crate) schema: String,
    /// Its name.
    pub(crate) name: String,
    /// Its kind.
    pub(crate) kind: GapKind,
    /// The reason.
    pub(crate) reason: String,
    /// The SQL that would cure it; what to do instead, where no SQL would.
    pub(crate) cure: String,
}

/// The role's rights on one relation; in the order of the relations.
pub(crate) struct Privileges {
    pub(super) usage: bool,
    pub(super) select: bool,
    pub(super) row_security: bool,
}

impl Unreadable {
    /// The name as people read it, with the schema where there is one.
    pub(crate) fn display_name(&self) -> String {
        let alone = self.schema.is_empty() || self.kind == GapKind::Schema;
        if alone { self.name.clone() } else { format!("{}.{}", self.schema, self.name) }
    }
}

/// Gaps that GRANT pg_read_all_data closes, from which on it is offered instead of a GRANT for each.
const MANY: usize = 12;

impl Detection {
    /// The statements that let this role read everything: one grant of all where it stands for many.
    pub(crate) fn cures(&self) -> Vec<String> {
        let is_covered = |gap: &&Unreadable| match gap.kind {
            GapKind::Schema => true,
            // The cure of row security is another attribute of the role.
            GapKind::Table | GapKind::Sequence => gap.cure.starts_with("GRANT SELECT"),
            GapKind::LargeObject => false,
        };
        let many = self.unreadable.iter().filter(is_covered).count() > MANY && self.server.version_num >= 140_000;
        let mut cures = Vec::new();
        if many {
            cures.push(format!("GRANT pg_read_all_data TO {};", quote(&self.server.role)));
        }
        for gap in self.unreadable.iter().filter(|gap| !(gap.cure.is_empty() || many && is_covered(gap))) {
            if !cures.contains(&gap.cure) {
                cures.push(gap.cure.clone());
            }
        }
        cures
    }

    pub(super) fn note_unreadable(&mut self, privileges: &[Privileges]) {
        let role = quote(&self.server.role);
        let mut closed = BTreeSet::new();
        let mut list = Vec::new();
        for (relation, may) in self.relations.iter_mut().zip(privileges) {
            // The DDL of foreign tables and materialised views is readable by all, and their rows are not saved.
            if matches!(relation.relkind, RelKind::ForeignTable | RelKind::MaterializedView) {
                continue;
            }
            let sequence = relation.relkind == RelKind::Sequence;
            let kind = if sequence { GapKind::Sequence } else { GapKind::Table };
            let name = format!("{}.{}", quote(&relation.schema), quote(&relation.name));
            let (reason, cure) = if !may.select {
                let word = if sequence { "SEQUENCE" } else { "TABLE" };
                (format!("no SELECT on the {kind}"), format!("GRANT SELECT ON {word} {name} TO {role};"))
            } else if relation.relkind == RelKind::Table && may.row_security {
                let reason = "row-level security would hide rows from this role".to_owned();
                (reason, format!("ALTER ROLE {role} BYPASSRLS;"))
            } else if !may.usage {
                closed.insert(relation.schema.clone());
                relation.unreadable = Some("no USAGE on the schema".to_owned());
                continue;
            } else {
                continue;
            };
            if !may.usage {
                closed.insert(relation.schema.clone());
            }
            relation.unreadable = Some(reason.clone());
            let (schema, name) = (relation.schema.clone(), relation.name.clone());
            list.push(Unreadable { schema, name, kind, reason, cure });
        }
        self.unreadable = closed
            .into_iter()
            .map(|schema| Unreadable {
                cure: format!("GRANT USAGE ON SCHEMA {} TO {role};", quote(&schema)),
                name: schema.clone(),
                schema,
                kind: GapKind::Schema,
                reason: "no USAGE on the schema".to_owned(),
            })
            .chain(list)
            .collect();
    }
}
