//! Making the objects of a run in a plain database, entry by entry: each in a transaction of its own, with the owner,
//! the tablespace and the access method that `pg_restore` would give it, and with PostgreSQL's own privileges whatever
//! the target's default privileges are. A refused entry is kept with its statement and its reason, and everything else
//! goes on; what was refused is tried again, since something made later may be what it lacked.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};

use libpgdump::{Entry, ObjectType};

use crate::archive::catalogue::{namespace, tag};
use crate::error::{Error, Result};
use crate::format::manifest::{Extension, Manifest};
use crate::postgres::connect::session::Session;
use crate::postgres::settings;
use crate::postgres::target;
use crate::postgres::target::project;
use crate::postgres::target::requests::Requests;
use crate::restore::board::Board;
use crate::restore::entry::{self, SETTINGS, is_refusal};
use crate::restore::extensions::{self, Moment};
use crate::restore::findings::{self, Ledger};
use crate::restore::grants::{Grant, give};
use crate::restore::options::Options;
use crate::restore::pieces;
use crate::restore::quick::{SMALL_BYTES, Sizes};
use crate::restore::validation::{Validation, in_two_steps, not_valid, validate};
use crate::sql::letters::sendable;
use crate::sql::names::quote;
use crate::sql::privileges;
use crate::sql::statements::statements;

/// An entry that was not made.
#[derive(Debug)]
struct Refused<'a> {
    entry: &'a Entry,
    why: Error,
}

/// An entry with the statements that make it.
struct Making<'a> {
    entry: &'a Entry,
    owner: Option<&'a str>,
    sql: String,
}

/// Makes entries.
pub(crate) struct Executor<'a> {
    options: &'a Options,
    ledger: &'a Ledger,
    /// The rights of the sessions' role.
    rights: target::Rights,
    /// The target gives privileges of its own to new objects.
    default_privileges: bool,
    tablespaces: BTreeSet<String>,
    /// The roles of the server.
    roles: BTreeSet<String>,
    /// The extensions of the run, with their versions.
    extensions: &'a [Extension],
    /// The encoding of the database that was saved.
    encoding: &'a str,
    /// Some of them are left out.
    lacks_extensions: bool,
    /// Places in the archive, by number.
    order: HashMap<i32, usize>,
    by_id: HashMap<i32, &'a Entry>,
    sizes: Sizes<'a>,
    /// Foreign keys that are made as not valid, and validated afterwards.
    later: Mutex<HashSet<i32>>,
    /// By place in the archive.
    refused: Mutex<BTreeMap<usize, Refused<'a>>>,
}

/// True for what is restored by other means: the contents, the database itself and what is attached to it, settings of
/// the session.
fn is_elsewhere(entry: &Entry) -> bool {
    entry::is_content_or_setting(entry)
        || matches!(entry.desc, ObjectType::Acl | ObjectType::Comment | ObjectType::SecurityLabel)
            && namespace(entry).is_empty()
            && tag(entry).starts_with("DATABASE ")
}

/// The access method of a table, where it is not the server's own.
fn method(entry: &Entry) -> Option<&str> {
    entry.tableam.as_deref().filter(|name| !matches!(*name, "" | "heap"))
}

/// True for event triggers and what is attached to one: they come last, so that they fire for nothing of the restore.
fn is_event_trigger(entry: &Entry) -> bool {
    entry.desc == ObjectType::EventTrigger || tag(entry).starts_with("EVENT TRIGGER ")
}

impl<'a> Executor<'a> {
    /// An executor for these entries, of an archive with `all`.
    ///
    /// # Errors
    /// A lost connection.
    pub(crate) async fn new(
        session: &Session,
        options: &'a Options,
        ledger: &'a Ledger,
        all: &'a [Entry],
        (manifest, lacks_extensions): (&'a Manifest, bool),
    ) -> Result<Self> {
        let server = target::server(session).await?;
        Ok(Self {
            options,
            ledger,
            rights: target::rights(session).await?,
            default_privileges: target::has_default_privileges(session).await?,
            tablespaces: server.tablespaces,
            roles: server.roles,
            extensions: &manifest.extensions,
            encoding: &manifest.source.encoding,
            lacks_extensions,
            order: all.iter().enumerate().map(|(at, e)| (e.dump_id, at)).collect(),
            by_id: all.iter().map(|e| (e.dump_id, e)).collect(),
            sizes: Sizes::new(manifest),
            later: Mutex::default(),
            refused: Mutex::default(),
        })
    }

    fn refused(&self) -> std::sync::MutexGuard<'_, BTreeMap<usize, Refused<'a>>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self, id: i32) -> usize {
        self.order.get(&id).copied().unwrap_or(usize::MAX)
    }

