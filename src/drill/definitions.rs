//! The definitions of the scratch database, compared with the run's own.
//!
//! PostgreSQL prints some expressions in other words once they were restored: `s IN ('a', 'b')` of a `varchar` is the
//! best known. So where the texts differ, `pg_restore` alone makes the definitions of the same archive, in a database
//! made anew, and what that prints is compared.

use std::collections::HashSet;

use libpgdump::{Entry, ObjectType};

use crate::archive::{compose, head};
use crate::drill::receipt::Observations;
use crate::drill::scratch::Scratch;
use crate::error::Result;
use crate::postgres::programs::pg_restore;
use crate::postgres::programs::pg_restore::PgRestore;
use crate::postgres::programs::tools::PgTools;
use crate::restore::private_file::PrivateFile;
use crate::restore::source::{LeaveOut, Loaded, major};

/// Most lines of a difference that are reported.
const LINES: usize = 20;

/// Compares the definitions with the run's own.
pub(crate) async fn compare(
    tools: PgTools,
    loaded: &Loaded,
    leave_out: &LeaveOut,
    scratch: &Scratch,
) -> Result<Observations> {
    let mut found = Observations::default();
    let server = scratch.server_version_num();
    let saved = major(&loaded.run.manifest.source.server_version);
    if server / 10_000 != saved || tools.major != major(&loaded.run.manifest.source.pg_dump_version) {
        found.notes.push(format!(
            "definitions were not compared: saved from PostgreSQL {saved}, restored into {} with programs of {}",
            server / 10_000,
            tools.major
        ));
        return Ok(found);
    }
    // Entries of our own for what `pg_dump` leaves out: it will leave them out again.
    // A refresh is no definition.
    let own = |e: &Entry| {
        e.desc == ObjectType::MaterializedViewData
            || e.defn.as_deref().is_some_and(|defn| defn.starts_with("DO $pgstow"))
    };
    let kept = loaded.meta.entries.iter().filter(|e| !own(e) && !leave_out.entries.contains(&e.dump_id));
    let encoding =
        head::letters(&loaded.meta.entries).map_or_else(|| "UTF8".to_owned(), |own| own.encoding().to_owned());
    let archive = PrivateFile::new(&compose::head(&loaded.meta, kept.cloned().collect())?)?;
    let (saved, restored) = tokio::try_join!(
        pg_restore::definitions_of_archive(&tools, &archive.path),
        pg_restore::definitions_of_database(&tools, scratch.info(), &encoding)
    )?;
    if differences(&saved, &restored, DIFFER).is_empty() {
        return Ok(found);
    }
    scratch.anew(&loaded.meta.entries).await?;
    match by_pg_restore(tools, &archive, scratch, &encoding).await.map(|stock| differences(&stock, &restored, DIFFER)) {
        Ok(left) if left.is_empty() => {
            found.notes.push("definitions: PostgreSQL prints some in other words once they were restored".to_owned());
            found.notes.extend(differences(&saved, &restored, REWORDED));
        }
        Ok(left) => found.differences.extend(left),
        Err(error) => {
            found.notes.push(format!("definitions: pg_restore alone could not make them: {error}"));
            found.differences.extend(differences(&saved, &restored, DIFFER));
        }
    }
    Ok(found)
}

/// The definitions as the database prints them after `pg_restore` alone has made them.
async fn by_pg_restore(tools: PgTools, archive: &PrivateFile, scratch: &Scratch, encoding: &str) -> Result<String> {
    let info = scratch.info().clone();
    let stock = PgRestore { tools, info, server_version_num: scratch.server_version_num(), no_event_triggers: false };
    for section in ["--section=pre-data", "--section=post-data"] {
        stock.file("restore definitions by pg_restore alone", &[section], &archive.path).await?;
    }
    pg_restore::definitions_of_database(&stock.tools, scratch.info(), encoding).await
}

/// The words before lines of definitions that differ: those of the saved text, and those of the restored one.
const DIFFER: [&str; 2] = ["definition saved, not restored", "definition restored, not saved"];
const REWORDED: [&str; 2] = ["  saved as", "  printed after any restore as"];

/// Lines of one text of definitions that the other does not contain, each behind these words; the first few.
fn differences(saved: &str, restored: &str, words: [&str; 2]) -> Vec<String> {
    let (saved, restored) = (comparable(saved), comparable(restored));
    if saved == restored {
        return Vec::new();
    }
    let (one, other): (HashSet<&str>, HashSet<&str>) =
        (saved.iter().copied().collect(), restored.iter().copied().collect());
    let [before, after] = words;
    let lost = saved.iter().filter(|line| !other.contains(*line)).map(|line| format!("{before}: {}", line.trim()));
    let new = restored.iter().filter(|line| !one.contains(*line)).map(|line| format!("{after}: {}", line.trim()));
    let mut lines: Vec<String> = lost.chain(new).take(LINES).collect();
    if lines.is_empty() {
        lines.push("definitions are in another order".to_owned());
    }
    lines
}

/// The lines without what differs by design: keys of `\restrict`, versions in the head.
fn comparable(text: &str) -> Vec<&str> {
    // The encoding is that of the text, which is UTF8 for every database but those in SQL_ASCII.
    let by_design =
        ["\\restrict ", "\\unrestrict ", "-- Dumped ", "-- Started on ", "-- Completed on ", "SET client_encoding = "];
    text.lines().filter(|line| !line.is_empty() && !by_design.iter().any(|words| line.starts_with(words))).collect()
}
