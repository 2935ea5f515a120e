//! `pgstow rescue`: its flags, its call of the engine, its text and its JSON.

use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::archive::copy_text::Value;
use crate::cli::args::{EXIT_CODES, Global, KeyArgs, LOCK_TIMEOUTS, connection, duration};
use crate::cli::forget::ForgetArgs;
use crate::cli::{output, rows};
use crate::error::{Error, Result};
use crate::human;
use crate::postgres::connect::conninfo::ConnInfo;
use crate::rescue::apply::Applied;
use crate::rescue::beside::{self, Made};
use crate::rescue::compare::{Change, Changed, Found};
use crate::rescue::options::{self, Options};
use crate::rescue::{self, Report};
use crate::restore::forget::Forgotten;

/// Compares, writes what was asked for, and prints the report.
pub(crate) async fn run(arguments: Rescue, global: &Global) -> Result<()> {
    let (limit, applies) = (arguments.limit, arguments.apply.is_some());
    let forget = arguments.forget.read(&global.store).await?;
    let store = global.store.open_existing().await?;
    let beside = arguments.r#as.clone();
    let options = Options { forget, ..arguments.options()? };
    if let Some(name) = beside {
        let made = Box::pin(beside::make(store, &options, &name)).await?;
        return if global.json { output::print_json(&Beside::of(&made)) } else { output::print(&beside_text(&made)) };
    }
    let report = rescue::run(store, &options).await?;
    if global.json { output::print(&document(&report)?) } else { output::print(&text(&report, limit, applies)) }
}

fn text(report: &Report, limit: u64, applies: bool) -> String {
    let table = human::plain(&report.table.to_string());
    let mut text = format!(
        "{table} of run {} beside {}: {} rows in the run, {} chosen; {} read{}, {:.1} s\n\n",
        report.run,
        report.into,
        human::count(report.rows),
        human::count(report.chosen),
        human::size(report.read_bytes),
        report.plan.as_ref().map(|plan| format!(" ({plan})")).unwrap_or_default(),
        report.seconds
    );
    let summary = [
        ("missing", report.missing.count, "in the run, and not in the live table"),
        ("changed", report.changed.count, "in both, with other content"),
    ];
    for (word, count, meaning) in summary {
        text.push_str(&format!("  {word:<8} {:>12}  {meaning}\n", human::count(count)));
    }
    text.push_str(&match &report.extra {
        Some(extra) => {
            format!("  {:<8} {:>12}  in the live table, and not in the run\n", "extra", human::count(extra.count))
        }
        None => {
            format!("  {:<8} {:>12}  not known: not all rows of the run were read, or a column is gone\n", "extra", "-")
        }
    });
    for needed in &report.needed {
        let (name, rows) = (human::plain(&needed.table.to_string()), human::count(needed.rows));
        text.push_str(&if needed.brought {
            format!("  {:<8} {rows:>12}  missing in {name}, and referred to\n", "also")
        } else {
            format!(
                "  {:<8} {rows:>12}  rows refer to missing rows of {name}: --with-referenced brings these\n",
                "needs"
            )
        });
    }
    for (word, found) in [("missing", Some(&report.missing)), ("extra", report.extra.as_ref())] {
        text.push_str(&found.map(|found| found_rows(word, found, limit)).unwrap_or_default());
    }
    text.push_str(&changes(&report.changed, limit));
    for line in report.forgotten.iter().flat_map(Forgotten::lines) {
        text.push_str(&format!("\n{}", human::plain(&line)));
    }
    if report.forgotten.is_some() {
        text.push('\n');
    }
    for note in &report.notes {
        text.push_str(&format!("\nnote: {}\n", human::plain(note)));
    }
    match &report.applied {
        Some(applied) => text.push_str(&written(applied)),
        None if !applies && report.missing.count + report.changed.count > 0 => {
            text.push_str("\nNothing was changed. --apply missing, changed or both writes.\n");
        }
        None => text.push_str("\nNothing was changed.\n"),
    }
    text
}

