//! Erasing rows by their keys, with everything that hangs on them by foreign keys, in the caller's open transaction.
//!
//! PostgreSQL itself compares: keys come into temporary tables, are cast to the types of the columns (without length, so
//! that nothing is cut), and joined. What is doomed is noted by `(tableoid, ctid)` with the values that foreign keys refer
//! to, round by round, until a round finds nothing more; only then anything is changed. A row that refers to a doomed one is
//! doomed whatever the action of its foreign key is, but for SET NULL: these columns become NULL.
//!
//! One file, since every step speaks of the same tables of what is doomed. No index is needed, nor any constraint: rows are erased before those are made. Names and operators are qualified.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::archive::foreign_keys::ForeignKey;
use crate::archive::order::referred_first;
use crate::error::{Error, Result};
use crate::postgres::connect::session::Session;
use crate::postgres::error::{failure, is_rejection};
use crate::postgres::query::execute;
use crate::postgres::target::ground::{Ground, Spot, Table, within};
use crate::postgres::target::live::Column;
use crate::restore::forget::keys::{Keys, Wrong, bare, typed};
use crate::sql::names::{TableName, literal, quote};

/// The rows of one table that were erased.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Count {
    /// Their keys were given.
    pub(crate) listed: u64,
    /// They referred to an erased row.
    pub(crate) by_reference: u64,
    /// Not erased: a reference to an erased row was set to NULL.
    pub(crate) set_null: u64,
}

/// What was erased.
#[derive(Debug, Default)]
pub(crate) struct Erased {
    pub(crate) tables: BTreeMap<TableName, Count>,
    /// Numbers of keys that no row had.
    pub(crate) unmatched: Vec<i64>,
    /// Keys of tables that are not here.
    pub(crate) elsewhere: u64,
    /// What cannot be known, in words: the table and why.
    pub(crate) unknown: Vec<(TableName, String)>,
}

/// A table whose rows may be erased.
struct Node {
    name: TableName,
    table: Table,
    /// The temporary table of what is doomed, as SQL.
    doomed: String,
    /// The columns whose values are kept there, as `k0`, `k1`...
    kept: Vec<String>,
}

/// A foreign key between rows that are here, or to keys of a table that is not.
struct Edge<'a> {
    key: &'a ForeignKey,
    child: usize,
    spot: Spot,
    parent: Parent,
    sets_null: bool,
}

enum Parent {
    /// A table, and the partition that is meant.
    Node(usize, Option<String>),
    /// A temporary table of keys, whose columns `k0`, `k1`... are those of the foreign key.
    Keys(String),
}

impl Node {
    fn column(&self, name: &str) -> Result<&Column> {
        self.table
            .columns
            .iter()
            .find(|column| column.name == name)
            .ok_or_else(|| Error::usage(format!("{} has no column {name:?}", self.name)))
    }

    fn kept(&self, name: &str) -> String {
        let at = self.kept.iter().position(|kept| kept == name).unwrap_or_default();
        format!("k{at}")
    }
}

/// Equality of two values as SQL, compared as the second one's column does.
fn same(one: &str, one_column: &Column, other: &str, other_column: &Column) -> String {
    let equals =
        if one_column.base == other_column.base { other_column.equals.as_str() } else { "OPERATOR(pg_catalog.=)" };
    format!("{one} {equals} {other}{}", other_column.collate)
}

/// Erases these keys. The caller's transaction holds all of it, and has to be ended by the caller.
///
/// # Errors
/// A value that is no key, before anything is changed; what the server refuses; rows that did not go.
pub(crate) async fn erase(
    session: &Session,
    keys: &[Keys],
    foreign: &[ForeignKey],
    mut ground: Ground,
) -> Result<Erased, Wrong> {
    execute(session, SET_UP, "begin to erase").await?;
    let mut erased = Erased::default();
    let plan = Plan::new(session, keys, foreign, &mut ground, &mut erased).await?;
    if plan.nodes.is_empty() {
        return Ok(erased);
    }
    plan.lock(session, &ground).await?;
    let edges = plan.edges(session, keys, &ground, &mut erased).await?;
    plan.note(session).await?;
    plan.listed(session, keys, &ground, &mut erased).await?;
    let reached = plan.rounds(session, &edges).await?;
    plan.count(session, &mut erased).await?;
    if reached.values().all(|rows| *rows == 0) {
        return Ok(erased);
    }
    let off = plan.quiet(session, &ground).await?;
    plan.change(session, &edges, &reached, &mut erased).await?;
    if !off.is_empty() {
        execute(session, "SET CONSTRAINTS ALL IMMEDIATE", "turn triggers on").await?;
    }
    for (table, trigger, when) in off {
        execute(session, &format!("ALTER TABLE ONLY {table} ENABLE {when} TRIGGER {trigger}"), "turn triggers on")
            .await?;
    }
    Ok(erased)
}

