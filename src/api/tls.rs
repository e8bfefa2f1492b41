//! TLS on the registry's own addresses.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    version::{TLS12, TLS13},
};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::runtime::{Section, Setting, Shutdown};

/// What may be spoken behind TLS, the better one first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// How often the files are looked at. Certificate and key cannot be replaced at the same moment: where a look finds
/// only one of them new, there is another one within the minute that is promised.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Settings of TLS, section `api.tls`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// PEM file with the registry's certificate and those between it and an authority. No default.
    pub cert_file: PathBuf,
    /// PEM file with the key of the certificate. No default.
    pub key_file: PathBuf,
}

impl TlsConfig {
    /// Reads the section, reporting what is wrong with it. `None`: the registry speaks without TLS.
    pub(super) fn read(section: &mut Section<'_>) -> Option<Self> {
        let cert_file = section.optional::<PathBuf>("cert_file");
        let key_file = section.optional::<PathBuf>("key_file");
        let alone = match (cert_file, key_file) {
            (Some(cert_file), Some(key_file)) => return Some(Self { cert_file, key_file }),
            (None, None) => return None,
            (Some(cert_file), None) => ("cert_file", cert_file),
            (None, Some(key_file)) => ("key_file", key_file),
        };
        let message = "give the paths of cert_file and key_file, or neither";
        section.problem(alone.0, Some(alone.1.show()), message);
        None
    }
}

/// Why TLS cannot be spoken.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{key}: {} cannot be read: {source}", path.display())]
    File {
        /// The setting that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file has nothing in it that can be used.
    #[error("{key}: {} holds no usable {wanted}: {source}", path.display())]
    Pem {
        /// The setting that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What was looked for.
        wanted: &'static str,
        /// Why it was not found.
        source: pem::Error,
    },
    /// The certificate and the key do not belong together, or one of them is of a kind that is not known.
    #[error("api.tls: {} and {} cannot be used together: {source}", cert_file.display(), key_file.display())]
    Pair {
        /// The file of the certificate.
        cert_file: PathBuf,
        /// The file of the key.
        key_file: PathBuf,
        /// Why not.
        source: rustls::Error,
    },
}

/// The certificate of the registry's addresses, which can be replaced while it is in use.
pub struct Certificates {
    files: TlsConfig,
    /// What was last found in the files; `None` if they could not be read.
    seen: Option<Pem>,
    in_use: watch::Sender<Arc<ServerConfig>>,
}

/// What a look at the files led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Renewal {
    /// Nothing: they are as they were, or still cannot be used, which has been told.
    Unchanged,
    /// New connections get what is in them now.
    Renewed,
}

impl Certificates {
    /// Reads the files. Blocks, as the start of the daemon may.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn load(files: TlsConfig) -> Result<Self, TlsError> {
        let pem = Pem::read(&files)?;
        let in_use = watch::Sender::new(Arc::new(pem.server_config(&files)?));
        Ok(Self { files, seen: Some(pem), in_use })
    }

    /// TLS with whatever certificate is in use when a connection begins.
    #[must_use]
    pub fn transport(&self) -> Transport {
        Transport::tls(self.in_use.subscribe())
    }

    /// Has new connections get a new certificate within a minute after its files are there, until `shutdown`.
    /// Files that cannot be used are logged once, and what was in use stays so.
    ///
    /// # Cancel safety
    /// May be dropped at any time: the certificate in use stays so.
    pub async fn keep_fresh(mut self, shutdown: Shutdown) {
        loop {
            tokio::select! {
                () = shutdown.begun() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            let look = tokio::task::spawn_blocking(move || {
                let renewal = self.renew();
                (self, renewal)
            });
            let looked = tokio::select! {
                () = shutdown.begun() => return,
                looked = look => looked,
            };
            // Otherwise the runtime is going down.
            let Ok((certificates, renewal)) = looked else { return };
            self = certificates;
            self.log(renewal);
        }
    }

    fn log(&self, renewal: Result<Renewal, TlsError>) {
        let cert_file = self.files.cert_file.display();
        match renewal {
            Ok(Renewal::Unchanged) => {}
            Ok(Renewal::Renewed) => {
                tracing::info!(%cert_file, "new connections get the certificate that is in the file now");
            }
            Err(error) => {
                tracing::warn!(%error, "the certificate was not renewed; the one before stays in use");
            }
        }
    }

    /// Looks at the files: at what is in them, because a time of modification may be copied along. Fails once for
    /// each change for the worse. Blocks.
    fn renew(&mut self) -> Result<Renewal, TlsError> {
        let found = Pem::read(&self.files);
        if found.as_ref().ok() == self.seen.as_ref() {
            return Ok(Renewal::Unchanged);
        }
        self.seen = None;
        let pem = self.seen.insert(found?);
        self.in_use.send_replace(Arc::new(pem.server_config(&self.files)?));
        Ok(Renewal::Renewed)
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").field("files", &self.files).finish_non_exhaustive()
    }
}

/// How connections to a listener begin.
#[derive(Clone, Debug)]
pub enum Transport {
    /// At once with HTTP.
    Plain,
    /// With a TLS handshake.
    Tls(Handshakes),
}

