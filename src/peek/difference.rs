//! The rows that differ between the same table of two runs, without a database and with bounded memory.
//!
//! Both tables are read once, and what each row is goes into one of a million sums by the key of the row. Where both sums are
//! the same the rows are; the others are read again, so many at a time as fit into the memory that is given. Few
//! differences in a large table cost two reads and some megabytes; nothing is written to a disk.
//!
//! Rows are the same when they are written alike, column by column under the names that both runs have.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};

use crate::archive::columns;
use crate::archive::copy_text::Value;
use crate::error::{Error, Result};
use crate::format::manifest::{Manifest, TableKind};
use crate::objects::lines::{self, Chosen, Lines};
use crate::objects::stored_run::StoredRun;
use crate::runs::{find, holders, select};
use crate::seal::keys::Keys;
use crate::sql::names::TableName;
use crate::store::Store;

/// Sums of each side: 24 MiB of each.
const SUMS: usize = 1 << 20;

/// Most times that both tables are read for their differing rows.
const READS: u64 = 32;

/// A request for the difference.
pub(crate) struct Options {
    pub(crate) a: String,
    pub(crate) b: String,
    /// The table, as `schema.table`.
    pub(crate) table: String,
    /// The columns by which rows are told apart; empty for the primary key.
    pub(crate) key: Vec<String>,
    /// Bytes of rows that are held at once.
    pub(crate) memory: u64,
    pub(crate) keys: Keys,
}

/// One row that is not the same in both.
#[derive(Debug)]
pub(crate) enum Change {
    Added(Vec<Value>),
    Removed(Vec<Value>),
    Changed(Vec<Value>, Vec<Value>),
}

/// What was counted.
#[derive(Debug, Default, Clone)]
pub(crate) struct Counts {
    pub(crate) added: u64,
    pub(crate) removed: u64,
    pub(crate) changed: u64,
    pub(crate) same: u64,
}

/// Two tables that are compared.
pub(crate) struct Difference {
    pub(crate) a: String,
    pub(crate) b: String,
    pub(crate) table: TableName,
    /// Names and types of the columns that both have.
    pub(crate) columns: Vec<(String, Option<String>)>,
    /// The places of the key's columns.
    pub(crate) key: Vec<usize>,
    /// Columns that one of both runs has only.
    pub(crate) only: Vec<String>,
    sides: [Side; 2],
    memory: u64,
    hasher: [RandomState; 2],
}

/// A table of a run.
struct Side {
    run: StoredRun,
    at: (usize, usize),
    entries: Vec<libpgdump::Entry>,
    digest: (u64, String),
    columns: Vec<String>,
}

/// The sum of the rows of one slot: it does not matter in which order they come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sum(u64, u64, u64);

impl Side {
    async fn new(store: &Store, run: &str, options: &Options) -> Result<(Self, columns::Definition)> {
        let found = find::trusted(store, run, &options.keys.trust).await?;
        let run = StoredRun::new(store.clone(), found.manifest, &options.keys.identities)?;
        let manifest = std::sync::Arc::clone(&run.manifest);
        let at = select::table(&manifest, &options.table)?;
        let table = table(&manifest, at)?;
        let digest = (table.rows, table.digest.clone());
        let entries = run.table_of_contents(&manifest.database.object).await?.entries;
        let holders = holders::of(&manifest, at, &entries)?;
        let (columns, mut definition) = match holders.first() {
            Some((_, first)) => {
                let before = lines::before(&run, &first.file).await?;
                (lines::columns(&before.copy).unwrap_or_default(), columns::definition(&before.before))
            }
            None => (Vec::new(), columns::Definition::default()),
        };
        columns::complete(&mut definition, &entries);
        Ok((Self { run, at, entries, digest, columns }, definition))
    }

    async fn lines(&self) -> Result<Lines> {
        let holders = holders::of(&self.run.manifest, self.at, &self.entries)?;
        Ok(Lines::new(&self.run, Chosen::new(&self.run, holders, &[]).await?))
    }

