//! Objects that belong to no schema or are the platform's in part: extensions, publications, servers, event triggers,
//! default privileges, settings of the database; and what the user has added to the platform's tables.

use std::collections::BTreeSet;

use libpgdump::{Entry, ObjectType};

use crate::archive::catalogue::{namespace, tag};
use crate::error::Result;
use crate::postgres::error::is_rejection;
use crate::postgres::target::project;
use crate::restore::entry::{by_hand, is_guarded};
use crate::restore::findings;
use crate::restore::sequences;
use crate::restore::supabase::apply::{Applier, grantee};
use crate::restore::supabase::places::Place;
use crate::restore::supabase::{places, platform};
use crate::sql::statements::{name, statements};

/// The schema of the function that a trigger calls.
fn function_schema(trigger: &str) -> Option<String> {
    let words = ["EXECUTE FUNCTION ", "EXECUTE PROCEDURE "];
    let at = words.iter().find_map(|word| trigger.rfind(word).map(|at| at + word.len()))?;
    let (schema, rest) = name(trigger.get(at..)?)?;
    rest.starts_with('.').then_some(schema)
}

/// True when the owner of an entry is a role of the platform: its objects in the platform's schemas are not the user's.
fn is_platforms(entry: &Entry) -> bool {
    let owner = entry.owner.as_deref().unwrap_or_default();
    owner != "postgres" && platform::reserves_role(owner)
}

