//! Making objects as a role that is no superuser: each in a transaction of its own, many in one request; what is refused
//! is made once more by itself, in all the ways there are, and noted with its reason, and everything else goes on.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};

use libpgdump::{Entry, ObjectType};

use crate::archive::catalogue::namespace;
use crate::error::Result;
use crate::postgres::connect::session::Session;
use crate::postgres::error::is_rejection;
use crate::postgres::target::project;
use crate::postgres::target::project::Project;
use crate::postgres::target::requests::Requests;
use crate::restore::entry::{self, by_hand, grantable, owned, step, when_there};
use crate::restore::findings;
use crate::restore::findings::Ledger;
use crate::restore::grants::Grant;
use crate::restore::supabase::places::Map;
use crate::restore::supabase::{places, platform};
use crate::sql::names::quote;
use crate::sql::privileges;
use crate::sql::statements::name;

/// The numbers of refused entries, known to all sessions.
pub(crate) type Failed = Mutex<HashSet<i32>>;

/// Makes objects in one session.
pub(crate) struct Applier<'a> {
    /// The session, set up with [`SETTINGS`].
    pub(crate) session: &'a Session,
    /// The target.
    pub(crate) project: &'a Project,
    /// The run.
    pub(crate) map: &'a Map<'a>,
    /// Takes what is refused.
    pub(crate) ledger: &'a Ledger,
    /// Entries that were not made.
    pub(crate) failed: &'a Failed,
    /// Schemas in which an owner may not make anything, so that its objects are given to it by [`opened`].
    pub(crate) closed: &'a Closed,
    /// True when everything shall belong to the session's role.
    pub(crate) no_owner: bool,
}

/// Schemas with an owner of objects each.
pub(crate) type Closed = Mutex<HashSet<(String, String)>>;

fn closed(schema: &str, owner: &str) -> (String, String) {
    (schema.to_owned(), owner.to_owned())
}

/// Statements that make an object, and give it to its owner.
fn given(sql: &str, owner: &str, what: &str) -> String {
    format!("{sql}\nALTER {what} OWNER TO {};", quote(owner))
}

/// The same where the owner may not make anything in the schema: it needs that at this moment only.
fn opened(sql: &str, schema: &str, owner: &str, what: &str) -> String {
    let (schema, quoted) = (quote(schema), quote(owner));
    format!(
        "{sql}\nGRANT CREATE ON SCHEMA {schema} TO {quoted};\nALTER {what} OWNER TO {quoted};\n\
         REVOKE CREATE ON SCHEMA {schema} FROM {quoted};"
    )
}

/// True for an entry that makes nothing.
fn is_void(entry: &Entry) -> bool {
    let defn = entry.defn.as_deref().unwrap_or_default();
    defn.trim().is_empty() || defn.starts_with("--")
}

