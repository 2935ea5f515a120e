//! The page: verdict, numbers, trend, the table of runs; the latest run is in `latest`.

use std::collections::BTreeSet;

use crate::format::manifest::{Manifest, Status};
use crate::human;
use crate::report::chart::Bar;
use crate::report::check::{self, Check};
use crate::report::html::text;
use crate::report::{Facts, changes, chart, evidence, html, latest};
use crate::runs::inventory::{Details, Row, State};
use crate::runs::pins::Pin;
use crate::runs::receipts::Receipt;

/// Runs in the charts, the newest: more bars than that are hairlines.
const BARS: usize = 120;
/// From this age on the newest backup is pointed out.
const OLD_SECONDS: i64 = 2 * 86_400;

/// The whole page; with the section for auditors where that is asked for.
pub(crate) fn compose(facts: &Facts, with_evidence: bool) -> String {
    let name = facts.latest.as_ref().map_or_else(
        |_none| facts.inventory.runs.iter().find_map(|row| Some(row.details.as_ref()?.database.clone())),
        |manifest| Some(manifest.source.database.clone()),
    );
    let title = name.map_or_else(|| "Backups".to_owned(), |name| format!("Backups of {name}"));
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n{policy}\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n\
         <style>\n{style}</style>\n</head>\n<body>\n<header>\n<h1>{title}</h1>\n\
         <p class=\"soft\">in <code>{store}</code>, as of {at} UTC</p>\n{verdict}</header>\n<main>\n",
        title = text(title),
        policy = html::script_policy(),
        style = include_str!("style.css"),
        store = text(&facts.inventory.store),
        at = html::moment(&facts.at),
        verdict = verdict(facts),
    );
    if !facts.inventory.runs.is_empty() {
        page.push_str(&cards(facts));
        page.push_str(&trend(&facts.inventory.runs));
        page.push_str(&runs(&facts.inventory.runs));
    }
    if let Ok(manifest) = &facts.latest {
        page.push_str(&changes::section(facts.before.as_ref(), manifest));
        page.push_str(&restore(facts, manifest));
        page.push_str(&latest::section(facts, manifest));
    }
    if with_evidence {
        page.push_str(&evidence::section(facts));
    }
    page.push_str(&format!(
        "</main>\n<footer><p>Made by pgstow {}. A run counts once its manifest is stored, which is written last. \
         <em>Verified</em>: every byte was read back, rows and digests recomputed. <em>Drilled</em>: restored into a scratch \
         database and compared. All times are UTC.</p></footer>\n<script>{}</script>\n</body>\n</html>\n",
        text(env!("CARGO_PKG_VERSION")),
        html::AGES
    ));
    page
}

/// The one sentence a person in a hurry reads. Green only for a complete run that somebody proved to be readable; the
/// page itself notices when it is old.
fn verdict(facts: &Facts) -> String {
    let row = facts.inventory.runs.iter().find(|row| row.latest);
    let (class, head, rest) = match (&facts.latest, row) {
        (Err(problem), _) if facts.inventory.runs.is_empty() => {
            ("warn", "There is no backup yet.".to_owned(), text(capital(problem)))
        }
        (Err(problem), _) => ("bad", "The latest backup cannot be used.".to_owned(), text(capital(problem))),
        (Ok(manifest), row) => {
            let receipts = || row.into_iter().flat_map(|row| [&row.verified, &row.drilled]).flatten();
            let checks = row.map_or_else(String::new, |row| {
                format!("{}; {}.", checked("verified", row.verified.as_ref()), checked("drilled", row.drilled.as_ref()))
            });
            let finished = html::aged(&manifest.finished_at);
            let rest = format!("Finished {finished}. {}", capital(&checks));
            if receipts().any(|found| !found.ok) {
                ("bad", "The latest backup is damaged.".to_owned(), rest)
            } else if manifest.status == Status::Partial {
                let count = manifest.skipped.len();
                ("warn", format!("The latest backup is partial: it lacks {count} things, listed below."), rest)
            } else if receipts().next().is_none() {
                ("warn", "The latest backup is complete, but nobody has read it back yet.".to_owned(), rest)
            } else {
                ("good", "The latest backup is complete.".to_owned(), rest)
            }
        }
    };
    let rest = if rest.is_empty() { String::new() } else { format!("<p>{rest}</p>") };
    format!(
        "<div class=\"verdict {class}\" role=\"status\"><strong>{}{}</strong>{rest}</div>\n",
        text(head),
        old(facts)
    )
}

