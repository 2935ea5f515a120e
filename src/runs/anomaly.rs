//! The anomalies of a run, beside the one that `latest` names: schemas and tables that vanished, rows and bytes that fell or
//! rose by more than they may. Nothing here decides: a migration drops tables rightly.

use std::collections::BTreeMap;

use crate::format::manifest::{Anomaly, AnomalyKind, Manifest, Table};

/// Smaller tables fluctuate: a queue is empty now and then.
const SMALLEST_ROWS: u64 = 1_000;
const SMALLEST_BYTES: u64 = 1 << 20;

/// The distance that a run may have from the one before, in percent of that.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// `None`: as far as it likes.
    pub(crate) shrink: Option<f64>,
    pub(crate) growth: Option<f64>,
}

/// Compares a run with the one before it.
pub(crate) fn compare(before: &Manifest, after: &Manifest, limits: Limits) -> Vec<Anomaly> {
    let mut found = Vec::new();
    for schema in &before.schemas {
        let Some(now) = after.schemas.iter().find(|one| one.name == schema.name) else {
            found.push(vanished(AnomalyKind::SchemaVanished, &schema.name, None, sum(&schema.tables)));
            continue;
        };
        let tables: BTreeMap<&str, &Table> = now.tables.iter().map(|table| (table.name.as_str(), table)).collect();
        for table in &schema.tables {
            match tables.get(table.name.as_str()) {
                None => {
                    found.push(vanished(AnomalyKind::TableVanished, &schema.name, Some(&table.name), table.rows));
                }
                Some(now) => {
                    let place = (Some(schema.name.as_str()), Some(table.name.as_str()));
                    let (rows, bytes) = ((table.rows, now.rows), (table.raw_bytes, now.raw_bytes));
                    found.extend(changed(place, rows, bytes, limits));
                }
            }
        }
    }
    let (a, b) = (&before.totals, &after.totals);
    found.extend(changed((None, None), (a.rows, b.rows), (a.raw_bytes, b.raw_bytes), limits));
    found
}

fn sum(tables: &[Table]) -> u64 {
    tables.iter().map(|table| table.rows).sum()
}

fn vanished(kind: AnomalyKind, schema: &str, table: Option<&str>, rows: u64) -> Anomaly {
    Anomaly { kind, schema: Some(schema.to_owned()), table: table.map(str::to_owned), before: rows, after: 0 }
}

/// The rows, or else the bytes, of a table or of all where they changed by too much.
fn changed(
    (schema, table): (Option<&str>, Option<&str>),
    rows: (u64, u64),
    bytes: (u64, u64),
    limits: Limits,
) -> Option<Anomaly> {
    let kinds = [
        (rows, SMALLEST_ROWS, AnomalyKind::RowsFell, AnomalyKind::RowsRose),
        (bytes, SMALLEST_BYTES, AnomalyKind::BytesFell, AnomalyKind::BytesRose),
    ];
    kinds.into_iter().find_map(|((before, after), smallest, fell, rose)| {
        #[allow(clippy::cast_precision_loss, reason = "a percentage of two counts")]
        let percent = |part: u64| part as f64 * 100.0 / before.max(1) as f64;
        let beyond = |limit: Option<f64>, part: u64| limit.is_some_and(|limit| percent(part) > limit);
        let kind = match before {
            _ if before.max(after) < smallest => return None,
            _ if after < before && beyond(limits.shrink, before - after) => fell,
            _ if after > before && before > 0 && beyond(limits.growth, after - before) => rose,
            _ => return None,
        };
        Some(Anomaly { kind, schema: schema.map(str::to_owned), table: table.map(str::to_owned), before, after })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_counts_beyond_its_limit_only() {
        let limits = Limits { shrink: Some(50.0), growth: Some(200.0) };
        let kind = |rows, bytes| changed((None, None), rows, bytes, limits).map(|found| found.kind);
        assert_eq!(kind((10_000, 5_000), (0, 0)), None);
        assert_eq!(kind((10_000, 4_999), (0, 0)), Some(AnomalyKind::RowsFell));
        assert_eq!(kind((10_000, 0), (0, 0)), Some(AnomalyKind::RowsFell));
        assert_eq!(kind((10_000, 30_000), (0, 0)), None);
        assert_eq!(kind((10_000, 30_001), (0, 0)), Some(AnomalyKind::RowsRose));
        assert_eq!(kind((999, 0), (0, 0)), None);
        assert_eq!(kind((0, 50_000), (0, 0)), None);
        assert_eq!(kind((10, 10), (3 << 20, 1 << 20)), Some(AnomalyKind::BytesFell));
        assert_eq!(kind((10, 10), (1 << 20, 4 << 20)), Some(AnomalyKind::BytesRose));
        let none = Limits { shrink: None, growth: None };
        assert_eq!(changed((None, None), (10_000, 0), (1 << 30, 0), none), None);
    }
}
