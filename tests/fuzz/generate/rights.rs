//! Owners, grants by owners and others, default privileges, comments, settings.

use super::Generator;

impl Generator<'_> {
    pub(super) fn comment(&mut self) {
        let Some(thing) = self.dice.pick(&self.things).cloned() else { return };
        let text = self.dice.text();
        let column = self.relation(|relation| relation.kind != "FOREIGN TABLE").and_then(|relation| {
            let column = self.dice.pick(&relation.columns)?.name.clone();
            Some(format!("{}.{column}", relation.name))
        });
        match column {
            Some(column) if self.dice.chance(20) => self.run(format!("COMMENT ON COLUMN {column} IS {text}")),
            _ if self.dice.chance(5) => self.run(format!("COMMENT ON DATABASE :\"DBNAME\" IS {text}")),
            _ => self.run(format!("COMMENT ON {} {} IS {text}", thing.kind, thing.name)),
        }
    }

    pub(super) fn owner(&mut self) {
        let Some(thing) = self.dice.pick(&self.things).cloned() else { return };
        let role = self.role();
        if ["TRIGGER", "RULE", "POLICY", "CONSTRAINT", "CAST", "ACCESS METHOD", "EXTENSION"].contains(&thing.kind) {
            return;
        }
        self.run(format!("ALTER {} {} OWNER TO {role}", thing.kind, thing.name));
    }

    pub(super) fn grant(&mut self) {
        let Some(thing) = self.dice.pick(&self.things).cloned() else { return };
        let (one, two) = (self.role(), self.role());
        let (kind, rights): (&str, &[&str]) = match thing.kind {
            "TABLE" | "VIEW" | "MATERIALIZED VIEW" | "FOREIGN TABLE" => {
                ("TABLE", &["SELECT", "INSERT, UPDATE", "ALL", "TRUNCATE, REFERENCES, TRIGGER"])
            }
            "SEQUENCE" => ("SEQUENCE", &["USAGE", "ALL", "SELECT, UPDATE"]),
            "SCHEMA" => ("SCHEMA", &["USAGE", "ALL", "CREATE"]),
            "FUNCTION" | "AGGREGATE" => ("FUNCTION", &["EXECUTE", "ALL"]),
            "PROCEDURE" => ("PROCEDURE", &["EXECUTE"]),
            "TYPE" => ("TYPE", &["USAGE"]),
            "DOMAIN" => ("DOMAIN", &["USAGE"]),
            "LANGUAGE" => ("LANGUAGE", &["USAGE"]),
            "FOREIGN DATA WRAPPER" => ("FOREIGN DATA WRAPPER", &["USAGE"]),
            "SERVER" => ("FOREIGN SERVER", &["USAGE"]),
            "LARGE OBJECT" => ("LARGE OBJECT", &["SELECT", "ALL"]),
            _ => {
                self.database_grant();
                return;
            }
        };
        let rights = self.dice.word(rights);
        let on = format!("ON {kind} {}", thing.name);
        match self.dice.below(6) {
            0 => self.run(format!("REVOKE ALL {on} FROM PUBLIC")),
            1 => {
                // By somebody who is not the owner: the order of the saved grants matters.
                self.run(format!("GRANT ALL {on} TO {one} WITH GRANT OPTION"));
                self.run(format!("SET ROLE {one};\nGRANT {rights} {on} TO {two}"));
            }
            2 => self.run(format!("REVOKE ALL {on} FROM CURRENT_USER")),
            3 if kind == "TABLE" => {
                let column = self
                    .relations
                    .iter()
                    .find(|r| r.name == thing.name)
                    .and_then(|r| r.columns.first())
                    .map(|c| c.name.clone());
                if let Some(column) = column {
                    self.run(format!("GRANT SELECT ({column}), UPDATE ({column}) {on} TO {one}, PUBLIC"));
                }
            }
            _ => {
                let to = if self.dice.chance(30) { "PUBLIC".to_owned() } else { one };
                self.run(format!("GRANT {rights} {on} TO {to}"));
            }
        }
    }

    fn database_grant(&mut self) {
        let role = self.role();
        let words = match self.dice.below(4) {
            0 => "REVOKE ALL ON DATABASE :\"DBNAME\" FROM PUBLIC".to_owned(),
            1 => format!("GRANT CREATE, TEMPORARY ON DATABASE :\"DBNAME\" TO {role} WITH GRANT OPTION"),
            2 => format!("ALTER DATABASE :\"DBNAME\" OWNER TO {role}"),
            _ => format!("GRANT CONNECT ON DATABASE :\"DBNAME\" TO {role}"),
        };
        self.run(words);
    }

    pub(super) fn default_privileges(&mut self) {
        let (owner, to, schema) = (self.role(), self.role(), self.in_schema());
        let of = if self.dice.chance(50) { format!(" FOR ROLE {owner}") } else { String::new() };
        let within = if self.dice.chance(50) { format!(" IN SCHEMA {schema}") } else { String::new() };
        let words = match self.dice.below(7) {
            0 => format!("GRANT SELECT ON TABLES TO {to}"),
            1 => "REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC".to_owned(),
            2 => format!("GRANT ALL ON SEQUENCES TO {to} WITH GRANT OPTION"),
            3 => format!("GRANT USAGE ON TYPES TO {to}"),
            4 => "REVOKE USAGE ON TYPES FROM PUBLIC".to_owned(),
            5 => format!("GRANT ALL ON SCHEMAS TO {to}"),
            _ => format!("GRANT ALL ON TABLES TO {to}, PUBLIC"),
        };
        self.run(format!("ALTER DEFAULT PRIVILEGES{of}{within} {words}"));
    }

    pub(super) fn setting(&mut self) {
        let role = self.role();
        let words = self.dice.word(&[
            "SET work_mem = '17MB'",
            "SET search_path = public, \"$user\", \"odd \"\"schema\"",
            "SET search_path = ''",
            "SET \"app.odd\" = E'a\\'b\\\\ c'",
            "SET DateStyle = 'SQL, DMY'",
            "SET IntervalStyle = 'sql_standard'",
            "SET TimeZone = 'Pacific/Chatham'",
            "SET bytea_output = 'escape'",
            "SET extra_float_digits = -5",
            "SET quote_all_identifiers = on",
            "SET standard_conforming_strings = off",
            "SET array_nulls = off",
            "SET xmloption = document",
            "SET client_encoding = 'LATIN1'",
            "SET default_transaction_read_only = on",
            "SET default_transaction_isolation = 'serializable'",
            "SET row_security = off",
            "SET statement_timeout = '1h'",
            "SET lock_timeout = '1h'",
            "SET default_tablespace = ''",
            "SET check_function_bodies = on",
            "SET transform_null_equals = on",
            "SET session_replication_role = replica",
            "SET enable_seqscan = off",
            "SET default_toast_compression = 'pglz'",
            "SET synchronous_commit = off",
            "CONNECTION LIMIT 50",
            "IS_TEMPLATE true",
        ]);
        if self.dice.chance(30) && words.starts_with("SET") {
            self.run(format!("ALTER ROLE {role} IN DATABASE :\"DBNAME\" {words}"));
        } else {
            self.run(format!("ALTER DATABASE :\"DBNAME\" {words}"));
        }
    }
}
