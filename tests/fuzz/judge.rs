//! The judge: two texts of pg_dump, compared entry by entry. Order is left out, for what depends on what decides it as
//! much as the names do; so are the keys of `\restrict`, versions, and the order of rows.

use std::collections::BTreeMap;

/// Names of the databases of a case; nothing else in it has such a name.
pub const SOURCE: &str = "fzsrcdb";
pub const RESTORED: &str = "fzdstdb";
pub const STOCK: &str = "fzstkdb";

/// The entries of a dump and how often each is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entries(BTreeMap<String, usize>);

impl Entries {
    /// Takes a dump's text apart.
    pub fn of(dump: &str) -> Self {
        let dump = dump.replace(RESTORED, SOURCE).replace(STOCK, SOURCE);
        let (mut found, mut entry) = (BTreeMap::new(), Vec::new());
        let found = &mut found;
        for line in dump.split('\n') {
            let begins = line.starts_with("-- Name: ") || line.starts_with("-- Data for Name: ");
            if begins {
                add(found, &mut entry);
            }
            let left_out = line.starts_with("\\restrict ")
                || line.starts_with("\\unrestrict ")
                || line.starts_with("-- Dumped ")
                || line.starts_with("SET default_tablespace = ")
                || line.starts_with("SET default_table_access_method = ")
                || line == "--"
                || line.is_empty();
            if !left_out {
                entry.push(line);
            }
        }
        add(found, &mut entry);
        Self(std::mem::take(found))
    }

    /// A text whose every line is an entry.
    pub fn lines(text: &str) -> Self {
        let mut found = BTreeMap::new();
        text.lines().for_each(|line| *found.entry(line.to_owned()).or_default() += 1);
        Self(found)
    }

    /// What is in only one of both: of ours with `+`, of the other with `-`.
    pub fn differences(&self, from: &Self) -> Vec<String> {
        let mut all = Vec::new();
        for (entry, count) in &from.0 {
            if self.0.get(entry).is_none_or(|here| here < count) {
                all.push(format!("- {entry}"));
            }
        }
        for (entry, count) in &self.0 {
            if from.0.get(entry).is_none_or(|there| there < count) {
                all.push(format!("+ {entry}"));
            }
        }
        all
    }
}

/// Adds an entry; the rows of COPY sorted. Rows that are loaded through a partition root, because the hash of a value
/// differs between databases, count as the root's.
fn add(found: &mut BTreeMap<String, usize>, entry: &mut Vec<&str>) {
    if entry.first().is_some_and(|line| line.starts_with("-- Data for Name: ")) {
        entry.sort_unstable();
        if let Some(root) = entry.iter().find(|line| line.starts_with("-- load via partition root ")) {
            for line in entry.iter().filter(|line| !line.starts_with("-- Data for Name: ")) {
                *found.entry(format!("Type: TABLE DATA {root}\n{line}")).or_default() += 1;
            }
            entry.clear();
            return;
        }
    }
    // What comes and goes while a run is made.
    let changing = entry.first().is_some_and(|line| line.contains("fz_change_"));
    if !entry.is_empty() && !changing {
        *found.entry(entry.join("\n")).or_default() += 1;
    }
    entry.clear();
}

/// A short text that is the same for the same kind of finding: without names, numbers and what is quoted.
pub fn signature(text: &str) -> String {
    let mut kept = String::new();
    let mut quoted = false;
    for letter in text.chars() {
        match letter {
            '"' => quoted = !quoted,
            _ if quoted => {}
            '0'..='9' => {}
            '\n' => kept.push(' '),
            _ => kept.push(letter),
        }
        if kept.len() > 150 {
            break;
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_does_not_count_and_everything_else_does() {
        let one = "--\n-- Name: a; Type: TABLE\n--\n\nCREATE a;\n--\n-- Data for Name: a\n--\nCOPY a;\n1\n2\n\\.\n";
        let two = "--\n-- Data for Name: a\n--\nCOPY a;\n2\n1\n\\.\n--\n-- Name: a; Type: TABLE\n--\n\nCREATE a;\n";
        assert!(Entries::of(one).differences(&Entries::of(two)).is_empty());
        assert_eq!(Entries::of(one).differences(&Entries::of(&two.replace("\n2\n", "\n3\n"))).len(), 2);
    }
}
