//! The bounds that a condition sets to single columns, as far as that is certain without understanding SQL: by it the pieces of a
//! large table are chosen that can hold a row of it. PostgreSQL evaluates the whole condition all the same.
//!
//! Only the parts of a chain of ANDs count that are a comparison of a column with constants and nothing else; every other
//! part can only make the rows fewer. An OR, a comment or anything odd on the outermost level, and nothing is certain.

use crate::objects::index::Wanted;
use crate::sql::names::KEYWORDISH;
use crate::sql::statements::{name, token};

/// A word, a literal, a sign: what a condition is made of.
fn tokens(text: &str) -> Option<Vec<&str>> {
    let (bytes, mut found, mut at) = (text.as_bytes(), Vec::new(), 0);
    while let Some(byte) = bytes.get(at) {
        let rest = text.get(at..)?;
        if rest.starts_with("--") || rest.starts_with("/*") {
            return None;
        }
        let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'.') || *byte >= 0x80;
        let length = match byte {
            byte if byte.is_ascii_whitespace() => {
                at += 1;
                continue;
            }
            byte if is_word(byte) => bytes.get(at..)?.iter().take_while(|byte| is_word(byte)).count(),
            b'<' | b'>' | b'=' | b'!' => bytes.get(at..)?.iter().take_while(|byte| b"<>=!".contains(byte)).count(),
            _ => token(bytes, at),
        };
        found.push(text.get(at..at + length)?);
        at += length;
    }
    Some(found)
}

