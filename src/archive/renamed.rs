//! The definition of a table under another name, from the statements that pg_dump wrote about it.
//!
//! Only the head of a statement is changed, where pg_dump always writes the name of the table, and names that share a
//! schema with others: of indexes, of constraints with an index, of the table's own sequences. What is inside (expressions,
//! types, defaults) stays as it is, but for a literal that names one of these sequences. A statement of any other kind is not
//! taken over, and named: a foreign key would hinder changes of other tables, a trigger would do something.

use std::collections::{BTreeSet, HashMap};

use crate::sql::names::{TableName, literal, quote};
use crate::sql::statements::{name, token};

/// PostgreSQL cuts longer names.
const LONGEST: usize = 63;

/// Gives the statements of one table another name.
pub(crate) struct Renamer {
    from: TableName,
    to: TableName,
    /// The table's own sequences: the name in the run and the new one.
    sequences: HashMap<TableName, TableName>,
    /// Names in the new schema that are taken.
    taken: BTreeSet<String>,
    /// Kinds of statements that were not taken over.
    pub(crate) left: BTreeSet<&'static str>,
}

impl Renamer {
    /// For a table, its new name, and the names that the new schema has already.
    pub(crate) fn new(from: TableName, to: TableName, mut taken: BTreeSet<String>) -> Self {
        taken.insert(to.table.clone());
        Self { from, to, sequences: HashMap::new(), taken, left: BTreeSet::new() }
    }

    /// Finds the sequences that belong to the table, whose names stand in other statements too.
    pub(crate) fn find_sequences(&mut self, statements: &[&str]) {
        for statement in statements {
            let owned = statement.strip_prefix("ALTER SEQUENCE ").and_then(qualified).and_then(|(sequence, rest)| {
                let (table, _) = qualified(rest.strip_prefix(" OWNED BY ")?)?;
                (table == self.from).then_some(sequence)
            });
            let identity = statement.split_once("SEQUENCE NAME ").and_then(|(head, rest)| {
                let own = self.after_alter(head).is_some_and(|rest| rest.contains(" ADD GENERATED "));
                own.then(|| qualified(rest).map(|(sequence, _)| sequence)).flatten()
            });
            for sequence in owned.into_iter().chain(identity) {
                let new = TableName::new(self.to.schema.clone(), self.free(&sequence.table));
                self.sequences.entry(sequence).or_insert(new);
            }
        }
    }

    /// The statement under the new name; `None` where it is not taken over.
    ///
    /// # Errors
    /// In words: the table cannot have another name.
    pub(crate) fn renamed(&mut self, statement: &str) -> Result<Option<String>, String> {
        if let Some(made) = self.table(statement)? {
            return Ok(Some(made));
        }
        if let Some(rest) = statement.strip_prefix("CREATE SEQUENCE ") {
            let found = qualified(rest).and_then(|(old, rest)| Some((self.sequences.get(&old)?.sql(), rest)));
            return Ok(found.map(|(new, rest)| format!("CREATE SEQUENCE {new}{rest}")));
        }
        if let Some(rest) = statement.strip_prefix("ALTER SEQUENCE ") {
            let found = qualified(rest).and_then(|(old, rest)| {
                let (_, rest) = qualified(rest.strip_prefix(" OWNED BY ")?)?;
                Some((self.sequences.get(&old)?.sql(), rest))
            });
            return Ok(found.map(|(new, rest)| format!("ALTER SEQUENCE {new} OWNED BY {}{rest}", self.to.sql())));
        }
        if statement.starts_with("SELECT pg_catalog.setval(") {
            let new = self.with_sequences(statement);
            return Ok((new != statement).then_some(new));
        }
        if let Some(index) = self.index(statement) {
            return Ok(Some(index));
        }
        let Some(rest) = self.after_alter(statement).map(str::to_owned) else {
            self.leave(statement);
            return Ok(None);
        };
        Ok(self.altered(&rest).or_else(|| {
            self.leave(statement);
            None
        }))
    }

