//! The page that links to the pages of many databases, the ones with a problem first.

use crate::report::html::{self, text};

/// One database.
pub(crate) struct Entry {
    pub(crate) name: String,
    /// Its page, relative to this one; empty where there is none.
    pub(crate) page: String,
    pub(crate) ok: bool,
    pub(crate) run: String,
    pub(crate) age: String,
    pub(crate) why: String,
}

/// The whole page.
pub(crate) fn compose(entries: &[Entry]) -> String {
    let mut entries: Vec<&Entry> = entries.iter().collect();
    entries.sort_by_key(|entry| entry.ok);
    let rows: Vec<String> = entries.iter().map(|entry| row(entry)).collect();
    let bad = entries.iter().filter(|entry| !entry.ok).count();
    let (class, verdict) = match bad {
        0 => ("good", format!("All {} databases have a recent backup.", entries.len())),
        1 => ("bad", format!("1 of {} databases has no recent backup.", entries.len())),
        _ => ("bad", format!("{bad} of {} databases have no recent backup.", entries.len())),
    };
    let head = [("Database", false), ("Status", false), ("Age", false), ("Latest run", false), ("Why", false)];
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>Backups</title>\n\
         <style>\n{style}</style>\n</head>\n<body>\n<header>\n<h1>Backups</h1>\n\
         <p class=\"verdict {class}\">{verdict}</p>\n</header>\n<main>\n{table}</main>\n\
         <footer><p>Made by pgstow {version}, {at} UTC.</p></footer>\n</body>\n</html>\n",
        style = include_str!("style.css"),
        verdict = text(verdict),
        table = html::table("Databases", &head, &rows.concat()),
        version = text(env!("CARGO_PKG_VERSION")),
        at = html::moment(&jiff::Timestamp::now().to_string()),
    )
}

fn row(entry: &Entry) -> String {
    // A page's name has the characters of a key's segment only; = and / stand for themselves in a link.
    let name = text(&entry.name);
    format!(
        "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>\n",
        if entry.page.is_empty() { name } else { format!("<a href=\"{}\">{name}</a>", text(&entry.page)) },
        if entry.ok { "ok" } else { "<strong>failed</strong>" },
        text(&entry.age),
        text(&entry.run),
        text(&entry.why),
    )
}
