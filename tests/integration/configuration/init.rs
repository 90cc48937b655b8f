//! `config init` on events made here, and on real ones.

use std::fs;
use std::path::Path;

use deepfm_stream::config::Config;
use deepfm_stream::config::init::{Draft, FoundField, InitError, SAMPLE_LINES, TEMPLATE, from_events};
use tempfile::TempDir;

use crate::support::real_data;

const START: i64 = 1_700_000_000_000;

/// A directory with these files.
fn events(files: &[(&str, String)]) -> TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    for (name, text) in files {
        fs::write(dir.path().join(name), text).expect("a file");
    }
    dir
}

fn impression(number: i64, features: &str) -> String {
    let time = START + number * 1000;
    format!("{{\"impression_id\":\"i{number}\",\"event_time\":{time},\"features\":{features}}}\n")
}

fn click(number: i64, delay_ms: i64) -> String {
    let time = START + number * 1000 + delay_ms;
    format!("{{\"impression_id\":\"i{number}\",\"event_time\":{time}}}\n")
}

fn impressions(count: i64) -> String {
    (0..count)
        .map(|n| {
            impression(
                n,
                &format!("{{\"user\":\"u{}\",\"tags\":[\"t{}\",\"x\"],\"age\":{}}}", n % 50, n % 7, 20 + n % 40),
            )
        })
        .collect()
}

fn draft(dir: &Path) -> Draft {
    from_events(dir, SAMPLE_LINES).unwrap_or_else(|error| panic!("{error}"))
}

fn loaded(draft: &Draft) -> Config {
    Config::parse(&draft.toml, "draft", []).unwrap_or_else(|errors| panic!("{errors}\n{}", draft.toml))
}

#[test]
fn a_draft_has_the_fields_in_order_and_a_window_from_the_delays() {
    let clicks = (0..200).map(|n| click(n * 2, if n < 195 { 4000 } else { 3_000_000 })).collect();
    let dir = events(&[("impressions.jsonl", impressions(1000)), ("clicks.jsonl", clicks)]);
    let draft = draft(dir.path());
    let config = loaded(&draft);
    let names: Vec<&str> = config.fields.iter().map(|field| field.name.as_str()).collect();
    assert_eq!(names, ["user", "tags", "age"]);
    assert_eq!(config.join.attribution_window_seconds, 5);
    assert_eq!(config.join.retention_seconds, 3595);
    assert_eq!((draft.click_rate, draft.clicks_kept), (0.2, Some(0.975)));
    for line in [
        "#   impressions.jsonl: 1,000 lines, 1,000 usable",
        "#   20 % of the impressions were clicked",
        "# string, 50 values, in 100 % of the impressions",
        "# list, 8 values, in 100 % of the impressions, 2.0 entries each",
        "# 5 s keeps 97.5 % of them; no negative is learned before 5 s have passed.",
    ] {
        assert!(draft.toml.lines().any(|found| found == line), "{line}\n{}", draft.toml);
    }
}

#[test]
fn everything_that_is_not_particular_to_the_data_stays_at_its_default() {
    let dir = events(&[("impressions.jsonl", impressions(100)), ("clicks.jsonl", click(1, 1000))]);
    let draft = draft(dir.path());
    let mut config = loaded(&draft);
    let set: Vec<&str> = draft.toml.lines().filter(|line| !line.starts_with(['#', '[']) && !line.is_empty()).collect();
    let keys: Vec<&str> = set.iter().filter_map(|line| line.split(" = ").next()).collect();
    assert_eq!(keys, ["name", "kind", "name", "kind", "name", "kind", "attribution_window_seconds"]);
    assert_eq!((config.join.attribution_window_seconds, config.join.retention_seconds), (5, 5));
    assert!(draft.toml.contains("\n#retention_seconds = 5\n"), "{}", draft.toml);
    config.join = Config::default().join;
    config.fields.clear();
    assert_eq!(config, Config::default());
    assert!(draft.toml.contains("\n#embedding_dim = 10\n"), "defaults are shown:\n{}", draft.toml);
}