impl Applier<'_> {
    /// Makes an extension that is missing; one that is there is left alone.
    ///
    /// # Errors
    /// A lost connection.
    pub(crate) async fn extension(&self, entry: &Entry) -> Result<()> {
        if places::there(entry, self.project) {
            return Ok(());
        }
        let defn = entry.defn.as_deref().unwrap_or_default();
        let doing = format!("extension {}", tag(entry));
        match project::transaction(self.session, defn, &doing).await {
            Ok(()) => Ok(()),
            Err(error) if is_rejection(&error) => {
                let step = format!(
                    "enable it (Supabase: Database, Extensions), then restore again what uses it; statement: {}",
                    defn.trim().trim_end_matches(';')
                );
                self.ledger.lost("extension", tag(entry), &error.cause(), &step);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Objects that belong to no schema. One whose name exists is left as it is.
    ///
    /// # Errors
    /// A lost connection.
    pub(crate) async fn wide(&self, entry: &Entry) -> Result<()> {
        match entry.desc {
            ObjectType::Subscription => {
                let why = "it would take rows from its publisher, twice where the old project still runs; only a superuser may make it";
                let step = "decide where it is to subscribe from; its statement is in @database.dump (pgstow download, pg_restore -f -)";
                self.ledger.lost("subscription", tag(entry), why, step);
                Ok(())
            }
            ObjectType::PublicationTable => self.published(entry).await,
            ObjectType::EventTrigger if is_platforms(entry) => {
                if !places::there(entry, self.project) {
                    self.ledger.left(
                        "event trigger",
                        tag(entry),
                        "the platform's own; this project's platform does not have it",
                    );
                }
                Ok(())
            }
            ObjectType::Acl => self.privileges(entry).await,
            _ if places::there(entry, self.project) && has_name(entry) => Ok(()),
            _ => self.make(entry).await,
        }
    }

    /// Adds a table to a publication, unless it is in it.
    async fn published(&self, entry: &Entry) -> Result<()> {
        let publication = tag(entry).split(' ').next().unwrap_or_default();
        let defn = entry.defn.as_deref().unwrap_or_default();
        let table = defn.split_once(" ADD TABLE ONLY ").and_then(|(_, rest)| {
            let (schema, rest) = name(rest)?;
            let (table, _) = name(rest.strip_prefix('.')?)?;
            Some(format!("{schema}.{table}"))
        });
        let to =
            defn.strip_prefix("ALTER PUBLICATION ").and_then(name).map_or(publication.to_owned(), |(name, _)| name);
        if table.is_some_and(|table| self.project.has("published", &to, &table)) {
            return Ok(());
        }
        self.make(entry).await
    }

    /// A definition in one of the platform's schemas. Triggers and policies that are absent are made; of everything
    /// else the user's is made where the role may, and the platform's is reported.
    ///
    /// # Errors
    /// A lost connection.
    pub(crate) async fn managed(&self, entry: &Entry) -> Result<()> {
        if is_guarded(entry) {
            return if self.gone(entry) { Ok(()) } else { self.make(entry).await };
        }
        if places::there(entry, self.project) || self.gone(entry) {
            return Ok(());
        }
        let defn = entry.defn.as_deref().unwrap_or_default();
        match entry.desc {
            ObjectType::Policy | ObjectType::RowSecurity => self.make(entry).await,
            ObjectType::Trigger => {
                if function_schema(defn).is_some_and(|schema| platform::makes_triggers(&schema)) {
                    self.ledger.absent(namespace(entry), format!("trigger {}", tag(entry)));
                    return Ok(());
                }
                self.make(entry).await
            }
            ObjectType::Table if !is_platforms(entry) && !platform::passes_by(namespace(entry), tag(entry)) => {
                let why = "it is in a schema of the platform, which does not have it";
                let step =
                    format!("make it in a schema of your own: pgstow download --table {}", findings::name(entry));
                self.ledger.lost("table", &findings::name(entry), why, &step);
                Ok(())
            }
            // Its rows are reported with the others.
            ObjectType::Table | ObjectType::Schema => {
                self.ledger.absent(
                    if namespace(entry).is_empty() { tag(entry) } else { namespace(entry) },
                    format!("{} {}", findings::kind(entry), tag(entry)),
                );
                Ok(())
            }
            _ if is_platforms(entry) || of_table(entry) => {
                self.ledger.absent(namespace(entry), format!("{} {}", findings::kind(entry), tag(entry)));
                Ok(())
            }
            _ => {
                let schema = self.project.schemas.get(namespace(entry));
                if schema.is_some_and(|schema| schema.creatable) {
                    return self.make(entry).await;
                }
                let why = format!(
                    "it is in a schema of the platform, where role {} may not make anything",
                    self.project.role
                );
                let step = format!("make it in a schema of your own; {}", by_hand(defn));
                self.ledger.lost(&findings::kind(entry), &findings::name(entry), &why, &step);
                Ok(())
            }
        }
    }

    /// True when an entry is on a table of the platform that this project does not have.
    fn gone(&self, entry: &Entry) -> bool {
        let on = entry.dependencies.iter().filter_map(|id| self.map.entry(*id));
        let mut tables = on.filter(|e| e.desc == ObjectType::Table && self.map.place(e) == Place::Managed);
        tables.any(|table| !places::there(table, self.project))
    }

    /// Comments on what was made on the platform's tables.
    ///
    /// # Errors
    /// A lost connection.
    pub(crate) async fn attached(&self, entry: &Entry) -> Result<()> {
        let Some(on) = self.map.on(entry) else { return Ok(()) };
        let made = matches!(on.desc, ObjectType::Trigger | ObjectType::Policy) && !places::there(on, self.project);
        if made { self.make(entry).await } else { Ok(()) }
    }

    /// Privileges that the user gave to roles of the application on things of the platform.
    ///
    /// # Errors
    /// A lost connection.
    pub(crate) async fn custom_privileges(&self, entry: &Entry) -> Result<()> {
        let there = self.map.on(entry).is_none_or(|on| places::there(on, self.project) && !self.gone(on));
        for statement in statements(entry.defn.as_deref().unwrap_or_default()) {
            let of_user = statement.starts_with("GRANT ")
                && grantee(statement).is_some_and(|role| role != "PUBLIC" && !platform::reserves_role(&role));
            if there && of_user {
                self.attempt("privileges", &findings::name(entry), &format!("{statement};")).await?;
            }
        }
        Ok(())
    }

    /// Default privileges: those of roles that can be acted as become the run's, the platform's stay.
    ///
    /// # Errors
    /// A lost connection.
    pub(crate) async fn default_privileges(&self, entries: &[&Entry]) -> Result<()> {
        let role = |e: &Entry| {
            let (_, rest) = e.defn.as_deref()?.split_once(" FOR ROLE ")?;
            name(rest).map(|(role, _)| role)
        };
        let schemas: Vec<String> = self.map.application.iter().cloned().collect();
        let mut own = project::own_default_privileges(self.session, &schemas).await?;
        let mut others = BTreeSet::new();
        let mut rest = Vec::new();
        for entry in entries.iter().filter(|e| e.desc == ObjectType::DefaultAcl) {
            let Some(role) = role(entry) else { continue };
            if self.map.managed.contains(namespace(entry))
                || (platform::reserves_role(&role) && role != self.project.role)
            {
                others.insert(format!(
                    "{role} in {}",
                    if namespace(entry).is_empty() { "all schemas" } else { namespace(entry) }
                ));
            } else if role == self.project.role {
                own.extend(statements(entry.defn.as_deref().unwrap_or_default()).into_iter().map(str::to_owned));
            } else {
                rest.push(entry);
            }
        }
        if !own.is_empty() {
            // In one transaction: what the project had must not be gone where the run's cannot be set.
            self.attempt("default privileges", &self.project.role, &(own.join(";\n") + ";")).await?;
        }
        for entry in rest {
            self.attempt("default privileges", &findings::name(entry), entry.defn.as_deref().unwrap_or_default())
                .await?;
        }
        if !others.is_empty() {
            let told: Vec<String> = others.into_iter().collect();
            self.ledger.left("default privileges", &told.join(", "), "of the platform's roles and schemas");
        }
        Ok(())
    }

    /// Settings, rights and comment of the database, given as texts of statements.
    ///
    /// # Errors
    /// A lost connection.
    pub(crate) async fn settings(&self, texts: &[String]) -> Result<()> {
        for statement in texts.iter().flat_map(|text| statements(text)) {
            if platform::own_setting(statement) {
                self.ledger.left("setting", "app.settings.jwt_*", "it says something of the old project only");
                continue;
            }
            let of_role = statement.strip_prefix("ALTER ROLE ").and_then(name).map(|(role, _)| role);
            let of_platform = of_role.is_some_and(|role| role != self.project.role && platform::reserves_role(&role));
            let foreign = statement.starts_with("GRANT ") || statement.starts_with("REVOKE ");
            let reserved =
                foreign && grantee(statement).is_some_and(|role| role == "PUBLIC" || platform::reserves_role(&role));
            if of_platform || reserved {
                self.ledger.left(
                    "setting",
                    &statement.chars().take(200).collect::<String>(),
                    "of a role of the platform",
                );
                continue;
            }
            self.attempt("setting", "of the database", &format!("{statement};")).await?;
        }
        Ok(())
    }

    /// Values of sequences: of the application's as they were, of the platform's never backwards.
    ///
    /// # Errors
    /// A lost connection.
    pub(crate) async fn sequences(&self, entries: &[&Entry]) -> Result<()> {
        let all: Vec<(String, String)> = entries
            .iter()
            .filter_map(|entry| self.value(entry).map(|statement| (findings::name(entry), statement)))
            .collect();
        self.attempt_all("value of sequence", &all).await
    }

    /// The statement that sets the value of a sequence, where it is to be set.
    fn value(&self, entry: &Entry) -> Option<String> {
        let (schema, sequence) = (namespace(entry), tag(entry));
        if self.map.application.contains(schema) {
            return entry.defn.clone().filter(|_| !self.has_failed_sequence(entry));
        }
        let passes = matches!(schema, "cron" | "net" | "vault" | "pgsodium")
            || (schema, sequence) == ("realtime", "subscription_id_seq");
        if !self.map.managed.contains(schema) || passes {
            return None;
        }
        if !self.project.has("relation", schema, sequence) {
            self.ledger.absent(schema, format!("sequence {sequence}"));
            return None;
        }
        sequences::never_back(entry)
    }

    fn has_failed_sequence(&self, entry: &Entry) -> bool {
        !self.project.has("relation", namespace(entry), tag(entry))
            && entry
                .dependencies
                .iter()
                .any(|id| self.failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).contains(id))
    }
}

/// True when an existing object can be recognised by its name.
fn has_name(entry: &Entry) -> bool {
    !matches!(entry.desc, ObjectType::Comment | ObjectType::SecurityLabel)
}

/// True when an entry is part of a table.
fn of_table(entry: &Entry) -> bool {
    matches!(
        entry.desc,
        ObjectType::Constraint
            | ObjectType::FkConstraint
            | ObjectType::CheckConstraint
            | ObjectType::Index
            | ObjectType::Rule
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_of_a_triggers_function_is_found() {
        let trigger = "CREATE TRIGGER x AFTER INSERT ON auth.users FOR EACH ROW WHEN ((a = 'EXECUTE FUNCTION b.c')) EXECUTE FUNCTION \"my app\".f();";
        assert_eq!(function_schema(trigger).as_deref(), Some("my app"));
    }
}
