//! `[kafka.properties]`: what passes, what is refused and why, and secrets.

use std::fs;

use deepfm_stream::config::{Config, check};

use super::{complaint, valid, with_environment};

#[test]
fn properties_reach_librdkafka_with_and_without_quotes() {
    let config = valid("[kafka.properties]\nfetch.wait.max.ms = 10\n\"socket.keepalive.enable\" = true");
    let properties: Vec<(&str, &str)> = config.kafka.librdkafka_properties().collect();
    assert_eq!(properties, [("fetch.wait.max.ms", "10"), ("socket.keepalive.enable", "true")]);
}

#[test]
fn properties_that_librdkafka_does_not_know_are_refused_before_any_start() {
    assert_eq!(
        complaint("[kafka.properties]\nfetch.wait.max.mss = 10"),
        "kafka.properties.fetch.wait.max.mss: librdkafka refuses it: No such configuration property: \
         \"fetch.wait.max.mss\"; its CONFIGURATION.md lists all settings"
    );
    let value = complaint("[kafka.properties]\nsecurity.protocol = \"tsl\"");
    assert!(value.contains("Invalid value \"tsl\" for configuration property \"security.protocol\""), "{value}");
}

#[test]
fn properties_that_guarantees_rest_on_are_refused_with_the_reason() {
    let refused = [
        "group.id",
        "enable.auto.commit",
        "auto.offset.reset",
        "enable.partition.eof",
        "bootstrap.servers",
        "transactional.id",
        "enable.idempotence",
        "enable.auto.offset.store",
        "isolation.level",
        "acks",
        "plugin.library.paths",
        "ssl.engine.location",
        "ssl.engine.id",
        "ssl.providers",
        "sasl.kerberos.kinit.cmd",
    ];
    for name in refused {
        for text in [format!("\"{name}\" = \"x\""), format!("\"{name}.file\" = \"Cargo.toml\"")] {
            let complaint = complaint(&format!("[kafka.properties]\n{text}"));
            assert!(complaint.contains("is set by the worker; "), "{complaint}");
        }
    }
    let brokers = complaint("[kafka.properties]\nbootstrap.servers = \"x\"");
    assert_eq!(brokers, "kafka.properties.bootstrap.servers: is set by the worker; set kafka.brokers instead");
}

#[test]
fn a_secret_is_read_from_its_file_and_never_shown() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("password");
    fs::write(&path, "hunter2\n").expect("a file");
    let text = format!("[kafka.properties]\n\"sasl.password.file\" = {path:?}\nsasl.username = \"me\"");
    let config = valid(&text);
    let properties: Vec<(&str, &str)> = config.kafka.librdkafka_properties().collect();
    assert_eq!(properties, [("sasl.password", "hunter2"), ("sasl.username", "me")]);
    for shown in [config.to_toml(), config.to_json().to_string(), format!("{config:?}")] {
        assert!(!shown.contains("hunter2"), "{shown}");
    }
    assert!(config.to_toml().contains(&format!("\"sasl.password.file\" = \"{}\"", path.display())));
    assert_eq!(Config::parse(&config.to_toml(), "shown", []).unwrap_or_else(|errors| panic!("{errors}")), config);
}

#[test]
fn a_secret_in_the_configuration_itself_is_redacted_and_warned_of() {
    let config = valid("[kafka.properties]\n\"ssl.key.password\" = \"hunter2\"\nsasl.password = \"hunter3\"");
    for shown in [config.to_toml(), config.to_json().to_string(), format!("{config:?}")] {
        assert!(!shown.contains("hunter") && shown.contains("(redacted)"), "{shown}");
    }
    let warnings = check::summarize(&config).warnings;
    assert!(
        warnings.iter().any(|warning| warning.contains("\"sasl.password.file\" reads it from a file")),
        "{warnings:?}"
    );
    let again = Config::parse(&config.to_toml(), "shown", []).expect_err("the secrets are gone").to_string();
    assert!(again.contains("is what `config show` prints in place of a secret; give the value, or \""), "{again}");
}

#[test]
fn a_secret_is_not_in_an_error_either() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("secret");
    fs::write(&path, "hunter2").expect("a file");
    let complaint = complaint(&format!("[kafka.properties]\n\"security.protocol.file\" = {path:?}"));
    assert!(complaint.contains("librdkafka refuses it; ") && !complaint.contains("hunter2"), "{complaint}");
}

#[test]
fn what_a_variable_says_of_librdkafka_is_in_no_error() {
    let errors =
        |name: &str, value: &str| with_environment("", &[(name, value)]).expect_err("it cannot be used").to_string();
    for (name, value) in [
        ("DEEPFM__KAFKA__PROPERTIES", "hunter2"),
        ("DEEPFM__KAFKA__PROPERTIES", "{\"sasl.password\" = \"hunter2\""),
        ("DEEPFM__KAFKA", "sasl.password=hunter2"),
        ("DEEPFM__KAFKA__PROPERTIES__SECURITY_PROTOCOL", "hunter2"),
        ("DEEPFM__KAFKA__PROPERTIES__SOCKET_TIMEOUT_MS", "hunter2"),
        ("DEEPFM__KAFKA__PROPERTIES__SASL_PASWORD", "hunter2"),
        ("DEEPFM__KAFKA__PROPERTIES__SASL_USERNAME", "[\"hunter2\"]"),
    ] {
        let Err(errors) = with_environment("", &[(name, value)]) else { continue };
        assert!(!errors.to_string().contains("hunter2"), "{name}: {errors}");
    }
    let misspelt = errors("DEEPFM__KAFKA__PROPERTIES__SASL_PASWORD", "hunter2");
    assert!(misspelt.contains("No such configuration property: \"sasl.pasword\""), "{misspelt}");
    let refused = errors("DEEPFM__KAFKA__PROPERTIES__SECURITY_PROTOCOL", "hunter2");
    assert!(refused.contains("librdkafka refuses it; "), "{refused}");
    let section = errors("DEEPFM__KAFKA__PROPERTIES", "hunter2");
    assert!(section.contains("expected a section, found a string"), "{section}");
}

#[test]
fn files_of_secrets_that_cannot_be_used_are_errors() {
    let missing = complaint("[kafka.properties]\n\"sasl.password.file\" = \"no/such\"");
    assert!(missing.starts_with("kafka.properties.sasl.password.file: cannot read no/such: "), "{missing}");
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("empty");
    fs::write(&path, " \n").expect("a file");
    let text = format!("[kafka.properties]\n\"sasl.password.file\" = {path:?}");
    assert!(complaint(&text).ends_with(" is empty; write the value into it"), "{}", complaint(&text));
    fs::write(&path, "x").expect("a file");
    let twice = complaint(&format!("{text}\n\"sasl.password\" = \"y\""));
    assert!(twice.ends_with("is given twice: as sasl.password and as sasl.password.file; keep one"), "{twice}");
}

#[test]
fn a_variable_with_a_secret_replaces_the_file_of_one() {
    let config = with_environment(
        "[kafka.properties]\n\"sasl.password.file\" = \"no/such\"",
        &[("DEEPFM__KAFKA__PROPERTIES__SASL_PASSWORD", "12345")],
    )
    .unwrap_or_else(|errors| panic!("{errors}"));
    let properties: Vec<(&str, &str)> = config.kafka.librdkafka_properties().collect();
    assert_eq!(properties, [("sasl.password", "12345")]);
    assert_eq!(check::summarize(&config).warnings, Vec::<String>::new());
}
