//! The bytes of a recording, compressed with gzip or not, flow in; plain ones flow out. What they mean is
//! [`super::Reader`]'s business.

use flate2::bufread::GzDecoder;
use std::io::{self, BufRead, BufReader, Read};

/// What every gzip file begins with (RFC 1952); no recording does.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// A recording's bytes.
#[derive(Debug)]
pub(super) enum Source<R: Read> {
    Plain(BufReader<R>),
    Gzip(Box<BufReader<GzDecoder<BufReader<R>>>>),
}

impl<R: Read> Source<R> {
    pub(super) fn open(bytes: R) -> io::Result<Self> {
        let mut bytes = BufReader::new(bytes);
        // A file of one byte is not gzip either.
        Ok(match bytes.fill_buf()?.starts_with(&GZIP) {
            true => Self::Gzip(Box::new(BufReader::new(GzDecoder::new(bytes)))),
            false => Self::Plain(bytes),
        })
    }

    /// Behind the recording's end: whether the compression has its end, too.
    pub(super) fn is_whole(&mut self) -> bool {
        match self {
            Self::Plain(_) => true,
            Self::Gzip(bytes) => bytes.fill_buf().is_ok(),
        }
    }
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(bytes) => bytes.read(into),
            Self::Gzip(bytes) => bytes.read(into),
        }
    }
}