    /// What follows the name in an `ALTER TABLE` of this table.
    fn after_alter<'a>(&self, statement: &'a str) -> Option<&'a str> {
        let rest = statement.strip_prefix("ALTER TABLE ")?;
        let (table, rest) = qualified(rest.strip_prefix("ONLY ").unwrap_or(rest))?;
        (table == self.from).then(|| rest.trim_start())
    }

    fn table(&self, statement: &str) -> Result<Option<String>, String> {
        let heads = ["CREATE TABLE ", "CREATE UNLOGGED TABLE "];
        let Some(rest) = heads.iter().find_map(|head| statement.strip_prefix(head)) else { return Ok(None) };
        let Some((table, rest)) = qualified(rest).filter(|(table, _)| *table == self.from) else { return Ok(None) };
        let end = end_of_list(rest);
        let (list, after) = rest.split_at(end);
        let after = after.trim_start();
        if after.starts_with("INHERITS ") {
            return Err(format!("{table} takes columns from other tables (INHERITS)"));
        }
        // The rows of all partitions come into one table; settings of the storage are not needed.
        Ok(Some(format!("CREATE TABLE {}{}", self.to.sql(), self.with_sequences(list))))
    }

    fn index(&mut self, statement: &str) -> Option<String> {
        let heads = ["CREATE INDEX ", "CREATE UNIQUE INDEX "];
        let head = heads.iter().find(|head| statement.starts_with(**head))?;
        let (index, rest) = name(statement.strip_prefix(head)?)?;
        let rest = rest.strip_prefix(" ON ")?;
        let (table, rest) = qualified(rest.strip_prefix("ONLY ").unwrap_or(rest))?;
        if table != self.from {
            return None;
        }
        Some(format!("{head}{} ON {}{rest}", quote(&self.free(&index)), self.to.sql()))
    }

    fn altered(&mut self, rest: &str) -> Option<String> {
        let to = self.to.sql();
        if let Some(constraint) = rest.strip_prefix("ADD CONSTRAINT ") {
            let (old, what) = name(constraint)?;
            let kinds = [" PRIMARY KEY ", " UNIQUE ", " EXCLUDE "];
            if kinds.iter().any(|kind| what.starts_with(kind)) {
                return Some(format!("ALTER TABLE {to} ADD CONSTRAINT {}{what}", quote(&self.free(&old))));
            }
            return what
                .starts_with(" CHECK ")
                .then(|| format!("ALTER TABLE {to} ADD CONSTRAINT {}{what}", quote(&old)));
        }
        if let Some((head, sequence)) = rest.split_once("SEQUENCE NAME ").filter(|_| rest.contains(" ADD GENERATED ")) {
            let (old, after) = qualified(sequence)?;
            let new = self.sequences.get(&old)?.sql();
            return Some(format!("ALTER TABLE {to} {head}SEQUENCE NAME {new}{after}"));
        }
        let taken = rest.starts_with("ALTER COLUMN ")
            || rest == "ENABLE ROW LEVEL SECURITY"
            || rest == "FORCE ROW LEVEL SECURITY";
        taken.then(|| format!("ALTER TABLE {to} {}", self.with_sequences(rest)))
    }

    /// Puts the new names of the table's sequences into literals that name them.
    fn with_sequences(&self, text: &str) -> String {
        let (mut out, mut at) = (String::with_capacity(text.len()), 0);
        while at < text.len() {
            let length = token(text.as_bytes(), at).max(1);
            let mut end = at + length;
            while !text.is_char_boundary(end) {
                end += 1;
            }
            let part = text.get(at..end).unwrap_or_default();
            let inner = part.strip_prefix('\'').and_then(|part| part.strip_suffix('\''));
            let named = inner.and_then(qualified).filter(|(_, rest)| rest.is_empty()).map(|(sequence, _)| sequence);
            match named.and_then(|sequence| self.sequences.get(&sequence)) {
                Some(new) => out.push_str(&literal(&new.sql())),
                None => out.push_str(part),
            }
            at = end;
        }
        out
    }

    /// A name for what is called `old` in the run, free in the new schema: by the new name of the table.
    fn free(&mut self, old: &str) -> String {
        let of_table = old.strip_prefix(self.from.table.as_str()).filter(|rest| rest.starts_with('_'));
        let rest = of_table.map_or_else(|| format!("_{old}"), str::to_owned);
        for number in 0_u32.. {
            let end = if number == 0 { rest.clone() } else { format!("{rest}_{number}") };
            let new = cut(&self.to.table, &end);
            if self.taken.insert(new.clone()) {
                return new;
            }
        }
        old.to_owned()
    }

    fn leave(&mut self, statement: &str) {
        let kinds = [
            (" FOREIGN KEY ", "foreign keys"),
            ("CREATE TRIGGER ", "triggers"),
            ("CREATE CONSTRAINT TRIGGER ", "triggers"),
            ("CREATE RULE ", "rules"),
            ("CREATE POLICY ", "policies"),
            ("CREATE STATISTICS ", "extended statistics"),
            ("COMMENT ON ", "comments"),
            ("GRANT ", "privileges"),
            (" ATTACH PARTITION ", "the place among the partitions"),
        ];
        self.left.extend(kinds.iter().find(|(words, _)| statement.contains(words)).map(|(_, kind)| *kind));
    }
}

