//! A table of the target as a rescue sees it: its columns and their types today, the columns that tell its rows apart,
//! what it refers to, its triggers and sequences. Asks only; nothing is changed here.

use crate::error::{Error, Result};
use crate::postgres::connect::session::Session;
use crate::postgres::error::failure;
use crate::sql::names::{TableName, quote};

/// A column of a table.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    pub(crate) name: String,
    /// Its type with everything that belongs to it, as SQL.
    pub(crate) kind: String,
    /// `COLLATE ...` where it has another collation than its type.
    collation: String,
    /// The type that it is made of, without length or precision, as SQL: a cast to it never cuts a value.
    pub(crate) base: String,
    /// `COLLATE ...` where its type has a collation.
    pub(crate) collate: String,
    pub(crate) not_null: bool,
    /// The operator that compares two of its values, as SQL.
    pub(crate) equals: String,
    /// PostgreSQL computes it.
    pub(crate) generated: bool,
    /// `GENERATED ALWAYS AS IDENTITY`: an UPDATE cannot set it.
    pub(crate) identity_always: bool,
}

/// A table that exists.
#[derive(Debug, Clone)]
pub(crate) struct Live {
    pub(crate) name: TableName,
    oid: u32,
    /// The name as a FROM clause reads it: with `ONLY` unless its rows are in partitions.
    pub(crate) from: String,
    pub(crate) columns: Vec<Column>,
    /// The names of its primary key's columns, or of the first unique index that could be one; empty for none.
    pub(crate) key: Vec<String>,
    /// Rules that turn an INSERT or UPDATE into something else.
    pub(crate) rules: Vec<String>,
}

/// A foreign key of a table.
#[derive(Debug, Clone)]
pub(crate) struct Reference {
    /// The table that is referred to.
    pub(crate) to: TableName,
    /// Pairs: the column that refers, the operator as SQL, the column that is referred to.
    pub(crate) columns: Vec<(String, String, String)>,
}

/// A trigger that fires on changes of this session.
#[derive(Debug, Clone)]
pub(crate) struct Trigger {
    /// The table as SQL.
    pub(crate) table: String,
    /// The name as SQL.
    pub(crate) name: String,
    /// The word that makes it fire again as it did.
    pub(crate) enable: String,
}

/// A sequence that a column owns.
#[derive(Debug, Clone)]
pub(crate) struct Sequence {
    /// The name as SQL.
    pub(crate) name: String,
    /// The column's name.
    pub(crate) column: String,
    pub(crate) descending: bool,
}

impl Column {
    /// The column as it stands in a CREATE TABLE, without constraints.
    #[must_use]
    pub(crate) fn definition(&self) -> String {
        format!("{} {}{}", quote(&self.name), self.kind, self.collation)
    }
}

impl Live {
    /// Looks for a table of this name.
    ///
    /// # Errors
    /// Kind `Usage` where there is none, or something that is not a table.
    pub(crate) async fn find(session: &Session, name: &TableName) -> Result<Self> {
        let doing = format!("look at {name}");
        let sql = "SELECT c.oid, c.relkind::pg_catalog.text,
                      ARRAY(SELECT pg_catalog.quote_ident(r.rulename) FROM pg_catalog.pg_rewrite r
                             WHERE r.ev_class = c.oid AND r.ev_type IN ('2', '3') AND r.ev_enabled IN ('O', 'A'))
                 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                WHERE n.nspname = $1 AND c.relname = $2";
        let row = session.client.query_opt(sql, &[&name.schema, &name.table]).await;
        let Some(row) = row.map_err(|e| failure(&e).context(&doing))? else {
            let (of, database) = (name.to_string(), session.info().database().to_owned());
            return Err(Error::usage(format!("database {database} has no table {of}"))
                .hint(format!("`pgstow restore --table {of} --into-existing` makes it again, with its rows")));
        };
        let kind: String = row.get(1);
        if kind != "r" && kind != "p" {
            return Err(Error::usage(format!("{name} is no table in database {}", session.info().database())));
        }
        let only = if kind == "p" { "" } else { "ONLY " };
        let mut live = Self {
            name: name.clone(),
            oid: row.get(0),
            from: format!("{only}{}", name.sql()),
            columns: Vec::new(),
            key: Vec::new(),
            rules: row.get(2),
        };
        live.columns = columns(session, live.oid, &doing).await?;
        live.key = key(session, live.oid, &doing).await?;
        Ok(live)
    }

