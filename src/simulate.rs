//! Click traffic with a known truth: impressions whose click probability is a linear part, pair interactions and a small
//! nonlinear piece over Zipf-distributed ids, with delayed clicks, new items and slow drift. Since the truth is known, so
//! is the loss of the best possible prediction (the Bayes log loss), and a learner's regret.
//!
//! A stream is a function of its parameters, bit for bit: all randomness is the core's keyed hash.

mod truth;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt::Write;

use deepfm_core::event::EventKind;
use deepfm_core::feature::field::{Field, FieldKind, Weights};
use deepfm_core::feature::hash;
use deepfm_core::metric::log_loss;
use truth::{Shown, Truth};

/// What is simulated.
#[derive(Clone, Debug, PartialEq)]
pub struct SimulationParams {
    /// Seed of everything.
    pub seed: u64,
    /// Mean impressions a second.
    pub rate: f64,
    /// How fast tastes turn: 1 is a quarter turn in an hour; 0 is never.
    pub drift: f64,
    /// Event time of the beginning, in milliseconds since 1970.
    pub start_ms: i64,
    /// Median delay of a click, in milliseconds.
    pub click_delay_median_ms: f64,
    /// Share of clicks that come much later: uniformly up to 60 medians after the usual delay.
    pub late_share: f64,
    /// Mean life of an item, in seconds; then a new one takes its place.
    pub item_life_seconds: f64,
}

impl Default for SimulationParams {
    fn default() -> Self {
        Self {
            seed: 1,
            rate: 1000.0,
            drift: 0.0,
            start_ms: 1_700_000_000_000,
            click_delay_median_ms: 500.0,
            late_share: 0.01,
            item_life_seconds: 600.0,
        }
    }
}

/// The fields that simulated impressions have.
pub fn fields() -> Vec<Field> {
    let field = |name: &str, kind| Field { name: name.to_owned(), kind };
    vec![
        field("user", FieldKind::Categorical),
        field("item", FieldKind::Categorical),
        field("category", FieldKind::Categorical),
        field("device", FieldKind::Categorical),
        field("tags", FieldKind::Multi { weights: Weights::default() }),
        field("price", FieldKind::Numeric { edges: None }),
    ]
}

/// One event of the stream.
#[derive(Clone, Debug, PartialEq)]
pub struct SimulatedEvent {
    /// What happened.
    pub kind: EventKind,
    /// The impression.
    pub impression_id: String,
    /// When, in milliseconds since 1970.
    pub event_time: i64,
    /// The event's JSON.
    pub json: String,
    /// The true click probability, of impressions.
    pub probability: Option<f64>,
    /// When it will be clicked, of impressions that will be.
    pub clicked_at: Option<i64>,
}

/// The sums of the truth over the impressions so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BayesTally {
    /// Impressions.
    pub impressions: u64,
    /// Clicks among them.
    pub clicks: u64,
    loss: f64,
}

impl BayesTally {
    /// Adds an impression by its true probability.
    pub fn add(&mut self, probability: f64, clicked: bool) {
        self.impressions += 1;
        self.clicks += u64::from(clicked);
        self.loss += log_loss((probability / (1.0 - probability)).ln(), clicked);
    }

    /// Mean log loss of predicting the true probabilities; `None` before the first impression.
    pub fn log_loss(&self) -> Option<f64> {
        (self.impressions > 0).then(|| self.loss / self.impressions as f64)
    }
}

/// The stream, in order of event times; ends never.
#[derive(Clone, Debug)]
pub struct Simulator {
    params: SimulationParams,
    truth: Truth,
    number: u64,
    time: f64,
    next_impression: Option<SimulatedEvent>,
    clicks: BinaryHeap<Reverse<(i64, u64, String)>>,
    tally: BayesTally,
}

impl Simulator {
    /// A stream from its beginning.
    pub fn new(params: SimulationParams) -> Self {
        Self {
            truth: Truth::new(params.seed),
            time: params.start_ms as f64,
            number: 0,
            next_impression: None,
            clicks: BinaryHeap::new(),
            tally: BayesTally::default(),
            params,
        }
    }

    /// The truth over the impressions that were given out.
    pub fn tally(&self) -> BayesTally {
        self.tally
    }

    /// The next event: the earlier of the next impression and the next click, an impression first when they tie.
    pub fn next_event(&mut self) -> SimulatedEvent {
        let impression = self.next_impression.take().unwrap_or_else(|| self.make_impression());
        if let Some(Reverse((time, ..))) = self.clicks.peek()
            && *time < impression.event_time
        {
            self.next_impression = Some(impression);
            return self.pop_click().unwrap_or_else(|| unreachable!("a click was just seen"));
        }
        if let (Some(time), Some(probability)) = (impression.clicked_at, impression.probability) {
            self.clicks.push(Reverse((time, self.number, impression.impression_id.clone())));
            self.tally.add(probability, true);
        } else if let Some(probability) = impression.probability {
            self.tally.add(probability, false);
        }
        impression
    }

    /// The next click of an impression that was given out, when no impression is wanted any more.
    pub fn pop_click(&mut self) -> Option<SimulatedEvent> {
        let Reverse((event_time, _, impression_id)) = self.clicks.pop()?;
        let json = format!("{{\"impression_id\":\"{impression_id}\",\"event_time\":{event_time}}}");
        let kind = EventKind::Click;
        Some(SimulatedEvent { kind, impression_id, event_time, json, probability: None, clicked_at: None })
    }

