//! The client that reaches a place: built from the operator's settings alone. Nothing that anybody announces comes in here, of the
//! environment nothing but credentials, and whoever answers leads it to no other place.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use deepfm_core::version::storage_uri::{Scheme, StorageUri};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::client::{HttpClient, HttpConnector};
use object_store::http::HttpBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ClientConfigKey, ClientOptions, Error, ObjectStore, Result, RetryConfig};
use reqwest::redirect::Policy;

use super::credentials::FileCredentials;
use super::crypto::Sha256Signing;
use crate::config::storage::{Addressing, Storage};

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(5);

/// How often a request is tried again before its failure is told: what lasts longer is tried again by who asks.
const RETRIES: usize = 2;

/// What of the environment counts: credentials, and where they are got.
const VARIABLES: [AmazonS3ConfigKey; 11] = [
    AmazonS3ConfigKey::AccessKeyId,
    AmazonS3ConfigKey::SecretAccessKey,
    AmazonS3ConfigKey::Token,
    AmazonS3ConfigKey::WebIdentityTokenFile,
    AmazonS3ConfigKey::RoleArn,
    AmazonS3ConfigKey::RoleSessionName,
    AmazonS3ConfigKey::StsEndpoint,
    AmazonS3ConfigKey::MetadataEndpoint,
    AmazonS3ConfigKey::ContainerCredentialsRelativeUri,
    AmazonS3ConfigKey::ContainerCredentialsFullUri,
    AmazonS3ConfigKey::ContainerAuthorizationTokenFile,
];

/// Connects as it is told, and follows nobody elsewhere.
#[derive(Debug)]
struct Straight {
    /// How long a request may take.
    time: Duration,
}

