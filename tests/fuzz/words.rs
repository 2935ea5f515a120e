//! Names, quoting and texts of the random databases: what careless quoting, patterns, keys and splitters of lines
//! stumble over, each name made unique by a number so that few statements are refused for a collision.

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

/// Words that stand where an object's name may stand, though each means something else.
const KEYWORDS: [&str; 10] =
    ["select", "table", "user", "order", "manifest.json", "RESTORE.md", "@database.dump", "public.dump", "..", "CON"];

/// Makes the random decisions of one case.
#[derive(Debug)]
pub struct Dice<'a> {
    runner: &'a mut TestRunner,
    made: usize,
}

impl<'a> Dice<'a> {
    /// Draws from the seeded generator of that runner.
    pub fn new(runner: &'a mut TestRunner) -> Self {
        Self { runner, made: 0 }
    }

    /// One value of a strategy of proptest's.
    pub fn draw<S: Strategy>(&mut self, strategy: S) -> S::Value {
        strategy.new_tree(self.runner).expect("a strategy without filters has a value").current()
    }

    /// A number from 0 and below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.runner.rng().next_u64() % limit.max(1) as u64).expect("below a usize")
    }

    /// True in so many of 100 cases.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// One of them; none of an empty list.
    pub fn pick<'b, T>(&mut self, all: &'b [T]) -> Option<&'b T> {
        let at = self.below(all.len());
        all.get(at)
    }

    /// One word of a list that has some.
    pub fn word<'b>(&mut self, all: &[&'b str]) -> &'b str {
        self.pick(all).copied().unwrap_or_default()
    }

    /// The words with this chance, else none.
    pub fn maybe<'b>(&mut self, percent: usize, words: &'b str) -> &'b str {
        if self.chance(percent) { words } else { "" }
    }

    /// A number that no other name of this case has.
    pub fn number(&mut self) -> usize {
        self.made += 1;
        self.made
    }

    /// A fresh identifier, quoted.
    pub fn name(&mut self, prefix: &str) -> String {
        ident(&self.raw_name(prefix))
    }

    /// A fresh name as the catalogue has it; at most 63 bytes.
    pub fn raw_name(&mut self, prefix: &str) -> String {
        let base = format!("{prefix}{}", self.number());
        match self.below(36) {
            0 => format!("{} Upper", base.to_uppercase()),
            1 => format!("{base} \"quoted\""),
            2 => format!("{base}.with.[brackets]"),
            3 => format!("{base}\": \"x"),
            4 => format!("%{base}%s %%"),
            5 => format!("{base}\\back\\"),
            6 => format!("{base}\nline"),
            7 => format!("{base} äß😀"),
            8 => longest(&base, 'é'),
            9 => longest(&base, 'x'),
            10 => self.word(&KEYWORDS).to_owned(),
            11 => format!("{base} (P0001) [42501]"),
            12 => format!("{base} $$ -- /* */;"),
            13 => format!("'{base}'"),
            14 => format!(" {base} "),
            15 => format!("{base}/../x*?"),
            16 => format!("{base}\u{202e}\u{1}\t"),
            17 => format!("{base},(a\r\nb)"),
            _ => base,
        }
    }

    /// Any text, as a literal.
    pub fn text(&mut self) -> String {
        const TEXTS: [&str; 12] = [
            "",
            "\\.",
            "\\N",
            "NULL",
            "a\tb\nc\rd\\e'f\"g",
            "{\"a\": 1}",
            "$$ -- /*",
            "\u{feff}é😀\u{301}",
            " \n\\.\nCOPY x FROM stdin;\n",
            "%s %d :x :'y'",
            "\u{1}\u{7f}\u{8}",
            "plain",
        ];
        let raw = match self.below(3) {
            0 => self.draw("[^\u{0}]{0,12}"),
            1 => self.draw("[a-z ]{0,40}"),
            _ => self.word(&TEXTS).to_owned(),
        };
        literal(&raw)
    }
}

/// The base and as many of that letter as make 63 bytes.
fn longest(base: &str, letter: char) -> String {
    let mut name = base.to_owned();
    while name.len() + letter.len_utf8() <= 63 {
        name.push(letter);
    }
    name
}

/// An identifier, quoted.
pub fn ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A literal that reads the same under every setting.
pub fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}
