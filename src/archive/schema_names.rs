//! Schemas under other names in what pg_dump wrote. A definition names objects of a schema as `schema.object`, everywhere:
//! the name of the schema, right before a dot, is replaced. Whatever else holds the name is either of a known form (casts to
//! `regclass` and its kin, search paths, `SCHEMA name`) or cannot be understood from here: texts and bodies of functions, and
//! queries that use the same name for a table or an alias. Those are left as they are, and reported.

use libpgdump::{Entry, ObjectType};

use crate::archive::catalogue::{about_schema, tag};
use crate::sql::names::{literal, quote};
use crate::sql::statements::{name, token};

/// Saved names and those here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SchemaNames(pub(crate) Vec<(String, String)>);

impl SchemaNames {
    /// The name here of a schema of the run.
    pub(crate) fn here<'a>(&'a self, saved: &'a str) -> &'a str {
        self.0.iter().find(|(from, _)| from == saved).map_or(saved, |(_, to)| to)
    }

    /// The name in the run of a schema here.
    pub(crate) fn saved<'a>(&'a self, here: &'a str) -> &'a str {
        self.0.iter().find(|(_, to)| to == here).map_or(here, |(from, _)| from)
    }

    /// Gives an entry the new names. Returns the saved name of a schema that still stands in it.
    pub(crate) fn rename(&self, entry: &mut Entry) -> Option<String> {
        let mut left = None;
        for (from, to) in &self.0 {
            if entry.namespace.as_deref() == Some(from) {
                entry.namespace = Some(to.clone());
            }
            if entry.desc == ObjectType::Schema && tag(entry) == from {
                entry.tag = Some(to.clone());
            } else if about_schema(entry).is_some_and(|schema| schema == *from) {
                entry.tag = Some(format!("SCHEMA {}", quote(to)));
            }
        }
        let is_text = matches!(entry.desc, ObjectType::Comment | ObjectType::SecurityLabel);
        let has_queries = matches!(
            entry.desc,
            ObjectType::View
                | ObjectType::MaterializedView
                | ObjectType::Rule
                | ObjectType::Policy
                | ObjectType::Function
                | ObjectType::Procedure
        );
        let is_value = entry.desc == ObjectType::SequenceSet;
        for text in [&mut entry.defn, &mut entry.drop_stmt, &mut entry.copy_stmt].into_iter().flatten() {
            let mut writer = Writer { is_value, ..Writer::new(self) };
            writer.read(text);
            let twofold = writer.twofold(has_queries);
            left = left.or(writer.left.filter(|_| !is_text)).or(twofold);
            *text = writer.out;
        }
        left
    }

    /// A statement that holds names and no texts, such as `COPY`.
    pub(crate) fn renamed(&self, statement: &str) -> String {
        let mut writer = Writer::new(self);
        writer.read(statement);
        writer.out
    }
}

/// Reads one text and writes it again.
struct Writer<'a> {
    names: &'a SchemaNames,
    out: String,
    /// The values of a sequence: the first text names it.
    is_value: bool,
    /// Within a list of schemas.
    is_path: bool,
    /// The word before.
    before: String,
    /// A saved name that a text or a body holds.
    left: Option<String>,
    /// Names that stand before a dot.
    heads: Vec<String>,
    /// Names that stand elsewhere, for something else.
    others: Vec<String>,
}

impl<'a> Writer<'a> {
    const fn new(names: &'a SchemaNames) -> Self {
        Self {
            names,
            out: String::new(),
            is_value: false,
            is_path: false,
            before: String::new(),
            left: None,
            heads: Vec::new(),
            others: Vec::new(),
        }
    }

