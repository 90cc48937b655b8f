//! The instruments of `./dev bench worker`: what it sends can be read, makes every id known, and then draws them unevenly, as the
//! learner beside it does.

use std::collections::BTreeSet;

use deepfm_core::event::options::EventOptions;
use deepfm_core::event::{Decoder, Event, EventKind, RawRecord};
use deepfm_core::feature::field::{Field, FieldKind, FieldSet};
use deepfm_core::feature::hash::mix64;
use deepfm_core::feature::id::feature_id;
use serde_json::Value;

#[path = "../bench/drawn.rs"]
mod drawn;
#[path = "../bench/encoded.rs"]
mod encoded;

use drawn::{Drawn, click};

const VALUES: u64 = 50;
const START_MS: i64 = 1_700_000_000_000;

#[test]
fn events_make_every_id_known_and_then_draw_some_more_often() {
    let fields: Vec<String> = (0..3).map(|field| format!("f{field:02}")).collect();
    let drawn = Drawn { values: VALUES, fields: fields.clone() };
    let kinds = fields.iter().map(|name| Field { name: name.clone(), kind: FieldKind::Categorical });
    let set = FieldSet::new(kinds.collect()).expect("valid");
    let mut decoder = Decoder::new(set, EventOptions::default()).expect("valid");
    let mut decode = |kind, json: &str| {
        let record = RawRecord { payload: Some(json.as_bytes()), ..RawRecord::default() };
        decoder.decode(kind, &record).unwrap_or_else(|refusal| panic!("{refusal:?}: {json}")).event
    };
    let all: BTreeSet<u64> = fields
        .iter()
        .flat_map(|name| (0..VALUES).map(|value| feature_id(name, value.to_string().as_bytes())))
        .collect();
    let mut known = BTreeSet::new();
    let first = feature_id(&fields[0], b"0");
    let mut firsts = 0;
    for number in 0..20 * VALUES {
        let Event::Impression(impression) = decode(EventKind::Impression, &drawn.impression(number, START_MS)) else {
            panic!("it is an impression");
        };
        let ids = impression.features.ids();
        assert_eq!(ids.len(), fields.len());
        firsts += usize::from(ids[0] == first);
        if number < VALUES {
            known.extend(ids);
        } else {
            assert!(ids.iter().all(|id| known.contains(id)), "number {number}");
        }
    }
    assert!(known == all, "each value has come by the number of values");
    // By its rank the first has ln 2 / ln 50 of the draws, a fiftieth would be even.
    assert!((100..260).contains(&firsts), "{firsts}");
    let Event::Click(click) = decode(EventKind::Click, &click(3, START_MS + 1)) else { panic!("it is a click") };
    assert_eq!((click.impression_id.as_ref(), click.event_time), ("i3", START_MS + 1));

    // What the learner alone is given has the same values, under other ids.
    let drawn_alone = encoded::events(VALUES..3 * VALUES, fields.len(), drawn.draw());
    for (number, features) in (VALUES..).zip(&drawn_alone) {
        let json: Value = serde_json::from_str(&drawn.impression(number, START_MS)).expect("it is JSON");
        for (field, entry) in (0_u64..).zip(features.entries()) {
            let value = json["features"][&fields[field as usize]].as_str().expect("a text");
            assert_eq!(entry.id, mix64(field << 40 | value.parse::<u64>().expect("a number")), "number {number}");
        }
    }
    let examples = encoded::examples(&drawn_alone);
    assert_eq!(examples.len(), drawn_alone.len());
    assert!(examples.iter().any(|example| example.label == 1.0) && examples.iter().any(|example| example.label == 0.0));
}