/// The report of a table under another name.
#[derive(Serialize)]
struct Beside<'a> {
    run: &'a str,
    table: String,
    r#as: String,
    into: &'a str,
    read_bytes: u64,
    rows: u64,
    forgotten: Option<&'a Forgotten>,
    notes: &'a [String],
    seconds: f64,
}

impl<'a> Beside<'a> {
    fn of(made: &'a Made) -> Self {
        Self {
            run: &made.run,
            table: made.table.to_string(),
            r#as: made.name.to_string(),
            into: &made.into,
            read_bytes: made.read_bytes,
            rows: made.rows,
            forgotten: made.forgotten.as_ref(),
            notes: &made.notes,
            seconds: made.seconds,
        }
    }
}

fn beside_text(made: &Made) -> String {
    let mut text = format!(
        "{} of run {} is {} in {}: {} rows, {} read, {:.1} s\n",
        human::plain(&made.table.to_string()),
        made.run,
        human::plain(&made.name.to_string()),
        made.into,
        human::count(made.rows),
        human::size(made.read_bytes),
        made.seconds
    );
    for line in made.forgotten.iter().flat_map(Forgotten::lines).chain(made.notes.iter().cloned()) {
        text.push_str(&format!("  {}\n", human::plain(&line)));
    }
    text
}

fn found_rows(word: &str, found: &Found, limit: u64) -> String {
    if found.rows.is_empty() {
        return String::new();
    }
    let head: Vec<String> = found.columns.iter().map(|(name, _)| human::plain(name)).collect();
    let head: Vec<&str> = head.iter().map(String::as_str).collect();
    let cells: Vec<Vec<String>> = found.rows.iter().map(|row| row.iter().map(rows::cell).collect()).collect();
    let more = if found.count > limit { format!(", the first {limit}") } else { String::new() };
    format!("\n{word}{more}:\n{}", output::table(&head, &[], &cells))
}

fn changes(changed: &Changed, limit: u64) -> String {
    if changed.rows.is_empty() {
        return String::new();
    }
    let mut head: Vec<String> = changed.key.iter().map(|(name, _)| human::plain(name)).collect();
    head.extend(["COLUMN", "IN THE RUN", "LIVE"].map(str::to_owned));
    let head: Vec<&str> = head.iter().map(String::as_str).collect();
    let lines = |change: &Change| -> Vec<Vec<String>> {
        let key: Vec<String> = change.key.iter().map(rows::cell).collect();
        let line = |(name, _, run, live): &(String, String, Value, Value)| {
            let mut line = key.clone();
            line.extend([human::plain(name), rows::cell(run), rows::cell(live)]);
            line
        };
        change.columns.iter().map(line).collect()
    };
    let cells: Vec<Vec<String>> = changed.rows.iter().flat_map(lines).collect();
    let more = if changed.count > limit { format!(", the first {limit} rows") } else { String::new() };
    format!("\nchanged{more}:\n{}", output::table(&head, &[], &cells))
}

fn written(applied: &Applied) -> String {
    let mut text = String::from("\n");
    for (table, rows) in applied.inserted.iter().filter(|(_, rows)| *rows > 0) {
        text.push_str(&format!("inserted {} rows into {}\n", human::count(*rows), human::plain(&table.to_string())));
    }
    if applied.updated > 0 {
        text.push_str(&format!("updated {} rows\n", human::count(applied.updated)));
    }
    for sequence in &applied.sequences {
        text.push_str(&format!("sequence {} was brought forward\n", human::plain(sequence)));
    }
    if applied.triggers_off > 0 {
        text.push_str(&format!("{} triggers did not fire\n", applied.triggers_off));
    }
    if applied.still_different > 0 {
        text.push_str(&format!(
            "{} rows still differ from the run: triggers changed them (--triggers off)\n",
            human::count(applied.still_different)
        ));
    }
    text.push_str(if applied.rolled_back { "Rolled back: nothing was changed (--dry-run).\n" } else { "Committed.\n" });
    text
}