    /// The column of this name.
    pub(crate) fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// The foreign keys of this table. Those that a partition has for each partition of the other table stand once.
    ///
    /// # Errors
    /// The server's.
    pub(crate) async fn references(&self, session: &Session) -> Result<Vec<Reference>> {
        let sql = "SELECT n.nspname::pg_catalog.text, r.relname::pg_catalog.text,
                      ARRAY(SELECT a.attname::pg_catalog.text FROM pg_catalog.unnest(k.conkey) WITH ORDINALITY u(num, at)
                              JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.num ORDER BY u.at),
                      ARRAY(SELECT 'OPERATOR(' || pg_catalog.quote_ident(m.nspname) || '.' || o.oprname || ')'
                              FROM pg_catalog.unnest(k.conpfeqop) WITH ORDINALITY u(op, at)
                              JOIN pg_catalog.pg_operator o ON o.oid = u.op
                              JOIN pg_catalog.pg_namespace m ON m.oid = o.oprnamespace ORDER BY u.at),
                      ARRAY(SELECT a.attname::pg_catalog.text FROM pg_catalog.unnest(k.confkey) WITH ORDINALITY u(num, at)
                              JOIN pg_catalog.pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.num ORDER BY u.at)
                 FROM pg_catalog.pg_constraint k
                 JOIN pg_catalog.pg_class r ON r.oid = k.confrelid JOIN pg_catalog.pg_namespace n ON n.oid = r.relnamespace
                WHERE k.contype = 'f' AND k.conrelid = $1
                  AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint up
                                   WHERE up.oid = k.conparentid AND up.conrelid = k.conrelid)
                ORDER BY k.conname";
        let rows = session.client.query(sql, &[&self.oid]).await;
        let rows = rows.map_err(|e| failure(&e).context(format!("look at the foreign keys of {}", self.name)))?;
        let reference = |row: &tokio_postgres::Row| {
            let (from, operators, to): (Vec<String>, Vec<String>, Vec<String>) = (row.get(2), row.get(3), row.get(4));
            let pairs = from.into_iter().zip(operators).zip(to);
            Reference {
                to: TableName::new(row.get::<_, String>(0), row.get::<_, String>(1)),
                columns: pairs.map(|((from, operator), to)| (from, operator, to)).collect(),
            }
        };
        Ok(rows.iter().map(reference).collect())
    }

    /// The tables whose foreign keys refer to this one, each as `schema.table`.
    ///
    /// # Errors
    /// The server's.
    pub(crate) async fn referring(&self, session: &Session) -> Result<Vec<String>> {
        let sql = "SELECT DISTINCT n.nspname::pg_catalog.text || '.' || c.relname FROM pg_catalog.pg_constraint k
                     JOIN pg_catalog.pg_class c ON c.oid = k.conrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                    WHERE k.contype = 'f' AND k.confrelid = $1 AND k.conrelid <> $1 AND k.conparentid = 0
                      AND k.confdeltype IN ('c', 'n', 'd') ORDER BY 1";
        let rows = session.client.query(sql, &[&self.oid]).await;
        let rows = rows.map_err(|e| failure(&e).context(format!("look for what refers to {}", self.name)))?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// The triggers of a person that fire here, of the partitions too; those that keep foreign keys are not among them.
    ///
    /// # Errors
    /// The server's.
    pub(crate) async fn triggers(&self, session: &Session) -> Result<Vec<Trigger>> {
        let sql = "SELECT t.tgrelid::pg_catalog.regclass::pg_catalog.text, pg_catalog.quote_ident(t.tgname),
                          CASE t.tgenabled WHEN 'A' THEN 'ENABLE ALWAYS TRIGGER' ELSE 'ENABLE TRIGGER' END
                     FROM pg_catalog.pg_trigger t
                    WHERE NOT t.tgisinternal AND t.tgenabled IN ('O', 'A')
                      AND t.tgrelid IN (SELECT $1::pg_catalog.oid UNION
                                        SELECT relid::pg_catalog.oid FROM pg_catalog.pg_partition_tree($1::pg_catalog.oid::pg_catalog.regclass))
                    ORDER BY 1, 2";
        let rows = session.client.query(sql, &[&self.oid]).await;
        let rows = rows.map_err(|e| failure(&e).context(format!("look at the triggers of {}", self.name)))?;
        Ok(rows.iter().map(|row| Trigger { table: row.get(0), name: row.get(1), enable: row.get(2) }).collect())
    }

    /// The sequences that its columns own, those of the tables that it is a partition of included.
    ///
    /// # Errors
    /// The server's.
    pub(crate) async fn sequences(&self, session: &Session) -> Result<Vec<Sequence>> {
        let sql = "SELECT s.seqrelid::pg_catalog.regclass::pg_catalog.text, a.attname::pg_catalog.text, s.seqincrement < 0
                     FROM pg_catalog.pg_depend d
                     JOIN pg_catalog.pg_sequence s ON s.seqrelid = d.objid
                     JOIN pg_catalog.pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
                    WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.deptype IN ('a', 'i')
                      AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
                      AND d.refobjid IN (SELECT $1::pg_catalog.oid UNION
                                         SELECT relid::pg_catalog.oid FROM pg_catalog.pg_partition_ancestors($1::pg_catalog.oid::pg_catalog.regclass))
                    ORDER BY 1";
        let rows = session.client.query(sql, &[&self.oid]).await;
        let rows = rows.map_err(|e| failure(&e).context(format!("look at the sequences of {}", self.name)))?;
        let sequence =
            |row: &tokio_postgres::Row| Sequence { name: row.get(0), column: row.get(1), descending: row.get(2) };
        Ok(rows.iter().map(sequence).collect())
    }
}

