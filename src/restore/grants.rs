//! The privileges of an entry, given one by one where the server refuses them together: a role or a grantor that is
//! missing here takes nothing else away.

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
    grantor: Option<String>,
    /// The statement, without a semicolon.
    statement: String,
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

    /// The statements that give it, from the best way to the worst: as pg_dump says, by taking the grantor's role, by
    /// the role of the session.
    pub(crate) fn ways(&self) -> Vec<String> {
        let plain = format!("{};", self.statement);
        let Some(grantor) = &self.grantor else { return vec![plain] };
        let role = quote(grantor);
        vec![
            format!("SET SESSION AUTHORIZATION {role};\n{plain}\nRESET SESSION AUTHORIZATION;"),
            format!("SET LOCAL ROLE {role};\n{plain}\nRESET ROLE;"),
            plain,
        ]
    }
}

/// Gives each of these privileges of `kind name`. A grantor that cannot be acted as is noted, and his grants come from
/// the session's role; what is refused is listed.
///
/// # Errors
/// A lost connection.
pub(crate) async fn give(
    session: &Session,
    ledger: &Ledger,
    (kind, object): (&str, &str),
    grants: &[Grant],
) -> Result<()> {
    for grant in grants {
        let ways = grant.ways();
        let mut refusal = None;
        for (at, sql) in ways.iter().enumerate() {
            match project::transaction(session, sql, &format!("restore {kind} {object}")).await {
                Err(error) if is_refusal(&error) => refusal = refusal.or(Some(error)),
                Err(error) => return Err(error),
                Ok(()) => {
                    refusal = None;
                    if let Some(grantor) = grant.grantor.as_ref().filter(|_| at > 1) {
                        ledger.note(format!(
                            "{kind} {object}: granted by {grantor} in the run, by the restoring role here: {}",
                            grant.statement
                        ));
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
        let ways = all.get(1).unwrap().ways();
        assert!(ways.first().unwrap().starts_with("SET SESSION AUTHORIZATION \"a \"\"b\";\n"), "{ways:?}");
        assert_eq!(ways.last().unwrap(), "GRANT USAGE ON SCHEMA s TO b;");
    }
}
