//! The HTTP client of the driver.

use std::{
    io,
    path::{Path, PathBuf},
};

use aws_sdk_s3::{
    Client,
    config::{
        BehaviorVersion, Builder, Credentials, Region, RequestChecksumCalculation,
        ResponseChecksumValidation, SharedHttpClient, StalledStreamProtectionConfig,
        retry::{RetryConfig, RetryPartition},
        timeout::TimeoutConfig,
    },
};
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

use super::config::{Checksums, Config};

/// Region for servers that have none.
const DEFAULT_REGION: &str = "us-east-1";

/// Why the certificates of a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The file cannot be read.
    #[error("storage.s3.ca_file: {} cannot be read: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// There is something else in it.
    #[error("storage.s3.ca_file: {} holds no usable certificates", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
    },
}

/// A client for the bucket of `config`. Asks the environment and the instance only for what the
/// configuration leaves open.
pub(super) async fn connect(config: &Config) -> Result<Client, CaError> {
    // Fails where it was done before: any provider is as good.
    let _installed_before = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let http = Transport::of(config).await?.client();
    let region = config
        .region
        .clone()
        .or_else(|| config.endpoint.as_ref().map(|_| DEFAULT_REGION.to_owned()));
    let builder = match (static_credentials(config), region) {
        (Some(credentials), Some(region)) => Builder::new()
            .behavior_version(BehaviorVersion::latest())
            .credentials_provider(credentials)
            .region(Region::new(region)),
        (credentials, region) => from_environment(credentials, region).await,
    };
    Ok(Client::from_conf(tune(builder, config).http_client(http).build()))
}

fn static_credentials(config: &Config) -> Option<Credentials> {
    let (access_key, secret_key) = (config.access_key.as_deref()?, config.secret_key.as_ref()?);
    let token = config.session_token.as_ref().map(|token| token.expose().to_owned());
    Some(Credentials::new(access_key, secret_key.expose(), token, None, "configuration"))
}

async fn from_environment(credentials: Option<Credentials>, region: Option<String>) -> Builder {
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(Transport::Tls(TrustStore::default()).client());
    if let Some(credentials) = credentials {
        loader = loader.credentials_provider(credentials);
    }
    if let Some(region) = region {
        loader = loader.region(Region::new(region));
    }
    Builder::from(&loader.load().await)
}

enum Transport {
    Plain,
    /// Trusts these certificates.
    Tls(TrustStore),
}

impl Transport {
    async fn of(config: &Config) -> Result<Self, CaError> {
        match &config.endpoint {
            Some(endpoint) if endpoint.starts_with("http://") => Ok(Self::Plain),
            Some(_) | None => trust(config.ca_file.as_deref()).await.map(Self::Tls),
        }
    }

    fn client(self) -> SharedHttpClient {
        let builder = aws_smithy_http_client::Builder::new();
        match self {
            Self::Plain => builder.build_http(),
            Self::Tls(trusted) => {
                let context = TlsContext::builder().with_trust_store(trusted).build();
                builder
                    .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
                    .tls_context(context.expect("nothing in it can be wrong"))
                    .build_https()
            }
        }
    }
}

/// The system's certificates, and those of a file.
async fn trust(ca_file: Option<&Path>) -> Result<TrustStore, CaError> {
    let Some(path) = ca_file else { return Ok(TrustStore::default()) };
    let path = path.to_owned();
    match tokio::fs::read(&path).await {
        Err(source) => Err(CaError::File { path, source }),
        // The client panics at its first connection if there is something in the file that it cannot use.
        Ok(pem) if !is_usable(&pem) => Err(CaError::Pem { path }),
        Ok(pem) => Ok(TrustStore::default().with_pem_certificate(pem)),
    }
}

/// Whether a file in PEM has certificates, and none that is broken.
fn is_usable(pem: &[u8]) -> bool {
    let mut roots = RootCertStore::empty();
    let mut certificates = CertificateDer::pem_slice_iter(pem);
    let are_good = certificates
        .all(|certificate| certificate.is_ok_and(|certificate| roots.add(certificate).is_ok()));
    are_good && !roots.is_empty()
}

fn tune(mut builder: Builder, config: &Config) -> Builder {
    let (requests, responses) = match config.checksums {
        Checksums::Required => {
            (RequestChecksumCalculation::WhenRequired, ResponseChecksumValidation::WhenRequired)
        }
        Checksums::WhenSupported => {
            (RequestChecksumCalculation::WhenSupported, ResponseChecksumValidation::WhenSupported)
        }
    };
    builder.set_endpoint_url(config.endpoint.clone());
    builder
        .force_path_style(config.path_style.unwrap_or(config.endpoint.is_some()))
        .request_checksum_calculation(requests)
        .response_checksum_validation(responses)
        // It measures throughput, and a reader that is slow on purpose has none. Silence is limited by
        // the attempt timeout and, within bodies, by `read`.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .timeout_config(timeouts(config, config.request_timeout))
        .retry_config(
            RetryConfig::standard()
                .with_max_attempts(config.attempts)
                .with_initial_backoff(config.retry_backoff),
        )
        // The budget of retries is shared by name: one server in trouble costs no other its retries.
        .retry_partition(RetryPartition::new(format!(
            "{} {}",
            config.endpoint.as_deref().unwrap_or("aws"),
            config.bucket
        )))
}

/// Timeouts for requests that may be silent for `silence`. There is no read timeout of the connector:
/// it counts the time to send the body, and every value of it has its own pool of connections.
pub(super) fn timeouts(config: &Config, silence: std::time::Duration) -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(config.connect_timeout)
        .operation_attempt_timeout(silence)
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CA: &str = include_str!("../../../tests/support/tls/ca.pem");
    const OTHER: &str = include_str!("../../../tests/support/tls/server.pem");
    const KEY: &str = include_str!("../../../tests/support/tls/server.key");

    #[test]
    fn a_bundle_is_usable_if_every_certificate_in_it_is() {
        let bundle = format!("# the house's\n{CA}\n{OTHER}\n{KEY}");
        assert!(is_usable(CA.as_bytes()) && is_usable(bundle.as_bytes()));
        let broken = CA.replacen("MII", "AAA", 1);
        for bad in ["", "no certificate", KEY, &broken, &format!("{CA}{broken}"), &CA[..200]] {
            assert!(!is_usable(bad.as_bytes()), "{bad}");
        }
    }
}
