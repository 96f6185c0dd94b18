//! A recording's file in, its items out: as the agent wrote it, or packed with xz (`agent.rec.xz`), as data
//! sets keep it. `xz -d` gives what `faultline replay` reads.

use faultline_core::recording::{Error, Reader};
use lzma_rust2::XzReader;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

/// What a dictionary may take, KiB: a damaged file must not ask for all memory. Packing uses half of it.
const MAX_DICTIONARY: u32 = 32 << 10;

/// A recording whatever its packing.
pub type Recording = Reader<Box<dyn Read + Send>>;

/// Opens a recording; one whose name ends in `.xz` is unpacked on the way.
///
/// # Errors
/// When there is no such file, or it does not begin like a recording.
pub fn open(path: &Path) -> Result<Recording, Error> {
    let file = BufReader::new(File::open(path)?);
    let bytes: Box<dyn Read + Send> = if path.extension().is_some_and(|extension| extension == "xz") {
        Box::new(BufReader::new(XzReader::new_mem_limit(file, false, MAX_DICTIONARY)))
    } else {
        Box::new(file)
    };
    Reader::open(bytes)
}
