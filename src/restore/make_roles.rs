//! Makes the roles that a server lacks, in one transaction: all that it takes, or nothing where a role itself cannot be
//! made. What else it refuses (attributes, settings, memberships) is left out and handed back, to be listed.
//!
//! A membership is given as its saved grantor, grantors before those they gave to. A grantor that cannot act here, such as
//! the first superuser of the other server, is left out. No membership gives more than the saved one.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Error, Result};
use crate::human;
use crate::postgres::connect::session::Session;
use crate::postgres::target;
use crate::restore::attempt::attempt;
use crate::restore::roles::{membership, membership_with};
use crate::sql::names::quote;
use crate::sql::statements::name;

const DOING: &str = "create the missing roles";

/// A statement that was not carried out.
#[derive(Debug)]
pub(crate) struct Lost {
    pub(crate) kind: &'static str,
    pub(crate) name: String,
    pub(crate) why: String,
    pub(crate) statement: String,
}

impl Lost {
    /// The step that a person must take.
    pub(crate) const STEP: &'static str = "give it as a role that may, where it is needed";
}

/// The account of the roles that were made.
#[derive(Debug, Default)]
pub(crate) struct Made {
    pub(crate) lost: Vec<Lost>,
    pub(crate) notes: Vec<String>,
}

/// Runs the statements of a roles script.
///
/// # Errors
/// A role that cannot be made; anything that is refused, unless the rest `goes_on`. Nothing is made then.
pub(crate) async fn make(session: &Session, statements: Vec<String>, goes_on: bool) -> Result<Made> {
    let mut making = Making { session, goes_on, made: Made::default() };
    target::execute(session, "BEGIN", DOING).await?;
    if let Err(error) = making.all(statements).await {
        if let Err(lost) = target::execute(session, "ROLLBACK", DOING).await {
            tracing::debug!("{lost}");
        }
        return Err(error);
    }
    target::execute(session, "COMMIT", DOING).await?;
    Ok(making.made)
}

struct Making<'a> {
    session: &'a Session,
    goes_on: bool,
    made: Made,
}

