//! Routines, event triggers, extensions, foreign data and large objects.

use super::{Generator, Relation};
use crate::values::{built_in, value};

/// Extensions of the distribution's server, each refused where it is not.
const EXTENSIONS: [&str; 14] = [
    "hstore",
    "citext",
    "ltree",
    "pg_trgm",
    "btree_gist",
    "btree_gin",
    "intarray",
    "cube",
    "seg",
    "isn",
    "tablefunc",
    "unaccent",
    "pgcrypto",
    "lo",
];

impl Generator<'_> {
    pub(super) fn trigger_function(&mut self) {
        let name = self.fresh("tf");
        let notes = self.dice.word(&["", "-- \\. $x$", "PERFORM 1;", "RAISE NOTICE 'x %', TG_OP;"]);
        self.run(format!(
            "CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $body$\nBEGIN\n  {notes}\n  RETURN coalesce(NEW, OLD);\nEND\n$body$"
        ));
        self.thing("FUNCTION", &format!("{name}()"));
        self.trigger_functions.push(name);
    }

    pub(super) fn routine(&mut self) {
        let name = self.fresh("fn");
        match self.dice.below(9) {
            0 => self.trigger_function(),
            1 | 2 => {
                let body = self.dice.word(&[
                    "AS 'SELECT $1 + 1'",
                    "RETURN $1 * 2",
                    "AS $x$ SELECT CASE WHEN $1 > 5 THEN 1 ELSE $1 END $x$",
                    "BEGIN ATOMIC SELECT $1; SELECT $1 % 7; END",
                ]);
                self.run(format!("CREATE FUNCTION {name}(integer) RETURNS integer LANGUAGE sql IMMUTABLE {body}"));
                self.thing("FUNCTION", &format!("{name}(integer)"));
                self.integer_functions.push(name);
            }
            3 => {
                let of = self.any_type();
                let default = value(&mut self.dice, &of);
                let argument = self.dice.name("a");
                self.run(format!(
                    "CREATE FUNCTION {name}({argument} {0} DEFAULT {default}, VARIADIC rest text[] DEFAULT '{{}}') RETURNS SETOF {0} \
                     LANGUAGE plpgsql STABLE STRICT SECURITY DEFINER PARALLEL RESTRICTED COST 7 ROWS 3 \
                     SET search_path = '' SET work_mem = '8MB' SET \"app.odd\" = E'a\\'b' AS $a$BEGIN RETURN NEXT {argument}; END$a$",
                    of.sql
                ));
                self.thing("FUNCTION", &format!("{name}({}, text[])", of.sql));
            }
            4 => {
                self.run(format!("CREATE PROCEDURE {name}(INOUT x integer, OUT y text) LANGUAGE plpgsql AS 'BEGIN x := x + 1; COMMIT; END'"));
                self.thing("PROCEDURE", &format!("{name}(integer)"));
            }
            5 => {
                let words = self.dice.word(&[
                    "(integer) (SFUNC = int4pl, STYPE = integer, INITCOND = '0')",
                    "(integer) (SFUNC = int4larger, STYPE = integer, SORTOP = >, PARALLEL = safe, COMBINEFUNC = int4larger)",
                    "(*) (SFUNC = int8inc, STYPE = bigint, INITCOND = '5')",
                ]);
                self.run(format!("CREATE AGGREGATE {name}{words}"));
                let arguments = words.split_once(' ').map(|(arguments, _)| arguments).unwrap_or_default();
                self.thing("AGGREGATE", &format!("{name}{arguments}"));
            }
            6 => {
                if let Some(table) = self.any_table() {
                    self.run(format!("CREATE FUNCTION {name}() RETURNS SETOF {0} LANGUAGE sql STABLE BEGIN ATOMIC SELECT * FROM {0}; END", table.name));
                    self.thing("FUNCTION", &format!("{name}()"));
                }
            }
            7 => {
                if let Some(table) = self.any_table() {
                    self.run(format!(
                        "CREATE FUNCTION {name}({0}) RETURNS text LANGUAGE sql AS 'SELECT ($1)::text'",
                        table.name
                    ));
                    self.thing("FUNCTION", &format!("{name}({})", table.name));
                }
            }
            _ => {
                self.run(format!("CREATE FUNCTION {name}(anyelement, OUT a anyarray, OUT \"b \"\"c\" integer) LANGUAGE sql AS 'SELECT ARRAY[$1], 1'"));
                self.thing("FUNCTION", &format!("{name}(anyelement)"));
            }
        }
    }

    pub(super) fn event_trigger(&mut self) {
        let (function, name) = (self.fresh("ef"), self.dice.name("et"));
        let body = self.dice.word(&["NULL;", "PERFORM 1;", "RAISE NOTICE 'fired %', tg_tag;"]);
        self.run(format!(
            "CREATE FUNCTION {function}() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN {body} END$$"
        ));
        let event = self.dice.word(&[
            "ddl_command_start",
            "ddl_command_end",
            "sql_drop",
            "table_rewrite",
            "ddl_command_end WHEN tag IN ('CREATE TABLE', 'DROP TABLE')",
        ]);
        self.run(format!("CREATE EVENT TRIGGER {name} ON {event} EXECUTE FUNCTION {function}()"));
        self.thing("EVENT TRIGGER", &name);
        if self.dice.chance(40) {
            let state = self.dice.word(&["DISABLE", "ENABLE REPLICA", "ENABLE ALWAYS"]);
            self.run(format!("ALTER EVENT TRIGGER {name} {state}"));
        }
    }

    pub(super) fn extension(&mut self) {
        let name = self.dice.word(&EXTENSIONS);
        let schema = self.in_schema();
        self.run(format!("CREATE EXTENSION {name} SCHEMA {schema}"));
        self.thing("EXTENSION", name);
        let of = match name {
            "hstore" => ("hstore", "a=>1, \"b c\"=>NULL"),
            "citext" => ("citext", "MiXed"),
            "ltree" => ("ltree", "a.b.c"),
            "cube" => ("cube", "(1,2),(3,4)"),
            "isn" => ("isbn", "978-0-393-04002-9"),
            "seg" => ("seg", "1.5 .. 2"),
            _ => return,
        };
        let kind = crate::values::Kind::Words(vec![of.1.to_owned()]);
        self.types.push(crate::values::Type { sql: format!("{schema}.{}", of.0), kind });
        if self.dice.chance(15) {
            let function = self.fresh("xf");
            self.run(format!("CREATE FUNCTION {function}() RETURNS integer LANGUAGE sql AS 'SELECT 1'"));
            self.run(format!("ALTER EXTENSION {name} ADD FUNCTION {function}()"));
        }
        if self.dice.chance(15) {
            let function = self.fresh("df");
            self.run(format!("CREATE FUNCTION {function}() RETURNS integer LANGUAGE sql AS 'SELECT 1'"));
            self.run(format!("ALTER FUNCTION {function}() DEPENDS ON EXTENSION {name}"));
        }
    }

    /// A wrapper, server, mapping and table, none of which is ever asked for rows.
    pub(super) fn foreign_data(&mut self) {
        let server = self.dice.name("fs");
        let wrapper = match self.dice.below(3) {
            0 => {
                let schema = self.in_schema();
                self.run(format!("CREATE EXTENSION IF NOT EXISTS postgres_fdw SCHEMA {schema}"));
                "postgres_fdw".to_owned()
            }
            1 => {
                let schema = self.in_schema();
                self.run(format!("CREATE EXTENSION IF NOT EXISTS file_fdw SCHEMA {schema}"));
                "file_fdw".to_owned()
            }
            _ => {
                let wrapper = self.dice.name("fw");
                self.run(format!("CREATE FOREIGN DATA WRAPPER {wrapper} OPTIONS (\"an option\" E'it\\'s')"));
                self.thing("FOREIGN DATA WRAPPER", &wrapper);
                wrapper
            }
        };
        let options = if wrapper == "postgres_fdw" { " OPTIONS (host '127.0.0.1', port '1', dbname 'x')" } else { "" };
        self.run(format!("CREATE SERVER {server} TYPE 'a' VERSION 'b''c' FOREIGN DATA WRAPPER {wrapper}{options}"));
        self.thing("SERVER", &server);
        let role = self.role();
        let user = if self.dice.chance(50) { "PUBLIC".to_owned() } else { role };
        let password = if wrapper == "postgres_fdw" { " OPTIONS (\"user\" 'u', password E'p\\'w\\\\')" } else { "" };
        self.run(format!("CREATE USER MAPPING FOR {user} SERVER {server}{password}"));
        let name = self.fresh("ft");
        let (column, of) = (self.dice.name("c"), built_in(&mut self.dice));
        let options = match wrapper.as_str() {
            "file_fdw" => " OPTIONS (filename '/nonexistent/\"x''y', format 'csv')",
            "postgres_fdw" => " OPTIONS (table_name 'a.\"b')",
            _ => "",
        };
        self.run(format!("CREATE FOREIGN TABLE {name} ({column} {}, n integer DEFAULT 3 NOT NULL CHECK (n > 0)) SERVER {server}{options}", of.sql));
        self.thing("FOREIGN TABLE", &name);
        let columns = vec![super::Column { name: column, of, generated: false }];
        self.relations.push(Relation { name, kind: "FOREIGN TABLE", columns, key: None, parted: None });
    }

    pub(super) fn large_object(&mut self) {
        let number = 100_000 + self.dice.number();
        let text = self.dice.text();
        let repeat = self.dice.word(&["1", "0", "100", "5000"]);
        self.run(format!("SELECT lo_from_bytea({number}, convert_to(repeat({text}, {repeat}), 'UTF8'))"));
        if self.dice.chance(15) {
            self.run(format!("SELECT lo_put({number}, 300000, '\\x00ff')"));
        }
        self.thing("LARGE OBJECT", &number.to_string());
    }
}
