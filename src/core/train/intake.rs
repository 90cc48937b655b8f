//! The intake: records of all partitions in, one ordered stream of shown and labelled impressions out. It has the sequencer,
//! the join and the books of what was read; it knows no model.

use super::breaker::{Breaker, BreakerParams};
use super::delivery::{Delivery, Item, Label, Maturity, Shown};
use super::spent::Spent;
use super::{Fate, IntakeCounters, Ledger};
use crate::event::{Event, Impression};
use crate::feature::Features;
use crate::join::{ClickIn, Emission, EmissionKind, ImpressionIn, Join, Taken};
use crate::stream::{Arrival, Partition, Refused, Released, Sequencer};

/// A record that was consumed.
#[derive(Debug)]
pub struct Consumed {
    /// Where it was read.
    pub partition: Partition,
    /// Its offset.
    pub offset: i64,
    /// Its event time, if it could be read.
    pub time: Option<i64>,
    /// The room that it took in its queue: see [`Arrival::weight`].
    pub weight: usize,
    /// What became of it.
    pub fate: Fate,
    /// Present when the record could not be read: the dead letter to send.
    pub refused: Option<Box<Refused>>,
}

/// Impressions whose room is kept: about as many as are on their way to the learner and back.
const ROOMS_MAX: usize = 2048;

/// Features whose room is kept until somebody takes it: see [`Intake::rooms`].
const FEATURES_MAX: usize = 4096;

/// Sequencer, join and ledger over one log.
#[derive(Debug)]
pub struct Intake {
    pub(super) sequencer: Sequencer<Arrival>,
    pub(super) join: Join<Box<Shown>>,
    pub(super) counters: IntakeCounters,
    pub(super) ledger: Ledger,
    pub(super) breaker: Breaker,
    pub(super) breaker_params: Option<BreakerParams>,
    emissions: Vec<Emission<Box<Shown>>>,
    /// For their room.
    features: Vec<Features>,
}

impl Intake {
    /// An intake that goes on from these.
    pub(super) fn new(
        sequencer: Sequencer<Arrival>,
        join: Join<Box<Shown>>,
        counters: IntakeCounters,
        ledger: Ledger,
        (breaker, breaker_params): (Breaker, Option<BreakerParams>),
    ) -> Self {
        Self { sequencer, join, counters, ledger, breaker, breaker_params, emissions: Vec::new(), features: Vec::new() }
    }

    /// The circuit breaker.
    pub fn breaker(&self) -> &Breaker {
        &self.breaker
    }

    /// The watermark up to which labels have matured and come out: those that wait in the breaker have not.
    fn matured_until(&self) -> Option<i64> {
        let watermark = self.join.watermark()?;
        let waiting = self.breaker.oldest_held().map(|time| self.join.matures_after(time));
        Some(waiting.map_or(watermark, |end| watermark.min(end)))
    }

    /// Impressions are not needed any more: those that come have their room.
    pub fn take_back(&mut self, spent: &mut Spent) {
        let rooms = self.join.rooms();
        rooms.extend(spent.fetch(ROOMS_MAX.saturating_sub(rooms.len())));
    }

    /// Features that nobody needs any more, for as many that are decoded: each that was taken in left some behind.
    pub fn rooms(&mut self) -> &mut Vec<Features> {
        &mut self.features
    }

    /// The sequencer: queues, standings and the journal.
    pub fn sequencer(&self) -> &Sequencer<Arrival> {
        &self.sequencer
    }

    /// The join.
    pub fn join(&self) -> &Join<Box<Shown>> {
        &self.join
    }

    /// What was read.
    pub fn counters(&self) -> &IntakeCounters {
        &self.counters
    }

    /// What became of every record.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Consumes the next record of the merged order; what it brings about is in `delivery` then. Nothing while a live
    /// partition's queue is empty.
    pub fn step(&mut self, delivery: &mut Delivery) -> Option<Consumed> {
        let Released { partition, offset, body: arrival } = self.sequencer.pop()?;
        let (time, weight) = (arrival.event_time(), arrival.weight());
        let Arrival { hash, body, .. } = arrival;
        self.begin(delivery);
        let (fate, refused) = match body {
            Ok(decoded) => {
                self.counters.unknown_keys += u64::from(decoded.unknown_keys);
                self.counters.unknown_fields += u64::from(decoded.unknown_fields);
                (self.consume(partition, offset, decoded.event, &mut delivery.items), None)
            }
            Err(refused) => {
                self.refuse(&refused);
                (Fate::Refused, Some(refused))
            }
        };
        self.ledger.enter(partition, fate, hash);
        delivery.maturity = Maturity::Watermark(self.matured_until());
        Some(Consumed { partition, offset, time, weight, fate, refused })
    }

