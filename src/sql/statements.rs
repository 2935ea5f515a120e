//! SQL text taken apart into statements, as the server would: literals, quoted names, dollar quotes and comments are
//! skipped over. For text that `pg_dump` and `pg_dumpall` wrote, with `standard_conforming_strings` on.

/// The statements of a script in their order, each without its semicolon and without comments around it. psql's own
/// commands (lines that begin with a backslash between statements) are left out.
#[must_use]
pub(crate) fn statements(script: &str) -> Vec<&str> {
    let bytes = script.as_bytes();
    let (mut found, mut start, mut at) = (Vec::new(), 0, 0);
    while let Some(&byte) = bytes.get(at) {
        let rest = bytes.get(at..).unwrap_or_default();
        let fresh = script.get(start..at).is_some_and(|text| text.trim().is_empty());
        if fresh && (byte == b'\\' || rest.starts_with(b"--")) {
            at += line(rest);
            start = at;
            continue;
        }
        if byte == b';' {
            found.extend(script.get(start..at).map(str::trim).filter(|text| !text.is_empty()));
            at += 1;
            start = at;
            continue;
        }
        at += token(bytes, at);
    }
    found.extend(script.get(start..).map(str::trim).filter(|text| !text.is_empty()));
    found
}

/// Length of what begins at `at`: a literal, quoted name, dollar quote or comment whole, anything else one byte.
#[must_use]
pub(crate) fn token(bytes: &[u8], at: usize) -> usize {
    let rest = bytes.get(at..).unwrap_or_default();
    let before = |back: usize| at.checked_sub(back).and_then(|at| bytes.get(at)).copied().unwrap_or(b' ');
    match rest {
        [b'\'', ..] => quoted(rest, before(1).eq_ignore_ascii_case(&b'e') && !in_name(before(2))),
        [b'"', ..] => quoted(rest, false),
        [b'-', b'-', ..] => line(rest),
        [b'/', b'*', ..] => comment(rest),
        [b'$', ..] if !in_name(before(1)) => dollar(rest),
        _ => 1,
    }
}

const fn in_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$') || byte >= 0x80
}

fn line(rest: &[u8]) -> usize {
    memchr::memchr(b'\n', rest).map_or(rest.len(), |at| at + 1)
}

fn quoted(rest: &[u8], escapes: bool) -> usize {
    let Some(quote) = rest.first() else { return 0 };
    let mut at = 1;
    while let Some(byte) = rest.get(at) {
        if byte == quote {
            return at + 1;
        }
        at += if escapes && *byte == b'\\' { 2 } else { 1 };
    }
    rest.len()
}

fn comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0_u32, 0);
    while let Some(tail) = rest.get(at..).filter(|tail| !tail.is_empty()) {
        if tail.starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if tail.starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

fn dollar(rest: &[u8]) -> usize {
    let name = rest.iter().skip(1).take_while(|byte| in_name(**byte) && **byte != b'$').count();
    if rest.get(name + 1) != Some(&b'$') || rest.get(1).is_some_and(u8::is_ascii_digit) {
        return 1;
    }
    let (word, body) = rest.split_at(name + 2);
    memchr::memmem::find(body, word).map_or(rest.len(), |at| at + 2 * word.len())
}

/// The first name of a text, unquoted, and what follows it; `None` where none stands there.
#[must_use]
pub(crate) fn name(text: &str) -> Option<(String, &str)> {
    let text = text.trim_start();
    if text.starts_with('"') {
        let mut end = quoted(text.as_bytes(), false);
        while text.as_bytes().get(end) == Some(&b'"') {
            end += quoted(text.as_bytes().get(end..).unwrap_or_default(), false);
        }
        let inner = text.get(1..end.checked_sub(1)?)?;
        return Some((inner.replace("\"\"", "\""), text.get(end..)?));
    }
    let end = text.bytes().position(|byte| !in_name(byte)).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end)).map(|(name, rest)| (name.to_owned(), rest))
}

