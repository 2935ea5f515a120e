//! The roles script of a run, taken apart: which roles it makes, and the statements that make the missing ones
//! without touching one that exists.

use std::collections::BTreeSet;

use crate::sql::letters::Letters;
use crate::sql::statements::{name, statements};

/// The statements of a roles script.
#[derive(Debug)]
pub(crate) struct Script {
    text: String,
}

impl Script {
    /// The script in the encoding that it names.
    pub(crate) fn new(bytes: &[u8]) -> Self {
        let letters = Letters::of_script(bytes).map_or_else(Letters::default, |(_, letters)| letters);
        Self { text: letters.decode(bytes) }
    }

    /// Names of the roles it makes.
    pub(crate) fn roles(&self) -> BTreeSet<String> {
        statements(&self.text).into_iter().filter_map(|s| Some(name(s.strip_prefix("CREATE ROLE ")?)?.0)).collect()
    }

    /// The statements that make the roles which are not in `present`, in order. Passwords are left out unless asked
    /// for.
    pub(crate) fn missing(&self, present: &BTreeSet<String>, passwords: bool) -> Vec<String> {
        let mut wanted = Vec::new();
        let about = |statement: &str, words: &str| statement.strip_prefix(words).and_then(name).map(|(role, _)| role);
        for statement in statements(&self.text) {
            let role = about(statement, "CREATE ROLE ")
                .or_else(|| about(statement, "ALTER ROLE "))
                .or_else(|| about(statement, "COMMENT ON ROLE "))
                .or_else(|| about(statement, "SECURITY LABEL ON ROLE "));
            match role {
                Some(role) if present.contains(&role) => {}
                Some(_) => wanted.push(if passwords { statement.to_owned() } else { without_password(statement) }),
                // `GRANT SET ON PARAMETER work_mem TO x`
                None if statement.starts_with("GRANT ") && statement.contains(" ON PARAMETER ") => {
                    let grantee = statement.rfind(" TO ").and_then(|at| name(statement.get(at + 4..)?));
                    if grantee.is_some_and(|(role, _)| !present.contains(&role)) {
                        wanted.push(statement.to_owned());
                    }
                }
                None if membership(statement)
                    .is_some_and(|(of, member)| !present.contains(&of) || !present.contains(&member)) =>
                {
                    wanted.push(statement.to_owned());
                }
                None => {}
            }
        }
        wanted
    }
}

/// The two roles of `GRANT a TO b ...`.
pub(crate) fn membership(statement: &str) -> Option<(String, String)> {
    membership_with(statement).map(|(of, member, _)| (of, member))
}

/// Both, and what follows them.
pub(crate) fn membership_with(statement: &str) -> Option<(String, String, &str)> {
    let (of, rest) = name(statement.strip_prefix("GRANT ")?)?;
    let (member, rest) = name(rest.strip_prefix(" TO ")?)?;
    Some((of, member, rest))
}

/// `ALTER ROLE x WITH ... PASSWORD 'y'` without the password, which `pg_dumpall` writes last or before `VALID UNTIL`.
fn without_password(statement: &str) -> String {
    let words = " PASSWORD '";
    let Some((_, options)) = statement.strip_prefix("ALTER ROLE ").and_then(name) else { return statement.to_owned() };
    if !options.starts_with(" WITH ") {
        return statement.to_owned();
    }
    let from = statement.len() - options.len();
    let Some(at) = options.find(words).map(|at| at + from) else { return statement.to_owned() };
    let (before, rest) = statement.split_at(at);
    let rest = rest.get(words.len()..).unwrap_or_default();
    // A stored password (md5 or SCRAM) holds no quote.
    let after = rest.find('\'').and_then(|end| rest.get(end + 1..)).unwrap_or_default();
    format!("{before}{after}")
}

/// True when a text names a role, quoted or not.
pub(crate) fn mentions(text: &str, role: &str) -> bool {
    let quoted = crate::sql::names::quote(role);
    if text.contains(&quoted) {
        return true;
    }
    let word = |c: char| c.is_alphanumeric() || c == '_' || c == '"' || c == '\'';
    let plain = role.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    plain
        && text.match_indices(role).any(|(at, _)| {
            !text.get(..at).unwrap_or_default().ends_with(word)
                && !text.get(at + role.len()..).unwrap_or_default().starts_with(word)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT: &str = "\\restrict x\nSET a = b;\nCREATE ROLE old;\nALTER ROLE old WITH LOGIN PASSWORD 'md5';\n\
        CREATE ROLE \"new \"\"one\";\nALTER ROLE \"new \"\"one\" WITH LOGIN PASSWORD 'SCRAM-SHA-256$4096:a==$b:c=' VALID UNTIL 'infinity';\n\
        ALTER ROLE \"new \"\"one\" SET work_mem TO '4MB';\nALTER ROLE old SET work_mem TO '4MB';\n\
        GRANT old TO \"new \"\"one\" GRANTED BY postgres;\nGRANT old TO other;\n\
        GRANT SET ON PARAMETER work_mem TO \"new \"\"one\";\nGRANT SET ON PARAMETER work_mem TO old;\n";

    #[test]
    fn only_missing_roles_are_made_and_without_passwords() {
        let script = Script::new(SCRIPT.as_bytes());
        let present: BTreeSet<String> = ["old", "other"].map(str::to_owned).into();
        assert_eq!(script.roles().len(), 2);
        assert_eq!(
            script.missing(&present, false),
            [
                "CREATE ROLE \"new \"\"one\"",
                "ALTER ROLE \"new \"\"one\" WITH LOGIN VALID UNTIL 'infinity'",
                "ALTER ROLE \"new \"\"one\" SET work_mem TO '4MB'",
                "GRANT old TO \"new \"\"one\" GRANTED BY postgres",
                "GRANT SET ON PARAMETER work_mem TO \"new \"\"one\"",
            ]
        );
        assert!(script.missing(&present, true)[1].contains("SCRAM"));
    }

    #[test]
    fn a_role_is_found_as_a_word_only() {
        assert!(mentions("GRANT ALL ON x TO anon;", "anon"));
        assert!(!mentions("GRANT ALL ON anonymous TO x;", "anon"));
        assert!(mentions("TO \"Odd\";", "Odd"));
    }
}
