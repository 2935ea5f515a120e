//! Members of extensions that are no tables, where they are not what `CREATE EXTENSION` makes: functions, views, types,
//! text search dictionaries and schemas that a person changed, or gave to the extension (`ALTER EXTENSION ... ADD`).
//! pg_dump leaves out every member without a word.
//!
//! The catalogues say by transactions what to look at: one that was written by a transaction which made no member of its
//! extension was changed since, and a membership from another transaction than the extension itself was given. Either can
//! be an update's work as well, so each becomes a statement that does something only where the thing is not there, or is
//! another one though the extension has the same version. What has no such statement is named.

use std::collections::HashSet;

use libpgdump::ObjectType;
use tokio_postgres::Client;

use crate::error::Result;
use crate::format::manifest::Omitted;
use crate::postgres::error::failure;
use crate::postgres::source::absent::dollar_tag;
use crate::postgres::source::additions::Addition;

/// Members (`m`), those with a statement of ours (`member`), and the transactions by which they are told apart.
const MEMBERS: &str = "
WITH born AS MATERIALIZED (
    SELECT oid AS ext, xmin::text AS x FROM pg_extension UNION SELECT objid, xmin::text FROM pg_depend WHERE classid = 3079
), made AS MATERIALIZED (
    SELECT refobjid AS ext, xmin::text AS x FROM pg_depend WHERE refclassid = 3079 AND deptype = 'e' UNION SELECT * FROM born
), m AS MATERIALIZED (
    SELECT d.classid AS class, d.objid AS obj, e.oid AS ext, e.extname::text AS extname,
        NOT EXISTS (SELECT FROM born WHERE born.ext = e.oid AND born.x = d.xmin::text) AS given,
        format('EXISTS (SELECT FROM pg_extension WHERE extname = %L AND extversion = %L)', e.extname, e.extversion) AS same
    FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
    WHERE d.refclassid = 3079 AND d.deptype = 'e' AND d.objsubid = 0
), member AS MATERIALIZED (
    SELECT m.*, 'FUNCTION' AS kind, 'ROUTINE' AS word, n.nspname::text AS schema, p.proname::text AS tag, p.proowner AS owner,
        p.proacl AS acl, p.oid::regprocedure::text AS name, format('to_regprocedure(%L)', p.oid::regprocedure) AS found,
        NOT EXISTS (SELECT FROM made WHERE made.ext = m.ext AND made.x = p.xmin::text) AS changed,
        l.lanname IN ('c', 'internal') AS is_of_library
    FROM m JOIN pg_proc p ON m.class = 1255 AND p.oid = m.obj AND p.prokind <> 'a'
    JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang
    UNION ALL
    SELECT m.*, 'VIEW', 'VIEW', n.nspname::text, c.relname::text, c.relowner, c.relacl, format('%I.%I', n.nspname, c.relname),
        format('to_regclass(%L)', format('%I.%I', n.nspname, c.relname)),
        NOT EXISTS (SELECT FROM made WHERE made.ext = m.ext AND made.x = r.xmin::text), false
    FROM m JOIN pg_class c ON m.class = 1259 AND c.oid = m.obj AND c.relkind = 'v'
    JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_rewrite r ON r.ev_class = c.oid AND r.rulename = '_RETURN'
    UNION ALL
    SELECT m.*, CASE t.typtype WHEN 'd' THEN 'DOMAIN' ELSE 'TYPE' END, CASE t.typtype WHEN 'd' THEN 'DOMAIN' ELSE 'TYPE' END,
        n.nspname::text, t.typname::text, t.typowner, t.typacl, format('%I.%I', n.nspname, t.typname),
        format('to_regtype(%L)', format('%I.%I', n.nspname, t.typname)),
        EXISTS (SELECT FROM pg_enum x WHERE x.enumtypid = t.oid
            AND NOT EXISTS (SELECT FROM made WHERE made.ext = m.ext AND made.x = x.xmin::text))
        OR EXISTS (SELECT FROM pg_constraint x WHERE x.contypid = t.oid
            AND NOT EXISTS (SELECT FROM made WHERE made.ext = m.ext AND made.x = x.xmin::text)), false
    FROM m JOIN pg_type t ON m.class = 1247 AND t.oid = m.obj JOIN pg_namespace n ON n.oid = t.typnamespace
    WHERE t.typtype IN ('e', 'd') OR EXISTS (SELECT FROM pg_class c WHERE c.oid = t.typrelid AND c.relkind = 'c')
    UNION ALL
    SELECT m.*, 'SCHEMA', 'SCHEMA', n.nspname::text, n.nspname::text, n.nspowner, n.nspacl, quote_ident(n.nspname),
        format('to_regnamespace(%L)', quote_ident(n.nspname)), false, false
    FROM m JOIN pg_namespace n ON m.class = 2615 AND n.oid = m.obj
    UNION ALL
    SELECT m.*, 'TEXT SEARCH DICTIONARY', 'TEXT SEARCH DICTIONARY', n.nspname::text, x.dictname::text, x.dictowner, NULL,
        format('%I.%I', n.nspname, x.dictname),
        format('(SELECT x.oid FROM pg_ts_dict x JOIN pg_namespace n ON n.oid = x.dictnamespace WHERE n.nspname = %L AND x.dictname = %L)',
            n.nspname, x.dictname),
        NOT EXISTS (SELECT FROM made WHERE made.ext = m.ext AND made.x = x.xmin::text), false
    FROM m JOIN pg_ts_dict x ON m.class = 3600 AND x.oid = m.obj JOIN pg_namespace n ON n.oid = x.dictnamespace
)";

