//! Where a server is, and how connections to it begin.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use http::HeaderValue;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A server and how it is spoken to.
#[derive(Clone)]
pub(crate) struct Address {
    authority: String,
    host: HeaderValue,
    tls: Option<Tls>,
}

#[derive(Clone)]
struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

/// A connection on which nothing was asked yet.
pub(crate) enum Connected {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Address {
    /// # Errors
    /// When `target` is neither `http://HOST:PORT` nor `https://HOST:PORT`, or the latter comes without a file of
    /// certificates to trust.
    pub(crate) fn new(target: &str, ca_file: Option<&Path>) -> Result<Self> {
        let (scheme, authority) = target.split_once("://").context("the target has no scheme")?;
        let authority = authority.trim_end_matches('/').to_owned();
        let tls = match scheme {
            "http" => None,
            "https" => {
                let ca_file = ca_file.context("https needs --ca-file")?;
                Some(Tls::new(&authority, ca_file)?)
            }
            _ => bail!("the target must begin with http:// or https://"),
        };
        let host = HeaderValue::from_str(&authority).context("the target is no host name")?;
        Ok(Self { authority, host, tls })
    }

    /// The value of `Host`.
    pub(crate) fn host(&self) -> &HeaderValue {
        &self.host
    }

    /// Connects, with a TLS handshake where the address is https.
    ///
    /// # Errors
    /// When nobody is there, or not in time, or nobody to be trusted.
    pub(crate) async fn connect(&self) -> Result<Connected> {
        let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(&self.authority))
            .await
            .with_context(|| format!("no connection to {} in time", self.authority))?
            .with_context(|| format!("cannot connect to {}", self.authority))?;
        stream.set_nodelay(true)?;
        let Some(Tls { connector, name }) = &self.tls else {
            return Ok(Connected::Plain(stream));
        };
        let stream = timeout(CONNECT_TIMEOUT, connector.connect(name.clone(), stream))
            .await
            .with_context(|| format!("no handshake with {} in time", self.authority))?
            .with_context(|| format!("no handshake with {}", self.authority))?;
        Ok(Connected::Tls(Box::new(stream)))
    }
}

impl Tls {
    fn new(authority: &str, ca_file: &Path) -> Result<Self> {
        let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
        let name = ServerName::try_from(host.to_owned()).context("the target is no host name")?;
        let mut trusted = RootCertStore::empty();
        let shown = ca_file.display();
        for certificate in CertificateDer::pem_file_iter(ca_file)
            .with_context(|| format!("cannot read certificates from {shown}"))?
        {
            trusted.add(certificate.with_context(|| format!("no certificate: {shown}"))?)?;
        }
        let config = ClientConfig::builder_with_provider(Arc::new(one_suite()))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(trusted)
            .with_no_client_auth();
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), name })
    }
}

/// One suite and no other, so that all servers do the same work. It is the one that processors are fastest at, and
/// what Go's clients, which most clients of registries are, get from every server.
fn one_suite() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256],
        ..aws_lc_rs::default_provider()
    }
}
