//! Messages stay bytes: what is sent is what the test has, what is received is what came.

use bytes::{Buf, BufMut, Bytes};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// The codec that does nothing.
#[derive(Clone, Copy, Default)]
pub(crate) struct AsTheyAre;

impl Codec for AsTheyAre {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for AsTheyAre {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(message);
        Ok(())
    }
}

impl Decoder for AsTheyAre {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// A message `{ bytes payload = 1; }` of `length` bytes in all, 3 to 120.
pub(crate) fn message(length: usize) -> Bytes {
    let payload = length.checked_sub(2).unwrap();
    [&[0x0a, u8::try_from(payload).unwrap()], &vec![b'x'; payload][..]].concat().into()
}

/// Messages of these lengths as a spec writes them.
pub(crate) fn base64(lengths: &[usize]) -> Vec<String> {
    use base64::Engine;
    lengths.iter().map(|&length| base64::engine::general_purpose::STANDARD.encode(message(length))).collect()
}
