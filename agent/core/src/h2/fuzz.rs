//! What fuzzing asks of the parts of [`crate::h2`] that nobody outside sees: any bytes flow in, and a property
//! that does not hold is a panic. The engine and the corpus are in `tests/fuzz`.

use super::frame::{Input, Part, Walker};
use super::hpack::{Fields, Hpack, PathEntry};
use super::names::Names;
use super::reassembly::Run;
use super::search::Search;
use crate::units::Timestamp;
use bytes::Bytes;
use std::collections::BTreeMap;

/// Blocks and headers that straddle segments are kept; nothing of a body is.
const MOST_KEPT: usize = 256 * 1024;

/// What a walk said, without regard to how its input was cut.
#[derive(Debug, PartialEq)]
enum Said {
    Preface,
    Data { stream: u32, length: u64, end_stream: bool },
    Headers { stream: u32, block: Option<Vec<u8>>, end_stream: bool, promise: bool },
    Reset { stream: u32, code: u32 },
    GoAway { code: u32 },
    Setting { id: u16, value: u32 },
    Granted { stream: u32, increment: u32 },
    Malformed,
}

/// Frames are the same however their bytes are cut, and with the bodies left out.
///
/// The first byte says where the walk begins and whether bodies are left out, the next four how the rest is cut.
pub fn frames(input: &[u8]) {
    let Some((&[mode, ref cuts @ ..], bytes)) = input.split_first_chunk::<5>() else { return };
    let start = || match mode & 3 {
        0 => Walker::at_preface(),
        1 => Walker::joined(),
        _ => Walker::at_header(),
    };
    let mut whole = Vec::new();
    walk(&mut start(), Input::Bytes(bytes), &mut whole);
    let mut pieces = Vec::new();
    let mut walker = start();
    let mut rest = bytes;
    for cut in cuts.iter().cycle() {
        let body = walker.inside_data().map_or(0, |(_, left)| left);
        let (front, behind) = rest.split_at(rest.len().min(usize::from(*cut) + 1));
        rest = behind;
        let inside = body > 0 && u32::try_from(front.len()).is_ok_and(|length| length <= body);
        let skip = mode & 4 != 0 && inside;
        let input =
            if skip { Input::Skipped(u32::try_from(front.len()).unwrap_or(0)) } else { Input::Bytes(front) };
        let lost = walk(&mut walker, input, &mut pieces);
        assert!(walker.held() <= MOST_KEPT, "{} bytes kept", walker.held());
        if lost || rest.is_empty() {
            break;
        }
    }
    assert_eq!(whole, pieces);
}

/// Walks to the end of the input; `true` if the walk was lost.
fn walk(walker: &mut Walker, mut input: Input<'_>, said: &mut Vec<Said>) -> bool {
    while let Some(part) = walker.next(Timestamp(0), &mut input) {
        let part = match part {
            Part::Preface => Said::Preface,
            Part::ServerStart => continue,
            Part::Data { stream, input, end_stream, counted } => {
                let length = u64::from(input.length());
                // A frame's whole length is told with its first part.
                assert!(length <= u64::from(counted) || counted == 0);
                match said.last_mut() {
                    Some(Said::Data { stream: before, length: so_far, end_stream: ended @ false })
                        if *before == stream =>
                    {
                        *so_far += length;
                        *ended = end_stream;
                        continue;
                    }
                    _ => Said::Data { stream, length, end_stream },
                }
            }
            Part::Headers { stream, block, end_stream, promise, .. } => {
                Said::Headers { stream, block: block.map(<[u8]>::to_vec), end_stream, promise }
            }
            Part::Reset { stream, code } => Said::Reset { stream, code },
            Part::GoAway { code } => Said::GoAway { code },
            Part::Setting { id, value } => Said::Setting { id, value },
            Part::Granted { stream, increment } => Said::Granted { stream, increment },
            Part::Malformed => Said::Malformed,
        };
        let lost = part == Said::Malformed;
        said.push(part);
        if lost {
            return true;
        }
    }
    false
}

/// Who joins late reads of each field what one who was there from the start reads, or knows that it is unseen;
/// and gives unseen entries of one number to fields of one value only.
///
/// The first byte says how many fields were missed; the rest is one header block after another without a break,
/// taken field by field.
pub fn headers(input: &[u8]) {
    let Some((&missed, block)) = input.split_first() else { return };
    let mut names = Names::default();
    let mut first = Hpack::default();
    first.start();
    let mut late = Hpack::default();
    let mut numbers: BTreeMap<u64, Fields> = BTreeMap::new();
    for (index, field) in super::hpack::split(block).enumerate() {
        let mut right = Fields::default();
        if first.read(field, &mut names, &mut right).is_err() {
            return;
        }
        if index < usize::from(missed) {
            continue;
        }
        let mut read = Fields::default();
        let readable = late.read(field, &mut names, &mut read);
        assert!(readable.is_ok(), "what the first reads the late one calls broken: {right:?}");
        if read.unseen == 0 {
            assert_eq!(read, right);
        } else if let Some(PathEntry::Is(number)) = read.path_entry() {
            assert_eq!(numbers.entry(number).or_insert_with(|| right.clone()), &right, "entry {number}");
        }
    }
}

/// A search keeps a bounded number of bytes, finds what begins inside of what it was given, and a preface only
/// where there is one.
pub fn search(input: &[u8]) {
    let Some((&[cut], mut rest)) = input.split_first_chunk::<1>() else { return };
    let mut search = Search::default();
    while !rest.is_empty() {
        let (front, behind) = rest.split_at(rest.len().min(usize::from(cut) + 1));
        rest = behind;
        let run = match front {
            // A run of one value stands for a body that was left out.
            [first, ..] if front.len() > 8 && front.iter().all(|byte| byte == first) => {
                Run::Skipped(u32::from(*first) * 256 + 1)
            }
            _ => Run::Bytes(Bytes::copy_from_slice(front)),
        };
        if let Some(found) = search.push(std::iter::once(run), cut % 2 == 0) {
            let Some(Run::Bytes(first)) = found.runs.first() else { panic!("begins with what was not seen") };
            assert!(!found.preface || first.starts_with(b"P"));
            assert_eq!(search.held(), 0);
        }
        assert!(search.held() <= MOST_KEPT, "{} bytes kept", search.held());
    }
}
