//! `pgstow schema`: the JSON Schema of the manifest, with those of `latest.json` and the index of pieces as definitions; or
//! that of `pgstow.toml`.

use clap::{Args, ValueEnum};
use schemars::generate::SchemaSettings;

use crate::cli::{fleet, output};
use crate::error::Result;
use crate::format::manifest::{Index, Latest, Manifest};
use crate::notify::event::Notification;

/// The JSON Schema (draft 2020-12) of a manifest; `$defs` also has `Latest` and `Index`.
#[must_use]
pub fn document() -> schemars::Schema {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    generator.subschema_for::<Latest>();
    generator.subschema_for::<Index>();
    generator.into_root_schema_for::<Manifest>()
}

/// `pgstow schema`
#[derive(Debug, Clone, Args)]
pub struct SchemaCommand {
    /// Document that the schema describes.
    #[arg(value_enum, default_value_t = Of::Manifest)]
    pub of: Of,
}

/// The documents that have a schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Of {
    /// The manifest of a run.
    Manifest,
    /// The file of all databases, pgstow.toml.
    Config,
    /// The body of a webhook.
    Notification,
}

/// Prints it.
pub(crate) fn run(arguments: &SchemaCommand, program: &clap::Command) -> Result<()> {
    match arguments.of {
        Of::Manifest => output::print_json(&document()),
        Of::Notification => {
            let generator = SchemaSettings::draft2020_12().into_generator();
            output::print_json(&generator.into_root_schema_for::<Notification>())
        }
        Of::Config => output::print_json(&fleet::schema::document(program)),
    }
}
