//! `pgstow restore`: its flags, its call of the engine, its text and its JSON.

use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::archive::schema_names::SchemaNames;
use crate::cli::args::{Global, JOBS, LOCK_TIMEOUTS, RestoringArgs, connection, duration};
use crate::cli::forget::ForgetArgs;
use crate::cli::outcome::Outcome;
use crate::cli::output;
use crate::cli::progress::Shown;
use crate::cli::timings::Timings;
use crate::error::{Error, Result};
use crate::postgres::connect::conninfo::ConnInfo;
use crate::restore::forget::Forgotten;
use crate::restore::options::{Content, Destination, Options, Owners, Privileges, Roles, Statistics, Tablespaces};
use crate::restore::progress::Progress;
use crate::restore::work::Report;
use crate::shutdown::Shutdown;
use crate::{human, restore};

/// `pgstow restore`
#[allow(clippy::struct_excessive_bools, reason = "flags a person may combine, not states")]
#[derive(Debug, Clone, Args)]
pub struct Restore {
    /// Run: its name, the beginning of its name, or `latest`.
    #[arg(default_value = "latest")]
    pub run: String,
    /// The database to restore into: a URL or `key=value` words, as libpq reads them.
    #[arg(long, env = "PGSTOW_RESTORE_TO", hide_env_values = true, value_parser = connection())]
    pub to: String,
    /// Kind of the target, unless it is a plain database.
    #[arg(long, env = "PGSTOW_PROFILE", value_enum)]
    pub profile: Option<Profile>,
    /// Create the database first, with the properties of the saved one.
    #[arg(long)]
    pub create: bool,
    /// Create roles that are missing; those that exist are never touched.
    #[arg(long)]
    pub roles: bool,
    /// Give the roles that --roles creates their saved passwords.
    #[arg(long, requires = "roles")]
    pub role_passwords: bool,
    /// Restore only this schema (repeatable).
    #[arg(long)]
    pub schema: Vec<String>,
    /// Restore only this table, as `schema.table` (repeatable).
    #[arg(long)]
    pub table: Vec<String>,
    /// Restore rows and sequence values only, into tables that exist.
    #[arg(long, conflicts_with_all = ["schema_only", "create"])]
    pub data_only: bool,
    /// Restore definitions only, no rows.
    #[arg(long)]
    pub schema_only: bool,
    /// Restore although the database is not empty.
    #[arg(long)]
    pub into_existing: bool,
    /// With --data-only: empty all the tables, in the transaction that their rows come in. With --profile supabase: those
    /// of the platform.
    #[arg(long)]
    pub truncate: bool,
    /// Restore although the database is the very one that was saved.
    #[arg(long)]
    pub allow_source: bool,
    /// Make the role that restores the owner of everything, instead of the saved owners.
    #[arg(long)]
    pub no_owner: bool,
    /// Give what belongs to role OLD in the run to NEW (repeatable). Privileges stay those of OLD.
    #[arg(long, value_name = "OLD=NEW", value_parser = pair, conflicts_with = "no_owner")]
    pub owner: Vec<(String, String)>,
    /// Restore schema OLD of the run as NEW (repeatable), beside a living one. Refused, before anything is changed, where a
    /// definition names the schema in a text or in the body of a function; --best-effort restores such ones as they are.
    #[arg(long, value_name = "OLD=NEW", value_parser = pair)]
    pub rename_schema: Vec<(String, String)>,
    /// Do not restore privileges and default privileges.
    #[arg(long)]
    pub no_privileges: bool,
    /// Put everything into the database's own tablespace.
    #[arg(long, conflicts_with = "tablespace")]
    pub no_tablespaces: bool,
    /// Put what was in tablespace OLD into NEW (repeatable).
    #[arg(long, value_name = "OLD=NEW", value_parser = pair)]
    pub tablespace: Vec<(String, String)>,
    /// Remove an unfinished restore and begin again although the database holds what this run does not.
    #[arg(long)]
    pub start_over: bool,
    /// Go on although the server lacks something that the run needs: what cannot be restored is listed, exit 3.
    #[arg(long, conflicts_with = "exit_on_error")]
    pub best_effort: bool,
    /// Stop at the first object that the server refuses. By itself a restore lists it, goes on and exits with 3.
    #[arg(long)]
    pub exit_on_error: bool,
    /// Do not gather the planner's statistics at the end.
    #[arg(long)]
    pub no_analyze: bool,
    /// Gather full statistics at the end also where autovacuum would: by itself restore gathers rough ones there.
    #[arg(long, conflicts_with = "no_analyze")]
    pub full_analyze: bool,
    /// Longest wait for a lock of a table that exists, when its rows are replaced or added to.
    #[arg(long, env = "PGSTOW_LOCK_TIMEOUT", default_value = "30s", value_parser = duration)]
    pub lock_timeout: Duration,
    /// Say at the end how long each step took, how long the stages waited for each other, how many requests were sent, and
    /// what was chosen; with --json as `timings`.
    #[arg(long, env = "PGSTOW_TIMINGS")]
    pub timings: bool,
    /// Rows that must not come back.
    #[command(flatten)]
    pub forget: ForgetArgs,
    /// Sessions, programs and keys.
    #[command(flatten)]
    pub means: RestoringArgs,
}

