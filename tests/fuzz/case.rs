//! One case: the statements that make a database and the way through the program, as a strategy of proptest's whose
//! tree shrinks by removing statements, and as a file that tells a regression.
//!
//! Shrinking removes halves, quarters and so on down to single statements. A statement whose object is gone is
//! refused by the server and falls out by itself, so nothing here knows what depends on what.

use std::fmt::Write as _;

use proptest::strategy::{NewTree, Strategy, ValueTree};
use proptest::test_runner::TestRunner;

use crate::generate;
use crate::way::Way;
use crate::words::Dice;

/// Between two statements of a regression file; no statement has such a line.
const BETWEEN: &str = "\n;-- next\n";

/// What one try is made of.
#[derive(Debug, Clone)]
pub struct Case {
    /// In their order; each stands alone.
    pub statements: Vec<String>,
    pub way: Way,
}

impl Case {
    /// The text of a regression file.
    pub fn to_file(&self, found: &str) -> String {
        let mut text = String::new();
        for line in found.lines().take(12) {
            writeln!(text, "-- found: {line}").expect("a String takes any text");
        }
        writeln!(text, "-- way: {}", self.way).expect("a String takes any text");
        text.push_str(&self.statements.join(BETWEEN));
        text.push('\n');
        text
    }

    /// Reads a regression file.
    pub fn from_file(text: &str) -> Result<Self, String> {
        let (head, rest) = text.split_once("-- way: ").ok_or("no line `-- way:`")?;
        if head.lines().any(|line| !line.starts_with("--")) {
            return Err("statements before the line `-- way:`".to_owned());
        }
        let (way, statements) = rest.split_once('\n').ok_or("no statements")?;
        let statements = statements.strip_suffix('\n').unwrap_or(statements);
        Ok(Self { statements: statements.split(BETWEEN).map(ToOwned::to_owned).collect(), way: way.parse()? })
    }
}

/// All cases.
#[derive(Debug, Clone, Copy)]
pub struct Cases;

impl Strategy for Cases {
    type Tree = Shrinking;
    type Value = Case;

    fn new_tree(&self, runner: &mut TestRunner) -> NewTree<Self> {
        let way = Way::random(&mut Dice::new(runner));
        let statements = generate::statements(runner);
        Ok(Shrinking::new(Case { statements, way }))
    }
}

/// A case on its way to fewer statements.
#[derive(Debug)]
pub struct Shrinking {
    case: Case,
    /// What the last step removed, from that position.
    removed: Option<(usize, Vec<String>)>,
    /// How many statements the next step removes, and where.
    size: usize,
    at: usize,
}

impl Shrinking {
    /// Starts with half of the statements.
    pub fn new(case: Case) -> Self {
        let size = case.statements.len().div_ceil(2);
        Self { case, removed: None, size, at: 0 }
    }
}

impl ValueTree for Shrinking {
    type Value = Case;

    fn current(&self) -> Case {
        self.case.clone()
    }

    /// Removes the next statements. Late ones go first, for nothing depends on them.
    fn simplify(&mut self) -> bool {
        let count = self.case.statements.len();
        if self.at >= count {
            if self.size <= 1 || count == 0 {
                return false;
            }
            (self.size, self.at) = (self.size.div_ceil(2), 0);
        }
        let end = count - self.at;
        let from = end.saturating_sub(self.size);
        self.removed = Some((from, self.case.statements.drain(from..end).collect()));
        true
    }

    /// Puts them back and goes on to the ones before.
    fn complicate(&mut self) -> bool {
        let Some((from, statements)) = self.removed.take() else { return false };
        self.at += statements.len();
        self.case.statements.splice(from..from, statements);
        true
    }
}

/// Files come back as they were, and shrinking finds the two statements that matter; panics otherwise.
pub fn check() {
    let statements: Vec<String> = (0..50).map(|number| format!("SELECT {number}\n;--")).collect();
    let way: Way = "kill jobs=3 compression=gzip sealed=true volumes=true changes=true draw=77".parse().expect("a way");
    let case = Case { statements, way };
    let again = Case::from_file(&case.to_file("some\nlines")).expect("our own file");
    assert_eq!((&again.statements, &again.way), (&case.statements, &case.way));
    let mut tree = Shrinking::new(case);
    let fails = |case: &Case| [7, 31].iter().all(|number| case.statements.contains(&format!("SELECT {number}\n;--")));
    while tree.simplify() {
        if !fails(&tree.current()) {
            tree.complicate();
        }
    }
    assert_eq!(tree.current().statements, ["SELECT 7\n;--", "SELECT 31\n;--"]);
}
