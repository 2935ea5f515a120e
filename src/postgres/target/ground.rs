//! The tables that rows are erased in: of a database, or temporary ones with the rows of a run. A partition is a part of
//! its topmost table here, so that a row is the same row by whichever name it was found.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::error::{Error, Result};
use crate::postgres::connect::session::Session;
use crate::postgres::error::failure;
use crate::postgres::target::live::{Column, Live};
use crate::sql::names::{TableName, literal};

/// Rows as a statement finds them.
#[derive(Debug, Clone)]
pub(crate) struct Spot {
    /// The table whose rows they are among: the topmost one of a partition.
    pub(crate) root: TableName,
    /// The name as a FROM clause reads it.
    pub(crate) from: String,
    /// The partition that holds them, where not every row of the root is meant; as SQL.
    pub(crate) part: Option<String>,
    /// The role may insert into it: where it may not, no row came.
    fillable: bool,
}

/// A table as the statements see it.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    pub(crate) from: String,
    pub(crate) columns: Vec<Column>,
}

/// The tables.
#[derive(Debug, Default)]
pub(crate) struct Ground {
    spots: HashMap<TableName, Spot>,
    /// Tables that inherit from one, over all steps.
    below: HashMap<TableName, Vec<TableName>>,
    tables: HashMap<TableName, Table>,
    /// Nobody else sees them, and they have no triggers.
    pub(crate) temporary: bool,
}

impl Ground {
    /// Those of these tables that the database has, with all of the partitioned tables that they belong to.
    ///
    /// # Errors
    /// The server's.
    pub(crate) async fn of_database(session: &Session, names: &HashSet<TableName>) -> Result<Self> {
        let mut ground = Self::default();
        let tree = tree(session).await?;
        let roots: HashSet<&TableName> = tree
            .iter()
            .filter(|(name, spot)| spot.fillable && names.contains(*name))
            .map(|(_, spot)| &spot.root)
            .collect();
        for (name, spot) in &tree {
            if spot.fillable && names.contains(name) || roots.contains(&spot.root) {
                ground.spots.insert(name.clone(), spot.clone());
            }
        }
        for (above, name) in heirs(session).await? {
            if ground.spots.contains_key(&name) {
                ground.below.entry(above).or_default().push(name);
            }
        }
        Ok(ground)
    }

    /// Adds a temporary table with the rows of the table of this name.
    ///
    /// # Errors
    /// The server's.
    pub(crate) async fn add(&mut self, session: &Session, name: &TableName, table: Table) -> Result<()> {
        self.temporary = true;
        let tree = tree(session).await?;
        let root = tree.get(name).map_or(name, |spot| &spot.root);
        let spot = Spot { root: name.clone(), from: table.from.clone(), part: None, fillable: true };
        // A key of a partition, or of what it is a partition of, means the same rows.
        let same = tree.iter().filter(|(other, spot)| spot.root == *root && (name == root || *other == root));
        for (other, _) in same {
            self.spots.entry(other.clone()).or_insert_with(|| spot.clone());
        }
        self.spots.insert(name.clone(), spot);
        for (above, heir) in heirs(session).await? {
            if heir == *name {
                self.below.entry(above).or_default().push(heir);
            }
        }
        self.tables.insert(name.clone(), table);
        Ok(())
    }

    /// The rows of this name; `None` where it is not here.
    pub(crate) fn spot(&self, name: &TableName) -> Option<&Spot> {
        self.spots.get(name)
    }

    /// The name under which rows of this table are known.
    pub(crate) fn root<'a>(&'a self, name: &'a TableName) -> &'a TableName {
        self.spots.get(name).map_or(name, |spot| &spot.root)
    }

    /// The table itself and those that inherit from it, as far as they are here.
    pub(crate) fn with_heirs(&self, name: &TableName) -> BTreeSet<TableName> {
        let heirs = self.below.get(name).into_iter().flatten();
        heirs.chain([name]).filter(|name| self.spots.contains_key(*name)).cloned().collect()
    }

