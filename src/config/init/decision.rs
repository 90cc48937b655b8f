//! Keys that follow from the sample and the machine, each with its reasons: the file has them where the key stands, the
//! terminal in one list.

use indicatif::{HumanBytes, HumanCount};
use serde::Serialize;

use super::delays::{AHEAD_MAX_MS, Delays, Times, Window};
use super::number::duration;
use super::sample::{Clicks, Impressions};
use super::times::{Order, Unit, names};
use super::weights::Weights;
use crate::config::embedding_alpha;
use crate::config::join::JoinSection;
use crate::config::model::Model;
use crate::config::operation::Versions;
use deepfm_core::event::EventKind;
use deepfm_core::event::options::TimeUnit;

/// The share of the machine's memory that a full table may take: it is there twice for a moment at a restart, and the
/// join, the queues and the page cache want the rest.
const TABLE_SHARE: u64 = 4;

/// Bytes of a row beside its embedding, index included, and for each dimension of it.
const ROW_BYTES: u64 = 46;
const DIMENSION_BYTES: u64 = 8;

/// Ids that nobody has seen for so long are forgotten: half a year.
const EXPIRY_SECONDS: u64 = 180 * 86_400;

/// Lengths by which clicks may come before their impressions, in milliseconds.
const FRIENDLY_MS: [i64; 7] = [1000, 2000, 5000, 10_000, 20_000, 30_000, AHEAD_MAX_MS];

/// A key of the configuration that follows from the sample or the machine.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Decision {
    /// The key with its section.
    pub key: &'static str,
    /// Its value, as TOML.
    pub value: String,
    /// Whether the file sets it; if not, the value is what follows without it, and is shown in a comment.
    pub is_set: bool,
    /// Why, in lines of a comment.
    pub reasons: Vec<String>,
}

impl Decision {
    fn set(key: &'static str, value: &dyn ToString, reasons: Vec<String>) -> Self {
        Self { key, value: value.to_string(), is_set: true, reasons }
    }

    fn shown(key: &'static str, value: &dyn ToString, reasons: Vec<String>) -> Self {
        Self { key, value: value.to_string(), is_set: false, reasons }
    }
}

/// The size of the table and the age of its rows, for a machine of so much memory.
pub(super) fn table(memory_bytes: Option<u64>) -> Vec<Decision> {
    let dim = Model::default().embedding_dim as u64;
    let row = ROW_BYTES + DIMENSION_BYTES * dim;
    let size = memory_bytes.map(|memory| {
        let rows = two_digits(memory / TABLE_SHARE / row).clamp(10_000, 1 << 31);
        let reasons = vec![
            format!(
                "A quarter of this machine's {} of memory, at {row} bytes for a row of dimension {dim}.",
                HumanBytes(memory)
            ),
            "For another machine, or another dimension, it is another number.".to_owned(),
        ];
        Decision::set("model.rows_max", &rows, reasons)
    });
    let reason =
        "Half a year: ids that nobody saw for as long leave their rows to others. Shorter where ids come and go.";
    let age = Decision::set("model.expire_after_seconds", &EXPIRY_SECONDS, vec![reason.to_owned()]);
    size.into_iter().chain([age]).collect()
}

/// The rate of embeddings for impressions of so many feature entries.
pub(super) fn embedding_rate(entries: f64) -> Decision {
    let reason = format!("1.5 / {entries:.1}, the feature entries of an impression here, between 0.03 and 0.25.");
    Decision::set("optimizer.embedding.alpha", &embedding_alpha(entries), vec![reason])
}

/// The unit of a file's times, where it is not milliseconds.
pub(super) fn time_unit(kind: EventKind, unit: &Unit) -> Option<Decision> {
    let (unit, example) = unit.choose();
    let example = example.filter(|_| unit != TimeUnit::Ms)?;
    let key = match kind {
        EventKind::Impression => "events.mapping.impression.time_unit",
        EventKind::Click => "events.mapping.click.time_unit",
    };
    let (name, words) = names(unit);
    Some(Decision::set(
        key,
        &format!("\"{name}\""),
        vec![format!("The times of the sample are {words}, such as {example}.")],
    ))
}

