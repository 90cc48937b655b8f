//! The configuration as users meet it: what is refused and how, the environment, secrets, what is shown.

mod init;
mod properties;
mod table;

use std::path::Path;

use deepfm_core::event::options::TimeUnit;
use deepfm_core::feature::field::{FieldKind, Weights};
use deepfm_core::join::params::{LabelPolicy, LatePolicy};
use deepfm_core::model::params::Parts;
use deepfm_stream::config::kafka::Start;
use deepfm_stream::config::{Config, ConfigErrors, check, load};

/// The least that a file must have, on three lines.
const FIELD: &str = "[[fields]]\nname = \"user\"\nkind = \"categorical\"\n";

fn parse(text: &str) -> Result<Config, ConfigErrors> {
    Config::parse(&format!("{FIELD}{text}"), "m.toml", [])
}

fn valid(text: &str) -> Config {
    parse(text).unwrap_or_else(|errors| panic!("{errors}"))
}

fn with_environment(text: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::parse(&format!("{FIELD}{text}"), "m.toml", variables)
}

/// The one error of a text that goes on after `FIELD`, without its place.
fn complaint(text: &str) -> String {
    let errors = parse(text).expect_err("the text is wrong").to_string();
    let lines: Vec<&str> = errors.lines().collect();
    assert_eq!(lines.len(), 2, "one error expected:\n{errors}");
    lines[1].split_once(": ").expect("a place comes first").1.to_owned()
}

#[test]
fn every_error_is_reported_at_once_with_its_line_and_fix() {
    let text = "\
[model]
embeding_dim = 16
seed = -1
name = 3

[model.mlp]
layers = [64, 0]
activation = \"rellu\"

[optimizer.bias]
alpha = 0

[jion]
emit = \"at_click\"

[training]
batch_min = 512
batch_max = 256
emit = \"at_click\"

[[fields]]
name = \"user\"
kind = \"number\"
";
    let errors = Config::parse(text, "m.toml", [("DEEPFM__METRICS__WINDOW".to_owned(), "1".to_owned())]);
    let expected = "\
11 errors in configuration m.toml
m.toml:2: model.embeding_dim: unknown key; did you mean `embedding_dim`?
m.toml:3: model.seed: -1 is out of range: seeds are 63 bits wide; give a whole number from 0 to 9223372036854775807
m.toml:4: model.name: expected a string, found 3; put it in quotes
m.toml:7: model.mlp.layers: 0 is not a width; give whole numbers from 1 to 4096
m.toml:8: model.mlp.activation: \"rellu\" is not one of its values; did you mean \"relu\"?
m.toml:11: optimizer.bias.alpha: 0 is out of range: FTRL divides by alpha, its learning rate; give a number above 0
m.toml:13: jion: unknown key; did you mean `join`?
m.toml:17: training.batch_min: 512 is above batch_max, 256; batches grow from batch_min to batch_max
m.toml:19: training.emit: unknown key; it belongs to [join]
m.toml:23: fields[0].kind: \"number\" is not one of its values; give \"categorical\" or \"multi\" or \"numeric\"
DEEPFM__METRICS__WINDOW: metrics.window: unknown key; did you mean `window_impressions`?";
    assert_eq!(errors.expect_err("the text is wrong").to_string(), expected);
}

#[test]
fn what_is_not_toml_is_reported_with_line_and_column() {
    let errors = Config::parse("[model\nseed =\n[join]\nlabels 3\n", "m.toml", []).expect_err("not TOML");
    let text = errors.to_string();
    assert!(text.contains("\nm.toml:1:7: unclosed table, expected `]`"), "{text}");
    assert!(text.contains("\nm.toml:4:8: key with no value, expected `=`"), "{text}");
    let open = Config::parse("[model]\nname = \"a\n", "m.toml", []).expect_err("not TOML").to_string();
    assert!(open.contains("\nm.toml:2:10: invalid basic string"), "{open}");
    let twice = Config::parse("[model]\nseed = 1\nseed = 2\n", "m.toml", []).expect_err("not TOML").to_string();
    assert_eq!(twice, "1 error in configuration m.toml\nm.toml:3:1: duplicate key");
}

#[test]
fn linear_models_learn_faster_unless_told_otherwise() {
    assert_eq!(valid("").optimizer.linear.alpha, 0.05);
    assert_eq!(valid("[model]\nparts = \"fm\"").optimizer.linear.alpha, 0.05);
    assert_eq!(valid("[model]\nparts = \"linear\"").optimizer.linear.alpha, 0.1);
    assert_eq!(valid("[model]\nparts = \"linear\"\n[optimizer.linear]\nalpha = 0.02").optimizer.linear.alpha, 0.02);
}