/// What makes a member where it is missing (`fresh`), and what makes one that is there like the saved one (`alike`), with
/// the test that it is not. A dictionary is never made: its template may be the extension's own.
const STATEMENTS: &str = "
SELECT b.*,
    format('ALTER %s %s OWNER TO %s;', word, name, quote_ident(pg_get_userbyid(owner)))
    || CASE WHEN acl IS NULL THEN '' ELSE format(' REVOKE ALL ON %s %s FROM PUBLIC;', CASE word WHEN 'VIEW' THEN 'TABLE' ELSE word END, name) || coalesce((
        SELECT string_agg(format(' IF %s THEN GRANT %s ON %s %s TO %s%s; END IF;',
            CASE WHEN a.grantee = 0 THEN 'true' ELSE format('to_regrole(%L) IS NOT NULL', quote_ident(g.rolname)) END, a.privilege_type,
            CASE word WHEN 'VIEW' THEN 'TABLE' ELSE word END, name, coalesce(quote_ident(g.rolname), 'PUBLIC'),
            CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END), '' ORDER BY a.privilege_type, g.rolname)
        FROM aclexplode(acl) a LEFT JOIN pg_roles g ON g.oid = a.grantee
        WHERE a.grantee <> owner AND (a.grantee = 0 OR g.oid IS NOT NULL)), '') END
    || format(' ALTER EXTENSION %I ADD %s %s;', extname, word, name) AS joins
