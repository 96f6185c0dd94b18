//! Encoded messages as the tests send them and as specs write them.

use bytes::Bytes;

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
