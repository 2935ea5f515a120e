//! `--forget` of `restore`, `rescue` and `drill`: finds the list and reads it, before anything else is done.

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use clap::Args;

use crate::cli::args::StoreArgs;
use crate::error::{Error, Result};
use crate::human;
use crate::restore::forget::list::{LARGEST, List};
use crate::store::{Config, Store};

/// Before the key of a list in the store of the runs.
const IN_STORE: &str = "store:";

/// The forget list.
#[derive(Debug, Clone, Default, Args)]
pub struct ForgetArgs {
    /// List of rows that had to be erased since the run was made: they and what refers to them do not come back. A file,
    /// `-` for standard input, `s3://bucket/key`, or `store:KEY` in the store. Lines: {"table":"s.t","key":{"id":"1"}}.
    #[arg(long, value_name = "LIST", env = "PGSTOW_FORGET")]
    pub forget: Option<String>,
}

impl ForgetArgs {
    /// Reads the list. One in a store is read as it is now, also where `--at` goes back in time.
    ///
    /// # Errors
    /// Kind `Usage` for a list that is not there or too large, and for a line that is not understood.
    pub(crate) async fn read(&self, store: &StoreArgs) -> Result<Option<Arc<List>>> {
        let Some(from) = self.forget.as_deref().filter(|from| !from.is_empty()) else { return Ok(None) };
        let now = Config { at: None, ..store.config() };
        let text = if let Some(key) = from.strip_prefix(IN_STORE) {
            of_store(now, key, from).await?
        } else if from.starts_with("s3://") {
            let (location, key) =
                from.rsplit_once('/').filter(|(location, _)| *location != "s3:/").ok_or_else(|| {
                    Error::usage(format!("--forget {from} names no object")).hint("write it as s3://bucket/key")
                })?;
            of_store(Config { location: location.to_owned(), ..now }, key, from).await?
        } else if from == "-" {
            limited(std::io::stdin().lock(), from)?
        } else {
            let failed = |error: &std::io::Error| Error::usage(format!("read the forget list {from}: {error}"));
            limited(std::fs::File::open(Path::new(from)).map_err(|e| failed(&e))?, from)?
        };
        List::parse(&text, from).map(|list| Some(Arc::new(list)))
    }
}

async fn of_store(config: Config, key: &str, from: &str) -> Result<Vec<u8>> {
    let store = Store::open(config).await?;
    let doing = format!("read the forget list {from}");
    let absent = || Error::usage(format!("{doing}: there is no such object"));
    let found = store.head(key).await.map_err(|error| error.context(&doing))?.ok_or_else(absent)?;
    if found.bytes > LARGEST {
        return Err(too_large(from));
    }
    let bytes = store.get(key).await.map_err(|error| error.context(&doing))?.ok_or_else(absent)?;
    Ok(bytes.to_vec())
}

fn limited(source: impl std::io::Read, from: &str) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    let read = source.take(LARGEST + 1).read_to_end(&mut text);
    read.map_err(|error| Error::usage(format!("read the forget list {from}: {error}")))?;
    if text.len() as u64 > LARGEST { Err(too_large(from)) } else { Ok(text) }
}

fn too_large(from: &str) -> Error {
    Error::usage(format!("the forget list {from} is larger than {}", human::size(LARGEST)))
        .hint("leave out keys of rows that were erased before the run was made")
}
