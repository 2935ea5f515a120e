//! Judges of a restore: the text `pg_dump` prints for two databases, and SQL scripts statement for statement.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::Command;

use super::pg::Cluster;
use super::process::output_with;

/// Fails with a diff unless `pg_dump` prints the same for both databases; returns the text, which isn't empty.
#[track_caller]
pub fn assert_same_database(one: (&Cluster, &str), other: (&Cluster, &str)) -> String {
    let (left, right) = (dump_text(one.0, one.1, &[]), dump_text(other.0, other.1, &[]));
    assert!(left.lines().count() > 30, "the dump of {} says nothing:\n{left}", one.1);
    assert_same(&left, &right);
    left
}

/// What `pg_dump` prints with `PGTZ=UTC`, comparable: see [`comparable`].
#[track_caller]
pub fn dump_text(cluster: &Cluster, database: &str, args: &[&str]) -> String {
    comparable(&cluster.pg_dump(database, args))
}

/// A dump's text without what differs by design: `\restrict` keys and the versions in its header. Rows that are loaded
/// through a partition root (where hashes differ between databases) are put under their root and sorted.
pub fn comparable(dump: &str) -> String {
    let mut text = String::new();
    let mut rooted: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut through_root = false;
    let mut target = None;
    for line in dump.lines() {
        if let Some(statement) = target {
            if line == "\\." {
                target = None;
            } else {
                rooted.entry(statement).or_default().push(line);
            }
            continue;
        }
        let versions = line.starts_with("-- Dumped from database version") || line.starts_with("-- Dumped by pg_dump");
        if line.starts_with("\\restrict ") || line.starts_with("\\unrestrict ") || versions {
            continue;
        }
        through_root |= line.starts_with("-- load via partition root ");
        if through_root && line.starts_with("COPY ") && line.ends_with(" FROM stdin;") {
            (target, through_root) = (Some(line), false);
            rooted.entry(line).or_default();
            continue;
        }
        text.push_str(line);
        text.push('\n');
    }
    for (statement, mut rows) in rooted {
        rows.sort_unstable();
        text.push_str(statement);
        text.push('\n');
        text.push_str(&rows.join("\n"));
        text.push_str("\n\\.\n");
    }
    text
}

/// Fails with a unified diff (its first 200 lines) unless both texts are the same.
#[track_caller]
pub fn assert_same(left: &str, right: &str) {
    if left == right {
        return;
    }
    let write = |text: &str| {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
        file.write_all(text.as_bytes()).expect("a temporary file can be written");
        file
    };
    let (one, other) = (write(left), write(right));
    let output = output_with(Command::new("diff").args(["-U3", "--text"]).arg(one.path()).arg(other.path()), b"");
    let diff = String::from_utf8_lossy(&output.stdout);
    let shown: Vec<&str> = diff.lines().take(200).collect();
    panic!("the texts differ ({} lines of diff):\n{}", diff.lines().count(), shown.join("\n"));
}

/// The statements of a script as psql sees them, in their order: without comments, psql's own commands, `SET` and
/// `set_config` lines. A `COPY ... FROM stdin` is one statement with its rows.
pub fn statements(script: &str) -> Vec<String> {
    let bytes = script.as_bytes();
    let (mut found, mut text, mut at) = (Vec::new(), Vec::new(), 0);
    while let Some(&byte) = bytes.get(at) {
        let rest = &bytes[at..];
        let fresh = text.iter().all(u8::is_ascii_whitespace);
        let end = if rest.starts_with(b"--") || (byte == b'\\' && fresh) {
            at += line_length(rest);
            continue;
        } else if rest.starts_with(b"/*") {
            at += comment_length(rest);
            continue;
        } else if byte == b'\'' || byte == b'"' {
            let escapes = byte == b'\'' && ends_with_word(&text, b'E');
            at + quoted_length(rest, escapes)
        } else if byte == b'$' && !text.last().is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_') {
            at + dollar_length(rest)
        } else {
            at + 1
        };
        text.extend_from_slice(&bytes[at..end]);
        at = end;
        if byte == b';' {
            let mut statement = String::from_utf8_lossy(&text).trim().to_owned();
            text.clear();
            if statement.starts_with("COPY ") && statement.ends_with(" FROM stdin;") {
                let data = copy_length(&bytes[at..]);
                statement.push_str(&script[at..at + data]);
                at += data;
            }
            if !statement.starts_with("SET ") && !statement.starts_with("SELECT pg_catalog.set_config(") {
                found.push(statement);
            }
        }
    }
    let left = String::from_utf8_lossy(&text).trim().to_owned();
    if !left.is_empty() {
        found.push(left);
    }
    found
}

