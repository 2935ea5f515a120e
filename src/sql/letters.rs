//! Text in an encoding that UTF-8 cannot say all of: a database in WIN1252 may hold the byte 81, one in SQL_ASCII any
//! bytes. pgstow keeps texts as UTF-8, so a byte without a letter becomes one character of a range that no text uses,
//! and comes back as that byte when the text is written. Which letters the other bytes are is the server's knowledge:
//! it is asked once, and the answer stands in each archive and SQL file as comments behind `SET client_encoding`.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

/// The character that stands for the byte 0: the last characters of the last private plane.
const RAW: u32 = 0x10_FF00;
/// The beginning of a comment with letters, as psql and `pg_restore` skip it.
const COMMENT: &str = "-- pgstow letters: ";
/// Letters of one line.
const A_LINE: usize = 64;
/// The encoding that is none.
const NONE: &str = "SQL_ASCII";

/// The letters of an encoding, as far as they are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Letters {
    encoding: String,
    /// By their bytes; without a letter where UTF-8 has none.
    known: BTreeMap<Vec<u8>, Option<char>>,
    bytes: HashMap<char, Vec<u8>>,
    longest: usize,
}

impl Default for Letters {
    fn default() -> Self {
        Self::new(NONE)
    }
}

/// The byte that a character stands for; `None` for a letter.
fn raw(c: char) -> Option<u8> {
    (u32::from(c) >= RAW).then(|| u32::from(c).to_le_bytes()[0])
}

fn push_raw(text: &mut String, bytes: &[u8]) {
    text.extend(bytes.iter().filter_map(|byte| char::from_u32(RAW + u32::from(*byte))));
}

/// True for bytes among which a text may be with a byte that no letter stands for.
pub(crate) fn may_have_raw(bytes: &[u8]) -> bool {
    memchr::memmem::find_iter(bytes, b"\xf4\x8f").any(|at| bytes.get(at + 2).is_some_and(|next| *next >= 0xbc))
}

/// True for a text with a byte that no letter stands for.
pub(crate) fn has_raw(text: &str) -> bool {
    may_have_raw(text.as_bytes()) && text.contains(|c| raw(c).is_some())
}

impl Letters {
    /// An encoding none of whose letters are known; `SQL_ASCII` has those of UTF-8.
    pub(crate) fn new(encoding: &str) -> Self {
        Self { encoding: encoding.to_owned(), known: BTreeMap::new(), bytes: HashMap::new(), longest: 0 }
    }

    /// The encoding that an archive's `ENCODING` entry names, with the letters behind it; `None` for UTF-8.
    pub(crate) fn of_definition(definition: &str) -> Option<Self> {
        let (_, rest) = definition.split_once('\'')?;
        let (encoding, rest) = rest.split_once('\'')?;
        if ["UTF8", "UTF-8", "UNICODE"].iter().any(|name| encoding.eq_ignore_ascii_case(name)) {
            return None;
        }
        let mut letters = Self::new(encoding);
        rest.lines().for_each(|line| letters.learn(line.as_bytes()));
        Some(letters)
    }

    /// The line of a script that names its encoding, and the letters behind it; `None` for one in UTF-8.
    pub(crate) fn of_script(script: &[u8]) -> Option<(Range<usize>, Self)> {
        let start = memchr::memmem::find(script, b"SET client_encoding = '")?;
        let rest = script.get(start..)?;
        let length = memchr::memchr(b'\n', rest)?;
        let mut letters = Self::of_definition(std::str::from_utf8(rest.get(..length)?).ok()?)?;
        let lines = rest.split(|byte| *byte == b'\n').skip(1);
        lines.take_while(|line| line.starts_with(COMMENT.as_bytes())).for_each(|line| letters.learn(line));
        Some((start..start + length, letters))
    }

    /// The definition of an archive's `ENCODING` entry, with these letters.
    pub(crate) fn definition(&self) -> String {
        let mut text = format!("SET client_encoding = '{}';\n", self.encoding);
        let all: Vec<(&Vec<u8>, &Option<char>)> = self.known.iter().collect();
        for some in all.chunks(A_LINE) {
            text.push_str(COMMENT);
            for (bytes, letter) in some {
                push_hex(&mut text, bytes);
                text.push_str(&format!("={:x} ", letter.map_or(0, u32::from)));
            }
            text.truncate(text.trim_end().len());
            text.push('\n');
        }
        text
    }

