//! Which fields impressions really have. A producer that renames `user` to `usr` breaks nothing: the model goes on without
//! its best field. So the share of impressions that have each field is counted, window by window, and a field that is much
//! rarer than it was is named.
//!
//! Counted where records are decoded, beside the state: it is for people, and decides nothing.

use std::collections::BTreeMap;

use super::status::{FieldShare, StatusBoard};
use deepfm_core::event::Event;
use deepfm_core::feature::field::FieldSet;

/// A field is missing when its share of a window is below this part of what is expected.
const MISSING_BELOW: f64 = 0.5;

/// Fields that are expected in fewer impressions of a window are too rare to be missed.
const EXPECTED_MIN: f64 = 30.0;

/// Impressions between two looks at a window that is the first, and not complete.
const FIRST_LOOKS: u64 = 256;

/// One field's books.
#[derive(Clone, Debug)]
struct Books {
    name: String,
    configured: Option<f64>,
    /// Impressions of the current window that have it.
    present: u64,
    /// Sum of the shares of complete windows in which it was not missing, and their number.
    before: (f64, u64),
    shown: FieldShare,
}

/// Counts the fields of impressions as they are decoded, and writes what it finds on the board.
#[derive(Clone, Debug)]
pub struct Census {
    board: StatusBoard,
    window: u64,
    seen: u64,
    is_first: bool,
    fields: Vec<Books>,
}

impl Census {
    /// A census in windows of so many impressions; `expected` has the shares that are known from a sample.
    pub fn new(fields: &FieldSet, expected: &BTreeMap<String, f64>, window: u64, board: &StatusBoard) -> Self {
        let books = |name: &String| Books {
            name: name.clone(),
            configured: expected.get(name).copied(),
            present: 0,
            before: (0.0, 0),
            shown: FieldShare { expected: expected.get(name).copied(), ..FieldShare::default() },
        };
        let fields = fields.as_slice().iter().map(|field| books(&field.name)).collect();
        let census = Self { board: board.clone(), window: window.max(1), seen: 0, is_first: true, fields };
        census.show();
        census
    }

    /// Counts an event.
    pub fn observe(&mut self, event: &Event) {
        let Event::Impression(impression) = event else {
            return;
        };
        for (field, books) in self.fields.iter_mut().enumerate() {
            books.present += u64::from(impression.features.field(field).len() > 0);
        }
        self.seen += 1;
        if self.seen == self.window {
            self.end_window();
        } else if self.is_first && self.seen.is_multiple_of(FIRST_LOOKS) {
            for books in &mut self.fields {
                books.shown.share = Some(books.present as f64 / self.seen as f64);
            }
            self.show();
        }
    }

    fn end_window(&mut self) {
        for books in &mut self.fields {
            let share = books.present as f64 / self.seen as f64;
            let was_missing = books.end_window(share, self.seen);
            let Books { name, shown: FieldShare { expected, is_missing, .. }, .. } = books;
            let percent = |share: f64| format!("{:.1} %", 100.0 * share);
            match (was_missing, *is_missing) {
                (false, true) => tracing::warn!(
                    "field {name:?} is in {} of the last {} impressions, {} are expected: is it named otherwise now?",
                    percent(share),
                    self.seen,
                    percent(expected.unwrap_or_default())
                ),
                (true, false) => tracing::info!("field {name:?} is back, in {} of impressions", percent(share)),
                _ => {}
            }
        }
        (self.seen, self.is_first) = (0, false);
        self.show();
    }

    fn show(&self) {
        let shares = self.fields.iter().map(|books| (books.name.clone(), books.shown)).collect();
        self.board.note(|status| status.fields = shares);
    }
}

