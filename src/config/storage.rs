//! `[storage]`: object storage, to which versions are uploaded for servers on other machines.

use std::path::PathBuf;

use serde::{Serialize, Serializer};
use serde_json::json;

use super::declare::section;
use super::kinds::{Choice, Special, whole};
use super::section::Section;
use deepfm_core::version::storage_uri::{Scheme, StorageUri};

const ADDRESSING: Choice<Addressing> = Choice(&[("path", Addressing::Path), ("virtual", Addressing::Virtual)]);

const STORE: Special<Option<StorageUri>> = Special {
    read: |section, key| read_uri(section, key, &[Scheme::S3, Scheme::File]),
    words: "`s3://…`, `file:///…`, or \"\"",
    schema: || json!({"type": "string", "pattern": "^((s3://[a-z0-9]|file:///)[A-Za-z0-9._~=/-]+)?$", "maxLength": 512}),
};

const PLACE: Special<Option<StorageUri>> = Special {
    read: |section, key| read_uri(section, key, &[Scheme::S3, Scheme::File, Scheme::Http, Scheme::Https]),
    words: "`s3://…`, `file:///…`, `https://…`, `http://…`, or \"\"",
    schema: || {
        let pattern = "^((s3://[a-z0-9]|file:///|https?://[a-z0-9])[A-Za-z0-9._~=/:-]+)?$";
        json!({"type": "string", "pattern": pattern, "maxLength": 512})
    },
};

const ENDPOINT: Special<Option<StorageUri>> = Special {
    read: |section, key| read_uri(section, key, &[Scheme::Http, Scheme::Https]),
    words: "`https://…`, `http://…`, or \"\"",
    schema: || json!({"type": "string", "pattern": "^(https?://[a-z0-9][A-Za-z0-9._~=/:-]*)?$", "maxLength": 512}),
};

const REGION: Special<String> = Special {
    read: |section, key| {
        section.checked_text(key, |text| {
            let is_region = !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
            let refused = || (format!("\"{text}\" is no region"), "give one such as \"eu-central-1\"".to_owned());
            if is_region { Ok(()) } else { Err(refused()) }
        })
    },
    words: "a region of S3",
    schema: || json!({"type": "string", "pattern": "^[A-Za-z0-9-]+$"}),
};

const FILE: Special<Option<PathBuf>> = Special {
    read: |section, key| {
        let text = section.text(key)?;
        Some(Some(PathBuf::from(text)).filter(|path| !path.as_os_str().is_empty()))
    },
    words: "a file, or \"\"",
    schema: || json!({"type": "string"}),
};

section! {
    /// Object storage, to which versions are uploaded before they are announced, and from which servers on other machines fetch
    /// them (`deepfm serve --cache`). A server fetches from the place that its own configuration names, and from no other.
    Storage in "storage" {
        /// Where versions are uploaded to, such as "s3://bucket/prefix", or "file:///mnt/share" for a directory that all see; ""
        /// is off. Each lies below it at MODEL/VERSION. They lie in versions.dir all the same.
        #[serde(serialize_with = "empty_for_none")]
        uri: Option<StorageUri> = None, STORE, Free;
        /// Where servers fetch from, if that is another address of the same objects, such as that of a web server before them;
        /// "" is storage.uri.
        #[serde(serialize_with = "empty_for_none")]
        fetch_uri: Option<StorageUri> = None, PLACE, Free;
        /// The address of a service that speaks the protocol of S3, such as "https://minio.example:9000"; "" is that of Amazon.
        #[serde(serialize_with = "empty_for_none")]
        endpoint: Option<StorageUri> = None, ENDPOINT, Free;
        /// The region of the bucket; services other than Amazon's take any.
        region: String = "us-east-1".to_owned(), REGION, Free;
        /// Where the bucket stands in addresses: in the "path", which all services take, or in the host's name ("virtual").
        addressing: Addressing = Addressing::Path, ADDRESSING, Free;
        /// A file with aws_access_key_id, aws_secret_access_key and perhaps aws_session_token, as ~/.aws/credentials has them. It
        /// is read for each request, so that keys can be exchanged. "" takes the AWS_ variables of the environment, or what the
        /// machine was given.
        #[serde(serialize_with = "no_file_is_empty")]
        credentials_file: Option<PathBuf> = None, FILE, Free;
        /// How long a request may take: of up to 8 MiB there and back.
        timeout_seconds: u64 = 30, whole(1, 3600, "a request carries 8 MiB at most; at most an hour"), Free;
    }
}

/// Where the bucket stands in addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Addressing {
    /// `https://host/bucket/key`
    Path,
    /// `https://bucket.host/key`
    Virtual,
}

impl Storage {
    /// Where servers fetch from.
    pub fn fetched_from(&self) -> Option<&StorageUri> {
        self.fetch_uri.as_ref().or(self.uri.as_ref())
    }
}

/// A place of one of these kinds, or nothing for none.
#[expect(clippy::option_option, reason = "that there is none may be given, and is not the same as nothing given")]
fn read_uri(section: &Section<'_>, key: &str, schemes: &[Scheme]) -> Option<Option<StorageUri>> {
    let text = section.text(key)?;
    if text.is_empty() {
        return Some(None);
    }
    match text.parse::<StorageUri>() {
        Ok(uri) if schemes.contains(&uri.scheme()) => Some(Some(uri)),
        Ok(uri) => {
            section.refuse(
                key,
                format!("\"{uri}\" is not of a kind that can stand here"),
                "the schema has those that can",
            );
            None
        }
        Err(error) => {
            section.refuse(key, error.to_string(), "write it so, or \"\" for none");
            None
        }
    }
}

#[expect(clippy::ref_option, reason = "serde's serialize_with passes the field by reference")]
fn empty_for_none<S: Serializer>(uri: &Option<StorageUri>, serializer: S) -> Result<S::Ok, S::Error> {
    match uri {
        Some(uri) => uri.serialize(serializer),
        None => serializer.serialize_str(""),
    }
}

#[expect(clippy::ref_option, reason = "serde's serialize_with passes the field by reference")]
fn no_file_is_empty<S: Serializer>(file: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    file.clone().unwrap_or_default().serialize(serializer)
}