impl Transport {
    /// TLS with whatever is `in_use` when a connection begins.
    #[must_use]
    pub const fn tls(in_use: watch::Receiver<Arc<ServerConfig>>) -> Self {
        Self::Tls(Handshakes(in_use))
    }
}

/// What handshakes are made with. Cloning shares it.
#[derive(Clone)]
pub struct Handshakes(watch::Receiver<Arc<ServerConfig>>);

impl Handshakes {
    /// Makes one handshake.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.0.borrow()))
    }
}

impl fmt::Debug for Handshakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handshakes").finish_non_exhaustive()
    }
}

/// The contents of both files.
#[derive(PartialEq, Eq)]
struct Pem {
    certificates: Vec<u8>,
    key: Vec<u8>,
}

impl Pem {
    fn read(files: &TlsConfig) -> Result<Self, TlsError> {
        let read = |key, path: &Path| {
            fs::read(path).map_err(|source| TlsError::File { key, path: path.to_owned(), source })
        };
        Ok(Self {
            certificates: read("api.tls.cert_file", &files.cert_file)?,
            key: read("api.tls.key_file", &files.key_file)?,
        })
    }

    /// What a server has to know. `files` are where this was read from.
    fn server_config(&self, files: &TlsConfig) -> Result<ServerConfig, TlsError> {
        let TlsConfig { cert_file, key_file } = files;
        let certificates = certificates(&self.certificates).map_err(|source| {
            let (key, wanted) = ("api.tls.cert_file", "certificate in PEM");
            TlsError::Pem { key, path: cert_file.clone(), wanted, source }
        })?;
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|source| {
            let (key, wanted) = ("api.tls.key_file", "key in PEM without a password");
            TlsError::Pem { key, path: key_file.clone(), wanted, source }
        })?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13, &TLS12])
            .expect("the provider has what both versions need")
            .with_no_client_auth()
            .with_single_cert(certificates, key)
            .map_err(|source| {
                let (cert_file, key_file) = (cert_file.clone(), key_file.clone());
                TlsError::Pair { cert_file, key_file, source }
            })?;
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        Ok(config)
    }
}

/// At least one.
fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, pem::Error> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>()?;
    if found.is_empty() { Err(pem::Error::NoItemsFound) } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    /// The files of a certificate, in a folder of their own.
    struct Files(TempDir);

    impl Files {
        fn of(name: &str) -> Self {
            let files = Self(TempDir::new().unwrap());
            files.put(name, "pem");
            files.put(name, "key");
            files
        }

        /// Puts one of the test certificates there, or its key.
        fn put(&self, name: &str, kind: &str) {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/tls");
            let text = fs::read(folder.join(format!("{name}.{kind}"))).unwrap();
            fs::write(self.path(kind), text).unwrap();
        }

        fn path(&self, kind: &str) -> PathBuf {
            self.0.path().join(kind)
        }

        fn load(&self) -> Certificates {
            let files = TlsConfig { cert_file: self.path("pem"), key_file: self.path("key") };
            Certificates::load(files).unwrap()
        }
    }

    #[test]
    fn files_that_change_for_the_worse_are_told_once_and_the_certificate_stays() {
        let files = Files::of("server");
        let mut certificates = files.load();
        let first = Arc::clone(&certificates.in_use.borrow());
        assert_eq!(certificates.renew().unwrap(), Renewal::Unchanged);
        let spoil: [&dyn Fn(); 4] = [
            &|| fs::write(files.path("pem"), "nonsense").unwrap(),
            &|| fs::remove_file(files.path("pem")).unwrap(),
            // It is not the certificate of the key that is there.
            &|| files.put("client", "pem"),
            &|| fs::write(files.path("key"), "").unwrap(),
        ];
        for (number, spoil) in spoil.iter().enumerate() {
            spoil();
            assert!(certificates.renew().is_err(), "change {number}");
            assert_eq!(certificates.renew().unwrap(), Renewal::Unchanged, "change {number}");
            assert!(Arc::ptr_eq(&first, &certificates.in_use.borrow()), "change {number}");
        }
        files.put("client", "key");
        assert_eq!(certificates.renew().unwrap(), Renewal::Renewed);
        assert!(!Arc::ptr_eq(&first, &certificates.in_use.borrow()));
        assert_eq!(certificates.renew().unwrap(), Renewal::Unchanged);
    }

    #[tokio::test(start_paused = true)]
    async fn the_files_are_looked_at_until_the_end_and_within_a_minute() {
        let files = Files::of("server");
        let (certificates, shutdown) = (files.load(), Shutdown::new());
        let mut in_use = certificates.in_use.subscribe();
        let keeping = tokio::spawn(certificates.keep_fresh(shutdown.clone()));
        for name in ["client", "server"] {
            files.put(name, "pem");
            tokio::time::advance(LOOK_EVERY).await;
            // The key that belongs to it comes later.
            files.put(name, "key");
            let minute = Duration::from_secs(60);
            tokio::time::timeout(minute, in_use.changed()).await.unwrap().unwrap();
        }
        shutdown.begin();
        keeping.await.unwrap();
    }

    #[test]
    fn nothing_secret_is_shown() {
        let certificates = Files::of("server").load();
        let shown = format!("{certificates:?} {:?}", certificates.transport());
        assert!(shown.contains("key_file") && shown.len() < 300, "{shown}");
    }
}