    /// Takes the letters of such a comment; anything else teaches nothing.
    pub(crate) fn learn(&mut self, line: &[u8]) {
        let words = std::str::from_utf8(line).ok().and_then(|line| line.strip_prefix(COMMENT));
        for (bytes, letter) in words.unwrap_or_default().split(' ').filter_map(|word| word.split_once('=')) {
            let bytes: Option<Vec<u8>> =
                (0..bytes.len()).step_by(2).map(|at| u8::from_str_radix(bytes.get(at..at + 2)?, 16).ok()).collect();
            let letter = u32::from_str_radix(letter, 16).ok().and_then(char::from_u32);
            if let Some(bytes) = bytes {
                self.know(bytes, letter.filter(|letter| *letter != '\0'));
            }
        }
    }

    /// Notes a letter of the encoding, or that its bytes have none.
    pub(crate) fn know(&mut self, bytes: Vec<u8>, letter: Option<char>) {
        if bytes.is_empty() || bytes.is_ascii() {
            return;
        }
        // Only what comes back as the same bytes is a letter.
        let letter = letter.filter(|c| !c.is_ascii() && raw(*c).is_none() && !self.bytes.contains_key(c));
        if let Some(letter) = letter {
            self.bytes.insert(letter, bytes.clone());
        }
        self.longest = self.longest.max(bytes.len());
        self.known.insert(bytes, letter);
    }

    /// The name of the encoding.
    pub(crate) fn encoding(&self) -> &str {
        &self.encoding
    }

    /// The text that these bytes are.
    pub(crate) fn decode(&self, bytes: &[u8]) -> String {
        let mut text = String::with_capacity(bytes.len());
        if self.known.is_empty() && self.encoding == NONE {
            if let Some(text) = std::str::from_utf8(bytes).ok().filter(|text| !has_raw(text)) {
                return text.to_owned();
            }
            for chunk in bytes.utf8_chunks() {
                for c in chunk.valid().chars() {
                    match raw(c) {
                        Some(_) => push_raw(&mut text, c.encode_utf8(&mut [0; 4]).as_bytes()),
                        None => text.push(c),
                    }
                }
                push_raw(&mut text, chunk.invalid());
            }
            return text;
        }
        let mut rest = bytes;
        while let Some((first, more)) = rest.split_first() {
            if first.is_ascii() {
                text.push(char::from(*first));
                rest = more;
                continue;
            }
            let lengths = (1..=self.longest.min(rest.len())).rev();
            let found = lengths
                .filter_map(|length| rest.split_at_checked(length))
                .find_map(|(bytes, more)| self.known.get(bytes).map(|letter| (bytes, *letter, more)));
            match found {
                Some((_, Some(letter), more)) => {
                    text.push(letter);
                    rest = more;
                }
                Some((bytes, None, more)) => {
                    push_raw(&mut text, bytes);
                    rest = more;
                }
                None => {
                    push_raw(&mut text, &[*first]);
                    rest = more;
                }
            }
        }
        text
    }

    /// The bytes of a text; `Err` with a character that the encoding does not have, as far as is known.
    pub(crate) fn encode(&self, text: &str) -> Result<Vec<u8>, char> {
        if self.encoding == NONE && !has_raw(text) {
            return Ok(text.as_bytes().to_vec());
        }
        let mut bytes = Vec::with_capacity(text.len());
        for c in text.chars() {
            if let Some(byte) = raw(c) {
                bytes.push(byte);
            } else if c.is_ascii() || self.encoding == NONE {
                bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            } else {
                bytes.extend_from_slice(self.bytes.get(&c).ok_or(c)?);
            }
        }
        Ok(bytes)
    }
}

/// A statement as a session in UTF-8 can send it to a database in that encoding: one with bytes that are no letters goes
/// as digits, and the server puts it together. A database in another encoding refuses it.
pub(crate) fn sendable<'s>(statement: &'s str, encoding: &str) -> Cow<'s, str> {
    if !has_raw(statement) {
        return Cow::Borrowed(statement);
    }
    let mut pieces = String::with_capacity(3 * statement.len());
    let mut open: Option<bool> = None;
    for c in statement.chars() {
        let byte = raw(c);
        if open != Some(byte.is_some()) {
            pieces.push_str(match open {
                None => "",
                Some(true) => OWN_END,
                Some(false) => UTF8_END,
            });
            pieces.push_str(BEGIN);
            open = Some(byte.is_some());
        }
        match byte {
            Some(byte) => push_hex(&mut pieces, &[byte]),
            None => push_hex(&mut pieces, c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    pieces.push_str(if open == Some(true) { OWN_END } else { UTF8_END });
    let pieces = pieces.replace(OWN_END, &format!("', 'hex'), '{}'),\n", encoding.replace('\'', "")));
    let pieces = pieces.trim_end_matches(",\n");
    Cow::Owned(format!(
        "DO LANGUAGE plpgsql $pgstow_bytes$BEGIN EXECUTE pg_catalog.array_to_string(ARRAY[\n{pieces}], ''); \
         END$pgstow_bytes$;"
    ))
}

const BEGIN: &str = "pg_catalog.convert_from(pg_catalog.decode('";
const UTF8_END: &str = "', 'hex'), 'UTF8'),\n";
const OWN_END: &str = "', 'hex'), OWN),\n";

fn push_hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        for half in [byte >> 4, byte & 15] {
            text.extend(char::from_digit(half.into(), 16));
        }
    }
}