impl Applier<'_> {
    fn fail(&self, entry: &Entry) {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).insert(entry.dump_id);
    }

    fn has_failed(&self, id: i32) -> bool {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).contains(&id)
    }

    /// The object that this entry is part of and that was not made.
    fn blocked(&self, entry: &Entry) -> Option<&Entry> {
        let part = entry::is_part(entry);
        let mut failed = entry.dependencies.iter().filter(|id| part && self.has_failed(**id));
        // One of that name may be there, with --into-existing.
        failed.find_map(|id| self.map.entry(*id).filter(|on| !places::there(on, self.project)))
    }

    /// Notes that an entry is not made since what it is part of was not; true when that is so.
    fn skip(&self, entry: &Entry) -> bool {
        let Some(on) = self.blocked(entry) else { return false };
        self.fail(entry);
        if !matches!(entry.desc, ObjectType::Acl | ObjectType::Comment | ObjectType::SecurityLabel) {
            let why = format!("needs {} {}, which is not there", findings::kind(on), findings::name(on));
            let defn = entry.defn.as_deref().unwrap_or_default();
            self.ledger.lost(&findings::kind(entry), &findings::name(entry), &why, &when_there(defn));
        }
        true
    }

    /// Runs one statement of an entry's; false where it was refused, which is noted.
    ///
    /// # Errors
    /// An error that is not about the statement: a lost connection.
    pub(crate) async fn attempt(&self, kind: &str, name: &str, sql: &str) -> Result<bool> {
        self.attempt_as(kind, name, sql, sql).await
    }

    /// Runs statements of objects of one kind, by name, many in one request; what is refused is noted.
    ///
    /// # Errors
    /// As [`Self::attempt`].
    pub(crate) async fn attempt_all(&self, kind: &str, statements: &[(String, String)]) -> Result<()> {
        let texts: Vec<&str> = statements.iter().map(|(_, sql)| sql.as_str()).collect();
        let doing = |number| statements.get(number).map_or_else(String::new, |(name, _)| format!("{kind} {name}"));
        for (number, error) in Requests::default().all(self.session, &texts, doing).await? {
            if !is_rejection(&error) {
                return Err(error);
            }
            if let Some((name, sql)) = statements.get(number) {
                self.ledger.refused(kind, name, &error.cause(), &step(&error, sql), sql);
            }
        }
        Ok(())
    }

    /// As [`Self::attempt`], reported with another text of the statement.
    async fn attempt_as(&self, kind: &str, name: &str, sql: &str, told: &str) -> Result<bool> {
        match project::transaction(self.session, sql, &format!("{kind} {name}")).await {
            Ok(()) if !self.gave(sql).await? => {
                let why = format!("role {} may not give all of these privileges", self.project.role);
                self.ledger.lost(kind, name, &why, &by_hand(told));
                Ok(false)
            }
            Ok(()) => Ok(true),
            Err(error) if is_rejection(&error) => {
                self.ledger.refused(kind, name, &error.cause(), &step(&error, told), told);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// True when a `GRANT` gave its privilege: one that gives nothing is no error to the server. True for other
    /// statements.
    async fn gave(&self, sql: &str) -> Result<bool> {
        let parts = || {
            let (before, role) = split_grantee(sql)?;
            let (privileges, what) = before.strip_prefix("GRANT ")?.split_once(" ON ")?;
            Some((privileges, what, role))
        };
        let Some((privileges, what, role)) = parts().filter(|(_, _, role)| role != "PUBLIC") else { return Ok(true) };
        let Some((has, all)) = project::granted(self.session, what, &role).await? else { return Ok(true) };
        if privileges == "ALL" {
            return Ok(has.len() >= all);
        }
        let mut wanted = privileges.split(',').filter_map(|word| word.split('(').next()).map(str::trim);
        // Of a list of columns only the first word is a privilege.
        Ok(wanted.all(|word| has.iter().any(|p| p == word) || !word.chars().all(|c| c.is_ascii_uppercase())))
    }

    /// Makes objects in their order, as [`Self::make`] makes each, many in one request.
    ///
    /// # Errors
    /// As [`Self::attempt`].
    pub(crate) async fn make_all(&self, entries: &[&Entry]) -> Result<()> {
        let mut requests = Requests::default();
        let mut left = entries.iter().copied().filter(|entry| !is_void(entry));
        let mut next: VecDeque<(&Entry, String)> = VecDeque::new();
        loop {
            // What was refused meanwhile takes its parts along.
            next.retain(|(entry, _)| !self.skip(entry));
            while next.len() < requests.most()
                && let Some(entry) = left.next()
            {
                if !self.skip(entry) {
                    next.push_back((entry, self.likely(entry)));
                }
            }
            if next.is_empty() {
                return Ok(());
            }
            let texts: Vec<&str> = next.iter().map(|(_, sql)| sql.as_str()).collect();
            let doing = |number| next.get(number).map_or_else(String::new, |(entry, _)| findings::name(entry));
            let ran = requests.run(self.session, &texts, doing).await?;
            for (entry, _) in next.drain(..ran.done) {
                self.note_owner(entry);
            }
            if ran.refused.is_some()
                && let Some((entry, _)) = next.pop_front()
            {
                self.make(entry).await?;
            }
        }
    }

    /// The statements that most likely make an object: with its owner, where the role can give it to that one.
    fn likely(&self, entry: &Entry) -> String {
        let sql = self.definition(entry);
        match (self.owner(entry), owned(entry)) {
            (Some(owner), Some(what)) if self.project.is(owner) => {
                let schema = namespace(entry);
                if self.closed.lock().unwrap_or_else(PoisonError::into_inner).contains(&closed(schema, owner)) {
                    opened(&sql, schema, owner, &what)
                } else {
                    given(&sql, owner, &what)
                }
            }
            _ => sql,
        }
    }

    /// Notes the owner that an object was not given.
    fn note_owner(&self, entry: &Entry) {
        if let (Some(owner), Some(_)) = (self.owner(entry), owned(entry))
            && !self.project.is(owner)
        {
            self.ledger.unowned(
                owner,
                &self.no_member(),
                format!("{} {}", findings::kind(entry), findings::name(entry)),
            );
        }
    }

    fn no_member(&self) -> String {
        format!("role {} is not a member of it", self.project.role)
    }

    /// The definition of an object with its access method and PostgreSQL's own privileges.
    fn definition(&self, entry: &Entry) -> String {
        let mut sql = entry.defn.clone().unwrap_or_default();
        if let Some(method) = entry.tableam.as_deref().filter(|name| !matches!(*name, "" | "heap"))
            && entry.relkind != Some('p')
        {
            sql = format!("SET LOCAL default_table_access_method = {};\n{sql}", quote(method));
        }
        if self.project.default_privileges
            && let Some(plain) = grantable(entry).and_then(|(word, name)| privileges::plain_privileges(word, &name))
        {
            sql.push('\n');
            sql.push_str(&plain);
        }
        sql
    }

    /// Makes an object with its owner and PostgreSQL's own privileges.
    ///
    /// # Errors
    /// As [`Self::attempt`].
    pub(crate) async fn make(&self, entry: &Entry) -> Result<()> {
        if is_void(entry) || self.skip(entry) {
            return Ok(());
        }
        let (sql, defn) = (self.definition(entry), entry.defn.as_deref().unwrap_or_default());
        let mut made = false;
        if let (Some(owner), Some(what)) = (self.owner(entry), owned(entry)) {
            made = self.with_owner(entry, &sql, owner, &what).await?;
        }
        if !made && !self.attempt_as(&findings::kind(entry), &findings::name(entry), &sql, defn).await? {
            self.fail(entry);
        }
        Ok(())
    }

    /// The role that an object is to be given to, where that is not the session's.
    fn owner<'e>(&self, entry: &'e Entry) -> Option<&'e str> {
        entry.owner.as_deref().filter(|owner| !self.no_owner && !owner.is_empty() && *owner != self.project.role)
    }

    /// Gives what is there already to its owner.
    ///
    /// # Errors
    /// As [`Self::attempt`].
    pub(crate) async fn own(&self, entry: &Entry) -> Result<()> {
        if let (Some(owner), Some(what)) = (self.owner(entry), owned(entry))
            && !self.with_owner(entry, "", owner, &what).await?
        {
            tracing::debug!("{} stays with its owner", findings::name(entry));
        }
        Ok(())
    }

    /// Makes an object and gives it to its owner; false where that cannot be, noted if it can be made without.
    async fn with_owner(&self, entry: &Entry, sql: &str, owner: &str, what: &str) -> Result<bool> {
        let object = format!("{} {}", findings::kind(entry), findings::name(entry));
        if !self.project.is(owner) {
            self.ledger.unowned(owner, &self.no_member(), object);
            return Ok(false);
        }
        let schema = namespace(entry);
        let mut tries = vec![given(sql, owner, what)];
        if !schema.is_empty() {
            tries.push(opened(sql, schema, owner, what));
        }
        let mut refusal = String::new();
        for (number, sql) in tries.iter().enumerate() {
            match project::transaction(self.session, sql, &object).await {
                Ok(()) if number > 0 => {
                    self.closed.lock().unwrap_or_else(PoisonError::into_inner).insert(closed(schema, owner));
                    return Ok(true);
                }
                Ok(()) => return Ok(true),
                Err(error) if error.is_sqlstate("42501") => refusal = error.cause(),
                // Not about the owner: reported by the attempt without one.
                Err(error) if is_rejection(&error) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        self.ledger.unowned(owner, &refusal, object);
        Ok(false)
    }

    /// Gives privileges. A grantor that cannot be acted as is noted, its grants then come from the role itself.
    ///
    /// # Errors
    /// As [`Self::attempt`].
    pub(crate) async fn privileges(&self, entry: &Entry) -> Result<()> {
        self.privileges_of(&[entry]).await
    }

    /// Gives the privileges of several entries, many in one request, as [`Self::privileges`] gives each.
    ///
    /// # Errors
    /// As [`Self::attempt`].
    pub(crate) async fn privileges_of(&self, entries: &[&Entry]) -> Result<()> {
        let mut all = Vec::new();
        for entry in entries.iter().copied().filter(|entry| !self.skip(entry)) {
            let (whole, ours) = self.grants(entry);
            if ours && !whole.is_empty() {
                let text = whole.join(";\n") + ";";
                all.push((entry, whole, text));
                continue;
            }
            for statement in whole {
                self.attempt("privileges", &findings::name(entry), &statement).await?;
            }
        }
        let texts: Vec<&str> = all.iter().map(|(_, _, text)| text.as_str()).collect();
        let refused = Requests::default().all(self.session, &texts, |_| "give privileges".to_owned()).await?;
        for (number, error) in refused {
            if !is_rejection(&error) {
                return Err(error);
            }
            let Some((entry, whole, _)) = all.get(number) else { continue };
            for statement in whole {
                self.attempt("privileges", &findings::name(entry), statement).await?;
            }
        }
        Ok(())
    }

    /// The statements that give an entry's privileges; true where the object is this role's to give.
    fn grants(&self, entry: &Entry) -> (Vec<String>, bool) {
        // The objects of an extension are not this role's to give: each grant is checked.
        let ours = self.map.on(entry).is_some() || namespace(entry).is_empty();
        let mut whole = Vec::new();
        for Grant { grantor, statement } in Grant::all(entry.defn.as_deref().unwrap_or_default()) {
            if let Some(role) = grantee(&statement)
                && role != "PUBLIC"
                && !self.project.roles.contains_key(&role)
            {
                if statement.starts_with("REVOKE ") {
                    // Of the owner that the object had: it has nothing here.
                } else if platform::reserves_role(&role) {
                    self.ledger.no_grantee(&role);
                } else {
                    let why = format!("role {role} does not exist");
                    self.ledger.lost("privileges", &findings::name(entry), &why, &by_hand(&statement));
                }
                continue;
            }
            whole.push(self.granted_by(entry, grantor.as_deref(), &statement));
        }
        (whole, ours)
    }

    /// A grant as another role gave it, where that can be.
    fn granted_by(&self, entry: &Entry, grantor: Option<&str>, statement: &str) -> String {
        match grantor {
            Some(role) if role != self.project.role && self.project.is(role) => {
                format!("SET LOCAL ROLE {}; {statement}; RESET ROLE", quote(role))
            }
            Some(role) if role != self.project.role => {
                self.ledger.note(format!(
                    "{}: granted by {role} in the run, by {} here: {statement}",
                    findings::name(entry),
                    self.project.role
                ));
                statement.to_owned()
            }
            _ => statement.to_owned(),
        }
    }
}

/// The role that `GRANT ... TO role` or `REVOKE ... FROM role` names; `PUBLIC` as it stands.
pub(crate) fn grantee(statement: &str) -> Option<String> {
    split_grantee(statement).map(|(_, role)| role)
}

/// The words before the role, and the role.
fn split_grantee(statement: &str) -> Option<(&str, String)> {
    let statement = statement.trim().trim_end_matches(';').trim_end();
    let statement = statement.strip_suffix(" WITH GRANT OPTION").unwrap_or(statement);
    let word = if statement.starts_with("REVOKE ") { " FROM " } else { " TO " };
    // The one whose role is all that follows: names may hold the word too.
    statement.match_indices(word).find_map(|(at, _)| {
        let (role, rest) = name(statement.get(at + word.len()..)?)?;
        rest.is_empty().then_some((statement.get(..at)?, role))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_role_of_a_grant_is_found() {
        let role = |text| grantee(text).unwrap();
        assert_eq!(
            role("GRANT SELECT(a),UPDATE(b) ON TABLE x.\"a TO b\" TO \"Odd TO one\" WITH GRANT OPTION"),
            "Odd TO one"
        );
        assert_eq!(role("GRANT ALL ON FUNCTION x.f(a text) TO anon;"), "anon");
        assert_eq!(role("REVOKE ALL ON TABLE x FROM PUBLIC"), "PUBLIC");
        assert_eq!(role("GRANT ALL ON TABLE x TO \"Odd\""), "Odd");
    }
}
