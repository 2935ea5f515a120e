//! Tests that everything a run is read from may hold any bytes: the readers answer with a value or an error, never with
//! a panic, and need no memory beyond what the bytes themselves justify. Inputs are what pgstow and pg_dump write,
//! damaged at random, and noise. What is tried lies in the rooms below; this one only holds the inputs together.

use std::io::Read;

use proptest::prelude::*;

use crate::archive::reader::Visitor;
use crate::archive::sql_reader::SqlReader;
use crate::archive::{head, partitions, reader};
use crate::cli::args;
use crate::error::Result;
use crate::format::manifest::{Index, Manifest};
use crate::postgres::connect::conninfo::ConnInfo;
use crate::runs::{diff, find, pointer};
use crate::sql::statements;
use crate::store::Store;

/// `pg_dump -Fc -Z0` of a table of 20 rows, a view and two large objects.
const ARCHIVE: &[u8] = include_bytes!("../tests/fixtures/small.dump");
/// The manifest of a run of that database.
const MANIFEST: &[u8] = include_bytes!("../tests/fixtures/small-manifest.json");

const LATEST: &[u8] = br#"{"run": "20261122T150405Z-1a2b3c", "manifest": "runs/20261122T150405Z-1a2b3c/manifest.json",
    "sha256": "00", "finished_at": "2026-11-22T15:04:06Z", "identity": "1/2"}"#;
const INDEX: &[u8] = br#"{"format": "pgstow/1", "schema": "s", "table": "t", "copy": "COPY s.t (a) FROM stdin;",
    "pieces": [{"offset": 0, "bytes": 5, "rows": 1, "sha256": "00"}]}"#;
const SQL: &[u8] = b"SET a = 'b';\nCREATE TABLE \"s\".\"t\" (a text DEFAULT E'\\'', b int /* c */);\n\
    COPY \"s\".\"t\" (a, \"b\"\"\") FROM stdin;\n1\tx\n\\N\t\\\\.\n\\.\nALTER TABLE x ADD CHECK ($$a$$ <> $x$b$x$);\n-- pgstow: end of s.t\n";

/// One change of bytes: at a place, of a kind, with a number.
type Damage = (prop::sample::Index, u8, u32);

fn damages() -> impl Strategy<Value = Vec<Damage>> {
    prop::collection::vec((any::<prop::sample::Index>(), 0_u8..6, any::<u32>()), 0..6)
}

fn damaged(bytes: &[u8], damages: &[Damage]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for (place, kind, number) in damages {
        if bytes.is_empty() {
            break;
        }
        let at = place.index(bytes.len());
        let end = (at + 4).min(bytes.len());
        match kind {
            0 => bytes[at] ^= 1 << (number % 8),
            1 => bytes[at] = number.to_le_bytes()[0],
            2 => bytes.truncate(at),
            3 => drop(bytes.splice(at..end, number.to_le_bytes())),
            // The largest numbers of four bytes, and longer words of digits where text is read.
            4 => drop(bytes.splice(at..end, [0xff, 0xff, 0xff, 0x7f])),
            _ => drop(bytes.splice(at..at, *b"18446744073709551615")),
        }
    }
    bytes
}

/// Takes everything and counts it.
#[derive(Default)]
struct Ignoring {
    bytes: usize,
}

impl Visitor for Ignoring {
    fn begin(&mut self, _: &libpgdump::Entry) -> Result<()> {
        Ok(())
    }
    fn large_object(&mut self, _: u32) -> Result<()> {
        Ok(())
    }
    fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.bytes += bytes.len();
        Ok(())
    }
    fn large_object_end(&mut self) -> Result<()> {
        Ok(())
    }
    fn end(&mut self, _: &libpgdump::Entry) -> Result<()> {
        Ok(())
    }
}

fn read_archive(bytes: &[u8]) -> Result<usize> {
    let mut visitor = Ignoring::default();
    let metadata = reader::read(bytes, &mut visitor)?;
    assert!(visitor.bytes <= bytes.len());
    drop(partitions::parents(&metadata.entries));
    drop(partitions::hash_roots(&metadata.entries));
    for entry in &metadata.entries {
        read_script(entry.defn.as_deref().unwrap_or_default());
        read_script(entry.copy_stmt.as_deref().unwrap_or_default());
    }
    Ok(metadata.entries.len())
}

fn read_script(text: &str) {
    for statement in statements::statements(text) {
        drop(statements::name(statement));
        drop(statements::copy_columns(statement).map(statements::names));
    }
}

fn read_sql(bytes: &[u8], pieces: usize) -> Result<u64> {
    let mut reader = SqlReader::default();
    for piece in bytes.chunks(pieces) {
        reader.feed(piece)?;
    }
    Ok(reader.finish()?.rows.rows)
}