    fn make_impression(&mut self) -> SimulatedEvent {
        let number = self.number;
        self.number += 1;
        let unit = |lane: u64| {
            ((hash::hash(self.params.seed ^ 0x51_u64, number, lane) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
        };
        self.time += -unit(0).ln() * 1000.0 / self.params.rate;
        let event_time = self.time as i64;
        let elapsed = (self.time - self.params.start_ms as f64) / 1000.0;
        let shown = Shown::draw(&self.truth, [unit(1), unit(2), unit(3)], elapsed / self.params.item_life_seconds);
        let angle = self.params.drift * elapsed / 3600.0 * std::f64::consts::FRAC_PI_2;
        let probability = self.truth.probability(&shown, angle);
        let clicked_at = (unit(4) < probability).then(|| {
            let normal = (-2.0 * unit(5).ln()).sqrt() * (std::f64::consts::TAU * unit(6)).cos();
            let median = self.params.click_delay_median_ms;
            let late = if unit(7) < self.params.late_share { 60.0 * median * unit(8) } else { 0.0 };
            event_time + (median * (0.7 * normal).exp() + late).ceil().max(1.0) as i64
        });
        let impression_id = format!("s{}-{number}", self.params.seed);
        let json = impression_json(&impression_id, event_time, &shown);
        let (kind, probability) = (EventKind::Impression, Some(probability));
        SimulatedEvent { kind, impression_id, event_time, json, probability, clicked_at }
    }
}

fn impression_json(id: &str, time: i64, shown: &Shown) -> String {
    let Shown { user, item, generation, category, device, tags, price } = shown;
    let mut json = format!(
        "{{\"impression_id\":\"{id}\",\"event_time\":{time},\"features\":{{\"user\":\"u{user}\",\
         \"item\":\"i{item}.{generation}\",\"category\":\"c{category}\",\"device\":\"d{device}\",\"tags\":["
    );
    for (at, tag) in tags.iter().enumerate() {
        let comma = if at > 0 { "," } else { "" };
        write!(json, "{comma}\"t{tag}\"").expect("writing to a string cannot fail");
    }
    write!(json, "],\"price\":{price}}}}}").expect("writing to a string cannot fail");
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(params: SimulationParams, events: usize) -> (Vec<SimulatedEvent>, BayesTally) {
        let mut simulator = Simulator::new(params);
        let events = (0..events).map(|_| simulator.next_event()).collect();
        (events, simulator.tally())
    }

    #[test]
    fn a_stream_is_a_function_of_its_parameters() {
        let (one, _) = stream(SimulationParams::default(), 5000);
        assert_eq!(stream(SimulationParams::default(), 5000).0, one);
        assert_ne!(stream(SimulationParams { seed: 2, ..SimulationParams::default() }, 5000).0, one);
    }

    #[test]
    fn events_come_in_the_order_of_their_times_and_clicks_after_their_impressions() {
        let (events, _) = stream(SimulationParams::default(), 20_000);
        assert!(events.windows(2).all(|pair| pair[0].event_time <= pair[1].event_time));
        let shown: std::collections::BTreeMap<&str, &SimulatedEvent> = events
            .iter()
            .filter(|event| event.kind == EventKind::Impression)
            .map(|event| (event.impression_id.as_str(), event))
            .collect();
        let clicks: Vec<_> = events.iter().filter(|event| event.kind == EventKind::Click).collect();
        assert!(clicks.len() > 500, "{} clicks", clicks.len());
        for click in clicks {
            assert_eq!(shown[click.impression_id.as_str()].clicked_at, Some(click.event_time));
        }
    }

    #[test]
    fn clicks_follow_the_true_probabilities_and_knowing_them_helps() {
        let (events, tally) = stream(SimulationParams::default(), 200_000);
        let mean: f64 = events.iter().filter_map(|event| event.probability).sum::<f64>() / tally.impressions as f64;
        let rate = tally.clicks as f64 / tally.impressions as f64;
        let deviation = (mean * (1.0 - mean) / tally.impressions as f64).sqrt();
        assert!((rate - mean).abs() < 5.0 * deviation, "rate {rate}, mean probability {mean}");
        assert!((0.05..0.25).contains(&rate), "click rate {rate}");
        let base = -(rate * rate.ln() + (1.0 - rate) * (1.0 - rate).ln());
        let bayes = tally.log_loss().expect("there are impressions");
        assert!((0.65..0.92).contains(&(bayes / base)), "normalized entropy of the truth {}", bayes / base);
    }

    #[test]
    fn tastes_turn_only_with_drift_and_new_items_appear() {
        let truth = Truth::new(1);
        let shown = Shown::draw(&truth, [0.3, 0.4, 0.5], 0.0);
        assert_eq!(truth.probability(&shown, 0.0), truth.probability(&shown, 0.0));
        assert!((truth.probability(&shown, 0.0) - truth.probability(&shown, 1.0)).abs() > 1e-6);
        let item = |event: &SimulatedEvent| event.json.split("\"item\":\"").nth(1).map(|rest| rest[..4].to_owned());
        let params = SimulationParams { item_life_seconds: 5.0, ..SimulationParams::default() };
        let (events, _) = stream(params, 60_000);
        let early: std::collections::BTreeSet<_> = events[..5000].iter().filter_map(item).collect();
        assert!(events[50_000..].iter().filter_map(item).any(|item| !early.contains(&item)));
    }
}
