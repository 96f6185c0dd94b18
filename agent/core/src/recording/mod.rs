//! Recordings: what stands behind the decoder flows in and, later, out again: events and ticks, in order, so
//! that a replay gives the same report. The format is `recording.proto`; `wire` holds its messages, `encode`
//! and `decode` turn events into them and back, `source` undoes a compression. Files are opened elsewhere.

mod decode;
mod encode;
mod source;
#[cfg(test)]
mod tests;
mod wire;

use crate::event::Event;
use crate::pipeline::Settings;
use crate::units::{Nanos, Timestamp};
use encode::Texts;
use prost::Message as _;
use source::Source;
use std::io::{self, ErrorKind, Read, Write};
use std::sync::Arc;
use wire::Kind;

/// What every recording begins with.
pub const MAGIC: &[u8; 9] = b"FAULTLINE";

/// The format's version; it grows only when old readers would misread.
pub const VERSION: u8 = 1;

/// Longest message that is believed, in bytes. Events hold a few names and numbers; a longer one is damage.
const MAX_MESSAGE: u64 = 1 << 20;

/// Texts that a reader keeps. A node has far fewer names; at this many the writer starts numbering anew.
const MAX_TEXTS: usize = 65_536;

/// One thing a pipeline was given.
#[expect(clippy::large_enum_variant, reason = "most items are events, and all of them pass by value")]
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// What [`crate::pipeline::Pipeline::handle`] passed to its tap.
    Event(Event),
    /// A call of [`crate::pipeline::Pipeline::tick`].
    Tick(Timestamp),
}

/// What a recording says of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    /// The settings of the pipeline that was recorded.
    pub settings: Settings,
    /// SHA-256 of the model file in use; `None` without a model.
    pub model_digest: Option<[u8; 32]>,
    /// The version of the agent that wrote it.
    pub agent: String,
}

/// Why a recording could not be read on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It does not begin like one.
    #[error("this is not a Faultline recording (it does not begin with FAULTLINE)")]
    Foreign,
    /// It was written by a newer agent.
    #[error(
        "this recording has format version {0}; this agent reads version 1: replay it with the agent that wrote it"
    )]
    Version(u8),
    /// It ends in the middle: its writer was killed, or the copy is not whole. Every item before was given.
    #[error("the recording is truncated at byte {at}: its writer did not finish; everything before was read")]
    Truncated {
        /// Bytes read.
        at: u64,
    },
    /// A message makes no sense.
    #[error("the recording is damaged in the message at byte {at}: {why}")]
    Corrupt {
        /// Where the message begins.
        at: u64,
        /// What is wrong with it.
        why: String,
    },
    /// The source of its bytes failed.
    #[error("the recording could not be read: {0}")]
    Io(#[from] io::Error),
}

/// Writes a recording. Without [`Writer::finish`] it reads as truncated, up to the last whole item.
#[derive(Debug)]
pub struct Writer<W: Write> {
    sink: W,
    texts: Texts,
    items: u64,
    checksum: Checksum,
    buffer: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// Begins a recording.
    ///
    /// # Errors
    /// When `sink` fails; likewise for the other methods.
    pub fn start(mut sink: W, header: &Header) -> io::Result<Self> {
        sink.write_all(MAGIC)?;
        sink.write_all(&[VERSION])?;
        let mut writer = Self {
            sink,
            texts: Texts::default(),
            items: 0,
            checksum: Checksum::default(),
            buffer: Vec::new(),
        };
        let settings = &header.settings;
        writer.message(&wire::Header {
            settings: Some(wire::Settings {
                step_length: settings.step_length.0,
                baseline_steps: settings.baseline_steps,
                max_services: settings.max_services as u64,
            }),
            model_digest: header.model_digest.map(Vec::from).unwrap_or_default(),
            agent: header.agent.clone(),
        })?;
        Ok(writer)
    }

    /// Writes one event. A segment is left out: payload never enters a recording.
    pub fn event(&mut self, event: &Event) -> io::Result<()> {
        if self.texts.known() + encode::MOST_TEXTS > MAX_TEXTS {
            self.texts.clear();
            self.record(Kind::TextsCleared(true))?;
        }
        let Some(kind) = encode::event(event, &mut self.texts) else {
            debug_assert!(false, "a segment stands before the decoder");
            return Ok(());
        };
        for text in self.texts.take_new() {
            self.record(Kind::Text(text.to_string()))?;
        }
        self.items += 1;
        self.record(kind)
    }

    /// Writes one tick.
    pub fn tick(&mut self, now: Timestamp) -> io::Result<()> {
        self.items += 1;
        self.record(Kind::Tick(now.0))
    }

    /// Writes one item.
    pub fn item(&mut self, item: &Item) -> io::Result<()> {
        match item {
            Item::Event(event) => self.event(event),
            Item::Tick(now) => self.tick(*now),
        }
    }

    /// Flushes the sink.
    pub fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }

    /// Writes the end mark and gives the sink back, flushed.
    pub fn finish(mut self) -> io::Result<W> {
        let end = wire::End { items: self.items, checksum: self.checksum.0 };
        self.record(Kind::End(end))?;
        self.sink.flush()?;
        Ok(self.sink)
    }

    fn record(&mut self, kind: Kind) -> io::Result<()> {
        self.message(&wire::Record { kind: Some(kind) })
    }

    fn message(&mut self, message: &impl prost::Message) -> io::Result<()> {
        self.buffer.clear();
        message.encode_length_delimited(&mut self.buffer).map_err(io::Error::other)?;
        self.checksum.add(&self.buffer);
        self.sink.write_all(&self.buffer)
    }
}

