//! `config init` on events made here, and on real ones.

use std::fs;
use std::path::Path;

use deepfm_core::event::options::TimeUnit;
use deepfm_core::event::{Decoder, Event, EventKind, RawRecord};
use deepfm_stream::config::Config;
use deepfm_stream::config::init::{Draft, FoundField, InitError, Sample, from_events};
use deepfm_stream::config::template::template;
use tempfile::TempDir;

use crate::support::command::run;
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
    from_events(dir, &Sample::default()).unwrap_or_else(|error| panic!("{error}"))
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
    let field = ["name", "kind", "share"];
    let others = ["expire_after_seconds", "alpha", "attribution_window_seconds"];
    assert_eq!(keys, [&field[..], &field, &field, &others].concat());
    assert_eq!((config.join.attribution_window_seconds, config.join.retention_seconds), (5, 5));
    assert!(draft.toml.contains("\n#retention_seconds = 5\n"), "{}", draft.toml);
    assert!(draft.toml.contains("\n#click_silence_max_seconds = 60\n"), "{}", draft.toml);
    assert_eq!(config.versions.click_silence_max_seconds, 60);
    config.join = Config::default().join;
    config.model.expire_after_seconds = Config::default().model.expire_after_seconds;
    config.optimizer.embedding.alpha = Config::default().optimizer.embedding.alpha;
    assert_eq!(config.fields.shares().len(), 3, "what a worker is to expect");
    config.fields = Config::default().fields;
    config.versions.click_silence_max_seconds = Config::default().versions.click_silence_max_seconds;
    assert_eq!(config, Config::default());
    assert!(draft.toml.contains("\n#embedding_dim = 10  # 1 to 1024\n"), "defaults are shown:\n{}", draft.toml);
}

#[test]
fn the_embeddings_rate_follows_the_entries_of_an_impression() {
    // A user, an age, and a list of ten.
    let features = |n: i64| {
        let tags: Vec<String> = (0..10).map(|tag| format!("\"t{}\"", (n + tag) % 30)).collect();
        format!("{{\"user\":\"u{}\",\"age\":{},\"tags\":[{}]}}", n % 50, 20 + n % 40, tags.join(","))
    };
    let dir = events(&[("impressions.jsonl", (0..200).map(|n| impression(n, &features(n))).collect())]);
    let draft = draft(dir.path());
    assert_eq!(loaded(&draft).optimizer.embedding.alpha, 0.125);
    let reason = "# 1.5 / 12.0, the feature entries of an impression here, between 0.03 and 0.25.\nalpha = 0.125\n";
    assert!(draft.toml.contains(reason), "{}", draft.toml);
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
    let clicks = format!("{}{}{}{}garbage\n", click(1, 10), click(1, 20), click(2, -60_001), click(77, 1));
    let dir = events(&[("impressions.jsonl", lines), ("clicks.jsonl", clicks)]);
    let draft = draft(dir.path());
    assert_eq!(
        draft.impressions.to_string(),
        "11 lines, 4 usable, 1 malformed (first on line 4), 1 microseconds_not_milliseconds (first on line 7), \
         1 missing_key (first on line 10), 2 mistyped (first on line 8), 1 oversized (first on line 11), \
         1 seconds_not_milliseconds (first on line 6)"
    );
    for line in [
        "1 name no impression of the sample",
        "1 name one that was clicked before",
        "1 come more than a minute before their impression, and are no clicks on it",
    ] {
        assert!(draft.toml.contains(&format!("#     {line}\n")), "{line}\n{}", draft.toml);
    }
    loaded(&draft);
}

#[test]
fn compressed_files_are_read_and_the_sample_is_bounded() {
    let dir = tempfile::tempdir().expect("a directory");
    let packed = zstd::encode_all(impressions(500).as_bytes(), 1).expect("zstd");
    fs::write(dir.path().join("impressions.jsonl.zst"), packed).expect("a file");
    let draft =
        from_events(dir.path(), &Sample { lines: 100, ..Sample::default() }).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(draft.impressions.to_string(), "the first 100 lines, 100 usable");
    assert!(draft.toml.contains("#   impressions.jsonl.zst: the first 100 lines, 100 usable\n"));
    loaded(&draft);
}

#[test]
fn without_a_usable_impression_there_is_no_draft() {
    let none = tempfile::tempdir().expect("a directory");
    assert!(matches!(from_events(none.path(), &Sample::default()), Err(InitError::NoFile(_))));
    let minutes = "{\"impression_id\":\"a\",\"event_time\":28333333,\"features\":{\"user\":\"u\"}}\n".repeat(3);
    let dir = events(&[("impressions.jsonl", minutes)]);
    let error = from_events(dir.path(), &Sample::default()).expect_err("minutes").to_string();
    let found =
        "no usable impression in impressions.jsonl: 3 lines, 0 usable, 3 seconds_not_milliseconds (first on line 1)";
    assert!(error.starts_with(found) && error.contains("copy deploy/deepfm.toml"), "{error}");
    let dir = events(&[("impressions.jsonl", impression(1, "{\"a\":{\"b\":[]},\"c\":null}"))]);
    let error = from_events(dir.path(), &Sample::default()).expect_err("no fields").to_string();
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
    let draft = from_events(dir.path(), &Sample { lines: 2_000_000, ..Sample::default() })
        .unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(loaded(&draft).join.open_impressions_max, 4_800_000);
    assert_eq!(loaded(&draft).join.remembered_max, Config::default().join.remembered_max);
}