    /// The role of the sessions.
    pub(crate) fn role(&self) -> &str {
        &self.rights.role
    }

    /// True for an entry that was refused.
    pub(crate) fn has_refused(&self, id: i32) -> bool {
        self.refused().contains_key(&self.place(id))
    }

    /// Makes everything that comes before the rows, in the archive's order, then the privileges on it.
    ///
    /// # Errors
    /// A lost connection, or with `--exit-on-error` the first refusal.
    pub(crate) async fn before(&self, session: &Session, entries: &[&'a Entry]) -> Result<()> {
        let own: Vec<&Entry> = entry::sections(entries)
            .into_iter()
            .filter(|(e, after)| (!after || self.comes_early(e)) && !is_elsewhere(e))
            .map(|(e, _)| e)
            .collect();
        let (privileges, objects): (Vec<&Entry>, Vec<&Entry>) =
            own.into_iter().partition(|e| matches!(e.desc, ObjectType::Acl | ObjectType::DefaultAcl));
        for some in objects.chunk_by(|a, b| (a.desc == ObjectType::Extension) == (b.desc == ObjectType::Extension)) {
            if some.first().is_none_or(|entry| entry.desc != ObjectType::Extension) {
                self.make_all(session, some).await?;
                continue;
            }
            for entry in some {
                self.make(session, entry).await?;
                // Whole runs only: elsewhere the extension may be at work.
                if self.options.is_whole() {
                    extensions::call(session, self.ledger, &[tag(entry)], Moment::Before).await?;
                }
            }
        }
        self.again(session).await?;
        self.privileges(session, &privileges).await
    }

    /// Makes everything that comes after the rows: objects by these sessions at once, privileges, materialized views,
    /// and event triggers last.
    ///
    /// # Errors
    /// As [`Self::before`].
    pub(crate) async fn after(&self, sessions: &[Session], entries: &[&'a Entry]) -> Result<()> {
        let Some(first) = sessions.first() else { return Ok(()) };
        let own: Vec<&Entry> = entry::sections(entries)
            .into_iter()
            .filter(|(e, after)| *after && !self.comes_early(e) && !is_elsewhere(e))
            .map(|(e, _)| e)
            .collect();
        let (mut objects, mut privileges, mut views, mut last) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        // Behind foreign keys, whose check a policy of a table with forced row security would refuse.
        let mut forced = Vec::new();
        for entry in own {
            match entry.desc {
                ObjectType::RowSecurity => forced.push(entry),
                ObjectType::Acl | ObjectType::DefaultAcl => privileges.push(entry),
                ObjectType::MaterializedViewData => views.push(entry),
                _ if is_event_trigger(entry) => last.push(entry),
                _ => objects.push(entry),
            }
        }
        // One session has nobody to share the work with.
        let mut validations = in_two_steps(&objects, |table| self.sizes.bytes(table), SMALL_BYTES);
        validations.retain(|_| sessions.len() > 1);
        *self.later() = validations.iter().map(Validation::id).collect();
        self.at_once(sessions, &objects).await?;
        self.later().clear();
        validations.retain(|one| !self.has_refused(one.id()));
        for (entry, why) in validate(sessions, validations).await? {
            if self.options.exit_on_error {
                return Err(why);
            }
            self.refused().insert(self.place(entry.dump_id), Refused { entry, why });
            // What is attached to it went with it.
            for entry in &objects {
                self.lacks(entry);
            }
        }
        self.again(first).await?;
        self.make_all(first, &forced).await?;
        self.privileges(first, &privileges).await?;
        if self.options.has_rows() {
            self.at_once(sessions, &views).await?;
            self.again(first).await?;
        }
        for entry in last {
            self.make(first, entry).await?;
        }
        Ok(())
    }

    /// Refreshes the materialized views that the run has filled, for rows that came into tables that exist.
    ///
    /// # Errors
    /// As [`Self::before`].
    pub(crate) async fn refresh(&self, session: &Session, entries: &[&'a Entry]) -> Result<()> {
        for entry in entries.iter().filter(|e| e.desc == ObjectType::MaterializedViewData) {
            self.make(session, entry).await?;
        }
        Ok(())
    }

    /// Row security stands before the first row is visible. A role that is bound by it could load no rows then: there
    /// it comes with the policies.
    fn comes_early(&self, entry: &Entry) -> bool {
        let forced = || {
            let table = entry.dependencies.first().and_then(|id| self.by_id.get(id));
            table.is_none_or(|e| e.defn.as_deref().unwrap_or_default().contains(" FORCE ROW LEVEL SECURITY"))
        };
        entry.desc == ObjectType::RowSecurity && (self.rights.superuser || !forced())
    }

    async fn privileges(&self, session: &Session, entries: &[&'a Entry]) -> Result<()> {
        if !self.options.has_privileges() {
            return self.revokes(session, entries).await;
        }
        self.make_all(session, entries).await?;
        self.grants(session).await
    }

    /// Takes from PUBLIC what PostgreSQL gives it on every new function, type or schema and the saved database had taken:
    /// owners only is what is left then, not everybody.
    async fn revokes(&self, session: &Session, entries: &[&'a Entry]) -> Result<()> {
        for acl in entries.iter().filter(|entry| entry.desc == ObjectType::Acl) {
            let all = statements(acl.defn.as_deref().unwrap_or_default());
            for revoke in all.into_iter().filter(|s| s.starts_with("REVOKE ") && s.ends_with(" FROM PUBLIC")) {
                match target::execute(session, revoke, "revoke from PUBLIC").await {
                    Err(error) if is_refusal(&error) && !self.options.exit_on_error => {
                        let (kind, name) = (findings::kind(acl), findings::name(acl));
                        self.ledger.refused(&kind, &name, &error.cause(), &entry::by_hand(revoke), revoke);
                    }
                    other => other?,
                }
            }
        }
        Ok(())
    }

    /// Gives the privileges of refused entries one by one.
    async fn grants(&self, session: &Session) -> Result<()> {
        let all: Vec<_> = self
            .refused()
            .extract_if(.., |_, refused| {
                refused.entry.desc == ObjectType::Acl && is_refusal(&refused.why) && !self.is_of_left_out(refused)
            })
            .collect();
        for (_, Refused { entry, .. }) in all {
            let grants = Grant::all(entry.defn.as_deref().unwrap_or_default());
            give(session, self.ledger, (&findings::kind(entry), &findings::name(entry)), &grants).await?;
        }
        Ok(())
    }

    async fn at_once(&self, sessions: &[Session], entries: &[&'a Entry]) -> Result<()> {
        let board = Board::new(entries, |id| self.by_id.get(&id).copied());
        let worker = |session| {
            let board = &board;
            async move {
                while let Some(item) = board.next().await {
                    let mut items = vec![item];
                    if self.is_quick(item.entry) {
                        items.extend(board.more(sessions.len(), |entry| self.is_quick(entry)));
                    }
                    let entries: Vec<&Entry> = items.iter().map(|item| item.entry).collect();
                    self.make_all(session, &entries).await?;
                    for item in items {
                        board.end(item);
                    }
                }
                Ok::<(), Error>(())
            }
        };
        futures::future::try_join_all(sessions.iter().map(worker)).await.map(drop)
    }

    /// Tries what was refused again, in the archive's order, until nothing more of it can be made.
    async fn again(&self, session: &Session) -> Result<()> {
        loop {
            let before = std::mem::take(&mut *self.refused());
            if before.is_empty() {
                return Ok(());
            }
            let tried = before.len();
            let entries: Vec<&Entry> = before.into_values().map(|refused| refused.entry).collect();
            self.make_all(session, &entries).await?;
            if self.refused().len() == tried && !self.in_pieces(session).await? {
                return Ok(());
            }
        }
    }

    /// Makes refused entries without those of their statements that the server does not take; true where it made one.
    async fn in_pieces(&self, session: &Session) -> Result<bool> {
        let all: Vec<(usize, &'a Entry)> =
            self.refused().iter().filter(|(_, r)| is_refusal(&r.why)).map(|(at, r)| (*at, r.entry)).collect();
        let mut some = false;
        for (at, entry) in all {
            let making = self.making(session, entry);
            let what = (findings::kind(entry), findings::name(entry));
            for whole in pieces::ways(entry, &making.sql) {
                let Some(lost) = pieces::make(session, &whole, &what).await? else { continue };
                self.refused().remove(&at);
                self.note_owner(&making);
                for (statement, error) in lost {
                    let step = entry::step(&error, &statement);
                    let kind = format!("statement of {}", what.0);
                    self.ledger.refused(&kind, &what.1, &error.cause(), &step, &statement);
                }
                some = true;
                break;
            }
        }
        Ok(some)
    }

    /// An entry with the statements that make it here.
    fn making(&self, session: &Session, entry: &'a Entry) -> Making<'a> {
        let owner = self.owner(entry);
        Making { entry, owner, sql: self.statement(session, entry, owner, method(entry)) }
    }

    /// Makes one entry; a refusal is kept.
    async fn make(&self, session: &Session, entry: &'a Entry) -> Result<()> {
        self.make_all(session, &[entry]).await
    }

    /// Makes entries in their order, each in a transaction of its own, many in one request; refusals are kept.
    async fn make_all(&self, session: &Session, entries: &[&'a Entry]) -> Result<()> {
        let mut requests = Requests::default();
        let mut left = entries.iter().copied();
        let mut next: VecDeque<Making<'a>> = VecDeque::new();
        loop {
            // What was refused meanwhile takes its parts along.
            next.retain(|making| !self.lacks(making.entry));
            while next.len() < requests.most()
                && let Some(entry) = left.next()
            {
                if self.lacks(entry) {
                    continue;
                }
                let making = self.making(session, entry);
                if making.sql.trim().is_empty() {
                    self.note_owner(&making);
                } else {
                    next.push_back(making);
                }
            }
            if next.is_empty() {
                return Ok(());
            }
            let texts: Vec<&str> = next.iter().map(|making| making.sql.as_str()).collect();
            let doing = |number| {
                let entry = next.get(number).map(|making: &Making<'_>| making.entry);
                entry.map_or_else(String::new, |e| format!("restore {} {}", findings::kind(e), findings::name(e)))
            };
            let ran = requests.run(session, &texts, doing).await?;
            next.drain(..ran.done).for_each(|made| self.note_owner(&made));
            if let Some(error) = ran.refused {
                if !is_refusal(&error) || self.options.exit_on_error {
                    return Err(error);
                }
                if let Some(making) = next.pop_front() {
                    let entry = making.entry;
                    if self.without_method(session, entry).await? {
                        self.note_owner(&making);
                    } else {
                        self.refused().insert(self.place(entry.dump_id), Refused { entry, why: error });
                    }
                }
            }
        }
    }

    /// Notes an owner that an entry could not be given.
    fn note_owner(&self, made: &Making<'_>) {
        let Making { entry, owner, .. } = made;
        if let (None, Some(saved)) = (owner, self.saved_owner(entry))
            && !self.belongs_to(entry, saved)
            && entry::owned(entry).is_some()
        {
            let why = self.cannot_give_to(saved).unwrap_or_default();
            let object = format!("{} {}", findings::kind(entry), findings::name(entry));
            self.ledger.unowned(saved, &why, object);
        }
    }

    /// True where an entry is part of a refused one, and is refused with it.
    fn lacks(&self, entry: &'a Entry) -> bool {
        let Some(on) = self.missing(entry) else { return false };
        let why = format!("needs {} {}, which was not restored", findings::kind(on), findings::name(on));
        self.refused().insert(self.place(entry.dump_id), Refused { entry, why: Error::failed(why) });
        true
    }

    fn is_quick(&self, entry: &Entry) -> bool {
        self.sizes.is_quick(entry, |id| self.by_id.get(&id).copied())
    }

    fn later(&self) -> std::sync::MutexGuard<'_, HashSet<i32>> {
        self.later.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a table whose access method is not here with the server's own, as the stock tools do; false where that is not
    /// what it was refused for.
    async fn without_method(&self, session: &Session, entry: &'a Entry) -> Result<bool> {
        let Some(method) = method(entry) else { return Ok(false) };
        if target::has_access_method(session, method).await? {
            return Ok(false);
        }
        let name = findings::name(entry);
        let sql = self.statement(session, entry, self.owner(entry), None);
        match project::transaction(session, &sql, &format!("restore {name} without its access method")).await {
            Err(error) if is_refusal(&error) => return Ok(false),
            made => made?,
        }
        let what = format!("{}.{}", quote(namespace(entry)), quote(tag(entry)));
        let statement = format!("ALTER {} {what} SET ACCESS METHOD {}", entry.desc, quote(method));
        let why = format!("{method} is not here: it was made with heap, rows and all");
        self.ledger.refused("access method of", &name, &why, &entry::when_there(&statement), &statement);
        Ok(true)
    }

    /// The refused entry that this one is part of.
    fn missing(&self, entry: &Entry) -> Option<&'a Entry> {
        if !entry::is_part(entry) {
            return None;
        }
        let refused = self.refused();
        let on = entry.dependencies.iter().filter(|id| **id != entry.dump_id);
        on.filter_map(|id| refused.get(&self.place(*id))).map(|refused| refused.entry).next()
    }

    fn saved_owner<'e>(&self, entry: &'e Entry) -> Option<&'e str> {
        entry.owner.as_deref().filter(|owner| !self.options.ignores_owners() && !owner.is_empty())
    }

    /// True where an entry is a role's without being given to it: the session's own, unless it was there before.
    fn belongs_to(&self, entry: &Entry, owner: &str) -> bool {
        if entry::is_public(entry) {
            return self.rights.owner_of_public.as_deref() == Some(owner);
        }
        owner == self.rights.role
    }

    /// The role that an entry is given to, where it does not belong to it by itself and can be given.
    fn owner<'e>(&self, entry: &'e Entry) -> Option<&'e str> {
        let saved = self.saved_owner(entry).filter(|owner| !self.belongs_to(entry, owner));
        saved.filter(|owner| self.cannot_give_to(owner).is_none())
    }

    /// The reason why nothing can be given to a role; `None` where it can.
    pub(crate) fn cannot_give_to(&self, owner: &str) -> Option<String> {
        if !self.roles.contains(owner) {
            return Some("there is no such role here".to_owned());
        }
        let may = self.rights.superuser || self.rights.can_be.contains(owner);
        (!may).then(|| format!("role {} cannot act as it", self.rights.role))
    }

    /// Everything that makes an entry, as one transaction's statements (`_printTocEntry` in PostgreSQL's
    /// `pg_backup_archiver.c`).
    fn statement(&self, session: &Session, entry: &Entry, owner: Option<&str>, method: Option<&str>) -> String {
        let defn = entry.defn.as_deref().unwrap_or_default();
        // `-- *not* creating schema, since initdb creates it`: only its owner may be another one.
        let defn = if defn.starts_with("--") { "" } else { defn };
        let mut sql = String::new();
        if entry.desc == ObjectType::MaterializedViewData {
            sql.push_str(&settings::as_the_database());
        }
        if let Some(method) = method.filter(|_| entry.relkind != Some('p')) {
            sql.push_str(&format!("SET LOCAL default_table_access_method = {};\n", quote(method)));
        }
        if let Some(space) = entry.tablespace.as_deref().and_then(|name| self.tablespace(entry, name)) {
            sql.push_str(&format!("SET LOCAL default_tablespace = {};\n", quote(&space)));
        }
        if entry.desc == ObjectType::Extension {
            sql.push_str(&extensions::statement(entry, self.extensions));
        } else if let Some(key) = not_valid(defn).filter(|_| self.later().contains(&entry.dump_id)) {
            sql.push_str(&key);
        } else {
            sql.push_str(defn);
        }
        if let Some(method) = method.filter(|_| entry.relkind == Some('p') && session.server_version_num() >= 170_000) {
            let table = format!("{}.{}", quote(namespace(entry)), quote(tag(entry)));
            sql.push_str(&format!("\nALTER TABLE {table} SET ACCESS METHOD {};", quote(method)));
        }
        if self.default_privileges
            && !defn.is_empty()
            && let Some((word, name)) = entry::grantable(entry)
            && let Some(plain) = privileges::plain_privileges(word, &name)
        {
            sql.push('\n');
            sql.push_str(&plain);
        }
        if let (Some(owner), Some(what)) = (owner, entry::owned(entry)) {
            sql.push_str(&format!("\nALTER {what} OWNER TO {};", quote(owner)));
        }
        sql
    }

    /// The tablespace of an entry here; none for the database's own.
    fn tablespace(&self, entry: &Entry, saved: &str) -> Option<String> {
        if saved.is_empty() {
            return None;
        }
        let name = self.options.tablespace(saved)?;
        if self.tablespaces.contains(name) {
            return Some(name.to_owned());
        }
        self.ledger.note(format!(
            "{} {}: was in tablespace {saved}, is in the database's own here",
            findings::kind(entry),
            findings::name(entry)
        ));
        None
    }

    /// True for what is attached to a member of an extension that was left out: no entry makes that member.
    fn is_of_left_out(&self, refused: &Refused<'_>) -> bool {
        let entry = refused.entry;
        let attached = matches!(
            entry.desc,
            ObjectType::Acl
                | ObjectType::Comment
                | ObjectType::SecurityLabel
                | ObjectType::Policy
                | ObjectType::RowSecurity
                | ObjectType::DefaultAcl
        );
        // Tables, objects, functions, schemas that are not there.
        let undefined = ["42P01", "42704", "42883", "3F000"].iter().any(|state| refused.why.is_sqlstate(state));
        let made = entry.dependencies.first().is_some_and(|id| self.by_id.contains_key(id));
        self.lacks_extensions && attached && undefined && !made
    }

    /// Moves what was refused to the findings; returns the entries that belong to extensions which were left out.
    pub(crate) fn finish(&self) -> Vec<i32> {
        let mut of_left_out = Vec::new();
        for refused in std::mem::take(&mut *self.refused()).into_values() {
            let entry = refused.entry;
            if self.is_of_left_out(&refused) {
                let (kind, name) = (findings::kind(entry), findings::name(entry));
                self.ledger.note(format!("{kind} {name}: of an extension that was left out"));
                of_left_out.push(entry.dump_id);
                continue;
            }
            let defn = entry.defn.as_deref().unwrap_or_default().trim();
            let defn = &sendable(defn, self.encoding);
            let step = if refused.why.sqlstate().is_some() {
                entry::step(&refused.why, defn)
            } else {
                entry::when_there(defn)
            };
            let (kind, name) = (findings::kind(entry), findings::name(entry));
            self.ledger.refused(&kind, &name, &refused.why.cause(), &step, defn);
        }
        of_left_out
    }
}

/// Sets a session up for definitions that `pg_dump` wrote; `std_strings` is the archive's own entry about them.
///
/// # Errors
/// A lost connection.
pub(crate) async fn set_up(session: &Session, all: &[Entry]) -> Result<()> {
    let doing = "set up the session for definitions";
    target::execute(session, SETTINGS, doing).await?;
    target::execute(session, "SET default_tablespace = ''; SET default_table_access_method = heap", doing).await?;
    // Not on every system: without it a session whose client is gone ends later.
    if let Err(error) = target::execute(session, "SET client_connection_check_interval = '2s'", doing).await {
        tracing::debug!("{error}");
    }
    let strings = all.iter().find(|e| e.desc == ObjectType::StdStrings).and_then(|e| e.defn.as_deref());
    match strings {
        Some(defn) => target::execute(session, defn, doing).await,
        None => Ok(()),
    }
}
