use serde_json::json;

use super::*;

fn decide(name: &str, values: impl IntoIterator<Item = Value>) -> Found {
    let mut profile = Profile::new(name.to_owned());
    let mut impressions = 0;
    for value in values {
        profile.add(&value);
        impressions += 1;
    }
    profile.decide(impressions)
}

fn kind(name: &str, values: impl IntoIterator<Item = Value>) -> &'static str {
    decide(name, values).kind.as_ref().map_or("none", kind_name)
}

#[test]
fn small_integers_booleans_and_strings_are_categories() {
    assert_eq!(kind("age", (0..500).map(|i| json!(18 + i % 60))), "categorical");
    assert_eq!(kind("new", (0..500).map(|i| json!(i % 2 == 0))), "categorical");
    assert_eq!(kind("page", (0..500).map(|i| json!(format!("p{}", i % 7)))), "categorical");
    assert_eq!(kind("mixed", (0..500).map(|i| if i % 2 == 0 { json!(i) } else { json!("x") })), "categorical");
}

#[test]
fn lists_and_objects_of_weights_are_multi() {
    assert_eq!(kind("tags", [json!(["a", "b"]), json!([]), json!(["c"])]), "multi");
    assert_eq!(kind("topics", [json!({"a": 0.5}), json!({"b": 2})]), "multi");
    let found = decide("tags", [json!(["a", "b"]), json!([]), json!(["a"])]);
    assert_eq!(found.comment[0], "list, 2 values, in 66.7 % of the impressions, 1.5 entries each");
}

#[test]
fn many_integers_are_ids_or_quantities_by_name_or_shape() {
    let even = || (0..2000).map(|i| json!(i % 600));
    assert_eq!(kind("userId", even()), "categorical");
    assert_eq!(kind("price", even()), "numeric");
    assert_eq!(kind("x", even()), "categorical");
    assert_eq!(kind("x", (0..2000).map(|i| json!(i % 600 - 10))), "numeric");
    assert_eq!(kind("x", (0..2000).map(|i| json!(9_000_000 + i % 600))), "categorical");
    let skewed = (0..3000_u64).map(|i| json!(if i % 40 == 0 { 1000 * i } else { i % 300 / 30 }));
    assert_eq!(kind("x", skewed.chain((0..300).map(|i| json!(i)))), "numeric");
}

#[test]
fn numbers_within_one_logarithmic_bucket_get_edges_from_the_sample() {
    let narrow = decide("score", (0..1000).map(|i| json!(0.25 + f64::from(i) / 4000.0)));
    let Some(FieldKind::Numeric { edges: Some(edges) }) = narrow.kind else {
        panic!("expected edges, found {:?}", narrow.kind);
    };
    assert_eq!(edges.len(), 19);
    assert!(edges.is_sorted_by(|a, b| a < b), "{edges:?}");
    let wide = decide("price", (0..1000).map(|i| json!(f64::from(i) * 1.5 + 0.1)));
    assert_eq!(wide.kind, Some(FieldKind::Numeric { edges: None }));
}

#[test]
fn a_number_that_is_mostly_one_value_still_gets_ascending_edges_or_none() {
    let values = (0..1000).map(|i| json!(if i % 20 == 0 { f64::from(i) / 1e4 + 0.001 } else { 0.5 }));
    match decide("share", values).kind {
        Some(FieldKind::Numeric { edges }) => {
            assert!(edges.unwrap_or_default().is_sorted_by(|a, b| a < b));
        }
        other => panic!("expected a numeric field, found {other:?}"),
    }
}

#[test]
fn what_is_new_each_time_is_left_out() {
    let found = decide("request", (0..1500).map(|i| json!(format!("r{i}"))));
    assert!(found.left_out.expect("left out").contains("almost every value is new"));
    assert_eq!(decide("user", (0..1500).map(|i| json!(format!("u{}", i / 2)))).left_out, None);
    assert_eq!(decide("user", (0..999).map(|i| json!(format!("u{i}")))).left_out, None);
}

#[test]
fn what_cannot_be_encoded_is_left_out_with_the_reason() {
    let nested = decide("context", [json!({"a": {"b": 1}}), json!([[1]])]);
    assert!(nested.left_out.expect("left out").contains("nested"));
    let empty = decide("gone", [json!(null), json!(""), json!([]), json!({})]);
    assert_eq!(empty.left_out.as_deref(), Some("no value seen: all are null or empty"));
}

