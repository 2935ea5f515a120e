//! A drill of some tables: chooses them, and leaves out the definitions that cannot be made with the rows of some tables
//! alone.
//!
//! Tables are taken by units: partitions of a hash-partitioned table, whose rows may come in through the topmost one,
//! go together, and so do the tables of one extension, whose foreign keys exist before their rows. The units stand in
//! an order that depends on nothing but their names, and each drill of a sample takes the ones after those of the drill
//! before it, so that all come up in turn. The receipt of a drill holds the place where it ended; where the store has no such
//! receipt, the number of the day decides where to begin.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use libpgdump::{Entry, ObjectType};
use serde::{Deserialize, Serialize};

use crate::archive::catalogue::{namespace, tag, with_dependents};
use crate::archive::partitions::{ancestors, hash_roots, parents};
use crate::error::{Error, Result};
use crate::format::manifest::Manifest;
use crate::restore::source::LeaveOut;
use crate::runs::{receipts, select};
use crate::sql::names::TableName;
use crate::sql::statements::name;
use crate::store::Store;

/// Most receipts of drills that are read, the newest first; drills of other kinds may stand between two of a percentage.
const RECEIPTS: usize = 100;

/// The tables of a drill that was asked for some only; part of its receipt.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Sample {
    /// The words of the request.
    pub(crate) asked: Vec<String>,
    /// Tables with rows in the run.
    pub(crate) of: usize,
    /// Those that were restored and compared.
    pub(crate) tables: Vec<String>,
    /// Of a percentage: place of the last unit in the order, where the next drill goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<String>,
}

/// The part of a receipt that the next drill of a sample reads.
#[derive(Deserialize)]
struct Before {
    sample: Option<Ended>,
}

#[derive(Deserialize)]
struct Ended {
    until: Option<String>,
}

/// A unit and its place in the order.
type Unit = (u64, Vec<TableName>);

/// A request made with `--tables`.
enum Asked {
    /// Hundredths of the units.
    Percent(f64),
    /// Tables by name.
    Names(BTreeSet<TableName>),
}

/// Chooses the tables and leaves out the definitions that need the rows of others. Returns the sample, and notes on the
/// parts of the run that such a drill does not prove.
///
/// # Errors
/// Kind `Usage` for words that are neither one percentage nor tables of the run.
pub(crate) async fn choose(
    words: &[String],
    manifest: &Manifest,
    entries: &[Entry],
    store: &Store,
    out: &mut LeaveOut,
) -> Result<(Sample, Vec<String>)> {
    let asked = asked(words, manifest)?;
    let all = with_rows(manifest, out);
    let units = units(manifest, entries, &all);
    let (chosen, until): (Vec<Unit>, _) = match asked {
        Asked::Names(names) => {
            (units.into_iter().filter(|(_, unit)| unit.iter().any(|one| names.contains(one))).collect(), None)
        }
        Asked::Percent(percent) => {
            let chosen = turn(units, percent, &before(store).await?);
            let until = chosen.last().map(|(place, _)| format!("{place:016x}"));
            (chosen, until)
        }
    };
    let chosen: HashSet<TableName> = chosen.into_iter().flat_map(|(_, unit)| unit).collect();
    let left: HashSet<TableName> = all.iter().filter(|one| !chosen.contains(*one)).cloned().collect();
    let unchecked = leave_out_keys(entries, &chosen, &left, out);
    out.tables.extend(left);
    out.large_objects = true;
    let mut tables: Vec<String> = chosen.iter().map(TableName::to_string).collect();
    tables.sort();
    let mut notes = Vec::new();
    if !unchecked.is_empty() {
        let names: Vec<&str> = unchecked.iter().map(String::as_str).collect();
        notes.push(format!(
            "foreign keys that refer to tables outside of the sample were not made: {}",
            names.join(", ")
        ));
    }
    notes.push("large objects and the rows of materialized views are no part of a sample".to_owned());
    Ok((Sample { asked: words.to_vec(), of: all.len(), tables, until }, notes))
}

