//! Relations of extensions that pg_dump leaves out without a word: tables that are not registered as configuration
//! tables (attached pgmq queues), and sequences (pgagent's). Their rows are saved by our own COPY.
//!
//! They come back with the stock tools by an entry that makes the table where `CREATE EXTENSION` did not, and rows
//! that are loaded through a temporary table whose trigger merges them: `CREATE EXTENSION` may have made some of the
//! rows again. Rows with a primary key replace those of the same key; others are added as often as they are missing.
//! Everything is in the `COPY` entry itself, so it works whichever session of a parallel restore runs it.

use std::collections::HashSet;

use tokio_postgres::{Client, Row};

use crate::error::Result;
use crate::postgres::error::failure;
use crate::postgres::source::detect::Relation;
use crate::postgres::source::leader::qualified;
use crate::sql::names::{literal, quote};

/// A table that pg_dump left out.
#[derive(Debug, Clone)]
pub(crate) struct AbsentTable {
    /// Its oid.
    pub(crate) oid: u32,
    /// Makes the table where the extension did not; without effect where it did.
    pub(crate) create: String,
    /// The statements that restore its rows, ending in `COPY ... FROM stdin;`.
    pub(crate) load: String,
    /// The statement that reads its rows.
    pub(crate) read: String,
    /// The columns that are saved, as SQL.
    pub(crate) columns: String,
}

/// The value of a sequence that pg_dump left out.
#[derive(Debug, Clone)]
pub(crate) struct AbsentSequence {
    /// Its oid.
    pub(crate) oid: u32,
    /// Makes the sequence where neither the extension nor its table did.
    pub(crate) create: String,
    /// The `setval` statement.
    pub(crate) set: String,
}

const COLUMNS: &str = "
    SELECT a.attrelid, a.attname::pg_catalog.text, pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull,
           a.attidentity::pg_catalog.text, a.attgenerated::pg_catalog.text,
           pg_catalog.pg_get_expr(d.adbin, d.adrelid),
           coalesce(a.attnum = ANY(k.conkey), false) AS in_key,
           CASE WHEN a.attidentity <> '' THEN pg_catalog.pg_get_serial_sequence(
             pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname), a.attname) END AS sequence
      FROM pg_catalog.pg_attribute a
      JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
      LEFT JOIN pg_catalog.pg_constraint k ON k.conrelid = a.attrelid AND k.contype = 'p'
     WHERE a.attrelid = ANY($1) AND a.attnum > 0 AND NOT a.attisdropped
     ORDER BY a.attrelid, a.attnum";

/// Users of tables or of their row types, but for what belongs to a table: views by their rules, and whatever else has an entry of its own.
const USERS: &str = "
    SELECT DISTINCT CASE WHEN r.oid IS NOT NULL THEN d.refclass WHEN c.oid IS NOT NULL
             THEN 'pg_catalog.pg_type'::pg_catalog.regclass ELSE d.classid END, coalesce(r.ev_class, c.reltype, d.objid)
      FROM (SELECT classid, objid, 'pg_catalog.pg_class'::pg_catalog.regclass::pg_catalog.oid AS refclass
              FROM pg_catalog.pg_depend
             WHERE deptype = 'n' AND (refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND refobjid = ANY($1)
                OR refclassid = 'pg_catalog.pg_type'::pg_catalog.regclass AND refobjid IN (
                   SELECT t.oid FROM pg_catalog.pg_type t JOIN pg_catalog.pg_class c ON c.reltype IN (t.oid, t.typelem)
                    WHERE c.oid = ANY($1)))) d
      LEFT JOIN pg_catalog.pg_rewrite r ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND r.oid = d.objid
      LEFT JOIN pg_catalog.pg_class c ON d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND c.oid = d.objid
       AND c.relkind = 'c'";

/// The objects that need one of these tables, by class and oid.
pub(crate) async fn users(client: &Client, tables: &[u32]) -> Result<HashSet<(u32, u32)>> {
    if tables.is_empty() {
        return Ok(HashSet::new());
    }
    let rows = client.query(USERS, &[&tables]).await;
    let rows = rows.map_err(|e| failure(&e).context("ask what needs the tables of extensions"))?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

const CONSTRAINTS: &str = "
    SELECT c.conrelid, pg_catalog.quote_ident(c.conname), pg_catalog.pg_get_constraintdef(c.oid)
      FROM pg_catalog.pg_constraint c
     WHERE c.conrelid = ANY($1) AND c.contype IN ('p', 'u', 'c', 'x') AND c.conislocal
     ORDER BY c.conrelid, c.contype DESC, c.conname";

/// Tables that logical decoding reads as catalogues (pglogical's): they refuse `ON CONFLICT` (`parse_clause.c`).
const CATALOGUES: &str = "
    SELECT c.oid FROM pg_catalog.pg_class c, pg_catalog.pg_options_to_table(c.reloptions) o
     WHERE c.oid = ANY($1) AND o.option_name = 'user_catalog_table' AND o.option_value::boolean";

const INDEXES: &str = "
    SELECT i.indrelid, pg_catalog.pg_get_indexdef(i.indexrelid)
      FROM pg_catalog.pg_index i
     WHERE i.indrelid = ANY($1) AND i.indisvalid
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint c WHERE c.conindid = i.indexrelid)
     ORDER BY 1, 2";

