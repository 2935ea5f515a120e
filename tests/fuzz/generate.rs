//! Random databases: a list of statements, each of which stands alone, and what the earlier ones made. What a server
//! refuses is dropped by the caller, so a statement may be wrong now and then; it must never be without an end.

mod code;
mod parts;
mod rights;
mod tables;
mod types;

use proptest::test_runner::TestRunner;

use crate::values::{Type, built_in};
use crate::words::Dice;

/// Roles of every cluster of the fuzzer, without login.
pub const ROLES: [&str; 4] = ["fz_owner", "fz \"app\" ☃", "FZ Reader", "fz.least"];

/// Makes the statements of one case.
pub fn statements(runner: &mut TestRunner) -> Vec<String> {
    let mut generator = Generator::new(Dice::new(runner));
    generator.fill();
    generator.statements
}

/// A column of a table, or an attribute.
#[derive(Debug, Clone)]
struct Column {
    /// Quoted.
    name: String,
    of: Type,
    /// Its values are the server's.
    generated: bool,
}

/// A table, view, or foreign table.
#[derive(Debug, Clone)]
struct Relation {
    /// Quoted, with its schema.
    name: String,
    /// As GRANT and COMMENT name the kind: TABLE, VIEW, MATERIALIZED VIEW, FOREIGN TABLE.
    kind: &'static str,
    columns: Vec<Column>,
    /// Columns of a primary key or unique constraint, if any.
    key: Option<Vec<String>>,
    /// PARTITION BY, with its strategy and the position of its column.
    parted: Option<(&'static str, usize)>,
}

/// An object that takes comments, owners, grants: its kind as SQL names it and its name with arguments.
#[derive(Debug, Clone)]
struct Thing {
    kind: &'static str,
    name: String,
}

/// What was made so far.
#[derive(Debug)]
struct Generator<'a> {
    dice: Dice<'a>,
    statements: Vec<String>,
    schemas: Vec<String>,
    types: Vec<Type>,
    relations: Vec<Relation>,
    things: Vec<Thing>,
    /// Functions of the kinds that others use, quoted with schema.
    trigger_functions: Vec<String>,
    /// Of one integer, immutable.
    integer_functions: Vec<String>,
    sequences: Vec<String>,
}

impl<'a> Generator<'a> {
    fn new(dice: Dice<'a>) -> Self {
        Self {
            dice,
            statements: Vec::new(),
            schemas: vec!["public".to_owned()],
            types: Vec::new(),
            relations: Vec::new(),
            things: vec![Thing { kind: "SCHEMA", name: "public".to_owned() }],
            trigger_functions: Vec::new(),
            integer_functions: Vec::new(),
            sequences: Vec::new(),
        }
    }

    /// The base first, then a random walk over everything, then comments, grants and changes.
    fn fill(&mut self) {
        for _ in 0..=self.dice.below(4) {
            self.schema();
        }
        for _ in 0..self.dice.below(5) {
            self.a_type();
        }
        if self.dice.chance(30) {
            self.default_privileges();
        }
        if self.dice.chance(40) {
            self.extension();
        }
        for _ in 0..self.dice.below(3) {
            self.routine();
        }
        for _ in 0..=self.dice.below(3) {
            self.table();
        }
        for _ in 0..10 + self.dice.below(40) {
            self.anything();
        }
        for _ in 0..self.dice.below(25) {
            self.about_anything();
        }
    }

    fn anything(&mut self) {
        match self.dice.below(34) {
            0 => self.schema(),
            1 => self.a_type(),
            2 | 3 => self.routine(),
            4 | 5 => self.table(),
            6 | 7 => self.partitioned(),
            8 => self.inheritance(),
            9 => self.view(),
            10 => self.materialized_view(),
            11 => self.sequence(),
            12..=14 => self.index(),
            15 | 16 => self.constraint(),
            17 => self.foreign_key(),
            18 | 19 => self.trigger(),
            20 => self.rule(),
            21 => self.policy(),
            22 => self.extended_statistics(),
            23 => self.publication(),
            24 => self.foreign_data(),
            25 => self.large_object(),
            26 => self.event_trigger(),
            27 => self.operator(),
            28 => self.text_search(),
            29 => self.extension(),
            30 => self.altered_table(),
            31 => self.default_privileges(),
            32 => self.bulk_rows(),
            _ => self.more_rows(),
        }
    }

    fn about_anything(&mut self) {
        match self.dice.below(8) {
            0..=2 => self.comment(),
            3 | 4 => self.grant(),
            5 => self.owner(),
            6 => self.setting(),
            _ => self.more_rows(),
        }
    }

    fn run(&mut self, statement: String) {
        self.statements.push(statement);
    }

    fn thing(&mut self, kind: &'static str, name: &str) {
        self.things.push(Thing { kind, name: name.to_owned() });
    }

    /// A schema that was made.
    fn in_schema(&mut self) -> String {
        self.dice.pick(&self.schemas).cloned().unwrap_or_default()
    }

    /// A fresh name in one of the schemas.
    fn fresh(&mut self, prefix: &str) -> String {
        let schema = self.in_schema();
        format!("{schema}.{}", self.dice.name(prefix))
    }

    /// A role, quoted.
    fn role(&mut self) -> String {
        crate::words::ident(self.dice.word(&ROLES))
    }

    /// Any type: built in, or one of the case's own.
    fn any_type(&mut self) -> Type {
        if self.dice.chance(35)
            && let Some(own) = self.dice.pick(&self.types)
        {
            return own.clone();
        }
        built_in(&mut self.dice)
    }

    /// A relation that passes this test.
    fn relation(&mut self, wanted: impl Fn(&Relation) -> bool) -> Option<Relation> {
        let fit: Vec<&Relation> = self.relations.iter().filter(|relation| wanted(relation)).collect();
        self.dice.pick(&fit).map(|relation| (*relation).clone())
    }

    /// A table with rows of its own or a partitioned one.
    fn any_table(&mut self) -> Option<Relation> {
        self.relation(|relation| relation.kind == "TABLE")
    }

    fn schema(&mut self) {
        let name = self.dice.name("s");
        let owner = if self.dice.chance(30) { format!(" AUTHORIZATION {}", self.role()) } else { String::new() };
        self.run(format!("CREATE SCHEMA {name}{owner}"));
        self.thing("SCHEMA", &name);
        self.schemas.push(name);
    }
}