impl HttpConnector for Straight {
    fn connect(&self, options: &ClientOptions) -> Result<HttpClient> {
        let allows_http = options.get_config_value(&ClientConfigKey::AllowHttp).is_some_and(|allows| allows == "true");
        let client = reqwest::Client::builder()
            .user_agent(concat!("deepfm-stream/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::none())
            .timeout(self.time)
            .connect_timeout(CONNECT.min(self.time))
            .https_only(!allows_http)
            // Lengths are those of the objects, whatever features others ask for.
            .no_gzip()
            .no_brotli()
            .no_zstd()
            .no_deflate()
            .build();
        client.map(HttpClient::new).map_err(|error| Error::Generic { store: "HTTP", source: Box::new(error) })
    }
}

pub(super) fn build(settings: &Storage, uri: &StorageUri) -> Result<Box<dyn ObjectStore>> {
    let time = Duration::from_secs(settings.timeout_seconds);
    let retry = RetryConfig { max_retries: RETRIES, retry_timeout: time, ..RetryConfig::default() };
    let options = ClientOptions::new();
    match uri.scheme() {
        Scheme::S3 => s3(settings, uri, retry, options),
        Scheme::File => Ok(Box::new(LocalFileSystem::new().with_fsync(true))),
        scheme @ (Scheme::Http | Scheme::Https) => {
            let name = if scheme == Scheme::Http { "http" } else { "https" };
            let url = format!("{name}://{}", uri.authority());
            let options = options.with_allow_http(scheme == Scheme::Http);
            let builder = HttpBuilder::new().with_url(url).with_client_options(options).with_retry(retry);
            Ok(Box::new(builder.with_http_connector(Straight { time }).build()?))
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
    let mut builder = with_variables(
        AmazonS3Builder::new(),
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))),
    )
    .with_http_connector(Straight { time: Duration::from_secs(settings.timeout_seconds) })
    .with_bucket_name(uri.authority())
    .with_region(&settings.region)
    .with_virtual_hosted_style_request(settings.addressing == Addressing::Virtual)
    .with_crypto_provider(Arc::new(Sha256Signing))
    .with_client_options(options.with_allow_http(allows_http))
    .with_retry(retry)
    // Not every service has the request that removes many, and few are removed.
    .with_config(AmazonS3ConfigKey::DisableBulkDelete, "true");
    if let Some(endpoint) = &settings.endpoint {
        builder = builder.with_endpoint(address(endpoint, uri.authority(), settings.addressing)?);
    }
    if let Some(file) = &settings.credentials_file {
        builder = builder.with_credentials(Arc::new(FileCredentials(file.clone())));
    }
    Ok(Box::new(builder.build()?))
}

/// A builder with the credentials of the environment.
fn with_variables(builder: AmazonS3Builder, variables: impl Iterator<Item = (String, String)>) -> AmazonS3Builder {
    let ours = |name: &str| {
        let key: AmazonS3ConfigKey = name.strip_prefix("AWS_").and(name.to_ascii_lowercase().parse().ok())?;
        VARIABLES.contains(&key).then_some(key)
    };
    variables.fold(builder, |builder, (name, value)| match ours(&name) {
        Some(key) => builder.with_config(key, value),
        None => builder,
    })
}

/// The address of a service, with the bucket in its host's name if it is to stand there.
fn address(endpoint: &StorageUri, bucket: &str, addressing: Addressing) -> Result<String> {
    if addressing == Addressing::Path {
        return Ok(endpoint.to_string());
    }
    let host = endpoint.authority();
    if host.split(':').next().is_some_and(|host| host.parse::<Ipv4Addr>().is_ok()) {
        let reason =
            format!("storage.addressing = \"virtual\" needs a name in storage.endpoint, and {host} is a number");
        return Err(Error::Generic { store: "S3", source: reason.into() });
    }
    let scheme = if endpoint.scheme() == Scheme::Http { "http" } else { "https" };
    let path = endpoint.path();
    let path = if path.is_empty() { String::new() } else { format!("/{path}") };
    Ok(format!("{scheme}://{bucket}.{host}{path}"))
}

/// What all objects of a place begin with.
pub(super) fn prefix(uri: &StorageUri) -> Result<Path> {
    Ok(Path::parse(uri.path())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_the_environment_only_credentials_count() {
        let variables = [
            ("AWS_ACCESS_KEY_ID", "A"),
            ("AWS_SECRET_ACCESS_KEY", "s"),
            ("AWS_ENDPOINT_URL_S3", "http://elsewhere"),
            ("AWS_ENDPOINT", "http://elsewhere"),
            ("AWS_SKIP_SIGNATURE", "true"),
            ("AWS_BUCKET", "other"),
            ("SECRET_ACCESS_KEY", "other"),
        ];
        let variables = variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
        let builder = with_variables(AmazonS3Builder::new(), variables);
        let found = |key| builder.get_config_value(&key);
        assert_eq!(found(AmazonS3ConfigKey::AccessKeyId).as_deref(), Some("A"));
        assert_eq!(found(AmazonS3ConfigKey::SecretAccessKey).as_deref(), Some("s"));
        assert_eq!(found(AmazonS3ConfigKey::S3Endpoint), None);
        assert_eq!(found(AmazonS3ConfigKey::Endpoint), None);
        assert_eq!(found(AmazonS3ConfigKey::Bucket), None);
        assert_ne!(found(AmazonS3ConfigKey::SkipSignature).as_deref(), Some("true"));
    }

    #[test]
    fn a_bucket_stands_in_the_path_or_in_the_name_of_the_host() {
        let endpoint = |text: &str| text.parse::<StorageUri>().expect("it is one");
        let minio = endpoint("https://minio.example:9000");
        let of = |endpoint, addressing| address(endpoint, "b", addressing);
        assert_eq!(of(&minio, Addressing::Path).expect("it is one"), "https://minio.example:9000");
        assert_eq!(of(&minio, Addressing::Virtual).expect("it is one"), "https://b.minio.example:9000");
        let below = endpoint("http://host/s3");
        assert_eq!(of(&below, Addressing::Virtual).expect("it is one"), "http://b.host/s3");
        let refused = of(&endpoint("http://127.0.0.1:9000"), Addressing::Virtual).expect_err("it has no name");
        assert!(refused.to_string().contains("storage.addressing"), "{refused}");
    }
}