#[test]
fn without_clicks_the_window_is_the_default_and_says_so() {
    let dir = events(&[("impressions.jsonl", impressions(10))]);
    let draft = draft(dir.path());
    assert_eq!((draft.attribution_window_seconds, draft.clicks.is_none()), (None, true));
    assert_eq!(loaded(&draft).join, Config::default().join);
    assert!(draft.toml.contains("# No click of the sample names one of its impressions: this is the default.\n"));
}

#[test]
fn bad_lines_are_counted_by_reason_and_not_fatal() {
    let mut lines = impressions(3);
    lines.push_str("{not json\n\n");
    lines.push_str("{\"impression_id\":\"a\",\"event_time\":1700000000,\"features\":{\"user\":\"u\"}}\n");
    lines.push_str("{\"impression_id\":\"a\",\"event_time\":1700000000000000,\"features\":{\"user\":\"u\"}}\n");
    lines.push_str("{\"impression_id\":\"a\",\"event_time\":1700000000000,\"features\":[1]}\n");
    lines.push_str("{\"impression_id\":\"\",\"event_time\":1700000000000,\"features\":{}}\n");
    lines.push_str("{\"event_time\":1700000000000,\"features\":{}}\n");
    lines.extend(["{\"x\":\"", &"y".repeat(2 << 20), "\"}\n"]);
    lines.push_str(&impression(3, "{\"user\":\"u1\"}"));
    let clicks = format!("{}{}{}{}garbage\n", click(1, 10), click(1, 20), click(2, -5), click(77, 1));
    let dir = events(&[("impressions.jsonl", lines), ("clicks.jsonl", clicks)]);
    let draft = draft(dir.path());
    assert_eq!(
        draft.impressions.to_string(),
        "11 lines, 4 usable, 1 malformed (first on line 4), 1 microseconds_not_milliseconds (first on line 7), \
         1 missing_key (first on line 10), 2 mistyped (first on line 8), 1 oversized (first on line 11), \
         1 seconds_not_milliseconds (first on line 6)"
    );
    for line in
        ["1 name no impression of the sample", "1 name one that was clicked before", "1 come before their impression"]
    {
        assert!(draft.toml.contains(&format!("#     {line}\n")), "{line}\n{}", draft.toml);
    }
    loaded(&draft);
}

#[test]
fn compressed_files_are_read_and_the_sample_is_bounded() {
    let dir = tempfile::tempdir().expect("a directory");
    let packed = zstd::encode_all(impressions(500).as_bytes(), 1).expect("zstd");
    fs::write(dir.path().join("impressions.jsonl.zst"), packed).expect("a file");
    let draft = from_events(dir.path(), 100).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(draft.impressions.to_string(), "the first 100 lines, 100 usable");
    assert!(draft.toml.contains("#   impressions.jsonl.zst: the first 100 lines, 100 usable\n"));
    loaded(&draft);
}

#[test]
fn without_a_usable_impression_there_is_no_draft() {
    let none = tempfile::tempdir().expect("a directory");
    assert!(matches!(from_events(none.path(), 10), Err(InitError::NoFile(_))));
    let seconds = "{\"impression_id\":\"a\",\"event_time\":1700000000,\"features\":{\"user\":\"u\"}}\n".repeat(3);
    let dir = events(&[("impressions.jsonl", seconds)]);
    let error = from_events(dir.path(), 10).expect_err("seconds").to_string();
    assert_eq!(
        error,
        "no usable impression in impressions.jsonl: 3 lines, 0 usable, 3 seconds_not_milliseconds (first on line 1); \
         topics that look different need [events.mapping]"
    );
    let dir = events(&[("impressions.jsonl", impression(1, "{\"a\":{\"b\":[]},\"c\":null}"))]);
    let error = from_events(dir.path(), 10).expect_err("no fields").to_string();
    assert!(error.starts_with("no usable field in the 1 usable impressions of impressions.jsonl; \"a\": "), "{error}");
}