    /// The same, but an impression has at once the label that `clicked` knows of it, and there is no join: the order and the
    /// labels of `backtest --labels immediate`. Clicks and refused records are passed over. Says whether there was a record.
    pub fn step_labelled(&mut self, clicked: &dyn Fn(&str) -> bool, delivery: &mut Delivery) -> bool {
        let Some(Released { partition, offset, body: Arrival { body, .. } }) = self.sequencer.pop() else {
            return false;
        };
        self.begin(delivery);
        delivery.maturity = Maturity::Known;
        match body {
            Ok(decoded) => {
                if let Event::Impression(impression) = decoded.event {
                    let Impression { impression_id, event_time: time, weight, features, .. } = impression;
                    let shown = self.numbered(partition, offset, weight, features);
                    let kind = if clicked(&impression_id) { EmissionKind::Positive } else { EmissionKind::Negative };
                    let (id, shown_too) = (impression_id.clone(), self.join.copied(&shown));
                    let label = Label { kind, impression_id: id, impression_time: time, shown: shown_too };
                    delivery.items.extend([Item::Shown { impression_id, time, shown }, Item::Label(label)]);
                }
            }
            Err(refused) => self.refuse(&refused),
        }
        true
    }

    fn begin(&mut self, delivery: &mut Delivery) {
        self.counters.records += 1;
        delivery.items.clear();
        delivery.log_time = self.sequencer.largest_released();
    }

    fn refuse(&mut self, refused: &Refused) {
        *self.counters.refused.entry(refused.refusal.reason).or_default() += 1;
    }

    /// Gives an impression its number.
    #[expect(clippy::unnecessary_box_returns, reason = "it lies in the room of another")]
    fn numbered(&mut self, partition: Partition, offset: i64, weight: f32, features: Features) -> Box<Shown> {
        let number = self.counters.impressions;
        self.counters.impressions += 1;
        let (shown, before) = Shown { number, partition, offset, weight, features }.placed(self.join.rooms().pop());
        if before.is_worth_keeping() && self.features.len() < FEATURES_MAX {
            self.features.push(before);
        }
        shown
    }

    fn consume(&mut self, partition: Partition, offset: i64, event: Event, items: &mut Vec<Item>) -> Fate {
        let taken = match event {
            Event::Impression(Impression { impression_id, event_id, event_time: time, weight, features }) => {
                self.counters.first_impression_time.get_or_insert(time);
                let shown = self.numbered(partition, offset, weight, features);
                let (id, payload) = (impression_id.clone(), &shown);
                let arrived = ImpressionIn { partition, offset, impression_id: id, event_id, time, payload };
                let taken = self.join.impression(arrived, &mut self.emissions);
                if taken == Taken::In {
                    items.push(Item::Shown { impression_id, time, shown });
                } else {
                    self.join.rooms().push(shown);
                }
                taken
            }
            Event::Click(click) => {
                self.counters.clicks += 1;
                let arrived = ClickIn {
                    partition,
                    offset,
                    impression_id: click.impression_id,
                    event_id: click.event_id,
                    time: click.event_time,
                };
                self.join.click(arrived, &mut self.emissions)
            }
        };
        for emission in self.emissions.drain(..) {
            self.breaker.take(self.breaker_params.as_ref(), emission.into(), items);
        }
        match taken {
            Taken::In => Fate::Joined,
            Taken::TooLate => Fate::TooLate,
            Taken::Duplicate => Fate::Duplicate,
            Taken::Conflicting => Fate::Conflicting,
        }
    }

    /// Whether labels have begun to mature: the watermark has passed the first impression and its window. Before that
    /// only clicked impressions have labels, and a model of them must not be served.
    pub(super) fn has_matured(&self, window_ms: i64) -> bool {
        match (self.counters.first_impression_time, self.join.watermark()) {
            (Some(first), Some(watermark)) => watermark > first.saturating_add(window_ms),
            _ => false,
        }
    }
}
