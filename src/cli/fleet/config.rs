//! `pgstow config check`: reads the file, resolves every reference, connects to every database and opens every store, and
//! prints what a night would do.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use futures::stream::{self, StreamExt as _};
use serde::Serialize;

use crate::cli::args::Global;
use crate::cli::fleet::{file_of, keys, this_program};
use crate::cli::outcome::Outcome;
use crate::cli::output;
use crate::error::{Error, Result};
use crate::fleet::child::{self, Relay};
use crate::fleet::file::File;
use crate::fleet::keys::{Keys, Step};
use crate::fleet::plan::Plan;
use crate::fleet::roster::CONNECT;
use crate::human;
use crate::postgres::source::server;
use crate::shutdown::Shutdown;

/// Databases that are tried at the same time.
const AT_ONCE: usize = 8;

/// `pgstow config`
#[derive(Debug, Clone, Args)]
pub struct ConfigCommand {
    /// Action on the file.
    #[arg(value_enum)]
    pub action: Action,
    /// Databases, or servers, to check; all of the file where none is named.
    pub names: Vec<String>,
    /// The file that names the databases. Default: pgstow.toml in the working directory.
    #[arg(long, value_name = "FILE", env = "PGSTOW_CONFIG")]
    pub config: Option<PathBuf>,
}

/// The actions on the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Action {
    /// Check it, and that all databases and stores can be reached.
    Check,
}

/// The findings about one database.
#[derive(Serialize)]
struct Checked {
    name: String,
    store: String,
    steps: Vec<&'static str>,
    ok: bool,
    problems: Vec<String>,
}

#[derive(Serialize)]
struct Document<'a> {
    config: String,
    ok: bool,
    databases: &'a [Checked],
    excluded: &'a [crate::fleet::roster::Excluded],
    problems: Vec<String>,
}

/// Checks the file.
///
/// # Errors
/// A file that makes no sense; a signal.
pub(crate) async fn run(
    arguments: ConfigCommand,
    global: &Global,
    shutdown: &Shutdown,
    program: &clap::Command,
) -> Result<Outcome> {
    let Action::Check = arguments.action;
    let path = file_of(arguments.config.as_ref());
    let keys = keys::keys(program);
    let file = File::read(&path, &keys)?;
    let roster = tokio::select! {
        roster = keys::roster(&file, &arguments.names, &keys, program) => roster?,
        error = shutdown.requested() => return Err(error),
    };
    let checked = stream::iter(&roster.plans).map(|plan| check(plan, &keys, shutdown)).buffered(AT_ONCE);
    let checked: Vec<Checked> = checked.collect().await;
    if shutdown.token().is_cancelled() {
        return Err(shutdown.error());
    }
    let problems: Vec<String> =
        roster.unlisted.iter().map(|one| format!("{}: {}", one.server, one.error.message())).collect();
    let ok = problems.is_empty() && checked.iter().all(|one| one.ok);
    if global.json {
        let config = path.display().to_string();
        output::print_json(&Document { config, ok, databases: &checked, excluded: &roster.excluded, problems })?;
    } else {
        let rows: Vec<Vec<String>> = checked.iter().map(cells).collect();
        let mut text = output::table(&["DATABASE", "STEPS", "REACHED", "STORE"], &[], &rows);
        let own = checked.iter().flat_map(|one| one.problems.iter().map(|problem| format!("{}: {problem}", one.name)));
        for problem in own.chain(problems) {
            text.push_str(&format!("{}\n", human::plain(&problem)));
        }
        for one in &roster.excluded {
            text.push_str(&format!(
                "excluded by name: {}\n",
                human::plain(&format!("{}/{}", one.server, one.database))
            ));
        }
        output::print(&text)?;
    }
    Ok(if ok { Outcome::Done } else { Outcome::Failed })
}

fn cells(one: &Checked) -> Vec<String> {
    let reached = if one.ok { "yes" } else { "NO" };
    vec![human::plain(&one.name), one.steps.join(", "), reached.to_owned(), human::plain(&one.store)]
}

async fn check(plan: &Plan, keys: &Keys, shutdown: &Shutdown) -> Checked {
    let mut problems = Vec::new();
    let database = async { server::reach(&plan.connection().await?, CONNECT).await };
    let answers = [database.await, store(plan, keys, shutdown).await, references(plan, keys).await];
    for error in answers.into_iter().filter_map(Result::err) {
        let message = error.message();
        if !problems.contains(&message) {
            problems.push(message);
        }
    }
    let steps = plan.steps.iter().map(|planned| planned.step).filter(|step| *step != Step::Status).map(Step::verb);
    Checked {
        name: plan.name.clone(),
        store: plan.store.clone(),
        steps: steps.collect(),
        ok: problems.is_empty(),
        problems,
    }
}

async fn references(plan: &Plan, keys: &Keys) -> Result<()> {
    for planned in &plan.steps {
        plan.call(planned.step.verb(), keys).await?;
    }
    Ok(())
}

/// Lists the runs of a store in a process with the database's own credentials. A directory is made by the first backup.
async fn store(plan: &Plan, keys: &Keys, shutdown: &Shutdown) -> Result<()> {
    if !plan.store.contains("://") {
        return Ok(());
    }
    let call = plan.call("list", keys).await?;
    let quiet: Relay = std::sync::Arc::new(|_, _| {});
    let ended = child::run(&this_program()?, &plan.name, &call, &quiet, shutdown.token()).await?;
    match ended.code {
        Some(0) => Ok(()),
        _ => Err(Error::failed(ended.error.unwrap_or_else(|| "the store cannot be listed".to_owned()))),
    }
}
