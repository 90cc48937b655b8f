//! `[kafka.properties]`: any setting of librdkafka, but for the few that the worker's guarantees rest on.
//!
//! Each is put to librdkafka itself when the file is read, so that a misspelt name is an error with a line, not a failed
//! start. `NAME.file` reads the value of NAME from a file, which keeps secrets out of configurations.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use serde::Serializer;
use serde::ser::SerializeMap;

use super::declare::Readable;
use super::document::{Node, Table, Value};
use super::error::Origin;
use super::keys::{FREE_SECTION, Part};
use super::overlay::FILE_SUFFIX;
use super::section::Section;

pub(super) const PART: Part = Part::empty(
    FREE_SECTION,
    &[
        "Any setting of librdkafka, by its name there. \"NAME.file\" reads the value of NAME from a file: the way to give",
        "secrets. Settings that the worker's guarantees rest on (group.id, enable.auto.commit, auto.offset.reset, ...) are",
        "refused, each with its reason.",
    ],
);

/// What `config show` prints in place of a secret.
const REDACTED: &str = "(redacted)";

/// The largest file that a value is read from, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Settings that are refused, and why.
const REFUSED: &[(&str, &str)] = &[
    ("bootstrap.servers", "set kafka.brokers instead"),
    ("metadata.broker.list", "set kafka.brokers instead"),
    ("group.id", "partitions are assigned by the worker itself and offsets live in its checkpoints, not in a group"),
    ("group.instance.id", "the worker is in no consumer group"),
    ("enable.auto.commit", "offsets live in the checkpoint, together with what was learned from them"),
    ("auto.commit.enable", "offsets live in the checkpoint, together with what was learned from them"),
    ("enable.auto.offset.store", "offsets live in the checkpoint, together with what was learned from them"),
    (
        "auto.offset.reset",
        "set kafka.start instead; it is resolved once, and a gap in the log is never skipped silently",
    ),
    ("enable.partition.eof", "the worker must see where a partition ends, to know that it is idle"),
    ("isolation.level", "records of aborted transactions must not be learned, and end offsets have to agree with that"),
    ("transactional.id", "it is derived from the name of the model, to fence off a second worker"),
    ("enable.idempotence", "announcements and dead letters must be written once and in order"),
    ("acks", "an announcement counts when all replicas have it"),
    ("request.required.acks", "an announcement counts when all replicas have it"),
    ("allow.auto.create.topics", "topics need settings of their own: create them with `deepfm topics apply`"),
    ("plugin.library.paths", "no foreign code is loaded into the worker"),
    ("ssl.engine.location", "no foreign code is loaded into the worker"),
    ("ssl.engine.id", "no foreign code is loaded into the worker"),
    ("ssl.providers", "no foreign code is loaded into the worker"),
    ("sasl.kerberos.kinit.cmd", "the worker runs no command of a configuration"),
];

/// Properties of librdkafka that end like ours but are its own: they name a file that it reads itself.
const OWN_FILES: &[&str] = &[
    "sasl.oauthbearer.assertion.file",
    "sasl.oauthbearer.assertion.private.key.file",
    "sasl.oauthbearer.assertion.jwt.template.file",
];

/// Parts of names whose values are secrets.
const SECRETS: &[&str] = &["password", "secret", "passphrase", "ssl.key.pem", "private.key.pem", "oauthbearer.config"];

/// The value of a property. Where it came from a file, or is a secret, it is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Property {
    value: String,
    given: Given,
    secret: bool,
}

/// Where the value of a property stood.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Given {
    /// In the configuration itself.
    Inline,
    /// In an environment variable.
    Variable,
    /// In a file that the configuration names.
    File(PathBuf),
}

impl Property {
    /// The value itself.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// The file that the value was read from.
    pub fn file(&self) -> Option<&Path> {
        match &self.given {
            Given::File(path) => Some(path),
            Given::Inline | Given::Variable => None,
        }
    }

    /// Whether it is a secret that stands in the configuration itself.
    pub(super) fn is_inline_secret(&self) -> bool {
        self.secret && self.given == Given::Inline
    }
}

impl fmt::Debug for Property {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hidden = self.secret || self.file().is_some();
        f.write_str(if hidden { REDACTED } else { &self.value })
    }
}

/// The properties by their names.
pub(super) type Properties = BTreeMap<String, Property>;

impl Readable for Properties {
    fn read_keys(section: &Section<'_>) -> Self {
        read(section)
    }
}

fn read(section: &Section<'_>) -> Properties {
    let mut properties = BTreeMap::new();
    let mut flat = Vec::new();
    if let Some(table) = section.table() {
        flatten("", table, &mut flat);
    }
    for (name, node) in flat {
        let reader = Reader { section, name: &name, node };
        let plain = name.strip_suffix(FILE_SUFFIX).filter(|_| !OWN_FILES.contains(&name.as_str()));
        let property = match plain {
            Some(_) => reader.read_file(),
            None => reader.read_value(),
        };
        let plain = plain.unwrap_or(&name);
        let Some(mut property) = property.filter(|_| reader.is_allowed(plain)) else {
            continue;
        };
        property.secret = is_secret(plain);
        if !reader.librdkafka_takes(plain, &property) {
            continue;
        }
        if properties.insert(plain.to_owned(), property).is_some() {
            reader.refuse(format!("is given twice: as {plain} and as {plain}{FILE_SUFFIX}"), "keep one");
        }
    }
    properties
}