FROM (
    SELECT x.*, x.def || ';' AS fresh, format('pg_get_functiondef(%s) IS DISTINCT FROM %L', x.found, x.def) AS differs, x.def || ';' AS alike
    FROM (SELECT member.*, pg_get_functiondef(obj) AS def FROM member WHERE kind = 'FUNCTION' AND (given OR changed)) x
    UNION ALL
    SELECT x.*, format('CREATE VIEW %s%s AS %s', x.name, (SELECT format(' WITH (%s)', string_agg(format('%I = %L', o.option_name, o.option_value), ', '))
            FROM pg_class c, pg_options_to_table(c.reloptions) o WHERE c.oid = x.obj HAVING count(*) > 0), x.def),
        format('pg_get_viewdef(%s) IS DISTINCT FROM %L', x.found, x.def), format('CREATE OR REPLACE VIEW %s AS %s', x.name, x.def)
    FROM (SELECT member.*, pg_get_viewdef(obj) AS def FROM member WHERE kind = 'VIEW' AND (given OR changed)) x
    UNION ALL
    SELECT x.*, format('CREATE TYPE %s AS ENUM (%s);', x.name, l.labels), 'true', l.additions
    FROM (SELECT member.*, ''::text AS def FROM member JOIN pg_type t ON t.oid = obj AND t.typtype = 'e' WHERE kind = 'TYPE' AND (given OR changed)) x
    CROSS JOIN LATERAL (SELECT coalesce(string_agg(quote_literal(e.enumlabel), ', ' ORDER BY e.enumsortorder), '') AS labels,
        string_agg(format('ALTER TYPE %s ADD VALUE IF NOT EXISTS %L%s;', x.name, e.enumlabel, ' AFTER ' || quote_literal(e.before)), ' ' ORDER BY e.enumsortorder) AS additions
        FROM (SELECT enumlabel, enumsortorder, lag(enumlabel) OVER (ORDER BY enumsortorder) AS before FROM pg_enum WHERE enumtypid = x.obj) e) l
    UNION ALL
    SELECT x.*, format('CREATE TYPE %s AS (%s);', x.name, (SELECT string_agg(format('%I %s%s', a.attname, format_type(a.atttypid, a.atttypmod),
            CASE WHEN a.attcollation <> t.typcollation THEN ' COLLATE ' || a.attcollation::regcollation END), ', ' ORDER BY a.attnum)
            FROM pg_type r JOIN pg_attribute a ON a.attrelid = r.typrelid AND NOT a.attisdropped JOIN pg_type t ON t.oid = a.atttypid
            WHERE r.oid = x.obj)), 'false', ''
    FROM (SELECT member.*, ''::text AS def FROM member JOIN pg_type t ON t.oid = obj AND t.typtype = 'c' WHERE kind = 'TYPE' AND given) x
    UNION ALL
    SELECT x.*, format('CREATE DOMAIN %s AS %s%s%s%s%s;', x.name, format_type(t.typbasetype, t.typtypmod),
            CASE WHEN t.typcollation <> u.typcollation THEN ' COLLATE ' || t.typcollation::regcollation END,
            ' DEFAULT ' || pg_get_expr(t.typdefaultbin, 0), CASE WHEN t.typnotnull THEN ' NOT NULL' END,
            (SELECT string_agg(format(' CONSTRAINT %I %s', k.conname, pg_get_constraintdef(k.oid)), '' ORDER BY k.conname)
                FROM pg_constraint k WHERE k.contypid = t.oid AND k.contype = 'c')), 'true',
        (SELECT string_agg(format('IF NOT EXISTS (SELECT FROM pg_constraint WHERE contypid = %s AND conname = %L) THEN ALTER DOMAIN %s ADD CONSTRAINT %I %s; END IF;',
            x.found, k.conname, x.name, k.conname, pg_get_constraintdef(k.oid)), ' ' ORDER BY k.conname)
            FROM pg_constraint k WHERE k.contypid = t.oid AND k.contype = 'c')
    FROM (SELECT member.*, ''::text AS def FROM member WHERE kind = 'DOMAIN' AND (given OR changed)) x
    JOIN pg_type t ON t.oid = x.obj JOIN pg_type u ON u.oid = t.typbasetype
    UNION ALL
    SELECT member.*, '', format('CREATE SCHEMA %s;', name), 'false', '' FROM member WHERE kind = 'SCHEMA' AND given
    UNION ALL
    SELECT x.*, NULL, format('(SELECT dictinitoption FROM pg_ts_dict WHERE oid = %s) IS DISTINCT FROM %L', x.found, x.def),
        format('ALTER TEXT SEARCH DICTIONARY %s (%s);', x.name, x.def)
    FROM (SELECT member.*, t.dictinitoption AS def FROM member JOIN pg_ts_dict t ON t.oid = obj
        WHERE kind = 'TEXT SEARCH DICTIONARY' AND (given OR changed)) x WHERE x.def IS NOT NULL
) b ORDER BY kind <> 'SCHEMA', kind NOT IN ('TYPE', 'DOMAIN'), kind, obj";

/// Members of other kinds that were given to their extension. Where most of its members look so (an upgrade by
/// pg_upgrade writes each membership anew), nothing is known.
const OTHERS: &str = "
SELECT m.extname, pg_describe_object(m.class, m.obj, 0) FROM m
WHERE m.given AND NOT EXISTS (SELECT FROM member WHERE member.class = m.class AND member.obj = m.obj AND member.kind <> 'TEXT SEARCH DICTIONARY')
  AND NOT (m.class = 1259 AND EXISTS (SELECT FROM pg_class c WHERE c.oid = m.obj AND c.relkind IN ('r', 'p', 'S')))
  AND 2 * (SELECT count(*) FROM m o WHERE o.ext = m.ext AND o.given) <= (SELECT count(*) FROM m o WHERE o.ext = m.ext)
ORDER BY 1, 2";

/// Statements for members that are not what `CREATE EXTENSION` makes, in the order in which they can be run: schemas,
/// types, the rest. Memory: the definitions.
pub(crate) async fn members(client: &Client) -> Result<Vec<Addition>> {
    let sql = format!(
        "{MEMBERS} SELECT kind, schema, tag, extname, class, obj, given, is_of_library, same, found, fresh, differs, alike, joins FROM ({STATEMENTS}) s"
    );
    let rows = client.query_typed(&sql, &[]).await;
    let rows = rows.map_err(|e| failure(&e).context("look at the members of extensions"))?;
    Ok(rows.iter().map(addition).collect())
}

