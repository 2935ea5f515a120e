//! The objects that were not restored, with the reason, those that were left alone on purpose, and notes.
//!
//! Exit code 3 means that something stands under `not_restored`, each with the step a person must take. What stands
//! under `left_alone` is the platform's own matter and needs no step.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use libpgdump::{Entry, ObjectType};
use serde::Serialize;

use crate::archive::catalogue::{namespace, tag};
use crate::human;
use crate::sql::names::in_comment;

/// The qualified name of an entry, for people.
pub(crate) fn name(entry: &Entry) -> String {
    let dot = if namespace(entry).is_empty() { "" } else { "." };
    format!("{}{dot}{}", namespace(entry), tag(entry))
}

/// The kind of an entry, for people.
pub(crate) fn kind(entry: &Entry) -> String {
    match entry.desc {
        ObjectType::Acl => "privileges".to_owned(),
        ObjectType::RowSecurity => "row security".to_owned(),
        _ => entry.desc.as_str().to_lowercase(),
    }
}

/// True for a text that may hold a password or a key.
pub(crate) fn may_hold_secret(text: &str) -> bool {
    let text = text.to_lowercase();
    ["password", "passwd", "secret", "bearer", "apikey", "api_key", "api-key", "token", "eyj"]
        .iter()
        .any(|word| text.contains(word))
}

/// Something that was not restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// `table`, `owner`, `policy`, ...
    pub(crate) kind: String,
    /// Its name.
    pub(crate) name: String,
    /// The reason.
    pub(crate) why: String,
    /// The step that a person must take.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) step: String,
    /// The statement that was refused, whole; none where it may hold a secret.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) statement: String,
}

/// Everything to tell at the end.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Findings {
    /// The objects that were not restored.
    pub(crate) not_restored: Vec<Finding>,
    /// The platform's own objects, left as they are in the target.
    pub(crate) left_alone: Vec<Finding>,
    /// Notes on the way of the restore.
    pub(crate) notes: Vec<String>,
}

impl Findings {
    /// The lines for a person.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for finding in &self.not_restored {
            // A statement keeps its lines, so that it can be taken from here.
            let step: Vec<String> = finding.step.lines().map(human::plain).collect();
            text.push_str(&format!("  not restored: {}\n    do: {}\n", finding.line(), step.join("\n        ")));
        }
        for finding in &self.left_alone {
            text.push_str(&format!("  left alone: {}\n", finding.line()));
        }
        for note in &self.notes {
            text.push_str(&format!("  note: {}\n", human::plain(note)));
        }
        text
    }
}

impl Finding {
    fn line(&self) -> String {
        human::plain(&format!("{} {}: {}", self.kind, self.name, self.why))
    }
}

/// Takes findings from several sessions at once.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    findings: Mutex<Findings>,
    /// Objects that belong to the target's role now, by the owner they had.
    owners: Mutex<BTreeMap<(String, String), Vec<String>>>,
    /// Definitions of the platform that this project does not have, by schema.
    absent: Mutex<BTreeMap<String, Vec<String>>>,
    /// Privileges of roles that are not there, by role.
    grantees: Mutex<BTreeMap<String, u32>>,
}

/// Names that one line shows of a long list.
const SHOWN: usize = 12;

fn list(names: &[String]) -> String {
    human::shortened(names, SHOWN, ", ")
}

impl Ledger {
    fn change(&self, change: impl FnOnce(&mut Findings)) {
        change(&mut self.findings.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Something could not be restored.
    pub(crate) fn lost(&self, kind: &str, name: &str, why: &str, step: &str) {
        self.refused(kind, name, why, step, "");
    }

    /// The server refused this statement.
    pub(crate) fn refused(&self, kind: &str, name: &str, why: &str, step: &str, statement: &str) {
        let statement = if may_hold_secret(statement) { String::new() } else { statement.to_owned() };
        let (name, why, step) = (in_comment(name), in_comment(why), step.to_owned());
        let finding = Finding { kind: kind.into(), name, why, step, statement };
        tracing::warn!("not restored: {}", finding.line());
        self.change(|all| all.not_restored.push(finding));
    }

    /// Something is left as it is in the target.
    pub(crate) fn left(&self, kind: &str, name: &str, why: &str) {
        let finding = Finding {
            kind: kind.into(),
            name: in_comment(name),
            why: in_comment(why),
            step: String::new(),
            statement: String::new(),
        };
        self.change(|all| {
            if !all.left_alone.contains(&finding) {
                all.left_alone.push(finding);
            }
        });
    }

    /// Something to know.
    pub(crate) fn note(&self, text: String) {
        self.change(|all| all.notes.push(text));
    }

    /// An object that should belong to `owner` and does not, because of `why`.
    pub(crate) fn unowned(&self, owner: &str, why: &str, object: String) {
        let mut owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        owners.entry((owner.to_owned(), why.to_owned())).or_default().push(object);
    }

    /// A definition of the platform that is in the run and not in this project.
    pub(crate) fn absent(&self, schema: &str, what: String) {
        self.absent.lock().unwrap_or_else(PoisonError::into_inner).entry(schema.to_owned()).or_default().push(what);
    }

    /// A privilege of a role that is not there.
    pub(crate) fn no_grantee(&self, role: &str) {
        *self.grantees.lock().unwrap_or_else(PoisonError::into_inner).entry(role.to_owned()).or_default() += 1;
    }

    /// All of it, `role` being the one everything belongs to.
    pub(crate) fn finish(self, role: &str) -> Findings {
        for ((owner, why), objects) in std::mem::take(&mut *self.owners.lock().unwrap_or_else(PoisonError::into_inner))
        {
            let step = format!(
                "nothing, where they may belong to {role}; else, as a member of {owner}: ALTER ... OWNER TO {owner}"
            );
            let why = format!("{why}; these belong to {role} now: {}", list(&objects));
            self.lost("ownership by", &owner, &why, &step);
        }
        for (schema, things) in std::mem::take(&mut *self.absent.lock().unwrap_or_else(PoisonError::into_inner)) {
            let why = format!(
                "{} definitions of the platform in the run are not in this project, whose platform is of another version: {}",
                things.len(),
                list(&things)
            );
            self.left("schema", &schema, &why);
        }
        for (role, number) in std::mem::take(&mut *self.grantees.lock().unwrap_or_else(PoisonError::into_inner)) {
            let why = format!("{number} grants were left out: this project does not have that role of the platform");
            self.left("role", &role, &why);
        }
        self.findings.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}
