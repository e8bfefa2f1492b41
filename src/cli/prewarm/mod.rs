//! `millpond prewarm`: pulls images through a running daemon and keeps nothing of them, so that the daemon does.

mod blobs;
mod daemon;
mod download;
mod error;
mod image;
mod listing;
mod plan;
mod platform;
mod progress;
mod repository;
mod retry;

use std::{collections::HashSet, fmt::Write, io, path::PathBuf, process::ExitCode, sync::Arc};

use futures_util::{StreamExt, stream};
use tokio::time::Instant;

pub use image::{Image, InvalidImage};

use self::{
    blobs::Blobs,
    daemon::Daemon,
    download::Blob,
    plan::{ImageError, Plan},
    platform::Platform,
    progress::{Progress, Warmth},
    server::{Login, Server},
};
use super::{EXIT_UNUSABLE, fail, server, text};
use crate::runtime::Tasks;

/// Exit status for images of which something could not be pulled.
const EXIT_FAILED: u8 = 1;

/// What an image is, for those who wrote something else.
const ACCEPTED: &str = "An image is [REGISTRY/]NAME[:TAG][@DIGEST], for example docker.io/nginx:1.27, \
                        ghcr.io/org/app@sha256:… or team/app:1";

/// The end of `--help`.
const NAMES: &str = "\
Names:
  A first component with a dot, or localhost, is a registry that the daemon mirrors:
  ghcr.io/org/app:1 is pulled as /v2/ghcr.io/org/app. docker.io/nginx means
  docker.io/library/nginx.

  A name without a registry is one of the daemon's own, as it stands: nginx is the
  repository nginx that was pushed to the daemon, NOT docker.io/library/nginx. Write
  docker.io/nginx for that.

  A registry with a port, as in registry.house:5000/app:1, is one that the daemon's
  configuration has among the aliases of a registry: the daemon is asked for app with
  ?ns=registry.house:5000.

  Without a tag, latest is meant. With a tag and a digest, the digest counts.

Exit status:
  0 if everything was pulled, 1 if something was not, 64 for arguments that cannot be
  used.";

/// The command line of `prewarm`.
#[derive(Debug, clap::Args)]
#[command(after_help = NAMES)]
pub(super) struct Arguments {
    /// The daemon. It is asked directly, whatever proxy the environment names. With https, its certificate must
    /// be one that the system trusts, or that the file in `SSL_CERT_FILE` does.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:5000")]
    server: Server,
    /// Pull only what is made for this platform; may be given several times. Without it, every platform of an
    /// image is pulled. Without a VARIANT, every variant is.
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Vec<Platform>,
    /// Most blobs that are pulled at once.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 4,
        value_parser = clap::value_parser!(u16).range(1..=256)
    )]
    concurrency: u16,
    /// User that the daemon wants to know.
    #[arg(long, value_name = "USER", requires = "password_file")]
    username: Option<String>,
    /// File that holds the user's password. Line breaks at its end do not belong to it.
    #[arg(long, value_name = "FILE", requires = "username")]
    password_file: Option<PathBuf>,
    /// What to pull: [REGISTRY/]NAME[:TAG][@DIGEST].
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
}