/// The report as one JSON document. Values keep their digits, so rows are put in as text.
fn document(report: &Report) -> Result<String> {
    let string = |text: &str| rows::string(text);
    let list = |names: &mut dyn Iterator<Item = &str>| -> Result<String> {
        Ok(format!("[{}]", names.map(string).collect::<Result<Vec<String>>>()?.join(", ")))
    };
    let named = |pairs: &mut dyn Iterator<Item = (String, String)>| -> Result<String> {
        let each = pairs.map(|(name, value)| Ok(format!("{}: {value}", string(&name)?)));
        Ok(format!("{{{}}}", each.collect::<Result<Vec<String>>>()?.join(", ")))
    };
    let needed = report.needed.iter().map(|needed| {
        let table = string(&needed.table.to_string())?;
        Ok(format!("{{\"table\": {table}, \"rows\": {}, \"brought\": {}}}", needed.rows, needed.brought))
    });
    let applied = match &report.applied {
        None => "null".to_owned(),
        Some(applied) => format!(
            "{{\"inserted\": {}, \"updated\": {}, \"sequences\": {}, \"triggers_off\": {}, \"still_different\": {}, \"rolled_back\": {}}}",
            named(&mut applied.inserted.iter().map(|(table, rows)| (table.to_string(), rows.to_string())))?,
            applied.updated,
            list(&mut applied.sequences.iter().map(String::as_str))?,
            applied.triggers_off,
            applied.still_different,
            applied.rolled_back
        ),
    };
    let fields = [
        ("run", string(&report.run)?),
        ("table", string(&report.table.to_string())?),
        ("into", string(&report.into)?),
        ("key", list(&mut report.key.iter().map(String::as_str))?),
        ("read_bytes", report.read_bytes.to_string()),
        ("pieces", report.plan.as_deref().map_or_else(|| Ok("null".to_owned()), rows::string)?),
        ("rows", report.rows.to_string()),
        ("chosen", report.chosen.to_string()),
        ("missing", found_json(&report.missing)?),
        ("changed", changed_json(&report.changed)?),
        ("extra", report.extra.as_ref().map_or_else(|| Ok("null".to_owned()), found_json)?),
        ("referenced", format!("[{}]", needed.collect::<Result<Vec<String>>>()?.join(", "))),
        ("forgotten", serde_json::to_string(&report.forgotten).map_err(|error| Error::failed(error.to_string()))?),
        ("notes", list(&mut report.notes.iter().map(String::as_str))?),
        ("applied", applied),
        ("seconds", format!("{:.3}", report.seconds)),
    ];
    let lines: Vec<String> = fields.iter().map(|(name, value)| format!("  \"{name}\": {value}")).collect();
    Ok(format!("{{\n{}\n}}\n", lines.join(",\n")))
}

/// A row under these columns.
fn row_json(columns: &[(String, String)], row: &[Value]) -> Result<String> {
    let fields = columns.iter().zip(row);
    rows::json_row(fields.map(|((name, kind), value)| (name.as_str(), Some(kind.as_str()), value)))
}

fn found_json(found: &Found) -> Result<String> {
    let rows: Vec<String> = found.rows.iter().map(|row| row_json(&found.columns, row)).collect::<Result<_>>()?;
    Ok(format!("{{\"count\": {}, \"rows\": [{}]}}", found.count, in_lines(&rows)))
}

fn changed_json(changed: &Changed) -> Result<String> {
    let change = |change: &Change| {
        let columns = change.columns.iter().map(|(name, kind, run, live)| {
            let (run, live) = (rows::json(run, Some(kind))?, rows::json(live, Some(kind))?);
            Ok(format!("{}: {{\"run\": {run}, \"live\": {live}}}", rows::string(name)?))
        });
        let columns = columns.collect::<Result<Vec<String>>>()?.join(", ");
        Ok(format!("{{\"key\": {}, \"columns\": {{{columns}}}}}", row_json(&changed.key, &change.key)?))
    };
    let rows: Vec<String> = changed.rows.iter().map(change).collect::<Result<_>>()?;
    Ok(format!("{{\"count\": {}, \"rows\": [{}]}}", changed.count, in_lines(&rows)))
}

fn in_lines(rows: &[String]) -> String {
    if rows.is_empty() { String::new() } else { format!("\n    {}\n  ", rows.join(",\n    ")) }
}

