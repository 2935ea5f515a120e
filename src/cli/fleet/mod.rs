//! `pgstow run`, `pgstow config`, and `--config` of the commands that speak of all databases: flags, text and JSON. What is
//! done for each database is the business of [`crate::fleet`].

pub(crate) mod all;
pub(crate) mod config;
pub(crate) mod keys;
pub(crate) mod night;
pub(crate) mod schema;

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use crate::cli::args::LogFormat;
use crate::cli::progress::LogWriter;
use crate::error::{Error, Result};
use crate::fleet::child::Relay;
use crate::fleet::file::NAME;

/// The file that names all databases.
#[derive(Debug, Clone, Default, Args)]
pub struct ConfigArgs {
    /// Speak of all databases of this file (see `pgstow manual fleet`).
    #[arg(long, value_name = "FILE", env = "PGSTOW_CONFIG")]
    pub config: Option<PathBuf>,
}

/// The file of a command that cannot do without: `pgstow.toml` of the working directory where none is named.
pub(crate) fn file_of(given: Option<&PathBuf>) -> PathBuf {
    given.cloned().unwrap_or_else(|| PathBuf::from(NAME))
}

/// This very program.
pub(crate) fn this_program() -> Result<PathBuf> {
    std::env::current_exe().map_err(|error| Error::failed(format!("find this program: {error}")))
}

/// Writes the log lines of steps among our own, each with the name of its database.
pub(crate) fn relay(format: LogFormat) -> Relay {
    Arc::new(move |name, line| {
        let text = match format {
            LogFormat::Text => format!("[{name}] {line}\n"),
            LogFormat::Json => with_name(name, line),
        };
        // Nothing better can be done for a stderr that is gone.
        let _unwritable = std::io::Write::write_all(&mut LogWriter::default(), text.as_bytes());
    })
}

/// A line of a JSON log with one more field; any other line as the message of one.
fn with_name(name: &str, line: &str) -> String {
    let mut fields = match serde_json::from_str(line) {
        Ok(serde_json::Value::Object(fields)) => fields,
        _ => serde_json::Map::from_iter([("message".to_owned(), line.into())]),
    };
    fields.insert("database_name".to_owned(), name.into());
    format!("{}\n", serde_json::Value::Object(fields))
}