/// Why nothing can be begun.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    /// Some arguments name no image.
    #[error("{}", describe(.0))]
    Images(Vec<(String, InvalidImage)>),
    /// The file of the password cannot be read.
    #[error("{} cannot be read", path.display())]
    Password {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// There is no TLS to talk to the daemon with.
    #[error("no TLS connection can be made")]
    Client(#[from] reqwest::Error),
}

/// Runs the command. Signals are not caught: there is nothing to put in order, so they end it at once.
pub(super) async fn run(arguments: Arguments) -> ExitCode {
    match begin(arguments) {
        Ok(prewarm) => match Arc::new(prewarm).run().await {
            Warmth::Warm => ExitCode::SUCCESS,
            Warmth::Failed => ExitCode::from(EXIT_FAILED),
        },
        Err(error) => fail(&error, EXIT_UNUSABLE),
    }
}

fn begin(arguments: Arguments) -> Result<Prewarm, Unusable> {
    let images = read_images(arguments.images)?;
    let login = match (arguments.username, arguments.password_file) {
        (Some(username), Some(path)) => match Login::read(username, &path) {
            Ok(login) => Some(login),
            Err(source) => return Err(Unusable::Password { path, source }),
        },
        // The command line has both or neither.
        (_, _) => None,
    };
    let daemon = Arc::new(Daemon::new(arguments.server, login)?);
    let progress = Arc::new(Progress::on_stderr(images.len()));
    let concurrency = usize::from(arguments.concurrency);
    let blobs = Arc::new(Blobs::new(Arc::clone(&daemon), Arc::clone(&progress), concurrency));
    let platforms = arguments.platform;
    Ok(Prewarm { images, platforms, concurrency, daemon, blobs, progress, tasks: Tasks::new() })
}

/// Each image once, in order.
fn read_images(texts: Vec<String>) -> Result<Vec<Image>, Unusable> {
    let (mut images, mut seen, mut invalid) = (Vec::new(), HashSet::new(), Vec::new());
    for text in texts {
        match text.parse::<Image>() {
            Ok(image) => images.extend(seen.insert(image.clone()).then_some(image)),
            Err(error) => invalid.push((text, error)),
        }
    }
    if invalid.is_empty() { Ok(images) } else { Err(Unusable::Images(invalid)) }
}

fn describe(invalid: &[(String, InvalidImage)]) -> String {
    let mut lines = "these arguments name no image:\n".to_owned();
    for (text, error) in invalid {
        let _infallible = writeln!(lines, "  {text:?}: {error}");
    }
    lines + ACCEPTED
}

/// One run of the command.
#[derive(Debug)]
struct Prewarm {
    images: Vec<Image>,
    platforms: Vec<Platform>,
    concurrency: usize,
    daemon: Arc<Daemon>,
    blobs: Arc<Blobs>,
    progress: Arc<Progress>,
    tasks: Tasks,
}

impl Prewarm {
    async fn run(&self) -> Warmth {
        // As many images as blobs: the next image's manifests come while the last blobs of this one do.
        let all = stream::iter(&self.images)
            .for_each_concurrent(self.concurrency, |image| self.warm(image));
        tokio::select! {
            () = all => {}
            () = self.progress.keep_drawing() => {}
        }
        self.progress.finish()
    }

    async fn warm(&self, image: &Image) {
        let began = Instant::now();
        let plan = plan::plan(&self.daemon, image, &self.platforms).await;
        self.blobs.announce(&plan.blobs);
        plan.problems.iter().for_each(|problem| self.progress.failed(image, problem));
        // Of an image without manifests there is nothing to say but that.
        if plan.problems.is_empty() || !plan.blobs.is_empty() {
            self.progress.planned(image, &plan);
        }
        let failed_blobs = self.warm_blobs(image, &plan).await;
        let failed = failed_blobs > 0 || !plan.problems.is_empty();
        let warmth = if failed { Warmth::Failed } else { Warmth::Warm };
        self.progress.ended(image, warmth, plan.size_bytes(), began.elapsed());
    }

    /// Pulls the blobs of an image; returns how many failed.
    async fn warm_blobs(&self, image: &Image, plan: &Plan) -> usize {
        let pulls = stream::iter(&plan.blobs).map(|&blob| self.warm_blob(image, blob));
        let outcomes = pulls.buffer_unordered(self.concurrency);
        outcomes
            .filter(|outcome| std::future::ready(*outcome == Warmth::Failed))
            .fold(0, async |failed, _| failed + 1)
            .await
    }

    async fn warm_blob(&self, image: &Image, blob: Blob) -> Warmth {
        let (blobs, repository) = (Arc::clone(&self.blobs), image.repository.clone());
        // A task of its own, because it hashes.
        let pull = async move { blobs.warm(&repository, blob).await };
        let outcome = self.tasks.spawn("prewarm a blob", pull).await;
        let Ok(outcome) = outcome else { return Warmth::Failed };
        match outcome {
            Ok(()) => Warmth::Warm,
            Err(source) => {
                let error = ImageError::Blob { digest: blob.digest, source };
                self.progress.failed(image, &error);
                Warmth::Failed
            }
        }
    }
}
