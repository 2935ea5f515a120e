//! Sizes, counts, ages, names and lists as people read them.

/// A size for people: `812 B`, `3.4 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

/// A number for people: `1,234,567`.
pub(crate) fn count(number: u64) -> String {
    indicatif::HumanCount(number).to_string()
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
        let more = names.len().saturating_sub(shown);
        let names = names.into_iter().take(shown).map(|name| plain(&name)).collect::<Vec<_>>().join(", ");
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!("{kind} {names}{more}: {}", plain(reason))
    };
    groups.into_iter().map(line).collect()
}

/// A name of the database as one line of text: control characters cannot touch the terminal.
pub(crate) fn plain(name: &str) -> String {
    name.chars().flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] }).collect()
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
    use super::grouped;

    #[test]
    fn what_has_a_reason_in_common_is_one_line() {
        let things =
            [("table", "a", "x"), ("view", "v", "x"), ("table", "b", "x"), ("table", "c", "x"), ("table", "d", "y")];
        let things = || things.into_iter().map(|(kind, name, reason)| (kind, name.to_owned(), reason));
        assert_eq!(grouped(things(), 2), ["table a, b and 1 more: x", "view v: x", "table d: y"]);
        assert_eq!(grouped(things(), 3), ["table a, b, c: x", "view v: x", "table d: y"]);
    }
}