/// The columns of a table. Two values are compared by the operator `=` that belongs to the type, or to what a domain is
/// made of: an extension's type has its own, in a schema that no search path names.
async fn columns(session: &Session, oid: u32, doing: &str) -> Result<Vec<Column>> {
    let sql = "WITH RECURSIVE base(att, oid) AS (
                  SELECT attnum, atttypid FROM pg_catalog.pg_attribute WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped
                  UNION ALL SELECT b.att, t.typbasetype FROM base b JOIN pg_catalog.pg_type t ON t.oid = b.oid WHERE t.typtype = 'd')
               SELECT a.attname::pg_catalog.text, pg_catalog.format_type(a.atttypid, a.atttypmod),
                      coalesce((SELECT ' COLLATE ' || pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.collname)
                                  FROM pg_catalog.pg_collation c JOIN pg_catalog.pg_namespace n ON n.oid = c.collnamespace
                                  JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
                                 WHERE c.oid = a.attcollation AND a.attcollation <> t.typcollation), ''),
                      coalesce((SELECT 'OPERATOR(' || pg_catalog.quote_ident(n.nspname) || '.=)'
                                  FROM base b JOIN pg_catalog.pg_operator o ON o.oprleft = b.oid AND o.oprright = b.oid AND o.oprname = '='
                                  JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace
                                 WHERE b.att = a.attnum LIMIT 1), 'OPERATOR(pg_catalog.=)'),
                      a.attgenerated <> '', a.attidentity = 'a', a.attnotnull,
                      coalesce((SELECT pg_catalog.format_type(t.oid, -1) FROM base b JOIN pg_catalog.pg_type t ON t.oid = b.oid
                                 WHERE b.att = a.attnum AND t.typtype <> 'd'), pg_catalog.format_type(a.atttypid, -1)),
                      coalesce((SELECT ' COLLATE ' || pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.collname)
                                  FROM pg_catalog.pg_collation c JOIN pg_catalog.pg_namespace n ON n.oid = c.collnamespace
                                 WHERE c.oid = a.attcollation), '')
                 FROM pg_catalog.pg_attribute a
                WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";
    let rows = session.client.query(sql, &[&oid]).await.map_err(|e| failure(&e).context(doing))?;
    let column = |row: &tokio_postgres::Row| Column {
        name: row.get(0),
        kind: row.get(1),
        collation: row.get(2),
        equals: row.get(3),
        generated: row.get(4),
        identity_always: row.get(5),
        not_null: row.get(6),
        base: row.get(7),
        collate: row.get(8),
    };
    Ok(rows.iter().map(column).collect())
}

/// The columns of the primary key, else of the unique index with the fewest columns that holds for every row and has no
/// NULL.
async fn key(session: &Session, oid: u32, doing: &str) -> Result<Vec<String>> {
    let sql = "SELECT ARRAY(SELECT a.attname::pg_catalog.text
                              FROM pg_catalog.generate_series(0, i.indnkeyatts - 1) at
                              JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[at] ORDER BY at)
                 FROM pg_catalog.pg_index i
                WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
                  AND NOT EXISTS (SELECT FROM pg_catalog.generate_series(0, i.indnkeyatts - 1) at
                                    JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[at]
                                   WHERE NOT a.attnotnull)
                ORDER BY i.indisprimary DESC, i.indnkeyatts, i.indexrelid LIMIT 1";
    let row = session.client.query_opt(sql, &[&oid]).await.map_err(|e| failure(&e).context(doing))?;
    Ok(row.map(|row| row.get(0)).unwrap_or_default())
}