fn asked(words: &[String], manifest: &Manifest) -> Result<Asked> {
    if let [word] = words
        && let Some(number) = word.strip_suffix('%')
    {
        return match number.trim().parse() {
            Ok(percent) if percent > 0.0 && percent <= 100.0 => Ok(Asked::Percent(percent)),
            _ => Err(Error::usage(format!("--tables {word}: not a percentage above 0 and up to 100"))),
        };
    }
    let mut names = BTreeSet::new();
    for word in words {
        let (schema, number) = select::table(manifest, word)
            .map_err(|error| error.hint("--tables takes one percentage (10%), or tables as schema.table"))?;
        let found =
            manifest.schemas.get(schema).and_then(|s| Some(TableName::new(&s.name, &s.tables.get(number)?.name)));
        names.extend(found);
    }
    Ok(Asked::Names(names))
}

/// Tables whose rows could be restored.
fn with_rows(manifest: &Manifest, out: &LeaveOut) -> BTreeSet<TableName> {
    let all = manifest.schemas.iter().flat_map(|schema| schema.tables.iter().map(move |table| (schema, table)));
    all.filter(|(schema, table)| table.rows > 0 && manifest.has_rows_of(&schema.name, table))
        .map(|(schema, table)| TableName::new(&schema.name, &table.name))
        .filter(|one| !out.tables.contains(one))
        .collect()
}

/// Tables that can only be taken together, each unit by itself in order; the units in an order of their own.
fn units(manifest: &Manifest, entries: &[Entry], all: &BTreeSet<TableName>) -> Vec<Unit> {
    let hashed = hash_roots(entries);
    let extensions: HashMap<TableName, &str> = manifest
        .schemas
        .iter()
        .flat_map(|s| s.tables.iter().map(move |t| (s, t)))
        .filter_map(|(s, t)| Some((TableName::new(&s.name, &t.name), t.extension.as_deref()?)))
        .collect();
    let mut units: BTreeMap<String, Vec<TableName>> = BTreeMap::new();
    for one in all {
        let of = match (extensions.get(one), hashed.get(one)) {
            (Some(extension), _) => format!("extension {extension}"),
            (None, Some(root)) => format!("table {root}"),
            (None, None) => format!("table {one}"),
        };
        units.entry(of).or_default().push(one.clone());
    }
    let mut units: Vec<Unit> =
        units.into_iter().map(|(of, unit)| (xxhash_rust::xxh3::xxh3_64(of.as_bytes()), unit)).collect();
    units.sort();
    units
}

/// The place where a drill of a sample begins.
enum Begin {
    /// Behind the unit at this place of the order.
    After(u64),
    /// As if there had been this many drills.
    Drills(u64),
}

/// The units of the next drill, in their order.
fn turn(units: Vec<Unit>, percent: f64, begin: &Begin) -> Vec<Unit> {
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a number of tables, of which a hundredth part is rounded up"
    )]
    let size = (units.len() as f64 * percent / 100.0).ceil() as usize;
    let length = units.len().max(1) as u64;
    let begin = match begin {
        Begin::After(place) => units.partition_point(|(own, _)| own <= place),
        Begin::Drills(number) => usize::try_from(number % length * size as u64 % length).unwrap_or(0),
    };
    let mut ring = units;
    let turned = begin.min(ring.len());
    ring.rotate_left(turned);
    ring.truncate(size);
    ring
}

/// The place where the newest drill of a percentage ended. Receipts of pruned runs are gone, so their number says nothing.
async fn before(store: &Store) -> Result<Begin> {
    for found in receipts::all(store).await?.into_iter().filter(receipts::Found::is_of_drill).take(RECEIPTS) {
        let Some(bytes) = store.get(&found.key).await? else { continue };
        let until = serde_json::from_slice::<Before>(&bytes).ok().and_then(|before| before.sample?.until);
        if let Some(place) = until.and_then(|until| u64::from_str_radix(&until, 16).ok()) {
            return Ok(Begin::After(place));
        }
    }
    Ok(Begin::Drills(u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or(0) / 86_400))
}

