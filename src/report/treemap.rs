//! The sizes of schemas and tables as one picture: rectangles whose areas are bytes (squarified treemap: Bruls, Huizing,
//! van Wijk, 2000). The tables below the picture have the same numbers, so it is one image with a summary to a screen
//! reader.

use crate::format::manifest::{Manifest, Schema};
use crate::human;
use crate::report::html::text;

const WIDTH: f64 = 1120.0;
const HEIGHT: f64 = 380.0;
/// The strip with a schema's name.
const STRIP: f64 = 20.0;
/// Tables of one schema that get a rectangle of their own; the others share one.
const TABLES: usize = 80;
/// Schemas that do.
const SCHEMAS: usize = 40;
/// Colours in the style sheet.
const COLOURS: usize = 6;
/// Width of a letter, about, in a text of 12 pixels.
const LETTER: f64 = 6.6;

/// A place in the picture.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Rect {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
}

/// A thing with a size.
struct Item {
    name: String,
    bytes: u64,
    rows: u64,
}

/// The picture of the latest run; empty where there is nothing to compare.
pub(crate) fn picture(manifest: &Manifest) -> String {
    let mut schemas: Vec<&Schema> = manifest.schemas.iter().filter(|schema| bytes(schema) > 0).collect();
    schemas.sort_by_key(|schema| std::cmp::Reverse(bytes(schema)));
    let tables: usize = schemas.iter().map(|schema| schema.tables.len()).sum();
    let Some(largest) = schemas.first().filter(|_| tables > 1) else { return String::new() };
    let whole: u64 = schemas.iter().map(|schema| bytes(schema)).sum();
    let summary = format!(
        "Stored sizes of {tables} tables in {} schemas, {} in all; the largest schema is {} with {}",
        schemas.len(),
        human::size(whole),
        largest.name,
        human::size(bytes(largest))
    );
    let mut svg = format!(
        "<figure class=\"panel treemap\"><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">\n",
        text(summary)
    );
    let rest: u64 = schemas.iter().skip(SCHEMAS).map(|schema| bytes(schema)).sum();
    let mut sizes: Vec<u64> = schemas.iter().take(SCHEMAS).map(|schema| bytes(schema)).collect();
    sizes.extend((rest > 0).then_some(rest));
    let places = squarify(&sizes, Rect { x: 0.0, y: 0.0, width: WIDTH, height: HEIGHT });
    for (at, place) in places.into_iter().enumerate() {
        let colour = at % COLOURS;
        if let Some(schema) = schemas.get(at).filter(|_| at < SCHEMAS) {
            svg.push_str(&one(schema, place, colour));
        } else {
            let name = format!("{} more schemas", schemas.len() - SCHEMAS);
            svg.push_str(&rectangle(&name, &format!("{name}: {}", human::size(rest)), place, colour));
        }
    }
    svg.push_str("</svg><figcaption class=\"soft\">Area: bytes in the store. Point at a rectangle for its numbers.</figcaption></figure>\n");
    svg
}

/// The stored bytes of a schema's tables.
fn bytes(schema: &Schema) -> u64 {
    schema.tables.iter().map(|table| table.file.bytes).sum()
}

/// A schema: a strip with its name, where there is room, above its tables.
fn one(schema: &Schema, place: Rect, colour: usize) -> String {
    let mut items: Vec<Item> = schema
        .tables
        .iter()
        .map(|table| Item { name: table.name.clone(), bytes: table.file.bytes, rows: table.rows })
        .collect();
    items.sort_by_key(|item| std::cmp::Reverse(item.bytes));
    if items.len() > TABLES {
        let others = items.split_off(TABLES);
        items.push(Item {
            name: format!("{} smaller tables", others.len()),
            bytes: others.iter().map(|item| item.bytes).sum(),
            rows: others.iter().map(|item| item.rows).sum(),
        });
    }
    let mut svg = String::from("<g>");
    let mut inner = place;
    if place.height > 3.0 * STRIP && place.width > 60.0 {
        svg.push_str(&format!(
            "<text class=\"schema\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            place.x + 4.0,
            place.y + 14.0,
            text(fitting(&schema.name, place.width - 8.0))
        ));
        inner.y += STRIP;
        inner.height -= STRIP;
    }
    let sizes: Vec<u64> = items.iter().map(|item| item.bytes).collect();
    for (item, place) in items.iter().zip(squarify(&sizes, inner)) {
        let title =
            format!("{}.{}: {}, {} rows", schema.name, item.name, human::size(item.bytes), human::count(item.rows));
        svg.push_str(&rectangle(&item.name, &title, place, colour));
    }
    svg.push_str("</g>\n");
    svg
}