impl Making<'_> {
    async fn all(&mut self, statements: Vec<String>) -> Result<()> {
        let (memberships, others): (Vec<String>, Vec<String>) =
            statements.into_iter().partition(|statement| membership(statement).is_some());
        for statement in others {
            if statement.starts_with("CREATE ROLE ") {
                target::execute(self.session, &statement, DOING).await?;
            } else if let Some((role, options)) = attributes(&statement) {
                self.attributes(&statement, &role, options).await?;
            } else if let Some(refusal) = self.attempt(&statement).await? {
                self.lose("statement about a role", statement.clone(), refusal, statement)?;
            }
        }
        self.memberships(&memberships).await
    }

    async fn attempt(&self, statement: &str) -> Result<Option<Error>> {
        attempt(self.session, statement, DOING).await
    }

    fn lose(&mut self, kind: &'static str, name: String, refusal: Error, statement: String) -> Result<()> {
        if !self.goes_on {
            return Err(refusal);
        }
        self.made.lost.push(Lost { kind, name, why: refusal.cause(), statement });
        Ok(())
    }

    /// Alters a new role; where some attributes are refused, without those that only a superuser, or only a role that has
    /// them itself, may give. A new role has none of them.
    async fn attributes(&mut self, statement: &str, role: &str, options: &str) -> Result<()> {
        let Some(refusal) = self.attempt(statement).await? else { return Ok(()) };
        let begin = statement.strip_suffix(options).unwrap_or_default();
        for words in [&HIGH[..3], &HIGH[..]] {
            let (less, lost) = without(options, words);
            if self.attempt(&format!("{begin}{less}")).await?.is_none() {
                if lost.is_empty() {
                    return Ok(());
                }
                return self.lose(
                    "attributes of role",
                    format!("{role} ({})", lost.join(", ")),
                    refusal,
                    statement.to_owned(),
                );
            }
        }
        Err(refusal)
    }

    async fn memberships(&mut self, statements: &[String]) -> Result<()> {
        let mut pending = self.grants(statements).await?;
        let mut given = Vec::new();
        while !pending.is_empty() {
            let (before, mut refused) = (pending.len(), Vec::new());
            for grant in pending {
                if self.attempt(&grant.statement).await?.is_some() {
                    refused.push(grant);
                }
            }
            pending = refused;
            if pending.len() < before {
                continue;
            }
            // Nobody that is still to come would let these grantors act.
            let is_hopeless = |one: &Grant| {
                !pending
                    .iter()
                    .any(|other| other.with.admin && other.of == one.of && Some(&other.member) == one.grantor.as_ref())
            };
            let all = !pending.iter().any(is_hopeless);
            let (now, later): (Vec<Grant>, Vec<Grant>) = {
                let hopeless: Vec<bool> = pending.iter().map(|one| all || is_hopeless(one)).collect();
                let mut marks = hopeless.into_iter();
                pending.into_iter().partition(|_| marks.next().unwrap_or(true))
            };
            for grant in now {
                let label = format!("of {} in {}", grant.member, grant.of);
                match self.attempt(&grant.plain).await? {
                    None => given.push(label),
                    Some(refusal) => self.lose("membership", label, refusal, grant.plain)?,
                }
            }
            pending = later;
        }
        if !given.is_empty() {
            let note = format!(
                "memberships given by the role of this session, since their saved grantors cannot give them here: {}",
                human::shortened(given.into_iter(), 12, ", ")
            );
            self.made.notes.push(note);
        }
        Ok(())
    }

    /// The memberships in the words of this server.
    async fn grants(&mut self, statements: &[String]) -> Result<Vec<Grant>> {
        let mut all: Vec<Grant> = statements.iter().filter_map(|statement| Grant::parse(statement)).collect();
        // What one role has in another is what all its grants give together.
        let mut together: BTreeMap<(String, String), With> = BTreeMap::new();
        for one in &all {
            together
                .entry((one.of.clone(), one.member.clone()))
                .and_modify(|with| *with = with.and(one.with))
                .or_insert(one.with);
        }
        for one in &mut all {
            one.with = together.get(&(one.of.clone(), one.member.clone())).copied().unwrap_or(one.with);
        }
        if self.session.server_version_num() >= 160_000 {
            for one in &mut all {
                one.plain = one.text(&one.with.options());
            }
            return Ok(all);
        }
        let sql = "SELECT rolname::pg_catalog.text FROM pg_catalog.pg_roles WHERE NOT rolinherit";
        let not_inheriting: BTreeSet<String> =
            target::strings(&self.session.client, sql, DOING).await?.into_iter().collect();
        let mut seen = BTreeSet::new();
        all.retain(|one| seen.insert((one.of.clone(), one.member.clone())));
        let (wider, mut all): (Vec<Grant>, Vec<Grant>) = all
            .into_iter()
            .partition(|one| !one.with.set || one.with.inherit == Some(false) && !not_inheriting.contains(&one.member));
        for one in wider {
            let why = "this server has only whole memberships (PostgreSQL 16 brought INHERIT FALSE and SET FALSE): it would give more than was saved";
            self.lose("membership", format!("of {} in {}", one.member, one.of), Error::failed(why), one.statement)?;
        }
        for one in &mut all {
            one.plain = one.text(if one.with.admin { " WITH ADMIN OPTION" } else { "" });
            one.statement = one
                .grantor
                .as_ref()
                .map_or_else(|| one.plain.clone(), |grantor| format!("{} GRANTED BY {}", one.plain, quote(grantor)));
        }
        Ok(all)
    }
}

/// Attributes that not everybody who makes roles may give; the first three only a superuser on servers before 16.
const HIGH: [&str; 5] = ["SUPERUSER", "REPLICATION", "BYPASSRLS", "CREATEROLE", "CREATEDB"];

/// The role and the options of `ALTER ROLE x WITH ...`.
pub(crate) fn attributes(statement: &str) -> Option<(String, &str)> {
    let (role, rest) = name(statement.strip_prefix("ALTER ROLE ")?)?;
    rest.starts_with(" WITH ").then_some((role, rest))
}