/// Two parts of a name, cut to what PostgreSQL takes; the end stays as far as it can.
fn cut(begin: &str, end: &str) -> String {
    let shortened = |text: &str, room: usize| -> String {
        let mut at = room.min(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        text.get(..at).unwrap_or_default().to_owned()
    };
    let end = shortened(end, LONGEST - 1);
    format!("{}{end}", shortened(begin, LONGEST - end.len()))
}

/// A name with its schema, and what follows it.
fn qualified(text: &str) -> Option<(TableName, &str)> {
    let (schema, rest) = name(text)?;
    let (table, rest) = name(rest.strip_prefix('.')?)?;
    Some((TableName::new(schema, table), rest))
}

/// The place after the list in parentheses that a text has first (after `OF type`, where it is a typed table).
fn end_of_list(text: &str) -> usize {
    let (mut depth, mut at) = (0_u32, 0);
    while let Some(byte) = text.as_bytes().get(at) {
        match byte {
            b'(' => depth += 1,
            b')' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
        at += token(text.as_bytes(), at).max(1);
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_and_sequences_get_new_names_and_the_rest_stays() {
        let (from, to) = (TableName::new("public", "orders"), TableName::new("public", "Old orders"));
        let mut renamer = Renamer::new(from, to, BTreeSet::from(["Old orders_pkey".to_owned()]));
        let identity = "ALTER TABLE public.orders ALTER COLUMN n ADD GENERATED ALWAYS AS IDENTITY (\n    SEQUENCE NAME public.orders_n_seq\n    START WITH 1\n)";
        let statements = ["ALTER SEQUENCE public.orders_id_seq OWNED BY public.orders.id", identity];
        renamer.find_sequences(&statements);
        let mut new = |text: &str| renamer.renamed(text).unwrap().unwrap_or_default();
        assert_eq!(
            new(
                "CREATE UNLOGGED TABLE public.orders (\n    id integer DEFAULT nextval('public.orders_id_seq'::regclass),\n    t text DEFAULT 'public.orders (x)',\n    CONSTRAINT c CHECK ((t <> ')'::text))\n)\nPARTITION BY RANGE (id)"
            ),
            "CREATE TABLE \"public\".\"Old orders\" (\n    id integer DEFAULT nextval('\"public\".\"Old orders_id_seq\"'::regclass),\n    t text DEFAULT 'public.orders (x)',\n    CONSTRAINT c CHECK ((t <> ')'::text))\n)"
        );
        assert!(new(identity).contains("SEQUENCE NAME \"public\".\"Old orders_n_seq\"\n"));
        assert_eq!(
            new(statements[0]),
            "ALTER SEQUENCE \"public\".\"Old orders_id_seq\" OWNED BY \"public\".\"Old orders\".id"
        );
        assert_eq!(
            new("ALTER TABLE ONLY public.orders\n    ADD CONSTRAINT orders_pkey PRIMARY KEY (id)"),
            "ALTER TABLE \"public\".\"Old orders\" ADD CONSTRAINT \"Old orders_pkey_1\" PRIMARY KEY (id)"
        );
        assert_eq!(
            new("CREATE UNIQUE INDEX \"by x\" ON public.orders USING btree (x) WHERE (t = 'public.orders'::text)"),
            "CREATE UNIQUE INDEX \"Old orders_by x\" ON \"public\".\"Old orders\" USING btree (x) WHERE (t = 'public.orders'::text)"
        );
        assert_eq!(
            new("SELECT pg_catalog.setval('public.orders_id_seq', 7, true)"),
            "SELECT pg_catalog.setval('\"public\".\"Old orders_id_seq\"', 7, true)"
        );
        for left in [
            "ALTER TABLE ONLY public.orders\n    ADD CONSTRAINT f FOREIGN KEY (c) REFERENCES public.customers(id)",
            "CREATE TRIGGER t BEFORE INSERT ON public.orders FOR EACH ROW EXECUTE FUNCTION public.f()",
            "ALTER TABLE public.orders OWNER TO somebody",
            "ALTER TABLE ONLY public.other ALTER COLUMN id SET DEFAULT 1",
            "CREATE INDEX i ON public.other USING btree (id)",
            "SELECT pg_catalog.setval('public.other_id_seq', 7, true)",
        ] {
            assert_eq!(new(left), "", "{left}");
        }
        assert_eq!(renamer.left, BTreeSet::from(["foreign keys", "triggers"]));
        assert!(renamer.renamed("CREATE TABLE public.orders (\n)\nINHERITS (public.people)").is_err());
        assert_eq!(cut(&"x".repeat(70), "_pkey").len(), 63);
    }
}
