//! Pieces of HTML. Arguments called `html` go in as they are, everything else is escaped.

use std::fmt::Display;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest as _, Sha256};

use crate::human;

/// Adds the ages when the page is looked at, as it may be opened long after it was written.
pub(crate) const AGES: &str = include_str!("age.js");

/// The line that forbids the page everything but its own style and that script.
pub(crate) fn script_policy() -> String {
    format!(
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{}'\">\n",
        BASE64_STANDARD.encode(Sha256::digest(AGES))
    )
}

/// Text as HTML, also inside of a quoted attribute. Control characters are made visible.
pub(crate) fn text(value: impl Display) -> String {
    let plain = human::plain(&value.to_string());
    let mut out = String::with_capacity(plain.len());
    for c in plain.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // Characters that turn the direction of what follows could make a name look like another one.
            '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}' => out.push_str(&format!("\\u{{{:x}}}", u32::from(c))),
            other => out.push(other),
        }
    }
    out
}

/// A moment (RFC 3339) as a person reads it, to the minute; what is no moment stays as it is.
pub(crate) fn moment(at: &str) -> String {
    match at.parse::<jiff::Timestamp>() {
        Ok(moment) => format!("<time datetime=\"{}\">{}</time>", text(at), moment.strftime("%Y-%m-%d %H:%M")),
        Err(_not_a_moment) => text(at),
    }
}

/// A moment whose age the page adds when it is looked at.
pub(crate) fn aged(at: &str) -> String {
    moment(at).replacen("<time ", "<time data-age ", 1)
}

/// Seconds as a person reads them: `4.2 s`, `3m 20s`.
pub(crate) fn took(seconds: f64) -> String {
    if seconds < 60.0 {
        let text = format!("{seconds:.1} s");
        return text.replace(".0 s", " s");
    }
    humantime::format_duration(std::time::Duration::from_secs(seconds.round() as u64)).to_string()
}

/// A size as a person reads it, round ones without decimals.
pub(crate) fn size(bytes: u64) -> String {
    human::size(bytes).replace(".00 ", " ")
}

/// A table that scrolls by itself when it is too wide. `head`: title and whether its column holds numbers.
pub(crate) fn table(label: &str, head: &[(&str, bool)], rows_html: &str) -> String {
    let mut out = format!(
        "<div class=\"scroll\" role=\"region\" tabindex=\"0\" aria-label=\"{}\"><table>\n<thead><tr>",
        text(label)
    );
    for (title, number) in head {
        let class = if *number { " class=\"num\"" } else { "" };
        out.push_str(&format!("<th scope=\"col\"{class}>{}</th>", text(title)));
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    out.push_str(rows_html);
    out.push_str("</tbody></table></div>\n");
    out
}

/// A cell with a number.
pub(crate) fn number(value: impl Display) -> String {
    format!("<td class=\"num\">{}</td>", text(value))
}

/// Numbers to see at once: title, number and a word about it, the latter two as HTML.
pub(crate) fn cards(cards: &[(&str, String, String)]) -> String {
    let mut out = String::from("<dl class=\"cards\">\n");
    for (title, big, small) in cards {
        out.push_str(&format!(
            "<div><dt>{}</dt><dd class=\"big\">{big}</dd><dd class=\"soft\">{small}</dd></div>\n",
            text(title),
        ));
    }
    out.push_str("</dl>\n");
    out
}

/// Names and values, values as HTML.
pub(crate) fn facts(pairs: &[(&str, String)]) -> String {
    let mut out = String::from("<dl class=\"facts panel\">\n");
    for (name, html) in pairs {
        out.push_str(&format!("<div><dt>{}</dt><dd>{html}</dd></div>\n", text(name)));
    }
    out.push_str("</dl>\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_gets_out_of_its_place() {
        assert_eq!(text("<b a=\"'\">&\n\u{202e}"), "&lt;b a=&quot;&#39;&quot;&gt;&amp;\\n\\u{202e}");
        assert_eq!(
            moment("2026-11-22T15:04:05.123Z"),
            "<time datetime=\"2026-11-22T15:04:05.123Z\">2026-11-22 15:04</time>"
        );
        assert_eq!(moment("<x>"), "&lt;x&gt;");
        assert_eq!(took(59.94), "59.9 s");
        assert_eq!(took(3700.2), "1h 1m 40s");
    }
}
