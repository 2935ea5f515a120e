//! `pgstow promote`: its flags and what it prints.

use clap::Args;
use serde::Serialize;

use crate::cli::args::TrustArgs;
use crate::cli::output;
use crate::error::Result;
use crate::runs::promote::{Options, promote};
use crate::store::Store;

#[derive(Debug, Serialize)]
struct Document {
    run: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<String>,
    moved: bool,
}

/// Moves `latest`.
pub(crate) async fn run(store: &Store, arguments: &Promote, json: bool) -> Result<()> {
    let options = Options {
        backwards: arguments.backwards,
        partial: arguments.allow_partial_latest,
        trust: arguments.trust.read()?,
    };
    let done = promote(store, &arguments.run, options).await?;
    if json {
        return output::print_json(&Document { run: done.run, before: done.before, moved: done.moved });
    }
    output::print(&match done.before {
        _ if !done.moved => format!("latest is run {} already\n", done.run),
        Some(before) => format!("latest is run {} now (it was {before})\n", done.run),
        None => format!("latest is run {} now\n", done.run),
    })
}

/// `pgstow promote`
#[derive(Debug, Clone, Args)]
pub struct Promote {
    /// Run to make latest: its name, or the beginning of it.
    pub run: String,
    /// Move also when `latest` points to a newer run, or to one of another database.
    #[arg(long, env = "PGSTOW_BACKWARDS")]
    pub backwards: bool,
    /// Move also to a partial run.
    #[arg(long, env = "PGSTOW_ALLOW_PARTIAL_LATEST")]
    pub allow_partial_latest: bool,
    /// The keys whose signatures are trusted.
    #[command(flatten)]
    pub trust: TrustArgs,
}
