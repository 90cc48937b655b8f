//! Where versions lie in object storage, as a URI. Announcements name such places, and whoever may write to the topic may have
//! written anything: only what every reader understands alike is one, so that two of them are the same place if and only if
//! they are the same text.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use super::names;

/// The longest URI, in bytes.
pub const URI_MAX: usize = 512;

/// A text that is no URI of a place in object storage.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no place in object storage: s3://BUCKET/PREFIX, file:///DIRECTORY, https://HOST/PATH or http://HOST/PATH, of \
     letters, digits, `.`, `_`, `~`, `=` and `-`, without a slash at the end"
)]
pub struct UriError(String);

/// How a place is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// The protocol of Amazon S3.
    S3,
    /// A directory that is mounted.
    File,
    /// Plain GET requests.
    Http,
    /// The same in TLS.
    Https,
}

impl Scheme {
    const ALL: [(&'static str, Self); 4] =
        [("s3", Self::S3), ("file", Self::File), ("http", Self::Http), ("https", Self::Https)];
}

/// A place below which the versions of models lie: `s3://bucket/prefix`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageUri {
    text: String,
    scheme: Scheme,
    /// Where the bucket or host begins and ends.
    authority: (usize, usize),
}

impl StorageUri {
    /// How it is reached.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The bucket, or the host and its port; of a directory nothing.
    pub fn authority(&self) -> &str {
        &self.text[self.authority.0..self.authority.1]
    }

    /// What follows that, without a slash at its begin.
    pub fn path(&self) -> &str {
        self.text[self.authority.1..].trim_start_matches('/')
    }

    /// Where a version of a model lies below it.
    pub fn of_version(&self, model: &str, directory: &str) -> String {
        format!("{self}/{model}/{directory}")
    }
}

impl FromStr for StorageUri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        let refused = || UriError(text.chars().take(100).collect());
        let (name, rest) = text.split_once("://").filter(|_| text.len() <= URI_MAX).ok_or_else(refused)?;
        let scheme = Scheme::ALL.iter().find(|(known, _)| *known == name).map(|(_, scheme)| *scheme);
        let scheme = scheme.ok_or_else(refused)?;
        let (authority, path) = rest.split_once('/').map_or((rest, None), |(authority, path)| (authority, Some(path)));
        let is_authority = match scheme {
            Scheme::S3 => is_host(authority),
            Scheme::File => authority.is_empty() && path.is_some(),
            Scheme::Http | Scheme::Https => {
                let (host, port) = authority.split_once(':').unwrap_or((authority, "80"));
                is_host(host) && port.parse::<u16>().is_ok_and(|number| number > 0 && number.to_string() == port)
            }
        };
        if !is_authority || !path.is_none_or(|path| path.split('/').all(is_segment)) {
            return Err(refused());
        }
        let start = name.len() + "://".len();
        Ok(Self { text: text.to_owned(), scheme, authority: (start, start + authority.len()) })
    }
}

impl fmt::Display for StorageUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for StorageUri {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

/// Checks where a version is said to lie: at a place of that form, in the directories of its model and of itself.
///
/// # Errors
/// When it lies elsewhere.
pub fn check_version_uri(uri: &str, model: &str, directory: &str) -> Result<(), UriError> {
    let refused = || UriError(uri.chars().take(100).collect());
    let below = format!("/{model}/{directory}");
    uri.strip_suffix(&below).ok_or_else(refused)?.parse::<StorageUri>()?;
    // The names of models have no more letters than segments of a path.
    names::check_model(model).map_err(|_| refused())
}

fn is_host(text: &str) -> bool {
    let is_label = |label: &str| {
        let is_inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        !label.is_empty() && !label.starts_with('-') && label.chars().all(is_inner)
    };
    text.len() <= 253 && text.split('.').all(is_label)
}

fn is_segment(text: &str) -> bool {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '~' | '=' | '-');
    !matches!(text, "" | "." | "..") && text.chars().all(is_allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_as_it_is_written_and_says_how_it_is_reached() {
        for (text, scheme, authority, path) in [
            ("s3://bucket", Scheme::S3, "bucket", ""),
            ("s3://my.bucket-1/ctr/v=1", Scheme::S3, "my.bucket-1", "ctr/v=1"),
            ("file:///mnt/versions", Scheme::File, "", "mnt/versions"),
            ("http://127.0.0.1:8080/a", Scheme::Http, "127.0.0.1:8080", "a"),
            ("https://models.example/a/b", Scheme::Https, "models.example", "a/b"),
        ] {
            let uri: StorageUri = text.parse().unwrap_or_else(|error| panic!("{error}"));
            assert_eq!((uri.scheme(), uri.authority(), uri.path()), (scheme, authority, path));
            assert_eq!(uri.to_string(), text);
        }
    }

    #[test]
    fn what_two_readers_could_understand_differently_is_no_place() {
        for text in [
            "",
            "s3:/bucket",
            "s3://",
            "s3://Bucket/a",
            "s3://bucket/",
            "s3://bucket//a",
            "s3://bucket/a/../b",
            "s3://bucket/./b",
            "s3://bucket/%2e%2e/b",
            "s3://bucket/a?x=1",
            "s3://bucket/a#x",
            "s3://bucket/a b",
            "s3://bucket/\u{e9}",
            "s3://key:secret@bucket/a",
            "file://host/a",
            "file://",
            "file:///",
            "http://user@host/a",
            "http://host:/a",
            "http://host:080/a",
            "http://host:70000/a",
            "http://[::1]/a",
            "ftp://host/a",
            "gs://bucket/a",
            &format!("s3://bucket/{}", "a".repeat(URI_MAX)),
        ] {
            assert!(text.parse::<StorageUri>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_version_lies_in_the_directories_of_its_model_and_of_itself() {
        let directory = "7-0123456789ab";
        let uri: StorageUri = "s3://bucket/prefix".parse().expect("it is one");
        let place = uri.of_version("clicks", directory);
        assert_eq!(check_version_uri(&place, "clicks", directory), Ok(()));
        for (place, model) in [
            ("s3://bucket/prefix/others/7-0123456789ab", "clicks"),
            ("s3://bucket/prefix/clicks/8-0123456789ab", "clicks"),
            ("s3://bucket/prefix/clicks/7-0123456789ab/", "clicks"),
            ("s3://bucket/../prefix/clicks/7-0123456789ab", "clicks"),
            ("/clicks/7-0123456789ab", "clicks"),
            ("s3://bucket/../7-0123456789ab", ".."),
        ] {
            assert!(check_version_uri(place, model, directory).is_err(), "{place}");
        }
    }
}
