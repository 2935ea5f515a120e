//! Definitions on the relations of extensions, which pg_dump leaves out without a word: columns, constraints, indexes,
//! triggers, rules, policies, row security, statistics, comments, labels, publications and options.
//!
//! The catalogues do not tell what a person added from what `CREATE EXTENSION` made: none of these carries a dependency
//! on the extension. So the comparison is made where both are known, at the restore: each becomes a statement that runs
//! only where the thing is not there once the extension is. What came in a transaction that made members of the extension
//! is taken for the extension's own where the target has another version of it, which may have done away with it.

use std::collections::BTreeMap;

use libpgdump::ObjectType;
use tokio_postgres::Client;

use crate::error::Result;
use crate::postgres::error::failure;
use crate::postgres::source::absent::dollar_tag;

/// A definition on an extension's relation.
#[derive(Debug, Clone)]
pub(crate) struct Addition {
    pub(crate) desc: ObjectType,
    /// Oid of the relation; 0 for a member of the extension that is none.
    pub(crate) table: u32,
    pub(crate) schema: String,
    pub(crate) tag: String,
    pub(crate) extension: String,
    /// The object by class and oid; zeros for what is no object of its own.
    pub(crate) object: (u32, u32),
    /// Makes it where it is missing.
    pub(crate) definition: String,
    /// The objects it needs.
    pub(crate) needs: Vec<(u32, u32)>,
    /// Rows need it: columns, and the key that merges them.
    pub(crate) is_before_rows: bool,
}

/// The last place in the order of [`BRANCHES`] that rows need.
const BEFORE_ROWS: i32 = 1;

/// Relations of extensions (`m`), and the transactions that made members of each.
const MEMBERS: &str = "
WITH m AS MATERIALIZED (
    SELECT c.oid, c.relkind, n.nspname::text AS schema, c.relname::text AS tab, e.oid AS ext, e.extname::text AS extname,
        e.extversion, format('%I.%I', n.nspname, c.relname) AS name,
        format('to_regclass(%L)', format('%I.%I', n.nspname, c.relname)) AS found,
        CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'f' THEN 'FOREIGN TABLE' ELSE 'TABLE' END AS kind,
        c.relrowsecurity, c.relforcerowsecurity, c.relreplident, c.reloptions
    FROM pg_depend d JOIN pg_class c ON c.oid = d.objid JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_extension e ON e.oid = d.refobjid
    WHERE d.classid = 1259 AND d.refclassid = 3079 AND d.deptype = 'e' AND d.objsubid = 0
      AND c.relkind IN ('r', 'p', 'f', 'v', 'm') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
), made AS MATERIALIZED (
    SELECT DISTINCT refobjid AS ext, xmin::text AS x FROM pg_depend WHERE refclassid = 3079 AND deptype = 'e'
), sub AS MATERIALIZED (
    SELECT m.*, x.class, x.obj, x.label, EXISTS (SELECT FROM pg_depend d JOIN made ON made.ext = m.ext AND made.x = d.xmin::text
        WHERE d.classid = x.class AND d.objid = x.obj AND d.deptype <> 'e') AS own
    FROM m JOIN LATERAL (
        SELECT 2606::oid, k.oid, format('CONSTRAINT %I ON %s', k.conname, m.name) FROM pg_constraint k
            WHERE k.conrelid = m.oid AND k.contype IN ('c', 'u', 'p', 'x', 'f') AND k.coninhcount = 0
        UNION ALL SELECT 1259, c.oid, format('INDEX %I.%I', m.schema, c.relname) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
            WHERE i.indrelid = m.oid AND i.indisvalid AND NOT c.relispartition
              AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid AND k.contype IN ('p', 'u', 'x'))
        UNION ALL SELECT 2620, t.oid, format('TRIGGER %I ON %s', t.tgname, m.name) FROM pg_trigger t
            WHERE t.tgrelid = m.oid AND NOT t.tgisinternal AND t.tgparentid = 0
        UNION ALL SELECT 2618, r.oid, format('RULE %I ON %s', r.rulename, m.name) FROM pg_rewrite r
            WHERE r.ev_class = m.oid AND r.rulename <> '_RETURN'
        UNION ALL SELECT 3256, p.oid, format('POLICY %I ON %s', p.polname, m.name) FROM pg_policy p WHERE p.polrelid = m.oid
        UNION ALL SELECT 3381, s.oid, format('STATISTICS %I.%I', n.nspname, s.stxname) FROM pg_statistic_ext s
            JOIN pg_namespace n ON n.oid = s.stxnamespace WHERE s.stxrelid = m.oid
    ) x(class, obj, label) ON true
)";