/// The parts of the chain of ANDs; `None` where it is no such chain.
fn parts<'a>(tokens: &'a [&'a str]) -> Option<Vec<&'a [&'a str]>> {
    let (mut found, mut depth, mut start, mut between) = (Vec::new(), 0_i32, 0, false);
    for (at, token) in tokens.iter().enumerate() {
        let word = token.to_ascii_lowercase();
        match word.as_str() {
            "(" | "[" => depth += 1,
            ")" | "]" => depth -= 1,
            _ if depth != 0 => {}
            "or" | "case" | "union" | "intersect" | "except" => return None,
            "between" => between = true,
            "and" if between => between = false,
            "and" => {
                found.push(tokens.get(start..at)?);
                start = at + 1;
            }
            _ => {}
        }
        if depth < 0 {
            return None;
        }
    }
    found.push(tokens.get(start..)?);
    (depth == 0).then_some(found)
}

/// A constant as the text that it stands for: a number, or a literal without escapes. One with a quote in it comes as two
/// tokens and is none.
fn constant<'a>(tokens: &'a [&'a str]) -> Option<(String, &'a [&'a str])> {
    let (first, rest) = tokens.split_first()?;
    if *first == "-" {
        let (number, rest) = constant(rest)?;
        return number.starts_with(|c: char| c.is_ascii_digit()).then(|| (format!("-{number}"), rest));
    }
    if let Some(inner) = first.strip_prefix('\'').and_then(|text| text.strip_suffix('\'')) {
        return (!first.contains('\\')).then(|| (inner.to_owned(), rest));
    }
    first.starts_with(|c: char| c.is_ascii_digit()).then(|| ((*first).to_owned(), rest))
}

/// The column that a word names: quoted or not, with the table's name before it or not.
fn column(word: &str, next: &[&str], table: &str) -> Option<(String, usize)> {
    let unquoted = |word: &str| -> Option<Vec<String>> {
        let each = word.split('.').map(|part| {
            let plain = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            plain.then(|| part.to_ascii_lowercase())
        });
        each.collect()
    };
    if word.starts_with('"') {
        let (found, rest) = name(word)?;
        // `"orders"."id"` comes as three words.
        return match next {
            [".", own, ..] if rest.is_empty() && found == table && own.starts_with('"') => Some((name(own)?.0, 3)),
            [".", ..] => None,
            _ => rest.is_empty().then_some((found, 1)),
        };
    }
    match unquoted(word)?.as_slice() {
        [one] => (!KEYWORDISH.contains(&one.as_str())).then(|| (one.clone(), 1)),
        [own, one] if own == table => Some((one.clone(), 1)),
        _ => None,
    }
}

/// The bound that one part sets to one column.
fn restriction(part: &[&str], table: &str) -> Option<Wanted> {
    let (first, next) = part.split_first()?;
    let (column, taken) = column(first, next, table)?;
    let (operator, rest) = part.get(taken..)?.split_first()?;
    let span =
        |from: Option<String>, to: Option<String>| Some(Wanted { column: column.clone(), spans: vec![(from, to)] });
    let operator = operator.to_ascii_lowercase();
    match operator.as_str() {
        "=" | ">" | ">=" | "<" | "<=" => {
            let (value, end) = constant(rest)?;
            if !end.is_empty() {
                return None;
            }
            match operator.as_str() {
                "=" => span(Some(value.clone()), Some(value)),
                ">" | ">=" => span(Some(value), None),
                _ => span(None, Some(value)),
            }
        }
        "between" => {
            let (from, rest) = constant(rest)?;
            let (and, rest) = rest.split_first()?;
            let (to, end) = constant(rest)?;
            (and.eq_ignore_ascii_case("and") && end.is_empty()).then(|| span(Some(from), Some(to)))?
        }
        "in" => {
            let mut rest = rest.strip_prefix(&["("])?;
            let mut spans = Vec::new();
            loop {
                let (value, after) = constant(rest)?;
                spans.push((Some(value.clone()), Some(value)));
                match after {
                    [")"] => return Some(Wanted { column, spans }),
                    [",", more @ ..] => rest = more,
                    _ => return None,
                }
            }
        }
        _ => None,
    }
}

/// The bounds that a condition on this table sets to its columns, with the constants as they were written.
#[must_use]
pub(crate) fn restrictions(condition: &str, table: &str) -> Vec<Wanted> {
    let Some(tokens) = tokens(condition) else { return Vec::new() };
    let Some(parts) = parts(&tokens) else { return Vec::new() };
    parts.into_iter().filter_map(|part| restriction(part, table)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(condition: &str) -> String {
        let each = restrictions(condition, "orders").into_iter().map(|wanted| {
            let end = |end: Option<String>| end.unwrap_or_default();
            let spans: Vec<String> =
                wanted.spans.into_iter().map(|(from, to)| format!("{}..{}", end(from), end(to))).collect();
            format!("{}={}", wanted.column, spans.join(","))
        });
        each.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn only_what_is_certain_is_taken_from_a_condition() {
        for (condition, expected) in [
            ("id = 5", "id=5..5"),
            ("ID=-5 AND t LIKE 'a%' AND lower(t) = 'x'", "id=-5..-5"),
            ("orders.id IN (1, 2,'3')", "id=1..1,2..2,3..3"),
            ("\"orders\".\"Odd\" >= '2026-01-01' and \"b\" < 7", "Odd=2026-01-01.. b=..7"),
            ("at BETWEEN '2026-01-01' AND '2026-02-01' AND id > 3", "at=2026-01-01..2026-02-01 id=3.."),
            ("(id = 1 OR id = 2) AND customer = 9", "customer=9..9"),
            ("t = 'AND id = 5'", "t=AND id = 5..AND id = 5"),
            ("t = 'it''s AND id = 5'", ""),
            ("id = 5 OR true", ""),
            ("NOT id = 5", ""),
            ("id = 5 IS NOT TRUE", ""),
            ("id = 5 + 1", ""),
            ("id = '5'::text::integer", ""),
            ("id = 5 -- OR true", ""),
            ("id /* */ = 5", ""),
            ("id <> 5", ""),
            ("other.id = 5", ""),
            ("id = E'5\\x'", ""),
            ("id IN (SELECT 5)", ""),
            ("id = 5) OR (true", ""),
            ("CASE WHEN true THEN id = 4 END AND id = 5", ""),
            ("current_date = '2026-01-01'", ""),
            ("id", ""),
            ("", ""),
        ] {
            assert_eq!(said(condition), expected, "{condition}");
        }
    }
}
