//! The usual segment of a gRPC call: small, in order, whole frames with whole messages. It goes out in one piece,
//! after a look at its frame headers in memory. Segments come from [`crate::follow`], which goes on with what is
//! anything else.
//!
//! The look only has to show that the next segment begins with a frame again and that no message is left
//! unfinished: the agent parses the bytes itself.

use crate::frame::{HEADER, Header, PREFIX};
use crate::maps::{RECORDS, wakeup};
use crate::state::{Direction, Scratch, WINDOW};
use crate::walk::opaque;
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::{bpf_loop, bpf_ringbuf_output, bpf_skb_load_bytes};
use faultline_abi::{Head, PieceHead, SegmentRecord, kind};

/// A segment of [`WINDOW`] bytes has no more frames than this.
const FRAMES: u32 = WINDOW / HEADER + 1;
/// Where the bytes of the one piece begin.
const BYTES: usize = size_of::<PieceHead>();

/// Sends off the segment in the scratch if it is as usual: 1. Else it has to be walked, and nothing has changed: 0.
/// A global function: the verifier proves it once, and forgets behind it which way it went.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn send_whole(skb: *mut __sk_buff, scratch: *mut Scratch, direction: *mut Direction) -> i32 {
    if scratch.is_null() || direction.is_null() {
        return 0;
    }
    // SAFETY: both are map values; the caller has locked them.
    let (s, d) = unsafe { (&mut *scratch, &mut *direction) };
    let in_order = s.length <= WINDOW && d.expected == s.sequence;
    if !in_order || !d.is_between_frames() || !put(skb, s) {
        return 0;
    }
    d.expected = s.sequence.wrapping_add(s.length);
    1
}

#[inline(always)]
fn put(skb: *mut __sk_buff, s: &mut Scratch) -> bool {
    let length = (opaque(s.length.wrapping_sub(1)) & (WINDOW - 1)) + 1;
    // SAFETY: the mask keeps the length inside the array, and all of the record behind it.
    unsafe {
        let bytes = s.bytes.as_mut_ptr().add(BYTES);
        if bpf_skb_load_bytes(skb.cast(), s.payload_at, bytes.cast(), length) != 0 {
            return false;
        }
        s.at = 0;
        let mut look = Look { scratch: s };
        bpf_loop(FRAMES, next_frame as *mut core::ffi::c_void, (&raw mut look).cast(), 0);
        let s = &mut *look.scratch;
        if (&raw const s.at).read_volatile() != s.length {
            return false;
        }
        let size = (size_of::<SegmentRecord>() + BYTES) as u32 + length;
        s.record = SegmentRecord {
            head: Head { kind: kind::SEGMENT, size, at: s.now, cookie: s.cookie },
            sequence: s.sequence,
            length,
            direction: s.direction,
            reserved: 0,
        };
        s.bytes.as_mut_ptr().cast::<PieceHead>().write(PieceHead { offset: 0, length });
        // A full ring is counted by the walk, which tries again.
        let records = (&raw const RECORDS).cast_mut().cast();
        bpf_ringbuf_output(records, (&raw mut s.record).cast(), u64::from(size), wakeup(s.now)) == 0
    }
}

/// A look at one frame header after the other. Where it stands lies in the scratch: what the verifier knows
/// nothing of it need not prove again for each frame.
#[repr(C)]
struct Look {
    scratch: *mut Scratch,
}

/// Goes on by a frame; 1 ends the look, which is good if it stands at the segment's end then. Good are whole
/// frames, of which those of DATA hold one whole message or nothing.
unsafe extern "C" fn next_frame(_: u32, look: *mut Look) -> i64 {
    // SAFETY: the loop hands over what `put` gave it; the mask keeps the place inside the scratch, of which so much
    // lies behind that a header and a prefix can be read.
    let (s, at) = unsafe {
        let s = &mut *(*look).scratch;
        let place = opaque(s.at) & (WINDOW - 1);
        (s, (*(*look).scratch).bytes.as_ptr().add(BYTES + place as usize))
    };
    if s.at >= s.length {
        return 1;
    }
    // SAFETY: see above.
    let header = unsafe { Header::read(at) };
    let next = s.at + HEADER + header.length;
    if next > s.length || !header.is_plausible() {
        return 1;
    }
    if header.is_body() && header.length != 0 {
        // SAFETY: see above.
        let byte = |place: usize| unsafe { at.add(HEADER as usize + place).read_volatile() };
        let message = u32::from_be_bytes([byte(1), byte(2), byte(3), byte(4)]);
        let one = byte(0) <= 1 && message.wrapping_add(PREFIX) == header.length;
        if header.is_padded() || header.length < PREFIX || !one {
            return 1;
        }
    }
    s.at = next;
    0
}