fn addition(row: &tokio_postgres::Row) -> Addition {
    let kind: String = row.get(0);
    let (given, is_of_library): (bool, bool) = (row.get(6), row.get(7));
    let (same, found): (String, String) = (row.get(8), row.get(9));
    let (fresh, joins): (Option<String>, Option<String>) = (row.get(10), row.get(13));
    let (differs, alike): (String, Option<String>) = (row.get(11), row.get(12));
    let mut body = format!("  IF {found} IS NULL THEN\n");
    match (fresh, joins) {
        (Some(fresh), Some(joins)) if given => {
            // A function of a library may be one that the extension has done away with.
            let only = if is_of_library { format!("    IF {same} THEN\n    ") } else { String::new() };
            let end = if is_of_library { "    END IF;\n" } else { "" };
            body.push_str(&format!("{only}    {fresh}\n    {joins}\n{end}"));
        }
        _ => body.push_str("    NULL;\n"),
    }
    if let Some(alike) = alike.filter(|alike| !alike.is_empty()) {
        let same = if kind == "TEXT SEARCH DICTIONARY" { String::new() } else { format!("{same} AND ") };
        body.push_str(&format!("  ELSIF {same}{differs} THEN\n    {alike}\n"));
    }
    body.push_str("  END IF;\n");
    let tag = dollar_tag(&body);
    Addition {
        desc: ObjectType::from(kind.as_str()),
        table: 0,
        schema: if kind == "SCHEMA" { String::new() } else { row.get(1) },
        tag: row.get(2),
        extension: row.get(3),
        object: (row.get(4), row.get(5)),
        definition: format!("DO {tag}\nBEGIN\n{body}END\n{tag};\n"),
        needs: Vec::new(),
        is_before_rows: true,
    }
}

/// The objects that use one of these and are none of them, by class and oid.
pub(crate) async fn users(client: &Client, members: &[Addition]) -> Result<HashSet<(u32, u32)>> {
    let (classes, objects): (Vec<u32>, Vec<u32>) = members.iter().map(|member| member.object).unzip();
    if members.is_empty() {
        return Ok(HashSet::new());
    }
    let sql = "SELECT DISTINCT CASE WHEN coalesce(r.ev_class, f.adrelid, nullif(k.conrelid, 0)) IS NULL THEN d.classid ELSE 1259 END::oid,
                      coalesce(r.ev_class, f.adrelid, nullif(k.conrelid, 0), d.objid)
                 FROM unnest($1::oid[], $2::oid[]) o(class, obj)
                 JOIN pg_catalog.pg_depend d ON d.refclassid = o.class AND d.refobjid = o.obj AND d.deptype = 'n'
                 LEFT JOIN pg_catalog.pg_rewrite r ON d.classid = 2618 AND r.oid = d.objid
                 LEFT JOIN pg_catalog.pg_attrdef f ON d.classid = 2604 AND f.oid = d.objid
                 LEFT JOIN pg_catalog.pg_constraint k ON d.classid = 2606 AND k.oid = d.objid";
    let rows = client.query(sql, &[&classes, &objects]).await;
    let rows = rows.map_err(|e| failure(&e).context("ask what needs the members of extensions"))?;
    let own: HashSet<(u32, u32)> = members.iter().map(|member| member.object).collect();
    let users = rows.iter().map(|row| (row.get(0), row.get(1)));
    Ok(users.filter(|user| !own.contains(user)).collect())
}

/// Members of other kinds that were given to an extension, which no statement of ours makes.
pub(crate) async fn others(client: &Client) -> Result<Vec<Omitted>> {
    let rows = client.query_typed(&format!("{MEMBERS} {OTHERS}"), &[]).await;
    let rows = rows.map_err(|e| failure(&e).context("look at the members of extensions"))?;
    Ok(rows
        .iter()
        .map(|row| {
            let (extension, name): (String, String) = (row.get(0), row.get(1));
            Omitted {
                kind: "object given to an extension".to_owned(),
                name,
                reason: format!(
                    "it became a member of extension {extension} after that was made, and pg_dump describes no member: \
                     ALTER EXTENSION ... DROP it before a backup, and ADD it after a restore"
                ),
            }
        })
        .collect())
}
