//! Tells whether a server goes on where the runs of a prefix ended: the same cluster, the same line of its history.
//!
//! Two servers with one system identifier are a primary and its standbys, a server before and after a failover, or a
//! server and a copy that was made a server of its own. The last two look alike as long as no run was made after they
//! parted: a person has to say which it is.

use crate::format::manifest::{Source, Timeline};
use crate::postgres::source::timeline::Place;

/// The relation of a server to the one that the last run was made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Relation {
    /// The same server or one of its standbys, as far as can be told.
    Same,
    /// It was promoted since: it took over, or it is a copy. The words say on which timelines the two are.
    Promoted(String),
    /// The other one lived on after the two parted. The words say how that is known.
    Apart(String),
}

/// Compares a server with the source of an earlier run of the same identity.
pub(crate) fn relation(earlier: &Source, now: &Place) -> Relation {
    let at = |lsn: &Option<String>| lsn.as_deref().and_then(position);
    let (before, here) = (at(&earlier.wal_lsn), at(&now.wal_lsn));
    match (&earlier.timeline, &now.timeline) {
        (Some(then), Some(this)) if this.id > then.id => promoted(then, this, before),
        (Some(then), Some(this)) if this.id < then.id => {
            Relation::Apart(format!("that run is of timeline {}, this server is on timeline {}", then.id, this.id))
        }
        (Some(Timeline { id, history: Some(then) }), Some(Timeline { history: Some(this), .. })) if then != this => {
            Relation::Apart(format!("both are on timeline {id}, which began at different places"))
        }
        // A standby may lag behind a run of its primary.
        _ => match (before, here) {
            (Some(before), Some(here)) if here < before && !now.in_recovery => Relation::Apart(format!(
                "that run was made at WAL position {}, this server has only come to {}",
                earlier.wal_lsn.as_deref().unwrap_or_default(),
                now.wal_lsn.as_deref().unwrap_or_default()
            )),
            _ => Relation::Same,
        },
    }
}

fn promoted(then: &Timeline, this: &Timeline, made_at: Option<u64>) -> Relation {
    if let Some(history) = &this.history {
        let Some(left) = history.iter().find(|ancestor| ancestor.timeline == then.id) else {
            return Relation::Apart(format!(
                "that run is of timeline {}, and this server, on timeline {}, never was on it",
                then.id, this.id
            ));
        };
        if made_at.zip(position(&left.left_at)).is_some_and(|(made, left)| made > left) {
            return Relation::Apart(format!(
                "this server left timeline {} at WAL position {} for timeline {}, and that run was made on it later",
                then.id, left.left_at, this.id
            ));
        }
    }
    Relation::Promoted(format!("that run is of timeline {}, this server is on timeline {}", then.id, this.id))
}

/// The number of a WAL position (`1/A2B3C8`).
fn position(lsn: &str) -> Option<u64> {
    let (high, low) = lsn.split_once('/')?;
    Some(u64::from(u32::from_str_radix(high, 16).ok()?) << 32 | u64::from(u32::from_str_radix(low, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::manifest::Ancestor;

    type At<'a> = (u32, Option<&'a [(u32, &'a str)]>, &'a str);

    fn timeline(at: &At<'_>) -> Timeline {
        let ancestor =
            |(timeline, left_at): &(u32, &str)| Ancestor { timeline: *timeline, left_at: (*left_at).to_owned() };
        Timeline { id: at.0, history: at.1.map(|history| history.iter().map(ancestor).collect()) }
    }

    fn judge(then: &At<'_>, now: &At<'_>, in_recovery: bool) -> &'static str {
        let source: Source = serde_json::from_value(serde_json::json!({
            "host": "", "port": 1, "database": "", "identity": "1/1", "server_version": "18", "pg_dump_version": "18",
            "encoding": "UTF8", "snapshot": "", "in_recovery": false, "role": "", "superuser": true,
            "wal_lsn": then.2, "timeline": timeline(then),
        }))
        .unwrap();
        let place = Place { timeline: Some(timeline(now)), wal_lsn: Some(now.2.to_owned()), in_recovery };
        match relation(&source, &place) {
            Relation::Same => "same",
            Relation::Promoted(_) => "promoted",
            Relation::Apart(_) => "apart",
        }
    }

    #[test]
    fn a_copy_is_told_from_its_original_where_that_can_be_known() {
        let first: At<'_> = (1, Some(&[]), "0/5000000");
        assert_eq!(judge(&first, &(1, Some(&[]), "0/5000000"), false), "same");
        // A copy of the files that was started as it is: behind the original, on the same timeline.
        assert_eq!(judge(&first, &(1, Some(&[]), "0/4000000"), false), "apart");
        assert_eq!(judge(&first, &(1, Some(&[]), "0/4000000"), true), "same");
        // Left after that run, before it, and nobody knows when.
        assert_eq!(judge(&first, &(2, Some(&[(1, "0/5000000")]), "0/6000000"), false), "promoted");
        assert_eq!(judge(&first, &(2, Some(&[(1, "0/4FFFFFF")]), "0/6000000"), false), "apart");
        assert_eq!(judge(&first, &(2, None, "0/6000000"), false), "promoted");
        // The original, where the copy took the prefix over.
        let copy: At<'_> = (2, Some(&[(1, "0/4000000")]), "0/6000000");
        assert_eq!(judge(&copy, &(1, Some(&[]), "1/0"), false), "apart");
        // Two copies are both on timeline 2; a third never was on it.
        assert_eq!(judge(&copy, &(2, Some(&[(1, "0/4000001")]), "1/0"), false), "apart");
        assert_eq!(judge(&copy, &(2, Some(&[(1, "0/4000000")]), "1/0"), false), "same");
        assert_eq!(judge(&copy, &(2, None, "1/0"), false), "same");
        assert_eq!(judge(&copy, &(3, Some(&[(1, "0/4000000")]), "1/0"), false), "apart");
    }
}
