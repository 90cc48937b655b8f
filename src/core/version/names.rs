//! The names and numbers under which versions lie in directories and on topics. Whoever writes there may have written
//! anything: what does not have the form given here is never joined to a path or added to.

/// The largest number of a version: JSON readers that keep numbers as 64-bit reals read it exactly.
pub const VERSION_MAX: u64 = (1 << 53) - 1;

/// Digits of a digest in the name of an artefact's directory.
const DIRECTORY_DIGITS: usize = 12;

/// The longest name of a file of an artefact.
const FILE_NAME_MAX: usize = 100;

/// The longest name of a server: that of a host, and a port.
const SERVER_NAME_MAX: usize = 200;

/// A name, number or digest that is not of its form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "fields of errors say it by name and type")]
pub enum NameError {
    /// The model's name.
    #[error("{0:?} is no name of a model: 1 to 64 letters, digits, `.`, `_` or `-`, a letter or digit first")]
    Model(String),
    /// A server's name.
    #[error(
        "{0:?} is no name of a server: 1 to {SERVER_NAME_MAX} letters, digits, `.`, `_`, `-` or `:`, a letter or digit first"
    )]
    Server(String),
    /// The version's number.
    #[error("{0} is no number of a version: they go from 1 to {VERSION_MAX}")]
    Version(u64),
    /// A digest.
    #[error("{0:?} is no SHA-256 in 64 small hexadecimal digits")]
    Digest(String),
    /// A file's name.
    #[error("{0:?} is no name of a file of an artefact: letters, digits, `.`, `_` or `-`, a letter or digit first")]
    File(String),
    /// A directory's name.
    #[error("{found:?} is not the directory of the version, {expected:?}")]
    Directory {
        found: String,
        /// What number and digest make of it.
        expected: String,
    },
}

/// Whether a model can have this name, which becomes part of record keys and directories.
///
/// # Errors
/// When it cannot.
pub fn check_model(name: &str) -> Result<(), NameError> {
    if is_plain(name, 64) { Ok(()) } else { Err(NameError::Model(shortened(name))) }
}

/// Whether a server can have this name, which becomes part of record keys.
///
/// # Errors
/// When it cannot.
pub fn check_server(name: &str) -> Result<(), NameError> {
    // A port stands behind a colon.
    let parts = name.replace(':', "-");
    if is_plain(&parts, SERVER_NAME_MAX) { Ok(()) } else { Err(NameError::Server(shortened(name))) }
}

/// Whether a version can have this number.
///
/// # Errors
/// When it cannot.
pub fn check_version(number: u64) -> Result<(), NameError> {
    if (1..=VERSION_MAX).contains(&number) { Ok(()) } else { Err(NameError::Version(number)) }
}

/// Whether a text has the form of a SHA-256.
///
/// # Errors
/// When it has not.
pub fn check_digest(digest: &str) -> Result<(), NameError> {
    if digest.len() == 64 && digest.bytes().all(is_hexadecimal) {
        return Ok(());
    }
    Err(NameError::Digest(shortened(digest)))
}

/// Whether a file of an artefact can have this name: it stays inside its directory.
///
/// # Errors
/// When it cannot.
pub fn check_file(name: &str) -> Result<(), NameError> {
    if is_plain(name, FILE_NAME_MAX) { Ok(()) } else { Err(NameError::File(shortened(name))) }
}

/// Whether this is the directory that a version of this number and digest has.
///
/// # Errors
/// When number or digest have not their form, or the directory is another.
pub fn check_directory(found: &str, version: u64, digest: &str) -> Result<(), NameError> {
    check_version(version)?;
    check_digest(digest)?;
    let expected = directory(version, digest);
    if found == expected { Ok(()) } else { Err(NameError::Directory { found: shortened(found), expected }) }
}

/// The directory of a version: its number and the first digits of its manifest's digest.
pub fn directory(version: u64, digest: &str) -> String {
    format!("{version}-{}", digest.get(..DIRECTORY_DIGITS).unwrap_or(digest))
}

/// The number in a directory's name, if it has the form of [`directory`].
pub fn number_of_directory(name: &str) -> Option<u64> {
    let (number, digits) = name.split_once('-')?;
    let is_digest = digits.len() == DIRECTORY_DIGITS && digits.bytes().all(is_hexadecimal);
    version(number).filter(|_| is_digest)
}

/// The number of a version in a key or name: decimal digits as they are written, without sign, blanks or leading zeros.
pub fn version(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text && check_version(number).is_ok()).then_some(number)
}

fn is_plain(name: &str, length_max: usize) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.len() <= length_max && name.chars().all(allowed)
}

fn is_hexadecimal(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

/// As much of a hostile name as an error shows.
fn shortened(text: &str) -> String {
    text.chars().take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_leaves_its_directory_is_none() {
        for name in ["", ".", "..", "../etc", "a/b", "/etc", ".staged-1", "a\0b", "a b", "é", &"a".repeat(101)] {
            assert!(check_file(name).is_err() && check_model(name).is_err(), "{name:?}");
        }
        assert_eq!(check_file("model.safetensors"), Ok(()));
        assert_eq!(check_model("ctr_2-b.x"), Ok(()));
    }

    #[test]
    fn a_number_is_read_only_as_it_is_written() {
        for text in ["", "0", "+1", " 1", "01", "-1", "1.0", "9007199254740992", "18446744073709551615", "1e3"] {
            assert_eq!(version(text), None, "{text:?}");
        }
        assert_eq!(version("9007199254740991"), Some(VERSION_MAX));
        assert_eq!(number_of_directory("7-0123456789ab"), Some(7));
        for name in ["7", "7-", "7-0123456789a", "7-0123456789AB", "07-0123456789ab", "7-0123456789ab-"] {
            assert_eq!(number_of_directory(name), None, "{name:?}");
        }
    }

    #[test]
    fn a_directory_is_that_of_its_number_and_digest_alone() {
        let digest = "0123456789ab".to_owned() + &"c".repeat(52);
        assert_eq!(check_directory("7-0123456789ab", 7, &digest), Ok(()));
        for (directory, version, digest) in [
            ("../../etc", 7, digest.as_str()),
            ("8-0123456789ab", 7, &digest),
            ("7-0123456789ab", 7, "0123456789ab"),
            ("7-0123456789ab", 7, "é"),
            ("0-0123456789ab", 0, &digest),
        ] {
            assert!(check_directory(directory, version, digest).is_err(), "{directory} {version} {digest}");
        }
        assert_eq!(super::directory(7, "short"), "7-short");
    }
}
