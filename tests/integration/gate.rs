//! The gate and the aliases, as people meet them: a version that is bad is announced and not served, and `live` goes where it
//! is told to, beside a worker that goes on.

use deepfm_core::version::artefact::{MANIFEST, read_manifest};
use deepfm_core::version::gate::Criterion;
use serde_json::{Value, json};

use super::commands::{Place, quick, simulated_fields};
use super::keeping::{change, learn, listed, send};
use crate::support::broker;
use crate::support::command::{Running, installed, run};
use crate::support::wait_for;

/// A cohort of all impressions, the last hundred, and no circuit breaker before it.
const STRICT: &str = "[training]\nmissing_clicks_max = 0\n[gate]\nimpressions_min = 500\nsampling_rate = 1.0\ncohort_impressions = 100\n";

fn moved(config: &str, args: &[&str]) -> Value {
    run(&[&["versions"], args, &["--config", config, "--json", "--by", "anna", "--why", "a test"]].concat()).json()
}

#[test]
fn a_version_that_predicts_clicks_that_do_not_come_is_announced_as_rejected_and_live_stays() {
    let name = "a_version_that_predicts_clicks_that_do_not_come_is_announced_as_rejected_and_live_stays";
    let Some(broker) = broker::real(name) else { return };
    let place = Place::new(broker.kafka_with_topics("gate", 1), simulated_fields());
    let config = place.config("gate", STRICT);
    change(&config, "keep = 0\n", "keep = 0\nclick_silence_max_seconds = 0\n");
    send(broker, &place, 0..100, true);
    assert_eq!(learn(&config), 1);
    assert_eq!(listed(&config).1, Some(1));
    // Everybody stops clicking: the scores of the last hundred were of a model that did not know it.
    send(broker, &place, 100..116, false);
    assert_eq!(learn(&config), 2);
    let (versions, live) = listed(&config);
    assert_eq!(live, Some(1), "{:#}", versions[&2]["gate"]);
    let failed = |version: &Value| -> Vec<Value> {
        let checks = version["gate"]["checks"].as_array().expect("a list").iter();
        checks.filter(|check| check["passed"] == json!(false)).map(|check| check["criterion"].clone()).collect()
    };
    assert!(failed(&versions[&2]).contains(&json!(Criterion::Calibration)), "{:#}", versions[&2]["gate"]);
    assert_eq!((failed(&versions[&1]), &versions[&1]["gate"]["passed"]), (Vec::new(), &json!(true)));
    assert!(versions[&2]["held"].as_str().is_some_and(|held| held.contains("calibration is ")));
    // Servers without the topic hear of it by the manifest.
    let held = |number: u64| {
        let directory = versions[&number]["directory"].as_str().expect("it has one");
        let manifest = std::fs::read(place.path("gate-artefacts").join("gate").join(directory).join(MANIFEST));
        read_manifest(&manifest.expect("it is there")).expect("it is valid").held
    };
    assert_eq!((held(1), held(2).as_deref()), (None, versions[&2]["held"].as_str()));
    let text = run(&["versions", "list", "--config", &config]).stdout;
    assert_eq!((text.matches(" rejected").count(), text.matches(" live").count()), (1, 1), "{text}");
    // By hand it is served only when that is insisted on.
    let refused = run(&["versions", "promote", "2", "--config", &config]);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    assert!(refused.stderr.contains("rejected by the gate: calibration is "), "{}", refused.stderr);
    let promoted = moved(&config, &["promote", "2", "--force"]);
    assert_eq!((&promoted["alias"]["version"], &promoted["moved"]), (&json!(2), &json!(true)));
    let newest = &promoted["alias"]["moves"][0];
    assert_eq!((&newest["by"], &newest["why"], &newest["previous"]), (&json!("anna"), &json!("a test"), &json!(1)));
    // Back, and held there: the next good version does not undo it.
    let back = moved(&config, &["rollback"]);
    assert_eq!((&back["alias"]["version"], &back["hold"]["version"]), (&json!(1), &json!(1)));
    send(broker, &place, 116..216, true);
    assert_eq!(learn(&config), 3);
    let (versions, live) = listed(&config);
    assert_eq!((failed(&versions[&3]), live), (Vec::new(), Some(1)), "{:#}", versions[&3]["gate"]);
    let text = run(&["versions", "list", "--config", &config]).stdout;
    assert!(text.contains("live is held at version 1 by anna since "), "{text}");
    let resumed = run(&["versions", "rollback", "--resume", "--config", &config]);
    assert_eq!(resumed.stdout, "live moves from version 1 to 3 and is not held any more\n", "{}", resumed.stderr);
    let again = run(&["versions", "pin", "--resume", "--config", &config]);
    assert_eq!(again.code, Some(2), "{}", again.stderr);
    assert!(again.stderr.contains("is not held"), "{}", again.stderr);
    send(broker, &place, 216..226, true);
    assert_eq!((learn(&config), listed(&config).1), (4, Some(4)), "it follows again");
}

