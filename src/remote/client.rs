//! The client that reaches a place: built from the operator's settings alone. Nothing that anybody announces comes in here.

use std::sync::Arc;
use std::time::Duration;

use deepfm_core::version::storage_uri::{Scheme, StorageUri};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::http::HttpBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ClientOptions, ObjectStore, Result, RetryConfig};

use super::credentials::FileCredentials;
use super::crypto::Sha256Signing;
use crate::config::storage::{Addressing, Storage};

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(5);

/// How often a request is tried again before its failure is told: what lasts longer is tried again by who asks.
const RETRIES: usize = 2;

pub(super) fn build(settings: &Storage, uri: &StorageUri) -> Result<Box<dyn ObjectStore>> {
    let time = Duration::from_secs(settings.timeout_seconds);
    let retry = RetryConfig { max_retries: RETRIES, retry_timeout: time, ..RetryConfig::default() };
    let options = ClientOptions::new().with_timeout(time).with_connect_timeout(CONNECT.min(time));
    match uri.scheme() {
        Scheme::S3 => s3(settings, uri, retry, options),
        Scheme::File => Ok(Box::new(LocalFileSystem::new().with_fsync(true))),
        scheme @ (Scheme::Http | Scheme::Https) => {
            let name = if scheme == Scheme::Http { "http" } else { "https" };
            let url = format!("{name}://{}", uri.authority());
            let options = options.with_allow_http(scheme == Scheme::Http);
            Ok(Box::new(HttpBuilder::new().with_url(url).with_client_options(options).with_retry(retry).build()?))
        }
    }
}

fn s3(
    settings: &Storage,
    uri: &StorageUri,
    retry: RetryConfig,
    options: ClientOptions,
) -> Result<Box<dyn ObjectStore>> {
    let allows_http = settings.endpoint.as_ref().is_some_and(|endpoint| endpoint.scheme() == Scheme::Http);
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(uri.authority())
        .with_region(&settings.region)
        .with_virtual_hosted_style_request(settings.addressing == Addressing::Virtual)
        .with_crypto_provider(Arc::new(Sha256Signing))
        .with_client_options(options.with_allow_http(allows_http))
        .with_retry(retry)
        // Not every service has the request that removes many, and few are removed.
        .with_config(AmazonS3ConfigKey::DisableBulkDelete, "true");
    if let Some(endpoint) = &settings.endpoint {
        builder = builder.with_endpoint(endpoint.to_string());
    }
    if let Some(file) = &settings.credentials_file {
        builder = builder.with_credentials(Arc::new(FileCredentials(file.clone())));
    }
    Ok(Box::new(builder.build()?))
}

/// What all objects of a place begin with.
pub(super) fn prefix(uri: &StorageUri) -> Result<Path> {
    Ok(Path::parse(uri.path())?)
}
