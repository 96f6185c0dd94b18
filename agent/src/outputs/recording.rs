//! The pipeline's inputs flow in, a file flows out, compressed with gzip. Written by a thread of its own, so that
//! a slow disk never holds up the pipeline; the format is [`faultline_core::recording`]'s.

use anyhow::Context;
use faultline_core::pipeline::Settings;
use faultline_core::recording::{Header, Item, Writer};
use faultline_core::score::Model;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};

/// Items that wait for the disk: two seconds at 30,000 calls/s, about 16 MiB.
const QUEUE: usize = 65_536;

/// Writes items to a file until it is finished or fails.
#[derive(Debug)]
pub struct Recorder {
    path: PathBuf,
    queue: Option<SyncSender<Item>>,
    writer: Option<JoinHandle<io::Result<()>>>,
    failure: Option<String>,
}

impl Recorder {
    /// Begins a recording at `path`; what was there is replaced.
    ///
    /// # Errors
    /// When the file cannot be made or its beginning cannot be written.
    pub fn start(path: &Path, header: &Header) -> anyhow::Result<Self> {
        let file = File::create(path)
            .with_context(|| format!("cannot make the recording {}; choose another file", path.display()))?;
        // The fastest level: a fifth of the size, for a few percent of what decoding the calls costs.
        let file = GzEncoder::new(BufWriter::new(file), Compression::fast());
        let writer = Writer::start(file, header)
            .with_context(|| format!("cannot write the recording {}", path.display()))?;
        let (queue, items) = sync_channel(QUEUE);
        let writer = thread::Builder::new()
            .name("recording".to_owned())
            .spawn(move || write_all(writer, &items))
            .context("cannot start the recording's thread")?;
        Ok(Self { path: path.to_owned(), queue: Some(queue), writer: Some(writer), failure: None })
    }

    /// Adds one item. After a failure items are ignored: a recording has no holes, it ends.
    pub fn write(&mut self, item: Item) {
        let Some(queue) = &self.queue else {
            return;
        };
        match queue.try_send(item) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                // The writer finishes what it has: a shorter recording, but a whole one.
                self.queue = None;
                let path = self.path.display();
                self.failure =
                    Some(format!("the disk is too slow for the recording {path}, which ended early"));
            }
            Err(TrySendError::Disconnected(_)) => {
                self.failure = self.close().err().map(|error| format!("{error:#}"));
            }
        }
    }

    /// Why it ended early.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// Writes what waits and the end mark.
    ///
    /// # Errors
    /// When the file could not be written whole.
    pub fn finish(mut self) -> anyhow::Result<()> {
        self.close()
    }

    fn close(&mut self) -> anyhow::Result<()> {
        self.queue = None;
        let written = self.writer.take().map_or(Ok(Ok(())), JoinHandle::join);
        let written = written.unwrap_or_else(|_| Err(io::Error::other("its thread broke")));
        written.with_context(|| format!("cannot write the recording {}", self.path.display()))
    }
}

/// Writes until the queue is closed. Flushes at each tick, so that a killed agent leaves whole steps.
fn write_all(mut writer: Writer<GzEncoder<BufWriter<File>>>, items: &Receiver<Item>) -> io::Result<()> {
    for item in items {
        writer.item(&item)?;
        if matches!(item, Item::Tick(_)) {
            writer.flush()?;
        }
    }
    writer.finish()?.finish()?.flush()
}

/// What a recording of a pipeline with these settings and this model says of itself.
#[must_use]
pub fn header(settings: &Settings, model: Option<&dyn Model>) -> Header {
    Header {
        settings: settings.clone(),
        model_digest: model.and_then(|model| from_hexadecimal(model.digest())),
        agent: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

fn from_hexadecimal(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    for (place, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * place..2 * place + 2)?, 16).ok()?;
    }
    (text.len() == 64).then_some(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;
    use faultline_core::recording::Reader;
    use faultline_core::units::Timestamp;
    use std::time::{Duration, Instant};

    fn header() -> Header {
        Header { settings: Settings::default(), model_digest: None, agent: "test".to_owned() }
    }

    #[test]
    fn what_was_written_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("recording");
        let mut recorder = Recorder::start(&path, &header()).unwrap();
        (1..=1000).for_each(|tick| recorder.write(Item::Tick(Timestamp(tick))));
        recorder.finish().unwrap();
        let items: Vec<Item> = Reader::open(File::open(path).unwrap()).unwrap().map(Result::unwrap).collect();
        assert_eq!(items.len(), 1000);
    }

    #[test]
    fn a_full_disk_ends_the_recording_and_says_so() {
        // The kernel's file that is always full.
        let mut recorder = Recorder::start(Path::new("/dev/full"), &header()).unwrap();
        let started = Instant::now();
        while recorder.failure().is_none() {
            recorder.write(Item::Tick(Timestamp(1)));
            assert!(started.elapsed() < Duration::from_secs(10));
        }
        let failure = recorder.failure().unwrap();
        assert!(failure.contains("/dev/full") && failure.contains("No space left"), "{failure}");
    }

    #[test]
    fn a_place_that_cannot_be_written_is_refused() {
        let error = Recorder::start(Path::new("/no-such-folder/x"), &header()).unwrap_err();
        assert!(format!("{error:#}").contains("/no-such-folder/x"));
    }
}
