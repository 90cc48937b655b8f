//! Which version is followed, as people write it.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use super::alias::LIVE;
use super::known::KnownVersions;
use super::names;

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

impl Target {
    /// The number of the version that this is now, by what the topic says.
    pub fn aim(&self, known: &KnownVersions) -> Option<u64> {
        match self {
            Self::Alias(alias) => known.aliases.get(alias).map(|alias| alias.version),
            Self::Latest => known.newest_good().map(|newest| newest.version),
            Self::Pinned(number) => Some(*number),
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
