//! Every key of a configuration, by section: what is not here is refused, with the nearest that is.

/// Sections and their keys, sub-sections included. `fields` has one section for each of its entries.
pub(super) const SECTIONS: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "fields",
            "model",
            "optimizer",
            "training",
            "join",
            "events",
            "kafka",
            "state",
            "versions",
            "exports",
            "admin",
            "metrics",
        ],
    ),
    ("fields", &["name", "kind", "edges", "weights", "share"]),
    (
        "model",
        &[
            "name",
            "embedding_dim",
            "seed",
            "init_scale",
            "parts",
            "rows_max",
            "admission_min_count",
            "expire_after_seconds",
            "mlp",
        ],
    ),
    ("model.mlp", &["layers", "activation", "dropout"]),
    ("optimizer", &["bias", "linear", "embedding", "mlp"]),
    ("optimizer.bias", &["alpha", "beta", "l1", "l2"]),
    ("optimizer.linear", &["alpha", "beta", "l1", "l2"]),
    ("optimizer.embedding", &["alpha", "beta", "l1", "l2", "l21"]),
    ("optimizer.mlp", &["learning_rate", "momentum", "l2", "clip_norm"]),
    (
        "training",
        &[
            "batch_min",
            "batch_max",
            "batch_growth_examples",
            "batch_span_ms",
            "negative_sampling_rate",
            "n_max",
            "gradient_max",
        ],
    ),
    (
        "join",
        &[
            "attribution_window_seconds",
            "click_before_ms",
            "lateness_seconds",
            "retention_seconds",
            "labels",
            "emit",
            "late_clicks",
            "open_impressions_max",
            "held_bytes_max",
            "waiting_clicks_max",
            "remembered_max",
        ],
    ),
    (
        "events",
        &["future_max_seconds", "record_bytes_max", "features_max", "weight_max", "dead_letter_bytes_max", "mapping"],
    ),
    ("events.mapping", &["impression", "click"]),
    ("events.mapping.impression", &["impression_id", "event_id", "event_time", "features", "weight", "time_unit"]),
    ("events.mapping.click", &["impression_id", "event_id", "event_time", "time_unit"]),
    (
        "kafka",
        &[
            "brokers",
            "impressions_topic",
            "clicks_topic",
            "versions_topic",
            "dead_letter_topic",
            "start",
            "idle_after_ms",
            "retry_max_seconds",
            "partition_refresh_seconds",
            "queue_records_max",
            "properties",
        ],
    ),
    ("state", &["dir", "checkpoint_interval_seconds", "undurable_max_seconds"]),
    (
        "versions",
        &[
            "dir",
            "interval_seconds",
            "interval_examples",
            "probes",
            "click_silence_max_seconds",
            "keep",
            "keep_days",
            "readers",
        ],
    ),
    ("exports", &["dir", "interval_seconds", "keep"]),
    ("admin", &["listen"]),
    ("metrics", &["window_impressions", "sampling_rate"]),
];

/// The one section whose keys are not ours: anything librdkafka knows.
pub(super) const FREE_SECTION: &str = "kafka.properties";

/// Every key that holds a value, with its section: `model.mlp.layers`. Keys of the entries of `fields` are left out.
pub fn all() -> impl Iterator<Item = String> {
    SECTIONS
        .iter()
        .filter(|(section, _)| !section.is_empty() && *section != "fields")
        .flat_map(|(section, keys)| keys.iter().map(move |key| format!("{section}.{key}")))
        .filter(|path| path != FREE_SECTION && !SECTIONS.iter().any(|(section, _)| section == path))
}

/// The keys of a section; entries of `fields` are called `fields[0]` and so on.
///
/// # Panics
/// If the section is not one of ours.
pub(super) fn of(section: &str) -> &'static [&'static str] {
    let plain = section.split('[').next().unwrap_or_default();
    let found = SECTIONS.iter().find(|(name, _)| *name == plain);
    found.expect("readers open only known sections").1
}

/// Advice on an unknown key: the nearest of its section, the section it belongs to, or all that could have been meant.
pub(super) fn advise(section: &str, key: &str) -> String {
    let keys = of(section);
    if let Some(near) = nearest(key, keys) {
        return format!("did you mean `{near}`?");
    }
    let elsewhere: Vec<&str> = SECTIONS.iter().filter(|(_, keys)| keys.contains(&key)).map(|(name, _)| *name).collect();
    match elsewhere.as_slice() {
        ["fields"] => "it belongs to an entry of [[fields]]".to_owned(),
        [""] => format!("[{key}] is a section of its own"),
        [name] => format!("it belongs to [{name}]"),
        _ if section.is_empty() => format!("the sections are {}", keys.join(", ")),
        _ => format!("the keys here are {}", keys.join(", ")),
    }
}

/// The known key that was probably meant: one begun or cut short, or one within a typing error or three.
pub(super) fn nearest(key: &str, keys: &[&'static str]) -> Option<&'static str> {
    let begun = |known: &str| {
        let (short, long) = if known.len() < key.len() { (known, key) } else { (key, known) };
        short.len() >= 4 && long.starts_with(short)
    };
    let allowed = (key.chars().count() / 3).clamp(1, 3);
    keys.iter()
        .map(|known| (if begun(known) { 0 } else { distance(key, known) }, *known))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, known)| known)
}

/// Optimal string alignment: insertions, deletions, replacements and swaps of neighbours that turn `a` into `b`.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    rows[0] = (0..=b.len()).collect();
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = least;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_swap_of_neighbours_is_one_error() {
        assert_eq!(distance("alhpa", "alpha"), 1);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("same", "same"), 0);
    }

    #[test]
    fn a_key_without_its_unit_is_recognised() {
        assert_eq!(nearest("attribution_window", of("join")), Some("attribution_window_seconds"));
        assert_eq!(nearest("wholly_different", of("join")), None);
    }

    #[test]
    fn keys_that_hold_values_are_listed_with_their_sections() {
        let keys: Vec<String> = all().collect();
        assert!(keys.contains(&"model.mlp.layers".to_owned()));
        assert!(!keys.contains(&"model.mlp".to_owned()));
        assert!(!keys.contains(&"kafka.properties".to_owned()));
    }
}