/// `OLD=NEW`.
fn pair(text: &str) -> std::result::Result<(String, String), String> {
    match text.split_once('=') {
        Some((old, new)) if !old.is_empty() => Ok((old.to_owned(), new.to_owned())),
        _ => Err("write it as OLD=NEW".to_owned()),
    }
}

/// A target that is no plain database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Profile {
    /// A Supabase project: the role is no superuser, and the platform's schemas are there.
    Supabase,
}

impl Restore {
    /// The request that these flags make.
    fn options(&self) -> Result<Options> {
        let target = ConnInfo::resolve(Some(&self.to))?.with_silence(Some(self.means.stall_timeout));
        if self.truncate && !self.data_only && self.profile.is_none() {
            return Err(Error::usage("--truncate needs --data-only, or --profile supabase"));
        }
        Ok(Options {
            profile: match self.profile {
                Some(Profile::Supabase) => restore::options::Profile::Supabase { replace: self.truncate },
                None => restore::options::Profile::Plain,
            },
            destination: match (self.create, self.into_existing) {
                (_, true) => Destination::Existing,
                (true, false) => Destination::Create,
                (false, false) => Destination::Empty,
            },
            content: match (self.data_only, self.schema_only) {
                (true, _) => Content::Rows { replace: self.truncate },
                (false, true) => Content::Definitions,
                (false, false) => Content::Everything,
            },
            schemas: self.schema.clone(),
            tables: self.table.clone(),
            roles: if self.roles { Roles::Create { passwords: self.role_passwords } } else { Roles::Present },
            owners: if self.no_owner { Owners::Restoring } else { Owners::Saved },
            privileges: if self.no_privileges { Privileges::Owner } else { Privileges::Saved },
            tablespaces: if self.no_tablespaces {
                Tablespaces::Default
            } else {
                Tablespaces::Named(self.tablespace.clone())
            },
            start_over: self.start_over,
            best_effort: self.best_effort,
            exit_on_error: self.exit_on_error,
            statistics: match (self.no_analyze, self.full_analyze) {
                (true, _) => Statistics::None,
                (false, true) => Statistics::Full,
                (false, false) => Statistics::Rough,
            },
            allow_source: self.allow_source,
            schema_names: SchemaNames(self.rename_schema.clone()),
            owner_names: self.owner.clone(),
            jobs: self.means.jobs,
            lock_timeout: self.lock_timeout.clamp(LOCK_TIMEOUTS.0, LOCK_TIMEOUTS.1),
            pg_bin_dir: self.means.pg_bin_dir.clone(),
            ..Options::whole(target, self.means.connect_timeout)
        })
    }
}

/// Restores, and prints the report.
///
/// # Errors
/// Those of the engine.
pub(crate) async fn run(arguments: Restore, global: &Global, shutdown: &Shutdown) -> Result<Outcome> {
    let mut options = arguments.options()?;
    options.forget = arguments.forget.read(&global.store).await?;
    let store = global.store.open_existing().await?;
    let ours = store.clone();
    let keys = arguments.means.keys.read()?;
    let counters = Arc::new(Progress::default());
    let shown = Shown::restore(global, &counters);
    let result = Box::pin(restore::run(store, &arguments.run, &keys, &options, &counters, shutdown)).await;
    shown.end();
    let report = result?;
    let mut json = serde_json::to_value(&report).map_err(|error| Error::failed(format!("write JSON: {error}")))?;
    let mut text = text(&report);
    if arguments.timings {
        let mut timings = Timings::new(&ours, arguments.means.jobs, JOBS);
        report.phases.iter().for_each(|phase| timings.step(phase.name, phase.seconds));
        timings.reading(&ours, true);
        timings.put(&mut text, &mut json);
    }
    if global.json {
        output::print_json(&json)?;
    } else {
        output::print(&text)?;
    }
    Ok(if report.findings.not_restored.is_empty() { Outcome::Done } else { Outcome::Partial })
}

fn text(report: &Report) -> String {
    let lines = report.forgotten.iter().flat_map(Forgotten::lines);
    let forgotten: Vec<String> = lines.map(|line| format!("  {}\n", human::plain(&line))).collect();
    format!(
        "run {} is restored into {}: {} tables with {} rows ({}), {} large objects, {:.1} s\n{}",
        report.run,
        report.into,
        human::count(report.tables),
        human::count(report.rows),
        human::size(report.raw_bytes),
        human::count(report.large_objects),
        report.seconds,
        forgotten.concat() + &report.findings.text()
    )
}
