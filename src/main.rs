//! The program: reads environment and arguments, runs the command, prints an error once, decides the exit code.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::thread::available_parallelism;

use clap::FromArgMatches as _;
use pgstow::cli::args::{Global, LogFormat};
use pgstow::cli::progress::LogWriter;
use pgstow::cli::run::{self, Outcome};
use pgstow::cli::{Cli, environment, output};
use pgstow::error::{Error, Kind};
use pgstow::shutdown::Shutdown;

/// Most threads of async work: readers, hashes and uploads. Compression has threads of its own. More threads read no
/// faster, and each keeps some memory for itself.
const WORKERS: usize = 8;

/// Prints the message of clap. Errors quote what was typed, which may be a connection string.
fn print(error: &clap::Error) -> std::io::Result<()> {
    if !error.use_stderr() {
        return error.print();
    }
    let text = error.render();
    let text = if std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
        text.ansi().to_string()
    } else {
        text.to_string()
    };
    std::io::stderr().write_all(pgstow::error::without_secrets(&text).as_bytes())
}

fn main() -> ExitCode {
    let notes = match environment::prepare() {
        Ok(notes) => notes,
        Err(error) => return fail(&error),
    };
    let parsed = environment::command().try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
    if parsed.as_ref().err().is_none_or(clap::Error::use_stderr)
        && let Err(error) = environment::refuse_unknown()
    {
        return fail(&error);
    }
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { Kind::Usage.exit_code() } else { 0 };
            if error.use_stderr() {
                output::print_error(&Error::usage(error.kind().to_string()));
            }
            return match print(&error) {
                Ok(()) => ExitCode::from(code),
                Err(_broken_pipe) => ExitCode::from(code.max(1)),
            };
        }
    };
    if let Err(error) = start_log(&cli.global) {
        return fail(&error);
    }
    for note in notes {
        tracing::warn!("{note}");
    }
    let workers = available_parallelism().map_or(2, usize::from).min(WORKERS);
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build() {
        // Never shut down: a reader thread that is still at work would find its timers gone, and panic. What it holds
        // does not matter any more, and it ends with the process.
        Ok(runtime) => std::mem::ManuallyDrop::new(runtime),
        Err(error) => return fail(&Error::failed(format!("start: {error}"))),
    };
    let supervised = std::env::var_os("PGSTOW_SUPERVISED").is_some();
    let result = runtime.block_on(async {
        let shutdown = Shutdown::on_signals()?;
        if supervised {
            shutdown.when_input_ends();
        }
        run::run(cli.command, cli.global, shutdown).await
    });
    match result {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Failed) => ExitCode::from(Kind::Failed.exit_code()),
        Ok(Outcome::Partial) => ExitCode::from(Kind::Partial.exit_code()),
        Ok(Outcome::Damage) => ExitCode::from(Kind::Damage.exit_code()),
        Err(error) => fail(&error),
    }
}

/// Starts the log on stderr.
fn start_log(global: &Global) -> Result<(), Error> {
    // The SDK warns of each place where it finds no region or credentials; what that means is in our error.
    let quiet = matches!(global.log.as_str(), "info" | "warn").then_some(",aws_config=error").unwrap_or_default();
    let no_level = || Error::usage(format!("--log {:?} is no level", global.log));
    if !is_filter(&global.log) {
        return Err(no_level().hint("use error, warn, info, debug or trace"));
    }
    let filter = tracing_subscriber::EnvFilter::try_new(format!("{}{quiet}", global.log)).map_err(|error| {
        Error::usage(format!("--log {:?}: {error}", global.log)).hint("use error, warn, info, debug or trace")
    })?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(LogWriter::default);
    match global.log_format {
        LogFormat::Text => log.with_target(false).with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => log.json().flatten_event(true).with_target(false).init(),
    }
    Ok(())
}

/// True for a level, or a filter that says of which part of the program it is. A lone word that is no level would be
/// taken for the name of such a part, and switch all of the log off.
fn is_filter(log: &str) -> bool {
    let is_level = |word: &str| word.parse::<tracing::level_filters::LevelFilter>().is_ok();
    log.split(',').all(|part| part.contains(['=', '[']) || is_level(part.trim()))
}

/// Prints an error and its hints on stderr: the one place that does. With `--json` it is a document on stdout too.
fn fail(error: &Error) -> ExitCode {
    // A name can contain line ends and worse: the message is one line all the same.
    let mut text = format!("error: {}\n", output::one_line(&error.message()));
    for hint in error.hints() {
        text.push_str(&format!("hint: {}\n", output::one_line(hint)));
    }
    output::print_error(error);
    // Nothing can be done when stderr is gone; the exit code still says so.
    let _unwritable = std::io::stderr().write_all(text.as_bytes());
    ExitCode::from(error.kind().exit_code())
}