/// A sentence that shows itself once the latest run is old.
fn old(facts: &Facts) -> String {
    let finished = facts.latest.as_ref().ok().and_then(|manifest| manifest.finished_at.parse::<jiff::Timestamp>().ok());
    let after = finished.and_then(|at| at.checked_add(jiff::SignedDuration::from_secs(OLD_SECONDS)).ok());
    after.map_or_else(String::new, |after| {
        format!("<span data-old-after=\"{after}\" hidden> It is more than {} days old.</span>", OLD_SECONDS / 86_400)
    })
}

fn capital(sentence: &str) -> String {
    let mut chars = sentence.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// HTML about the last look at a run.
fn checked(what: &str, receipt: Option<&Receipt>) -> String {
    match receipt {
        None => format!("not {what} yet"),
        Some(receipt) if receipt.ok => {
            let extent = receipt.extent().map(|extent| format!(", {}", text(extent))).unwrap_or_default();
            format!("{what} {}{extent}", html::aged(&receipt.at))
        }
        Some(receipt) => format!("{what} {} and found different", html::aged(&receipt.at)),
    }
}

fn cards(facts: &Facts) -> String {
    let runs = &facts.inventory.runs;
    let count = |state: State| runs.iter().filter(|row| row.state == state).count();
    let mut cards = Vec::new();
    if let Ok(manifest) = &facts.latest {
        let totals = &manifest.totals;
        cards.push((
            "Latest",
            human::size(totals.stored_bytes),
            format!("stored, of {} of rows", human::size(totals.raw_bytes)),
        ));
        let tables = format!("in {} tables, {} schemas", human::count(totals.tables), human::count(totals.schemas));
        cards.push(("Rows", human::count(totals.rows), tables));
    }
    let others: Vec<String> = [State::Partial, State::Incomplete, State::Unreadable]
        .into_iter()
        .filter(|state| count(*state) > 0)
        .map(|state| format!("{} {}", count(state), state.as_str()))
        .collect();
    let others = if others.is_empty() { "all complete".to_owned() } else { others.join(", ") };
    cards.push(("Runs", runs.len().to_string(), others));
    let stored: u64 = runs.iter().filter_map(|row| Some(row.details.as_ref()?.totals.stored_bytes)).sum();
    let pinned = runs.iter().filter(|row| row.pin.is_some()).count();
    let pinned = if pinned == 0 { "no pins".to_owned() } else { format!("{pinned} pinned") };
    cards.push(("In the store", human::size(stored), pinned));
    for (title, newest) in [
        ("Last verified", newest(runs, |row| row.verified.as_ref())),
        ("Last drilled", newest(runs, |row| row.drilled.as_ref())),
    ] {
        cards.push(match newest {
            Some((row, receipt)) => {
                let begun =
                    crate::format::layout::started(&row.run).map(|at| at.strftime("%Y-%m-%d %H:%M").to_string());
                (title, html::aged(&receipt.at), text(format!("run of {}", begun.unwrap_or_default())))
            }
            None => (title, "never".to_owned(), "no receipt".to_owned()),
        });
    }
    html::cards(&cards)
}

/// The commands that bring the latest run back, ready to copy: one click selects each.
fn restore(facts: &Facts, manifest: &Manifest) -> String {
    let store = human::shell_quoted(&facts.inventory.store);
    let identity = if manifest.encryption.is_some() { " --identity key.txt" } else { "" };
    let commands = [
        (
            "Prove it in a scratch database",
            format!("pgstow drill {} --store {store}{identity} --on \"$SERVER_URL\"", manifest.run),
        ),
        (
            "Restore it into a new database",
            format!(
                "pgstow restore {} --store {store}{identity} --create --roles --to \"$NEW_DATABASE_URL\"",
                manifest.run
            ),
        ),
        (
            "Fetch its files, with RESTORE.md for stock tools",
            format!("pgstow download {} --store {store}{identity} --out backup", manifest.run),
        ),
    ];
    let mut out = String::from("<h2>Restore</h2>\n<dl class=\"panel commands\">\n");
    for (title, command) in commands {
        out.push_str(&format!("<dt>{}</dt><dd><code tabindex=\"0\">{}</code></dd>\n", text(title), text(command)));
    }
    out.push_str("</dl>\n");
    out
}

/// The newest receipt that found a run sound.
fn newest(runs: &[Row], of: fn(&Row) -> Option<&Receipt>) -> Option<(&Row, &Receipt)> {
    let sound = runs.iter().filter_map(|row| Some((row, of(row)?))).filter(|(_, receipt)| receipt.ok);
    sound.max_by(|a, b| a.1.at.cmp(&b.1.at))
}

fn trend(runs: &[Row]) -> String {
    let rows: Vec<_> = runs.iter().filter_map(|row| Some((row, row.details.as_ref()?))).take(BARS).collect();
    if rows.len() < 2 {
        return String::new();
    }
    let days: BTreeSet<Option<&str>> = rows.iter().map(|(_, details)| details.started_at.get(..10)).collect();
    // Of one day the time of day says more.
    let when = if days.len() > 1 { 0..10 } else { 11..16 };
    let bars = |value: fn(&Details) -> f64, write: fn(f64) -> String| -> Vec<Bar> {
        let bar = |(row, details): &(&Row, &Details)| Bar {
            value: value(details),
            when: details.started_at.get(when.clone()).unwrap_or(&details.started_at).to_owned(),
            label: format!("{}: {}, {}", row.run, row.state.as_str(), write(value(details))),
            partial: row.state == State::Partial,
        };
        rows.iter().rev().map(bar).collect()
    };
    let size: fn(f64) -> String = |value| html::size(value.max(0.0) as u64);
    let speed: fn(f64) -> String = |value| format!("{}/s", html::size(value.max(0.0) as u64));
    let stored = bars(|details| details.totals.stored_bytes as f64, size);
    let seconds = bars(|details| details.seconds, html::took);
    let throughput = bars(|details| details.totals.raw_bytes as f64 / details.seconds.max(0.1), speed);
    format!(
        "<h2>Trend</h2>\n<div class=\"charts\">\n{}{}{}</div>\n",
        chart::bars("Stored size", &stored, 1024.0, size),
        chart::bars("Duration", &seconds, 60.0, html::took),
        chart::bars("Throughput: text of rows a second", &throughput, 1024.0, speed)
    )
}

fn runs(runs: &[Row]) -> String {
    let mut rows = String::new();
    for row in runs {
        rows.push_str(&run(row));
    }
    let head = [
        ("Run", false),
        ("Status", false),
        ("Started", false),
        ("Took", true),
        ("Tables", true),
        ("Rows", true),
        ("Text of rows", true),
        ("Stored", true),
        ("Verified", false),
        ("Drilled", false),
    ];
    format!("<h2>Runs</h2>\n{}", html::table("Runs, newest first", &head, &rows))
}

fn run(row: &Row) -> String {
    let (class, status) = match row.state {
        State::Complete => ("good", "complete"),
        State::Partial => ("warn", "partial"),
        State::Incomplete => ("warn", "not finished"),
        State::Unreadable => ("bad", "unreadable"),
    };
    let mark = if row.latest { " <span class=\"badge latest\">latest</span>" } else { "" };
    let mut notes: Vec<String> = row.pin.iter().map(Pin::text).collect();
    notes.extend(row.problem.clone());
    let notes: Vec<String> = notes.iter().map(|note| format!("<span class=\"note\">{}</span>", text(note))).collect();
    let notes = notes.concat();
    let mut out = format!(
        "<tr><th scope=\"row\"><code>{}</code>{mark}{notes}</th><td><span class=\"badge {class}\">{}</span></td>",
        text(&row.run),
        text(status)
    );
    if let Some(details) = &row.details {
        out.push_str(&format!("<td>{}</td>", html::moment(&details.started_at)));
        out.push_str(&html::number(html::took(details.seconds)));
        out.push_str(&html::number(human::count(details.totals.tables)));
        out.push_str(&html::number(human::count(details.totals.rows)));
        out.push_str(&html::number(human::size(details.totals.raw_bytes)));
        out.push_str(&html::number(human::size(details.totals.stored_bytes)));
    } else {
        let started =
            crate::format::layout::started(&row.run).map(|at| html::moment(&at.to_string())).unwrap_or_default();
        out.push_str(&format!("<td>{started}</td>{}", "<td></td>".repeat(5)));
    }
    for receipt in [&row.verified, &row.drilled] {
        out.push_str(&match receipt {
            None if row.details.is_none() => "<td></td>".to_owned(),
            receipt => check::cell(receipt.as_ref().map(Check::from).as_ref()),
        });
    }
    out.push_str("</tr>\n");
    out
}
