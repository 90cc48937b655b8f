//! Keys of S3 from a file, in the form of `~/.aws/credentials`. It is read for each request: who exchanges the file exchanges the
//! keys. Its content is never said.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use object_store::aws::AwsCredential;
use object_store::{CredentialProvider, Error, Result};

use crate::bounded::{self, Length};

/// The largest file of keys, in bytes.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// A file that has no keys.
#[derive(Debug, thiserror::Error)]
enum CredentialsError {
    #[error("storage.credentials_file {path} cannot be read: {reason}")]
    Unread { path: PathBuf, reason: String },
    #[error("storage.credentials_file {0} has no aws_access_key_id and aws_secret_access_key")]
    NoKeys(PathBuf),
}

/// The keys of a file.
#[derive(Debug)]
pub(super) struct FileCredentials(pub(super) PathBuf);

#[async_trait]
impl CredentialProvider for FileCredentials {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> Result<Arc<AwsCredential>> {
        let failed = |error: CredentialsError| Error::Generic { store: "S3", source: Box::new(error) };
        read(&self.0).map(Arc::new).map_err(failed)
    }
}

fn read(path: &Path) -> Result<AwsCredential, CredentialsError> {
    let unread = |reason: String| CredentialsError::Unread { path: path.to_owned(), reason };
    // Secrets that are mounted are links.
    let file = path.canonicalize().map_err(|error| unread(error.to_string()))?;
    let bytes = bounded::read(&file, Length::AtMost(FILE_BYTES_MAX)).map_err(|error| unread(error.to_string()))?;
    let text = String::from_utf8(bytes).map_err(|_| unread("it is no text".to_owned()))?;
    keys(&text).ok_or_else(|| CredentialsError::NoKeys(path.to_owned()))
}

/// The keys of the first section.
fn keys(text: &str) -> Option<AwsCredential> {
    let (mut id, mut secret, mut token) = (None, None, None);
    let mut sections = 0;
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])) {
        sections += usize::from(line.starts_with('['));
        if sections > 1 {
            break;
        }
        let Some((key, value)) = line.split_once('=') else { continue };
        match key.trim() {
            "aws_access_key_id" => id = Some(value.trim().to_owned()),
            "aws_secret_access_key" => secret = Some(value.trim().to_owned()),
            "aws_session_token" => token = Some(value.trim().to_owned()),
            _ => {}
        }
    }
    Some(AwsCredential { key_id: id?, secret_key: secret?, token })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_of_the_first_section_count_and_half_of_them_are_none() {
        let text =
            "# ours\n[default]\naws_access_key_id = A\naws_secret_access_key=s=e\n\n[other]\naws_access_key_id = B\n";
        let found = keys(text).expect("both are there");
        assert_eq!((found.key_id.as_str(), found.secret_key.as_str(), found.token), ("A", "s=e", None));
        let token = keys(&text.replace("\n\n", "\naws_session_token = t\n")).and_then(|found| found.token);
        assert_eq!(token.as_deref(), Some("t"));
        for text in ["", "aws_access_key_id = A", "[a]\naws_access_key_id = A\n[b]\naws_secret_access_key = s"] {
            assert!(keys(text).is_none(), "{text}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named_and_what_is_in_it_is_not() {
        let directory = tempfile::tempdir().expect("a directory of our own");
        let file = directory.path().join("keys");
        assert!(matches!(read(&file), Err(CredentialsError::Unread { .. })));
        std::fs::write(&file, "aws_access_key_id = A\npassword = hidden").expect("the disk takes it");
        let error = read(&file).expect_err("half of it is missing").to_string();
        assert!(error.contains("keys has no") && !error.contains("hidden"), "{error}");
    }
}
