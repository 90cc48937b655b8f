//! Which version a server wants, and what it accepts.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use deepfm_core::event::options::EventOptions;
use deepfm_core::feature::encoder::EntryBounds;
use deepfm_core::version::alias::LIVE;
use deepfm_core::version::names;

/// Which version is followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The one that an alias of the versions topic points at. A directory has none.
    Alias(String),
    /// The newest that was neither held back nor abandoned.
    Latest,
    /// One, for good.
    Pinned(u64),
}

impl Default for Target {
    fn default() -> Self {
        Self::Alias(LIVE.to_owned())
    }
}

impl FromStr for Target {
    type Err = Infallible;

    /// `latest`, a version's number, or the name of an alias.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match names::version(text) {
            Some(number) => Self::Pinned(number),
            None if text == "latest" => Self::Latest,
            None => Self::Alias(text.to_owned()),
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Alias(alias) => f.write_str(alias),
            Self::Latest => f.write_str("latest"),
            Self::Pinned(number) => write!(f, "{number}"),
        }
    }
}

/// Fingerprints that versions must have to be served. What is not given is not asked for; that fields and hashing are what the
/// version's own manifest says of them is checked in any case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Required {
    /// Of the fields.
    pub fields: Option<String>,
    /// Of the configuration.
    pub configuration: Option<String>,
}

/// How versions are followed and requests are bounded.
#[derive(Clone, Debug, PartialEq)]
pub struct FollowOptions {
    /// Name of the model: versions of others are refused.
    pub model: String,
    /// Which version is followed.
    pub target: Target,
    /// What versions must be.
    pub required: Required,
    /// What one row of features may hold.
    pub bounds: EntryBounds,
    /// The most rows or candidates of one request.
    pub rows_max: usize,
    /// How often a directory is looked at.
    pub poll: Duration,
}

impl FollowOptions {
    /// The defaults for a model: the alias `live`, rows bounded as training bounds them, 10,000 of them, five looks a second.
    pub fn new(model: &str) -> Self {
        Self {
            model: model.to_owned(),
            target: Target::default(),
            required: Required::default(),
            bounds: EventOptions::default().bounds(),
            rows_max: 10_000,
            poll: Duration::from_millis(200),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_read_as_it_is_written() {
        for (text, target) in [
            ("latest", Target::Latest),
            ("live", Target::default()),
            ("17", Target::Pinned(17)),
            ("017", Target::Alias("017".to_owned())),
        ] {
            assert_eq!(text.parse::<Target>(), Ok(target.clone()));
            assert_eq!(target.to_string(), text);
        }
    }
}