fn ends_with_word(text: &[u8], word: u8) -> bool {
    let before = text.len().checked_sub(2).and_then(|at| text.get(at));
    text.last().is_some_and(|last| last.eq_ignore_ascii_case(&word))
        && !before.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_')
}

fn line_length(rest: &[u8]) -> usize {
    rest.iter().position(|b| *b == b'\n').map_or(rest.len(), |at| at + 1)
}

fn comment_length(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0_u32, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest[at..].starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                break;
            }
        } else {
            at += 1;
        }
    }
    at
}

fn quoted_length(rest: &[u8], escapes: bool) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != rest[0] {
        at += if escapes && rest[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

fn dollar_length(rest: &[u8]) -> usize {
    let tag = rest[1..].iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'_' || **b >= 0x80).count();
    if rest.get(tag + 1) != Some(&b'$') {
        return 1;
    }
    let (word, body) = rest.split_at(tag + 2);
    body.windows(word.len()).position(|window| window == word).map_or(rest.len(), |at| at + 2 * word.len())
}

/// Through the line `\.`.
fn copy_length(rest: &[u8]) -> usize {
    let mut at = line_length(rest);
    while at < rest.len() {
        let line = line_length(&rest[at..]);
        at += line;
        if rest[at - line..at].trim_ascii_end() == b"\\." {
            break;
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::super::archive_walker::walk;
    use super::super::pg;
    use super::super::process::succeed_with;
    use super::*;

    #[test]
    fn a_script_falls_into_its_statements() {
        let script = "\\restrict k\n-- c;\nSET x = 1;\nSELECT ';' , E'\\';', \";\"\"\" /* ; /* */ ; */ , $a$;$b$;$a$;\n\
                      COPY t (a) FROM stdin;\na;b\n\\\\.\n\\.\n\n\\unrestrict k\nCOPY e  FROM stdin;\n\\.\nCOMMENT ON x IS '\n\\! y\n--';\n";
        let found = statements(script);
        assert_eq!(
            found,
            [
                "SELECT ';' , E'\\';', \";\"\"\"  , $a$;$b$;$a$;",
                "COPY t (a) FROM stdin;\na;b\n\\\\.\n\\.\n",
                "COPY e  FROM stdin;\n\\.\n",
                "COMMENT ON x IS '\n\\! y\n--';",
            ]
        );
    }

    #[test]
    fn rows_through_a_root_compare_wherever_they_lie() {
        let left = "-- load via partition root p\nCOPY p FROM stdin;\n2\n\\.\n-- load via partition root p\nCOPY p FROM stdin;\n1\n\\.\n";
        let right = "-- load via partition root p\nCOPY p FROM stdin;\n1\n2\n\\.\n-- load via partition root p\nCOPY p FROM stdin;\n\\.\n";
        assert_eq!(comparable(left), comparable(right));
        assert_ne!(comparable(left), comparable(&left.replace("\n1\n", "\n3\n")));
    }

    #[test]
    fn the_awkward_database_survives_stock_pg_dump_and_pg_restore() {
        for version in pg::versions() {
            let cluster = Cluster::start(version);
            cluster.create_database("app");
            cluster.create_database("copy");
            cluster.psql_file("postgres", &pg::fixture("awkward_roles.sql"), &[]);
            cluster.psql_file("app", &pg::fixture("awkward.sql"), &[]);
            cluster.psql_file("app", &pg::fixture("volume.sql"), &[("rows", "1000"), ("tables", "20")]);
            let mut dump = cluster.command("pg_dump");
            let archive = succeed_with(dump.args(["-Fc", "-Z0", "-d", &cluster.url("app")]), b"").stdout;
            let walked = walk(archive.as_slice()).unwrap();
            assert_eq!(walked.rows_of("kinds", "zero_columns"), Some(5));
            assert_eq!(walked.rows_of("many", "large"), Some(1000));
            succeed_with(cluster.command("pg_restore").args(["-d", &cluster.url("copy")]), &archive);
            assert_same_database((&cluster, "app"), (&cluster, "copy"));
            assert!(!std::path::Path::new("/tmp/pwned").exists());
        }
    }
}