/// Values are read as a run writes them, whatever the role's settings are; nothing of a person's is found by a bare name.
pub(crate) const SET_UP: &str =
    "SET LOCAL search_path = pg_catalog, pg_temp; SET LOCAL TimeZone = 'UTC'; SET LOCAL DateStyle = 'ISO, YMD';
    SET LOCAL IntervalStyle = postgres; SET LOCAL row_security = off; SET LOCAL client_min_messages = warning";

struct Plan<'a> {
    nodes: Vec<Node>,
    places: HashMap<TableName, usize>,
    foreign: Vec<&'a ForeignKey>,
}

impl<'a> Plan<'a> {
    /// Finds the tables that can be reached from the keys over foreign keys, and what cannot be known of them.
    async fn new(
        session: &Session,
        keys: &[Keys],
        foreign: &'a [ForeignKey],
        ground: &mut Ground,
        erased: &mut Erased,
    ) -> Result<Self> {
        let mut reached: BTreeSet<TableName> = BTreeSet::new();
        for group in keys {
            let here = ground.with_heirs(&group.table);
            if here.is_empty() {
                erased.elsewhere += group.lines.len() as u64;
            }
            reached.insert(ground.root(&group.table).clone());
            reached.extend(here.iter().map(|name| ground.root(name).clone()));
        }
        let mut used: Vec<&ForeignKey> = Vec::new();
        loop {
            let mut more = false;
            for key in foreign {
                if used.contains(&key) || !reached.contains(ground.root(&key.to)) {
                    continue;
                }
                used.push(key);
                more = true;
                let from = ground.root(&key.from).clone();
                if key.set_null.is_empty() || cannot_be_null(session, ground, key).await? {
                    reached.insert(from);
                }
            }
            if !more {
                break;
            }
        }
        let mut plan = Self { nodes: Vec::new(), places: HashMap::new(), foreign: used };
        let children = plan.foreign.iter().map(|key| ground.root(&key.from).clone());
        for name in reached.iter().cloned().chain(children).collect::<BTreeSet<_>>() {
            if ground.spot(&name).is_none() {
                continue;
            }
            let doomed = format!("pg_temp.\"pgstow_doomed_{}\"", plan.nodes.len());
            let table = ground.table(session, &name).await?;
            plan.places.insert(name.clone(), plan.nodes.len());
            plan.nodes.push(Node { name, table, doomed, kept: Vec::new() });
        }
        plan.keep(keys, ground);
        Ok(plan)
    }

    /// Chooses the columns whose values are kept of each doomed row.
    fn keep(&mut self, keys: &[Keys], ground: &Ground) {
        let mut kept: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
        for group in keys {
            for name in ground.with_heirs(&group.table) {
                if let Some(at) = self.places.get(ground.root(&name)) {
                    kept.entry(*at).or_default().extend(group.columns.iter().cloned());
                }
            }
        }
        for key in &self.foreign {
            if let (Some(at), Some(_)) = (self.places.get(ground.root(&key.to)), ground.spot(&key.to)) {
                kept.entry(*at).or_default().extend(key.columns.iter().map(|(_, to)| to.clone()));
            }
        }
        for (at, columns) in kept {
            if let Some(node) = self.nodes.get_mut(at) {
                // A column that the table does not have is refused where it is used.
                let has = |name: &String| node.table.columns.iter().any(|column| column.name == *name);
                node.kept = columns.into_iter().filter(has).collect();
            }
        }
    }

    async fn lock(&self, session: &Session, ground: &Ground) -> Result<()> {
        if ground.temporary {
            return Ok(());
        }
        for node in &self.nodes {
            let sql = format!("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE", node.table.from);
            execute(session, &sql, &format!("lock {}", node.name)).await?;
        }
        Ok(())
    }

