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
                || line == "-- PostgreSQL database dump complete"
                || line.starts_with("SET default_tablespace = ")
                || line.starts_with("SET default_table_access_method = ")
                || line == "--"
                || line.is_empty();
            // An owner stands in statements of its own; in the title it is that of whoever restored.
            let line = if begins { line.split("; Owner: ").next().unwrap_or(line) } else { line };
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

/// A short text that is the same for the same kind of finding: without quoted words, paths, numbers and what is near.
pub fn signature(text: &str) -> String {
    let mut plain = String::new();
    let mut quoted = false;
    for letter in text.chars() {
        match letter {
            '"' => quoted = !quoted,
            _ if quoted => {}
            _ => plain.push(letter),
        }
    }
    let words = plain
        .split_whitespace()
        .filter(|word| !word.contains(['/', '.']) && !word.contains(|c: char| c.is_ascii_digit()));
    words.take(24).collect::<Vec<_>>().join(" ")
}

/// The judge sees what it must and nothing else; panics otherwise.
pub fn check() {
    let one = "--\n-- Name: a; Type: TABLE\n--\n\nCREATE a;\n--\n-- Data for Name: a\n--\nCOPY a;\n1\n2\n\\.\n";
    let two = "--\n-- Data for Name: a\n--\nCOPY a;\n2\n1\n\\.\n--\n-- Name: a; Type: TABLE\n--\n\nCREATE a;\n--\n-- PostgreSQL database dump complete\n--\n";
    assert!(Entries::of(one).differences(&Entries::of(two)).is_empty(), "order counts");
    for (from, to) in [("\n2\n", "\n3\n"), ("\n2\n", "\n"), ("CREATE a", "CREATE b"), ("-- Name: a", "-- Name: b")] {
        assert!(!Entries::of(one).differences(&Entries::of(&two.replace(from, to))).is_empty(), "{from:?} is not seen");
    }
    assert_eq!(signature("table \"a b\" of 12\nrows in /a/b1"), "table of rows in");
}