#[test]
fn a_file_that_is_missing_is_one_error() {
    let errors = load(Path::new("no/such.toml"), []).expect_err("there is none").to_string();
    assert!(errors.starts_with("1 error in configuration no/such.toml\nno/such.toml: cannot be read: "), "{errors}");
    assert!(errors.ends_with("; write one with `deepfm config init`"), "{errors}");
}

#[test]
fn a_model_needs_fields_of_different_names() {
    let none = Config::parse("", "m.toml", []).expect_err("no fields").to_string();
    assert!(none.contains("m.toml: fields: a model needs at least one field; add [[fields]]"), "{none}");
    assert_eq!(complaint(FIELD), "fields[1].name: \"user\" is the name of another field too; remove one of the two");
    assert_eq!(
        complaint("[[fields]]\nkind = \"multi\""),
        "fields[1].name: is missing; give the key of the field in the features of impressions"
    );
    assert_eq!(
        complaint("[[fields]]\nname = \"x\""),
        "fields[1].kind: is missing; give \"categorical\" or \"multi\" or \"numeric\""
    );
    assert_eq!(
        complaint("[[fields]]\nname = \"x\"\nkind = \"multi\"\nedges = [1]"),
        "fields[1].edges: only numeric fields have edges; remove them, or set kind = \"numeric\""
    );
    assert_eq!(
        complaint("[[fields]]\nname = \"x\"\nkind = \"numeric\"\nedges = [1, 3, 2.5]"),
        "fields[1].edges: 2.5 comes after 3; sort the edges, each once"
    );
    assert_eq!(
        complaint("[[fields]]\nname = \"x\"\nkind = \"numeric\"\nweights = \"l1\""),
        "fields[1].weights: only multi-valued fields have weights; remove it, or set kind = \"multi\""
    );
    assert_eq!(
        complaint("[[fields]]\nname = \"x\"\nkind = \"multi\"\nweights = \"sum\""),
        "fields[1].weights: \"sum\" is not one of its values; give \"l1\" or \"l2\" or \"log\" or \"raw\""
    );
    let multi = valid("[[fields]]\nname = \"x\"\nkind = \"multi\"");
    assert_eq!(multi.fields[1].kind, FieldKind::Multi { weights: Weights::L2 });
    let numeric = valid("[[fields]]\nname = \"x\"\nkind = \"numeric\"\nedges = [1, 2.5]");
    assert_eq!(numeric.fields[1].kind, FieldKind::Numeric { edges: Some(vec![1.0, 2.5]) });
}

#[test]
fn numbers_out_of_range_are_refused_with_the_range() {
    let cases = [
        ("model.embedding_dim = 0", "each id has at least one dimension; give a whole number from 1 to 1024"),
        (
            "model.mlp.dropout = 1.0",
            "a layer whose every unit is dropped learns nothing; give a number at least 0 and below 1",
        ),
        ("optimizer.embedding.alpha = -0.1", "FTRL divides by alpha, its learning rate; give a number above 0"),
        ("optimizer.embedding.alpha = 1e-60", "FTRL divides by alpha, its learning rate; give a number above 0"),
        ("optimizer.linear.l2 = nan", "it makes steps smaller, as a larger beta does; give a number at least 0"),
        ("optimizer.mlp.momentum = 1", "momentum keeps a share of the last step; give a number at least 0 and below 1"),
        (
            "training.negative_sampling_rate = 0",
            "it is the share of negatives that is kept; give a number above 0 and at most 1",
        ),
        ("join.lateness_seconds = -3", "it is at most 366 days; give a whole number from 0 to 31622400"),
        (
            "versions.probes = 0",
            "servers score each probe before they serve a version; give a whole number from 1 to 10000",
        ),
        (
            "metrics.window_impressions = 99",
            "below 100 impressions a metric is noise; give a whole number from 100 to 1000000000",
        ),
    ];
    for (line, expected) in cases {
        let errors = Config::parse(&format!("{line}\n{FIELD}"), "m.toml", []).expect_err(line).to_string();
        assert!(errors.ends_with(&format!(" is out of range: {expected}")), "{line}: {errors}");
        assert_eq!(errors.lines().count(), 2, "{errors}");
    }
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    assert_eq!(
        complaint("[join]\nlabels = \"fake_negative\"\n[training]\nnegative_sampling_rate = 0.5"),
        "join.labels: \"fake_negative\" cannot be combined with training.negative_sampling_rate below 1: \
         every impression is learned as a negative first; set one of them to its default"
    );
    assert_eq!(
        complaint("[join]\nlabels = \"fake_negative\"\nemit = \"at_maturity\""),
        "join.emit: \"at_maturity\" cannot be combined with labels = \"fake_negative\", which learns at once; \
         leave emit out, or set labels = \"window\""
    );
    assert_eq!(
        complaint("[model.mlp]\nlayers = [8, 4]\ndropout = [0.1]"),
        "model.mlp.dropout: has 1 entries for 2 layers; give one number for all layers, or one for each"
    );
    assert_eq!(
        complaint("[kafka]\nclicks_topic = \"impressions\""),
        "kafka.clicks_topic: \"impressions\" is impressions_topic too; each kind of record needs its own topic"
    );
    assert_eq!(
        complaint("[kafka]\nacknowledgements_topic = \"deepfm-versions\""),
        "kafka.acknowledgements_topic: \"deepfm-versions\" is versions_topic too; each kind of record needs its own topic"
    );
    assert_eq!(
        complaint("[state]\ndir = \"d\"\n[versions]\ndir = \"d\""),
        "versions.dir: \"d\" is state.dir too; the state is the worker's alone: give each its own"
    );
}

