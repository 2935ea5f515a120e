//! One value of the file: written there, or a reference to where it is kept. Secrets stand in the file by reference only.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use crate::error::{Context as _, Error, Result};

/// Longest time that a command may take to print a value.
const COMMAND: Duration = Duration::from_mins(1);

/// A value, or each value of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Item {
    Plain(String),
    /// `{ env = "NAME" }`
    Env(String),
    /// `{ file = "PATH" }`: the file's text without the line end behind it.
    File(PathBuf),
    /// `{ command = ["program", "word"] }`: what it prints, without the line end behind it; a text is given to `sh -c`.
    Command(Vec<String>),
}

impl Item {
    pub(crate) const fn is_reference(&self) -> bool {
        !matches!(self, Self::Plain(_))
    }

    /// Reads a value of the file; lists are read item by item.
    pub(crate) fn read(place: &str, value: &toml::Value) -> Result<Self> {
        Ok(match value {
            toml::Value::String(text) => Self::Plain(text.clone()),
            toml::Value::Integer(number) => Self::Plain(number.to_string()),
            toml::Value::Boolean(switch) => Self::Plain(switch.to_string()),
            toml::Value::Table(table) => Self::reference(place, table)?,
            toml::Value::Float(_) | toml::Value::Datetime(_) | toml::Value::Array(_) => {
                return Err(Error::usage(format!("{place}: a text, a number or a reference is wanted"))
                    .hint("put the value into quotes"));
            }
        })
    }

    fn reference(place: &str, table: &toml::Table) -> Result<Self> {
        let wrong = || {
            Error::usage(format!("{place}: a reference names one of env, file and command"))
                .hint("write { env = \"NAME\" }, { file = \"/path\" } or { command = [\"program\", \"word\"] }")
        };
        let mut pairs = table.iter();
        let (Some((kind, value)), None) = (pairs.next(), pairs.next()) else { return Err(wrong()) };
        match (kind.as_str(), value) {
            ("env", toml::Value::String(name)) if !name.is_empty() => Ok(Self::Env(name.clone())),
            ("file", toml::Value::String(path)) if !path.is_empty() => Ok(Self::File(PathBuf::from(path))),
            ("command", toml::Value::String(line)) if !line.trim().is_empty() => {
                Ok(Self::Command(["sh", "-c", line].map(str::to_owned).to_vec()))
            }
            ("command", toml::Value::Array(words)) => {
                let words: Option<Vec<String>> = words.iter().map(|word| word.as_str().map(str::to_owned)).collect();
                words.filter(|words| !words.is_empty()).map(Self::Command).ok_or_else(wrong)
            }
            _ => Err(wrong()),
        }
    }

    /// The value itself. Nothing of it is ever in an error.
    ///
    /// # Errors
    /// Kind `Usage` where a variable is not set or a file cannot be read; a command that fails.
    pub(crate) async fn resolve(&self) -> Result<String> {
        let value = match self {
            Self::Plain(text) => return Ok(text.clone()),
            Self::Env(name) => std::env::var(name).map_err(|_unset| {
                Error::usage(format!("the environment variable {name} is not set"))
                    .hint(format!("pgstow.toml takes a value from it: set {name}"))
            })?,
            Self::File(path) => tokio::fs::read_to_string(path)
                .await
                .map_err(|error| Error::usage(format!("read {}: {error}", path.display())))?,
            Self::Command(words) => run(words).await?,
        };
        let value = value.trim_end_matches(['\n', '\r']).to_owned();
        if value.is_empty() {
            return Err(Error::usage(format!("{self} gives nothing")));
        }
        Ok(value)
    }
}

/// The reference, never the value behind it.
impl std::fmt::Display for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Plain(text) => f.write_str(text),
            Self::Env(name) => write!(f, "the environment variable {name}"),
            Self::File(path) => write!(f, "the file {}", path.display()),
            Self::Command(words) => write!(f, "the command {}", words.first().map_or("", String::as_str)),
        }
    }
}

async fn run(words: &[String]) -> Result<String> {
    let Some((program, rest)) = words.split_first() else { return Err(Error::usage("an empty command")) };
    let mut command = tokio::process::Command::new(program);
    command.args(rest).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true);
    let output = command.output();
    let output = tokio::time::timeout(COMMAND, output)
        .await
        .map_err(|_elapsed| Error::failed(format!("the command {program} gave no value within a minute")))?
        .with_context(|| format!("run the command {program}"))?;
    if !output.status.success() {
        return Err(Error::failed(format!("the command {program} ended with {}", output.status)));
    }
    String::from_utf8(output.stdout).map_err(|_bytes| Error::failed(format!("the command {program} printed no text")))
}
