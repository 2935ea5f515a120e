//! One line of COPY's text format, taken apart into its values. The types of the values are the caller's matter.

/// A value as PostgreSQL's output function wrote it; `None` for NULL.
pub(crate) type Value = Option<Vec<u8>>;

/// The values of a line without its newline. A table without columns has empty lines, and no values.
#[must_use]
pub(crate) fn values(line: &[u8], columns: usize) -> Vec<Value> {
    if columns == 0 {
        return Vec::new();
    }
    line.split(|byte| *byte == b'\t').map(value).collect()
}

/// A tab inside of a value is written as `\t`, so the tabs of a line are between values.
fn value(field: &[u8]) -> Value {
    if field == br"\N" {
        return None;
    }
    let mut text = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        let (before, from) = rest.split_at(at);
        text.extend_from_slice(before);
        let Some((escaped, after)) = from.get(1..).and_then(<[u8]>::split_first) else {
            rest = from;
            break;
        };
        // The escapes that COPY TO writes; COPY FROM takes others as well (`CopyAttributeOutText` in copyto.c).
        text.push(match escaped {
            b'b' => 0x08,
            b'f' => 0x0c,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'v' => 0x0b,
            other => *other,
        });
        rest = after;
    }
    text.extend_from_slice(rest);
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_falls_into_its_values() {
        let some = |text: &[u8]| Some(text.to_vec());
        assert_eq!(values(br"1	\N		\\N	a\tb\\\n", 5), [some(b"1"), None, some(b""), some(br"\N"), some(b"a\tb\\\n")]);
        assert_eq!(values(b"", 1), [some(b"")]);
        assert!(values(b"", 0).is_empty());
    }
}