/// A store for messages; nothing is ever put there.
fn store() -> Store {
    #[derive(clap::Parser)]
    struct Words {
        #[command(flatten)]
        store: args::StoreArgs,
    }
    let words = <Words as clap::Parser>::parse_from(["words", "--store", "/nonexistent/pgstow"]);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(Store::open(&words.store)).unwrap()
}

#[test]
fn what_is_not_damaged_is_read() {
    assert!(read_archive(ARCHIVE).unwrap() > 5);
    assert_eq!(read_sql(SQL, 7).unwrap(), 2);
    assert_eq!(find::parse(MANIFEST).unwrap().schemas.len(), 1);
    assert_eq!(serde_json::from_slice::<Index>(INDEX).unwrap().pieces.len(), 1);
}

/// A head that promises two thousand million entries, or a word of two thousand million bytes.
#[test]
fn an_archive_gets_no_memory_for_promises() {
    // Magic, versions and sizes, format and compression are 12 bytes in 1.14 and 11 + 5; then seven integers.
    let words = ARCHIVE.windows(12).position(|bytes| bytes == b"hostile\0\x07\0\0\0");
    for at in (0..ARCHIVE.len().min(400)).filter(|at| ARCHIVE[*at] == 0 && words.is_none_or(|words| *at != words)) {
        let mut bytes = ARCHIVE.to_vec();
        bytes.splice(at..(at + 5).min(bytes.len()), [0, 0xff, 0xff, 0xff, 0x7f]);
        drop(head::read(&mut bytes.as_slice()));
        drop(head::read(&mut bytes.chain(std::io::repeat(0)).take(1 << 16)));
    }
    for size in 0..=255 {
        let mut bytes = ARCHIVE.to_vec();
        bytes[8] = size;
        assert_eq!(head::read(&mut bytes.as_slice()).is_ok(), size == 4, "integers of {size} bytes");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_archive_is_read_or_refused(damages in damages(), noise in prop::collection::vec(any::<u8>(), 0..200)) {
        drop(read_archive(&damaged(ARCHIVE, &damages)));
        drop(read_archive(&noise));
        drop(read_archive(&[b"PGDMP\x01\x0e\0\x04\x08\x01".as_slice(), noise.as_slice()].concat()));
    }

    #[test]
    fn any_sql_file_is_read_the_same_in_any_pieces(damages in damages(), noise in "[-'\"$\\\\/*;a.\nCOPY ]{0,60}", pieces in 1_usize..9) {
        let bytes = [damaged(SQL, &damages).as_slice(), noise.as_bytes()].concat();
        let (one, other) = (read_sql(&bytes, pieces), read_sql(&bytes, bytes.len().max(1)));
        prop_assert_eq!(one.map_err(|error| error.to_string()), other.map_err(|error| error.to_string()));
        read_script(&String::from_utf8_lossy(&bytes));
        read_script(&noise);
    }

    #[test]
    fn any_manifest_and_index_is_read_or_refused(damages in damages(), noise in prop::collection::vec(any::<u8>(), 0..100)) {
        let whole: Manifest = find::parse(MANIFEST).unwrap();
        if let Ok(read) = find::parse(&damaged(MANIFEST, &damages)) {
            drop(serde_json::to_string(&diff::compare(&whole, &read)));
            drop(serde_json::to_string(&diff::compare(&read, &whole)));
        }
        drop(find::parse(&noise));
        drop(find::parse("[".repeat(noise.len() * 100).as_bytes()));
        drop(serde_json::from_slice::<Index>(&damaged(INDEX, &damages)));
    }

    #[test]
    fn any_pointer_is_read_or_refused(damages in damages(), noise in prop::collection::vec(any::<u8>(), 0..100)) {
        let store = store();
        drop(pointer::parse(&store, &damaged(LATEST, &damages)));
        drop(pointer::parse(&store, &noise));
        drop(pointer::parse(&store, br#"{"run": 5}"#));
    }

    #[test]
    fn any_connection_string_is_read_or_refused(
        url in "(postgres|postgresql)://[a-z%@:/?#\\[\\],=&0-9é ]{0,40}",
        words in "([a-z]{1,8} ?= ?('[^']{0,5}'?|[a-z\\\\0-9]{0,5}) ?){0,5}",
        noise in "\\PC{0,40}",
    ) {
        for text in [&url, &words, &noise] {
            if let Ok(info) = ConnInfo::resolve(Some(text)) {
                drop((info.each_host(), info.child_env(), info.host().len(), info.port(), info.database().len()));
            }
        }
    }

    #[test]
    fn any_size_and_duration_is_read_or_refused(
        near in "[0-9]{0,25}[.,]?[0-9]{0,25} ?[kKMGTPEiBbsmhdwy]{0,4}",
        noise in "\\PC{0,20}",
    ) {
        for text in [&near, &noise] {
            drop(args::size(text));
            drop(args::duration(text));
        }
    }
}
