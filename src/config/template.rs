//! The commented file that sets nothing: every key with its doc, its default and its values.

use toml::{Table, Value};

use super::Config;
use super::keys::{FREE_SECTION, Key, Look, Part};
use super::table::SECTIONS;

/// What stands above the sections: how files work, and example fields.
const HEAD: &str = r#"# The default configuration of deepfm, every key with its default, and behind it what else it may be.
#
# A key may be left out: it then has the value shown here. Lines that begin with `#name =` are keys that have no value
# by default, or one that follows from others. Units stand in the names. Unknown keys are refused, and all errors of a
# file are reported at once (`deepfm config check`). `deepfm config show` prints what is in effect.
#
# DEEPFM__SECTION__KEY in the environment overrides a key: DEEPFM__MODEL__MLP__LAYERS='[32]', and for a setting of
# librdkafka, with `_` for its dots, DEEPFM__KAFKA__PROPERTIES__SECURITY_PROTOCOL=ssl. Fields are set as a whole:
# DEEPFM__FIELDS='[{name = "user_id", kind = "categorical"}]'. Relative paths start at the working directory.

# The fields to learn from, in the order in which the MLP sees them. Replace these examples with yours, or let
# `deepfm config init --events DIR` find them in sample events. A field that an event lacks has no effect on its score.
#   categorical  one string, number or boolean; each distinct value has its own weights
#   multi        a list (each entry weighs 1), or an object of weights, scaled by `weights`; the vectors of its entries
#                are summed
#   numeric      a quantity, by its bucket: logarithmic ones, or between the ascending `edges`
# `weights` scales what an object gives its values: "l2" (the default) over the root of the sum of squares, "l1" over the
# sum (shares), "log" to ln(1 + weight) (counts whose amount matters), "raw" not at all: one large weight then outshouts
# everything, so scale such weights yourself, to about 1.
# `share` may say what share of impressions has the field: a worker warns when it falls below half of it (renamed?).
# Fields may be added later, at the end of the list; any other change of them needs a new model.

[[fields]]
name = "user_id"
kind = "categorical"

[[fields]]
name = "tags"
kind = "multi"
# weights = "l2"

[[fields]]
name = "price"
kind = "numeric"
# edges = [1, 5, 20, 100]
# share = 0.95
"#;

/// Examples of what `[kafka.properties]` takes.
const PROPERTIES: &str = r#"#"security.protocol" = "sasl_ssl"
#"sasl.mechanism" = "SCRAM-SHA-512"
#"sasl.username" = "deepfm"
#"sasl.password.file" = "/run/secrets/kafka-password"
"#;

/// A key on its way into a file.
pub(super) struct Setting {
    /// The key with its section.
    pub(super) path: String,
    pub(super) name: &'static str,
    /// What it has unless set, as TOML.
    pub(super) value: String,
    /// Which values it may have, in words.
    pub(super) values: String,
    /// Whether what it has is no value of its own, and so is shown in a comment only.
    pub(super) is_commented: bool,
}

impl Setting {
    /// The line that shows what the key has unless set, and what else it may have.
    pub(super) fn line(&self, is_commented: bool) -> String {
        let Self { name, value, values, .. } = self;
        let mark = if is_commented { "#" } else { "" };
        format!("{mark}{name} = {value}  # {values}\n")
    }
}

/// The default file, with example fields.
pub fn template() -> String {
    format!("{HEAD}\n{}", sections(|setting| setting.line(setting.is_commented)))
}

/// Every section after the fields; `line` writes a key below its doc.
pub(super) fn sections(line: impl Fn(&Setting) -> String) -> String {
    let defaults = defaults();
    let is_shown = |part: &&Part| part.path == FREE_SECTION || (part.path != "fields" && !part.keys.is_empty());
    let section = |part: &Part| {
        let mut text = format!("{}[{}]\n", comments(part.doc), part.path);
        for key in part.keys {
            let setting = setting(part, key, &defaults);
            text.push_str(&comments(key.doc));
            text.push_str(&line(&setting));
        }
        if part.path == FREE_SECTION {
            text.push_str(PROPERTIES);
        }
        text
    };
    SECTIONS.iter().filter(is_shown).map(section).collect::<Vec<_>>().join("\n")
}

fn setting(part: &Part, key: &Key, defaults: &Table) -> Setting {
    let path = format!("{}.{}", part.path, key.name);
    let value = match key.look {
        Look::Unset(value) => value.to_owned(),
        Look::Default | Look::Follows => at(defaults, &path).map(ToString::to_string).unwrap_or_default(),
    };
    Setting { path, name: key.name, value, values: key.values(), is_commented: key.look != Look::Default }
}

/// The default of a key; none for one that is unset unless given.
pub fn default_of(path: &str) -> Option<Value> {
    at(&defaults(), path).cloned()
}

/// The defaults as a file has them. By way of text: a table made directly would widen 0.1 in 32 bits.
fn defaults() -> Table {
    Config::default().to_toml().parse().expect("what is shown loads again")
}

fn at<'t>(table: &'t Table, path: &str) -> Option<&'t Value> {
    match path.split_once('.') {
        None => table.get(path),
        Some((section, rest)) => at(table.get(section)?.as_table()?, rest),
    }
}

fn comments(lines: &[&str]) -> String {
    lines.iter().flat_map(|line| ["# ", line.trim(), "\n"]).collect()
}
