//! `pgstow peek`: its flags, and rows of a run as table, JSON or CSV.

use clap::Args;

use crate::cli::args::{EXIT_CODES, KeyArgs};
use crate::cli::{output, rows};
use crate::error::Result;
use crate::human;
use crate::peek::{Column, Options, Peek};
use crate::store::Store;

/// Rows whose widths decide those of a table's columns; the following rows keep them.
const MEASURED: usize = 200;

/// Prints rows of a run.
pub(crate) async fn run(store: Store, arguments: Peeking, json: bool) -> Result<()> {
    let (run, table) = match arguments.table {
        Some(table) => (arguments.run_or_table, table),
        None => ("latest".to_owned(), arguments.run_or_table),
    };
    let options = Options { run, table, wanted: arguments.where_key, keys: arguments.keys.read()? };
    let peek = Peek::open(store, &options).await?;
    let limit = if arguments.limit == 0 { u64::MAX } else { arguments.limit };
    match (arguments.csv, json) {
        (true, _) => as_csv(peek, limit).await,
        (false, true) => as_json(peek, limit).await,
        (false, false) => as_table(peek, limit).await,
    }
}

async fn as_csv(mut peek: Peek, limit: u64) -> Result<()> {
    let names: Vec<&[u8]> = peek.columns.iter().map(|column| column.name.as_bytes()).collect();
    let mut goes_on = output::print_bytes(&rows::csv(names.into_iter().map(Some)))?;
    let mut shown = 0;
    while goes_on && shown < limit {
        let Some(row) = peek.next().await? else { break };
        goes_on = output::print_bytes(&rows::csv(row.iter().map(Option::as_deref)))?;
        shown += 1;
    }
    Ok(())
}

async fn as_json(mut peek: Peek, limit: u64) -> Result<()> {
    let (run, schema, table) =
        (rows::string(&peek.run)?, rows::string(&peek.table.schema)?, rows::string(&peek.table.table)?);
    let columns = peek.columns.iter().map(|column| {
        let kind = column.kind.as_deref().map_or_else(|| Ok("null".to_owned()), rows::string)?;
        Ok(format!("{{\"name\": {}, \"type\": {kind}}}", rows::string(&column.name)?))
    });
    let columns = columns.collect::<Result<Vec<String>>>()?.join(", ");
    let head = format!(
        "{{\n  \"run\": {run},\n  \"schema\": {schema},\n  \"table\": {table},\n  \"table_rows\": {},\n  \"columns\": [{columns}],\n  \"rows\": [",
        peek.rows
    );
    let mut goes_on = output::print_bytes(head.as_bytes())?;
    let mut shown = 0_u64;
    while goes_on && shown < limit {
        let Some(row) = peek.next().await? else { break };
        let fields = peek.columns.iter().zip(&row);
        let row = rows::json_row(fields.map(|(column, value)| (column.name.as_str(), column.kind.as_deref(), value)))?;
        goes_on = output::print_bytes(format!("{}\n    {row}", if shown == 0 { "" } else { "," }).as_bytes())?;
        shown += 1;
    }
    let end = if shown == 0 { "" } else { "\n  " };
    output::print_bytes(format!("{end}],\n  \"shown\": {shown}\n}}\n").as_bytes()).map(drop)
}

async fn as_table(mut peek: Peek, limit: u64) -> Result<()> {
    let head: Vec<String> = peek.columns.iter().map(|column| human::plain(&column.name)).collect();
    let kinds: Vec<String> =
        peek.columns.iter().map(|column| human::plain(column.kind.as_deref().unwrap_or_default())).collect();
    let right: Vec<usize> =
        peek.columns.iter().enumerate().filter(|(_, one)| is_number(one)).map(|(at, _)| at).collect();
    let head: Vec<&str> = head.iter().map(String::as_str).collect();
    let (mut shown, mut first) = (0_u64, true);
    loop {
        let mut batch: Vec<Vec<String>> = if first { vec![kinds.clone()] } else { Vec::new() };
        let before = batch.len();
        while batch.len() - before < MEASURED && shown < limit {
            let Some(row) = peek.next().await? else { break };
            batch.push(row.iter().map(rows::cell).collect());
            shown += 1;
        }
        let is_last = batch.len() - before < MEASURED;
        if first || batch.len() > before {
            let text = output::table(&head, &right, &batch);
            if !output::print_bytes(text.as_bytes())? {
                return Ok(());
            }
        }
        first = false;
        if is_last {
            break;
        }
    }
    output::print(&format!(
        "\n{} of {} rows of {} in run {}\n",
        human::count(shown),
        human::count(peek.rows),
        human::plain(&peek.table.to_string()),
        peek.run
    ))
}

fn is_number(column: &Column) -> bool {
    let kind = column.kind.as_deref().unwrap_or_default();
    let base = kind.split('(').next().unwrap_or(kind);
    kind.ends_with(|c: char| c != ']')
        && matches!(base, "smallint" | "integer" | "bigint" | "real" | "double precision" | "numeric" | "oid")
}

/// `COLUMN=VALUE`.
fn pair(text: &str) -> std::result::Result<(String, String), String> {
    match text.split_once('=') {
        Some((column, value)) if !column.is_empty() => Ok((column.to_owned(), value.to_owned())),
        _ => Err("write it as COLUMN=VALUE".to_owned()),
    }
}

/// `pgstow peek`
#[derive(Debug, Clone, Args)]
#[command(after_help = EXIT_CODES)]
pub struct Peeking {
    /// Run: its name, the beginning of its name, or `latest`. Where one name is given, it is the table.
    #[arg(value_name = "RUN")]
    pub run_or_table: String,
    /// Table, as `schema.table`. The rows of a partitioned table are those of its partitions.
    #[arg(value_name = "TABLE")]
    pub table: Option<String>,
    /// Most rows that are shown; 0 for all. The object is read no further than that.
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub limit: u64,
    /// Show only rows whose column has this value, as PostgreSQL writes it (repeatable: all must hold).
    #[arg(long, value_name = "COLUMN=VALUE", value_parser = pair)]
    pub where_key: Vec<(String, String)>,
    /// Print CSV like PostgreSQL's COPY, with a line of names.
    #[arg(long, conflicts_with = "json")]
    pub csv: bool,
    /// The secret keys of an encrypted run.
    #[command(flatten)]
    pub keys: KeyArgs,
}
