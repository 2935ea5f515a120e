//! Roles in a project: the application's that are missing are made, the platform's are not touched.

use std::collections::BTreeSet;

use libpgdump::Entry;

use crate::error::Result;
use crate::postgres::connect::session::Session;
use crate::postgres::error::is_rejection;
use crate::postgres::target::project;
use crate::postgres::target::project::Project;
use crate::restore::entry::by_hand;
use crate::restore::findings::Ledger;
use crate::restore::roles::{Script, membership};
use crate::restore::supabase::platform;
use crate::sql::names::quote;
use crate::sql::statements::name;

/// Attributes that only a superuser may give or take, with their opposites, which a new role has anyway.
const POWERS: [(&str, &str); 3] =
    [("SUPERUSER", "NOSUPERUSER"), ("REPLICATION", "NOREPLICATION"), ("BYPASSRLS", "NOBYPASSRLS")];

/// Makes the roles of the script that are missing and not the platform's.
///
/// # Errors
/// A lost connection.
pub(crate) async fn make(
    session: &Session,
    script: &Script,
    project: &Project,
    passwords: bool,
    ledger: &Ledger,
) -> Result<()> {
    let present: BTreeSet<String> = project.roles.keys().cloned().collect();
    // The same statements without passwords may be printed.
    let told = script.missing(&present, false);
    for (statement, told) in script.missing(&present, passwords).iter().zip(&told) {
        if let Some((of, member)) = membership(statement) {
            let absent = |role: &String| platform::reserves_role(role) && !present.contains(role);
            if !absent(&of) && !absent(&member) {
                let sql = statement.split(" GRANTED BY ").next().unwrap_or(statement);
                attempt(session, ledger, &member, sql, sql).await?;
            }
            continue;
        }
        let role = ["CREATE ROLE ", "ALTER ROLE ", "COMMENT ON ROLE ", "SECURITY LABEL ON ROLE "]
            .iter()
            .find_map(|words| statement.strip_prefix(words).and_then(name))
            .map_or_else(String::new, |(role, _)| role);
        if platform::reserves_role(&role) {
            if statement.starts_with("CREATE ROLE ") {
                ledger.left("role", &role, "the platform makes such roles; this project does not have it");
            }
            continue;
        }
        let (plain, powers) = without_powers(statement);
        let (told, _) = without_powers(told);
        attempt(session, ledger, &role, &plain, &told).await?;
        for power in powers {
            let sql = format!("ALTER ROLE {} {power}", quote(&role));
            attempt(session, ledger, &role, &sql, &sql).await?;
        }
    }
    Ok(())
}

async fn attempt(session: &Session, ledger: &Ledger, role: &str, sql: &str, told: &str) -> Result<()> {
    match project::transaction(session, sql, &format!("role {role}")).await {
        Ok(()) => Ok(()),
        Err(error) if is_rejection(&error) => {
            ledger.lost("role", role, &error.cause(), &by_hand(told));
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// `ALTER ROLE x WITH ...` without the attributes a superuser gives, and those of them that the role has.
fn without_powers(statement: &str) -> (String, Vec<&'static str>) {
    let options = statement.strip_prefix("ALTER ROLE ").and_then(name).map(|(_, rest)| rest);
    let Some(options) = options.filter(|rest| rest.starts_with(" WITH ")) else {
        return (statement.to_owned(), Vec::new());
    };
    let (before, _) = statement.split_at(statement.len() - options.len());
    let (words, rest) = options
        .split_once(" PASSWORD ")
        .or_else(|| options.split_once(" VALID UNTIL "))
        .map_or((options, String::new()), |(words, _)| {
            (words, options.get(words.len()..).unwrap_or_default().to_owned())
        });
    let is = |word: &str| POWERS.iter().any(|(has, not)| word == *has || word == *not);
    let kept: Vec<&str> = words.split(' ').filter(|word| !is(word)).collect();
    let powers = POWERS.iter().map(|(has, _)| *has).filter(|has| words.split(' ').any(|word| word == *has));
    (format!("{before}{}{rest}", kept.join(" ")), powers.collect())
}

/// Lets the role act as the owners of what is restored, where it may give itself that membership.
///
/// # Errors
/// A lost connection.
pub(crate) async fn join(session: &Session, entries: &[&Entry], project: &Project, ledger: &Ledger) -> Result<bool> {
    let owners: BTreeSet<&str> = entries.iter().filter_map(|e| e.owner.as_deref()).filter(|o| !o.is_empty()).collect();
    let mut joined = Vec::new();
    for owner in owners {
        let reach = project.roles.get(owner);
        if project.is(owner) || platform::reserves_role(owner) || reach.is_none_or(|reach| reach.superuser) {
            continue;
        }
        let sql = format!("GRANT {} TO {}", quote(owner), quote(&project.role));
        match project::transaction(session, &sql, "become a member of an owner").await {
            Ok(()) => joined.push(owner),
            // Reported with the objects that belong to another role because of it.
            Err(error) if is_rejection(&error) => {}
            Err(error) => return Err(error),
        }
    }
    if !joined.is_empty() {
        ledger.note(format!(
            "role {} is a member of {} now, to give objects to their owners; REVOKE it where that is not wanted",
            project.role,
            joined.join(", ")
        ));
    }
    Ok(!joined.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_a_superuser_gives_is_taken_out_of_a_statement() {
        let (plain, powers) = without_powers(
            "ALTER ROLE \"a WITH\" WITH NOSUPERUSER INHERIT NOCREATEROLE NOCREATEDB LOGIN REPLICATION NOBYPASSRLS CONNECTION LIMIT 4 PASSWORD 'SUPERUSER x' VALID UNTIL 'infinity'",
        );
        assert_eq!(
            plain,
            "ALTER ROLE \"a WITH\" WITH INHERIT NOCREATEROLE NOCREATEDB LOGIN CONNECTION LIMIT 4 PASSWORD 'SUPERUSER x' VALID UNTIL 'infinity'"
        );
        assert_eq!(powers, ["REPLICATION"]);
        assert_eq!(without_powers("ALTER ROLE x SET work_mem TO '4MB'").0, "ALTER ROLE x SET work_mem TO '4MB'");
    }
}