fn rectangle(name: &str, title: &str, place: Rect, colour: usize) -> String {
    let label = if place.width > 50.0 && place.height > 18.0 {
        format!(
            "<text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            place.x + 5.0,
            place.y + 15.0,
            text(fitting(name, place.width - 10.0))
        )
    } else {
        String::new()
    };
    format!(
        "<g><title>{}</title><rect class=\"c{colour}\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" rx=\"2\"/>{label}</g>",
        text(title),
        place.x + 1.0,
        place.y + 1.0,
        (place.width - 2.0).max(0.5),
        (place.height - 2.0).max(0.5),
    )
}

/// As much of a name as fits into so many pixels.
fn fitting(name: &str, width: f64) -> String {
    let letters = (width / LETTER).max(1.0) as usize;
    if name.chars().count() <= letters {
        return name.to_owned();
    }
    name.chars().take(letters.saturating_sub(1)).chain(['…']).collect()
}

/// Places for these sizes, which are in falling order, in their order.
fn squarify(sizes: &[u64], place: Rect) -> Vec<Rect> {
    let whole: f64 = sizes.iter().map(|size| *size as f64).sum();
    let scale = if whole > 0.0 { place.width * place.height / whole } else { 0.0 };
    let areas: Vec<f64> = sizes.iter().map(|size| *size as f64 * scale).collect();
    let (mut places, mut left, mut rest) = (Vec::with_capacity(areas.len()), place, areas.as_slice());
    while !rest.is_empty() {
        let side = left.width.min(left.height);
        // One more goes into the row as long as its worst rectangle gets no longer.
        let mut count = 1;
        while count < rest.len() && worst(rest, count + 1, side) <= worst(rest, count, side) {
            count += 1;
        }
        let (row, after) = rest.split_at(count);
        left = lay(row, left, &mut places);
        rest = after;
    }
    places
}

/// The worst ratio of sides of the first `count` areas in one row along a side of this length.
fn worst(areas: &[f64], count: usize, side: f64) -> f64 {
    let row: Vec<f64> = areas.iter().take(count).copied().collect();
    let sum: f64 = row.iter().sum();
    let depth = sum / side.max(f64::MIN_POSITIVE);
    let ratio = |area: &f64| {
        let length = area / depth.max(f64::MIN_POSITIVE);
        (length / depth).max(depth / length.max(f64::MIN_POSITIVE))
    };
    row.iter().map(ratio).fold(0.0, f64::max)
}

/// Lays a row along the shorter side; returns the room that is left.
fn lay(row: &[f64], left: Rect, places: &mut Vec<Rect>) -> Rect {
    let sum: f64 = row.iter().sum();
    let upright = left.width >= left.height;
    let side = if upright { left.height } else { left.width };
    let depth = if side > 0.0 { sum / side } else { 0.0 };
    let mut at = 0.0;
    for area in row {
        let length = if depth > 0.0 { area / depth } else { 0.0 };
        places.push(if upright {
            Rect { x: left.x, y: left.y + at, width: depth, height: length }
        } else {
            Rect { x: left.x + at, y: left.y, width: length, height: depth }
        });
        at += length;
    }
    if upright {
        Rect { x: left.x + depth, width: (left.width - depth).max(0.0), ..left }
    } else {
        Rect { y: left.y + depth, height: (left.height - depth).max(0.0), ..left }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn areas_are_sizes_and_nothing_lies_outside_or_above_another() {
        let whole = Rect { x: 10.0, y: 20.0, width: 600.0, height: 400.0 };
        for sizes in [vec![1], vec![6, 6, 4, 3, 2, 2, 1], vec![1_000_000, 1, 1], vec![5; 81], vec![3, 0, 0]] {
            let places = squarify(&sizes, whole);
            assert_eq!(places.len(), sizes.len());
            let sum: u64 = sizes.iter().sum();
            for (place, size) in places.iter().zip(&sizes) {
                let share = place.width * place.height / (600.0 * 400.0);
                assert!((share - *size as f64 / sum as f64).abs() < 1e-6, "{place:?} of {size}");
                assert!(place.x >= 10.0 - 1e-6 && place.x + place.width <= 610.0 + 1e-6, "{place:?}");
                assert!(place.y >= 20.0 - 1e-6 && place.y + place.height <= 420.0 + 1e-6, "{place:?}");
            }
            for (at, one) in places.iter().enumerate() {
                for other in places.iter().skip(at + 1) {
                    let wide = (one.x + one.width).min(other.x + other.width) - one.x.max(other.x);
                    let high = (one.y + one.height).min(other.y + other.height) - one.y.max(other.y);
                    assert!(wide < 1e-6 || high < 1e-6, "{one:?} {other:?}");
                }
            }
        }
    }

    #[test]
    fn a_name_that_does_not_fit_is_cut() {
        assert_eq!(fitting("short", 100.0), "short");
        assert_eq!(fitting("a_long_name_of_a_table", 40.0), "a_lon…");
    }
}