/// The rows that are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Apply {
    /// Insert the rows that the live table does not have.
    Missing,
    /// Give the rows that differ the content of the run.
    Changed,
    /// Both.
    Both,
}

/// The triggers of the tables that are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Triggers {
    /// They fire.
    Fire,
    /// They are off in the transaction that writes; foreign keys are checked all the same.
    Off,
}

/// `pgstow rescue`
#[derive(Debug, Clone, Args)]
#[command(after_help = EXIT_CODES)]
pub struct Rescue {
    /// Run: its name, the beginning of its name, or `latest`.
    #[arg(default_value = "latest")]
    pub run: String,
    /// Table, as `schema.table`. Nothing else of the run is read.
    #[arg(long)]
    pub table: String,
    /// The database with the live table: a URL or `key=value` words, as libpq reads them.
    #[arg(long, env = "PGSTOW_RESCUE_TO", hide_env_values = true, value_parser = connection())]
    pub to: String,
    /// Restore the table under this name instead, beside the live one: with its rows (those of --where), indexes, constraints
    /// and sequences, without foreign keys, triggers and privileges.
    #[arg(long, value_name = "SCHEMA.TABLE", conflicts_with_all = ["apply", "key", "dry_run", "with_referenced"])]
    pub r#as: Option<String>,
    /// SQL condition on the table's rows, evaluated by PostgreSQL.
    #[arg(long, value_name = "SQL")]
    pub r#where: Option<String>,
    /// Columns by which rows are told apart. Default: the primary key.
    #[arg(long, value_name = "COLUMNS", value_delimiter = ',')]
    pub key: Vec<String>,
    /// Write these rows, in one transaction. Without it rows are only compared.
    #[arg(long, value_name = "ROWS", value_enum)]
    pub apply: Option<Apply>,
    /// With --apply: write, then roll back.
    #[arg(long)]
    pub dry_run: bool,
    /// With missing rows, bring those of other tables that they refer to and that are missing too.
    #[arg(long)]
    pub with_referenced: bool,
    /// Rows that must not come back.
    #[command(flatten)]
    pub forget: ForgetArgs,
    /// Triggers of the tables that are written.
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = Triggers::Fire)]
    pub triggers: Triggers,
    /// Most rows of each kind that are shown; the counts are of all.
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub limit: u64,
    /// Abort when a connection takes longer than this.
    #[arg(long, env = "PGSTOW_CONNECT_TIMEOUT", default_value = "15s", value_parser = duration)]
    pub connect_timeout: Duration,
    /// When the server owed an answer for this long, ask it whether it is still at work; if not, the connection is lost.
    #[arg(long, env = "PGSTOW_STALL_TIMEOUT", default_value = "10m", value_parser = duration)]
    pub stall_timeout: Duration,
    /// Longest wait for a lock of the live table.
    #[arg(long, env = "PGSTOW_LOCK_TIMEOUT", default_value = "30s", value_parser = duration)]
    pub lock_timeout: Duration,
    /// The secret keys of an encrypted run.
    #[command(flatten)]
    pub keys: KeyArgs,
}

impl Rescue {
    /// The request that these flags make.
    fn options(self) -> Result<Options> {
        Ok(Options {
            target: ConnInfo::resolve(Some(&self.to))?.with_silence(Some(self.stall_timeout)),
            connect_timeout: self.connect_timeout,
            lock_timeout: self.lock_timeout.clamp(LOCK_TIMEOUTS.0, LOCK_TIMEOUTS.1),
            condition: self.r#where,
            key: self.key,
            apply: self.apply.map(|what| match what {
                Apply::Missing => options::Apply::Missing,
                Apply::Changed => options::Apply::Changed,
                Apply::Both => options::Apply::Both,
            }),
            rehearse: self.dry_run,
            with_referenced: self.with_referenced,
            triggers: match self.triggers {
                Triggers::Fire => options::Triggers::Fire,
                Triggers::Off => options::Triggers::Off,
            },
            limit: self.limit,
            forget: None,
            keys: self.keys.read()?,
            run: self.run,
            table: self.table,
        })
    }
}