/// Each branch: order, kind, relation, class and oid, tag, the test that it is missing, the statements that make it, and
/// true where it came with the extension. `{where}` and `{columns}` are of publications, by version.
const BRANCHES: &[&str] = &[
    // Columns; `NOT NULL` comes behind the rows, since the extension's own rows may have none of its values.
    "SELECT 0, 'DEFAULT', m.oid, 0::oid, 0::oid, m.tab || ' columns',
        format('NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = %s AND attname = %L AND NOT attisdropped)', m.found, a.attname),
        format('ALTER %s %s ADD COLUMN %I %s%s%s;', CASE m.relkind WHEN 'f' THEN m.kind ELSE 'TABLE' END, m.name, a.attname,
            format_type(a.atttypid, a.atttypmod),
            CASE WHEN a.attcollation <> t.typcollation THEN (SELECT format(' COLLATE %I.%I', n.nspname, o.collname)
                FROM pg_collation o JOIN pg_namespace n ON n.oid = o.collnamespace WHERE o.oid = a.attcollation) END,
            CASE WHEN a.attidentity = 'a' THEN ' GENERATED ALWAYS AS IDENTITY' WHEN a.attidentity = 'd' THEN ' GENERATED BY DEFAULT AS IDENTITY'
                WHEN a.attgenerated = 's' THEN format(' GENERATED ALWAYS AS (%s) STORED', pg_get_expr(d.adbin, d.adrelid))
                WHEN a.attgenerated = 'v' THEN format(' GENERATED ALWAYS AS (%s) VIRTUAL', pg_get_expr(d.adbin, d.adrelid))
                WHEN d.adbin IS NOT NULL THEN ' DEFAULT ' || pg_get_expr(d.adbin, d.adrelid) END),
        EXISTS (SELECT FROM made WHERE made.ext = m.ext AND made.x = a.xmin::text)
    FROM m JOIN pg_attribute a ON a.attrelid = m.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attinhcount = 0
    JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN pg_attrdef d ON d.adrelid = m.oid AND d.adnum = a.attnum
    WHERE m.relkind IN ('r', 'p', 'f')",
    "SELECT CASE WHEN k.contype = 'p' THEN 1 WHEN k.contype = 'f' THEN 5 ELSE 2 END,
        CASE k.contype WHEN 'c' THEN 'CHECK CONSTRAINT' WHEN 'f' THEN 'FK CONSTRAINT' ELSE 'CONSTRAINT' END,
        s.oid, s.class, s.obj, s.tab || ' ' || k.conname,
        format('NOT EXISTS (SELECT FROM pg_constraint WHERE conrelid = %s AND (conname = %L OR contype = ''p'' AND %L = ''p''))', s.found, k.conname, k.contype),
        format('ALTER TABLE %s ADD CONSTRAINT %I %s;', s.name, k.conname, pg_get_constraintdef(k.oid)), s.own
    FROM sub s JOIN pg_constraint k ON s.class = 2606 AND k.oid = s.obj",
    "SELECT 3, 'INDEX', s.oid, s.class, s.obj, c.relname::text,
        format('to_regclass(%L) IS NULL', format('%I.%I', s.schema, c.relname)), pg_get_indexdef(c.oid) || ';', s.own
    FROM sub s JOIN pg_class c ON s.class = 1259 AND c.oid = s.obj",
    "SELECT 4, 'CONSTRAINT', m.oid, 0, 0, m.tab || ' not null',
        format('EXISTS (SELECT FROM pg_attribute WHERE attrelid = %s AND NOT attisdropped AND NOT attnotnull AND attname = ANY (%L::name[]))',
            m.found, array_agg(a.attname)),
        format('ALTER TABLE %s %s;', m.name, string_agg(format('ALTER COLUMN %I SET NOT NULL', a.attname), ', ' ORDER BY a.attnum)),
        bool_and(EXISTS (SELECT FROM made WHERE made.ext = m.ext AND made.x = a.xmin::text))
    FROM m JOIN pg_attribute a ON a.attrelid = m.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attnotnull
    WHERE m.relkind IN ('r', 'p') GROUP BY m.oid, m.tab, m.found, m.name",
    "SELECT 6, 'RULE', s.oid, s.class, s.obj, s.tab || ' ' || r.rulename,
        format('NOT EXISTS (SELECT FROM pg_rewrite WHERE ev_class = %s AND rulename = %L)', s.found, r.rulename),
        pg_get_ruledef(r.oid), s.own
    FROM sub s JOIN pg_rewrite r ON s.class = 2618 AND r.oid = s.obj",
    "SELECT 7, 'TRIGGER', s.oid, s.class, s.obj, s.tab || ' ' || t.tgname,
        format('NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = %s AND tgname = %L AND NOT tgisinternal%s)', s.found, t.tgname,
            CASE WHEN s.relkind = 'v' THEN '' ELSE format(' AND tgenabled = %L', t.tgenabled) END),
        format('IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = %s AND tgname = %L AND NOT tgisinternal) THEN %s; END IF;%s',
            s.found, t.tgname, pg_get_triggerdef(t.oid), CASE WHEN s.relkind = 'v' THEN '' ELSE
            format(' ALTER %s %s %s TRIGGER %I;', s.kind, s.name, CASE t.tgenabled WHEN 'D' THEN 'DISABLE' WHEN 'R' THEN 'ENABLE REPLICA'
                WHEN 'A' THEN 'ENABLE ALWAYS' ELSE 'ENABLE' END, t.tgname) END), s.own
    FROM sub s JOIN pg_trigger t ON s.class = 2620 AND t.oid = s.obj",
    "SELECT 8, 'POLICY', s.oid, s.class, s.obj, s.tab || ' ' || p.polname,
        format('NOT EXISTS (SELECT FROM pg_policy WHERE polrelid = %s AND polname = %L)', s.found, p.polname),
        format('CREATE POLICY %I ON %s AS %s FOR %s TO %s%s%s;', p.polname, s.name,
            CASE WHEN p.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
            CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
            CASE WHEN p.polroles = '{0}' THEN 'PUBLIC' ELSE (SELECT string_agg(quote_ident(r.rolname), ', ' ORDER BY r.rolname)
                FROM pg_roles r WHERE r.oid = ANY (p.polroles)) END,
            ' USING (' || pg_get_expr(p.polqual, p.polrelid) || ')', ' WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')'),
        s.own
    FROM sub s JOIN pg_policy p ON s.class = 3256 AND p.oid = s.obj",
    "SELECT 9, 'ROW SECURITY', m.oid, 0, 0, m.tab, format('EXISTS (SELECT FROM pg_class WHERE oid = %s AND NOT relrowsecurity)', m.found),
        format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY;', m.name), false FROM m WHERE m.relrowsecurity",
    "SELECT 10, 'POLICY', m.oid, 0, 0, m.tab || ' force', format('EXISTS (SELECT FROM pg_class WHERE oid = %s AND NOT relforcerowsecurity)', m.found),
        format('ALTER TABLE %s FORCE ROW LEVEL SECURITY;', m.name), false FROM m WHERE m.relforcerowsecurity",
    "SELECT 11, 'STATISTICS', s.oid, s.class, s.obj, x.stxname::text,
        format('NOT EXISTS (SELECT FROM pg_statistic_ext WHERE stxrelid = %s AND stxname = %L)', s.found, x.stxname),
        pg_get_statisticsobjdef(x.oid) || ';', s.own
    FROM sub s JOIN pg_statistic_ext x ON s.class = 3381 AND x.oid = s.obj",
    "SELECT 12, 'CONSTRAINT', m.oid, 0, 0, m.tab || ' options',
        format('EXISTS (SELECT FROM pg_class WHERE oid = %s AND NOT coalesce(reloptions, ''{}'') @> %L::text[])', m.found, m.reloptions),
        format('ALTER %s %s SET (%s);', m.kind, m.name, (SELECT string_agg(format('%I = %L', o.option_name, o.option_value), ', ')
            FROM pg_options_to_table(m.reloptions) o)), false
    FROM m WHERE m.reloptions IS NOT NULL AND m.relkind IN ('r', 'm', 'v')",
    "SELECT 13, 'CONSTRAINT', m.oid, 0, 0, m.tab || ' replica identity',
        format('EXISTS (SELECT FROM pg_class WHERE oid = %s AND relreplident <> %L)', m.found, m.relreplident),
        format('ALTER TABLE %s REPLICA IDENTITY %s;', m.name, CASE m.relreplident WHEN 'f' THEN 'FULL' WHEN 'n' THEN 'NOTHING' ELSE
            (SELECT format('USING INDEX %I', c.relname) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
                WHERE i.indrelid = m.oid AND i.indisreplident) END), false
    FROM m WHERE m.relreplident <> 'd' AND m.relkind IN ('r', 'p')",
    "SELECT 14, 'COMMENT', m.oid, 0, 0, CASE WHEN a.attnum IS NULL THEN m.kind || ' ' || m.tab ELSE 'COLUMN ' || m.tab || '.' || a.attname END,
        CASE WHEN a.attnum IS NULL THEN format('obj_description(%s, ''pg_class'') IS DISTINCT FROM %L', m.found, d.description)
            ELSE format('(SELECT col_description(attrelid, attnum) FROM pg_attribute WHERE attrelid = %s AND attname = %L) IS DISTINCT FROM %L',
                m.found, a.attname, d.description) END,
        CASE WHEN a.attnum IS NULL THEN format('COMMENT ON %s %s IS %L;', m.kind, m.name, d.description)
            ELSE format('COMMENT ON COLUMN %s.%I IS %L;', m.name, a.attname, d.description) END,
        EXISTS (SELECT FROM made WHERE made.ext = m.ext AND made.x = d.xmin::text)
    FROM m JOIN pg_description d ON d.classoid = 1259 AND d.objoid = m.oid
    LEFT JOIN pg_attribute a ON a.attrelid = m.oid AND a.attnum = d.objsubid AND d.objsubid > 0",
    "SELECT 15, 'COMMENT', s.oid, 0, 0, s.label,
        format('NOT EXISTS (SELECT FROM pg_description d, pg_identify_object(d.classoid, d.objoid, 0) i
            WHERE d.description = %L AND d.classoid = %s AND i.identity = %L)', d.description, s.class, (pg_identify_object(s.class, s.obj, 0)).identity),
        format('COMMENT ON %s IS %L;', s.label, d.description), EXISTS (SELECT FROM made WHERE made.ext = s.ext AND made.x = d.xmin::text)
    FROM sub s JOIN pg_description d ON d.classoid = s.class AND d.objoid = s.obj AND d.objsubid = 0",
    "SELECT 16, 'SECURITY LABEL', m.oid, 0, 0, m.kind || ' ' || m.tab,
        format('NOT EXISTS (SELECT FROM pg_seclabel WHERE classoid = 1259 AND objoid = %s AND objsubid = 0 AND provider = %L AND label = %L)',
            m.found, l.provider, l.label),
        format('SECURITY LABEL FOR %I ON %s %s IS %L;', l.provider, m.kind, m.name, l.label), false
    FROM m JOIN pg_seclabel l ON l.classoid = 1259 AND l.objoid = m.oid AND l.objsubid = 0",
    "SELECT 17, 'PUBLICATION TABLE', m.oid, 6106, r.oid, p.pubname || ' ' || m.tab,
        format('NOT EXISTS (SELECT FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid WHERE p.pubname = %L AND r.prrelid = %s)',
            p.pubname, m.found),
        format('ALTER PUBLICATION %I ADD TABLE ONLY %s%s%s;', p.pubname, m.name, {columns}, {where}), false
    FROM m JOIN pg_publication_rel r ON r.prrelid = m.oid JOIN pg_publication p ON p.oid = r.prpubid",
];