/// Privileges that pg_dump takes for the extension's own: those from before the table joined it.
const PRIVILEGES: &str = "
    SELECT c.oid, pg_catalog.format('    IF %s THEN GRANT %s ON TABLE %s TO %s%s; END IF;',
           CASE WHEN g.oid IS NULL THEN 'true' ELSE pg_catalog.format('pg_catalog.to_regrole(%L) IS NOT NULL', pg_catalog.quote_ident(g.rolname)) END,
           a.privilege_type, c.oid::pg_catalog.regclass, coalesce(pg_catalog.quote_ident(g.rolname), 'PUBLIC'),
           CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
      FROM pg_catalog.pg_class c CROSS JOIN pg_catalog.aclexplode(c.relacl) a LEFT JOIN pg_catalog.pg_roles g ON g.oid = a.grantee
     WHERE c.oid = ANY($1) AND a.grantee <> c.relowner AND (a.grantee = 0 OR g.oid IS NOT NULL)
     ORDER BY 1, 2";

struct Column {
    name: String,
    definition: String,
    generated: bool,
    in_key: bool,
    sequence: Option<String>,
}

/// The statements that save and restore these tables, in their order.
pub(crate) async fn tables(client: &Client, relations: &[&Relation]) -> Result<Vec<AbsentTable>> {
    let oids: Vec<u32> = relations.iter().map(|r| r.oid).collect();
    let ask = |sql| async move {
        client.query(sql, &[&oids]).await.map_err(|e| failure(&e).context("describe an extension's tables"))
    };
    let (columns, constraints, indexes, privileges) = (
        ask.clone()(COLUMNS).await?,
        ask.clone()(CONSTRAINTS).await?,
        ask.clone()(INDEXES).await?,
        ask.clone()(PRIVILEGES).await?,
    );
    let catalogues: Vec<u32> = ask(CATALOGUES).await?.iter().map(|row| row.get(0)).collect();
    let of = |rows: &[Row], oid: u32| -> Vec<usize> {
        rows.iter().enumerate().filter(|(_, row)| row.get::<_, u32>(0) == oid).map(|(at, _)| at).collect()
    };
    Ok(relations
        .iter()
        .map(|relation| {
            let pick = |rows: &'_ [Row]| of(rows, relation.oid);
            let own: Vec<Column> = pick(&columns).into_iter().filter_map(|at| columns.get(at)).map(column).collect();
            let constraints: Vec<String> = pick(&constraints)
                .into_iter()
                .filter_map(|at| constraints.get(at))
                .map(|row| format!("CONSTRAINT {} {}", row.get::<_, String>(1), row.get::<_, String>(2)))
                .collect();
            let texts = |rows: &[Row]| -> Vec<String> {
                pick(rows).into_iter().filter_map(|at| rows.get(at)).map(|row| row.get(1)).collect()
            };
            let own = Table {
                columns: own,
                constraints,
                indexes: texts(&indexes),
                privileges: texts(&privileges),
                conflicts: !catalogues.contains(&relation.oid),
            };
            describe(relation, &own)
        })
        .collect())
}

fn column(row: &Row) -> Column {
    let (name, kind, not_null): (String, String, bool) = (row.get(1), row.get(2), row.get(3));
    let (identity, generated): (String, String) = (row.get(4), row.get(5));
    let default: Option<String> = row.get(6);
    let mut definition = format!("{} {kind}", quote(&name));
    let sequence = default.as_deref().and_then(sequence_of).map(str::to_owned);
    match (identity.as_str(), generated.as_str(), default) {
        (identity @ ("a" | "d"), _, _) => {
            let when = if identity == "a" { "ALWAYS" } else { "BY DEFAULT" };
            let named: Option<String> = row.get("sequence");
            let named = named.map_or_else(String::new, |name| format!(" (SEQUENCE NAME {name})"));
            definition.push_str(&format!(" GENERATED {when} AS IDENTITY{named}"));
        }
        (_, "s", Some(expression)) => definition.push_str(&format!(" GENERATED ALWAYS AS ({expression}) STORED")),
        (_, "v", Some(expression)) => definition.push_str(&format!(" GENERATED ALWAYS AS ({expression}) VIRTUAL")),
        (_, _, Some(expression)) => definition.push_str(&format!(" DEFAULT {expression}")),
        (_, _, None) => {}
    }
    if not_null {
        definition.push_str(" NOT NULL");
    }
    Column { name, definition, generated: !generated.is_empty(), in_key: row.get("in_key"), sequence }
}

/// The sequence of a serial column's default, as the server prints it with an empty search path.
fn sequence_of(default: &str) -> Option<&str> {
    default.strip_prefix("nextval('")?.strip_suffix("'::regclass)")
}

/// A table as the catalogues describe it.
struct Table {
    columns: Vec<Column>,
    constraints: Vec<String>,
    indexes: Vec<String>,
    privileges: Vec<String>,
    /// It takes `ON CONFLICT`.
    conflicts: bool,
}

fn describe(relation: &Relation, table: &Table) -> AbsentTable {
    let name = qualified(relation);
    let plain: Vec<&Column> = table.columns.iter().filter(|c| !c.generated).collect();
    let list = plain.iter().map(|c| quote(&c.name)).collect::<Vec<_>>().join(", ");
    let in_parens = if list.is_empty() { String::new() } else { format!("({list}) ") };
    AbsentTable {
        oid: relation.oid,
        create: create(relation, &name, table),
        load: load(relation, &name, &plain, &list, table.conflicts),
        read: format!("COPY {name} {in_parens}TO STDOUT"),
        columns: list,
    }
}

fn create(relation: &Relation, name: &str, table: &Table) -> String {
    let mut parts: Vec<String> = table.columns.iter().map(|c| c.definition.clone()).collect();
    parts.extend_from_slice(&table.constraints);
    let mut body = String::new();
    for sequence in table.columns.iter().filter_map(|c| c.sequence.as_deref()) {
        body.push_str(&format!("    CREATE SEQUENCE IF NOT EXISTS {};\n", sequence.replace("''", "'")));
    }
    body.push_str(&format!("    CREATE TABLE {name} ({});\n", parts.join(", ")));
    body.push_str(&format!("    ALTER TABLE {name} OWNER TO {};\n", quote(&relation.owner)));
    for index in &table.indexes {
        body.push_str(&format!("    {index};\n"));
    }
    for grant in &table.privileges {
        body.push_str(grant);
        body.push('\n');
    }
    if let Some(extension) = &relation.extension {
        body.push_str(&format!("    ALTER EXTENSION {} ADD TABLE {name};\n", quote(extension)));
    }
    unless_there(name, &body)
}

/// Rows through a temporary table. `conflicts`: the table takes `ON CONFLICT`.
fn load(relation: &Relation, name: &str, columns: &[&Column], list: &str, conflicts: bool) -> String {
    let staging = format!("pgstow_load_{}", relation.oid);
    let merge = merge(name, columns, list, conflicts);
    let tag = dollar_tag(&merge);
    format!(
        "CREATE TEMPORARY TABLE {staging} AS SELECT {list} FROM {name} WITH NO DATA;\n\
         CREATE FUNCTION pg_temp.{staging}() RETURNS trigger LANGUAGE plpgsql AS {tag}#variable_conflict use_column\nBEGIN {merge}; RETURN NULL; END{tag};\n\
         CREATE TRIGGER merge AFTER INSERT ON pg_temp.{staging} REFERENCING NEW TABLE AS saved FOR EACH STATEMENT \
         EXECUTE FUNCTION pg_temp.{staging}();\n\
         COPY pg_temp.{staging} {in_parens}FROM stdin;\n",
        in_parens = if list.is_empty() { String::new() } else { format!("({list}) ") },
    )
}

/// The statement that brings the rows of `saved` into the table.
fn merge(name: &str, columns: &[&Column], list: &str, conflicts: bool) -> String {
    if columns.is_empty() {
        return format!("INSERT INTO {name} SELECT FROM saved");
    }
    let insert = format!("INSERT INTO {name} ({list}) OVERRIDING SYSTEM VALUE SELECT {list}");
    let (key, others): (Vec<&Column>, Vec<&Column>) = columns.iter().copied().partition(|column| column.in_key);
    let set = |from: &str| {
        let each = others.iter().map(|c| format!("{0} = {from}.{0}", quote(&c.name)));
        each.collect::<Vec<_>>().join(", ")
    };
    // Rows are compared as text where no index compares them: not every type has an equality, and it may be in a schema
    // that is not searched. `old` and `new` are a trigger's own variables.
    let row = |of: &str, columns: &[&Column]| {
        let each = columns.iter().map(|c| format!("{of}.{}", quote(&c.name)));
        format!("(ROW({}))::pg_catalog.text", each.collect::<Vec<_>>().join(", "))
    };
    if key.is_empty() {
        let numbered = "r.pgstow_k, pg_catalog.row_number() OVER (PARTITION BY r.pgstow_k) AS pgstow_n";
        let compared = format!("LATERAL (SELECT {} AS pgstow_k) r", row("s", columns));
        return format!(
            "{insert} FROM (SELECT s.*, {numbered} FROM saved s, {compared}) pgstow_new \
             WHERE NOT EXISTS (SELECT FROM (SELECT {numbered} FROM ONLY {name} s, {compared}) pgstow_old \
             WHERE pgstow_old.pgstow_k = pgstow_new.pgstow_k AND pgstow_old.pgstow_n = pgstow_new.pgstow_n)"
        );
    }
    if conflicts {
        let key = key.iter().map(|c| quote(&c.name)).collect::<Vec<_>>().join(", ");
        let action = if others.is_empty() { "NOTHING".to_owned() } else { format!("UPDATE SET {}", set("EXCLUDED")) };
        return format!("{insert} FROM saved ON CONFLICT ({key}) DO {action}");
    }
    let same = format!("{} = {}", row("pgstow_old", &key), row("pgstow_new", &key));
    let update = if others.is_empty() {
        String::new()
    } else {
        format!("UPDATE {name} pgstow_old SET {} FROM saved pgstow_new WHERE {same}; ", set("pgstow_new"))
    };
    format!("{update}{insert} FROM saved pgstow_new WHERE NOT EXISTS (SELECT FROM {name} pgstow_old WHERE {same})")
}

/// A dollar quote that the text does not contain.
pub(crate) fn dollar_tag(text: &str) -> String {
    let mut tag = "$pgstow$".to_owned();
    let mut number = 0;
    while text.contains(&tag) {
        number += 1;
        tag = format!("$pgstow{number}$");
    }
    tag
}

fn create_sequence(relation: &Relation, name: &str, row: &Row) -> String {
    let kind: String = row.get(2);
    let numbers: [i64; 5] = [row.get(3), row.get(4), row.get(5), row.get(6), row.get(7)];
    let [increment, least, most, start, cache] = numbers;
    let cycle = if row.get(8) { " CYCLE" } else { "" };
    let mut body = format!(
        "    CREATE SEQUENCE {name} AS {kind} INCREMENT BY {increment} MINVALUE {least} MAXVALUE {most} START WITH {start} CACHE {cache}{cycle};\n    \
         ALTER SEQUENCE {name} OWNER TO {};\n",
        quote(&relation.owner)
    );
    if let Some(extension) = &relation.extension {
        body.push_str(&format!("    ALTER EXTENSION {} ADD SEQUENCE {name};\n", quote(extension)));
    }
    unless_there(name, &body)
}

/// Runs statements only where the relation does not exist.
fn unless_there(name: &str, body: &str) -> String {
    let tag = dollar_tag(body);
    format!(
        "DO {tag}\nBEGIN\n  IF pg_catalog.to_regclass({}) IS NULL THEN\n{body}  END IF;\nEND\n{tag};\n",
        literal(name)
    )
}

/// The values of these sequences, read after the snapshot, so never behind the rows.
pub(crate) async fn sequences(client: &Client, relations: &[&Relation]) -> Result<Vec<AbsentSequence>> {
    let mut out = Vec::with_capacity(relations.len());
    for relation in relations {
        let name = qualified(relation);
        let sql = format!(
            "SELECT v.last_value, v.is_called, pg_catalog.format_type(s.seqtypid, NULL), s.seqincrement, s.seqmin, s.seqmax, \
             s.seqstart, s.seqcache, s.seqcycle FROM {name} v, pg_catalog.pg_sequence s WHERE s.seqrelid = $1"
        );
        let row = client.query_one(&sql, &[&relation.oid]).await;
        let row = row.map_err(|e| failure(&e).context(format!("read the sequence {name}")))?;
        let (last, called): (i64, bool) = (row.get(0), row.get(1));
        let set = format!("SELECT pg_catalog.setval({}, {last}, {called});\n", literal(&name));
        out.push(AbsentSequence { oid: relation.oid, create: create_sequence(relation, &name, &row), set });
    }
    Ok(out)
}