    /// The foreign keys whose child is here, each with what it refers to.
    async fn edges(
        &self,
        session: &Session,
        keys: &[Keys],
        ground: &Ground,
        erased: &mut Erased,
    ) -> Result<Vec<Edge<'a>>, Wrong> {
        let mut edges = Vec::new();
        for (number, key) in self.foreign.iter().copied().enumerate() {
            let (Some(spot), Some(child)) = (ground.spot(&key.from), self.places.get(ground.root(&key.from))) else {
                continue;
            };
            let Some(node) = self.nodes.get(*child) else { continue };
            if key.columns.iter().any(|(from, _)| node.column(from).is_err()) {
                continue;
            }
            let null = !key.set_null.is_empty()
                && key.set_null.iter().all(|name| node.column(name).is_ok_and(|c| !c.not_null));
            let here = ground.spot(&key.to).zip(self.places.get(ground.root(&key.to)));
            let parent = if let Some((parent, at)) = here {
                Parent::Node(*at, parent.part.clone())
            } else if let Some(table) = self.absent(session, keys, key, node, number, ground).await? {
                Parent::Keys(table)
            } else {
                let why = format!(
                    "its rows refer to {}, which is not here: which of them hang on erased rows cannot be known",
                    key.to
                );
                erased.unknown.push((key.from.clone(), why));
                continue;
            };
            edges.push(Edge { key, child: *child, spot: spot.clone(), parent, sets_null: null });
        }
        Ok(edges)
    }

    /// The keys of a table that is not here, as a foreign key refers to them; `None` where not all of its erased rows are
    /// known by them.
    async fn absent(
        &self,
        session: &Session,
        keys: &[Keys],
        key: &ForeignKey,
        node: &Node,
        number: usize,
        ground: &Ground,
    ) -> Result<Option<String>, Wrong> {
        let groups: Vec<&Keys> =
            keys.iter().filter(|group| ground.root(&group.table) == ground.root(&key.to)).collect();
        let covered = |group: &&Keys| key.columns.iter().all(|(_, to)| group.columns.contains(to));
        let hangs = |other: &&ForeignKey| other.from == key.to && other.set_null.is_empty();
        if key.period || groups.is_empty() || !groups.iter().all(covered) || self.foreign.iter().any(hangs) {
            return Ok(None);
        }
        let table = format!("pg_temp.\"pgstow_absent_{number}\"");
        let columns = key.columns.iter().map(|(from, _)| node.column(from)).collect::<Result<Vec<_>>>()?;
        let kinds: Vec<String> =
            columns.iter().enumerate().map(|(at, column)| format!("k{at} {}{}", column.base, column.collate)).collect();
        let make = format!("CREATE TEMPORARY TABLE {} ({}) ON COMMIT DROP", bare(&table), kinds.join(", "));
        execute(session, &make, "make a table of keys").await?;
        for (at, group) in groups.iter().enumerate() {
            let place = |to: &String| group.columns.iter().position(|name| name == to);
            let typed = typed(session, group, &format!("{number}_{at}_absent"), |name| {
                let pair = key.columns.iter().find(|(_, to)| to == name);
                pair.map_or(Ok(("pg_catalog.text".to_owned(), String::new())), |(from, _)| {
                    node.column(from).map(|column| (column.base.clone(), column.collate.clone()))
                })
            })
            .await?;
            let wanted: Vec<String> =
                key.columns.iter().filter_map(|(_, to)| place(to)).map(|at| format!("k{at}")).collect();
            let sql = format!("INSERT INTO {table} SELECT DISTINCT {} FROM {typed}", wanted.join(", "));
            execute(session, &sql, "gather the keys").await?;
        }
        execute(session, &format!("ANALYZE {table}"), "count the keys").await?;
        Ok(Some(table))
    }

    /// Makes the tables of what is doomed.
    async fn note(&self, session: &Session) -> Result<()> {
        for node in &self.nodes {
            let kept: Vec<String> =
                node.kept.iter().enumerate().map(|(at, name)| format!(", t.{} AS k{at}", quote(name))).collect();
            let sql = format!(
                "CREATE TEMPORARY TABLE {} ON COMMIT DROP AS
                 SELECT t.tableoid AS of, t.ctid AS at, 0 AS round{} FROM {} t WITH NO DATA",
                bare(&node.doomed),
                kept.concat(),
                node.table.from
            );
            execute(session, &sql, &format!("look at {}", node.name)).await?;
        }
        Ok(())
    }

    /// Dooms the rows of these keys.
    async fn listed(
        &self,
        session: &Session,
        keys: &[Keys],
        ground: &Ground,
        erased: &mut Erased,
    ) -> Result<(), Wrong> {
        for (number, group) in keys.iter().enumerate() {
            let mut unmatched: Option<HashSet<i64>> = None;
            for (heir, name) in ground.with_heirs(&group.table).iter().enumerate() {
                let (Some(spot), Some(at)) = (ground.spot(name), self.places.get(ground.root(name))) else { continue };
                let Some(node) = self.nodes.get(*at) else { continue };
                let typed = typed(session, group, &format!("{number}_{heir}"), |name| {
                    node.column(name).map(|column| (column.base.clone(), column.collate.clone()))
                })
                .await?;
                let equal = |side: &dyn Fn(&str) -> String| -> Result<String> {
                    let each = group.columns.iter().enumerate().map(|(at, name)| {
                        let column = node.column(name)?;
                        Ok(same(&format!("y.k{at}"), column, &side(name), column))
                    });
                    Ok(each.collect::<Result<Vec<_>>>()?.join(" AND "))
                };
                let found = equal(&|name| format!("t.{}", quote(name)))?;
                let doing = format!("look for the keys of {name}");
                let condition = format!("EXISTS (SELECT FROM {typed} y WHERE {found})");
                execute(session, &node.doom(&spot.from, &condition, 0), &doing).await?;
                let there = equal(&|name| format!("d.{}", node.kept(name)))?;
                let part = spot.part.as_ref().map_or_else(String::new, |part| format!(" AND {}", within(part, "d.of")));
                let sql = format!(
                    "SELECT y.line FROM {typed} y WHERE NOT EXISTS (SELECT FROM {} d WHERE {there}{part}) ORDER BY 1",
                    node.doomed
                );
                let rows = session.client.query(&sql, &[]).await.map_err(|e| failure(&e).context(&doing))?;
                let lines: HashSet<i64> = rows.iter().map(|row| row.get(0)).collect();
                unmatched = Some(match unmatched {
                    Some(known) => known.intersection(&lines).copied().collect(),
                    None => lines,
                });
            }
            erased.unmatched.extend(unmatched.into_iter().flatten());
        }
        erased.unmatched.sort_unstable();
        Ok(())
    }

    /// Dooms what refers to doomed rows, until nothing more does; returns how many rows are doomed in each table.
    async fn rounds(&self, session: &Session, edges: &[Edge<'_>]) -> Result<HashMap<usize, u64>> {
        let (mut all, mut new) = (HashMap::new(), HashMap::new());
        for (at, node) in self.nodes.iter().enumerate() {
            let rows = count(session, &format!("SELECT count(*) FROM {}", node.doomed)).await?;
            new.insert(at, rows);
            all.insert(at, rows);
            execute(session, &format!("ANALYZE {}", node.doomed), "count what is to be erased").await?;
        }
        for round in 0_i32.. {
            let mut next: HashMap<usize, u64> = HashMap::new();
            for edge in edges.iter().filter(|edge| !edge.sets_null) {
                let is_new = match &edge.parent {
                    Parent::Node(at, _) => new.get(at).is_some_and(|rows| *rows > 0),
                    Parent::Keys(_) => round == 0,
                };
                let Some(child) = self.nodes.get(edge.child).filter(|_| is_new) else { continue };
                let condition = format!("EXISTS ({})", self.refers(edge, child, "t", Some(round))?);
                let doing = format!("look for rows of {} that refer to erased ones", edge.key.from);
                let done = session.client.execute(&child.doom(&edge.spot.from, &condition, round + 1), &[]).await;
                let rows = done.map_err(|e| failure(&e).context(&doing))?;
                *next.entry(edge.child).or_default() += rows;
                *all.entry(edge.child).or_default() += rows;
            }
            if next.values().all(|rows| *rows == 0) {
                break;
            }
            new = next;
        }
        Ok(all)
    }

    /// The rows that a row of the child, under this alias, refers to and that are doomed.
    fn refers(&self, edge: &Edge<'_>, child: &Node, alias: &str, round: Option<i32>) -> Result<String> {
        let (table, part, node) = match &edge.parent {
            Parent::Node(at, part) => {
                let node = self.nodes.get(*at).ok_or_else(|| Error::failed("a table is missing"))?;
                (node.doomed.as_str(), part.as_deref(), Some(node))
            }
            Parent::Keys(table) => (table.as_str(), None, None),
        };
        let mut all = Vec::new();
        let last = edge.key.columns.len().saturating_sub(1);
        for (at, (from, to)) in edge.key.columns.iter().enumerate() {
            let (own, column) = (format!("{alias}.{}", quote(from)), child.column(from)?);
            all.push(match node {
                Some(_) if edge.key.period && at == last => {
                    format!("{own} OPERATOR(pg_catalog.&&) d.{}", node.map(|node| node.kept(to)).unwrap_or_default())
                }
                Some(node) => same(&own, column, &format!("d.{}", node.kept(to)), node.column(to)?),
                None => same(&own, column, &format!("d.k{at}"), column),
            });
        }
        if let (Some(round), Some(_)) = (round, node) {
            all.push(format!("d.round OPERATOR(pg_catalog.=) {round}"));
        }
        all.extend(part.map(|part| within(part, "d.of")));
        Ok(format!("SELECT FROM {table} d WHERE {}", all.join(" AND ")))
    }

    async fn count(&self, session: &Session, erased: &mut Erased) -> Result<()> {
        for node in &self.nodes {
            let sql = format!(
                "SELECT count(*) FILTER (WHERE round = 0), count(*) FILTER (WHERE round > 0) FROM {}",
                node.doomed
            );
            let row = session.client.query_one(&sql, &[]).await;
            let row = row.map_err(|e| failure(&e).context("count what is to be erased"))?;
            let (listed, by_reference): (i64, i64) = (row.get(0), row.get(1));
            let (listed, by_reference) = (listed.unsigned_abs(), by_reference.unsigned_abs());
            if listed + by_reference > 0 {
                erased.tables.insert(node.name.clone(), Count { listed, by_reference, set_null: 0 });
            }
        }
        Ok(())
    }

    /// Keeps triggers from firing: by the session's role in replication where it may be set, else table by table. Returns
    /// those that were turned off: table, trigger, and how it is enabled.
    async fn quiet(&self, session: &Session, ground: &Ground) -> Result<Vec<(String, String, String)>> {
        if ground.temporary {
            return Ok(Vec::new());
        }
        let doing = "keep triggers from firing";
        execute(session, "SAVEPOINT quiet", doing).await?;
        let silent = match execute(session, "SET LOCAL session_replication_role = replica", doing).await {
            Ok(()) => true,
            Err(error) if is_rejection(&error) => {
                execute(session, "ROLLBACK TO SAVEPOINT quiet", doing).await?;
                false
            }
            Err(error) => return Err(error),
        };
        let names: Vec<String> = self.nodes.iter().map(|node| literal(&node.name.sql())).collect();
        let sql = format!(
            "SELECT t.tgrelid::pg_catalog.regclass::pg_catalog.text, pg_catalog.quote_ident(t.tgname),
                    CASE t.tgenabled WHEN 'A' THEN 'ALWAYS' WHEN 'R' THEN 'REPLICA' ELSE '' END
               FROM pg_catalog.pg_trigger t
              WHERE NOT t.tgisinternal AND t.tgenabled IN ('A', '{}')
                AND t.tgrelid IN (SELECT p.relid::pg_catalog.oid FROM pg_catalog.unnest(ARRAY[{}]) n(name),
                        LATERAL pg_catalog.pg_partition_tree(n.name::pg_catalog.regclass) p
                        UNION SELECT n.name::pg_catalog.regclass::pg_catalog.oid FROM pg_catalog.unnest(ARRAY[{}]) n(name))
              ORDER BY 1, 2",
            if silent { "R" } else { "O" },
            names.join(", "),
            names.join(", ")
        );
        let rows = session.client.query(&sql, &[]).await.map_err(|e| failure(&e).context(doing))?;
        let off: Vec<(String, String, String)> = rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
        if !off.is_empty() {
            execute(session, "SET CONSTRAINTS ALL IMMEDIATE", doing).await?;
        }
        for (table, trigger, _) in &off {
            execute(session, &format!("ALTER TABLE ONLY {table} DISABLE TRIGGER {trigger}"), doing).await?;
        }
        Ok(off)
    }

    /// Sets references to NULL and erases, what refers first; makes sure that everything is gone.
    async fn change(
        &self,
        session: &Session,
        edges: &[Edge<'_>],
        reached: &HashMap<usize, u64>,
        erased: &mut Erased,
    ) -> Result<()> {
        for edge in edges.iter().filter(|edge| edge.sets_null) {
            let Some(child) = self.nodes.get(edge.child) else { continue };
            let set: Vec<String> = edge.key.set_null.iter().map(|name| format!("{} = NULL", quote(name))).collect();
            let sql = format!(
                "UPDATE {} AS f SET {} WHERE EXISTS ({}) AND NOT {}",
                edge.spot.from,
                set.join(", "),
                self.refers(edge, child, "f", None)?,
                child.is_doomed("f")
            );
            let done = session.client.execute(&sql, &[]).await;
            let rows = done.map_err(|e| failure(&e).context(format!("set references of {} to NULL", edge.key.from)))?;
            if rows > 0 {
                erased.tables.entry(child.name.clone()).or_default().set_null += rows;
            }
        }
        let refers: Vec<(TableName, TableName)> = edges
            .iter()
            .filter_map(|edge| match &edge.parent {
                Parent::Node(at, _) => {
                    Some((self.nodes.get(edge.child)?.name.clone(), self.nodes.get(*at)?.name.clone()))
                }
                Parent::Keys(_) => None,
            })
            .collect();
        let doomed = self.nodes.iter().enumerate().filter(|(at, _)| reached.get(at).is_some_and(|rows| *rows > 0));
        let order = referred_first(doomed.map(|(_, node)| node).collect(), |node| node.name.clone(), &refers);
        for node in order.iter().rev() {
            let sql = format!("DELETE FROM {} AS t WHERE {}", node.table.from, node.is_doomed("t"));
            execute(session, &sql, &format!("erase rows of {}", node.name)).await?;
        }
        for node in order {
            let sql = format!("SELECT count(*) FROM {} t WHERE {}", node.table.from, node.is_doomed("t"));
            let left = count(session, &sql).await?;
            if left > 0 {
                return Err(Error::failed(format!(
                    "{left} rows of {} could not be erased: a trigger or a rule keeps them",
                    node.name
                )));
            }
        }
        Ok(())
    }
}

impl Node {
    /// True, as SQL, for a row of this alias that is doomed.
    fn is_doomed(&self, alias: &str) -> String {
        format!(
            "EXISTS (SELECT FROM {} z WHERE z.of OPERATOR(pg_catalog.=) {alias}.tableoid AND z.at OPERATOR(pg_catalog.=) {alias}.ctid)",
            self.doomed
        )
    }

    /// The statement that dooms rows which meet a condition and are not doomed yet.
    fn doom(&self, from: &str, condition: &str, round: i32) -> String {
        let kept: Vec<String> = self.kept.iter().map(|name| format!(", t.{}", quote(name))).collect();
        let kept = kept.concat();
        format!(
            "INSERT INTO {} SELECT t.tableoid, t.ctid, {round}{kept} FROM {from} t WHERE {condition} AND NOT {}",
            self.doomed,
            self.is_doomed("t")
        )
    }
}

/// True where a column that should become NULL cannot.
async fn cannot_be_null(session: &Session, ground: &mut Ground, key: &ForeignKey) -> Result<bool> {
    if ground.spot(&key.from).is_none() {
        return Ok(false);
    }
    let root = ground.root(&key.from).clone();
    let table = ground.table(session, &root).await?;
    Ok(key.set_null.iter().any(|name| table.columns.iter().any(|column| column.name == *name && column.not_null)))
}

async fn count(session: &Session, sql: &str) -> Result<u64> {
    let row = session.client.query_one(sql, &[]).await.map_err(|e| failure(&e).context("count rows"))?;
    let count: i64 = row.get(0);
    Ok(count.unsigned_abs())
}
