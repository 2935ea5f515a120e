//! Types, casts between them, collations, operators and their classes, text search.

use super::Generator;
use crate::values::{Kind, Type, value};
use crate::words::literal;

impl Generator<'_> {
    pub(super) fn a_type(&mut self) {
        let name = self.fresh("ty");
        let made = match self.dice.below(7) {
            0 | 1 => self.an_enum(&name),
            2 => self.composite(&name),
            3 | 4 => self.domain(&name),
            5 => self.range(&name),
            _ => {
                self.collation();
                return;
            }
        };
        self.types.push(Type { sql: format!("{name}[]"), kind: Kind::Array(Box::new(made.clone())) });
        self.types.push(made);
    }

    fn an_enum(&mut self, name: &str) -> Type {
        let count = 1 + self.dice.below(4);
        let labels: Vec<String> = (0..count).map(|_| self.dice.raw_name("l")).collect();
        let quoted: Vec<String> = labels.iter().map(|label| literal(label)).collect();
        self.run(format!("CREATE TYPE {name} AS ENUM ({})", quoted.join(", ")));
        self.thing("TYPE", name);
        if self.dice.chance(30) {
            let label = literal(&self.dice.raw_name("l"));
            let first = quoted.first().cloned().unwrap_or_default();
            self.run(format!("ALTER TYPE {name} ADD VALUE {label} BEFORE {first}"));
        }
        Type { sql: name.to_owned(), kind: Kind::Words(labels) }
    }

    fn composite(&mut self, name: &str) -> Type {
        let count = 1 + self.dice.below(4);
        let fields: Vec<Type> = (0..count).map(|_| self.any_type()).collect();
        let words: Vec<String> = fields.iter().map(|of| format!("{} {}", self.dice.name("f"), of.sql)).collect();
        self.run(format!("CREATE TYPE {name} AS ({})", words.join(", ")));
        self.thing("TYPE", name);
        let with_array = self.dice.chance(15);
        if with_array {
            let attribute = self.dice.name("f");
            self.run(format!("ALTER TYPE {name} ADD ATTRIBUTE {attribute} integer"));
            self.run(format!("ALTER TYPE {name} DROP ATTRIBUTE {attribute}"));
        }
        Type { sql: name.to_owned(), kind: Kind::Composite(fields) }
    }

    fn domain(&mut self, name: &str) -> Type {
        let base = self.any_type();
        let mut words = format!("CREATE DOMAIN {name} AS {}", base.sql);
        if self.dice.chance(25) {
            words.push_str(&format!(" DEFAULT {}", value(&mut self.dice, &base)));
        }
        if self.dice.chance(20) {
            words.push_str(" NOT NULL");
        }
        if self.dice.chance(40) {
            let constraint = self.dice.name("c");
            let check =
                self.dice.word(&["VALUE IS NOT NULL", "VALUE::text <> 'x y z'", "pg_column_size(VALUE) < 100000"]);
            words.push_str(&format!(" CONSTRAINT {constraint} CHECK ({check})"));
        }
        self.run(words);
        self.thing("DOMAIN", name);
        if self.dice.chance(20) {
            let constraint = self.dice.name("c");
            self.run(format!(
                "ALTER DOMAIN {name} ADD CONSTRAINT {constraint} CHECK (VALUE IS DISTINCT FROM NULL) NOT VALID"
            ));
            if self.dice.chance(50) {
                let text = self.dice.text();
                self.run(format!("COMMENT ON CONSTRAINT {constraint} ON DOMAIN {name} IS {text}"));
            }
        }
        Type { sql: name.to_owned(), kind: Kind::Over(Box::new(base)) }
    }

    fn range(&mut self, name: &str) -> Type {
        let bound = match self.dice.below(3) {
            0 => Type { sql: "text".to_owned(), kind: Kind::Text },
            1 => Type { sql: "double precision".to_owned(), kind: Kind::Float },
            _ => self.any_type(),
        };
        let multi =
            if self.dice.chance(50) { format!(", multirange_type_name = {}", self.fresh("mr")) } else { String::new() };
        let collation = if bound.sql == "text" { self.dice.maybe(50, ", collation = \"C\"") } else { "" };
        self.run(format!("CREATE TYPE {name} AS RANGE (subtype = {}{collation}{multi})", bound.sql));
        self.thing("TYPE", name);
        Type { sql: name.to_owned(), kind: Kind::Range(Box::new(bound)) }
    }

    fn collation(&mut self) {
        let name = self.fresh("co");
        let words = self.dice.word(&[
            "(LOCALE = 'C')",
            "(LC_COLLATE = 'C', LC_CTYPE = 'POSIX')",
            "FROM \"C\"",
            "(PROVIDER = icu, LOCALE = 'und-u-ks-level2', DETERMINISTIC = false)",
            "(PROVIDER = icu, LOCALE = 'de-AT-u-co-phonebk')",
            "(LOCALE = 'C.UTF-8')",
        ]);
        self.run(format!("CREATE COLLATION {name} {words}"));
        self.thing("COLLATION", &name);
        self.types.push(Type { sql: format!("text COLLATE {name}"), kind: Kind::Text });
    }

    /// Operators, families, classes, casts, conversions, access methods, languages, transforms.
    pub(super) fn operator(&mut self) {
        match self.dice.below(7) {
            0 | 1 => {
                let schema = self.in_schema();
                let symbol = self.dice.word(&["<<<", "@#@", "~!~", "%%%", "+-@", "|/|/", "&&&"]);
                let (function, words) = match self.dice.below(3) {
                    0 => (
                        "pg_catalog.int4lt",
                        "COMMUTATOR = OPERATOR(pg_catalog.>), RESTRICT = scalarltsel, JOIN = scalarltjoinsel",
                    ),
                    1 => ("pg_catalog.int4eq", "MERGES, HASHES, RESTRICT = eqsel, JOIN = eqjoinsel"),
                    _ => ("pg_catalog.int4pl", ""),
                };
                let comma = if words.is_empty() { "" } else { ", " };
                self.run(format!(
                    "CREATE OPERATOR {schema}.{symbol} (LEFTARG = integer, RIGHTARG = integer, FUNCTION = {function}{comma}{words})"
                ));
                self.thing("OPERATOR", &format!("{schema}.{symbol} (integer, integer)"));
            }
            2 => {
                let family = self.fresh("of");
                self.run(format!("CREATE OPERATOR FAMILY {family} USING btree"));
                self.thing("OPERATOR FAMILY", &format!("{family} USING btree"));
                self.run(format!("ALTER OPERATOR FAMILY {family} USING btree ADD OPERATOR 1 < (integer, bigint), FUNCTION 1 (integer, bigint) btint48cmp(integer, bigint)"));
                let class = self.fresh("oc");
                self.run(format!(
                    "CREATE OPERATOR CLASS {class} FOR TYPE integer USING btree FAMILY {family} AS OPERATOR 1 <, \
                     OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 btint4cmp(integer, integer)"
                ));
                self.thing("OPERATOR CLASS", &format!("{class} USING btree"));
            }
            3 => {
                if let Some(of) = self.dice.pick(&self.types).cloned() {
                    let words = self.dice.word(&["WITH INOUT", "WITH INOUT AS ASSIGNMENT", "WITH INOUT AS IMPLICIT"]);
                    let target = self.dice.word(&["text", "bytea", "json"]);
                    self.run(format!("CREATE CAST ({} AS {target}) {words}", of.sql));
                    self.thing("CAST", &format!("({} AS {target})", of.sql));
                }
            }
            4 => {
                let name = self.fresh("cv");
                self.run(format!("CREATE CONVERSION {name} FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8"));
                self.thing("CONVERSION", &name);
            }
            5 => {
                let name = self.dice.name("am");
                let words = self.dice.word(&["INDEX HANDLER bthandler", "TABLE HANDLER heap_tableam_handler"]);
                self.run(format!("CREATE ACCESS METHOD {name} TYPE {words}"));
                self.thing("ACCESS METHOD", &name);
            }
            _ => {
                // A language whose handler is the system's own is taken for an extension by pg_dump.
                let name = self.dice.name("la");
                let handler = if self.dice.chance(10) { "plpgsql_call_handler".to_owned() } else { self.fresh("lh") };
                self.run(format!("CREATE FUNCTION {handler}() RETURNS language_handler LANGUAGE c AS '$libdir/plpgsql', 'plpgsql_call_handler'"));
                self.run(format!("CREATE TRUSTED LANGUAGE {name} HANDLER {handler}"));
                self.thing("LANGUAGE", &name);
            }
        }
    }

    pub(super) fn text_search(&mut self) {
        let (parser, template) = (self.fresh("tp"), self.fresh("tt"));
        let (dictionary, configuration) = (self.fresh("td"), self.fresh("tc"));
        if self.dice.chance(30) {
            self.run(format!(
                "CREATE TEXT SEARCH PARSER {parser} (START = prsd_start, GETTOKEN = prsd_nexttoken, END = prsd_end, \
                 LEXTYPES = prsd_lextype, HEADLINE = prsd_headline)"
            ));
            self.thing("TEXT SEARCH PARSER", &parser);
        }
        if self.dice.chance(30) {
            self.run(format!("CREATE TEXT SEARCH TEMPLATE {template} (INIT = dsimple_init, LEXIZE = dsimple_lexize)"));
            self.thing("TEXT SEARCH TEMPLATE", &template);
        }
        self.run(format!(
            "CREATE TEXT SEARCH DICTIONARY {dictionary} (TEMPLATE = simple, STOPWORDS = english, ACCEPT = false)"
        ));
        self.thing("TEXT SEARCH DICTIONARY", &dictionary);
        self.run(format!("CREATE TEXT SEARCH CONFIGURATION {configuration} (COPY = simple)"));
        self.run(format!("ALTER TEXT SEARCH CONFIGURATION {configuration} ALTER MAPPING FOR asciiword, word WITH {dictionary}, simple"));
        self.thing("TEXT SEARCH CONFIGURATION", &configuration);
    }
}
