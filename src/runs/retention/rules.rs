//! Which runs the rules keep. Knows names and moments, no store.
//!
//! A rule about hours, days, weeks, months or years keeps the newest run of each period that has one, as many periods back
//! as it says; periods without a run do not count. A run that several rules keep takes a place in each of them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

/// The rules as asked for; 0 and `None` keep nothing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rules {
    pub(crate) last: u32,
    pub(crate) within: Option<Duration>,
    pub(crate) hourly: u32,
    pub(crate) daily: u32,
    pub(crate) weekly: u32,
    pub(crate) monthly: u32,
    pub(crate) yearly: u32,
    /// The time zone of days; `None`: UTC.
    pub(crate) zone: Option<TimeZone>,
}

/// The period that a moment belongs to.
type Period = fn(&Zoned) -> (i16, i8, i8, i8, i32);

/// The reasons why runs are kept, by run.
pub(crate) type Kept = BTreeMap<String, BTreeSet<&'static str>>;

impl Rules {
    /// True where at least one rule is given.
    pub(crate) fn is_any(&self) -> bool {
        self.within.is_some() || [self.last, self.hourly, self.daily, self.weekly, self.monthly, self.yearly] != [0; 6]
    }

    /// Returns what the rules keep of these runs (name and start).
    pub(crate) fn keep(&self, runs: &[(&str, Timestamp)]) -> Kept {
        let mut runs = runs.to_vec();
        runs.sort_unstable_by(|a, b| (b.1, b.0).cmp(&(a.1, a.0)));
        let mut kept = Kept::new();
        let mut keep = |run: &str, why| {
            kept.entry(run.to_owned()).or_default().insert(why);
        };
        for (run, _) in runs.iter().take(self.last as usize) {
            keep(run, "last");
        }
        if let (Some(within), Some((_, newest))) = (self.within, runs.first()) {
            // Counted from the newest run, not from now: when backups stop, the old ones stay.
            let recent = runs.iter().filter(|(_, at)| newest.duration_since(*at).unsigned_abs() <= within);
            for (run, _) in recent {
                keep(run, "within");
            }
        }
        let zone = self.zone.clone().unwrap_or(TimeZone::UTC);
        let periods: [(&'static str, u32, Period); 5] = [
            // The hour that comes twice in autumn is two: its offsets differ.
            ("hourly", self.hourly, |at| (at.year(), at.month(), at.day(), at.hour(), at.offset().seconds())),
            ("daily", self.daily, |at| (at.year(), at.month(), at.day(), 0, 0)),
            ("weekly", self.weekly, |at| {
                let week = at.date().iso_week_date();
                (week.year(), week.week(), 0, 0, 0)
            }),
            ("monthly", self.monthly, |at| (at.year(), at.month(), 0, 0, 0)),
            ("yearly", self.yearly, |at| (at.year(), 0, 0, 0, 0)),
        ];
        for (why, count, period) in periods {
            let mut seen = BTreeSet::new();
            for (run, at) in &runs {
                let period = period(&at.to_zoned(zone.clone()));
                if seen.len() < count as usize && seen.insert(period) {
                    keep(run, why);
                }
            }
        }
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(rules: &Rules, runs: &[&str]) -> Vec<String> {
        let runs: Vec<(&str, Timestamp)> = runs.iter().map(|run| (*run, run.parse().unwrap())).collect();
        rules.keep(&runs).into_iter().map(|(run, why)| format!("{run} {}", Vec::from_iter(why).join("+"))).collect()
    }

    #[test]
    fn the_newest_of_each_period_is_kept() {
        let runs = ["2026-03-02T23:59:59Z", "2026-03-02T00:00:00Z", "2026-03-01T23:59:59Z", "2026-02-20T12:00:00Z"];
        let daily = Rules { daily: 2, ..Rules::default() };
        assert_eq!(kept(&daily, &runs), ["2026-03-01T23:59:59Z daily", "2026-03-02T23:59:59Z daily"]);
        // A day without a run does not count.
        let daily = Rules { daily: 3, ..Rules::default() };
        assert_eq!(kept(&daily, &runs).first().unwrap(), "2026-02-20T12:00:00Z daily");
        let monthly = Rules { monthly: 9, ..Rules::default() };
        assert_eq!(kept(&monthly, &runs), ["2026-02-20T12:00:00Z monthly", "2026-03-02T23:59:59Z monthly"]);
        let last = Rules { last: 1, ..Rules::default() };
        assert_eq!(kept(&last, &runs), ["2026-03-02T23:59:59Z last"]);
    }

    #[test]
    fn weeks_are_iso_weeks() {
        // 2024-12-30 is a Monday, of week 1 of 2025; 2027-01-01 is a Friday of week 53 of 2026.
        let weekly = Rules { weekly: 9, ..Rules::default() };
        let runs = ["2025-01-02T00:00:00Z", "2024-12-30T00:00:00Z", "2024-12-29T00:00:00Z"];
        assert_eq!(kept(&weekly, &runs), ["2024-12-29T00:00:00Z weekly", "2025-01-02T00:00:00Z weekly"]);
        let runs = ["2027-01-03T00:00:00Z", "2026-12-28T00:00:00Z", "2026-12-27T00:00:00Z"];
        assert_eq!(kept(&weekly, &runs), ["2026-12-27T00:00:00Z weekly", "2027-01-03T00:00:00Z weekly"]);
    }

    #[test]
    fn hours_years_and_the_days_of_a_time_zone() {
        let runs = ["2026-10-25T01:30:00Z", "2026-10-25T00:30:00Z", "2026-10-24T23:30:00Z", "2025-12-31T23:30:00Z"];
        let berlin = TimeZone::get("Europe/Berlin").unwrap();
        // 02:30 comes twice that night; the first run of the three is of the next day already.
        let hourly = Rules { hourly: 2, zone: Some(berlin.clone()), ..Rules::default() };
        assert_eq!(kept(&hourly, &runs), ["2026-10-25T00:30:00Z hourly", "2026-10-25T01:30:00Z hourly"]);
        let daily = |zone| Rules { daily: 2, zone, ..Rules::default() };
        assert_eq!(kept(&daily(None), &runs), ["2026-10-24T23:30:00Z daily", "2026-10-25T01:30:00Z daily"]);
        assert_eq!(
            kept(&daily(Some(berlin.clone())), &runs),
            ["2025-12-31T23:30:00Z daily", "2026-10-25T01:30:00Z daily"]
        );
        let yearly = |zone| Rules { yearly: 5, zone, ..Rules::default() };
        assert_eq!(kept(&yearly(None), &runs), ["2025-12-31T23:30:00Z yearly", "2026-10-25T01:30:00Z yearly"]);
        assert_eq!(kept(&yearly(Some(berlin)), &runs), ["2026-10-25T01:30:00Z yearly"]);
    }

    #[test]
    fn within_counts_from_the_newest_run() {
        let within = Rules { within: Some(Duration::from_hours(48)), ..Rules::default() };
        let runs = ["2020-01-03T00:00:00Z", "2020-01-01T00:00:00Z", "2019-12-31T23:59:59Z"];
        assert_eq!(kept(&within, &runs), ["2020-01-01T00:00:00Z within", "2020-01-03T00:00:00Z within"]);
        assert_eq!(kept(&within, &[]), Vec::<String>::new());
    }

    #[test]
    fn rules_add_up() {
        let rules = Rules { last: 1, daily: 2, monthly: 2, ..Rules::default() };
        let runs = ["2026-03-02T02:00:00Z", "2026-03-02T01:00:00Z", "2026-03-01T01:00:00Z", "2026-02-01T01:00:00Z"];
        assert_eq!(
            kept(&rules, &runs),
            ["2026-02-01T01:00:00Z monthly", "2026-03-01T01:00:00Z daily", "2026-03-02T02:00:00Z daily+last+monthly"]
        );
    }

    /// The definition once more, the slow way: a run is kept by a rule about periods when no run of its period is newer
    /// and fewer periods than the rule counts are newer and have a run. Names sort as the moments of one second do.
    fn by_definition(rules: &Rules, runs: &[(String, Timestamp)]) -> BTreeSet<String> {
        let zone = rules.zone.clone().unwrap_or(TimeZone::UTC);
        let mut sorted = runs.to_vec();
        sorted.sort_by(|one, other| (other.1, &other.0).cmp(&(one.1, &one.0)));
        let mut kept: BTreeSet<String> = sorted.iter().take(rules.last as usize).map(|run| run.0.clone()).collect();
        let newest = sorted.first().map(|run| run.1);
        for (run, at) in &sorted {
            let age = newest.map(|newest| newest.duration_since(*at).unsigned_abs());
            if rules.within.is_some() && age <= rules.within {
                kept.insert(run.clone());
            }
        }
        for (format, count) in [
            ("%Y-%m-%d %H %z", rules.hourly),
            ("%Y-%m-%d", rules.daily),
            ("%G-%V", rules.weekly),
            ("%Y-%m", rules.monthly),
            ("%Y", rules.yearly),
        ] {
            let periods: Vec<String> =
                sorted.iter().map(|(_, at)| at.to_zoned(zone.clone()).strftime(format).to_string()).collect();
            for (place, (run, _)) in sorted.iter().enumerate() {
                let later: BTreeSet<&String> = periods.iter().take(place).collect();
                if later.len() < count as usize && periods.get(place).is_some_and(|own| !later.contains(own)) {
                    kept.insert(run.clone());
                }
            }
        }
        kept
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { cases: 24, failure_persistence: None, ..Default::default() })]

        #[test]
        fn five_hundred_runs_are_kept_by_definition(
            seconds in proptest::collection::vec(0_i64..40_000_000, 0..500),
            counts in proptest::array::uniform6(0_u32..9),
            hours in 0_u64..500,
            zone in proptest::sample::select(vec!["UTC", "Europe/Berlin", "Pacific/Auckland", "America/St_Johns"]),
        ) {
            let [last, hourly, daily, weekly, monthly, yearly] = counts;
            let within = (hours % 3 == 0).then(|| Duration::from_hours(hours));
            let zone = Some(TimeZone::get(zone).unwrap());
            let rules = Rules { last, within, hourly, daily, weekly, monthly, yearly, zone };
            // From the summer of 2026 over both changes of the clocks.
            let moment = |second: &i64| Timestamp::from_second(1_780_000_000 + second).unwrap();
            let runs: Vec<(String, Timestamp)> =
                seconds.iter().enumerate().map(|(at, second)| (format!("{at:03}"), moment(second))).collect();
            let borrowed: Vec<(&str, Timestamp)> = runs.iter().map(|(name, at)| (name.as_str(), *at)).collect();
            let kept: BTreeSet<String> = rules.keep(&borrowed).into_keys().collect();
            proptest::prop_assert_eq!(kept, by_definition(&rules, &runs));
        }
    }
}