impl Books {
    /// Closes a window in which the field had this share of so many impressions; says whether it was missing before.
    fn end_window(&mut self, share: f64, impressions: u64) -> bool {
        let (sum, windows) = self.before;
        let expected = self.configured.or_else(|| (windows > 0).then(|| sum / windows as f64));
        let is_missing = expected
            .is_some_and(|expected| expected * impressions as f64 >= EXPECTED_MIN && share < MISSING_BELOW * expected);
        if !is_missing {
            self.before = (sum + share, windows + 1);
        }
        let was_missing = self.shown.is_missing;
        self.shown = FieldShare { share: Some(share), expected, is_missing };
        self.present = 0;
        was_missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use deepfm_core::event::options::EventOptions;
    use deepfm_core::event::{Decoder, EventKind, RawRecord};
    use deepfm_core::feature::field::{Field, FieldKind};

    const WINDOW: u64 = 100;

    struct Traffic {
        decoder: Decoder,
        census: Census,
        board: StatusBoard,
    }

    fn traffic(expected: &[(&str, f64)]) -> Traffic {
        let field = |name: &str| Field { name: name.to_owned(), kind: FieldKind::Categorical };
        let fields = FieldSet::new(vec![field("user"), field("coupon")]).expect("they are sound");
        let expected = expected.iter().map(|(name, share)| ((*name).to_owned(), *share)).collect();
        let board = StatusBoard::default();
        let census = Census::new(&fields, &expected, WINDOW, &board);
        Traffic { decoder: Decoder::new(fields, EventOptions::default()).expect("it is sound"), census, board }
    }

    impl Traffic {
        /// Sends a window of impressions with a key for the user, and a coupon in each of so many; and a click.
        fn window(&mut self, key: &str, coupon_every: u64) {
            for n in 0..WINDOW {
                let coupon = if n % coupon_every == 0 { ",\"coupon\":\"c\"" } else { "" };
                let features = format!("{{\"{key}\":\"u{n}\"{coupon}}}");
                let json =
                    format!("{{\"impression_id\":\"{n}\",\"event_time\":1700000000000,\"features\":{features}}}");
                self.send(EventKind::Impression, &json);
            }
            self.send(EventKind::Click, "{\"impression_id\":\"0\",\"event_time\":1700000000000}");
        }

        fn send(&mut self, kind: EventKind, json: &str) {
            let record = RawRecord { payload: Some(json.as_bytes()), ..RawRecord::default() };
            let decoded = self.decoder.decode(kind, &record).expect("it is an event");
            self.census.observe(&decoded.event);
        }

        fn share(&self, field: &str) -> FieldShare {
            self.board.read().fields[field]
        }
    }

    #[test]
    fn a_field_that_a_producer_renames_is_missing_within_a_window_and_is_seen_to_come_back() {
        let mut traffic = traffic(&[("user", 0.9)]);
        assert_eq!(traffic.share("user"), FieldShare { share: None, expected: Some(0.9), is_missing: false });
        traffic.window("user", 2);
        assert_eq!(traffic.share("user"), FieldShare { share: Some(1.0), expected: Some(0.9), is_missing: false });
        traffic.window("usr", 2);
        assert_eq!(traffic.share("user"), FieldShare { share: Some(0.0), expected: Some(0.9), is_missing: true });
        assert!(!traffic.share("coupon").is_missing);
        traffic.window("user", 2);
        assert_eq!(traffic.share("user"), FieldShare { share: Some(1.0), expected: Some(0.9), is_missing: false });
    }

    #[test]
    fn a_field_of_which_no_share_is_configured_is_held_against_the_windows_before() {
        let mut traffic = traffic(&[]);
        traffic.window("usr", 2);
        assert!(!traffic.share("user").is_missing, "nothing is known of it");
        traffic.window("usr", 2);
        assert!(!traffic.share("user").is_missing, "it was never there");
        assert_eq!(traffic.share("coupon").expected, Some(0.5));
        for _ in 0..3 {
            traffic.window("user", 10);
            let coupon = FieldShare { share: Some(0.1), expected: Some(0.5), is_missing: true };
            assert_eq!(traffic.share("coupon"), coupon, "what is missing does not become what is expected");
        }
    }

    #[test]
    fn a_field_that_is_rare_in_a_window_is_not_missed_by_chance() {
        let mut traffic = traffic(&[("coupon", 0.1)]);
        traffic.window("user", 1000);
        assert_eq!(traffic.share("coupon"), FieldShare { share: Some(0.01), expected: Some(0.1), is_missing: false });
    }
}
