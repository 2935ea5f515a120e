//! What belongs to a table: indexes, constraints, triggers, rules, policies, statistics, publications.

use super::{Generator, Relation};
use crate::values::Kind;

impl Generator<'_> {
    pub(super) fn index(&mut self) {
        let Some(table) = self.relation(|r| r.kind == "TABLE" || r.kind == "MATERIALIZED VIEW") else { return };
        let (Some(one), Some(two)) = (self.dice.pick(&table.columns).cloned(), self.dice.pick(&table.columns).cloned())
        else {
            return;
        };
        let (name, table, one, two) = (self.dice.name("i"), table.name, one.name, two.name);
        let only = self.dice.maybe(6, "ONLY ");
        let on = format!("{name} ON {only}{table}");
        let function = self.dice.pick(&self.integer_functions).cloned().unwrap_or_else(|| "abs".to_owned());
        let statement = match self.dice.below(17) {
            0 => format!("CREATE INDEX {on} ({one}, {two} DESC NULLS LAST)"),
            1 => format!("CREATE UNIQUE INDEX {on} ({one})"),
            2 => format!("CREATE UNIQUE INDEX {on} ({one}) NULLS NOT DISTINCT"),
            3 => format!("CREATE INDEX {on} ({one}) INCLUDE ({two})"),
            4 => format!("CREATE INDEX {on} ({one}) WHERE {two} IS NOT NULL"),
            5 => format!("CREATE INDEX {on} (({one} IS NULL), ({two} IS NULL))"),
            6 => format!("CREATE INDEX {on} ((lower({one})) text_pattern_ops)"),
            7 => format!("CREATE INDEX {on} (({function}({one})))"),
            8 => format!("CREATE INDEX {on} USING hash ({one})"),
            9 => format!("CREATE INDEX {on} USING brin ({one}) WITH (pages_per_range = 3)"),
            10 => format!("CREATE INDEX {on} USING gin ({one})"),
            11 => format!("CREATE INDEX {on} USING gist ({one})"),
            12 => format!("CREATE INDEX {on} USING spgist ({one})"),
            13 => format!("CREATE INDEX {on} ({one} COLLATE \"C\")"),
            14 => format!("CREATE INDEX CONCURRENTLY {on} ({one})"),
            15 => format!("CREATE INDEX {on} USING gin (to_tsvector('simple', {one}::text))"),
            _ => format!("CREATE INDEX {on} ({one}) WITH (fillfactor = 50, deduplicate_items = off)"),
        };
        self.run(statement);
        self.thing("INDEX", &format!("{}.{name}", schema_of(&table)));
        let qualified = format!("{}.{name}", schema_of(&table));
        match self.dice.below(12) {
            0 => self.run(format!("ALTER TABLE {table} CLUSTER ON {name}")),
            1 => self.run(format!("ALTER TABLE {table} REPLICA IDENTITY USING INDEX {name}")),
            2 => self.run(format!("ALTER INDEX {qualified} ALTER COLUMN 1 SET STATISTICS 77")),
            3 => {
                let constraint = self.dice.name("u");
                self.run(format!("ALTER TABLE {table} ADD CONSTRAINT {constraint} UNIQUE USING INDEX {name}"));
            }
            _ => {}
        }
    }

    pub(super) fn constraint(&mut self) {
        let Some(table) = self.any_table() else { return };
        let Some(column) = self.dice.pick(&table.columns).map(|column| column.name.clone()) else { return };
        let (name, constraint) = (table.name, self.dice.name("k"));
        let function = self.dice.pick(&self.integer_functions).cloned().unwrap_or_else(|| "abs".to_owned());
        let words = match self.dice.below(11) {
            0 => format!("CHECK ({column} IS NOT NULL OR true)"),
            1 => format!("CHECK ({column}::text <> 'x y') NO INHERIT"),
            2 => "CHECK (false) NOT VALID".to_owned(),
            3 => format!("CHECK ({column} IS NULL) NOT VALID"),
            4 => format!("UNIQUE ({column})"),
            5 => format!("UNIQUE ({column}) DEFERRABLE INITIALLY DEFERRED"),
            6 => format!("EXCLUDE ({column} WITH =)"),
            7 => format!("EXCLUDE USING gist ({column} WITH &&) WHERE ({column} IS NOT NULL) DEFERRABLE"),
            8 => format!("CHECK ({function}({column}) > -5)"),
            9 => format!("PRIMARY KEY ({column}) INCLUDE ({column})"),
            _ => format!("UNIQUE ({column}) WITH (fillfactor = 60)"),
        };
        self.run(format!("ALTER TABLE {name} ADD CONSTRAINT {constraint} {words}"));
        self.thing("CONSTRAINT", &format!("{constraint} ON {name}"));
        if words.starts_with("UNIQUE (") && !words.contains("DEFERRABLE") {
            for table in self.relations.iter_mut().filter(|table| table.name == name && table.key.is_none()) {
                table.key = Some(vec![column.clone()]);
            }
        }
    }

    /// A foreign key: to another table, to itself, of and to partitioned tables, in circles, not valid.
    pub(super) fn foreign_key(&mut self) {
        let Some(to) = self.relation(|table| table.kind == "TABLE" && table.key.is_some()) else { return };
        let Some(from) = (if self.dice.chance(25) { Some(to.clone()) } else { self.any_table() }) else { return };
        let Some(key) = to.key.as_ref().and_then(|key| key.first()).cloned() else { return };
        let of = to.columns.iter().find(|column| column.name == key).map(|column| column.of.sql.clone());
        let fit = from.columns.iter().find(|column| Some(&column.of.sql) == of.as_ref() && column.name != key);
        let column = match fit {
            Some(column) if self.dice.chance(60) => column.name.clone(),
            _ => {
                let column = self.dice.name("fk");
                self.run(format!("ALTER TABLE {} ADD COLUMN {column} {}", from.name, of.unwrap_or_default()));
                column
            }
        };
        let name = self.dice.name("fk");
        let words = self.dice.word(&[
            "",
            " ON DELETE CASCADE ON UPDATE SET NULL",
            " MATCH FULL",
            " DEFERRABLE INITIALLY DEFERRED",
            " NOT VALID",
            " ON DELETE SET NULL DEFERRABLE",
        ]);
        self.run(format!(
            "ALTER TABLE {} ADD CONSTRAINT {name} FOREIGN KEY ({column}) REFERENCES {} ({key}){words}",
            from.name, to.name
        ));
        self.thing("CONSTRAINT", &format!("{name} ON {}", from.name));
        if self.dice.chance(6) {
            // A row that refers to nothing, as it is left behind when triggers were off.
            let value = self.dice.word(&["987654", "-1"]);
            self.run(format!("SET session_replication_role = replica;\nUPDATE {} SET {column} = {value}", from.name));
        }
        if self.dice.chance(50) {
            self.run(format!("UPDATE {} SET {column} = (SELECT {key} FROM {} LIMIT 1)", from.name, to.name));
        }
    }

    pub(super) fn trigger(&mut self) {
        if self.trigger_functions.is_empty() {
            self.trigger_function();
        }
        let function = self.dice.pick(&self.trigger_functions).cloned().unwrap_or_default();
        let Some(on) = self.relation(|r| r.kind != "MATERIALIZED VIEW") else { return };
        let name = self.dice.name("tr");
        let column = self.dice.pick(&on.columns).map(|column| column.name.clone()).unwrap_or_default();
        let relation = &on.name;
        let statement = match self.dice.below(8) {
            0 => format!(
                "CREATE TRIGGER {name} BEFORE INSERT OR UPDATE ON {relation} FOR EACH ROW EXECUTE FUNCTION {function}()"
            ),
            1 => format!(
                "CREATE TRIGGER {name} AFTER INSERT OR DELETE ON {relation} FOR EACH ROW EXECUTE FUNCTION {function}('a', E'b\\'c\\\\')"
            ),
            2 => format!(
                "CREATE TRIGGER {name} AFTER UPDATE OF {column} ON {relation} FOR EACH ROW WHEN (OLD.{column} IS DISTINCT FROM NEW.{column}) EXECUTE FUNCTION {function}()"
            ),
            3 => format!("CREATE TRIGGER {name} BEFORE TRUNCATE ON {relation} EXECUTE FUNCTION {function}()"),
            4 => format!(
                "CREATE TRIGGER {name} AFTER INSERT ON {relation} REFERENCING NEW TABLE AS \"new rows\" FOR EACH STATEMENT EXECUTE FUNCTION {function}()"
            ),
            5 => format!(
                "CREATE CONSTRAINT TRIGGER {name} AFTER INSERT ON {relation} DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION {function}()"
            ),
            6 => format!(
                "CREATE TRIGGER {name} INSTEAD OF INSERT ON {relation} FOR EACH ROW EXECUTE FUNCTION {function}()"
            ),
            _ => format!(
                "CREATE TRIGGER {name} AFTER DELETE ON {relation} FOR EACH STATEMENT EXECUTE FUNCTION {function}()"
            ),
        };
        self.run(statement);
        self.thing("TRIGGER", &format!("{name} ON {relation}"));
        if self.dice.chance(45) {
            let state = self.dice.word(&["DISABLE", "ENABLE REPLICA", "ENABLE ALWAYS"]);
            self.run(format!("ALTER TABLE {relation} {state} TRIGGER {name}"));
        }
        if let (Some(child), true) = (self.child_of(&on), self.dice.chance(40)) {
            let state = self.dice.word(&["DISABLE", "ENABLE REPLICA", "ENABLE ALWAYS", "ENABLE"]);
            self.run(format!("ALTER TABLE {child} {state} TRIGGER {name}"));
        }
    }

    /// A table with the same columns: a partition or child, if there is one.
    fn child_of(&mut self, of: &Relation) -> Option<String> {
        let first = of.columns.first()?.name.clone();
        let is_child =
            |other: &Relation| other.name != of.name && other.columns.first().is_some_and(|c| c.name == first);
        self.relation(is_child).map(|child| child.name)
    }

    pub(super) fn rule(&mut self) {
        let Some(on) = self.relation(|r| r.kind == "TABLE" || r.kind == "VIEW") else { return };
        let name = self.dice.name("ru");
        let relation = &on.name;
        let action = match self.dice.below(4) {
            0 => format!("INSERT TO {relation} DO INSTEAD NOTHING"),
            1 => format!("UPDATE TO {relation} DO ALSO NOTIFY x"),
            2 => format!("DELETE TO {relation} WHERE false DO INSTEAD SELECT 1"),
            _ => format!("UPDATE TO {relation} WHERE true DO ALSO NOTHING"),
        };
        self.run(format!("CREATE RULE {name} AS ON {action}"));
        self.thing("RULE", &format!("{name} ON {relation}"));
        if self.dice.chance(20) {
            let state = self.dice.word(&["DISABLE", "ENABLE REPLICA", "ENABLE ALWAYS"]);
            self.run(format!("ALTER TABLE {relation} {state} RULE {name}"));
        }
    }

    pub(super) fn policy(&mut self) {
        let Some(on) = self.any_table() else { return };
        let (name, role) = (self.dice.name("po"), self.role());
        let relation = &on.name;
        let kind = self.dice.word(&["PERMISSIVE", "RESTRICTIVE"]);
        let words = match self.dice.below(4) {
            0 => "FOR SELECT TO PUBLIC USING (true)".to_owned(),
            1 => format!("FOR INSERT TO {role} WITH CHECK (current_user = 'x')"),
            2 => format!(
                "FOR ALL TO {role}, CURRENT_USER USING (current_setting('app.who', true) = E'a\\'b') WITH CHECK (false)"
            ),
            _ => format!("FOR UPDATE TO {role} USING (EXISTS (SELECT FROM {relation}))"),
        };
        self.run(format!("CREATE POLICY {name} ON {relation} AS {kind} {words}"));
        self.thing("POLICY", &format!("{name} ON {relation}"));
        let state = self.dice.word(&[
            "ENABLE ROW LEVEL SECURITY",
            "FORCE ROW LEVEL SECURITY",
            "ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
        ]);
        self.run(format!("ALTER TABLE {relation} {state}"));
    }

    pub(super) fn extended_statistics(&mut self) {
        let Some(on) = self.relation(|r| r.kind == "TABLE" && r.columns.len() > 1) else { return };
        let name = self.fresh("st");
        let columns: Vec<String> = on.columns.iter().take(3).map(|column| column.name.clone()).collect();
        let words = self.dice.word(&["", "(ndistinct)", "(dependencies, mcv)"]);
        let tail = match on.columns.iter().find(|c| matches!(c.of.kind, Kind::Integer)) {
            Some(column) if self.dice.chance(40) => format!("({} + 1)", column.name),
            _ => columns.join(", "),
        };
        let words = if tail.starts_with('(') { "" } else { words };
        self.run(format!("CREATE STATISTICS {name} {words} ON {tail} FROM {}", on.name));
        self.thing("STATISTICS", &name);
        if self.dice.chance(30) {
            self.run(format!("ALTER STATISTICS {name} SET STATISTICS 33"));
        }
        if self.dice.chance(30) {
            self.run(format!("ANALYZE {}", on.name));
        }
    }

    pub(super) fn publication(&mut self) {
        let name = self.dice.name("pu");
        let schema = self.in_schema();
        let table = self.any_table();
        let column = table
            .as_ref()
            .and_then(|table| table.columns.first())
            .map(|column| column.name.clone())
            .unwrap_or_default();
        let table = table.map(|table| table.name).unwrap_or_default();
        let words = match self.dice.below(7) {
            0 => "FOR ALL TABLES".to_owned(),
            1 => format!("FOR TABLES IN SCHEMA {schema}"),
            2 => format!("FOR TABLE {table} ({column})"),
            3 => format!("FOR TABLE {table} WHERE ({column} IS NOT NULL)"),
            4 => format!("FOR TABLE ONLY {table}, TABLES IN SCHEMA {schema}"),
            5 => String::new(),
            _ => format!("FOR TABLE {table}"),
        };
        let options =
            self.dice.word(&["", " WITH (publish = 'insert, truncate')", " WITH (publish_via_partition_root = true)"]);
        self.run(format!("CREATE PUBLICATION {name} {words}{options}"));
        self.thing("PUBLICATION", &name);
        if self.dice.chance(15) {
            let subscription = self.dice.name("su");
            self.run(format!(
                "CREATE SUBSCRIPTION {subscription} CONNECTION 'host=127.0.0.1 port=1 dbname=x' PUBLICATION {name} \
                 WITH (connect = false, slot_name = NONE)"
            ));
            self.thing("SUBSCRIPTION", &subscription);
        }
    }
}

/// The schema of a quoted name: the generator writes `schema.name`, and only the second part's dots are of no use here.
fn schema_of(name: &str) -> String {
    let mut quoted = false;
    for (at, letter) in name.char_indices() {
        match letter {
            '"' => quoted = !quoted,
            '.' if !quoted => return name.get(..at).unwrap_or_default().to_owned(),
            _ => {}
        }
    }
    name.to_owned()
}