#[test]
fn text_with_a_form_is_checked() {
    let cases = [
        ("[model]\nname = \"a/b\"", "model.name: \"a/b\" cannot be part of a key or a directory"),
        ("[kafka]\nbrokers = \"a:9092,\"", "kafka.brokers: \"a:9092,\" names no broker somewhere"),
        ("[kafka]\nversions_topic = \"a b\"", "kafka.versions_topic: \"a b\" cannot be the name of a topic"),
        ("[kafka]\nstart = \"2026-01-31\"", "kafka.start: \"2026-01-31\" is neither a name nor a time with its offset"),
        ("[admin]\nlisten = \":9464\"", "admin.listen: \":9464\" is not an address to listen at"),
        ("[serve]\nlisten = \"\"", "serve.listen: \"\" is not an address to listen at"),
        ("[serve]\ntarget = \"a/b\"", "serve.target: \"a/b\" is nothing to follow"),
        ("[serve]\nname = \"host 1\"", "serve.name: \"host 1\" cannot be the name of a server"),
        (
            "[serve]\narms = [\"a=live\"]",
            "serve.arms: \"a=live\" is no arm: write NAME=TARGET:SHARE, such as control=live:0.9",
        ),
        ("[serve]\narms = [1]", "serve.arms: 1 is no arm"),
        ("[serve]\narms = [\"a=live:0.5\", \"b=1:0.25\"]", "serve.arms: the shares of the arms come to 0.75, not to 1"),
        ("[serve]\narms = [\"a=live:0.5\", \"a=1:0.5\"]", "serve.arms: two arms are named \"a\""),
        (
            "[events.mapping.click]\nevent_time = \"ts\"",
            "events.mapping.click.event_time: \"ts\" is not a JSON pointer to it",
        ),
        ("[events.mapping.click]\nfeatures = \"/f\"", "events.mapping.click.features: unknown key"),
    ];
    for (text, expected) in cases {
        assert!(complaint(text).starts_with(&format!("{expected}; ")), "{}", complaint(text));
    }
}

#[test]
fn variables_override_the_file_and_need_no_quotes() {
    let config = with_environment(
        "[model]\nseed = 3\n[kafka.properties]\n\"client.id\" = \"file\"",
        &[
            ("DEEPFM__MODEL__SEED", "4"),
            ("DEEPFM__MODEL__NAME", "123"),
            ("DEEPFM__MODEL__MLP__LAYERS", "[8, 4]"),
            ("DEEPFM__MODEL__MLP__ACTIVATION", "tanh"),
            ("DEEPFM__KAFKA__BROKERS", "a:1, b:2"),
            ("DEEPFM__KAFKA__START", "2026-01-31T00:00:00Z"),
            ("DEEPFM__KAFKA__PROPERTIES__FETCH_WAIT_MAX_MS", "10"),
            ("DEEPFM__KAFKA__PROPERTIES__CLIENT_ID", "variable"),
            ("DEEPFM__ADMIN__LISTEN", ""),
            ("DEEPFM_DATA_DIR", "not ours: one underscore"),
        ],
    )
    .unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!((config.model.seed, config.model.name.as_str()), (4, "123"));
    assert_eq!(config.model.mlp.layers, [8, 4]);
    assert_eq!(config.kafka.brokers, "a:1,b:2");
    assert_eq!(config.kafka.start, Start::At(1_769_817_600_000));
    let properties: Vec<(&str, &str)> = config.kafka.librdkafka_properties().collect();
    assert_eq!(properties, [("client.id", "variable"), ("fetch.wait.max.ms", "10")]);
    assert_eq!(config.admin.listen, None);
}

