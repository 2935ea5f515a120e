//! Which part of a run an entry belongs to: the application, the platform's schemas, or the database at large.

use std::collections::{BTreeSet, HashMap};

use libpgdump::{Entry, ObjectType};

use crate::archive::catalogue::{about_schema, namespace, tag};
use crate::postgres::target::project::Project;
use crate::restore::entry::is_content_or_setting;
use crate::restore::supabase::platform;
use crate::sql::names::TableName;

/// The place of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// A schema that is restored in full.
    Application,
    /// A schema of the platform.
    Managed,
    /// No schema: casts, servers, publications, event triggers.
    Wide,
    /// An extension, or what is attached to one.
    Extension,
    /// Handled elsewhere, or not at all: rows, large objects, settings of the database.
    Elsewhere,
}

/// The schemas of a run, and its entries by their numbers.
pub(crate) struct Map<'a> {
    /// Schemas that are restored in full.
    pub(crate) application: BTreeSet<String>,
    /// Schemas of the platform.
    pub(crate) managed: BTreeSet<String>,
    by_id: HashMap<i32, &'a Entry>,
}

impl<'a> Map<'a> {
    /// Sorts schemas: managed are those that the platform or an extension makes and those the target's role can do
    /// nothing in. `was` tells what was there before an unfinished restore, which must sort them as it did.
    pub(crate) fn new(
        all: &'a [Entry],
        names: BTreeSet<String>,
        project: &Project,
        was: impl Fn(&str) -> bool,
    ) -> Self {
        let made: BTreeSet<&str> = all.iter().filter(|e| e.desc == ObjectType::Schema).map(tag).collect();
        let managed = |name: &String| {
            let there = project.schemas.get(name).filter(|_| was(name));
            match name.as_str() {
                "public" => false,
                platform::HISTORY => there.is_some(),
                _ => {
                    platform::makes_schema(name)
                        // A schema without a definition in the run belongs to an extension.
                        || !made.contains(name.as_str())
                        || there.is_some_and(|s| s.extension || !(s.owned || s.creatable))
                }
            }
        };
        let (managed, application) = names.into_iter().partition(managed);
        Self { application, managed, by_id: all.iter().map(|e| (e.dump_id, e)).collect() }
    }

    /// The entry with this number.
    pub(crate) fn entry(&self, id: i32) -> Option<&'a Entry> {
        self.by_id.get(&id).copied()
    }

    /// The object that an ACL, comment or label is attached to, or that a trigger or policy is on: its first
    /// dependency.
    pub(crate) fn on(&self, entry: &Entry) -> Option<&'a Entry> {
        entry.dependencies.first().and_then(|id| self.entry(*id))
    }

    /// The place of an entry.
    pub(crate) fn place(&self, entry: &Entry) -> Place {
        let of_schema = |name: &str| {
            if self.application.contains(name) {
                Place::Application
            } else if self.managed.contains(name) {
                Place::Managed
            } else {
                Place::Elsewhere
            }
        };
        match entry.desc {
            _ if is_content_or_setting(entry) => Place::Elsewhere,
            ObjectType::DefaultAcl => Place::Elsewhere,
            ObjectType::PublicationTable | ObjectType::PublicationTablesInSchema => Place::Wide,
            ObjectType::Schema => of_schema(tag(entry)),
            ObjectType::Extension => Place::Extension,
            _ if !namespace(entry).is_empty() => of_schema(namespace(entry)),
            ObjectType::Acl | ObjectType::Comment | ObjectType::SecurityLabel => match self.on(entry) {
                Some(on) => self.place(on),
                None => about_schema(entry).map_or(Place::Elsewhere, |schema| of_schema(&schema)),
            },
            _ => Place::Wide,
        }
    }
}

/// True for an object outside of schemas that is made before tables, which may need it.
pub(crate) const fn comes_first(entry: &Entry) -> bool {
    matches!(
        entry.desc,
        ObjectType::ForeignDataWrapper
            | ObjectType::Server
            | ObjectType::ForeignServer
            | ObjectType::UserMapping
            | ObjectType::Cast
            | ObjectType::Transform
            | ObjectType::ProceduralLanguage
            | ObjectType::AccessMethod
    )
}

/// True when the project has the object of this entry; also for a part of another object.
pub(crate) fn there(entry: &Entry, project: &Project) -> bool {
    let (schema, name) = (namespace(entry), tag(entry));
    let kind = match entry.desc {
        ObjectType::Schema => return project.has("schema", "", name),
        ObjectType::Extension => return project.has("extension", "", name),
        ObjectType::Publication => return project.has("publication", "", name),
        ObjectType::EventTrigger => return project.has("event trigger", "", name),
        ObjectType::ForeignDataWrapper => return project.has("wrapper", "", name),
        ObjectType::Server | ObjectType::ForeignServer => return project.has("server", "", name),
        ObjectType::ProceduralLanguage => return project.has("language", "", name),
        ObjectType::Table
        | ObjectType::ForeignTable
        | ObjectType::View
        | ObjectType::MaterializedView
        | ObjectType::Sequence
        | ObjectType::Index => "relation",
        ObjectType::Type | ObjectType::Domain | ObjectType::ShellType => "type",
        ObjectType::Function | ObjectType::Procedure | ObjectType::Aggregate => {
            return project.has("function", schema, name.split('(').next().unwrap_or_default());
        }
        ObjectType::Trigger => "trigger",
        ObjectType::Policy => "policy",
        ObjectType::Rule => "rule",
        ObjectType::Constraint | ObjectType::FkConstraint | ObjectType::CheckConstraint => "constraint",
        ObjectType::RowSecurity => {
            let table = project.tables.get(&TableName::new(schema, name));
            return table.is_some_and(|table| table.row_security);
        }
        ObjectType::Cast
        | ObjectType::Transform
        | ObjectType::AccessMethod
        | ObjectType::UserMapping
        | ObjectType::Subscription
        | ObjectType::Collation
        | ObjectType::Conversion
        | ObjectType::Operator
        | ObjectType::OperatorClass
        | ObjectType::OperatorFamily
        | ObjectType::TextSearchConfiguration
        | ObjectType::TextSearchDictionary => return false,
        _ => return true,
    };
    project.has(kind, schema, name)
}