/// The reasons of a decision, and what the file sets.
fn decision(draft: &Draft, key: &str) -> (String, bool, String) {
    let found = draft.decisions.iter().find(|decision| decision.key == key);
    let found = found.unwrap_or_else(|| panic!("nothing was decided about {key}: {:?}", draft.decisions));
    (found.value.clone(), found.is_set, found.reasons.join(" "))
}

#[test]
fn every_decision_stands_in_the_file_with_its_reasons_and_on_the_terminal() {
    let times = (0..3000).map(|n| if n % 100 == 0 { n - 40 } else { n });
    let lines = times.map(|n| impression(n.max(0), "{\"user\":\"u1\",\"id\":null}")).collect();
    let dir = events(&[("impressions.jsonl", lines), ("clicks.jsonl", click(1, -20) + &click(7, 3000))]);
    let sample = Sample { memory_bytes: Some(8 << 30), ..Sample::default() };
    let draft = from_events(dir.path(), &sample).unwrap_or_else(|error| panic!("{error}"));
    let terminal = draft.to_string();
    assert!(draft.decisions.len() >= 6, "{:?}", draft.decisions);
    for decision in &draft.decisions {
        let (_, key) = decision.key.rsplit_once('.').expect("a section comes first");
        let mark = if decision.is_set { "" } else { "#" };
        let reasons: Vec<String> = decision.reasons.iter().map(|line| format!("# {line}\n")).collect();
        let reasons = reasons.concat();
        let entry = format!("{reasons}{mark}{key} = {}\n", decision.value);
        assert!(draft.toml.contains(&entry), "{entry}\n{}", draft.toml);
        assert!(terminal.contains(&format!("  {} = {}", decision.key, decision.value)), "{terminal}");
        assert!(decision.reasons.iter().all(|reason| terminal.contains(reason.as_str())), "{terminal}");
    }
    for said in ["\"id\": left out: no value seen", "3,000 lines, 3,000 usable", "\"user\": categorical"] {
        assert!(terminal.contains(said), "{said}\n{terminal}");
    }
    loaded(&draft);
}

#[test]
fn the_table_fits_the_machine_and_forgets_in_the_end() {
    let dir = events(&[("impressions.jsonl", impressions(10))]);
    let sample = Sample { memory_bytes: Some(8 << 30), ..Sample::default() };
    let draft = from_events(dir.path(), &sample).unwrap_or_else(|error| panic!("{error}"));
    let model = loaded(&draft).model;
    assert_eq!((model.rows_max, model.expire_after_seconds), (17_000_000, 180 * 86_400));
    assert!(decision(&draft, "model.rows_max").2.starts_with("A quarter of this machine's 8.00 GiB of memory"));
}

#[test]
fn the_unit_of_the_times_is_found_and_set_for_each_file() {
    let impression = |n: i64| {
        let time = START / 1000 + n;
        format!("{{\"impression_id\":\"i{n}\",\"event_time\":{time},\"features\":{{\"user\":\"u{}\"}}}}\n", n % 9)
    };
    let impressions = (0..300).map(impression).collect();
    let click = |n: i64| {
        let time = (START + n * 1000 + 2500) * 1000;
        format!("{{\"impression_id\":\"i{n}\",\"event_time\":\"{time}\"}}\n")
    };
    let dir = events(&[("impressions.jsonl", impressions), ("clicks.jsonl", (0..150).map(click).collect())]);
    let draft = draft(dir.path());
    let mapping = loaded(&draft).events.mapping;
    assert_eq!((mapping.impression.time_unit, mapping.click.time_unit), (TimeUnit::S, TimeUnit::Us));
    assert_eq!((draft.impressions.usable, draft.click_rate), (300, 0.5));
    assert_eq!(loaded(&draft).join.attribution_window_seconds, 5);
    let reason = decision(&draft, "events.mapping.click.time_unit").2;
    assert_eq!(reason, "The times of the sample are microseconds, such as \"1700000002500000\".");
}

#[test]
fn a_weight_that_is_none_is_not_read_as_one_and_one_that_is_is_said() {
    let weighted = |weight: &str| {
        let more = format!(",\"weight\":{weight},\"features\"");
        events(&[("impressions.jsonl", impressions(300).replace(",\"features\"", &more))])
    };
    let dir = weighted("\"1.2\u{7f}kg\"");
    let text = draft(dir.path());
    let key = "events.mapping.impression.weight";
    let (value, is_set, reason) = decision(&text, key);
    assert!(is_set && value == "\"/no_weight\"" && reason.contains("such as \"1.2\\u007fkg\", and 0"), "{reason}");
    let config = loaded(&text);
    let fields = config.field_set().expect("they are valid");
    let mut decoder = Decoder::new(fields, config.event_options()).expect("it is sound");
    let lines = fs::read_to_string(dir.path().join("impressions.jsonl")).expect("it was written");
    for line in lines.lines() {
        let record = RawRecord { payload: Some(line.as_bytes()), ..RawRecord::default() };
        let decoded = decoder.decode(EventKind::Impression, &record).expect("it is refused no more");
        assert!(matches!(decoded.event, Event::Impression(impression) if impression.weight == 1.0));
    }
    let (value, is_set, reason) = decision(&draft(weighted("3").path()), key);
    assert!(
        !is_set && value == "\"/weight\"" && reason.contains("300 impressions have a number, 3.0, which"),
        "{reason}"
    );
    assert!(draft(weighted("1").path()).decisions.iter().all(|decision| decision.key != key));
}

