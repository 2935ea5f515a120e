//! Tables, their rows, changes, partitions, children, views and sequences.

use super::{Column, Generator, Relation};
use crate::values::{Kind, Type, value};

impl Generator<'_> {
    /// The definition of a fresh column, and the column.
    fn column(&mut self, earlier: &[Column]) -> (String, Column) {
        let name = self.dice.name("c");
        let of = self.any_type();
        let mut words = format!("{name} {}", of.sql);
        let integer = earlier.iter().find(|column| matches!(column.of.kind, Kind::Integer) && !column.generated);
        let mut generated = false;
        if let (Kind::Integer, true) = (&of.kind, self.dice.chance(25)) {
            let how = self.dice.word(&["ALWAYS", "BY DEFAULT"]);
            let increment = self.dice.word(&[
                "",
                "INCREMENT BY -3 MAXVALUE -1",
                "START 1000 INCREMENT 7 CACHE 3",
                "MINVALUE -5 START -5 CYCLE",
            ]);
            words.push_str(&format!(" GENERATED {how} AS IDENTITY ({increment})").replace(" ()", ""));
            generated = true;
        } else if let (Some(other), true) = (integer, self.dice.chance(12)) {
            words = format!("{name} integer GENERATED ALWAYS AS (({} / 2)) STORED", other.name);
            generated = true;
        } else if self.dice.chance(20) {
            words.push_str(&format!(" DEFAULT {}", value(&mut self.dice, &of)));
        }
        if !generated && self.dice.chance(10) {
            words.push_str(" NOT NULL");
        }
        (words, Column { name, of, generated })
    }

    /// Definitions of some columns.
    fn columns(&mut self, count: usize) -> (Vec<String>, Vec<Column>) {
        let (mut words, mut columns) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let (definition, column) = self.column(&columns);
            words.push(definition);
            columns.push(column);
        }
        (words, columns)
    }

    pub(super) fn table(&mut self) {
        let name = self.fresh("t");
        let count = if self.dice.chance(6) { 0 } else { 1 + self.dice.below(7) };
        let (mut words, mut columns) = self.columns(count);
        let mut key = None;
        if self.dice.chance(60) {
            let id = self.dice.name("id");
            words.insert(self.dice.below(words.len() + 1), format!("{id} integer"));
            let constraint = self.dice.name("pk");
            words.push(format!("CONSTRAINT {constraint} PRIMARY KEY ({id})"));
            let of = Type { sql: "integer".to_owned(), kind: Kind::Integer };
            columns.push(Column { name: id.clone(), of, generated: false });
            key = Some(vec![id]);
        }
        let unlogged = self.dice.maybe(8, "UNLOGGED ");
        let options = self.dice.word(&[
            "",
            "",
            "",
            "",
            " WITH (fillfactor = 70, autovacuum_enabled = off)",
            " WITH (toast.autovacuum_enabled = off, parallel_workers = 3)",
        ]);
        self.run(format!("CREATE {unlogged}TABLE {name} ({}){options}", words.join(", ")));
        self.thing("TABLE", &name);
        let table = Relation { name, kind: "TABLE", columns, key, parted: None };
        self.rows(&table);
        self.relations.push(table);
    }

    /// One INSERT.
    fn row(&mut self, into: &Relation) {
        let filled: Vec<&Column> =
            into.columns.iter().filter(|column| !column.generated || self.dice.chance(10)).collect();
        if filled.is_empty() {
            self.run(format!("INSERT INTO {} DEFAULT VALUES", into.name));
            return;
        }
        let names: Vec<&str> = filled.iter().map(|column| column.name.as_str()).collect();
        let values: Vec<String> = filled.iter().map(|column| value(&mut self.dice, &column.of)).collect();
        self.run(format!("INSERT INTO {} ({}) VALUES ({})", into.name, names.join(", "), values.join(", ")));
    }

    fn rows(&mut self, into: &Relation) {
        for _ in 0..self.dice.below(5) {
            self.row(into);
        }
    }

    pub(super) fn more_rows(&mut self) {
        if let Some(table) = self.any_table() {
            self.rows(&table);
        }
    }

    /// Many rows at once, some gone again, so that pages have holes.
    pub(super) fn bulk_rows(&mut self) {
        let Some(table) = self.any_table() else { return };
        let Some(number) = table.columns.iter().find(|c| matches!(c.of.kind, Kind::Integer) && !c.generated) else {
            return;
        };
        let (name, number) = (&table.name, &number.name);
        let rows = self.dice.word(&["300", "3000"]);
        self.run(format!("INSERT INTO {name} ({number}) SELECT g + 1000 FROM generate_series(1, {rows}) g"));
        if self.dice.chance(40) {
            self.run(format!("DELETE FROM {name} WHERE {number} % 3 = 1"));
        }
        if self.dice.chance(40) {
            self.run(format!("UPDATE {name} SET {number} = {number} + 100000 WHERE {number} % 5 = 2"));
        }
    }

    pub(super) fn altered_table(&mut self) {
        let Some(table) = self.any_table() else { return };
        let name = &table.name;
        let column = self.dice.pick(&table.columns).map(|column| column.name.clone()).unwrap_or_default();
        let statement = match self.dice.below(16) {
            0..=2 if !table.columns.is_empty() => {
                self.relations.iter_mut().filter(|other| other.name == *name).for_each(|other| {
                    other.columns.retain(|other| other.name != column);
                });
                format!("ALTER TABLE {name} DROP COLUMN {column}")
            }
            3 | 4 => {
                let (definition, _) = self.column(&[]);
                format!("ALTER TABLE {name} ADD COLUMN {definition}")
            }
            5 => format!("ALTER TABLE {name} ALTER COLUMN {column} SET STATISTICS {}", self.dice.below(200)),
            6 => format!(
                "ALTER TABLE {name} ALTER COLUMN {column} SET STORAGE {}",
                self.dice.word(&["EXTERNAL", "MAIN", "PLAIN"])
            ),
            7 => format!("ALTER TABLE {name} ALTER COLUMN {column} SET (n_distinct = -0.5)"),
            8 => format!("ALTER TABLE {name} ALTER COLUMN {column} SET COMPRESSION pglz"),
            9 => format!("ALTER TABLE {name} REPLICA IDENTITY {}", self.dice.word(&["FULL", "NOTHING"])),
            10 => format!("ALTER TABLE {name} ALTER COLUMN {column} DROP DEFAULT"),
            11 => format!("ALTER TABLE {name} ALTER COLUMN {column} SET DEFAULT NULL"),
            12 => format!("ALTER TABLE {name} SET UNLOGGED"),
            13 => {
                let of = self.fresh("ot");
                self.run(format!("CREATE TYPE {of} AS (a integer, b text)"));
                let typed = self.fresh("t");
                self.thing("TABLE", &typed);
                format!("CREATE TABLE {typed} OF {of} (a WITH OPTIONS PRIMARY KEY)")
            }
            14 => format!("ALTER TABLE {name} ALTER COLUMN {column} SET NOT NULL"),
            _ => format!("ALTER TABLE {name} ADD COLUMN {} integer DEFAULT 7 NOT NULL", self.dice.name("c")),
        };
        self.run(statement);
    }

    /// A child with columns of its own, an odd order, other defaults.
    pub(super) fn inheritance(&mut self) {
        let Some(parent) = self.relation(|relation| relation.kind == "TABLE" && relation.parted.is_none()) else {
            return;
        };
        let name = self.fresh("h");
        let count = self.dice.below(3);
        let (mut words, own) = self.columns(count);
        let mut columns = parent.columns.clone();
        for column in parent.columns.iter().filter(|column| !column.generated) {
            if self.dice.chance(25) {
                let default = if self.dice.chance(60) {
                    format!(" DEFAULT {}", value(&mut self.dice, &column.of))
                } else {
                    String::new()
                };
                words.push(format!("{} {}{default}", column.name, column.of.sql));
            }
        }
        let other = if self.dice.chance(20) {
            self.relation(|other| other.kind == "TABLE" && other.parted.is_none())
        } else {
            None
        };
        let parents = match other.filter(|other| other.name != parent.name) {
            Some(other) => format!("{}, {}", other.name, parent.name),
            None => parent.name.clone(),
        };
        self.run(format!("CREATE TABLE {name} ({}) INHERITS ({parents})", words.join(", ")));
        self.thing("TABLE", &name);
        for column in &parent.columns {
            if self.dice.chance(15) {
                let words = self.dice.word(&["SET DEFAULT NULL", "DROP DEFAULT", "SET NOT NULL", "SET STATISTICS 5"]);
                self.run(format!("ALTER TABLE {name} ALTER COLUMN {} {words}", column.name));
            }
        }
        if self.dice.chance(10) {
            self.run(format!("ALTER TABLE {name} NO INHERIT {}", parent.name));
        }
        columns.extend(own);
        let table = Relation { name, kind: "TABLE", columns, key: None, parted: None };
        self.rows(&table);
        self.relations.push(table);
    }

    pub(super) fn view(&mut self) {
        let Some(of) = self.relation(|_| true) else { return };
        let name = self.fresh("v");
        let options = self.dice.word(&[
            "",
            "",
            " WITH (security_barrier)",
            " WITH (security_invoker = true)",
            " WITH (check_option = local)",
        ]);
        let condition = self.dice.word(&[
            "",
            " WHERE true",
            " WHERE 1 <> 2 ORDER BY 1 LIMIT 5",
            " UNION ALL SELECT * FROM {}",
            " GROUP BY {k}",
        ]);
        let tail = condition.replace("{}", &of.name);
        let columns = match of.columns.first() {
            Some(first) if tail.contains("{k}") => first.name.clone(),
            _ => "*".to_owned(),
        };
        let tail = tail.replace("{k}", &columns);
        self.run(format!("CREATE VIEW {name}{options} AS SELECT {columns} FROM {} AS x{tail}", of.name));
        self.thing("VIEW", &name);
        if self.dice.chance(15) {
            // Views that refer to each other: pg_dump breaks the circle by a view of NULLs first.
            self.run(format!("CREATE OR REPLACE VIEW {name} AS SELECT {columns} FROM {}", of.name));
        }
        if let (Some(column), true) = (of.columns.first(), self.dice.chance(15)) {
            self.run(format!("ALTER VIEW {name} ALTER COLUMN {} SET DEFAULT NULL", column.name));
        }
        self.relations.push(Relation { name, kind: "VIEW", columns: of.columns, key: None, parted: None });
    }

    pub(super) fn materialized_view(&mut self) {
        let Some(of) = self.relation(|relation| relation.kind != "FOREIGN TABLE") else { return };
        let name = self.fresh("m");
        let data = self.dice.word(&["", "", "WITH NO DATA"]);
        self.run(format!("CREATE MATERIALIZED VIEW {name} AS SELECT *, 1 AS one FROM {} {data}", of.name));
        self.thing("MATERIALIZED VIEW", &name);
        self.relations.push(Relation { name, kind: "MATERIALIZED VIEW", columns: of.columns, key: None, parted: None });
    }

    pub(super) fn sequence(&mut self) {
        let name = self.fresh("q");
        let words = self.dice.word(&[
            "",
            "AS smallint INCREMENT -2 MINVALUE -100 MAXVALUE 100 START 50",
            "INCREMENT 1000000007 CACHE 20",
            "MINVALUE 5 START 7 MAXVALUE 9 CYCLE",
            "AS integer MAXVALUE 2147483647 START 2147483646",
            "MINVALUE -9223372036854775808 START -9223372036854775808",
        ]);
        let unlogged = self.dice.maybe(10, "UNLOGGED ");
        self.run(format!("CREATE {unlogged}SEQUENCE {name} {words}"));
        self.thing("SEQUENCE", &name);
        let quoted = crate::words::literal(&name);
        for _ in 0..self.dice.below(3) {
            self.run(format!("SELECT nextval({quoted})"));
        }
        if self.dice.chance(25) {
            let called = self.dice.word(&["true", "false"]);
            let to = 5 + self.dice.below(4);
            self.run(format!("SELECT setval({quoted}, {to}, {called})"));
        }
        if let (Some(table), true) = (self.any_table(), self.dice.chance(50)) {
            let column = table.columns.iter().find(|c| matches!(c.of.kind, Kind::Integer) && !c.generated);
            if let Some(column) = column {
                let (table, column) = (&table.name, &column.name);
                self.run(format!("ALTER TABLE {table} ALTER COLUMN {column} SET DEFAULT nextval({quoted})"));
                if self.dice.chance(60) {
                    self.run(format!("ALTER SEQUENCE {name} OWNED BY {table}.{column}"));
                }
                self.run(format!("INSERT INTO {table} DEFAULT VALUES"));
            }
        }
        self.sequences.push(name);
    }

    /// A partitioned table, its partitions made in place or attached later, some of them partitioned themselves.
    pub(super) fn partitioned(&mut self) {
        let name = self.fresh("p");
        let count = self.dice.below(4);
        let (words, columns) = self.columns(count);
        self.parted_table(&name, words, columns);
    }

    fn parted_table(&mut self, name: &str, mut words: Vec<String>, mut columns: Vec<Column>) {
        let of = match self.dice.below(4) {
            0 => Type { sql: "text".to_owned(), kind: Kind::Text },
            1 => self.any_type(),
            _ => Type { sql: "integer".to_owned(), kind: Kind::Integer },
        };
        // Hashes of enums differ between databases: constraints of single partitions would then hold here and not there.
        let strategies: &[&str] = if built_in_only(&of) { &["RANGE", "LIST", "HASH"] } else { &["RANGE", "LIST"] };
        let strategy = self.dice.word(strategies);
        let by = self.dice.name("k");
        let at = self.dice.below(words.len() + 1);
        words.insert(at, format!("{by} {}", of.sql));
        columns.insert(at, Column { name: by.clone(), of: of.clone(), generated: false });
        let integer = matches!(of.kind, Kind::Integer);
        let expression = if integer && strategy != "LIST" && self.dice.chance(15) {
            format!("(({by} + 1))")
        } else {
            format!("({by})")
        };
        let mut key = None;
        if integer && !expression.starts_with("((") && self.dice.chance(50) {
            words.push(format!("PRIMARY KEY ({by})"));
            key = Some(vec![by.clone()]);
        }
        self.run(format!("CREATE TABLE {name} ({}) PARTITION BY {strategy} {expression}", words.join(", ")));
        self.thing("TABLE", name);
        let table = Relation { name: name.to_owned(), kind: "TABLE", columns, key, parted: Some((strategy, at)) };
        self.relations.push(table.clone());
        for bounds in self.bounds(strategy, &of) {
            self.partition(&table, &bounds);
        }
        if self.dice.chance(20) {
            let fallback = self.fresh("pd");
            self.run(format!("CREATE TABLE {fallback} PARTITION OF {name} DEFAULT"));
        }
        for _ in 0..3 {
            self.rows(&table);
        }
    }

    /// FOR VALUES of two or three partitions.
    fn bounds(&mut self, strategy: &str, of: &Type) -> Vec<String> {
        let (one, two) = (value(&mut self.dice, of), value(&mut self.dice, of));
        match strategy {
            "HASH" => (0..3).map(|rest| format!("WITH (MODULUS 3, REMAINDER {rest})")).collect(),
            "LIST" if matches!(of.kind, Kind::Integer) => {
                vec!["IN (1, 2, 3, 4, 5, 6, 7, 8, 9)".to_owned(), "IN (NULL, 10, 20)".to_owned()]
            }
            "LIST" => vec![format!("IN ({one})"), format!("IN ({two}, NULL)")],
            _ if matches!(of.kind, Kind::Integer) => {
                vec![
                    "FROM (MINVALUE) TO (10)".to_owned(),
                    "FROM (10) TO (30)".to_owned(),
                    "FROM (30) TO (MAXVALUE)".to_owned(),
                ]
            }
            _ => vec![format!("FROM (MINVALUE) TO ({one})"), format!("FROM ({one}) TO (MAXVALUE)")],
        }
    }

    fn partition(&mut self, parent: &Relation, bounds: &str) {
        let name = self.fresh("pp");
        match self.dice.below(4) {
            0 => {
                let by = parent.columns.first().cloned();
                let hashes = by.as_ref().is_some_and(|column| built_in_only(&column.of)) && self.dice.chance(60);
                let (strategy, by) = (if hashes { "HASH" } else { "LIST" }, by.map(|by| by.name).unwrap_or_default());
                self.run(format!(
                    "CREATE TABLE {name} PARTITION OF {} FOR VALUES {bounds} PARTITION BY {strategy} ({by})",
                    parent.name
                ));
                self.thing("TABLE", &name);
                let leaf = self.fresh("pl");
                let bounds = if strategy == "HASH" { "FOR VALUES WITH (MODULUS 1, REMAINDER 0)" } else { "DEFAULT" };
                self.run(format!("CREATE TABLE {leaf} PARTITION OF {name} {bounds}"));
                self.thing("TABLE", &leaf);
            }
            1 => {
                // Attached later, its columns in another order, with a dropped one in front.
                let mut words: Vec<String> = parent
                    .columns
                    .iter()
                    .filter(|c| !c.generated)
                    .map(|c| format!("{} {}", c.name, c.of.sql))
                    .collect();
                words.reverse();
                self.run(format!("CREATE TABLE {name} (gone integer, {})", words.join(", ")));
                self.run(format!("ALTER TABLE {name} DROP COLUMN gone"));
                self.run(format!("ALTER TABLE {} ATTACH PARTITION {name} FOR VALUES {bounds}", parent.name));
                self.thing("TABLE", &name);
            }
            _ => {
                self.run(format!("CREATE TABLE {name} PARTITION OF {} FOR VALUES {bounds}", parent.name));
                self.thing("TABLE", &name);
            }
        }
        self.relations.push(Relation { name, kind: "TABLE", columns: parent.columns.clone(), key: None, parted: None });
    }
}

/// True where no type of the case's own is inside.
fn built_in_only(of: &Type) -> bool {
    !of.sql.contains('.') && !of.sql.contains('"')
}
