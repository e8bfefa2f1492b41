//! Telling how far it is: one line redrawn on a terminal, plain lines elsewhere.

use std::{
    collections::VecDeque,
    fmt,
    io::{self, IsTerminal, Write},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{
    image::Image,
    plan::{ImageError, Plan},
    text,
};

/// Longest line that is redrawn: the width of the narrowest common terminal, less the cursor's column.
const LINE_MAX_CHARS: usize = 79;

/// Time between two drawings.
const REDRAW_INTERVAL: Duration = Duration::from_millis(200);

/// Drawings that the rate is taken over: the last five seconds.
const RATE_SAMPLES: usize = 25;

/// How it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// One line that is drawn again and again, below the errors.
    Redrawn,
    /// A line for each event.
    Plain,
}

/// Whether an image, or everything, is warm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Warmth {
    /// All that was asked for was served.
    Warm,
    /// Something failed, and was told.
    Failed,
}

/// The state of a run, and where it is told. Writing may fail: nobody reads then, and the work goes on.
pub(super) struct Progress {
    received_bytes: AtomicU64,
    expected_bytes: AtomicU64,
    began: Instant,
    style: Style,
    screen: Mutex<Screen>,
}

struct Screen {
    output: Box<dyn Write + Send>,
    images: Images,
    rate: Rate,
}

#[derive(Clone, Copy, Debug, Default)]
struct Images {
    total: usize,
    warm: usize,
    failed: usize,
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Progress").field("style", &self.style).finish_non_exhaustive()
    }
}

impl Progress {
    /// Tells on standard error about so many images.
    pub(super) fn on_stderr(images: usize) -> Self {
        let output = io::stderr();
        let style = if output.is_terminal() { Style::Redrawn } else { Style::Plain };
        Self::new(style, Box::new(output), images)
    }

    fn new(style: Style, output: Box<dyn Write + Send>, images: usize) -> Self {
        let images = Images { total: images, ..Images::default() };
        let screen = Screen { output, images, rate: Rate::default() };
        Self {
            received_bytes: AtomicU64::new(0),
            expected_bytes: AtomicU64::new(0),
            began: Instant::now(),
            style,
            screen: Mutex::new(screen),
        }
    }