#[test]
fn fields_are_overridden_as_a_whole() {
    let fields = "[{name = \"item\", kind = \"multi\"}]";
    let config = with_environment("", &[("DEEPFM__FIELDS", fields)]).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(config.fields.len(), 1);
    assert_eq!(config.fields[0].name, "item");
}

#[test]
fn errors_of_variables_name_the_variable() {
    let errors = with_environment(
        "",
        &[
            ("DEEPFM__MODEL__SEEED", "4"),
            ("DEEPFM__MODEL__SEED", "four"),
            ("DEEPFM__MODEL__NAME__FIRST", "x"),
            ("DEEPFM__", "x"),
            ("DEEPFM__MODEL__NAME", "a"),
            ("DEEPFM__KAFKA__PROPERTIES__GROUP_ID", "g"),
        ],
    );
    let expected = "\
5 errors in configuration m.toml
DEEPFM__: the variable names no key; name it DEEPFM__SECTION__KEY, such as DEEPFM__MODEL__SEED
DEEPFM__KAFKA__PROPERTIES__GROUP_ID: kafka.properties.group.id: is set by the worker; partitions are assigned by the \
worker itself and offsets live in its checkpoints, not in a group
DEEPFM__MODEL__NAME__FIRST: model.name: is not a section; set the whole key instead
DEEPFM__MODEL__SEED: model.seed: expected a whole number, found the string \"four\"; give a whole number from 0 to \
9223372036854775807
DEEPFM__MODEL__SEEED: model.seeed: unknown key; did you mean `seed`?";
    assert_eq!(errors.expect_err("all are wrong").to_string(), expected);
}