/// Reads a recording: an iterator over its items that ends after the first error.
#[derive(Debug)]
pub struct Reader<R: Read> {
    source: Source<R>,
    header: Header,
    texts: Vec<Arc<str>>,
    items: u64,
    checksum: Checksum,
    at: u64,
    over: bool,
}

impl<R: Read> Reader<R> {
    /// Reads the beginning of a recording, which may be compressed with gzip.
    ///
    /// # Errors
    /// [`Error::Foreign`] or [`Error::Version`] if it is none that this agent reads.
    pub fn open(source: R) -> Result<Self, Error> {
        let mut source = Source::open(source)?;
        let mut start = Vec::new();
        read_up_to(&mut source, MAGIC.len() as u64 + 1, &mut start).map_err(|why| failed(0, why))?;
        let Some((version, magic)) = start.split_last().filter(|_| start.len() > MAGIC.len()) else {
            return Err(match MAGIC.starts_with(&start) && !start.is_empty() {
                true => Error::Truncated { at: start.len() as u64 },
                false => Error::Foreign,
            });
        };
        if magic != MAGIC {
            return Err(Error::Foreign);
        }
        if *version != VERSION {
            return Err(Error::Version(*version));
        }
        let mut reader = Self {
            source,
            header: Header { settings: Settings::default(), model_digest: None, agent: String::new() },
            texts: Vec::new(),
            items: 0,
            checksum: Checksum::default(),
            at: start.len() as u64,
            over: false,
        };
        let at = reader.at;
        let bytes = reader.message()?;
        let header = wire::Header::decode(bytes.as_slice()).map_err(|error| corrupt(at, &error))?;
        reader.header = parse_header(header, at)?;
        Ok(reader)
    }

    /// What the recording says of itself.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The next item; `None` at the end mark.
    fn read(&mut self) -> Result<Option<Item>, Error> {
        loop {
            let (at, before) = (self.at, self.checksum.0);
            let bytes = self.message()?;
            let record = wire::Record::decode(bytes.as_slice()).map_err(|error| corrupt(at, &error))?;
            match record.kind {
                Some(Kind::Text(text)) if self.texts.len() < MAX_TEXTS => self.texts.push(Arc::from(text)),
                Some(Kind::Text(_)) => return Err(corrupt(at, "more texts than a writer numbers")),
                Some(Kind::TextsCleared(_)) => self.texts.clear(),
                Some(Kind::End(end)) if end.items == self.items && end.checksum == before => {
                    return self.source.is_whole().then_some(None).ok_or(Error::Truncated { at: self.at });
                }
                Some(Kind::End(_)) => {
                    return Err(corrupt(at, "what was read does not have the checksum that was written"));
                }
                Some(Kind::Tick(now)) => {
                    self.items += 1;
                    return Ok(Some(Item::Tick(Timestamp(now))));
                }
                Some(kind) => {
                    self.items += 1;
                    let event = decode::event(kind, &self.texts).map_err(|error| corrupt(at, &error.0))?;
                    return Ok(Some(Item::Event(event)));
                }
                // A kind that a later writer of this version added.
                None => self.items += 1,
            }
        }
    }

    /// Takes one message's bytes.
    fn message(&mut self) -> Result<Vec<u8>, Error> {
        let start = self.at;
        let mut length: u64 = 0;
        for shift in (0..).step_by(7) {
            let [byte] = *self.take(1)? else { return Err(Error::Truncated { at: self.at }) };
            length |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
            if shift > 21 {
                return Err(corrupt(start, "its length makes no sense"));
            }
        }
        if length > MAX_MESSAGE {
            return Err(corrupt(start, "its length makes no sense"));
        }
        self.take(length)
    }

    fn take(&mut self, wanted: u64) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        let read = read_up_to(&mut self.source, wanted, &mut bytes);
        self.at += bytes.len() as u64;
        read.map_err(|why| failed(self.at, why))?;
        self.checksum.add(&bytes);
        if (bytes.len() as u64) < wanted { Err(Error::Truncated { at: self.at }) } else { Ok(bytes) }
    }
}

impl<R: Read> Iterator for Reader<R> {
    type Item = Result<Item, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let read = self.read().transpose();
        self.over = !matches!(read, Some(Ok(_)));
        read
    }
}

fn parse_header(header: wire::Header, at: u64) -> Result<Header, Error> {
    let mut settings = Settings::default();
    if let Some(written) = header.settings {
        settings.step_length = Nanos(written.step_length);
        settings.baseline_steps = written.baseline_steps;
        settings.max_services =
            usize::try_from(written.max_services).map_err(|_| corrupt(at, "its settings make no sense"))?;
    }
    let model_digest = match header.model_digest.as_slice() {
        [] => None,
        digest => Some(digest.try_into().map_err(|_| corrupt(at, "the model's digest is not a SHA-256"))?),
    };
    Ok(Header { settings, model_digest, agent: header.agent })
}

fn read_up_to(source: &mut impl Read, wanted: u64, into: &mut Vec<u8>) -> io::Result<()> {
    match source.take(wanted).read_to_end(into) {
        // A compressed recording that was cut; what came before is whole.
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(()),
        read => read.map(drop),
    }
}

/// A failure of the source: either its compression makes no sense or it cannot be read.
fn failed(at: u64, error: io::Error) -> Error {
    match error.kind() {
        ErrorKind::InvalidInput | ErrorKind::InvalidData => {
            corrupt(at, &format!("it cannot be decompressed ({error})"))
        }
        _ => Error::Io(error),
    }
}

fn corrupt(at: u64, why: &(impl ToString + ?Sized)) -> Error {
    Error::Corrupt { at, why: why.to_string() }
}

/// FNV-1a, 64 bits: finds damage, not malice.
#[derive(Clone, Copy, Debug)]
struct Checksum(u64);

impl Default for Checksum {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Checksum {
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}
