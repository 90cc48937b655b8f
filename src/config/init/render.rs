//! What was found becomes the text of a configuration: what is particular to the data is set, the rest of the template
//! follows with every key commented out, so that it shows the defaults without freezing them.

use indicatif::HumanCount;
use jiff::Timestamp;

use super::decision::Decision;
use super::delays::Times;
use super::number::{percent, quoted};
use super::profile::Found;
use super::sample::{Clicks, Impressions};
use crate::config::fields::{FIELDS_MAX, kind_name};
use crate::config::template;
use deepfm_core::feature::field::FieldKind;

/// The share of the sampled impressions that were clicked.
pub(super) fn click_rate(impressions: &Impressions, clicks: Option<&Clicks>) -> f64 {
    clicks.map_or(0, |clicks| clicks.delays.len()) as f64 / impressions.tally.usable as f64
}

/// What was read of the two files, and what of it is odd.
pub(super) fn facts(files: [&str; 2], impressions: &Impressions, clicks: Option<&Clicks>) -> Vec<String> {
    let mut lines = vec![format!("{}: {}", files[0], impressions.tally)];
    if !impressions.fields_beyond.is_empty() {
        lines.push(format!(
            "  {} fields beyond the first {FIELDS_MAX} were not looked at: a model can have no more",
            HumanCount(impressions.fields_beyond.len() as u64)
        ));
    }
    match clicks {
        Some(clicks) => {
            let delays = &clicks.delays;
            lines.push(format!("{}: {}", files[1], clicks.tally));
            let odd = [
                (delays.unmatched, "name no impression of the sample"),
                (delays.repeated, "name one that was clicked before"),
                (delays.before, "come more than a minute before their impression, and are no clicks on it"),
            ];
            let odd = odd.iter().filter(|(count, _)| *count > 0);
            lines.extend(odd.map(|(count, what)| format!("  {} {what}", HumanCount(*count))));
            lines.extend(delays.ahead().map(|(count, _, ms)| {
                let (count, ms) = (HumanCount(count), HumanCount(ms as u64));
                format!("  {count} are stamped before their impression, by up to {ms} ms: another clock; they are clicks on it")
            }));
        }
        None => lines.push("no file of clicks".to_owned()),
    }
    let date = |ms| Timestamp::from_millisecond(ms).map_or_else(|_| ms.to_string(), |time| time.to_string());
    if let Some((first, last)) = Times::new(&impressions.shown).span() {
        lines.push(format!("from {} to {}", date(first), date(last)));
    }
    lines.push(format!("{} of the impressions were clicked", percent(click_rate(impressions, clicks))));
    lines
}

/// The whole text.
pub(super) fn render(facts: &[String], fields: &[Found], impressions: u64, decisions: &[Decision]) -> String {
    let mut text = String::new();
    comment(&mut text, "Made by `deepfm config init` from sample events:");
    for fact in facts {
        comment(&mut text, &format!("  {fact}"));
    }
    for line in [
        "",
        "Lines that begin with `#name =` show defaults: remove the # to set one. `deepfm config check` looks for",
        "errors, `deepfm config show` prints what is in effect. Try it on the same events with `deepfm backtest`.",
        "",
        "The fields, in the order in which the MLP sees them. `kind` is \"categorical\" (one value), \"multi\" (a list,",
        "or an object of weights) or \"numeric\" (a quantity, in logarithmic buckets or between `edges`).",
        "`share` is the share of the sampled impressions that have it: a worker warns when it falls below half of it.",
    ] {
        comment(&mut text, line);
    }
    for found in fields {
        text.push('\n');
        field(&mut text, found, impressions);
    }
    text.push('\n');
    text.push_str(&defaults(decisions));
    text
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
fn field(text: &mut String, found: &Found, impressions: u64) {
    let mut entry = vec!["[[fields]]".to_owned(), format!("name = {}", quoted(&found.name))];
    if let Some(kind) = &found.kind {
        entry.push(format!("kind = \"{}\"", kind_name(kind)));
    }
    if let Some(FieldKind::Numeric { edges: Some(edges) }) = &found.kind {
        entry.push(format!("edges = {edges:?}"));
    }
    // Of a field that rounds to none there is nothing to expect.
    let share = found.share(impressions);
    if share > 0.0 {
        entry.push(format!("share = {share}"));
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

/// Every section after the fields, every key commented out but for what was decided.
fn defaults(decisions: &[Decision]) -> String {
    template::sections(|setting| {
        let Some(decision) = decisions.iter().find(|decision| decision.key == setting.path) else {
            return setting.line(true);
        };
        let mut text = String::new();
        for line in &decision.reasons {
            comment(&mut text, line);
        }
        let mark = if decision.is_set { "" } else { "#" };
        text + &[mark, setting.name, " = ", &decision.value, "\n"].concat()
    })
}