    /// A topmost table.
    ///
    /// # Errors
    /// The server's.
    pub(crate) async fn table(&mut self, session: &Session, root: &TableName) -> Result<Table> {
        if let Some(table) = self.tables.get(root) {
            return Ok(table.clone());
        }
        if self.temporary {
            return Err(Error::failed(format!("the rows of {root} are missing")));
        }
        let live = Live::find(session, root).await?;
        let table = Table { from: live.from, columns: live.columns };
        self.tables.insert(root.clone(), table.clone());
        Ok(table)
    }
}

/// Every table, with the topmost one of each partition.
async fn tree(session: &Session) -> Result<HashMap<TableName, Spot>> {
    let sql = "WITH RECURSIVE up(oid, root) AS (
                   SELECT oid, oid FROM pg_catalog.pg_class WHERE relkind IN ('r', 'p') AND NOT relispartition AND relpersistence <> 't'
                   UNION ALL SELECT i.inhrelid, u.root FROM up u JOIN pg_catalog.pg_inherits i ON i.inhparent = u.oid
                     JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid WHERE c.relispartition AND c.relkind IN ('r', 'p'))
               SELECT n.nspname::pg_catalog.text, c.relname::pg_catalog.text, rn.nspname::pg_catalog.text,
                      r.relname::pg_catalog.text, c.relkind = 'p',
                      pg_catalog.has_table_privilege(c.oid, 'INSERT')
                 FROM up u JOIN pg_catalog.pg_class c ON c.oid = u.oid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                 JOIN pg_catalog.pg_class r ON r.oid = u.root JOIN pg_catalog.pg_namespace rn ON rn.oid = r.relnamespace";
    let rows = session.client.query(sql, &[]).await.map_err(|e| failure(&e).context("look at the tables"))?;
    let table =
        |row: &tokio_postgres::Row, at: usize| TableName::new(row.get::<_, String>(at), row.get::<_, String>(at + 1));
    let spot = |row: &tokio_postgres::Row| {
        let (name, root) = (table(row, 0), table(row, 2));
        let from = format!("{}{}", if row.get(4) { "" } else { "ONLY " }, name.sql());
        let part = (name != root).then(|| name.sql());
        (name, Spot { root, from, part, fillable: row.get(5) })
    };
    Ok(rows.iter().map(spot).collect())
}

/// Pairs of a table and one that inherits from it, over any number of steps; no partitions.
async fn heirs(session: &Session) -> Result<Vec<(TableName, TableName)>> {
    let sql = "WITH RECURSIVE down(top, oid) AS (
                   SELECT i.inhparent, i.inhrelid FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
                    WHERE c.relkind = 'r' AND NOT c.relispartition
                   UNION SELECT d.top, i.inhrelid FROM down d JOIN pg_catalog.pg_inherits i ON i.inhparent = d.oid)
               SELECT tn.nspname::pg_catalog.text, t.relname::pg_catalog.text, n.nspname::pg_catalog.text, c.relname::pg_catalog.text
                 FROM down d JOIN pg_catalog.pg_class t ON t.oid = d.top JOIN pg_catalog.pg_namespace tn ON tn.oid = t.relnamespace
                 JOIN pg_catalog.pg_class c ON c.oid = d.oid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace";
    let rows = session.client.query(sql, &[]).await.map_err(|e| failure(&e).context("look at the tables"))?;
    let table =
        |row: &tokio_postgres::Row, at: usize| TableName::new(row.get::<_, String>(at), row.get::<_, String>(at + 1));
    Ok(rows.iter().map(|row| (table(row, 0), table(row, 2))).collect())
}

/// The condition, as SQL, that rows found by `oid` are of this partition.
pub(crate) fn within(part: &str, oid: &str) -> String {
    format!(
        "{oid} OPERATOR(pg_catalog.=) ANY (SELECT relid::pg_catalog.oid FROM pg_catalog.pg_partition_tree({}::pg_catalog.regclass))",
        literal(part)
    )
}