#[test]
fn fields_with_odd_names_and_useless_values_still_give_a_file_that_loads() {
    let features = |n: i64| {
        format!(
            "{{\"a\\\"b\\n[model]\":\"x{}\",\"request\":\"r{n}\",\"nested\\n\":{{\"x\":{{}}}},\"p\":{}.5}}",
            n % 3,
            n * 7
        )
    };
    let lines: String = (0..2000).map(|n| impression(n, &features(n))).collect();
    let dir = events(&[("impressions.jsonl", lines)]);
    let draft = draft(dir.path());
    let config = loaded(&draft);
    let names: Vec<&str> = config.fields.iter().map(|field| field.name.as_str()).collect();
    assert_eq!(names, ["a\"b\n[model]", "p"]);
    let left_out: Vec<&FoundField> = draft.fields.iter().filter(|field| field.left_out.is_some()).collect();
    assert_eq!(left_out.iter().map(|field| field.name.as_str()).collect::<Vec<_>>(), ["request", "nested\n"]);
    assert!(draft.toml.contains("#name = \"request\"\n"), "{}", draft.toml);
}

#[test]
fn traffic_above_the_bounds_of_the_join_raises_them() {
    let line = |n| format!("{{\"impression_id\":{n},\"event_time\":{START},\"features\":{{\"u\":\"u{}\"}}}}", n % 10);
    let burst = (0..1_200_000).map(line).collect::<Vec<_>>().join("\n");
    let clicks = format!("{{\"impression_id\":7,\"event_time\":{}}}\n", START + 1000);
    let dir = events(&[("impressions.jsonl", burst), ("clicks.jsonl", clicks)]);
    let draft = from_events(dir.path(), 2_000_000).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(loaded(&draft).join.open_impressions_max, 4_800_000);
    assert_eq!(loaded(&draft).join.remembered_max, Config::default().join.remembered_max);
}

#[test]
fn the_template_loads_as_it_is() {
    let config = Config::parse(TEMPLATE, "template", []).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(config.fields.len(), 3);
}

/// `name kind cardinality` of each field.
fn found(draft: &Draft) -> Vec<String> {
    let describe =
        |field: &FoundField| format!("{} {} {}", field.name, field.kind.unwrap_or("none"), field.cardinality);
    draft.fields.iter().map(describe).collect()
}

#[test]
fn movielens_gives_its_eight_fields_and_a_window_of_five_minutes() {
    let Some(dir) = real_data("movielens_gives_its_eight_fields_and_a_window_of_five_minutes", "movielens") else {
        return;
    };
    let draft = draft(&dir);
    let expected = [
        "user_id categorical 943",
        "item_id categorical 1682",
        "age categorical 61",
        "gender categorical 2",
        "occupation categorical 21",
        "zip3 categorical 382",
        "genres multi 19",
        "release_year categorical 73",
    ];
    assert_eq!(found(&draft), expected);
    let config = loaded(&draft);
    assert_eq!((config.join.attribution_window_seconds, config.join.retention_seconds), (300, 3300));
    assert!(draft.clicks_kept.is_some_and(|kept| kept > 0.95));
    assert_eq!((draft.impressions.usable, draft.click_rate), (100_000, 0.553_75));
}

#[test]
fn ebnerd_gives_its_history_as_multi() {
    let Some(dir) = real_data("ebnerd_gives_its_history_as_multi", "ebnerd") else { return };
    let draft = draft(&dir);
    assert!(found(&draft).contains(&"history multi 371".to_owned()), "{:?}", found(&draft));
    assert_eq!(draft.fields.iter().filter(|field| field.left_out.is_none()).count(), 12);
    assert_eq!(loaded(&draft).join.attribution_window_seconds, 300);
    let age = draft.fields.iter().find(|field| field.name == "age").expect("it has ages");
    assert!((age.share_present - 4256.0 / 10_848.0).abs() < 1e-12);
}

#[test]
fn openbandit_gives_a_quantity_and_keeps_all_of_its_few_clicks() {
    let Some(dir) = real_data("openbandit_gives_a_quantity_and_keeps_all_of_its_few_clicks", "openbandit") else {
        return;
    };
    let draft = draft(&dir);
    assert!(found(&draft).contains(&"item_feature_0 numeric 41".to_owned()), "{:?}", found(&draft));
    assert!(found(&draft).contains(&"affinity categorical 2".to_owned()), "{:?}", found(&draft));
    assert_eq!((draft.clicks_kept, loaded(&draft).join.attribution_window_seconds), (Some(1.0), 300));
}
