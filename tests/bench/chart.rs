//! A chart of small panels as SVG: one line each over named points, all on one logarithmic scale. It is readable on light and on dark
//! ground, since it follows what the reader's system prefers, and has no ground of its own.

use std::fmt::Write as _;

/// One line.
pub(crate) struct Panel {
    /// What varies, with its unit.
    pub(crate) label: String,
    /// Its values as text, and what was measured at each.
    pub(crate) points: Vec<(String, f64)>,
}

/// Panels side by side.
const COLUMNS: usize = 2;

/// A panel's size in pixels, and the room around its line: left, top, right and bottom.
pub(crate) const SIZE: (f64, f64) = (400.0, 230.0);
const ROOM: [f64; 4] = [58.0, 34.0, 22.0, 44.0];

/// More points than have room for figures.
const CROWDED: usize = 8;

const STYLE: &str = "text{font:11px sans-serif;fill:#444}.title{font-size:12px;font-weight:bold}.grid{stroke:#ccc;stroke-width:1}\
                     .line{fill:none;stroke:#1d63c4;stroke-width:2}.point{fill:#1d63c4}\
                     @media (prefers-color-scheme: dark){text{fill:#c8c8c8}.grid{stroke:#444}.line{stroke:#7ab3ff}.point{fill:#7ab3ff}}";

/// The chart. `measured` is what is measured, with its unit.
///
/// # Panics
/// When there is no point, or one that is not positive.
pub(crate) fn svg(measured: &str, panels: &[Panel]) -> String {
    let scale = Scale::of(panels);
    let (width, height) = (SIZE.0 * COLUMNS as f64, SIZE.1 * panels.len().div_ceil(COLUMNS) as f64);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         role=\"img\">\n<title>{}</title>\n<style>{STYLE}</style>\n",
        escaped(measured)
    );
    for (number, panel) in panels.iter().enumerate() {
        let at = ((number % COLUMNS) as f64 * SIZE.0, (number / COLUMNS) as f64 * SIZE.1);
        draw(&mut text, panel, measured, &scale, at);
    }
    text.push_str("</svg>\n");
    text
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Powers of ten between which all points are.
struct Scale {
    least: i32,
    most: i32,
}

impl Scale {
    fn of(panels: &[Panel]) -> Self {
        let logs = || panels.iter().flat_map(|panel| &panel.points).map(|(_, value)| value.log10());
        assert!(logs().count() > 0 && logs().all(f64::is_finite), "points are positive, and there are some");
        let (least, most) = (logs().fold(f64::MAX, f64::min).floor(), logs().fold(f64::MIN, f64::max).ceil());
        Self { least: least as i32, most: (most as i32).max(least as i32 + 1) }
    }

    /// Where a value is, from 0 at the bottom to 1 at the top.
    fn place(&self, value: f64) -> f64 {
        (value.log10() - f64::from(self.least)) / f64::from(self.most - self.least)
    }

    /// The values that have a line: 1, 2 and 5 of each power.
    fn ticks(&self) -> impl Iterator<Item = f64> {
        let powers = (self.least..self.most).map(|power| 10_f64.powi(power));
        powers.flat_map(|power| [power, 2.0 * power, 5.0 * power]).chain([10_f64.powi(self.most)])
    }
}

/// A number as people write it: `200 k`.
pub(crate) fn short(value: f64) -> String {
    let (scaled, unit) = match value {
        value if value >= 1e6 => (value / 1e6, " M"),
        value if value >= 1e3 => (value / 1e3, " k"),
        value => (value, ""),
    };
    if scaled >= 10.0 { format!("{scaled:.0}{unit}") } else { format!("{}{unit}", (scaled * 10.0).round() / 10.0) }
}

fn draw(text: &mut String, panel: &Panel, measured: &str, scale: &Scale, at: (f64, f64)) {
    let mut put = |line: String| writeln!(text, "{line}").expect("a text takes it");
    let [left, top, right, bottom] = ROOM;
    let (from, to) = (at.0 + left, at.0 + SIZE.0 - right);
    let (low, high) = (at.1 + SIZE.1 - bottom, at.1 + top);
    put(format!("<text class=\"title\" x=\"{from}\" y=\"{}\">{}</text>", at.1 + 16.0, escaped(measured)));
    for tick in scale.ticks() {
        let y = low - scale.place(tick) * (low - high);
        put(format!("<line class=\"grid\" x1=\"{from}\" y1=\"{y:.1}\" x2=\"{to}\" y2=\"{y:.1}\"/>"));
        put(format!("<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>", from - 6.0, y + 4.0, short(tick)));
    }
    let middle = f64::midpoint(from, to);
    put(format!(
        "<text class=\"title\" x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
        low + 36.0,
        escaped(&panel.label)
    ));
    let step = (to - from) / panel.points.len().max(1) as f64;
    let x = |number: usize| from + step * (number as f64 + 0.5);
    let y = |value: f64| low - scale.place(value) * (low - high);
    let places =
        panel.points.iter().enumerate().map(|(number, (_, value))| format!("{:.1},{:.1}", x(number), y(*value)));
    put(format!("<polyline class=\"line\" points=\"{}\"/>", places.collect::<Vec<_>>().join(" ")));
    for (number, (name, value)) in panel.points.iter().enumerate() {
        let (x, y) = (x(number), y(*value));
        put(format!("<circle class=\"point\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"/>"));
        // Of many points every other is told in figures: there is no room for more.
        if panel.points.len() <= CROWDED || number % 2 == 0 {
            put(format!("<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>", y - 7.0, short(*value)));
        }
        put(format!("<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>", low + 17.0, escaped(name)));
    }
}