/// Where the weight is, as long as it makes a difference: nowhere, if most of what is there is none.
pub(super) fn weight(weights: &Weights) -> Option<Decision> {
    const KEY: &str = "events.mapping.impression.weight";
    // A place that is not in any event.
    const NOWHERE: &str = "\"/no_weight\"";
    let (fit, others) = (HumanCount(weights.fit), HumanCount(weights.others));
    if let Some(example) = weights.example.as_ref().filter(|_| weights.others > weights.fit) {
        let reasons = vec![
            format!("At \"weight\" {others} impressions have what is no weight of an example, such as {example},"),
            format!("and {fit} a number that could be one. The first would be refused: so this names a place that no"),
            "event has, and each example counts once. If it is a feature, it belongs into the features.".to_owned(),
        ];
        return Some(Decision::set(KEY, &NOWHERE, reasons));
    }
    let (least, most) = weights.range.filter(|range| *range != (1.0, 1.0) || weights.others > 0)?;
    let range = if least < most { format!("{least:?} to {most:?}") } else { format!("{least:?}") };
    let mut reasons = vec![
        format!("At \"weight\" {fit} impressions have a number, {range}, which multiplies the example's gradient."),
        format!("Where it is no weight of the example, name a place that no event has, such as {NOWHERE}."),
    ];
    if let Some(example) = &weights.example {
        reasons.push(format!("{others} have something else there, such as {example}, and are refused."));
    }
    Some(Decision::shown(KEY, &"\"/weight\"", reasons))
}

/// What the join is told about the order of events, the delays of clicks and the density of impressions.
pub(super) fn join(
    files: [&str; 2],
    impressions: &Impressions,
    clicks: Option<&Clicks>,
    window: Option<&Window>,
) -> Vec<Decision> {
    let default = JoinSection::default();
    let times = Times::new(&impressions.shown);
    let mut decisions = Vec::new();
    let orders = [Some(&impressions.order), clicks.map(|clicks| &clicks.order)];
    decisions.extend(lateness(files, orders));
    decisions.extend(clicks.and_then(|clicks| click_before(&clicks.delays)));
    let Some(window) = window else {
        let reason = no_window(clicks).to_owned();
        decisions.push(Decision::set(
            "join.attribution_window_seconds",
            &default.attribution_window_seconds,
            vec![reason],
        ));
        return decisions;
    };
    decisions.push(Decision::set("join.attribution_window_seconds", &window.seconds, window.comment()));
    // A click waits for its impression for the window and the retention.
    let ahead_seconds = clicks.and_then(|clicks| click_before_ms(&clicks.delays)).map_or(0, |ms| ms as u64 / 1000 + 1);
    let retention =
        window.retention_seconds.unwrap_or(window.seconds).max(ahead_seconds.saturating_sub(window.seconds));
    let decide = if retention == window.seconds { Decision::shown } else { Decision::set };
    decisions.push(decide("join.retention_seconds", &retention, window.retention_comment()));
    let silence = Versions::click_silence_of(window.seconds);
    let reason = "Ten windows, and no less than a minute.".to_owned();
    decisions.push(Decision::shown("versions.click_silence_max_seconds", &silence, vec![reason]));
    let held = window.seconds + retention;
    decisions.extend(bound("join.open_impressions_max", &times, window.seconds, default.open_impressions_max));
    decisions.extend(bound("join.remembered_max", &times, held, default.remembered_max));
    decisions
}

/// Why there is no click to choose a window by.
fn no_window(clicks: Option<&Clicks>) -> &'static str {
    if clicks.is_some_and(|clicks| clicks.delays.before > 0) {
        return "Clicks of the sample name its impressions, but all come more than a minute before them: are the times of both \
                right? This is the default.";
    }
    "No click of the sample names one of its impressions: this is the default."
}

/// How late lines come, where any does.
fn lateness(files: [&str; 2], orders: [Option<&Order>; 2]) -> Option<Decision> {
    let seen: Vec<(&str, &Order)> =
        files.into_iter().zip(orders).filter_map(|(file, order)| Some((file, order?))).collect();
    let mut reasons: Vec<String> = seen.iter().filter_map(|(file, order)| order.describe(file)).collect();
    let last = reasons.last_mut()?;
    last.push('.');
    for reason in reasons.iter_mut().rev().skip(1) {
        reason.push(',');
    }
    let needed: Option<Vec<u64>> = seen.iter().map(|(_, order)| order.lateness_seconds()).collect();
    let key = "join.lateness_seconds";
    let Some(seconds) = needed.map(|needed| needed.into_iter().max().unwrap_or_default()) else {
        reasons.push(
            "That is a file that was not sorted, rather than events that come late: most of its impressions would be"
                .to_owned(),
        );
        reasons.push("dropped as too late. `deepfm backtest --sort` sorts it first; what is sent to topics has to be sorted too.".to_owned());
        return Some(Decision::shown(key, &0, reasons));
    };
    if seconds == 0 {
        reasons
            .push("That is fewer than one line in a thousand, which is not worth a delay of every label.".to_owned());
        return Some(Decision::shown(key, &0, reasons));
    }
    let seconds = super::delays::friendly(seconds as i64 * 1000);
    reasons.push(format!(
        "{} is enough for all but one line in a thousand; every label waits as much longer.",
        duration(seconds as i64 * 1000)
    ));
    Some(Decision::set(key, &seconds, reasons))
}