/// Leaves out foreign keys from tables with rows here to tables without them, materialized views' rows, and what depends
/// on them. Returns the keys' names.
fn leave_out_keys(
    entries: &[Entry],
    chosen: &HashSet<TableName>,
    left: &HashSet<TableName>,
    out: &mut LeaveOut,
) -> BTreeSet<String> {
    let parents = parents(entries);
    // A partitioned table has the rows of its partitions.
    let with_ancestors = |names: &HashSet<TableName>| {
        let of = |one: &TableName| ancestors(one, &parents).cloned().collect::<Vec<_>>();
        names.iter().flat_map(|one| of(one).into_iter().chain([one.clone()])).collect::<HashSet<TableName>>()
    };
    let (here, elsewhere) = (with_ancestors(chosen), with_ancestors(left));
    let mut keys = BTreeSet::new();
    let mut gone = HashSet::new();
    for entry in entries {
        match entry.desc {
            ObjectType::MaterializedViewData => {
                gone.insert(entry.dump_id);
            }
            ObjectType::FkConstraint => {
                let (from, to) = ends(entry.defn.as_deref().unwrap_or_default());
                let empty = from.is_some_and(|from| !here.contains(&from));
                let held = to.is_some_and(|to| !elsewhere.contains(&to));
                if !empty && !held {
                    gone.insert(entry.dump_id);
                    keys.insert(format!("{}.{}", namespace(entry), tag(entry)));
                }
            }
            _ => {}
        }
    }
    with_dependents(entries, &mut gone);
    out.entries.extend(gone);
    keys
}

/// The tables at both ends of a foreign key, from `ALTER TABLE [ONLY] a.b ADD CONSTRAINT c FOREIGN KEY ... REFERENCES d.e(...)`.
fn ends(definition: &str) -> (Option<TableName>, Option<TableName>) {
    let qualified = |text: &str| {
        let (schema, rest) = name(text)?;
        let (table, _) = name(rest.strip_prefix('.')?)?;
        Some(TableName::new(schema, table))
    };
    let own = definition.strip_prefix("ALTER TABLE ").map(|rest| rest.strip_prefix("ONLY ").unwrap_or(rest));
    let other = definition.rfind(" REFERENCES ").and_then(|at| definition.get(at + " REFERENCES ".len()..));
    (own.and_then(qualified), other.and_then(qualified))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn units(count: u64) -> Vec<Unit> {
        (0..count).map(|at| (at * 1000, vec![TableName::new("s", format!("t{at}"))])).collect()
    }

    #[test]
    fn drills_one_after_the_other_take_every_table() {
        for (count, percent) in [(1, 1_u8), (7, 10), (70, 10), (30, 33), (9, 100)] {
            let (times, percent) = (100_u8.div_ceil(percent), f64::from(percent));
            for mut begin in [Begin::Drills(0), Begin::Drills(20_779), Begin::After(0), Begin::After(u64::MAX)] {
                let mut seen = HashSet::new();
                for _ in 0..times {
                    let chosen = turn(units(count), percent, &begin);
                    begin = Begin::After(chosen.last().unwrap().0);
                    seen.extend(chosen.into_iter().map(|(place, _)| place));
                }
                assert_eq!(seen.len() as u64, count, "{count} tables, {percent} %");
            }
        }
        assert!(turn(Vec::new(), 10.0, &Begin::After(3)).is_empty());
    }

    #[test]
    fn tables_that_come_and_go_do_not_disturb_the_turn() {
        let first = turn(units(10), 20.0, &Begin::After(u64::MAX));
        let mut later = units(10);
        later.remove(1);
        later.insert(0, (5, vec![TableName::new("s", "new")]));
        let places: Vec<u64> =
            turn(later, 20.0, &Begin::After(first.last().unwrap().0)).into_iter().map(|(place, _)| place).collect();
        assert_eq!(places, [2000, 3000]);
    }

    #[test]
    fn both_ends_of_a_foreign_key_are_found() {
        let named = |schema: &str, table: &str| Some(TableName::new(schema, table));
        let defn = "ALTER TABLE ONLY a.\"b c\"\n    ADD CONSTRAINT \"x REFERENCES y\" FOREIGN KEY (id) REFERENCES \"D\".e(id) ON DELETE CASCADE;\n";
        assert_eq!(ends(defn), (named("a", "b c"), named("D", "e")));
        assert_eq!(ends("something else"), (None, None));
    }
}
