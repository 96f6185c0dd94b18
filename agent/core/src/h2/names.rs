//! Interns the few header values that are kept, so that a method's name exists once however often it is called.
//! Raw header strings flow in (Huffman-coded or not), shared strings flow out.

use httlib_huffman::DecoderSpeed;
use std::collections::HashMap;
use std::sync::Arc;

/// Strings kept. A node rarely calls more than a few thousand methods; beyond this a string is made anew each
/// time, which is slower but not wrong.
const MAX_NAMES: usize = 16_384;

/// Longest value that is kept, in bytes. No real method or authority comes near; a longer one is dropped.
const MAX_LENGTH: usize = 512;

/// A string of a header block as it stands there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Raw<'a> {
    /// The bytes.
    pub(crate) bytes: &'a [u8],
    /// They are Huffman-coded.
    pub(crate) huffman: bool,
}

/// How a string is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// As it is.
    Plain,
    /// A path as a method's name: `pkg.Service/Method`. A query, which gRPC does not have, is cut off.
    Path,
}

/// The interned strings, and a buffer for decoding.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// By the raw bytes: plain ones, Huffman-coded ones, and both again for paths.
    known: [HashMap<Box<[u8]>, Kept>; 4],
    buffer: Vec<u8>,
}

/// What is kept of a string: its decoded length (the header table's account needs it), and the string itself
/// if it is fit for use.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    /// Decoded length in bytes.
    pub(crate) length: u32,
    /// The string; `None` if it is too long or holds anything but visible ASCII.
    pub(crate) text: Option<Arc<str>>,
}

impl Names {
    /// Decodes a string into the buffer; `None` if its Huffman code is broken.
    pub(crate) fn decode<'a>(&'a mut self, raw: Raw<'a>) -> Option<&'a [u8]> {
        if !raw.huffman {
            return Some(raw.bytes);
        }
        self.buffer.clear();
        httlib_huffman::decode(raw.bytes, &mut self.buffer, DecoderSpeed::FourBits).ok()?;
        Some(&self.buffer)
    }

    /// The interned string; `None` if its Huffman code is broken.
    pub(crate) fn intern(&mut self, raw: Raw<'_>, shape: Shape) -> Option<Kept> {
        let map = usize::from(raw.huffman) + if shape == Shape::Path { 2 } else { 0 };
        if let Some(kept) = self.known.get(map)?.get(raw.bytes) {
            return Some(kept.clone());
        }
        let decoded = self.decode(raw)?;
        let kept =
            Kept { length: u32::try_from(decoded.len()).unwrap_or(u32::MAX), text: fit(decoded, shape) };
        let known = self.known.get_mut(map)?;
        if known.len() < MAX_NAMES && raw.bytes.len() <= MAX_LENGTH {
            known.insert(raw.bytes.into(), kept.clone());
        }
        Some(kept)
    }
}

/// The string in its shape, if it is fit for use.
fn fit(bytes: &[u8], shape: Shape) -> Option<Arc<str>> {
    if bytes.is_empty() || bytes.len() > MAX_LENGTH || !bytes.iter().all(u8::is_ascii_graphic) {
        return None;
    }
    let text = std::str::from_utf8(bytes).ok()?;
    match shape {
        Shape::Plain => Some(Arc::from(text)),
        Shape::Path => {
            let name = text.strip_prefix('/')?.split(['?', '#']).next()?;
            if name.is_empty() { None } else { Some(Arc::from(name)) }
        }
    }
}