    /// The columns of the table's primary key.
    fn primary_key(&self, name: &TableName) -> Vec<String> {
        let mut keys = self.entries.iter().filter(|entry| entry.desc == libpgdump::ObjectType::Constraint);
        keys.find_map(|entry| columns::primary_key(entry.defn.as_deref().unwrap_or_default(), name)).unwrap_or_default()
    }
}

fn table(manifest: &Manifest, at: (usize, usize)) -> Result<&crate::format::manifest::Table> {
    let table = manifest.schemas.get(at.0).and_then(|schema| schema.tables.get(at.1));
    table.ok_or_else(|| Error::failed("a table of the manifest is missing"))
}

impl Difference {
    /// Finds both tables and their key.
    ///
    /// # Errors
    /// Kind `Usage` for a run, table or column that is not there.
    pub(crate) async fn open(store: &Store, options: &Options) -> Result<Self> {
        let (a, definition) = Side::new(store, &options.a, options).await?;
        let (b, _) = Side::new(store, &options.b, options).await?;
        let schema = b.run.manifest.schemas.get(b.at.0).map(|schema| schema.name.clone()).unwrap_or_default();
        let name = TableName::new(schema, &table(&b.run.manifest, b.at)?.name);
        let both = a.columns.iter().filter(|column| b.columns.contains(column));
        let columns: Vec<(String, Option<String>)> =
            both.map(|column| (column.clone(), definition.types.get(column).cloned())).collect();
        let mut only: Vec<String> = Vec::new();
        only.extend(
            a.columns
                .iter()
                .filter(|one| !b.columns.contains(one))
                .map(|one| format!("{one} (in {})", a.run.manifest.run)),
        );
        only.extend(
            b.columns
                .iter()
                .filter(|one| !a.columns.contains(one))
                .map(|one| format!("{one} (in {})", b.run.manifest.run)),
        );
        let key = if options.key.is_empty() { b.primary_key(&name) } else { options.key.clone() };
        let place = |name: &String| {
            let place = columns.iter().position(|(column, _)| column == name);
            place.ok_or_else(|| {
                Error::usage(format!("column {name:?} of the key is not in both runs"))
                    .hint("--key names columns that both have")
            })
        };
        let mut key = key.iter().map(place).collect::<Result<Vec<usize>>>()?;
        if key.is_empty() {
            // Without a key a row is its own.
            key = (0..columns.len()).collect();
        }
        let (run_a, run_b) = (a.run.manifest.run.clone(), b.run.manifest.run.clone());
        let hasher = [RandomState::new(), RandomState::new()];
        Ok(Self { a: run_a, b: run_b, table: name, columns, key, only, sides: [a, b], memory: options.memory, hasher })
    }

    /// Calls `each` for every row that differs, in no order.
    ///
    /// # Errors
    /// Damage, and what the store or `each` fails with; kind `Usage` where too much differs for the memory.
    pub(crate) async fn run(&self, mut each: impl FnMut(Change) -> Result<()>) -> Result<Counts> {
        let [a, b] = &self.sides;
        let is_table =
            |side: &Side| table(&side.run.manifest, side.at).is_ok_and(|table| table.kind == TableKind::Table);
        if self.only.is_empty() && a.columns == b.columns && is_table(a) && is_table(b) && a.digest == b.digest {
            return Ok(Counts { same: a.digest.0, ..Counts::default() });
        }
        let (mut sums, mut bytes) = ([vec![Sum::default(); SUMS], vec![Sum::default(); SUMS]], vec![0_u64; SUMS]);
        for (side, sums) in self.sides.iter().zip(&mut sums) {
            let mut lines = side.lines().await?;
            while let Some(line) = lines.next().await? {
                let row = self.row(&line.columns, line.values);
                let slot = self.slot(&row);
                if let (Some(sum), Some(bytes)) = (sums.get_mut(slot), bytes.get_mut(slot)) {
                    sum.0 += 1;
                    sum.1 = sum.1.wrapping_add(self.hash(0, &row));
                    sum.2 = sum.2.wrapping_add(self.hash(1, &row));
                    *bytes += size(&row);
                }
            }
        }
        let [sums_a, sums_b] = &sums;
        let mut counts = Counts::default();
        // The number of the read in which a slot is looked at; none for the same rows on both sides.
        let (mut read, mut held, mut turn) = (0_u64, 0_u64, vec![None; SUMS]);
        for (slot, (a, b)) in sums_a.iter().zip(sums_b).enumerate() {
            if a == b {
                counts.same += a.0;
                continue;
            }
            let more = bytes.get(slot).copied().unwrap_or_default();
            if held > 0 && held + more > self.memory {
                (read, held) = (read + 1, 0);
            }
            held += more;
            if let Some(turn) = turn.get_mut(slot) {
                *turn = Some(read);
            }
        }
        if read >= READS {
            return Err(Error::usage(format!(
                "too much of {} differs: both tables would be read {} times",
                self.table,
                read + 1
            ))
            .hint("--memory gives more room for rows that differ"));
        }
        for number in 0..=read {
            self.once(number, &turn, &mut counts, &mut each).await?;
        }
        Ok(counts)
    }

