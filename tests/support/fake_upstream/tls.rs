//! TLS with the certificates in `tests/support/tls`.

use std::{path::PathBuf, sync::Arc};

use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
        server::WebPkiClientVerifier,
    },
};

/// Whether a registry speaks TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tls {
    /// No.
    None,
    /// Yes, with anybody.
    Anybody,
    /// Yes, with those who show a certificate.
    WithCertificate,
}

impl Tls {
    /// The file of a certificate or a key: `ca.pem`, `client.pem`, `client.key`.
    pub(crate) fn file(name: &str) -> PathBuf {
        PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/tls")).join(name)
    }

    pub(super) const fn scheme(self) -> &'static str {
        match self {
            Self::None => "http",
            Self::Anybody | Self::WithCertificate => "https",
        }
    }

    pub(super) fn acceptor(self) -> Option<TlsAcceptor> {
        if self == Self::None {
            return None;
        }
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let certificates = |name| {
            let file = CertificateDer::pem_file_iter(Self::file(name)).expect("a file");
            file.map(|found| found.expect("a certificate")).collect::<Vec<_>>()
        };
        let builder = ServerConfig::builder();
        let builder = if self == Self::WithCertificate {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(certificates("ca.pem"));
            let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build().expect("roots");
            builder.with_client_cert_verifier(verifier)
        } else {
            builder.with_no_client_auth()
        };
        let key = PrivateKeyDer::from_pem_file(Self::file("server.key")).expect("a key");
        let mut config =
            builder.with_single_cert(certificates("server.pem"), key).expect("a certificate");
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Some(TlsAcceptor::from(Arc::new(config)))
    }
}