    /// So many more bytes are to come.
    pub(super) fn expect(&self, bytes: u64) {
        self.expected_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// So many more bytes have come.
    pub(super) fn received(&self, bytes: u64) {
        self.received_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// So many bytes that came will come again.
    pub(super) fn lost(&self, bytes: u64) {
        self.received_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// The blobs of an image are known.
    pub(super) fn planned(&self, image: &Image, plan: &Plan) {
        let blobs = text::count(plan.blobs.len(), "blob");
        self.tell(&format!("{image}: {blobs}, {}", text::bytes(plan.size_bytes())));
    }

    /// Something about an image failed.
    pub(super) fn failed(&self, image: &Image, error: &ImageError) {
        let line = text::printable(&format!("{image}: {}", text::chain(error)));
        let mut screen = self.screen();
        match self.style {
            Style::Plain => screen.write(&format!("{line}\n")),
            Style::Redrawn => {
                let below = self.line(&screen);
                screen.write(&format!("\r\x1b[K{line}\n{}", drawing(&below)));
            }
        }
    }

    /// Nothing more is done about an image.
    pub(super) fn ended(&self, image: &Image, warmth: Warmth, bytes: u64, took: Duration) {
        let took = text::time(took);
        match warmth {
            Warmth::Warm => {
                self.screen().images.warm += 1;
                self.tell(&format!("{image}: warm, {} in {took}", text::bytes(bytes)));
            }
            Warmth::Failed => {
                self.screen().images.failed += 1;
                self.tell(&format!("{image}: failed after {took}"));
            }
        }
    }

    /// Nothing more is done at all. Tells the sum and returns it.
    pub(super) fn finish(&self) -> Warmth {
        let (took, bytes) = (self.began.elapsed(), self.received_bytes.load(Ordering::Relaxed));
        let mut screen = self.screen();
        let Images { total, warm, failed } = screen.images;
        let failures = if failed > 0 { format!(", {failed} failed") } else { String::new() };
        let rate = text::bytes(per_second(bytes, took));
        let images = text::count(total, "image");
        let erase = if self.style == Style::Redrawn { "\r\x1b[K" } else { "" };
        let amount = format!("{} in {} ({rate}/s)", text::bytes(bytes), text::time(took));
        screen.write(&format!("{erase}{warm} of {images} warm{failures}: {amount}\n"));
        if warm == total { Warmth::Warm } else { Warmth::Failed }
    }

    /// Draws the line on a terminal, for ever.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub(super) async fn keep_drawing(&self) {
        if self.style == Style::Plain {
            return std::future::pending().await;
        }
        loop {
            {
                let mut screen = self.screen();
                screen.rate.sample(Instant::now(), self.received_bytes.load(Ordering::Relaxed));
                let line = self.line(&screen);
                screen.write(&drawing(&line));
            }
            tokio::time::sleep(REDRAW_INTERVAL).await;
        }
    }

    /// Writes a line that a terminal can do without.
    fn tell(&self, line: &str) {
        if self.style == Style::Plain {
            self.screen().write(&format!("{}\n", text::printable(line)));
        }
    }

    fn line(&self, screen: &Screen) -> String {
        let received = self.received_bytes.load(Ordering::Relaxed);
        let expected = self.expected_bytes.load(Ordering::Relaxed);
        line(received, expected, screen.rate.per_second(), screen.images)
    }

    fn screen(&self) -> std::sync::MutexGuard<'_, Screen> {
        self.screen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Screen {
    /// In one piece: a signal may end the process at any time, and must not leave half a control sequence.
    fn write(&mut self, text: &str) {
        let _nobody_reads = self.output.write_all(text.as_bytes());
        let _nobody_reads = self.output.flush();
    }
}

/// What replaces the drawn line on a terminal. While it is written the terminal cuts off what is too long for
/// it, so that its width does not have to be known.
fn drawing(line: &str) -> String {
    format!("\r\x1b[?7l{line}\x1b[K\x1b[?7h")
}

fn line(received: u64, expected: u64, rate: u64, images: Images) -> String {
    let left = images.total.saturating_sub(images.warm + images.failed);
    let failures =
        if images.failed > 0 { format!(", {} failed", images.failed) } else { String::new() };
    let line = format!(
        "{} of {} ({} %), {}/s, images: {} warm{failures}, {left} to go",
        text::bytes(received),
        text::bytes(expected),
        text::percent(received, expected),
        text::bytes(rate),
        images.warm,
    );
    line.chars().take(LINE_MAX_CHARS).collect()
}

/// Bytes a second over the last few drawings.
#[derive(Debug, Default)]
struct Rate {
    samples: VecDeque<(Instant, u64)>,
}

impl Rate {
    fn sample(&mut self, now: Instant, bytes: u64) {
        if self.samples.len() == RATE_SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back((now, bytes));
    }

    fn per_second(&self) -> u64 {
        match (self.samples.front(), self.samples.back()) {
            (Some(&(begin, before)), Some(&(end, after))) => {
                per_second(after.saturating_sub(before), end.duration_since(begin))
            }
            (_, _) => 0,
        }
    }
}

/// 0 for no time at all.
fn per_second(bytes: u64, time: Duration) -> u64 {
    let rate = (u128::from(bytes) * 1000).checked_div(time.as_millis()).unwrap_or(0);
    u64::try_from(rate).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    /// What was written.
    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Paper {
        fn take(&self) -> String {
            String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap()
        }
    }

    fn on_paper(style: Style, images: usize) -> (Progress, Paper) {
        let paper = Paper::default();
        (Progress::new(style, Box::new(paper.clone()), images), paper)
    }

    fn image() -> Image {
        "ghcr.io/org/app:1".parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn plain_lines_tell_each_event() {
        let (progress, paper) = on_paper(Style::Plain, 2);
        progress.planned(&image(), &Plan { blobs: Vec::new(), problems: Vec::new() });
        assert_eq!(paper.take(), "ghcr.io/org/app:1: 0 blobs, 0 B\n");
        progress.ended(&image(), Warmth::Warm, 2048, Duration::from_secs(2));
        assert_eq!(paper.take(), "ghcr.io/org/app:1: warm, 2.0 KiB in 2.0 s\n");
        progress.failed(&image(), &ImageError::TooDeep);
        assert_eq!(paper.take(), "ghcr.io/org/app:1: its indexes are more than 4 deep\n");
        progress.ended(&image(), Warmth::Failed, 0, Duration::from_secs(1));
        assert_eq!(paper.take(), "ghcr.io/org/app:1: failed after 1.0 s\n");
        progress.received(4096);
        progress.lost(1024);
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(progress.finish(), Warmth::Failed);
        assert_eq!(paper.take(), "1 of 2 images warm, 1 failed: 3.0 KiB in 3.0 s (1.0 KiB/s)\n");
    }

    #[tokio::test(start_paused = true)]
    async fn a_terminal_has_one_line_that_is_drawn_again() {
        let (progress, paper) = on_paper(Style::Redrawn, 1);
        progress.expect(3 << 20);
        let draw = async {
            tokio::time::sleep(REDRAW_INTERVAL / 2).await;
            progress.received(1 << 20);
            tokio::time::sleep(REDRAW_INTERVAL).await;
        };
        tokio::select! {
            () = progress.keep_drawing() => {}
            () = draw => {}
        }
        let first = "0 B of 3.0 MiB (0 %), 0 B/s, images: 0 warm, 1 to go";
        let second = "1.0 MiB of 3.0 MiB (33 %), 5.0 MiB/s, images: 0 warm, 1 to go";
        assert_eq!(paper.take(), [first, second].map(drawing).concat());

        progress.failed(&image(), &ImageError::TooMany);
        let error = "ghcr.io/org/app:1: it has more than 1000 manifests";
        assert_eq!(paper.take(), format!("\r\x1b[K{error}\n{}", drawing(second)));
        progress.ended(&image(), Warmth::Failed, 0, Duration::ZERO);
        assert_eq!(paper.take(), "", "the line tells it");
        progress.finish();
        assert!(paper.take().starts_with("\r\x1b[K0 of 1 image warm, 1 failed: 1.0 MiB in "));
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_is_that_of_the_last_seconds() {
        let (mut rate, began) = (Rate::default(), Instant::now());
        for step in 0..100 {
            let bytes = if step < 50 { 0 } else { u64::from(step - 50) * 200 };
            rate.sample(began + REDRAW_INTERVAL * step, bytes);
        }
        assert_eq!(rate.per_second(), 1000);
    }

    proptest! {
        #[test]
        fn the_line_never_exceeds_a_terminal(
            bytes in any::<[u64; 3]>(),
            counts in any::<[u32; 3]>(),
        ) {
            let [total, warm, failed] = counts.map(|count| count as usize);
            let images = Images { total, warm, failed };
            prop_assert!(line(bytes[0], bytes[1], bytes[2], images).chars().count() <= LINE_MAX_CHARS);
        }
    }
}
