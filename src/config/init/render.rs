//! What was found becomes the text of a configuration: what is particular to the data is set, the rest of the template
//! follows with every key commented out, so that it shows the defaults without freezing them.

use jiff::Timestamp;

use super::TEMPLATE;
use super::delays::{Times, Window};
use super::number::{grouped, percent, quoted};
use super::profile::Found;
use super::sample::{Clicks, Tally};
use crate::config::fields::kind_name;
use crate::config::join::Join;
use crate::feature::field::FieldKind;

/// Everything that the text is made from.
pub(super) struct View<'a> {
    pub(super) file: &'a str,
    pub(super) click_file: Option<String>,
    pub(super) impressions: &'a Tally,
    pub(super) clicks: Option<&'a Clicks>,
    pub(super) found: &'a [Found],
    pub(super) window: Option<&'a Window>,
    pub(super) times: Times,
}

/// A key of `[join]` that follows from the data.
struct Setting {
    key: &'static str,
    value: Value,
    comment: Vec<String>,
}

/// What becomes of it.
enum Value {
    /// It is set.
    Set(u64),
    /// It is shown, commented out: the value that follows from another that is set.
    Shown(u64),
}

impl View<'_> {
    /// The share of the sampled impressions that were clicked.
    pub(super) fn click_rate(&self) -> f64 {
        self.clicks.map_or(0, |clicks| clicks.delays.len()) as f64 / self.impressions.usable as f64
    }

    /// The whole text.
    pub(super) fn render(&self) -> String {
        let mut text = String::new();
        for line in self.header() {
            comment(&mut text, &line);
        }
        for found in self.found {
            text.push('\n');
            field(&mut text, found);
        }
        text.push('\n');
        text.push_str(&defaults(&self.settings()));
        text
    }

    fn header(&self) -> Vec<String> {
        let mut lines = vec![
            "Made by `deepfm config init` from sample events:".to_owned(),
            format!("  {}: {}", self.file, self.impressions),
        ];
        match (&self.click_file, self.clicks) {
            (Some(file), Some(clicks)) => {
                let delays = &clicks.delays;
                lines.push(format!("  {file}: {}", clicks.tally));
                let odd = [
                    (delays.unmatched, "name no impression of the sample"),
                    (delays.repeated, "name one that was clicked before"),
                    (delays.before, "come before their impression"),
                ];
                let odd = odd.iter().filter(|(count, _)| *count > 0);
                lines.extend(odd.map(|(count, what)| format!("    {} {what}", grouped(*count))));
            }
            _ => lines.push("  no file of clicks".to_owned()),
        }
        let date = |ms| Timestamp::from_millisecond(ms).map_or_else(|_| ms.to_string(), |time| time.to_string());
        if let Some((first, last)) = self.times.span() {
            lines.push(format!("  from {} to {}", date(first), date(last)));
        }
        lines.push(format!("  {} of the impressions were clicked", percent(self.click_rate())));
        lines.push(String::new());
        lines.extend(
            [
                "Lines that begin with `#name =` show defaults: remove the # to set one. `deepfm config check` looks for",
                "errors, `deepfm config show` prints what is in effect. Try it on the same events with `deepfm backtest`.",
                "",
                "The fields, in the order in which the MLP sees them. `kind` is \"categorical\" (one value), \"multi\" (a list,",
                "or an object of weights) or \"numeric\" (a quantity, in logarithmic buckets or between `edges`).",
            ]
            .map(str::to_owned),
        );
        lines
    }

    /// The keys that follow from the data.
    fn settings(&self) -> Vec<Setting> {
        let default = Join::default();
        let Some(window) = self.window else {
            return vec![Setting {
                key: "attribution_window_seconds",
                value: Value::Set(default.attribution_window_seconds),
                comment: vec!["No click of the sample names one of its impressions: this is the default.".to_owned()],
            }];
        };
        let mut settings = vec![Setting {
            key: "attribution_window_seconds",
            value: Value::Set(window.seconds),
            comment: window.comment(),
        }];
        settings.push(Setting {
            key: "retention_seconds",
            value: window.retention_seconds.map_or(Value::Shown(window.seconds), Value::Set),
            comment: window.retention_comment(),
        });
        let held = window.seconds + window.retention_seconds.unwrap_or(window.seconds);
        settings.extend(self.bound("open_impressions_max", window.seconds, default.open_impressions_max));
        settings.extend(self.bound("remembered_max", held, default.remembered_max));
        settings
    }

    /// A bound of the join, where the sample comes near the default.
    fn bound(&self, key: &'static str, seconds: u64, default: usize) -> Option<Setting> {
        let peak = self.times.peak(seconds);
        (peak * 2 > default).then(|| Setting {
            key,
            value: Value::Set(peak as u64 * 4),
            comment: vec![format!(
                "The sample has {} within {seconds} s; this is four times that.",
                grouped(peak as u64)
            )],
        })
    }
}

fn comment(text: &mut String, line: &str) {
    text.push('#');
    if !line.is_empty() {
        text.push(' ');
        text.push_str(line);
    }
    text.push('\n');
}

/// One `[[fields]]` entry; one that is left out is commented out, with the reason.
fn field(text: &mut String, found: &Found) {
    let mut entry = vec!["[[fields]]".to_owned(), format!("name = {}", quoted(&found.name))];
    if let Some(kind) = &found.kind {
        entry.push(format!("kind = \"{}\"", kind_name(kind)));
    }
    if let Some(FieldKind::Numeric { edges: Some(edges) }) = &found.kind {
        entry.push(format!("edges = {edges:?}"));
    }
    for line in &found.comment {
        comment(text, line);
    }
    let mark = if found.left_out.is_some() { "#" } else { "" };
    if let Some(reason) = &found.left_out {
        comment(text, &format!("Left out: {reason}."));
    }
    for line in entry {
        text.push_str(mark);
        text.push_str(&line);
        text.push('\n');
    }
}

/// The template from its first section after the fields, every key commented out but for the settings.
fn defaults(settings: &[Setting]) -> String {
    let start = TEMPLATE.find("\n[model]\n").expect("the template has a [model]") + 1;
    let mut section = "";
    let mut text = String::new();
    for line in TEMPLATE[start..].lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']');
        }
        let key = line.trim_start_matches('#').split_once(" = ").map_or("", |(key, _)| key);
        let is_setting = !key.is_empty() && !key.contains(' ');
        match settings.iter().find(|setting| section == "join" && setting.key == key) {
            Some(setting) => {
                for line in &setting.comment {
                    comment(&mut text, line);
                }
                let (mark, value) = match setting.value {
                    Value::Set(value) => ("", value),
                    Value::Shown(value) => ("#", value),
                };
                text.push_str(&[mark, key, " = ", &value.to_string()].concat());
            }
            None if is_setting => text.push_str(&["#", line.trim_start_matches('#')].concat()),
            None => text.push_str(line),
        }
        text.push('\n');
    }
    text
}
