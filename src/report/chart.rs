//! A bar chart as inline SVG: one bar a run, from the oldest to the newest. The table of runs has the same numbers, so
//! the picture is one image with a summary to a screen reader.

use crate::report::html::text;

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 190.0;
/// Room for the numbers at the left, the moments below, a little above.
const LEFT: f64 = 74.0;
const BOTTOM: f64 = 24.0;
const TOP: f64 = 8.0;
/// Bars are no wider than that, so that three runs do not look like walls.
const WIDEST: f64 = 34.0;

/// One bar.
pub(crate) struct Bar {
    /// Its size.
    pub(crate) value: f64,
    /// When, as text: `2026-11-22`.
    pub(crate) when: String,
    /// The text that a pointer resting on it shows.
    pub(crate) label: String,
    /// True when the run is partial.
    pub(crate) partial: bool,
}

/// The chart; `write` puts a value into words, `base` is 1024 for sizes.
pub(crate) fn bars(title: &str, bars: &[Bar], base: f64, write: fn(f64) -> String) -> String {
    let (Some(first), Some(last)) = (bars.first(), bars.last()) else { return String::new() };
    let largest = bars.iter().map(|bar| bar.value).fold(0.0, f64::max);
    let top = ceiling(largest, base);
    let summary = format!(
        "{title} of {} runs, from {} on {} to {} on {}; the largest is {}",
        bars.len(),
        write(first.value),
        first.when,
        write(last.value),
        last.when,
        write(largest)
    );
    let mut svg = format!(
        "<figure class=\"chart panel\"><figcaption>{}{}</figcaption>\n<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
         aria-label=\"{}\">\n",
        text(title),
        if bars.iter().any(|bar| bar.partial) { " <span>partial runs</span>" } else { "" },
        text(summary)
    );
    let floor = HEIGHT - BOTTOM;
    for part in [0.0, 0.5, 1.0] {
        let y = floor - part * (floor - TOP);
        svg.push_str(&format!(
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n",
            LEFT - 8.0,
            y + 4.0,
            text(write(top * part))
        ));
    }
    let step = (WIDTH - LEFT) / bars.len() as f64;
    let width = (step * 0.72).min(WIDEST);
    for (at, bar) in bars.iter().enumerate() {
        // A value above nothing is never invisible.
        let height = (bar.value / top * (floor - TOP)).max(if bar.value > 0.0 { 1.5 } else { 0.0 });
        let x = LEFT + step * (at as f64 + 0.5) - width / 2.0;
        let class = if bar.partial { " class=\"partial\"" } else { "" };
        svg.push_str(&format!(
            "<rect{class} x=\"{x:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"{:.1}\"><title>{}</title></rect>\n",
            floor - height,
            (width / 6.0).min(2.5),
            text(&bar.label)
        ));
    }
    svg.push_str(&format!("<text x=\"{LEFT}\" y=\"{}\">{}</text>\n", HEIGHT - 6.0, text(&first.when)));
    if first.when != last.when {
        svg.push_str(&format!(
            "<text x=\"{WIDTH}\" y=\"{}\" text-anchor=\"end\">{}</text>\n",
            HEIGHT - 6.0,
            text(&last.when)
        ));
    }
    svg.push_str("</svg></figure>\n");
    svg
}

/// The next round number: 1, 2, 4, 6 or 8 of a unit, of ten or a hundred of it, or one of the next unit.
fn ceiling(value: f64, base: f64) -> f64 {
    let mut unit = 1.0;
    while value >= unit * base {
        unit *= base;
    }
    let steps =
        [1.0_f64, 10.0, 100.0].into_iter().flat_map(|scale| [1.0, 2.0, 4.0, 6.0, 8.0].map(|round| round * scale));
    // No step beyond the next unit: 1 GiB, not 2000 MiB.
    steps.map(|step: f64| step.min(base) * unit).find(|top| *top >= value).unwrap_or(unit * base)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_axis_ends_at_a_round_number() {
        assert_eq!(ceiling(0.0, 1024.0).to_string(), "1");
        assert_eq!(ceiling(900.0, 1024.0).to_string(), "1024");
        assert_eq!(ceiling(1_030.0, 1024.0).to_string(), "2048");
        assert_eq!(ceiling(13.5 * 1_048_576.0, 1024.0).to_string(), (20 * 1_048_576).to_string());
        assert_eq!(ceiling(59.0, 60.0).to_string(), "60");
        assert_eq!(ceiling(61.0, 60.0).to_string(), "120");
    }

    #[test]
    fn no_bars_are_no_chart() {
        assert_eq!(bars("x", &[], 1024.0, |value| value.to_string()), "");
    }
}