#[test]
fn a_model_that_got_a_field_more_is_compared_with_the_live_version_of_before() {
    let name = "a_model_that_got_a_field_more_is_compared_with_the_live_version_of_before";
    let Some(broker) = broker::real(name) else { return };
    let field = |name: &str| format!("[[fields]]\nname = \"{name}\"\nkind = \"categorical\"\n");
    let place = Place::new(broker.kafka_with_topics("wider", 1), field("user"));
    let config = place.config("wider", STRICT);
    send(broker, &place, 0..100, true);
    assert_eq!((learn(&config), listed(&config).1), (1, Some(1)));
    change(&config, &field("user"), &(field("user") + &field("device")));
    send(broker, &place, 100..130, true);
    assert_eq!(learn(&config), 2);
    let (versions, live) = listed(&config);
    let checks = versions[&2]["gate"]["checks"].as_array().expect("a list");
    let compared = checks.iter().find(|check| check["criterion"] == json!(Criterion::LogLoss)).expect("it is there");
    assert!(compared["said"].as_str().is_some_and(|said| said.contains("on the same 100 impressions")), "{compared}");
    assert_eq!(live, Some(2));
}

#[test]
fn a_worker_that_runs_is_not_fenced_by_a_pin_and_heeds_it() {
    let name = "a_worker_that_runs_is_not_fenced_by_a_pin_and_heeds_it";
    let Some(broker) = broker::real(name) else { return };
    let place = Place::new(broker.kafka("pinned"), simulated_fields());
    let config = quick(&place.config("pinned", "[gate]\nimpressions_min = 1\nclicks_min = 0\n"));
    assert_eq!(run(&["topics", "apply", "--config", &config, "--partitions", "1"]).code, Some(0));
    let traffic = Running::start(&["events", "simulate", "--config", &config, "--rate", "200", "--seconds", "120"]);
    let worker = Running::start(&["run", "--config", &config]);
    let artefacts = place.path("pinned-artefacts");
    wait_for("a live version", || listed(&config).1);
    let pinned = listed(&config).1.expect("it was just there");
    moved(&config, &["pin", &pinned.to_string()]);
    let before = installed(&artefacts).len();
    wait_for("two more versions", || (listed(&config).0.len() >= before + 2).then_some(()));
    assert_eq!(listed(&config).1, Some(pinned), "it is held");
    moved(&config, &["promote", &pinned.to_string()]);
    wait_for("live to follow again", || listed(&config).1.filter(|live| *live > pinned));
    let outcome = worker.terminate();
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    drop(traffic);
}

#[test]
fn a_rollback_of_the_state_takes_training_back_at_the_workers_next_start() {
    let name = "a_rollback_of_the_state_takes_training_back_at_the_workers_next_start";
    let Some(broker) = broker::real(name) else { return };
    let place = Place::new(broker.kafka_with_topics("turned", 1), simulated_fields());
    let config = place.config("turned", "[gate]\nimpressions_min = 1\nclicks_min = 0\n");
    send(broker, &place, 0..60, true);
    assert_eq!(learn(&config), 1);
    let none = run(&["versions", "rollback", "--to", "1", "--state", "--config", &config]);
    assert_eq!((none.code, listed(&config).1), (Some(74), Some(1)), "{}", none.stderr);
    assert!(none.stderr.contains("no training export in "), "{}", none.stderr);
    let export = run(&["artifact", "export", "--training", "--config", &config, "--json"]).json();
    let export = export["directory"].as_str().expect("a directory").to_owned();
    send(broker, &place, 60..90, true);
    assert_eq!(learn(&config), 2);
    let back = moved(&config, &["rollback", "--state"]);
    assert_eq!((&back["alias"]["version"], &back["hold"]["version"]), (&json!(1), &json!(1)));
    let goes_to = back["training_goes_back_to"].as_str().expect("a directory");
    assert_eq!(goes_to.rsplit('/').next(), export.rsplit('/').next());
    let outcome = run(&["run", "--config", &config, "--until-end", "--json"]);
    assert!(outcome.stderr.contains("training goes back to version 1, as anna asked"), "{}", outcome.stderr);
    assert_eq!(outcome.json()["versions"], json!([3]), "what came after version 1 is learned again");
    let (versions, live) = listed(&config);
    assert!(versions[&2]["abandoned"].is_object() && versions[&1]["abandoned"].is_null());
    assert_eq!((&versions[&3]["parent"]["version"], live), (&json!(1), Some(1)), "live is held");
    assert_eq!(versions[&3]["state_digest"], versions[&2]["state_digest"], "it is the same log");
    // It was heeded once.
    send(broker, &place, 90..100, true);
    let outcome = run(&["run", "--config", &config, "--until-end", "--json"]);
    assert!(!outcome.stderr.contains("training goes back"), "{}", outcome.stderr);
    assert_eq!(outcome.json()["versions"], json!([4]));
    // Who moves the alias on withdraws what was asked of training, and is told so.
    let back = moved(&config, &["rollback", "--to", "1", "--state"]);
    assert!(back["training_goes_back_to"].is_string() && back["withdrawn"] == false, "{back}");
    let on = moved(&config, &["promote", "1"]);
    assert!(on["training_goes_back_to"].is_null() && on["withdrawn"] == true, "{on}");
    assert_eq!(moved(&config, &["pin", "1"])["withdrawn"], false, "nothing is asked any more");
}
