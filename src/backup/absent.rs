//! The relations of extensions that pg_dump leaves out: compared with its table of contents, and added as entries of
//! our own.

use std::collections::{HashMap, HashSet};

use libpgdump::{Entry, ObjectType, OffsetState, Section};

use crate::archive::catalogue::{Belongs, Catalogue, PG_CLASS, by_object, namespace, oid, tag};
use crate::error::{Error, Result};
use crate::format::manifest::Omitted;
use crate::postgres::source::absent::{AbsentSequence, AbsentTable};
use crate::postgres::source::additions::Addition;
use crate::postgres::source::detect::{Detection, RelKind, Relation};

/// Relations of extensions that pg_dump leaves out: tables, then sequences.
#[must_use]
pub(crate) fn absent<'a>(detection: &'a Detection, entries: &[Entry]) -> (Vec<&'a Relation>, Vec<&'a Relation>) {
    let with_rows = oids_of(entries, &[ObjectType::TableData]);
    // These carry no oid, but schema and name of their sequence.
    let values = entries.iter().filter(|e| e.desc == ObjectType::SequenceSet);
    let with_value: HashSet<(&str, &str)> = values.map(|e| (namespace(e), tag(e))).collect();
    let owned = |r: &&Relation| r.extension.is_some() && r.unreadable.is_none() && r.persistence != 'u';
    let tables =
        detection.relations.iter().filter(owned).filter(|r| r.relkind == RelKind::Table && !with_rows.contains(&r.oid));
    let sequences = detection
        .relations
        .iter()
        .filter(owned)
        .filter(|r| r.relkind == RelKind::Sequence && !with_value.contains(&(r.schema.as_str(), r.name.as_str())));
    (tables.collect(), sequences.collect())
}

/// `pg_dump` 16 and newer writes `run_as_owner = true` for subscriptions of older servers: that is how those work, but
/// no option that they know, so the statement would fail on them. Removes it; returns a note for each subscription.
pub(crate) fn without_run_as_owner(entries: &mut [Entry], server_version_num: u32) -> Vec<Omitted> {
    const WORDS: &str = ", run_as_owner = true";
    if server_version_num >= 160_000 {
        return Vec::new();
    }
    let mut notes = Vec::new();
    for entry in entries.iter_mut().filter(|e| e.desc == ObjectType::Subscription) {
        // The options stand last, behind every text of the user's.
        let Some(defn) = entry.defn.as_mut() else { continue };
        let Some(options) = defn.rfind(" WITH (connect = false") else { continue };
        let Some(at) = defn.get(options..).and_then(|options| options.find(WORDS)) else { continue };
        defn.replace_range(options + at..options + at + WORDS.len(), "");
        notes.push(Omitted {
            kind: "subscription option".to_owned(),
            name: tag(entry).to_owned(),
            reason:
                "run_as_owner is no option of this server; after a restore into PostgreSQL 16 or newer, set it to true \
                     where changes shall be applied as the subscription's owner, as they are here"
                    .to_owned(),
        });
    }
    notes
}

pub(crate) fn oids_of(entries: &[Entry], descs: &[ObjectType]) -> HashSet<u32> {
    entries.iter().filter(|e| descs.contains(&e.desc)).map(oid).collect()
}

/// Sequences of an extension's tables are the extension's too: pg_dump leaves them out with their tables although
/// they may not be members themselves.
pub(crate) fn adopt_sequences(detection: &mut Detection, belongs: &Belongs) {
    let owners: HashMap<u32, String> =
        detection.relations.iter().filter_map(|r| r.extension.clone().map(|extension| (r.oid, extension))).collect();
    for sequence in detection.relations.iter_mut().filter(|r| r.relkind == RelKind::Sequence && r.extension.is_none()) {
        let table = belongs.get(&(PG_CLASS, sequence.oid));
        sequence.extension = table.and_then(|table| owners.get(table)).cloned();
    }
}

