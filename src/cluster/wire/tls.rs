//! Nodes that show each other certificates.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, ServerConfig,
    SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature},
    pki_types::{
        CertificateDer, PrivateKeyDer, ServerName, UnixTime,
        pem::{self, PemObject},
    },
    server::{ParsedCertificate, VerifierBuilderError, WebPkiClientVerifier},
    version::TLS13,
};
use tokio::sync::watch;

use crate::runtime::Shutdown;

/// How often the files are looked at, so that a certificate that was replaced is in use within the minute.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// The files of a node's certificate. It has to be good for servers and for clients, because a node is both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// PEM file with the authorities whose certificates are believed: of nodes of this cluster, and of nobody else.
    pub ca_file: PathBuf,
    /// PEM file with the node's certificate and those between it and an authority.
    pub cert_file: PathBuf,
    /// PEM file with the key of the certificate.
    pub key_file: PathBuf,
}

/// Why the files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateFault {
    /// A file cannot be read.
    #[error("{} cannot be read", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file has nothing in it that can be used.
    #[error("{} holds no usable {wanted}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        wanted: &'static str,
        /// Why it was not found.
        #[source]
        source: pem::Error,
    },
    /// The certificate of an authority is none.
    #[error("{} holds a certificate that no authority can have", path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: rustls::Error,
    },
    /// Nobody could be believed by these authorities.
    #[error("the authorities cannot be used")]
    Verifier(#[from] VerifierBuilderError),
    /// The certificate and the key do not belong together, or one of them is of a kind that is not known.
    #[error("the certificate and its key cannot be used together")]
    Pair(#[source] rustls::Error),
}

/// What a node shows others, and whom it believes. Cloning shares it.
#[derive(Clone)]
pub struct PeerCertificates {
    server: watch::Receiver<Arc<ServerConfig>>,
    client: watch::Receiver<Arc<ClientConfig>>,
}

/// Has the certificate replaced when its files are.
pub struct CertificateKeeper {
    files: CertificateFiles,
    /// What was last found in the files; `None` if they could not be read.
    seen: Option<Pem>,
    server: watch::Sender<Arc<ServerConfig>>,
    client: watch::Sender<Arc<ClientConfig>>,
}

impl PeerCertificates {
    /// Reads the files. Blocks, as the start of the daemon may.
    ///
    /// # Errors
    /// [`CertificateFault`].
    pub fn load(files: CertificateFiles) -> Result<(Self, CertificateKeeper), CertificateFault> {
        let pem = Pem::read(&files)?;
        let (server, client) = pem.configs(&files)?;
        let (server, client) = (watch::Sender::new(server), watch::Sender::new(client));
        let certificates = Self { server: server.subscribe(), client: client.subscribe() };
        Ok((certificates, CertificateKeeper { files, seen: Some(pem), server, client }))
    }

    /// For the listener: who connects has to show a certificate.
    #[must_use]
    pub fn server(&self) -> watch::Receiver<Arc<ServerConfig>> {
        self.server.clone()
    }

    pub(super) fn client(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.client.borrow())
    }
}

impl fmt::Debug for PeerCertificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerCertificates").finish_non_exhaustive()
    }
}

impl CertificateKeeper {
    /// Has new connections made with what is in the files within a minute after it is there, until `shutdown`. Files
    /// that cannot be used are logged once, and what was in use stays so.
    ///
    /// # Cancel safety
    /// May be dropped at any time: what is in use stays so.
    pub async fn keep_fresh(mut self, shutdown: Shutdown) {
        loop {
            tokio::select! {
                () = shutdown.begun() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            let look = tokio::task::spawn_blocking(move || {
                let renewed = self.renew();
                (self, renewed)
            });
            // Otherwise the runtime is going down.
            let Ok((keeper, renewed)) = look.await else { return };
            self = keeper;
            match renewed {
                Ok(()) => {}
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "the certificate of this node was not renewed");
                }
            }
        }
    }

    /// Looks at the files. Fails once for each change for the worse. Blocks.
    fn renew(&mut self) -> Result<(), CertificateFault> {
        let found = Pem::read(&self.files);
        if found.as_ref().ok() == self.seen.as_ref() {
            return Ok(());
        }
        self.seen = None;
        let (server, client) = self.seen.insert(found?).configs(&self.files)?;
        self.server.send_replace(server);
        self.client.send_replace(client);
        tracing::info!("other nodes are shown the certificate that is in the file now");
        Ok(())
    }
}

impl fmt::Debug for CertificateKeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateKeeper").field("files", &self.files).finish_non_exhaustive()
    }
}

/// The contents of the files.
#[derive(PartialEq, Eq)]
struct Pem {
    authorities: Vec<u8>,
    certificates: Vec<u8>,
    key: Vec<u8>,
}

impl Pem {
    fn read(files: &CertificateFiles) -> Result<Self, CertificateFault> {
        let read = |path: &Path| {
            fs::read(path)
                .map_err(|source| CertificateFault::File { path: path.to_owned(), source })
        };
        Ok(Self {
            authorities: read(&files.ca_file)?,
            certificates: read(&files.cert_file)?,
            key: read(&files.key_file)?,
        })
    }