#[test]
fn a_file_that_is_there_is_left_alone_and_said_before_events_are_read() {
    let dir = events(&[("impressions.jsonl", impressions(300)), ("kept.toml", "kept".to_owned())]);
    let (place, kept) = (dir.path().display().to_string(), dir.path().join("kept.toml"));
    let out = kept.display().to_string();
    let refused = run(&["config", "init", "--events", &place, "--out", &out]);
    assert!(refused.stderr.contains("--force overwrites an existing file"), "{}", refused.stderr);
    assert!(refused.code == Some(74) && !refused.stderr.contains("fields:"), "{}", refused.stderr);
    assert_eq!(fs::read_to_string(&kept).expect("it is there"), "kept");
    let forced = run(&["config", "init", "--events", &place, "--out", &out, "--force"]);
    assert_eq!(forced.code, Some(0), "{}", forced.stderr);
    assert!(fs::read_to_string(&kept).expect("it is there").contains("[[fields]]"));
}

#[test]
fn lines_that_go_back_set_the_lateness_and_a_file_that_was_never_sorted_does_not() {
    let late = |back: i64| -> String {
        let time = |n: i64| if n % 50 == 49 { n - back } else { n };
        (1_000_000..1_002_000).map(|n| impression(time(n), "{\"user\":\"u1\"}")).collect()
    };
    let of = |text: String| {
        let dir = events(&[("impressions.jsonl", text), ("clicks.jsonl", click(1_000_000, 1000))]);
        draft(dir.path())
    };
    let found = of(late(20));
    assert_eq!(loaded(&found).join.lateness_seconds, 30);
    let (_, _, reason) = decision(&found, "join.lateness_seconds");
    assert!(
        reason.starts_with("40 lines of impressions.jsonl (2 %) go back in time, the furthest by 19 s."),
        "{reason}"
    );
    let found = of(late(200_000));
    assert_eq!(loaded(&found).join.lateness_seconds, 0);
    assert!(decision(&found, "join.lateness_seconds").2.contains("`deepfm backtest --sort`"));
    assert!(found.to_string().contains("that was not sorted"), "{found}");
    let found = of(late(0));
    assert!(!found.decisions.iter().any(|decision| decision.key == "join.lateness_seconds"));
}

#[test]
fn clicks_a_little_before_their_impression_are_clicks() {
    let clicks: String = (0..487).map(|n| click(n, -7)).collect();
    let dir = events(&[("impressions.jsonl", impressions(1000)), ("clicks.jsonl", clicks)]);
    let draft = draft(dir.path());
    assert_eq!((draft.click_rate, draft.attribution_window_seconds), (0.487, Some(5)));
    assert!(!draft.toml.contains("No click of the sample"), "{}", draft.toml);
    let fact = "487 are stamped before their impression, by up to 7 ms: another clock; they are clicks on it";
    assert!(draft.toml.contains(fact) && draft.to_string().contains(fact), "{draft}");
    assert_eq!(decision(&draft, "join.click_before_ms").0, "1000");
    assert_eq!(loaded(&draft).join.click_before_ms, 1000);
}

#[test]
fn clicks_further_before_their_impression_than_the_default_are_taken_by_a_longer_one() {
    let clicks = (0..400).map(|n| click(n, if n % 4 == 0 { -3700 } else { 900 })).collect();
    let dir = events(&[("impressions.jsonl", impressions(1000)), ("clicks.jsonl", clicks)]);
    let draft = draft(dir.path());
    assert_eq!((draft.click_rate, loaded(&draft).join.click_before_ms), (0.4, 5000));
    let reason = "100 clicks are stamped before their impression, by another clock: 99 % of these by at most 3,700 ms, the \
                  furthest by 3,700 ms.";
    assert_eq!(decision(&draft, "join.click_before_ms").2, reason);
    let ages_before: String = (0..200).map(|n| click(n, -3_600_000)).collect();
    let dir = events(&[("impressions.jsonl", impressions(1000)), ("clicks.jsonl", ages_before)]);
    let reason =
        decision(&from_events(dir.path(), &Sample::default()).expect("a draft"), "join.attribution_window_seconds").2;
    assert!(
        reason.starts_with("Clicks of the sample name its impressions, but all come more than a minute"),
        "{reason}"
    );
}

#[test]
fn the_template_loads_as_it_is() {
    let config = Config::parse(&template(), "template", []).unwrap_or_else(|errors| panic!("{errors}"));
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