/// The objects that one needs; for a foreign key the key it refers to, for a publication's table the publication.
const NEEDS: &str = "
    ARRAY(SELECT x.c::int8 * 4294967296 + x.o::int8 FROM (
        SELECT d.refclassid, d.refobjid FROM pg_depend d WHERE d.classid = b.class AND d.objid = b.obj AND d.deptype IN ('n', 'a')
        UNION SELECT 2606, u.oid FROM pg_constraint f JOIN pg_constraint u ON u.conindid = f.conindid AND u.contype IN ('p', 'u')
            WHERE b.class = 2606 AND f.oid = b.obj AND f.contype = 'f'
        UNION SELECT 6104, r.prpubid FROM pg_publication_rel r WHERE b.class = 6106 AND r.oid = b.obj) x(c, o) WHERE b.obj <> 0)";

/// One row of the question.
struct Found {
    addition: Addition,
    /// The test, with that of the version, and the statements.
    body: String,
}

/// Everything that hangs on the relations of extensions, in the order in which it can be made. Memory: the definitions.
pub(crate) async fn additions(client: &Client, version_num: u32) -> Result<Vec<Addition>> {
    let (columns, filter) = if version_num >= 150_000 {
        (
            "(SELECT ' (' || string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) || ')' FROM pg_attribute a \
              WHERE a.attrelid = m.oid AND a.attnum = ANY (r.prattrs))",
            "' WHERE (' || pg_get_expr(r.prqual, r.prrelid) || ')'",
        )
    } else {
        ("''", "''")
    };
    let branches = BRANCHES.join(" UNION ALL ").replace("{columns}", columns).replace("{where}", filter);
    let sql = format!(
        "{MEMBERS} SELECT b.kind, b.tab, m.schema, m.extname, m.extversion, b.class, b.obj, b.tag, b.absent, b.make, b.own, {NEEDS}, b.rank
           FROM ({branches}) b(rank, kind, tab, class, obj, tag, absent, make, own) JOIN m ON m.oid = b.tab
          WHERE b.make IS NOT NULL AND b.absent IS NOT NULL ORDER BY b.rank, m.name, b.tag, b.make"
    );
    let rows = client.query_typed(&sql, &[]).await;
    let rows = rows.map_err(|e| failure(&e).context("look at what hangs on the tables of extensions"))?;
    let mut all: Vec<Found> = Vec::new();
    let mut grouped: BTreeMap<(String, u32, String), usize> = BTreeMap::new();
    for row in &rows {
        let found = found(row);
        // The columns of a relation are one entry.
        let key = (found.addition.desc.to_string(), found.addition.table, found.addition.tag.clone());
        match grouped.get(&key).and_then(|at| all.get_mut(*at)) {
            Some(first) if found.addition.object == (0, 0) => first.body.push_str(&found.body),
            _ => {
                grouped.insert(key, all.len());
                all.push(found);
            }
        }
    }
    Ok(all.into_iter().map(Found::finish).collect())
}