#[test]
fn equal_numbers_are_one_value_however_they_are_written() {
    assert_eq!(decide("n", [json!(21), json!(21.0), json!("21")]).cardinality, 1);
}

#[test]
fn counting_stops_at_its_bound_and_says_so() {
    let found = decide("user", (0..150_000).map(|i| json!(i.to_string())).chain((0..10).map(|i| json!(i.to_string()))));
    assert!(found.cardinality_is_bound);
    assert_eq!(found.comment[0], "digits in a string, at least 100,000 values, in 100 % of the impressions");
}

#[test]
fn names_fall_into_words() {
    assert_eq!(words("userId"), ["user", "id"]);
    assert_eq!(words("n_likes-24h"), ["n", "likes", "24h"]);
    assert_eq!(words("SKU"), ["sku"]);
}

fn prices() -> impl Iterator<Item = Value> {
    (0..1812).map(|i| json!(f64::from(i) * 1.25 + 0.5)).chain((0..188).map(|i| json!(i)))
}

#[test]
fn one_stand_in_for_a_missing_number_does_not_make_categories_of_prices() {
    for stand_in in ["N/A", "NA", "NaN", "null", "-", "n/a"] {
        let found = decide("price", prices().chain([json!(stand_in)]));
        assert_eq!(found.kind, Some(FieldKind::Numeric { edges: None }), "{stand_in}");
        assert!(found.comment.contains(&format!("No value: 1 \"{stand_in}\".")), "{:?}", found.comment);
    }
}

#[test]
fn a_few_texts_among_numbers_are_named_and_many_make_categories() {
    let found = decide("price", prices().chain((0..18).map(|_| json!("on request"))));
    assert_eq!(found.kind, Some(FieldKind::Numeric { edges: None }));
    let line = "18 values are no numbers, such as \"on request\": impressions with them will be refused.";
    assert!(found.comment.contains(&line.to_owned()), "{:?}", found.comment);
    assert_eq!(kind("price", prices().chain((0..40).map(|_| json!("on request")))), "categorical");
}

#[test]
fn digits_in_strings_are_quantities_where_they_have_fractions_or_a_name_for_one() {
    assert_eq!(kind("x", (0..2000).map(|i| json!(format!("{}.5", i)))), "numeric");
    assert_eq!(kind("price", (0..2000).map(|i| json!((i % 600).to_string()))), "numeric");
    assert_eq!(kind("user", (0..2000).map(|i| json!((i % 600).to_string()))), "categorical");
    assert_eq!(
        kind("x", (0..2000).map(|i| if i % 2 == 0 { json!(f64::from(i) + 0.5) } else { json!("7.25") })),
        "numeric"
    );
    let found = decide("x", (0..2000).map(|i| json!(format!("{}.5", i))));
    assert!(found.comment[0].starts_with("digits in a string, 2,000 values"), "{:?}", found.comment);
}

#[test]
fn stand_ins_are_names_to_a_category() {
    let found = decide("country", ["NA", "DE", "NA", "US"].map(|text| json!(text)));
    assert_eq!((found.kind, found.cardinality, found.present, found.entries), (Some(FieldKind::Categorical), 3, 4, 4));
    let gone = decide("x", [json!("N/A"), json!(null)]);
    assert_eq!(gone.left_out.as_deref(), Some("no value seen: all are null or empty, or \"N/A\""));
}

#[test]
fn what_is_no_value_in_a_list_is_not_counted() {
    let found = decide("tags", [json!(["a", null, ""]), json!({"a": 1, "b": null})]);
    assert_eq!((found.entries, found.cardinality), (2, 1));
}

#[test]
fn init_goes_by_the_table_of_values() {
    use deepfm_core::feature::value::{Meaning, Row, TABLE};
    for Row { json, number, .. } in TABLE {
        let value: Value = serde_json::from_str(json).expect("a row is JSON");
        let found = decide("price", prices().chain([value]));
        let expected = match number {
            Meaning::NoValue => (2000, false),
            Meaning::Number(_) => (2001, false),
            Meaning::Refused | Meaning::Category(_) => (2001, true),
        };
        let refused = found.comment.iter().any(|line| line.contains("refused"));
        assert_eq!((found.present, refused), expected, "{json}: {:?}", found.comment);
        assert!(matches!(found.kind, Some(FieldKind::Numeric { .. })), "{json}");
    }
}
