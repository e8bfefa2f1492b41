//! The HTTP client of the driver.

use aws_sdk_s3::{
    Client,
    config::{
        BehaviorVersion, Builder, Credentials, Region, RequestChecksumCalculation,
        ResponseChecksumValidation, SharedHttpClient, StalledStreamProtectionConfig,
        retry::{RetryConfig, RetryPartition},
        timeout::TimeoutConfig,
    },
};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};

use super::config::{Checksums, Config};

/// Region for servers that have none.
const DEFAULT_REGION: &str = "us-east-1";

/// A client for the bucket of `config`. Asks the environment and the instance only for what the
/// configuration leaves open.
pub(super) async fn connect(config: &Config) -> Client {
    // Fails where it was done before: any provider is as good.
    let _installed_before = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let http = Transport::of(config).client();
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
    Client::from_conf(tune(builder, config).http_client(http).build())
}

fn static_credentials(config: &Config) -> Option<Credentials> {
    let (access_key, secret_key) = (config.access_key.as_deref()?, config.secret_key.as_ref()?);
    let token = config.session_token.as_ref().map(|token| token.expose().to_owned());
    Some(Credentials::new(access_key, secret_key.expose(), token, None, "configuration"))
}

async fn from_environment(credentials: Option<Credentials>, region: Option<String>) -> Builder {
    let mut loader =
        aws_config::defaults(BehaviorVersion::latest()).http_client(Transport::Tls.client());
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
    Tls,
}

impl Transport {
    fn of(config: &Config) -> Self {
        match &config.endpoint {
            Some(endpoint) if endpoint.starts_with("http://") => Self::Plain,
            Some(_) | None => Self::Tls,
        }
    }

    fn client(self) -> SharedHttpClient {
        let builder = aws_smithy_http_client::Builder::new();
        match self {
            Self::Plain => builder.build_http(),
            Self::Tls => builder.tls_provider(Provider::Rustls(CryptoMode::AwsLc)).build_https(),
        }
    }
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
