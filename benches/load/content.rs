//! Layer content: cheap to produce, and with a different digest for every layer.
//!
//! A layer is one pseudo-random block, repeated, and a tail of its own. All layers of one size
//! share everything but the tail, so the hash of what they share is computed once and each digest
//! costs one more block of SHA-256: neither hashing nor generating is in the timed sections.

use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use anyhow::{Result, ensure};
use aws_lc_rs::digest;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

/// Small enough to stay in a core's cache while it is sent again and again.
const BLOCK_BYTES: usize = 1 << 20;
const TAIL_BYTES: u64 = 32;
/// What Go's `io.Copy` hands to its chunked writer, and so the chunk of dockerd and podman.
const CHUNK_BYTES: u64 = 32 << 10;
/// Frames of a body with a length are no part of the protocol: few large ones are cheap.
const FRAME_BYTES: u64 = 256 << 10;

/// All layers of one size.
pub(crate) struct Content {
    size_bytes: u64,
    seed: u64,
    block: Bytes,
    shared: digest::Context,
}

impl Content {
    /// Hashes `size_bytes`, which takes seconds for gigabytes. Layers of equal seed and index
    /// are equal.
    ///
    /// # Errors
    /// When a layer would be too small to differ from others.
    pub(crate) fn new(size_bytes: u64, seed: u64) -> Result<Self> {
        ensure!(size_bytes >= TAIL_BYTES, "layers have at least {TAIL_BYTES} bytes");
        let mut block = vec![0; BLOCK_BYTES];
        fastrand::Rng::with_seed(seed).fill(&mut block);
        let mut shared = digest::Context::new(&digest::SHA256);
        let mut left = (size_bytes - TAIL_BYTES) as usize;
        while left > 0 {
            let part = left.min(BLOCK_BYTES);
            shared.update(&block[..part]);
            left -= part;
        }
        Ok(Self { size_bytes, seed, block: block.into(), shared })
    }

    pub(crate) fn layer(&self, index: u64) -> Layer {
        let mut tail = [0; TAIL_BYTES as usize];
        tail[..8].copy_from_slice(&self.seed.to_le_bytes());
        tail[8..16].copy_from_slice(&index.to_le_bytes());
        let mut hash = self.shared.clone();
        hash.update(&tail);
        Layer {
            size_bytes: self.size_bytes,
            block: self.block.clone(),
            tail: Bytes::copy_from_slice(&tail),
            digest: digest_name(&hash.finish()),
        }
    }
}

/// The `sha256:…` name of a finished hash.
pub(crate) fn digest_name(hash: &digest::Digest) -> String {
    use std::fmt::Write;

    hash.as_ref().iter().fold(String::from("sha256:"), |mut name, byte| {
        let _ = write!(name, "{byte:02x}");
        name
    })
}

#[derive(Clone)]
pub(crate) struct Layer {
    pub(crate) size_bytes: u64,
    pub(crate) digest: String,
    block: Bytes,
    tail: Bytes,
}

impl Layer {
    pub(crate) fn body(&self, framing: Framing) -> LayerBody {
        LayerBody { layer: self.clone(), framing, position: 0, sent: Arc::default() }
    }

    /// Its bytes from `position`, which is before its end, at most so many: fewer where the block
    /// it repeats ends.
    pub(crate) fn part(&self, position: u64, most_bytes: u64) -> Bytes {
        let (source, range) = self.locate(position, most_bytes);
        source.slice(range)
    }

    /// Whether `data` is what it has at `position`.
    pub(crate) fn has(&self, position: u64, mut data: &[u8]) -> bool {
        let mut position = position;
        while !data.is_empty() && position < self.size_bytes {
            let (source, range) = self.locate(position, data.len() as u64);
            let (head, rest) = data.split_at(range.len());
            if head != &source[range] {
                return false;
            }
            position += head.len() as u64;
            data = rest;
        }
        data.is_empty()
    }

    fn locate(&self, position: u64, most_bytes: u64) -> (&Bytes, Range<usize>) {
        let shared = self.size_bytes - TAIL_BYTES;
        let (source, start, left) = if position < shared {
            let start = position % BLOCK_BYTES as u64;
            (&self.block, start, (BLOCK_BYTES as u64 - start).min(shared - position))
        } else {
            (&self.tail, position - shared, self.size_bytes - position)
        };
        (source, start as usize..(start + most_bytes.min(left)) as usize)
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Framing {
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// `Content-Length`.
    Length,
}

pub(crate) struct LayerBody {
    layer: Layer,
    framing: Framing,
    position: u64,
    sent: Arc<OnceLock<Instant>>,
}

impl LayerBody {
    /// Is set to the time when the last byte was handed to the connection.
    pub(crate) fn sent(&self) -> Arc<OnceLock<Instant>> {
        Arc::clone(&self.sent)
    }

    fn next_part(&self) -> Bytes {
        let frame = match self.framing {
            Framing::Chunked => CHUNK_BYTES,
            Framing::Length => FRAME_BYTES,
        };
        self.layer.part(self.position, frame)
    }
}

impl Body for LayerBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.is_end_stream() {
            return Poll::Ready(None);
        }
        let part = self.next_part();
        self.position += part.len() as u64;
        if self.is_end_stream() {
            let _ = self.sent.set(Instant::now());
        }
        Poll::Ready(Some(Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.position == self.layer.size_bytes
    }

    fn size_hint(&self) -> SizeHint {
        match self.framing {
            Framing::Chunked => SizeHint::default(),
            Framing::Length => SizeHint::with_exact(self.layer.size_bytes - self.position),
        }
    }
}