/// Adds entries of our own for what pg_dump left out of extensions.
pub(crate) fn add_absent(
    catalogue: &mut Catalogue,
    detection: &Detection,
    tables: &[AbsentTable],
    sequences: &[AbsentSequence],
) -> Result<()> {
    let by_oid: HashMap<u32, &Relation> = detection.relations.iter().map(|r| (r.oid, r)).collect();
    let extensions = extension_ids(catalogue);
    let mut next = catalogue.last_dump_id();
    let mut entry = |relation: &Relation, desc: ObjectType, section: Section| {
        next += 1;
        let extension = relation.extension.as_ref().and_then(|name| extensions.get(name));
        Entry {
            oid: relation.oid.to_string(),
            dependencies: extension.copied().into_iter().collect(),
            ..own_entry(next, desc, section, &relation.schema, &relation.name)
        }
    };
    let relation = |oid: u32| by_oid.get(&oid).copied().ok_or_else(|| Error::failed(format!("relation {oid} is gone")));
    for table in tables {
        let of = relation(table.oid)?;
        let mut make = entry(of, ObjectType::Table, Section::PreData);
        make.defn = Some(table.create.clone());
        let mut rows = entry(of, ObjectType::TableData, Section::Data);
        rows.had_dumper = true;
        rows.data_state = OffsetState::NotSet;
        rows.copy_stmt = Some(table.load.clone());
        rows.dependencies.push(make.dump_id);
        catalogue.add(make, Some(table.oid));
        catalogue.add(rows, Some(table.oid));
    }
    for sequence in sequences {
        let of = relation(sequence.oid)?;
        let mut make = entry(of, ObjectType::Sequence, Section::PreData);
        make.defn = Some(sequence.create.clone());
        catalogue.add(make, None);
        let mut set = entry(of, ObjectType::SequenceSet, Section::Data);
        set.defn = Some(sequence.set.clone());
        catalogue.add(set, None);
    }
    Ok(())
}

/// Adds entries for what hangs on the relations of extensions, but for relations that the run leaves out.
pub(crate) fn add_additions(catalogue: &mut Catalogue, detection: &Detection, additions: &[Addition]) {
    let extensions = extension_ids(catalogue);
    let unreadable = detection.relations.iter().filter(|r| r.unreadable.is_some());
    let unreadable: HashSet<u32> = unreadable.map(|r| r.oid).collect();
    let mut known = by_object(&catalogue.meta.entries);
    let mut next = catalogue.last_dump_id();
    for addition in additions.iter().filter(|a| !unreadable.contains(&a.table)) {
        next += 1;
        let section = if addition.is_before_rows { Section::PreData } else { Section::PostData };
        let mut dependencies: Vec<i32> = extensions.get(&addition.extension).copied().into_iter().collect();
        let needs = addition.needs.iter().filter(|object| **object != addition.object);
        dependencies.extend(needs.filter_map(|object| known.get(object)).flatten());
        dependencies.sort_unstable();
        dependencies.dedup();
        if addition.object.1 != 0 {
            known.entry(addition.object).or_default().push(next);
        }
        let entry = Entry {
            table_oid: addition.object.0.to_string(),
            oid: addition.object.1.to_string(),
            defn: Some(addition.definition.clone()),
            dependencies,
            ..own_entry(next, addition.desc.clone(), section, &addition.schema, &addition.tag)
        };
        catalogue.add(entry, (addition.table != 0).then_some(addition.table));
    }
}

/// Numbers of the entries of extensions.
fn extension_ids(catalogue: &Catalogue) -> HashMap<String, i32> {
    let extensions = catalogue.meta.entries.iter().filter(|e| e.desc == ObjectType::Extension);
    extensions.map(|e| (tag(e).to_owned(), e.dump_id)).collect()
}

/// An entry of our own without a definition. No owner: the statements of these entries say it where it matters.
fn own_entry(dump_id: i32, desc: ObjectType, section: Section, namespace: &str, tag: &str) -> Entry {
    Entry {
        dump_id,
        had_dumper: false,
        table_oid: "0".to_owned(),
        oid: "0".to_owned(),
        tag: Some(tag.to_owned()),
        desc,
        section,
        defn: None,
        drop_stmt: None,
        copy_stmt: None,
        namespace: Some(namespace.to_owned()),
        tablespace: None,
        tableam: None,
        relkind: None,
        owner: Some(String::new()),
        with_oids: false,
        dependencies: Vec::new(),
        data_state: OffsetState::NoData,
        offset: 0,
        filename: None,
    }
}