    fn read(&mut self, text: &str) {
        let bytes = text.as_bytes();
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            let rest = text.get(at..).unwrap_or_default();
            let length = match byte {
                b'"' | b'_' | b'a'..=b'z' | b'A'..=b'Z' | 0x80.. => self.name(text, at),
                b'0'..=b'9' => {
                    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_');
                    self.copy(rest, rest.find(|c| !is_part(c)).unwrap_or(rest.len()))
                }
                _ => self.other(rest, token(bytes, at).max(1)),
            };
            at += length;
        }
    }

    fn copy(&mut self, rest: &str, length: usize) -> usize {
        self.out.push_str(rest.get(..length).unwrap_or_default());
        length
    }

    /// A name, with or without quotes.
    fn name(&mut self, text: &str, at: usize) -> usize {
        let rest = text.get(at..).unwrap_or_default();
        let Some((found, after)) = name(rest) else { return self.copy(rest, 1) };
        let length = rest.len() - after.len();
        let is_word = !rest.starts_with('"');
        let begins = !text.get(..at).is_some_and(|before| before.ends_with('.'));
        let known = self.names.0.iter().find(|(from, _)| *from == found);
        if is_word && found == "search_path" {
            self.is_path = true;
        }
        match known {
            Some((from, to)) if begins && after.starts_with('.') => {
                self.heads.push(from.clone());
                self.out.push_str(&quote(to));
            }
            Some((_, to)) if begins && (self.before == "SCHEMA" || self.is_path) => self.out.push_str(&quote(to)),
            other => {
                // A role, as in TO and FROM of privileges and policies.
                if let Some((from, _)) = other.filter(|_| self.before != "TO") {
                    self.others.push(from.clone());
                }
                self.copy(rest, length);
            }
        }
        self.before = if is_word { found } else { String::new() };
        length
    }

    /// A text, a body, or a sign.
    fn other(&mut self, rest: &str, mut length: usize) -> usize {
        while !rest.is_char_boundary(length) {
            length += 1;
        }
        // Doubled, a quote is a part of the text.
        while rest.starts_with('\'') && rest.as_bytes().get(length) == Some(&b'\'') {
            length += token(rest.as_bytes(), length);
        }
        let part = rest.get(..length).unwrap_or_default();
        if rest.starts_with('\n') || rest.starts_with(';') {
            self.is_path = false;
        }
        if part.starts_with("--") || length == 1 {
            return self.copy(rest, length);
        }
        let inner =
            part.strip_prefix('\'').and_then(|part| part.strip_suffix('\'')).map(|text| text.replace("''", "'"));
        let after = rest.get(length..).unwrap_or_default();
        if let Some(new) = inner.as_deref().and_then(|inner| self.text(inner, after)) {
            self.out.push_str(&literal(&new));
            return length;
        }
        // A text that is the name and nothing else is a value, unless a body holds it.
        let mentioned = self.names.0.iter().find(|(from, _)| mentions(inner.as_deref().unwrap_or(part), from));
        self.left = self.left.take().or_else(|| mentioned.map(|(from, _)| from.clone()));
        self.copy(rest, length)
    }

    /// The new text, where it is one of those that name an object or a schema.
    fn text(&self, inner: &str, after: &str) -> Option<String> {
        let (found, rest) = name(inner)?;
        let (_, to) = self.names.0.iter().find(|(from, _)| *from == found)?;
        let is_schema = self.is_path || after.starts_with("::regnamespace");
        if rest.is_empty() && is_schema {
            // A search path holds names as they are, a cast as they are written.
            return Some(if self.is_path { to.clone() } else { quote(to) });
        }
        let is_object = after.starts_with("::reg") || (self.is_value && self.out.ends_with("setval("));
        (rest.starts_with('.') && is_object).then(|| self.names.renamed(inner))
    }

    /// A name that stands for a schema, and in the same query for something else.
    fn twofold(&self, has_queries: bool) -> Option<String> {
        self.heads.iter().find(|name| has_queries && self.others.contains(name)).cloned()
    }
}