    /// What has to be known to answer others and to ask them. `files` are where this was read from.
    fn configs(
        &self,
        files: &CertificateFiles,
    ) -> Result<(Arc<ServerConfig>, Arc<ClientConfig>), CertificateFault> {
        let roots = Arc::new(roots(&files.ca_file, &self.authorities)?);
        let chain = certificates(&files.cert_file, &self.certificates)?;
        let key = || {
            PrivateKeyDer::from_pem_slice(&self.key).map_err(|source| CertificateFault::Pem {
                path: files.key_file.clone(),
                wanted: "key in PEM without a password",
                source,
            })
        };
        let provider = Arc::new(aws_lc_rs::default_provider());
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider));
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .expect("the provider has what the version needs")
            .with_client_cert_verifier(clients.build()?)
            .with_single_cert(chain.clone(), key()?)
            .map_err(CertificateFault::Pair)?;
        let nodes = NodeVerifier { roots, provider: Arc::clone(&provider) };
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .expect("the provider has what the version needs")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(nodes))
            .with_client_auth_cert(chain, key()?)
            .map_err(CertificateFault::Pair)?;
        Ok((Arc::new(server), Arc::new(client)))
    }
}

/// At least one.
fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertificateFault> {
    let failed = |source| {
        let (path, wanted) = (path.to_owned(), "certificate in PEM");
        CertificateFault::Pem { path, wanted, source }
    };
    let found: Vec<_> =
        CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(failed)?;
    if found.is_empty() { Err(failed(pem::Error::NoItemsFound)) } else { Ok(found) }
}

fn roots(path: &Path, pem: &[u8]) -> Result<RootCertStore, CertificateFault> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, pem)? {
        let failed = |source| CertificateFault::Authority { path: path.to_owned(), source };
        roots.add(certificate).map_err(failed)?;
    }
    Ok(roots)
}

/// Believes every node with a certificate of the cluster's authorities, whatever name is in it: nodes move from address
/// to address, and who is allowed to be a node may be any of them, because what they send is held against digests. So
/// a certificate says "a node of this cluster", and an authority that signs for anything else is not to be used.
///
/// All else is as for any server: the chain, the time, and that the certificate is one for servers.
#[derive(Debug)]
struct NodeVerifier {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for NodeVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let algorithms = self.provider.signature_verification_algorithms.all;
        let certificate = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &self.roots,
            intermediates,
            now,
            algorithms,
        )?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(CertificateError::Other(OtherError(Arc::new(OldVersion))).into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Cannot come up, because only TLS 1.3 is offered.
#[derive(Debug, thiserror::Error)]
#[error("nodes speak TLS 1.3 with each other")]
struct OldVersion;

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn put(folder: &TempDir, name: &str, kinds: &[&str]) {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/tls");
        for kind in kinds {
            let text = fs::read(from.join(format!("{name}.{kind}"))).unwrap();
            fs::write(folder.path().join(kind), text).unwrap();
        }
    }

    #[test]
    fn files_that_change_for_the_worse_are_told_once_and_what_was_in_use_stays() {
        let folder = TempDir::new().unwrap();
        put(&folder, "peer", &["pem", "key"]);
        let path = |kind| folder.path().join(kind);
        let files = CertificateFiles {
            ca_file: path("pem"),
            cert_file: path("pem"),
            key_file: path("key"),
        };
        let (certificates, mut keeper) = PeerCertificates::load(files).unwrap();
        let first = (Arc::clone(&certificates.server().borrow()), certificates.client());
        let is_first = || {
            Arc::ptr_eq(&first.0, &certificates.server().borrow())
                && Arc::ptr_eq(&first.1, &certificates.client())
        };
        let spoil: [&dyn Fn(); 4] = [
            &|| fs::write(path("pem"), "nonsense").unwrap(),
            &|| fs::remove_file(path("pem")).unwrap(),
            // It is not the certificate of the key that is there.
            &|| put(&folder, "other", &["pem"]),
            &|| fs::write(path("key"), "").unwrap(),
        ];
        for (number, spoil) in spoil.iter().enumerate() {
            spoil();
            assert!(keeper.renew().is_err(), "change {number}");
            assert!(keeper.renew().is_ok() && is_first(), "change {number}");
        }
        put(&folder, "other", &["key"]);
        assert!(keeper.renew().is_ok() && !is_first());
    }

    #[tokio::test(start_paused = true)]
    async fn the_files_are_looked_at_until_the_end_and_within_a_minute() {
        let folder = TempDir::new().unwrap();
        put(&folder, "peer", &["pem", "key"]);
        let path = |kind| folder.path().join(kind);
        let (ca_file, cert_file, key_file) = (path("pem"), path("pem"), path("key"));
        let files = CertificateFiles { ca_file, cert_file, key_file };
        let (certificates, keeper) = PeerCertificates::load(files).unwrap();
        let (mut in_use, shutdown) = (certificates.server(), Shutdown::new());
        let keeping = tokio::spawn(keeper.keep_fresh(shutdown.clone()));
        put(&folder, "other", &["pem", "key"]);
        let minute = Duration::from_secs(60);
        tokio::time::timeout(minute, in_use.changed()).await.unwrap().unwrap();
        shutdown.begin();
        keeping.await.unwrap();
    }
}
