use super::*;
use deepfm_core::event::options::Mappings;

fn parse(text: &str) -> Config {
    Config::parse(text, "deepfm.toml", []).unwrap_or_else(|errors| panic!("{errors}"))
}

/// The keys of a file with their sections, those in lines commented out with `#key = value` included.
fn keys_in(text: &str) -> Vec<String> {
    let mut section = String::new();
    let mut found = Vec::new();
    for line in text.lines() {
        if line.starts_with('[') {
            section = line.trim_matches(['[', ']']).to_owned();
        } else if let Some((key, _)) =
            line.trim_start_matches('#').split_once(" = ").filter(|(key, _)| !key.contains(' '))
        {
            found.push(format!("{section}.{key}"));
        }
    }
    found
}

#[test]
fn the_default_file_has_the_defaults() {
    let file = parse(&template::template());
    let defaults = Config { fields: file.fields.clone(), ..Config::default() };
    assert_eq!(file.fields.len(), 3);
    assert_eq!(file.to_toml(), defaults.to_toml());
    assert_eq!(file, defaults);
}

#[test]
fn the_default_file_has_every_key() {
    let found = keys_in(&template::template());
    let missing: Vec<String> = table::keys().map(|(path, _)| path).filter(|key| !found.contains(key)).collect();
    assert_eq!(missing, Vec::<String>::new());
}

#[test]
fn keys_shown_in_comments_have_the_values_they_would_have_anyway() {
    let template = template::template();
    let before_properties = template.split("[kafka.properties]").next().expect("there is a first part");
    let uncommented: Vec<&str> = before_properties
        .lines()
        .map(|line| if line.starts_with("# ") { "" } else { line.trim_start_matches('#') })
        .collect();
    let mut file = parse(&uncommented.join("\n"));
    assert_eq!(file.events.mapping.impression.weight.as_deref(), Some("/weight"));
    file.events.mapping = Mappings::default();
    file.fields.clear();
    assert_eq!(file, Config::default());
}

#[test]
fn every_key_is_read_and_none_takes_a_table() {
    let lines: Vec<String> = table::keys().map(|(key, _)| format!("{key} = {{ x = 1 }}")).collect();
    let text = format!("{}\n[[fields]]\nname = \"a\"\nkind = \"multi\"", lines.join("\n"));
    let errors = Config::parse(&text, "deepfm.toml", []).expect_err("nothing fits").errors;
    let mut complained: Vec<String> = errors.into_iter().map(|error| error.key).collect();
    let mut known: Vec<String> = table::keys().map(|(path, _)| path).collect();
    complained.sort();
    known.sort();
    assert_eq!(complained, known);
}
