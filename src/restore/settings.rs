//! Settings of databases and roles that an older server does not know: they are left out, with a warning, since they
//! say nothing about what is restored.

use crate::error::Result;
use crate::human;
use crate::postgres::connect::session::Session;
use crate::postgres::settings::LAST;
use crate::postgres::target;
use crate::sql::letters::{has_raw, sendable};
use crate::sql::names::quote;
use crate::sql::statements::name;

/// The words before ` SET ` of `ALTER DATABASE ... SET x TO ...` or `ALTER ROLE ... [IN DATABASE ...] SET x TO ...`, and
/// the name of the setting.
fn parts(statement: &str) -> Option<(&str, String)> {
    let of = statement.strip_prefix("ALTER DATABASE ").or_else(|| statement.strip_prefix("ALTER ROLE "))?;
    let (_, mut rest) = name(of)?;
    if let Some(database) = rest.strip_prefix(" IN DATABASE ") {
        rest = name(database)?.1;
    }
    let before = statement.strip_suffix(rest)?;
    let rest = rest.strip_prefix(" SET ")?;
    // A plain name may have dots.
    let end = rest.find([' ', '=']).unwrap_or(rest.len());
    let setting = if rest.starts_with('"') { name(rest)?.0 } else { rest.get(..end)?.to_owned() };
    Some((before, setting))
}

/// The setting that a statement sets.
fn setting(statement: &str) -> Option<String> {
    parts(statement).map(|(_, setting)| setting)
}

/// The libraries that a statement makes every session load, as `LOAD` names them.
pub(crate) fn libraries(statement: &str) -> Vec<String> {
    let Some((before, name)) = parts(statement) else { return Vec::new() };
    let folder = match name.to_ascii_lowercase().as_str() {
        "session_preload_libraries" => "",
        "local_preload_libraries" => "$libdir/plugins/",
        _ => return Vec::new(),
    };
    let value = statement.get(before.len()..).and_then(|rest| rest.split_once(" TO ")).map_or("", |(_, value)| value);
    let names = value.split(',').map(|one| one.trim().trim_matches('\'').trim_matches('"').trim());
    let named = names.filter(|name| !name.is_empty() && *name != "DEFAULT");
    named.map(|name| if name.contains('/') { name.to_owned() } else { format!("{folder}{name}") }).collect()
}

/// The statement behind one that removes its setting, which puts the setting at the end of the list that PostgreSQL keeps
/// of them (`GUCArrayAdd` and `GUCArrayDelete` in `guc.c`); `None` for a statement that sets nothing.
fn moved_to_the_end(statement: &str) -> Option<String> {
    let (before, setting) = parts(statement)?;
    Some(format!("{before} RESET {}; {statement}", quote(&setting)))
}

/// A statement about the database that comes after everything else.
pub(crate) struct Late {
    pub(crate) statement: String,
    /// It was run before, and only has to come behind others.
    pub(crate) is_repeated: bool,
}

/// The statements that come first, and those that come last: pg_dump prints settings in the order they were made in, so
/// the ones behind a late one are made once more.
pub(crate) fn in_two_steps(all: Vec<String>) -> (Vec<String>, Vec<Late>) {
    let late = all.iter().skip_while(|statement| comes_first(statement)).filter_map(|statement| {
        let repeated = comes_first(statement);
        let statement = if repeated { moved_to_the_end(statement)? } else { statement.clone() };
        Some(Late { statement, is_repeated: repeated })
    });
    let late = late.collect();
    (all.into_iter().filter(|statement| comes_first(statement)).collect(), late)
}

/// True for a statement whose setting must stand before definitions and rows, which may need it.
fn comes_first(statement: &str) -> bool {
    setting(statement).is_some_and(|name| !LAST.contains(&name.to_ascii_lowercase().as_str()))
}

/// Those of these statements that the server can take.
///
/// # Errors
/// A connection that broke.
pub(crate) async fn taken(session: &Session, statements: Vec<String>) -> Result<Vec<String>> {
    let mut taken = Vec::with_capacity(statements.len());
    for statement in statements {
        if has_raw(&statement) {
            if session.encoding() == "UTF8" {
                tracing::warn!("left out, since it holds bytes that UTF-8 cannot say: {}", human::plain(&statement));
            } else {
                taken.push(sendable(&statement, session.encoding()).into_owned());
            }
            continue;
        }
        match setting(&statement) {
            Some(setting) if is_refused(&setting, &statement, session.server_version_num()) => {
                tracing::warn!("left out, since this server knows one value of {setting} only: {statement}");
            }
            Some(setting) if !target::knows(session, &setting).await? => {
                tracing::warn!("left out, since this server does not know {setting}: {statement}");
            }
            _ => taken.push(statement),
        }
    }
    Ok(taken)
}

/// True for a setting whose value newer servers refuse: 19 knows strings that conform to the standard only.
fn is_refused(setting: &str, statement: &str, server_version_num: u32) -> bool {
    let off = || ["'off'", "'false'", "'0'", "'no'"].iter().any(|value| statement.ends_with(value));
    server_version_num >= 190_000 && setting.eq_ignore_ascii_case("standard_conforming_strings") && off()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_keep_their_order_where_some_come_last() {
        let all = ["a", "role", "b"].map(|name| format!("ALTER DATABASE x SET {name} TO '1'"));
        let (first, late) = in_two_steps(all.to_vec());
        assert_eq!(first, [all[0].clone(), all[2].clone()]);
        let late: Vec<_> = late.into_iter().map(|late| (late.statement, late.is_repeated)).collect();
        let again = format!("ALTER DATABASE x RESET \"b\"; {}", all[2]);
        assert_eq!(late, [(all[1].clone(), false), (again, true)]);
    }

    #[test]
    fn settings_keep_their_order_whatever_the_database_is_called() {
        for database in ["\"a SET b\"", "\"x\"\" SET y SET \"\"\"", "\" IN DATABASE z SET \"", "plain"] {
            let all = ["role", "b", "\"app.x\""].map(|name| format!("ALTER DATABASE {database} SET {name} TO ' SET '"));
            let (first, late) = in_two_steps(all.to_vec());
            assert_eq!(first, [all[1].clone(), all[2].clone()]);
            let late: Vec<_> = late.into_iter().map(|late| late.statement).collect();
            let again = |at: usize, name| format!("ALTER DATABASE {database} RESET \"{name}\"; {}", all[at]);
            assert_eq!(late, [all[0].clone(), again(1, "b"), again(2, "app.x")]);
        }
    }

    #[test]
    fn the_libraries_of_a_setting_are_found() {
        let found = |text| libraries(text);
        assert_eq!(found("ALTER DATABASE x SET session_preload_libraries TO 'a', '$libdir/b'"), ["a", "$libdir/b"]);
        assert_eq!(found("ALTER ROLE x IN DATABASE y SET local_preload_libraries TO 'a'"), ["$libdir/plugins/a"]);
        assert!(found("ALTER DATABASE x SET search_path TO 'a', 'b'").is_empty());
    }

    #[test]
    fn strings_that_do_not_conform_are_left_out_for_19_only() {
        let statement = "ALTER DATABASE x SET standard_conforming_strings TO 'off'";
        assert!(is_refused("standard_conforming_strings", statement, 190_000));
        assert!(!is_refused("standard_conforming_strings", statement, 180_004));
        assert!(!is_refused("escape_string_warning", "ALTER DATABASE x SET escape_string_warning TO 'off'", 190_000));
    }

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
