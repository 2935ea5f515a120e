//! Settings of databases and roles that an older server does not know: they are left out, with a warning, since they
//! say nothing about what is restored.

use crate::error::Result;
use crate::postgres::connect::session::Session;
use crate::postgres::target;
use crate::sql::statements::name;

/// The setting that `ALTER DATABASE ... SET x TO ...` or `ALTER ROLE ... [IN DATABASE ...] SET x TO ...` sets.
fn setting(statement: &str) -> Option<String> {
    let of = statement.strip_prefix("ALTER DATABASE ").or_else(|| statement.strip_prefix("ALTER ROLE "))?;
    let (_, mut rest) = name(of)?;
    if let Some(database) = rest.strip_prefix(" IN DATABASE ") {
        rest = name(database)?.1;
    }
    let rest = rest.strip_prefix(" SET ")?;
    // A plain name may have dots.
    let end = rest.find([' ', '=']).unwrap_or(rest.len());
    if rest.starts_with('"') { name(rest).map(|(setting, _)| setting) } else { rest.get(..end).map(str::to_owned) }
}

/// Settings that would stand in the way of the restore itself: they come last.
const LAST: &[&str] = &[
    "default_transaction_read_only",
    "transaction_read_only",
    "session_preload_libraries",
    "local_preload_libraries",
    "session_replication_role",
    "role",
    "session_authorization",
    "event_triggers",
    "default_transaction_isolation",
    "default_transaction_deferrable",
    "ignore_checksum_failure",
    "zero_damaged_pages",
];

/// True for a statement whose setting must stand before definitions and rows, which may need it.
pub(crate) fn comes_first(statement: &str) -> bool {
    setting(statement).is_some_and(|name| !LAST.contains(&name.to_ascii_lowercase().as_str()))
}

/// Those of these statements that the server can take.
///
/// # Errors
/// A connection that broke.
pub(crate) async fn taken(session: &Session, statements: Vec<String>) -> Result<Vec<String>> {
    let mut taken = Vec::with_capacity(statements.len());
    for statement in statements {
        match setting(&statement) {
            Some(setting) if !target::knows(session, &setting).await? => {
                tracing::warn!("left out, since this server does not know {setting}: {statement}");
            }
            _ => taken.push(statement),
        }
    }
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_of_a_statement_is_found() {
        let found = |text| setting(text);
        assert_eq!(
            found("ALTER DATABASE \"a SET b\" SET transaction_timeout TO '1s'").as_deref(),
            Some("transaction_timeout")
        );
        assert_eq!(found("ALTER ROLE x IN DATABASE y SET \"app.x\" TO 'a b'").as_deref(), Some("app.x"));
        assert_eq!(found("ALTER ROLE x SET app.y TO '1'").as_deref(), Some("app.y"));
        assert_eq!(found("ALTER ROLE x WITH LOGIN"), None);
        assert_eq!(found("COMMENT ON DATABASE x IS ' SET a'"), None);
    }
}
