//! The objects that a role without superuser rights cannot restore, found before anything is changed: objects of owners
//! it cannot act as, and kinds of objects that PostgreSQL lets superusers make only.

use std::collections::BTreeSet;

use libpgdump::{Entry, ObjectType};

use crate::archive::catalogue::{namespace, tag};
use crate::error::{Error, Result};
use crate::human;
use crate::postgres::target::Rights;
use crate::restore::options::Options;
use crate::sql::names::{in_comment, quote};
use crate::sql::statements::{name, statements};

/// Things that are named one by one.
const NAMED: usize = 12;

/// Refuses what the role cannot restore; a superuser can restore everything.
///
/// # Errors
/// Kind `Failed`, with what it cannot make and how it could.
pub(crate) fn refuse(entries: &[&Entry], rights: &Rights, options: &Options) -> Result<()> {
    // Rows go into tables that exist: what the role may do there is another question, answered table by table.
    if rights.superuser || !options.has_definitions() || options.best_effort {
        return Ok(());
    }
    let privileges = |e: &Entry| matches!(e.desc, ObjectType::Acl | ObjectType::DefaultAcl);
    let wanted = entries.iter().filter(|e| options.has_privileges() || !privileges(e));
    let things: BTreeSet<String> = wanted.filter(|e| is_forbidden(e, rights)).map(|e| told(e)).collect();
    let owners = if options.ignores_owners() { BTreeSet::new() } else { owners(entries, rights) };
    if things.is_empty() && owners.is_empty() {
        return Ok(());
    }
    let mut lacking: Vec<String> = owners.iter().map(|owner| format!("things that belong to role {owner}")).collect();
    if !things.is_empty() {
        lacking.push(human::shortened(things.iter().map(|thing| in_comment(thing)), NAMED, ", "));
    }
    let mut error = Error::failed(format!("role {} cannot restore {}", rights.role, lacking.join(", ")));
    if !owners.is_empty() {
        let (superusers, others): (Vec<&String>, Vec<&String>) =
            owners.iter().partition(|owner| rights.superusers.contains(*owner));
        let grant = |owner: &&String| format!("GRANT {} TO {}", quote(owner), quote(&rights.role));
        let grants: Vec<String> = others.iter().map(grant).collect();
        error = error.hint("--no-owner gives everything to the role that restores");
        if !grants.is_empty() {
            error = error.hint(format!("or let a superuser run: {}", grants.join("; ")));
        }
        if !superusers.is_empty() {
            let names = human::shortened(superusers.iter().map(|name| in_comment(name)), NAMED, ", ");
            // Who may act as one may do everything: nothing to give away for a restore.
            error = error.hint(format!("only a superuser can give things to a superuser ({names}): restore as one"));
        }
    }
    if !things.is_empty() {
        error = error.hint("restore as a superuser, or parts of the run with --schema and --table");
    }
    Err(error.hint("--best-effort restores the rest and lists what cannot be").hint("nothing was changed"))
}

/// Roles that own something here and that the role cannot act as.
fn owners(entries: &[&Entry], rights: &Rights) -> BTreeSet<String> {
    let given =
        entries.iter().filter(|e| !matches!(e.desc, ObjectType::Acl | ObjectType::Comment | ObjectType::Database));
    // The schema `public` is there, and is restored without its owner: listed, no reason to refuse everything.
    let owned = given.filter(|e| !(e.desc == ObjectType::Schema && tag(e) == "public"));
    owned.filter_map(|e| e.owner.clone()).filter(|owner| !owner.is_empty() && !rights.can_be.contains(owner)).collect()
}

/// True when only a superuser can make it (`src/backend/commands`: each command checks by itself).
fn is_forbidden(entry: &Entry, rights: &Rights) -> bool {
    let defn = entry.defn.as_deref().unwrap_or_default();
    let says = |words: &str| defn.contains(words);
    match entry.desc {
        ObjectType::EventTrigger
        | ObjectType::ForeignDataWrapper
        | ObjectType::OperatorClass
        | ObjectType::OperatorFamily
        | ObjectType::AccessMethod
        | ObjectType::SecurityLabel
        | ObjectType::PublicationTablesInSchema => true,
        ObjectType::Subscription => !rights.subscriptions,
        ObjectType::Extension => !rights.extensions.contains(tag(entry)),
        ObjectType::Function | ObjectType::Procedure => {
            says("\n    LANGUAGE c ") || says("\n    LANGUAGE internal ") || says(" LEAKPROOF")
        }
        ObjectType::ProceduralLanguage => !says("TRUSTED"),
        ObjectType::Cast => says("WITHOUT FUNCTION"),
        ObjectType::Publication => says("FOR ALL TABLES"),
        ObjectType::Type => says("INPUT = "),
        ObjectType::DefaultAcl => entry.owner.as_ref().is_some_and(|owner| !rights.can_be.contains(owner)),
        _ => false,
    }
}

fn told(entry: &Entry) -> String {
    let kind = entry.desc.as_str().to_lowercase();
    if namespace(entry).is_empty() {
        format!("{kind} {}", tag(entry))
    } else {
        format!("{kind} {}.{}", namespace(entry), tag(entry))
    }
}

/// A script without the statements that give things to an owner.
pub(crate) fn without_owner(script: &str) -> Vec<&str> {
    let gives = |s: &str| {
        let owner =
            s.strip_prefix("ALTER ").and_then(|s| s.rsplit_once(" OWNER TO ")).and_then(|(_, owner)| name(owner));
        owner.is_some_and(|(_, rest)| rest.is_empty())
    };
    statements(script).into_iter().filter(|s| !gives(s)).collect()
}
