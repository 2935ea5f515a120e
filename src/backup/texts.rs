//! The texts of a run's objects, made when they are needed: a catalogue's worth of text never is in memory at once.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use libpgdump::{Entry, ObjectType};

use crate::archive::catalogue::{Catalogue, ExtensionReach};
use crate::archive::table_sql::{TableSql, Title};
use crate::archive::{compose, head, table_sql};
use crate::backup::plan::{Plan, PlannedSchema, PlannedTable};
use crate::error::{Error, Result};
use crate::sql::letters::Letters;
use crate::sql::statements::in_encoding;

/// Makes the texts of the run's objects from the catalogue.
#[derive(Debug)]
pub(crate) struct Texts {
    catalogue: Arc<Catalogue>,
    reach: Arc<Vec<ExtensionReach>>,
    /// Numbers of the entries of each table.
    by_table: HashMap<u32, Vec<usize>>,
    /// The encoding of all rows, where it is not UTF-8.
    encoding: Option<String>,
    /// The encoding of all definitions.
    letters: Letters,
}

/// The text around the rows of a table, and its `COPY` statement where it has rows.
#[derive(Debug)]
pub(crate) struct TableText {
    pub(crate) before: Vec<u8>,
    pub(crate) after: Vec<u8>,
    pub(crate) copy: Option<String>,
}

impl Texts {
    /// The texts of a planned run.
    #[must_use]
    pub(crate) fn new(plan: &Plan, encoding: Option<String>) -> Self {
        Self {
            encoding,
            letters: head::letters(&plan.catalogue.meta.entries).unwrap_or_default(),
            catalogue: Arc::clone(&plan.catalogue),
            reach: Arc::clone(&plan.reach),
            by_table: plan.catalogue.numbers_by_table().into_iter().collect(),
        }
    }

    /// The head of a schema's archive.
    pub(crate) fn head(&self, schema: &PlannedSchema) -> Result<Vec<u8>> {
        let mut entries = self.catalogue.schema(&schema.name, &self.reach);
        for entry in &mut entries {
            self.encode(entry);
        }
        compose::head(&self.catalogue.meta, entries)
    }

    /// The objects that a schema's archive needs from elsewhere when it is restored on its own.
    pub(crate) fn needs(&self, schema: &PlannedSchema) -> Vec<String> {
        self.catalogue.needs(&schema.name, &self.reach)
    }

    /// The text around the rows of a table.
    ///
    /// # Errors
    /// A letter that the definitions' encoding does not have.
    pub(crate) fn table(&self, table: &PlannedTable) -> Result<TableText> {
        let numbers = self.by_table.get(&table.oid).map_or(&[][..], Vec::as_slice);
        let entries = numbers.iter().filter_map(|at| self.catalogue.meta.entries.get(*at));
        let entries: Vec<Cow<'_, Entry>> = entries.map(|entry| self.encoded(entry)).collect();
        let entries: Vec<&Entry> = entries.iter().map(Cow::as_ref).collect();
        let note = match &table.extension {
            Some(extension) => format!("{} of extension {extension}", table.kind.as_str()),
            None => table.kind.as_str().to_owned(),
        };
        let title = Title { schema: &table.name.schema, table: &table.name.table, note: &note };
        let copy = entries.iter().find(|e| e.desc == ObjectType::TableData).and_then(|e| e.copy_stmt.clone());
        let TableSql { before, after } = table_sql::compose(&self.catalogue.meta, title, &entries);
        let absent = |c| Error::failed(format!("{}: {} has no letter {c:?}", table.name, self.letters.encoding()));
        let encode = |text: String| self.letters.encode(&text).map_err(absent);
        Ok(TableText { before: encode(before)?, after: encode(after)?, copy })
    }

    /// The entry whose statement says how rows are encoded: the entry itself where they are in UTF-8.
    fn encoded<'e>(&self, entry: &'e Entry) -> Cow<'e, Entry> {
        let mut entry = Cow::Borrowed(entry);
        if self.encoding.is_some() {
            self.encode(entry.to_mut());
        }
        entry
    }

    /// Says in the statement that loads rows how they are encoded.
    fn encode(&self, entry: &mut Entry) {
        if let (Some(encoding), Some(copy)) = (&self.encoding, &mut entry.copy_stmt)
            && !copy.is_empty()
        {
            *copy = in_encoding(copy, encoding);
        }
    }
}