/// The bytes of an encoding's text that are one letter each and no ASCII, in the order of their first use.
pub(crate) fn letters_in<'b>(encoding: &str, text: &'b [u8]) -> Vec<&'b [u8]> {
    let (mut found, mut rest) = (Vec::new(), text);
    while let Some(first) = rest.first() {
        let length = match (encoding, *first) {
            (_, byte) if byte.is_ascii() => 1,
            ("EUC_TW", 0x8e) => 4,
            ("EUC_TW" | "EUC_JP" | "EUC_KR" | "EUC_JIS_2004", 0x8f) => 3,
            ("EUC_TW" | "EUC_JP" | "EUC_KR" | "EUC_JIS_2004" | "EUC_CN", _) => 2,
            _ => 1,
        };
        let (letter, more) = rest.split_at(length.min(rest.len()));
        if !letter.is_ascii() {
            found.push(letter);
        }
        rest = more;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn windows() -> Letters {
        let mut letters = Letters::new("WIN1252");
        for (byte, letter) in [(0x80, Some('€')), (0xe4, Some('ä')), (0x81, None)] {
            letters.know(vec![byte], letter);
        }
        letters
    }

    #[test]
    fn every_text_comes_back_as_its_bytes() {
        let all: Vec<u8> = (1..=255).collect();
        for letters in [windows(), Letters::new("WIN1252"), Letters::default()] {
            for bytes in [&all[..], "ä€\u{10ff81}\u{10ffff}".as_bytes(), b"\xe4\x80\x81x"] {
                let text = letters.decode(bytes);
                assert_eq!(letters.encode(&text).unwrap(), bytes, "{letters:?}");
            }
        }
        assert_eq!(windows().decode(b"\xe4x\x80"), "äx€");
        assert!(!has_raw(&windows().decode(b"\xe4x\x80")) && has_raw(&windows().decode(b"\x81")));
        assert_eq!(Letters::default().decode("ä".as_bytes()), "ä");
        assert_eq!(windows().encode("π"), Err('π'));
    }

    #[test]
    fn letters_of_several_bytes_are_kept_apart() {
        let text = b"a\xa4\xa2\xa9\xa1\x8e\xb1\x8f\xb0\xa1";
        let found = letters_in("EUC_JP", text);
        assert_eq!(found, [&text[1..3], &text[3..5], &text[5..7], &text[7..10]]);
        let mut letters = Letters::new("EUC_JP");
        letters.know(found[0].to_vec(), Some('あ'));
        letters.know(found[1].to_vec(), None);
        assert_eq!(letters.encode(&letters.decode(text)).unwrap(), text);
        assert!(letters.decode(text).starts_with("aあ"));
    }

    #[test]
    fn letters_travel_in_comments() {
        let letters = windows();
        let definition = letters.definition();
        assert_eq!(definition, "SET client_encoding = 'WIN1252';\n-- pgstow letters: 80=20ac 81=0 e4=e4\n");
        assert_eq!(Letters::of_definition(&definition).unwrap(), letters);
        assert_eq!(Letters::of_definition("SET client_encoding = 'UTF8';\n"), None);
    }

    #[test]
    fn a_statement_with_other_bytes_is_sent_as_digits() {
        assert_eq!(sendable("SELECT 'ä'", "WIN1252"), "SELECT 'ä'");
        let sent = sendable("ä\u{10ff81}x", "WIN1252");
        let digits: Vec<&str> = sent.split("decode('").skip(1).filter_map(|part| part.split(')').next()).collect();
        assert_eq!(digits, ["c3a4', 'hex'", "81', 'hex'", "78', 'hex'"]);
        assert!(sent.contains("'hex'), 'WIN1252'),\n") && sent.contains("'hex'), 'UTF8')], '')"), "{sent}");
    }
}