/// The options without these words, and those among them that gave something. `pg_dumpall` writes them before any text
/// in quotes.
fn without<'a>(options: &str, words: &[&'a str]) -> (String, Vec<&'a str>) {
    let (mut less, mut lost) = (options.to_owned(), Vec::new());
    for word in words {
        less = less.replacen(&format!(" NO{word}"), "", 1);
        let given = format!(" {word}");
        if less.contains(&given) {
            lost.push(*word);
            less = less.replacen(&given, "", 1);
        }
    }
    (less, lost)
}

/// The options of a membership.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct With {
    admin: bool,
    /// `None` where it is the member's own attribute that counts.
    inherit: Option<bool>,
    set: bool,
}

impl With {
    /// The rights of both.
    fn and(self, other: Self) -> Self {
        let inherit = match (self.inherit, other.inherit) {
            (Some(true), _) | (_, Some(true)) => Some(true),
            (None, _) | (_, None) => None,
            _ => Some(false),
        };
        Self { admin: self.admin || other.admin, inherit, set: self.set || other.set }
    }

    /// In the words of a server since 16.
    fn options(self) -> String {
        let truth = |yes| if yes { "TRUE" } else { "FALSE" };
        let inherit = self.inherit.map_or_else(String::new, |yes| format!(", INHERIT {}", truth(yes)));
        format!(" WITH ADMIN {}{inherit}, SET {}", truth(self.admin), truth(self.set))
    }
}

/// `GRANT a TO b`.
#[derive(Debug)]
struct Grant {
    of: String,
    member: String,
    with: With,
    grantor: Option<String>,
    /// As it was saved.
    statement: String,
    /// The same without a grantor.
    plain: String,
}

impl Grant {
    /// `pg_dumpall` writes `GRANT a TO b WITH ADMIN OPTION, INHERIT TRUE, SET FALSE GRANTED BY c`; older ones know of
    /// `ADMIN OPTION` only.
    fn parse(statement: &str) -> Option<Self> {
        let (of, member, rest) = membership_with(statement)?;
        let (options, grantor) = rest.split_once(" GRANTED BY ").unwrap_or((rest, ""));
        let options: Vec<&str> = options.strip_prefix(" WITH ").unwrap_or_default().split(", ").collect();
        let has = |word: &str| options.contains(&word);
        let inherit = if has("INHERIT TRUE") { Some(true) } else { has("INHERIT FALSE").then_some(false) };
        let with = With { admin: has("ADMIN OPTION") || has("ADMIN TRUE"), inherit, set: !has("SET FALSE") };
        let grantor = name(grantor).map(|(grantor, _)| grantor);
        Some(Self { of, member, with, grantor, statement: statement.to_owned(), plain: String::new() })
    }

    fn text(&self, options: &str) -> String {
        format!("GRANT {} TO {}{options}", quote(&self.of), quote(&self.member))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_membership_is_read_with_its_options() {
        let grant =
            Grant::parse("GRANT \"a WITH b\" TO c WITH ADMIN OPTION, INHERIT FALSE, SET FALSE GRANTED BY \"d WITH e\"");
        let grant = grant.unwrap();
        assert_eq!((grant.of.as_str(), grant.member.as_str()), ("a WITH b", "c"));
        assert_eq!(grant.grantor.as_deref(), Some("d WITH e"));
        assert_eq!(grant.with, With { admin: true, inherit: Some(false), set: false });
        let old = Grant::parse("GRANT a TO b").unwrap();
        assert_eq!((old.grantor, old.with), (None, With { admin: false, inherit: None, set: true }));
        assert_eq!(grant.with.and(old.with), With { admin: true, inherit: None, set: true });
    }

    #[test]
    fn attributes_are_taken_away_with_their_opposites() {
        let options = " WITH NOSUPERUSER NOINHERIT CREATEROLE NOCREATEDB LOGIN REPLICATION NOBYPASSRLS VALID UNTIL 'x'";
        let (less, lost) = without(options, &HIGH);
        assert_eq!(less, " WITH NOINHERIT LOGIN VALID UNTIL 'x'");
        assert_eq!(lost, ["REPLICATION", "CREATEROLE"]);
    }
}