/// The friendly number that takes 99 % of the clicks that come before their impression.
fn click_before_ms(delays: &Delays) -> Option<i64> {
    let (_, most, _) = delays.ahead()?;
    Some(FRIENDLY_MS.into_iter().find(|ms| *ms >= most).unwrap_or(AHEAD_MAX_MS))
}

/// By how much clicks come before their impressions, where any does.
fn click_before(delays: &Delays) -> Option<Decision> {
    let (count, most, furthest) = delays.ahead()?;
    let reasons = vec![
        format!(
            "{} clicks are stamped before their impression, by another clock: 99 % of these by at most",
            HumanCount(count)
        ),
        format!("{} ms, the furthest by {} ms.", HumanCount(most as u64), HumanCount(furthest as u64)),
    ];
    let key = "join.click_before_ms";
    let value = click_before_ms(delays)?;
    let default = JoinSection::default().click_before_ms as i64;
    let decide = if value > default { Decision::set } else { Decision::shown };
    Some(decide(key, &value, reasons))
}

/// A bound of the join, where the sample comes near the default.
fn bound(key: &'static str, times: &Times, seconds: u64, default: usize) -> Option<Decision> {
    let peak = times.peak(seconds) as u64;
    let reason = format!("The sample has {} within {seconds} s; this is four times that.", HumanCount(peak));
    (peak * 2 > default as u64).then(|| Decision::set(key, &(peak * 4), vec![reason]))
}

/// The largest number of two digits and zeros that is not above.
fn two_digits(number: u64) -> u64 {
    let unit = 10_u64.pow(number.checked_ilog10().unwrap_or_default().saturating_sub(1));
    number / unit * unit
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn rows_take_a_quarter_of_the_memory() {
        let rows = |memory: u64| table(Some(memory))[0].value.clone();
        assert_eq!([rows(24 << 30), rows(1 << 30), rows(1 << 20)], ["51000000", "2100000", "10000"]);
        assert_eq!(table(None).len(), 1);
        assert_eq!([two_digits(0), two_digits(7), two_digits(99), two_digits(12_999)], [0, 7, 99, 12_000]);
    }

    fn decided(weights: &[Value]) -> Option<(bool, String)> {
        let mut all = Weights::default();
        for weight in weights {
            all.add(weight);
        }
        weight(&all).map(|decision| (decision.is_set, decision.value + ": " + &decision.reasons.join(" ")))
    }

    #[test]
    fn what_is_no_weight_is_not_read_as_one_and_what_is_one_is_said() {
        assert_eq!(decided(&[]), None);
        assert_eq!(decided(&[json!(1), Value::Null, json!(1.0)]), None, "it makes no difference");
        let (is_set, said) = decided(&[json!("12 kg"), json!(-1), json!(2)]).expect("most are none");
        assert!(is_set && said.starts_with("\"/no_weight\": At \"weight\" 2 impressions have"), "{said}");
        assert!(said.contains("such as \"12 kg\", and 1 a number"), "{said}");
        let (is_set, said) = decided(&[json!(0.5), json!(1e-300), json!(1e30)]).expect("most are weights");
        assert!(
            !is_set && said.starts_with("\"/weight\": At \"weight\" 2 impressions have a number, 1e-300 to 0.5"),
            "{said}"
        );
        assert!(said.ends_with("1 have something else there, such as 1e+30, and are refused."), "{said}");
        let (_, said) = decided(&[json!("x".repeat(1000) + "\u{7f}")]).expect("it is none");
        assert!(said.contains(&("such as \"".to_owned() + &"x".repeat(39) + "…, and 0")), "{said}");
    }
}