/// The column list of pg_dump's `COPY name (columns) FROM stdin;`, with its parentheses; empty for a table without
/// columns. The name may be quoted and hold anything.
#[must_use]
pub(crate) fn copy_columns(statement: &str) -> Option<&str> {
    let rest = statement.strip_prefix("COPY ")?;
    let mut quoted = false;
    let end = rest.find(|c| {
        quoted ^= c == '"';
        c == ' ' && !quoted
    })?;
    let columns = without_encoding(rest.get(end..)?.trim_end()).strip_suffix("FROM stdin")?;
    Some(columns.trim())
}

const ENCODING: &str = " WITH (ENCODING '";

/// A `COPY ... FROM stdin;` for rows in that encoding.
#[must_use]
pub(crate) fn in_encoding(statement: &str, encoding: &str) -> String {
    match statement.trim_end().strip_suffix("FROM stdin;") {
        Some(begin) => format!("{begin}FROM stdin{ENCODING}{encoding}');\n"),
        None => statement.to_owned(),
    }
}

/// The statement without its end, and without the encoding of its rows.
pub(crate) fn without_encoding(statement: &str) -> &str {
    let bare = statement.strip_suffix(';').unwrap_or(statement);
    let with = bare.strip_suffix("')").and_then(|begin| begin.rsplit_once(ENCODING));
    match with {
        Some((begin, encoding)) if encoding.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') => begin,
        _ => bare,
    }
}

/// The names of a list of columns, unquoted.
#[must_use]
pub(crate) fn names(list: &str) -> Vec<String> {
    let (mut names, mut rest) = (Vec::new(), list);
    while let Some((found, after)) = name(rest) {
        names.push(found);
        rest = after.trim_start().strip_prefix(',').unwrap_or_default();
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_falls_into_statements_whatever_its_names_and_texts_hold() {
        let script = "\\restrict x\n-- a; b\nSET a = 1;\n/* ; */ SELECT ';', E'\\';', \"a;\"\"b\", $x$ ; $$ $x$ -- ;\n;\n\n\
                      COMMENT ON ROLE a IS 'x\n\\y;\n';\n\\unrestrict x\nlast";
        assert_eq!(
            statements(script),
            [
                "SET a = 1",
                "/* ; */ SELECT ';', E'\\';', \"a;\"\"b\", $x$ ; $$ $x$ -- ;",
                "COMMENT ON ROLE a IS 'x\n\\y;\n'",
                "last"
            ]
        );
    }

    #[test]
    fn names_are_taken_with_and_without_quotes() {
        assert_eq!(name(" \"a \"\"b\" SET"), Some(("a \"b".to_owned(), " SET")));
        assert_eq!(name("plain_1 SET"), Some(("plain_1".to_owned(), " SET")));
        assert_eq!(name(";"), None);
        assert_eq!(names("a, \"b, \"\"c\",d"), ["a", "b, \"c", "d"]);
    }

    #[test]
    fn columns_are_found_behind_any_name() {
        assert_eq!(copy_columns("COPY public.t (a, \"b c\") FROM stdin;\n"), Some("(a, \"b c\")"));
        assert_eq!(copy_columns("COPY public.zero  FROM stdin;\n"), Some(""));
        assert_eq!(copy_columns("COPY \"a b\".\"x \"\" (y) FROM stdin;\" (z) FROM stdin;\n"), Some("(z)"));
        assert_eq!(copy_columns("SELECT 1"), None);
        let encoded = in_encoding("COPY public.t (a, \"b c\") FROM stdin;\n", "WIN1252");
        assert_eq!(encoded, "COPY public.t (a, \"b c\") FROM stdin WITH (ENCODING 'WIN1252');\n");
        assert_eq!(copy_columns(&encoded), Some("(a, \"b c\")"));
    }
}
