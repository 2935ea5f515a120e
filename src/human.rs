//! Sizes, counts, ages, names and lists as people read them.

/// A size for people: `812 B`, `3.4 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

/// A text as one word of the shell.
pub(crate) fn shell_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// A number for people: `1,234,567`.
pub(crate) fn count(number: u64) -> String {
    indicatif::HumanCount(number).to_string()
}

/// The first `shown` of these texts, joined, and the number of the others: `a, b and 3 more`.
pub(crate) fn shortened(texts: impl IntoIterator<Item: AsRef<str>>, shown: usize, separator: &str) -> String {
    let mut texts = texts.into_iter();
    let first: Vec<_> = texts.by_ref().take(shown).collect();
    let first: Vec<&str> = first.iter().map(AsRef::as_ref).collect();
    let joint = if separator == ", " { " " } else { separator };
    match texts.count() {
        0 => first.join(separator),
        more => format!("{}{joint}and {more} more", first.join(separator)),
    }
}

/// Things with a kind, a name and a reason: one line for those that have kind and reason in common, in the order of the
/// first of them. At most `shown` names in each line.
pub(crate) fn grouped<'a>(things: impl Iterator<Item = (&'a str, String, &'a str)>, shown: usize) -> Vec<String> {
    let mut groups: Vec<(&str, &str, Vec<String>)> = Vec::new();
    for (kind, name, reason) in things {
        match groups.iter_mut().find(|group| (group.0, group.1) == (kind, reason)) {
            Some(group) => group.2.push(name),
            None => groups.push((kind, reason, vec![name])),
        }
    }
    let line = |(kind, reason, names): (&str, &str, Vec<String>)| {
        let names = shortened(names.iter().map(|name| plain(name)), shown, ", ");
        format!("{kind} {names}: {}", plain(reason))
    };
    groups.into_iter().map(line).collect()
}

/// True for a character that acts on a terminal or on the order of a line instead of being shown: controls, marks and
/// overrides of the writing direction, invisible separators.
fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

fn escaped(text: &str, stays: impl Fn(char) -> bool, escape: impl Fn(char) -> String) -> String {
    let each = |c: char| if is_harmful(c) && !stays(c) { escape(c) } else { c.to_string() };
    text.chars().map(each).collect()
}

/// A name of the database as one line of text: nothing in it can touch the terminal.
pub(crate) fn plain(name: &str) -> String {
    escaped(name, |_| false, |c| c.escape_default().to_string())
}

/// A text of several lines that cannot touch the terminal.
pub(crate) fn harmless(text: &str) -> std::borrow::Cow<'_, str> {
    let stays = |c| matches!(c, '\n' | '\t' | '\r');
    if text.chars().any(|c| is_harmful(c) && !stays(c)) {
        escaped(text, stays, |c| c.escape_default().to_string()).into()
    } else {
        text.into()
    }
}

/// A JSON document whose strings cannot touch the terminal; the values stay what they are.
pub(crate) fn escaped_json(text: &str) -> String {
    escaped(text, |c| matches!(c, '\n' | '\t' | '\r'), |c| format!("\\u{:04x}", u32::from(c)))
}

/// Time since a moment in one or two units; `-` where the text is no moment.
pub(crate) fn age(at: &str) -> String {
    let Ok(at) = at.parse::<jiff::Timestamp>() else { return "-".to_owned() };
    passed(jiff::Timestamp::now().duration_since(at).as_secs())
}

/// Seconds in one or two units.
pub(crate) fn passed(seconds: i64) -> String {
    let passed = seconds.max(0);
    match passed {
        0..60 => format!("{passed}s"),
        60..3_600 => format!("{}m", passed / 60),
        3_600..86_400 => format!("{}h {}m", passed / 3_600, passed % 3_600 / 60),
        _ => format!("{}d {}h", passed / 86_400, passed % 86_400 / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::{escaped_json, grouped, harmless, plain};

    #[test]
    fn nothing_in_a_name_touches_the_terminal() {
        let name = "a\u{1b}[31m\u{202e}b\u{9b}\n\u{2066}é漢";
        assert_eq!(plain(name), "a\\u{1b}[31m\\u{202e}b\\u{9b}\\n\\u{2066}é漢");
        assert_eq!(harmless("a\n\u{1b}b"), "a\n\\u{1b}b");
        let json = serde_json::to_string(name).unwrap();
        let shown = escaped_json(&json);
        assert!(shown.chars().all(|c| !super::is_harmful(c)), "{shown}");
        assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), name);
    }

    #[test]
    fn what_has_a_reason_in_common_is_one_line() {
        let things =
            [("table", "a", "x"), ("view", "v", "x"), ("table", "b", "x"), ("table", "c", "x"), ("table", "d", "y")];
        let things = || things.into_iter().map(|(kind, name, reason)| (kind, name.to_owned(), reason));
        assert_eq!(grouped(things(), 2), ["table a, b and 1 more: x", "view v: x", "table d: y"]);
        assert_eq!(grouped(things(), 3), ["table a, b, c: x", "view v: x", "table d: y"]);
    }
}
