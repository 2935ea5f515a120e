//! The evidence that auditors ask for: that backups were made, how far apart, that they were read back and restored, and
//! how long a restore took. Everything is counted from manifests and receipts; nothing is promised.

use crate::human;
use crate::report::Facts;
use crate::report::html::{self, text};
use crate::runs::inventory::{Details, Row, State};
use crate::runs::receipts::Receipt;

/// The section.
pub(crate) fn section(facts: &Facts) -> String {
    let runs = &facts.inventory.runs;
    let complete: Vec<(&Row, &Details)> = runs
        .iter()
        .filter(|row| row.state == State::Complete)
        .filter_map(|row| Some((row, row.details.as_ref()?)))
        .collect();
    let count = |state: State| runs.iter().filter(|row| row.state == state).count();
    let proven = |of: fn(&Row) -> Option<&Receipt>| {
        let all: Vec<&Receipt> = runs.iter().filter_map(of).collect();
        let sound = all.iter().filter(|receipt| receipt.ok).count();
        format!("{sound} of {} runs, {} of them found different", runs.len(), all.len() - sound)
    };
    let period = match (complete.last(), complete.first()) {
        (Some((_, first)), Some((_, last))) => {
            format!("{} to {}", html::moment(&first.finished_at), html::moment(&last.finished_at))
        }
        _ => "no complete run".to_owned(),
    };
    let moments: Vec<jiff::Timestamp> =
        complete.iter().filter_map(|(_, details)| details.finished_at.parse().ok()).collect();
    let gap = facts.at.parse().ok().and_then(|now| longest_gap(&moments, now));
    let seconds = |list: Vec<f64>| median(list).map_or_else(|| "not measured".to_owned(), html::took);
    let restores: Vec<f64> =
        runs.iter().filter_map(|row| row.drilled.as_ref()?.restore_seconds).filter(|seconds| *seconds > 0.0).collect();
    let longest = restores.iter().copied().fold(0.0, f64::max);
    let restored = if restores.is_empty() {
        "not measured: no drill of a run that is still in the store".to_owned()
    } else {
        format!(
            "{} in the middle, {} at most, in {} drills",
            seconds(restores.clone()),
            html::took(longest),
            restores.len()
        )
    };
    let sealed = facts.latest.as_ref().ok().and_then(|manifest| manifest.encryption.as_ref());
    let pairs = vec![
        ("Period", period),
        (
            "Runs",
            text(format!(
                "{} complete, {} partial, {} not finished, {} unreadable",
                count(State::Complete),
                count(State::Partial),
                count(State::Incomplete),
                count(State::Unreadable)
            )),
        ),
        ("Longest gap (RPO)", text(gap.map_or_else(|| "not measured".to_owned(), html::took))),
        ("Restore (RTO)", text(restored)),
        ("Duration", text(format!("{} in the middle", seconds(complete.iter().map(|(_, d)| d.seconds).collect())))),
        ("Verified", text(proven(|row| row.verified.as_ref()))),
        ("Drilled", text(proven(|row| row.drilled.as_ref()))),
        ("Pinned", text(runs.iter().filter(|row| row.pin.is_some()).count())),
        ("Encryption", text(sealed.map_or("none", |encryption| encryption.scheme.as_str()))),
        ("Signature", facts.signed_by()),
    ];
    let rows: String = runs.iter().filter_map(|row| Some(evidence_of(row, row.details.as_ref()?))).collect();
    let head = [
        ("Run", false),
        ("Finished", false),
        ("Rows", true),
        ("SHA-256 of the manifest, which holds those of all objects", false),
        ("Verified", false),
        ("Drilled", false),
        ("Restore took", true),
    ];
    format!(
        "<h2>Evidence</h2>\n<p>Counted from the manifests and receipts of this store at {at} UTC, for what SOC 2 (A1.2, A1.3) \
         and ISO/IEC 27001 (A.8.13) ask: that copies are made, kept, protected and tried by restoring them. The gap is \
         between two complete runs that are still here, or from the newest to that moment.</p>\n{facts}{table}",
        at = html::moment(&facts.at),
        facts = html::facts(&pairs),
        table = html::table("Evidence for each run, newest first", &head, &rows)
    )
}

fn evidence_of(row: &Row, details: &Details) -> String {
    let receipt = |receipt: &Option<Receipt>| match receipt {
        None => "<td class=\"soft\">no</td>".to_owned(),
        Some(receipt) => {
            let extent = receipt.extent().map(|extent| format!(" ({})", text(extent))).unwrap_or_default();
            let verdict = if receipt.ok { "sound" } else { "<span class=\"badge bad\">differs</span>" };
            format!("<td>{verdict} {}{extent}</td>", html::moment(&receipt.at))
        }
    };
    let took = row.drilled.as_ref().and_then(|receipt| receipt.restore_seconds).map(html::took).unwrap_or_default();
    format!(
        "<tr><th scope=\"row\"><code>{}</code></th><td>{}</td>{}<td><code>{}</code></td>{}{}{}</tr>\n",
        text(&row.run),
        html::moment(&details.finished_at),
        html::number(human::count(details.totals.rows)),
        text(&details.manifest_sha256),
        receipt(&row.verified),
        receipt(&row.drilled),
        html::number(took),
    )
}

/// The longest time in seconds between two of these moments, or from the last of them until now.
fn longest_gap(moments: &[jiff::Timestamp], now: jiff::Timestamp) -> Option<f64> {
    let mut all = moments.to_vec();
    all.sort_unstable();
    let last = *all.last()?;
    all.push(last.max(now));
    let gaps = all.iter().zip(all.iter().skip(1)).map(|(from, to)| to.duration_since(*from).as_secs_f64());
    gaps.fold(None, |longest, gap| Some(longest.map_or(gap, |longest: f64| longest.max(gap))))
}

/// The value in the middle; of an even number the lower one.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len().checked_sub(1)? / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_gap_counts_until_now() {
        let at = |text: &str| text.parse::<jiff::Timestamp>().unwrap();
        let runs = [at("2026-01-03T00:00:00Z"), at("2026-01-01T00:00:00Z"), at("2026-01-02T12:00:00Z")];
        assert_eq!(longest_gap(&runs, at("2026-01-03T01:00:00Z")), Some(36.0 * 3600.0));
        assert_eq!(longest_gap(&runs, at("2026-01-06T00:00:00Z")), Some(72.0 * 3600.0));
        // A clock that was wrong makes no gap.
        assert_eq!(longest_gap(&runs, at("2025-01-01T00:00:00Z")), Some(36.0 * 3600.0));
        assert_eq!(longest_gap(&[], at("2026-01-01T00:00:00Z")), None);
    }

    #[test]
    fn the_median_is_a_measured_value() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0]), Some(1.0));
        assert_eq!(median(Vec::new()), None);
    }
}