/// A configuration that differs from the default in every section.
const UNUSUAL: &str = "
[[fields]]
name = 'odd \"name\"'
kind = \"numeric\"
edges = [-1, 0.5, 1e30]
[[fields]]
name = \"counts\"
kind = \"multi\"
weights = \"log\"
[model]
name = \"m2\"
seed = 9
parts = \"fm\"
[model.mlp]
layers = [16]
activation = \"leaky_relu\"
dropout = 0.25
[optimizer.embedding]
alpha = 0.07
l21 = 0.001
[training]
n_max = 1000
negative_sampling_rate = 0.1
[join]
attribution_window_seconds = 60
emit = \"at_maturity\"
late_clicks = \"drop\"
[events]
future_max_seconds = 0
[events.mapping.impression]
event_time = \"/meta/ts\"
features = \"\"
time_unit = \"rfc3339\"
[kafka]
brokers = [\"a:1\", \"b:2\"]
start = 2026-01-31T00:00:00.5Z
[kafka.properties]
client.id = \"x\"
[state]
dir = \"/var/lib/s\"
[versions]
interval_examples = 1000
[admin]
listen = \"\"
[metrics]
window_impressions = 500
";

#[test]
fn what_is_shown_loads_again_as_the_same_configuration() {
    for config in [valid(""), valid(UNUSUAL)] {
        let shown = config.to_toml();
        let again = Config::parse(&shown, "shown", []).unwrap_or_else(|errors| panic!("{errors}\n{shown}"));
        assert_eq!(again, config);
        assert_eq!(again.to_toml(), shown);
    }
    let json = valid(UNUSUAL).to_json();
    assert_eq!(json["optimizer"]["embedding"]["alpha"].to_string(), "0.07");
    assert_eq!(json["kafka"]["start"], "2026-01-31T00:00:00.5Z");
    assert_eq!(json["fields"][1]["edges"][1].to_string(), "0.5");
}

#[test]
fn the_core_is_given_what_the_file_says() {
    let config = valid(UNUSUAL);
    let join = config.join_params();
    assert_eq!((join.window_ms, join.lateness_ms, join.retention_ms), (60_000, 0, 60_000));
    assert_eq!((join.labels, join.late_clicks), (LabelPolicy::AtMaturity, LatePolicy::Drop));
    let model = config.model_params();
    assert_eq!((model.fields, model.parts, model.n_max), (3, Parts::Fm, Some(1000.0)));
    assert_eq!(model.mlp.layers, Vec::<usize>::new(), "a model without an MLP has no layers");
    assert_eq!((model.embedding.alpha, model.embedding.l21, model.linear.l21), (0.07, 0.001, 0.0));
    let events = config.event_options();
    assert_eq!(events.mapping.impression.event_time.as_deref(), Some("/meta/ts"));
    assert_eq!(
        (events.mapping.impression.time_unit, events.mapping.click.time_unit),
        (TimeUnit::Rfc3339, TimeUnit::Ms)
    );
    let both = valid("[model.mlp]\nlayers = [8, 4]\ndropout = 0.5").model_params().mlp;
    assert_eq!((both.layers, both.dropout), (vec![8, 4], vec![0.5, 0.5]));
    assert_eq!(valid("[join]\nlabels = \"fake_negative\"").join_params().labels, LabelPolicy::FakeNegative);
}

#[test]
fn the_fingerprint_covers_what_decides_the_state_and_nothing_else() {
    let base = valid("").fingerprint();
    assert_eq!(base.len(), 16);
    assert_eq!(valid("[join]\nretention_seconds = 1800").fingerprint(), base, "defaults count as given");
    let multi = |weights| format!("[[fields]]\nname = \"x\"\nkind = \"multi\"\nweights = \"{weights}\"");
    let decisive = [
        FIELD.replace("user", "item"),
        "[model]\nembedding_dim = 11".to_owned(),
        "[model]\nseed = 2".to_owned(),
        "[model.mlp]\ndropout = 0.1".to_owned(),
        "[optimizer.mlp]\nmomentum = 0.5".to_owned(),
        "[optimizer.bias]\nalpha = 0.2".to_owned(),
        "[training]\nbatch_max = 128".to_owned(),
        "[training]\nn_max = 10".to_owned(),
        "[training]\ngradient_max = 10".to_owned(),
        "[join]\nlateness_seconds = 1".to_owned(),
        "[join]\nopen_impressions_max = 10".to_owned(),
        "[events]\nfeatures_max = 10".to_owned(),
        "[events]\nweight_max = 10".to_owned(),
        multi("l2"),
        multi("raw"),
        "[events.mapping.click]\ntime_unit = \"s\"".to_owned(),
        "[metrics]\nwindow_impressions = 500".to_owned(),
    ];
    let mut seen = vec![base.clone()];
    for text in &decisive {
        let fingerprint = valid(text).fingerprint();
        assert!(!seen.contains(&fingerprint), "{text}");
        seen.push(fingerprint);
    }
    let elsewhere = [
        "[model]\nname = \"other\"",
        "[kafka]\nbrokers = \"b:1\"\nstart = \"latest\"\nidle_after_ms = 50",
        "[kafka.properties]\nclient.id = \"x\"",
        "[state]\ndir = \"s\"",
        "[versions]\ninterval_seconds = 5",
        "[admin]\nlisten = \"\"",
        "[events]\ndead_letter_bytes_max = 1",
    ];
    for text in elsewhere {
        assert_eq!(valid(text).fingerprint(), base, "{text}");
    }
}

#[test]
fn a_check_sums_up_and_warns() {
    let summary = check::summarize(&valid(""));
    assert_eq!(
        summary.to_string(),
        format!(
            "model clicks: 1 fields, dimension 10, MLP 64-32 (2816 parameters); window 1800 s; fingerprint {}",
            summary.fingerprint
        )
    );
    assert_eq!(summary.warnings, Vec::<String>::new());
    let odd =
        check::summarize(&valid("[join]\nretention_seconds = 0\nremembered_max = 1\n[versions]\ninterval_seconds = 0"));
    assert_eq!(odd.warnings.len(), 3, "{:?}", odd.warnings);
}

#[test]
fn a_gate_over_a_field_that_is_not_there_is_refused_with_the_one_that_was_meant() {
    let refused = parse("[gate]\nslice_field = \"usr\"").expect_err("there is no such field").to_string();
    assert!(refused.contains("\"usr\" is not one of [[fields]]") && refused.contains("\"user\""), "{refused}");
    let gate = parse("[gate]\nslice_field = \"user\"").expect("it is there");
    let fields = gate.field_set().expect("there is one");
    assert_eq!(gate.gate.params(&fields).slice_field, Some(0));
    assert_eq!(parse("").expect("it is whole").gate.params(&fields).slice_field, None);
}
