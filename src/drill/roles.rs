//! The roles that a drill with `--roles` makes: marked as its own, without a password or the right to log in, never a
//! superuser, and dropped at the end.

use crate::drill::receipt::Observations;
use crate::error::Result;
use crate::postgres::connect::session::Session;
use crate::postgres::target;
use crate::postgres::target::scratch::Mark;
use crate::restore::make_roles::{self, attributes};
use crate::restore::roles::Script;
use crate::restore::settings;
use crate::sql::names::{literal, quote};

/// Makes the roles of the run that the server lacks, in one transaction: all of them carry the mark, or none is there.
pub(crate) async fn make(session: &Session, script: &Script, mark: &Mark) -> Result<Observations> {
    let mut found = Observations::default();
    let present = target::server(session).await?.roles;
    let statements = settings::taken(session, script.missing(&present, false)).await?;
    let made: Vec<String> = script.roles().into_iter().filter(|role| !present.contains(role)).collect();
    if made.is_empty() {
        return Ok(found);
    }
    let superusers: Vec<String> = statements.iter().filter_map(|statement| superuser(statement)).collect();
    if !superusers.is_empty() {
        let note = format!(
            "superusers of the run that this server does not have: {}; the drill makes them without that right",
            superusers.join(", ")
        );
        tracing::warn!("{note}");
        found.notes.push(note);
    }
    let mut statements: Vec<String> = statements.into_iter().map(harmless).collect();
    statements.extend(made.iter().map(|role| format!("COMMENT ON ROLE {} IS {}", quote(role), literal(mark.text()))));
    let account = make_roles::make(session, statements, true).await?;
    found.not_proven.extend(account.lost.iter().map(|lost| format!("{} {}: {}", lost.kind, lost.name, lost.why)));
    found.notes.extend(account.notes);
    found.notes.push(format!("roles made for this drill and dropped at its end: {}", made.join(", ")));
    Ok(found)
}

/// The role that a statement makes a superuser.
fn superuser(statement: &str) -> Option<String> {
    attributes(statement).filter(|(_, options)| options.contains(" SUPERUSER")).map(|(role, _)| role)
}

/// The statement without the rights to be a superuser and to log in. `pg_dumpall` writes the options in words of their
/// own, before any text in quotes.
fn harmless(statement: String) -> String {
    let Some((_, options)) = attributes(&statement) else { return statement };
    let begin = statement.strip_suffix(options).unwrap_or_default();
    format!("{begin}{}", options.replacen(" SUPERUSER", " NOSUPERUSER", 1).replacen(" LOGIN", " NOLOGIN", 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_superuser_of_a_run_is_none_in_a_drill() {
        let statement = "ALTER ROLE \"a WITH SUPERUSER\" WITH SUPERUSER INHERIT LOGIN VALID UNTIL 'x LOGIN'".to_owned();
        assert_eq!(superuser(&statement).as_deref(), Some("a WITH SUPERUSER"));
        assert_eq!(
            harmless(statement),
            "ALTER ROLE \"a WITH SUPERUSER\" WITH NOSUPERUSER INHERIT NOLOGIN VALID UNTIL 'x LOGIN'"
        );
        for same in ["ALTER ROLE x WITH NOSUPERUSER NOLOGIN", "ALTER ROLE x SET a TO ' SUPERUSER'", "CREATE ROLE x"] {
            assert_eq!(superuser(same), None);
            assert_eq!(harmless(same.to_owned()), same);
        }
    }
}
