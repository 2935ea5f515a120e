//! The layout of a store: the keys of a run's objects below the store's prefix. Owns names, not bytes.
//!
//! A byte of a name outside `[A-Za-z0-9_-]` and inner dots becomes `=XX` (upper-case hex). So `@` never begins a
//! schema's name, no key has `.` or `..` as a segment, and every store accepts the keys: Supabase Storage refuses
//! `%` and everything outside ASCII.

use std::fmt::Write as _;

use crate::seal::hash;

/// Name of the pointer to the newest complete run, below the prefix.
pub const LATEST: &str = "latest.json";
/// Name of the page of all runs, below the prefix; `report --upload` writes it.
pub const REPORT: &str = "report.html";
/// Name of the manifest below a run; written last.
pub const MANIFEST: &str = "manifest.json";
/// Name of the manifest's signature below a run; written just before the manifest.
pub const SIGNATURE: &str = "manifest.json.minisig";
/// Name of the restore instructions below a run.
pub const RESTORE_MD: &str = "RESTORE.md";
/// Stem of the roles script below a run.
pub const ROLES: &str = "@roles.sql";
/// Stem of the archive of the whole database's DDL and sequence values.
pub const DATABASE: &str = "@database.dump";
/// Stem of the archive of the large objects.
pub const LARGE_OBJECTS: &str = "@large-objects.dump";

/// Name of the list of an export's files; written last. An export is no part of a store.
pub const EXPORT: &str = "export.json";
/// What the name of an exported table ends in.
pub const PARQUET: &str = ".parquet";

/// Folder of the runs, below the prefix.
pub const RUNS: &str = "runs/";

/// Folder of the pins, below the prefix.
pub const PINS: &str = "pins/";

/// Folder of what `verify` and `drill` found out about runs, below the prefix.
pub const RECEIPTS: &str = "receipts/";

/// Folder of the claims of processes that are about to move the pointer, below the prefix; empty but for moments.
pub const CLAIMS: &str = "claims/";

/// A PostgreSQL name as one segment of a key.
///
/// ASCII letters, digits, `_` and `-` stay; a dot stays unless it is the first or last byte; every other byte of the
/// UTF-8 form becomes `=XX`. The mapping is one to one.
#[must_use]
pub fn segment(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    let last = name.len().saturating_sub(1);
    for (at, byte) in name.bytes().enumerate() {
        let plain =
            byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-') || (byte == b'.' && at != 0 && at != last);
        if plain {
            out.push(char::from(byte));
        } else {
            let written = write!(out, "={byte:02X}");
            debug_assert!(written.is_ok(), "writing to a String does not fail");
        }
    }
    out
}

/// Longest segment that is written as it is: with what is added to it (`.sql.zst.age.001`, the name of a temporary
/// file) it must fit the 255 bytes of a file's name.
const LONGEST: usize = 180;

/// A name as the beginning of a file's name: as [`segment`], but a long one is cut and ends in its hash, behind `=00`,
/// which is in no PostgreSQL name.
fn stem(name: &str) -> String {
    let whole = segment(name);
    if whole.len() <= LONGEST {
        return whole;
    }
    // Never inside of an `=XX`.
    let end = (LONGEST - 2..=LONGEST).rev().find(|end| {
        let tail = whole.get(end - 2..*end).unwrap_or_default();
        !tail.contains('=')
    });
    let head = whole.get(..end.unwrap_or(LONGEST - 2)).unwrap_or_default();
    format!("{head}=00{}", hash::sha256(name.as_bytes()).get(..32).unwrap_or_default())
}

/// The folder of a schema's tables. A name that reads like a file of the run itself (`manifest.json`, `x.dump.zst`)
/// gets its dots escaped, so that no file and folder have one name.
fn folder(schema: &str) -> String {
    let stem = stem(schema);
    let lower = stem.to_ascii_lowercase();
    let is_file = [MANIFEST, &RESTORE_MD.to_ascii_lowercase()].iter().any(|own| lower.starts_with(*own));
    if is_file || lower.contains(".dump") { stem.replace('.', "=2E") } else { stem }
}

/// `runs/<run>/`, below the store's prefix.
#[must_use]
pub fn run_prefix(run: &str) -> String {
    format!("runs/{run}/")
}

/// `runs/<run>/<key>`, below the store's prefix.
#[must_use]
pub fn in_run(run: &str, key: &str) -> String {
    format!("runs/{run}/{key}")
}

/// True for a key of an object of a run: written once, kept as long as the run. All other keys are moved or removed.
#[must_use]
pub fn is_of_a_run(key: &str) -> bool {
    key.starts_with("runs/")
}

