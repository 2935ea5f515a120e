//! `pgstow schema`: the JSON Schema of the manifest, with those of `latest.json` and the index of pieces as definitions.

use schemars::generate::SchemaSettings;

use crate::cli::output;
use crate::error::Result;
use crate::format::manifest::{Index, Latest, Manifest};

/// The JSON Schema (draft 2020-12) of a manifest; `$defs` also has `Latest` and `Index`.
#[must_use]
pub fn document() -> schemars::Schema {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    generator.subschema_for::<Latest>();
    generator.subschema_for::<Index>();
    generator.into_root_schema_for::<Manifest>()
}

/// Prints it.
pub(crate) fn run() -> Result<()> {
    output::print_json(&document())
}
