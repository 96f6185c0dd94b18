//! The two primitive types of header blocks: integers and strings (RFC 7541 section 5).

use super::Broken;
use crate::h2::names::Raw;

/// Reads an integer whose first byte has `prefix` bits of it. Values beyond 32 bits are broken: no length,
/// index or table size of a real peer needs them.
pub(super) fn read(block: &mut &[u8], prefix: u8) -> Result<u64, Broken> {
    let (first, mut rest) = block.split_first().ok_or(Broken)?;
    let full = (1u64 << prefix) - 1;
    let mut value = u64::from(*first) & full;
    if value == full {
        let mut shift = 0;
        loop {
            let (byte, after) = rest.split_first().ok_or(Broken)?;
            rest = after;
            value += u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
            if shift > 28 {
                return Err(Broken);
            }
        }
    }
    *block = rest;
    if value > u64::from(u32::MAX) { Err(Broken) } else { Ok(value) }
}

/// Reads a string's length and takes its bytes, still coded.
pub(super) fn string<'a>(block: &mut &'a [u8]) -> Result<Raw<'a>, Broken> {
    let huffman = block.first().ok_or(Broken)? & 0x80 != 0;
    let length = usize::try_from(read(block, 7)?).map_err(|_| Broken)?;
    let (bytes, rest) = block.split_at_checked(length).ok_or(Broken)?;
    *block = rest;
    Ok(Raw { bytes, huffman })
}