/// True for a key, relative to the run, of the form that objects of runs have. The rest of a name (`.zst`, `.age`,
/// `.001`) may be that of an older or newer version.
#[must_use]
pub fn is_object(key: &str) -> bool {
    let plain = |name: &str| {
        let bytes = name.as_bytes();
        !name.is_empty()
            && bytes.iter().enumerate().all(|(at, byte)| match byte {
                b'=' => {
                    let digits = bytes.get(at + 1..at + 3).unwrap_or_default();
                    digits.len() == 2 && digits.iter().all(|d| d.is_ascii_digit() || (b'A'..=b'F').contains(d))
                }
                _ => byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'),
            })
    };
    // Somewhere behind the name stands what the object is.
    let has = |name: &str, kind: &str| {
        name.match_indices(kind).any(|(at, _)| {
            let rest = name.get(at + kind.len()..).unwrap_or_default();
            at > 0 && (rest.is_empty() || rest.starts_with('.'))
        })
    };
    match key.split_once('/') {
        None if key == MANIFEST || key == SIGNATURE || key == RESTORE_MD => true,
        None => match key.strip_prefix('@') {
            Some(rest) => plain(rest) && (has(rest, ".dump") || has(rest, ".sql")),
            None => plain(key) && !key.starts_with('.') && has(key, ".dump"),
        },
        Some((schema, table)) => {
            plain(schema)
                && plain(table)
                && !schema.starts_with('.')
                && !table.starts_with('.')
                && (has(table, ".sql") || has(table, ".index"))
        }
    }
}

/// Stem of a schema's archive, relative to the run: `<schema>.dump`.
#[must_use]
pub fn schema_dump(schema: &str) -> String {
    format!("{}.dump", stem(schema))
}

/// Stem of a table's SQL file, relative to the run: `<schema>/<table>.sql`.
#[must_use]
pub fn table_sql(schema: &str, table: &str) -> String {
    format!("{}/{}.sql", folder(schema), stem(table))
}

/// Key of a large table's index of pieces, relative to the run: `<schema>/<table>.index`. Never compressed.
#[must_use]
pub fn table_index(schema: &str, table: &str) -> String {
    format!("{}/{}.index", folder(schema), stem(table))
}

/// Name of a table's file in an export: `<schema>/<table>.parquet`.
#[must_use]
pub fn table_parquet(schema: &str, table: &str) -> String {
    let folder = folder(schema);
    let folder = if folder.eq_ignore_ascii_case(EXPORT) { folder.replace('.', "=2E") } else { folder };
    format!("{folder}/{}{PARQUET}", stem(table))
}

/// True for a run's name as pgstow makes them: `20261122T150405Z-1a2b3c`.
#[must_use]
pub fn is_run(name: &str) -> bool {
    let bytes = name.as_bytes();
    bytes.len() == 23
        && bytes.iter().enumerate().all(|(at, byte)| match at {
            8 => *byte == b'T',
            15 => *byte == b'Z',
            16 => *byte == b'-',
            0..=14 => byte.is_ascii_digit(),
            _ => byte.is_ascii_digit() || (b'a'..=b'f').contains(byte),
        })
}

/// Moment (UTC) that a run's name begins with; `None` where the name is none or its digits are no moment.
#[must_use]
pub fn started(run: &str) -> Option<jiff::Timestamp> {
    let stamp = run.get(..16).filter(|_| is_run(run))?;
    let at = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", stamp).ok()?;
    at.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|at| at.timestamp())
}

/// `pins/<run>`, below the store's prefix.
#[must_use]
pub fn pin(run: &str) -> String {
    format!("pins/{run}")
}

/// `receipts/<run>/`, below the store's prefix.
#[must_use]
pub fn receipts(run: &str) -> String {
    format!("{RECEIPTS}{run}/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_of_runs_are_told_from_what_others_put_there() {
        for own in [
            "manifest.json",
            "manifest.json.minisig",
            "RESTORE.md",
            "@roles.sql.zst",
            "@database.dump",
            "@large-objects.dump.gz.age.001",
            "public.dump.zst",
            "a.b=20c.dump.age",
            "s/t.sql.zst.age.012",
            "=2E/x.index.age",
        ] {
            assert!(is_object(own), "{own}");
        }
        for foreign in [
            "a.txt",
            "hello world.txt",
            "my=notes.dump",
            ".hidden",
            ".dump",
            "\u{e9}.dump",
            "UP~",
            "s/t/u.sql",
            "s/t.txt",
            "notes.sql",
            "x.dumps",
            "",
            "s/.sql",
        ] {
            assert!(!is_object(foreign), "{foreign}");
        }
    }

    #[test]
    fn names_become_segments_every_store_accepts() {
        assert_eq!(segment("users"), "users");
        assert_eq!(segment("a.b"), "a.b");
        assert_eq!(segment("."), "=2E");
        assert_eq!(segment(".."), "=2E=2E");
        assert_eq!(segment("a/b c=%"), "a=2Fb=20c=3D=25");
        assert_eq!(segment("@x"), "=40x");
        assert_eq!(segment("é"), "=C3=A9");
        assert_eq!(segment("x."), "x=2E");
    }

    #[test]
    fn run_names_are_recognised() {
        assert!(is_run("20261122T150405Z-1a2b3c"));
        assert!(!is_run("20261122T150405Z-1a2b3g"));
        assert!(!is_run("latest"));
    }

    #[test]
    fn a_run_s_name_tells_its_start() {
        assert_eq!(started("20261122T150405Z-1a2b3c"), "2026-11-22T15:04:05Z".parse().ok());
        assert_eq!(started("20261322T150405Z-1a2b3c"), None);
        assert_eq!(started("20261122T150405Z"), None);
    }
}