/// True where a text may name the schema: the word before a dot, or as a text of its own.
fn mentions(text: &str, schema: &str) -> bool {
    let (text, schema) = (text.to_lowercase(), schema.to_lowercase());
    text.match_indices(&schema).any(|(at, _)| {
        let (before, rest) = (text.get(..at).unwrap_or_default(), text.get(at + schema.len()..).unwrap_or_default());
        let in_name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '$');
        if before.ends_with(in_name) || rest.starts_with(in_name) {
            return false;
        }
        let after = rest.strip_prefix('"').unwrap_or(rest).trim_start();
        let is_quoted = before.ends_with('\'') && rest.starts_with('\'');
        let is_path = before.lines().last().is_some_and(|line| line.contains("search_path"));
        after.starts_with('.') || is_quoted || is_path
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> SchemaNames {
        SchemaNames(vec![("shop".to_owned(), "Old shop".to_owned()), ("a.b".to_owned(), "c".to_owned())])
    }

    fn entry(desc: ObjectType, defn: &str) -> (String, Option<String>) {
        let mut entry = Entry {
            dump_id: 1,
            had_dumper: false,
            table_oid: String::new(),
            oid: String::new(),
            tag: Some("shop".to_owned()),
            section: desc.section(),
            desc,
            defn: Some(defn.to_owned()),
            drop_stmt: None,
            copy_stmt: None,
            namespace: Some("shop".to_owned()),
            tablespace: None,
            tableam: None,
            relkind: None,
            owner: None,
            with_oids: false,
            dependencies: Vec::new(),
            data_state: libpgdump::OffsetState::NotSet,
            offset: 0,
            filename: None,
        };
        let left = names().rename(&mut entry);
        (entry.defn.unwrap_or_default(), left)
    }

    #[test]
    fn schemas_get_new_names_wherever_a_definition_names_them() {
        for (old, new) in [
            ("CREATE SCHEMA shop;\n", "CREATE SCHEMA \"Old shop\";\n"),
            (
                "CREATE TABLE shop.shop (\n    shop shop.mood DEFAULT 'x'::shop.mood, t \"a.b\".\"shop.x\"\n);",
                "CREATE TABLE \"Old shop\".shop (\n    shop \"Old shop\".mood DEFAULT 'x'::\"Old shop\".mood, t \"c\".\"shop.x\"\n);",
            ),
            (
                "ALTER TABLE ONLY shop.t ALTER COLUMN id SET DEFAULT nextval('shop.t_id_seq'::regclass);",
                "ALTER TABLE ONLY \"Old shop\".t ALTER COLUMN id SET DEFAULT nextval('\"Old shop\".t_id_seq'::regclass);",
            ),
            ("GRANT SELECT ON TABLE shop.t TO shop;\n", "GRANT SELECT ON TABLE \"Old shop\".t TO shop;\n"),
            (
                "CREATE INDEX shop ON shop.t USING btree (x OPERATOR(shop.=) y) WHERE ((workshop.x) = 'workshop.y'::text);",
                "CREATE INDEX shop ON \"Old shop\".t USING btree (x OPERATOR(\"Old shop\".=) y) WHERE ((workshop.x) = 'workshop.y'::text);",
            ),
            (
                "ALTER DEFAULT PRIVILEGES FOR ROLE shop IN SCHEMA shop GRANT ALL ON TABLES TO x;",
                "ALTER DEFAULT PRIVILEGES FOR ROLE shop IN SCHEMA \"Old shop\" GRANT ALL ON TABLES TO x;",
            ),
            (
                "SELECT 'shop'::regnamespace, 1.5, shop.f('x''y');",
                "SELECT '\"Old shop\"'::regnamespace, 1.5, \"Old shop\".f('x''y');",
            ),
        ] {
            assert_eq!(entry(ObjectType::Table, old), (new.to_owned(), None), "{old}");
        }
        let (set, left) = entry(ObjectType::SequenceSet, "SELECT pg_catalog.setval('shop.t_id_seq', 7, true);");
        assert_eq!((set.as_str(), left), ("SELECT pg_catalog.setval('\"Old shop\".t_id_seq', 7, true);", None));
        assert_eq!(names().renamed("COPY \"a.b\".t (shop) FROM stdin;\n"), "COPY \"c\".t (shop) FROM stdin;\n");
    }

    #[test]
    fn what_cannot_be_understood_is_left_and_reported() {
        let path = "CREATE FUNCTION shop.f() RETURNS integer\n    LANGUAGE sql\n    SET search_path TO 'shop', 'pg_temp'\n    AS $$ SELECT 1 $$;";
        let (text, left) = entry(ObjectType::Function, path);
        assert!(
            text.contains("FUNCTION \"Old shop\".f()") && text.contains("TO 'Old shop', 'pg_temp'\n") && left.is_none(),
            "{text}"
        );
        for body in [
            "$$ SELECT * FROM SHOP.t $$",
            "$_$ \"shop\" . t $_$",
            "'SELECT format(''%I.t'', ''shop'')'",
            "$$ SET search_path = x, shop $$",
        ] {
            let text = format!("CREATE FUNCTION shop.f() RETURNS integer\n    LANGUAGE sql\n    AS {body};");
            assert_eq!(entry(ObjectType::Function, &text).1.as_deref(), Some("shop"), "{body}");
        }
        for body in ["$$ SELECT workshop.x, shop_id.x, shopper $$", "$$ SELECT t.shop FROM t $$"] {
            let text = format!("CREATE FUNCTION shop.f() RETURNS integer\n    LANGUAGE sql\n    AS {body};");
            assert_eq!(entry(ObjectType::Function, &text).1, None, "{body}");
        }
        for view in ["SELECT shop.id FROM shop.t shop", "SELECT shop.id FROM crm.shop"] {
            let text = format!("CREATE VIEW shop.v AS\n {view};");
            assert_eq!(entry(ObjectType::View, &text).1.as_deref(), Some("shop"), "{view}");
        }
        assert_eq!(entry(ObjectType::View, "CREATE VIEW shop.v AS\n SELECT t.id FROM shop.t;").1, None);
        assert_eq!(
            entry(ObjectType::Default, "ALTER TABLE shop.t ALTER COLUMN x SET DEFAULT 'shop.t'::text;").1.as_deref(),
            Some("shop")
        );
        assert_eq!(entry(ObjectType::Comment, "COMMENT ON TABLE shop.t IS 'see shop.u';").1, None);
    }
}