    /// Reads both tables for the slots of one turn.
    async fn once(
        &self,
        number: u64,
        turn: &[Option<u64>],
        counts: &mut Counts,
        each: &mut impl FnMut(Change) -> Result<()>,
    ) -> Result<()> {
        if turn.iter().all(Option::is_none) {
            return Ok(());
        }
        let mut rows: HashMap<Vec<Value>, [Vec<Vec<Value>>; 2]> = HashMap::new();
        for (at, side) in self.sides.iter().enumerate() {
            let mut lines = side.lines().await?;
            while let Some(line) = lines.next().await? {
                let row = self.row(&line.columns, line.values);
                if turn.get(self.slot(&row)).copied().flatten() == Some(number)
                    && let Some(of_side) = rows.entry(self.key_of(&row)).or_default().get_mut(at)
                {
                    of_side.push(row);
                }
            }
        }
        for (_, [mut before, mut after]) in rows {
            before.retain(|row| match after.iter().position(|other| other == row) {
                Some(at) => {
                    after.swap_remove(at);
                    counts.same += 1;
                    false
                }
                None => true,
            });
            let (mut before, mut after) = (before.into_iter(), after.into_iter());
            loop {
                each(match (before.next(), after.next()) {
                    (Some(a), Some(b)) => {
                        counts.changed += 1;
                        Change::Changed(a, b)
                    }
                    (Some(a), None) => {
                        counts.removed += 1;
                        Change::Removed(a)
                    }
                    (None, Some(b)) => {
                        counts.added += 1;
                        Change::Added(b)
                    }
                    (None, None) => break,
                })?;
            }
        }
        Ok(())
    }

    /// The values of the columns that both have, in their order.
    fn row(&self, columns: &[String], mut values: Vec<Value>) -> Vec<Value> {
        let take = |(name, _): &(String, Option<String>)| {
            let place = columns.iter().position(|column| column == name);
            place.and_then(|at| values.get_mut(at)).and_then(Option::take)
        };
        self.columns.iter().map(take).collect()
    }

    fn key_of(&self, row: &[Value]) -> Vec<Value> {
        self.key.iter().map(|at| row.get(*at).cloned().flatten()).collect()
    }

    fn slot(&self, row: &[Value]) -> usize {
        usize::try_from(self.hash(0, &self.key_of(row)) % SUMS as u64).unwrap_or_default()
    }

    fn hash(&self, which: usize, row: &[Value]) -> u64 {
        self.hasher.get(which).map(|hasher| hasher.hash_one(row)).unwrap_or_default()
    }
}

/// Bytes that a row takes in memory, about.
fn size(row: &[Value]) -> u64 {
    let each = row.iter().map(|value| value.as_ref().map_or(0, |value| value.len() as u64) + 32);
    each.sum::<u64>() + 64
}