/// A dotted name without quotes is a nest of tables in TOML; it means the same here as with quotes.
fn flatten<'a>(prefix: &str, table: &'a Table, flat: &mut Vec<(String, &'a Node)>) {
    for (key, node) in table {
        let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        match &node.value {
            Value::Table(inner) => flatten(&name, inner, flat),
            _ => flat.push((name, node)),
        }
    }
}

fn is_secret(name: &str) -> bool {
    SECRETS.iter().any(|part| name.contains(part))
}

/// One property on its way in.
struct Reader<'a> {
    section: &'a Section<'a>,
    name: &'a str,
    node: &'a Node,
}

impl Reader<'_> {
    fn refuse(&self, problem: impl Into<String>, fix: &str) {
        let origin: Origin = self.node.origin.clone();
        self.section.report().add(origin, self.section.key(self.name), problem, fix);
    }

    fn read_value(&self) -> Option<Property> {
        let value = match (&self.node.raw, &self.node.value) {
            (Some(raw), _) => raw.clone(),
            (None, Value::Text(text)) => text.clone(),
            (None, Value::Integer(number)) => number.to_string(),
            (None, Value::Float(number)) => number.to_string(),
            (None, Value::Bool(value)) => value.to_string(),
            (None, Value::Time(_) | Value::List(_) | Value::Table(_)) => {
                self.refuse("expected a string, a number, true or false", "put the value in quotes");
                return None;
            }
        };
        if value == REDACTED {
            let fix = format!("give the value, or \"{}{FILE_SUFFIX}\" = the file that has it", self.name);
            self.refuse("is what `config show` prints in place of a secret", &fix);
            return None;
        }
        Some(Property {
            value,
            given: if self.node.raw.is_some() { Given::Variable } else { Given::Inline },
            secret: false,
        })
    }

    fn read_file(&self) -> Option<Property> {
        let path = match (&self.node.raw, &self.node.value) {
            (Some(raw), _) => PathBuf::from(raw),
            (None, Value::Text(text)) => PathBuf::from(text),
            _ => {
                self.refuse("expected the path of a file", "put the path in quotes");
                return None;
            }
        };
        let shown = path.display();
        let size = fs::metadata(&path).map(|meta| meta.len());
        if size.is_ok_and(|bytes| bytes > FILE_BYTES_MAX) {
            self.refuse(format!("the file {shown} is larger than 1 MiB"), "name the file that has the value alone");
            return None;
        }
        match fs::read_to_string(&path) {
            Ok(text) if !text.trim().is_empty() => {
                Some(Property { value: text.trim().to_owned(), given: Given::File(path), secret: false })
            }
            Ok(_) => {
                self.refuse(format!("the file {shown} is empty"), "write the value into it");
                None
            }
            Err(error) => {
                let fix = "the path is taken from the working directory, and the file must be readable";
                self.refuse(format!("cannot read {shown}: {error}"), fix);
                None
            }
        }
    }

    fn is_allowed(&self, plain: &str) -> bool {
        let found = REFUSED.iter().find(|(name, _)| *name == plain);
        if let Some((_, reason)) = found {
            self.refuse("is set by the worker", reason);
        }
        found.is_none()
    }

    /// Asks librdkafka, without connecting to anything.
    fn librdkafka_takes(&self, plain: &str, property: &Property) -> bool {
        let taken = ClientConfig::new().set(plain, property.value()).create_native_config();
        let Err(error) = taken else {
            return true;
        };
        // A value from a variable may be a secret under a name that does not say so; that there is no such name is told.
        let is_shown = |description: &str| match property.given {
            Given::Inline => !property.secret,
            Given::Variable | Given::File(_) => description.starts_with("No such configuration property"),
        };
        match error {
            KafkaError::ClientConfig(_, description, _, _) if is_shown(&description) => {
                self.refuse(format!("librdkafka refuses it: {description}"), "its CONFIGURATION.md lists all settings");
            }
            _ => self.refuse("librdkafka refuses it", "its CONFIGURATION.md lists all settings"),
        }
        false
    }
}

/// Properties as the file writes them: by the file they came from, and without secrets.
pub(super) fn serialize<S: Serializer>(properties: &Properties, serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(properties.len()))?;
    for (name, property) in properties {
        match property.file() {
            Some(path) => map.serialize_entry(&format!("{name}{FILE_SUFFIX}"), path)?,
            None if property.secret => map.serialize_entry(name, REDACTED)?,
            None => map.serialize_entry(name, &property.value)?,
        }
    }
    map.end()
}
