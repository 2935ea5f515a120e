//! The JSON Schema of `pgstow.toml`, for editors: made from the same keys that the file is read by.

use serde_json::{Map, Value, json};

use crate::cli::fleet::keys;
use crate::fleet::keys::{ENV, EVERY, Key, Keys, PER_SERVER, STORE, Step, Takes};

/// The JSON Schema (draft 2020-12) of the file.
pub(crate) fn document(program: &clap::Command) -> Value {
    let keys = keys::keys(program);
    let section = |own: Value| {
        let mut properties = section(&keys);
        if let Value::Object(own) = own {
            properties.extend(own);
        }
        json!({ "type": "object", "properties": properties, "additionalProperties": false })
    };
    let name = json!({ "type": "string", "minLength": 1, "description": "Name, by which `pgstow run NAME` calls it." });
    let url = json!({
        "$ref": "#/$defs/text",
        "description": "Connection string; one with a password stands here by reference only.",
    });
    let mut server = section(json!({
        "name": name,
        "url": url,
        "all-databases": { "type": "boolean", "description": "Save every database that the server has when the night begins." },
        "exclude": { "type": "array", "items": { "type": "string" }, "description": "Exact names of databases that are not saved." },
    }));
    let mut database = section(json!({
        "name": name,
        "url": url,
        "server": { "type": "string", "description": "The [[server]] that it belongs to, and whose settings count for it." },
    }));
    put(&mut server, "required", json!(["name", "url"]));
    put(&mut database, "required", json!(["name"]));
    put(&mut database, "anyOf", json!([{ "required": ["url"] }, { "required": ["server"] }]));
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "pgstow.toml",
        "type": "object",
        "additionalProperties": false,
        "anyOf": [{ "required": ["database"] }, { "required": ["server"] }],
        "properties": {
            "defaults": section(json!({})),
            "server": { "type": "array", "items": server },
            "database": { "type": "array", "items": database },
        },
        "$defs": {
            "reference": {
                "description": "A value that is kept elsewhere.",
                "type": "object",
                "minProperties": 1,
                "maxProperties": 1,
                "additionalProperties": false,
                "properties": {
                    "env": { "type": "string", "description": "Environment variable that holds it." },
                    "file": { "type": "string", "description": "File that holds it." },
                    "command": {
                        "description": "Command that prints it: words, or a line for sh.",
                        "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" }, "minItems": 1 }],
                    },
                },
            },
            "text": { "anyOf": [{ "type": "string" }, { "$ref": "#/$defs/reference" }] },
        },
    })
}

fn put(schema: &mut Value, name: &str, value: Value) {
    if let Some(fields) = schema.as_object_mut() {
        fields.insert(name.to_owned(), value);
    }
}

/// The properties that all sections have.
fn section(keys: &Keys) -> Map<String, Value> {
    let mut properties: Map<String, Value> =
        keys.0.iter().filter(|key| Keys::is_shared(key)).map(|key| (key.name.clone(), property(key))).collect();
    for step in Step::ALL.into_iter().filter(|step| *step != Step::Backup) {
        let own = keys.0.iter().filter(|key| key.steps.contains(&step) && key.name != STORE);
        let mut own: Map<String, Value> = own.map(|key| (key.name.clone(), property(key))).collect();
        if step.recurs() {
            own.insert(
                EVERY.to_owned(),
                json!({ "type": "string", "description": "Least time from one to the next: 7d. Without it, each night." }),
            );
        }
        let table = json!({ "type": "object", "properties": own, "additionalProperties": false });
        properties.insert(
            step.verb().to_owned(),
            json!({ "description": format!("Settings of `pgstow {}`; true or false switches it.", step.verb()),
                    "anyOf": [{ "type": "boolean" }, table] }),
        );
    }
    properties.insert(
        ENV.to_owned(),
        json!({ "type": "object", "description": "Environment variables of the database's processes.",
                "additionalProperties": { "$ref": "#/$defs/text" } }),
    );
    properties.insert(
        PER_SERVER.to_owned(),
        json!({ "type": "integer", "minimum": 1, "description": "Most backups of its server at the same time." }),
    );
    properties
}

fn property(key: &Key) -> Value {
    let reference = json!({ "$ref": "#/$defs/reference" });
    let one = if key.values.is_empty() {
        let kinds = if key.is_number { json!(["integer", "string"]) } else { json!(["string", "boolean"]) };
        json!({ "type": kinds })
    } else if key.values.iter().all(|value| value == "true" || value == "false") {
        json!({ "type": "boolean" })
    } else {
        json!({ "enum": key.values })
    };
    let mut schema = match key.takes {
        Takes::Nothing => json!({ "type": "boolean" }),
        Takes::One => json!({ "anyOf": [one, reference] }),
        Takes::Many => json!({ "anyOf": [one, reference, { "type": "array", "items": { "$ref": "#/$defs/text" } }] }),
    };
    put(&mut schema, "description", json!(key.help));
    schema
}
