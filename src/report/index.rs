//! The page that links to the pages of many databases, the ones with a problem first.

use std::cmp::Reverse;

use crate::format::manifest::Status;
use crate::human;
use crate::report::Glance;
use crate::report::check::{self, Check};
use crate::report::html::{self, text};

/// One database.
pub(crate) struct Entry {
    pub(crate) name: String,
    /// Its page, relative to this one, where there is one.
    pub(crate) page: Option<String>,
    /// The verdict of `status`.
    pub(crate) ok: bool,
    /// The run that `latest` names, where it can be read.
    pub(crate) latest: Option<Glance>,
    /// The moment from which on `status` would call the latest run too old.
    pub(crate) old_after: Option<jiff::Timestamp>,
    /// The reason why it is not well.
    pub(crate) why: String,
}

/// The whole page.
pub(crate) fn compose(entries: &[Entry]) -> String {
    let mut entries: Vec<&Entry> = entries.iter().collect();
    entries.sort_by_key(|entry| (entry.ok, Reverse(entry.latest.is_none())));
    let rows: String = entries.iter().map(|entry| row(entry)).collect();
    let head = [
        ("Database", false),
        ("Status", false),
        ("Latest run finished", false),
        ("Verified", false),
        ("Drilled", false),
        ("Sealed", false),
        ("Rows", true),
        ("Stored", true),
        ("Why", false),
    ];
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n{policy}\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>Backups</title>\n\
         <style>\n{style}</style>\n</head>\n<body>\n<header>\n<h1>Backups</h1>\n\
         <p class=\"soft\">as of {at} UTC</p>\n{verdict}</header>\n<main>\n{cards}{table}</main>\n\
         <footer><p>Made by pgstow {version}. <em>Verified</em>: every byte was read back, rows and digests recomputed. \
         <em>Drilled</em>: restored into a scratch database and compared. <em>Sealed</em>: signed, encrypted. All times are \
         UTC.</p></footer>\n<script>{ages}</script>\n</body>\n</html>\n",
        ages = html::AGES,
        policy = html::script_policy(),
        style = include_str!("style.css"),
        verdict = verdict(&entries),
        cards = cards(&entries),
        table = html::table("Databases, those with a problem first", &head, &rows),
        version = text(env!("CARGO_PKG_VERSION")),
        at = html::moment(&jiff::Timestamp::now().to_string()),
    )
}

/// The one sentence for a person in a hurry. It takes itself back once the first of the runs is too old.
fn verdict(entries: &[&Entry]) -> String {
    let bad = entries.iter().filter(|entry| !entry.ok).count();
    let of = entries.len();
    let (class, verdict) = match bad {
        0 => ("good", format!("All {of} databases have a recent backup.")),
        1 => ("bad", format!("1 of {of} databases has no recent backup.")),
        _ => ("bad", format!("{bad} of {of} databases have no recent backup.")),
    };
    let first = entries.iter().filter(|entry| entry.ok).filter_map(|entry| entry.old_after).min();
    let old = first.map_or_else(String::new, |after| {
        format!(
            "<span data-old-after=\"{after}\" hidden> This page is old: by now a backup should be newer than those below.</span>"
        )
    });
    format!("<div class=\"verdict {class}\" role=\"status\"><strong>{}</strong>{old}</div>\n", text(verdict))
}

fn cards(entries: &[&Entry]) -> String {
    let of = entries.len();
    let latest = || entries.iter().filter_map(|entry| entry.latest.as_ref());
    let count = |test: fn(&Glance) -> bool| latest().filter(|glance| test(glance)).count();
    let sound = |check: &Option<Check>| check.as_ref().is_some_and(|check| check.ok);
    let stored: u64 = latest().map(|glance| glance.stored_bytes).sum();
    let rows: u64 = latest().map(|glance| glance.rows).sum();
    let cards = [
        ("Databases", of.to_string(), format!("{} rows in their latest runs", human::count(rows))),
        ("Stored", human::size(stored), "the latest runs together".to_owned()),
        (
            "Verified",
            format!("{} of {of}", latest().filter(|glance| sound(&glance.verified)).count()),
            "latest runs".to_owned(),
        ),
        (
            "Drilled",
            format!("{} of {of}", latest().filter(|glance| sound(&glance.drilled)).count()),
            "latest runs".to_owned(),
        ),
        ("Signed", format!("{} of {of}", count(|glance| glance.signed)), "latest runs".to_owned()),
        ("Encrypted", format!("{} of {of}", count(|glance| glance.encrypted)), "latest runs".to_owned()),
    ];
    html::cards(&cards.map(|(title, big, small)| (title, text(big), text(small))))
}

fn row(entry: &Entry) -> String {
    // A page's name has the characters of a key's segment only; = and / stand for themselves in a link.
    let name = text(&entry.name);
    let (class, status) = match (entry.ok, &entry.latest) {
        (true, _) => ("good", "ok"),
        (false, Some(glance)) if glance.status == Status::Partial => ("bad", "partial"),
        (false, _) => ("bad", "failed"),
    };
    let mut out = format!(
        "<tr><th scope=\"row\">{}</th><td><span class=\"badge {class}\">{status}</span></td>",
        entry.page.as_ref().map_or_else(|| name.clone(), |page| format!("<a href=\"{}\">{name}</a>", text(page))),
    );
    match &entry.latest {
        Some(glance) => {
            let seals: Vec<&str> = [(glance.signed, "signed"), (glance.encrypted, "encrypted")]
                .into_iter()
                .filter_map(|(is, word)| is.then_some(word))
                .collect();
            out.push_str(&format!("<td title=\"{}\">{}</td>", text(&glance.run), html::aged(&glance.finished_at)));
            out.push_str(&check::cell(glance.verified.as_ref()));
            out.push_str(&check::cell(glance.drilled.as_ref()));
            out.push_str(&format!("<td>{}</td>", if seals.is_empty() { "no".to_owned() } else { seals.join(", ") }));
            out.push_str(&html::number(human::count(glance.rows)));
            out.push_str(&html::number(human::size(glance.stored_bytes)));
        }
        None => out.push_str(&"<td></td>".repeat(6)),
    }
    out.push_str(&format!("<td class=\"wrap\">{}</td></tr>\n", text(&entry.why)));
    out
}
