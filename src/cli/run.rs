//! Starts the engine of the command that was asked for and says how it ended.

use clap::CommandFactory as _;

use crate::cli::args::Global;
use crate::cli::fleet::ConfigArgs;
pub use crate::cli::outcome::Outcome;
use crate::cli::{
    Cli, Command, Report, completions, copy, detect, diff, doctor, download, drill, fleet, list, manual, peek, pin,
    promote, prune, report, rescue, restore, schema, show, status, verify,
};
use crate::error::{Error, Result};
use crate::shutdown::Shutdown;

/// Runs a command.
///
/// # Errors
/// The error of the command; `main` prints it and decides the exit code.
pub async fn run(command: Command, global: Global, shutdown: Shutdown) -> Result<Outcome> {
    if command.uses_store() {
        global.store.refuse_default()?;
    }
    if global.store.at.is_some() && command.changes_store() {
        return Err(Error::usage("--at reads a store as it was: nothing can be written there")
            .hint("--at is for list, show, diff, verify, download, restore, drill and report"));
    }
    if let Some((verb, words, file)) = command.of_all() {
        return Box::pin(fleet::all::run(verb, &words, &file, &global, &shutdown, &Cli::command())).await;
    }
    match command {
        Command::Run(arguments) => Box::pin(fleet::night::run(arguments, &global, &shutdown, &Cli::command())).await,
        Command::Config(arguments) => {
            Box::pin(fleet::config::run(arguments, &global, &shutdown, &Cli::command())).await
        }
        Command::Report(Report { out, upload, evidence, config: ConfigArgs { config: Some(file) } }) => {
            let flags = [(upload, "--upload"), (evidence, "--evidence")];
            let more: Vec<String> =
                flags.iter().filter(|(is_set, _)| *is_set).map(|(_, flag)| (*flag).to_owned()).collect();
            Box::pin(fleet::all::report((&out, &more), &file, &global, &shutdown, &Cli::command())).await
        }
        // Watches the signals itself: what it has open must be aborted first.
        Command::Backup(arguments) => Box::pin(crate::cli::backup::run(arguments, &global, &shutdown)).await,
        Command::Detect(arguments) => detect::run(arguments, &global, &shutdown).await,
        Command::Doctor(arguments) => Box::pin(doctor::run(arguments, &global, &shutdown)).await,
        Command::Drill(arguments) => Box::pin(drill::run(arguments, &global, &shutdown)).await,
        Command::Restore(arguments) => Box::pin(restore::run(arguments, &global, &shutdown)).await,
        Command::Copy(arguments) => Box::pin(copy::run(&arguments, &global, &shutdown)).await,
        #[cfg(feature = "export")]
        Command::Export(arguments) => Box::pin(crate::cli::export::run(arguments, &global, &shutdown)).await,
        Command::Prune(arguments) => Box::pin(prune::run(&arguments, &global, &shutdown)).await,
        Command::Verify(arguments) => Box::pin(verify::run(&arguments, &global, &shutdown)).await,
        other => tokio::select! {
            result = Box::pin(dispatch(other, global)) => result,
            error = shutdown.requested() => Err(error),
        },
    }
}

async fn dispatch(command: Command, global: Global) -> Result<Outcome> {
    let json = global.json;
    let done = |()| Outcome::Done;
    match command {
        Command::List(_) => list::run(&global.store.open_existing().await?, json).await.map(done),
        Command::Show(arguments) => show::run(&global.store.open_existing().await?, &arguments, json).await.map(done),
        Command::Download(arguments) => {
            download::run(&global.store.open_existing().await?, arguments, &global).await.map(done)
        }
        Command::Diff(arguments) => diff::run(&global.store.open_existing().await?, &arguments, json).await.map(done),
        Command::Status(arguments) => status::run(&global.store.open_existing().await?, &arguments, json).await,
        Command::Report(arguments) => {
            report::run(&global.store.open_existing().await?, &arguments, json).await.map(done)
        }
        Command::Peek(arguments) => peek::run(global.store.open_existing().await?, arguments, json).await.map(done),
        Command::Rescue(arguments) => Box::pin(rescue::run(arguments, &global)).await.map(done),
        Command::Pin(arguments) => pin::pin(&global.store.open_existing().await?, &arguments, json).await.map(done),
        Command::Unpin(arguments) => pin::unpin(&global.store.open_existing().await?, &arguments, json).await.map(done),
        Command::Promote(arguments) => {
            promote::run(&global.store.open_existing().await?, &arguments, json).await.map(done)
        }
        Command::Manual(arguments) => manual::run(&arguments, json, &Cli::command()).map(done),
        Command::Schema(arguments) => schema::run(&arguments, &Cli::command()).map(done),
        Command::Completions(arguments) => completions::run(&arguments, &mut Cli::command()).map(done),
        Command::Backup(_)
        | Command::Config(_)
        | Command::Copy(_)
        | Command::Run(_)
        | Command::Detect(_)
        | Command::Doctor(_)
        | Command::Drill(_)
        | Command::Prune(_)
        | Command::Restore(_)
        | Command::Verify(_) => Err(Error::failed("a command was dispatched twice")),
        #[cfg(feature = "export")]
        Command::Export(_) => Err(Error::failed("a command was dispatched twice")),
    }
}