fn found(row: &tokio_postgres::Row) -> Found {
    let kind: String = row.get(0);
    let (extension, version): (String, String) = (row.get(3), row.get(4));
    let (absent, make, own): (String, String, bool) = (row.get(8), row.get(9), row.get(10));
    let same = if own {
        let (name, version) = (crate::sql::names::literal(&extension), crate::sql::names::literal(&version));
        format!("EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = {name} AND extversion = {version}) AND ")
    } else {
        String::new()
    };
    let needs: Vec<i64> = row.get(11);
    let half = |word: i64| u32::try_from(word & i64::from(u32::MAX)).unwrap_or(0);
    Found {
        addition: Addition {
            desc: ObjectType::from(kind.as_str()),
            table: row.get(1),
            schema: row.get(2),
            tag: row.get(7),
            extension,
            object: (row.get(5), row.get(6)),
            definition: String::new(),
            is_before_rows: row.get::<_, i32>(12) <= BEFORE_ROWS,
            needs: needs.into_iter().map(|packed| (half(packed >> 32), half(packed))).collect(),
        },
        body: format!("  IF {same}{absent} THEN\n    {make}\n  END IF;\n"),
    }
}

impl Found {
    fn finish(self) -> Addition {
        let tag = dollar_tag(&self.body);
        let definition = format!("DO {tag}\nBEGIN\n{}END\n{tag};\n", self.body);
        Addition { definition, ..self.addition }
    }
}
