//! The chart of `./dev bench growth`: a reader can tell what was measured at what, on light ground and on dark.

#[path = "../bench/chart.rs"]
mod chart;

use chart::{Panel, SIZE, short, svg};

fn panel(label: &str, points: &[(&str, f64)]) -> Panel {
    Panel { label: label.to_owned(), points: points.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect() }
}

/// What stands between the tags of a text, and that each tag is closed by its own.
fn texts(svg: &str) -> Vec<String> {
    let (mut open, mut texts) = (Vec::new(), Vec::new());
    for piece in svg.split('<').skip(1) {
        let (tag, text) = piece.split_once('>').expect("a tag ends");
        let name = tag.split_whitespace().next().expect("a tag has a name").trim_end_matches('/');
        if let Some(closed) = name.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(closed), "{piece}");
        } else if !tag.ends_with('/') {
            open.push(name.to_owned());
            texts.push(text.to_owned());
        }
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
    }
    assert!(open.is_empty(), "{open:?} are not closed");
    texts
}

/// The numbers of an attribute, wherever it stands in a tag of this name.
fn numbers(svg: &str, tag: &str, attribute: &str) -> Vec<f64> {
    let value = |piece: &str| {
        let (_, rest) = piece.split_once(&format!(" {attribute}=\""))?;
        rest.split('"').next()?.parse().ok()
    };
    svg.split(&format!("<{tag} ")).skip(1).map(|piece| value(piece).expect("it has one")).collect()
}

#[test]
fn a_chart_names_its_axes_and_shows_every_point_in_its_panel() {
    let panels = [
        panel("batch (examples)", &[("1", 24_500.0), ("256", 131_000.0)]),
        panel("fields of an example", &[("5", 400_000.0), ("20", 131_000.0), ("100", 9_900.0)]),
        panel("rows < 50 M & more", &[("10 k", 131_000.0)]),
    ];
    let chart = svg("examples/s", &panels);
    let texts = texts(&chart);
    for text in
        ["batch (examples)", "fields of an example", "rows &lt; 50 M &amp; more", "1", "256", "10 k", "131 k", "9.9 k"]
    {
        assert!(texts.iter().any(|found| found == text), "{text} is missing: {texts:?}");
    }
    // Over each panel, and of the whole.
    assert_eq!(texts.iter().filter(|text| *text == "examples/s").count(), 4);
    assert!(chart.contains("prefers-color-scheme: dark"));
    let (x, y) = (numbers(&chart, "circle", "cx"), numbers(&chart, "circle", "cy"));
    let homes = [(0, 0), (0, 0), (1, 0), (1, 0), (1, 0), (0, 1)];
    assert_eq!((x.len(), y.len()), (homes.len(), homes.len()));
    for ((x, y), (column, row)) in x.iter().zip(&y).zip(homes) {
        let (left, top) = (SIZE.0 * f64::from(column), SIZE.1 * f64::from(row));
        assert!((left..left + SIZE.0).contains(x) && (top..top + SIZE.1).contains(y), "{x} {y}");
    }
    assert!(y[0] > y[1] && x[0] < x[1] && y[2] < y[3] && y[3] < y[4], "more is higher: {y:?}");
    // One scale for all: what is as fast is as high, in its own row of panels.
    assert!((y[1] - y[3]).abs() < 1e-9 && (y[5] - y[3] - SIZE.1).abs() < 1e-9);
}

#[test]
fn a_chart_of_equal_points_has_a_scale_too() {
    let chart = svg("examples/s", &[panel("batch", &[("1", 1000.0), ("2", 1000.0)])]);
    assert!(numbers(&chart, "circle", "cy").iter().all(|y| y.is_finite()), "{chart}");
}

#[test]
fn numbers_are_written_short() {
    let texts = [0.5, 7.0, 999.0, 1000.0, 9_940.0, 131_400.0, 50e6].map(short);
    assert_eq!(texts, ["0.5", "7", "999", "1 k", "9.9 k", "131 k", "50 M"]);
}
