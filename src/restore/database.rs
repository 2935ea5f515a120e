//! The database itself: made with the properties of the saved one, and given its settings, rights and comment under
//! whatever name it has now.

use libpgdump::{Entry, ObjectType};

use crate::archive::catalogue::{namespace, tag};
use crate::sql::names::{literal, quote};
use crate::sql::statements::{name, statements};

/// The statement that makes the database under a new name, with encoding and locale of the saved one, on a server of
/// that `server_version_num`.
///
/// `pg_dump` 15 and newer always names the locale provider, which servers before 15 do not know as an option: they have
/// no other than `libc`.
pub(crate) fn create(entries: &[Entry], to: &str, server_version_num: u32) -> String {
    let saved = options(entries);
    let options = if saved.is_empty() { " TEMPLATE = template0" } else { saved };
    let options = if server_version_num < 150_000 {
        options.replacen(" LOCALE_PROVIDER = libc", "", 1)
    } else {
        options.to_owned()
    };
    format!("CREATE DATABASE {}{options}", quote(to))
}

/// The same with the saved encoding and the locale `C`, which every server has and which goes with every encoding.
pub(crate) fn create_without_locale(entries: &[Entry], to: &str, server_version_num: u32) -> String {
    let provider = if server_version_num < 150_000 { "" } else { " LOCALE_PROVIDER = libc" };
    let encoding =
        word(options(entries), "ENCODING").map_or_else(String::new, |name| format!(" ENCODING = {}", literal(&name)));
    format!("CREATE DATABASE {} TEMPLATE = template0{encoding}{provider} LOCALE = 'C'", quote(to))
}

/// The locales of the saved database.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Locales {
    /// `libc`, `icu` or `builtin`.
    pub(crate) provider: String,
    pub(crate) libc: Vec<String>,
    pub(crate) icu: Vec<String>,
}

/// The locales that the saved database was made with.
pub(crate) fn locales(entries: &[Entry]) -> Locales {
    let options = options(entries);
    let provider = ["icu", "builtin"].into_iter().find(|name| options.contains(&format!(" LOCALE_PROVIDER = {name}")));
    let mut libc: Vec<String> =
        ["LOCALE", "LC_COLLATE", "LC_CTYPE"].iter().filter_map(|key| word(options, key)).collect();
    libc.sort();
    libc.dedup();
    let icu = word(options, "ICU_LOCALE").filter(|_| provider == Some("icu")).into_iter().collect();
    Locales { provider: provider.unwrap_or("libc").to_owned(), libc, icu }
}

/// The options after the name in the statement that makes the saved database.
fn options(entries: &[Entry]) -> &str {
    let made = entries.iter().find(|e| e.desc == ObjectType::Database).and_then(|e| e.defn.as_deref());
    made.and_then(|defn| statements(defn).into_iter().next())
        .and_then(|statement| name(statement.strip_prefix("CREATE DATABASE ")?))
        .map_or("", |(_, options)| options)
}

/// The value of ` KEY = 'value'`.
fn word(options: &str, key: &str) -> Option<String> {
    let (_, rest) = options.split_once(&format!(" {key} = '"))?;
    rest.split_once('\'').map(|(value, _)| value.to_owned())
}

/// The owner of the saved database.
pub(crate) fn owner(entries: &[Entry]) -> Option<&str> {
    let entry = entries.iter().find(|e| e.desc == ObjectType::Database)?;
    entry.owner.as_deref().filter(|owner| !owner.is_empty())
}

/// Settings, settings of roles in it, rights, comment and labels of the database `from`, for the database `to`: one
/// text an entry.
pub(crate) fn settings(entries: &[Entry], from: &str, to: &str) -> Vec<String> {
    let of_database = |e: &&Entry| match e.desc {
        ObjectType::DatabaseProperties => true,
        ObjectType::Acl | ObjectType::Comment | ObjectType::SecurityLabel => {
            namespace(e).is_empty() && tag(e).starts_with("DATABASE ")
        }
        _ => false,
    };
    let texts = entries.iter().filter(of_database).filter_map(|e| e.defn.as_deref());
    texts
        .map(|text| statements(text).into_iter().map(|s| renamed(s, from, to) + ";\n").collect::<String>())
        .filter(|text| !text.is_empty())
        .collect()
}

/// A statement about the database `from`, said of `to`.
fn renamed(statement: &str, from: &str, to: &str) -> String {
    const WORD: &str = " DATABASE ";
    for (at, _) in statement.match_indices(WORD) {
        let (before, rest) = (statement.get(..at), statement.get(at + WORD.len()..));
        if let (Some(before), Some((found, after))) = (before, rest.and_then(name))
            && found == from
        {
            return format!("{before}{WORD}{}{after}", quote(to));
        }
    }
    statement.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_said_of_the_new_name() {
        let said = |text| renamed(text, "a b", "c\"d");
        assert_eq!(
            said("ALTER DATABASE \"a b\" SET x TO 'DATABASE \"a b\"'"),
            "ALTER DATABASE \"c\"\"d\" SET x TO 'DATABASE \"a b\"'"
        );
        assert_eq!(
            said("ALTER ROLE \"x DATABASE y\" IN DATABASE \"a b\" SET y TO 1"),
            "ALTER ROLE \"x DATABASE y\" IN DATABASE \"c\"\"d\" SET y TO 1"
        );
        assert_eq!(said("RESET SESSION AUTHORIZATION"), "RESET SESSION AUTHORIZATION");
    }
}
