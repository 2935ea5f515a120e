//! The privileges of an entry, given one by one where the server refuses them together: a role or a grantor that is
//! missing here takes nothing else away.

use std::collections::HashMap;

use crate::error::{Error, Result};
use crate::postgres::connect::session::Session;
use crate::postgres::target::project;
use crate::restore::entry::{self, is_refusal};
use crate::restore::findings::Ledger;
use crate::sql::names::quote;
use crate::sql::statements::{name, statements};

/// A `GRANT` or `REVOKE` that stands by itself.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    /// The role that gave it, where that is not the owner.
    pub(crate) grantor: Option<String>,
    /// The statement, without a semicolon.
    pub(crate) statement: String,
}

impl Grant {
    /// The grants of an entry's definition. What another grantor gave stands between `SET SESSION AUTHORIZATION` and
    /// `RESET SESSION AUTHORIZATION` (`buildACLCommands` in PostgreSQL's `dumputils.c`).
    pub(crate) fn all(defn: &str) -> Vec<Self> {
        let mut all = Vec::new();
        let mut grantor: Option<String> = None;
        for statement in statements(defn) {
            if let Some(rest) = statement.strip_prefix("SET SESSION AUTHORIZATION ") {
                grantor = name(rest.trim_matches('\'')).map(|(role, _)| role);
            } else if statement == "RESET SESSION AUTHORIZATION" {
                grantor = None;
            } else {
                all.push(Self { grantor: grantor.clone(), statement: statement.to_owned() });
            }
        }
        all
    }

    /// The statements that give it: as pg_dump says, where the session `may_be` the grantor; else by taking the grantor's
    /// role, and at last by the role of the session.
    fn ways(&self, may_be: bool) -> Vec<String> {
        let plain = format!("{};", self.statement);
        let Some(grantor) = &self.grantor else { return vec![plain] };
        let role = quote(grantor);
        if may_be {
            return vec![format!("SET SESSION AUTHORIZATION {role};\n{plain}\nRESET SESSION AUTHORIZATION;")];
        }
        vec![format!("SET LOCAL ROLE {role};\n{plain}\nRESET ROLE;"), plain]
    }
}

/// Gives each of these privileges of `kind object`. Where a grantor cannot be acted as, the grants come from the session's
/// role, as they do with psql, and are listed; so is what is refused.
///
/// # Errors
/// A lost connection.
pub(crate) async fn give(
    session: &Session,
    ledger: &Ledger,
    (kind, object): (&str, &str),
    grants: &[Grant],
) -> Result<()> {
    let mut grantors: HashMap<&str, bool> = HashMap::new();
    for grant in grants {
        if let Some(grantor) = &grant.grantor
            && !grantors.contains_key(grantor.as_str())
        {
            grantors.insert(grantor, may_be(session, grantor).await?);
        }
        let may_be = grant.grantor.as_deref().and_then(|grantor| grantors.get(grantor)).is_none_or(|may_be| *may_be);
        let ways = grant.ways(may_be);
        let mut refusal = None;
        for (at, sql) in ways.iter().enumerate() {
            match project::transaction(session, sql, &format!("restore {kind} {object}")).await {
                Err(error) if is_refusal(&error) => refusal = refusal.or(Some(error)),
                Err(error) => return Err(error),
                Ok(()) => {
                    refusal = None;
                    if let Some(grantor) = grant.grantor.as_ref().filter(|_| at > 0) {
                        let why = format!("granted by {grantor} in the run, by the restoring role here");
                        let step = format!("nothing, where that will do; else, as {grantor}: {}", grant.statement);
                        ledger.lost(kind, object, &why, &step);
                    }
                    break;
                }
            }
        }
        // A role that is not here has nothing that could be taken from it.
        let is_idle = |error: &Error| grant.statement.starts_with("REVOKE ") && error.is_sqlstate("42704");
        if let (Some(error), Some(sql)) = (refusal.filter(|error| !is_idle(error)), ways.first()) {
            ledger.refused(kind, object, &error.cause(), &entry::step(&error, sql), sql);
        }
    }
    Ok(())
}

/// True where the session may act as a role.
async fn may_be(session: &Session, role: &str) -> Result<bool> {
    let sql = format!("SET SESSION AUTHORIZATION {}; RESET SESSION AUTHORIZATION;", quote(role));
    match project::transaction(session, &sql, "act as a grantor").await {
        Err(error) if is_refusal(&error) => Ok(false),
        other => other.map(|()| true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_know_their_grantor() {
        let defn = "GRANT ALL ON SCHEMA s TO a WITH GRANT OPTION;\nSET SESSION AUTHORIZATION \"a \"\"b\";\nGRANT USAGE ON SCHEMA s TO b;\n\
                    GRANT USAGE ON SCHEMA s TO c;\nRESET SESSION AUTHORIZATION;\nGRANT USAGE ON SCHEMA s TO d;\n";
        let all = Grant::all(defn);
        let said: Vec<(&str, Option<&str>)> =
            all.iter().map(|grant| (grant.statement.as_str(), grant.grantor.as_deref())).collect();
        assert_eq!(
            said,
            [
                ("GRANT ALL ON SCHEMA s TO a WITH GRANT OPTION", None),
                ("GRANT USAGE ON SCHEMA s TO b", Some("a \"b")),
                ("GRANT USAGE ON SCHEMA s TO c", Some("a \"b")),
                ("GRANT USAGE ON SCHEMA s TO d", None),
            ]
        );
        let of_another = all.get(1).unwrap();
        let ways = of_another.ways(true);
        assert!(ways.len() == 1 && ways[0].starts_with("SET SESSION AUTHORIZATION \"a \"\"b\";\n"), "{ways:?}");
        assert_eq!(of_another.ways(false).last().unwrap(), "GRANT USAGE ON SCHEMA s TO b;");
    }
}
