//! Follows one direction of an HTTP/2 connection along its sequence numbers. Segments come from
//! [`crate::observe`]; what is in order goes to [`crate::walk`], duplicates stop here, the rest goes out raw.

use crate::frame::Header;
use crate::lock::Lock;
use crate::maps::count_loss;
use crate::state::{Direction, NARROW_WINDOW, NO_PIECE, Scratch, WINDOW, payload, phase};
use crate::walk::{Walk, close_window, open_window, send, walk};
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::bpf_skb_load_bytes;
use faultline_abi::{direction, loss};

/// How often to look at a lock before the segment goes out raw. Its holder walks one segment: microseconds.
const SPINS: u32 = 64;
/// Skipped bytes are told at the latest after this many.
const UNTOLD_MAX: u32 = 1 << 20;
/// Plausible frame headers in a row after which a lost direction is followed again.
const RESYNC_AFTER: u32 = 2;
/// The client connection preface (RFC 9113 section 3.4).
const PREFACE: u32 = 24;

/// Takes one segment, described in `scratch`. A global function: the verifier proves it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn follow(skb: *mut __sk_buff, scratch: *mut Scratch, direction: *mut Direction) -> i32 {
    if scratch.is_null() || direction.is_null() {
        return 0;
    }
    // SAFETY: both are map values; the scratch is the caller's, the direction is shared under its lock.
    let (s, lock) = unsafe { (&mut *scratch, &raw mut (*direction).lock) };
    if !try_lock(lock) {
        raw(skb, s);
        return 0;
    }
    // SAFETY: the lock makes us the only one.
    in_order(skb, s, unsafe { &mut *direction });
    // SAFETY: it is ours.
    unsafe { Lock::give_back(lock) };
    0
}

#[inline(always)]
fn try_lock(lock: *mut Lock) -> bool {
    for _ in 0..SPINS {
        // SAFETY: the lock lies in a map value.
        if unsafe { Lock::try_take(lock) } {
            return true;
        }
    }
    false
}

#[inline(always)]
fn in_order(skb: *mut __sk_buff, s: &mut Scratch, d: &mut Direction) {
    let end = s.sequence.wrapping_add(s.length);
    if d.phase == phase::NEW {
        d.expected = s.sequence;
        d.phase = phase::LOST;
    }
    let ahead = s.sequence.wrapping_sub(d.expected).cast_signed();
    if ahead < 0 {
        let behind = ahead.unsigned_abs();
        if behind >= s.length {
            // Sent again. What came in may fill a hole; what went out was seen before.
            let fills = s.direction == direction::RECEIVED && d.has_hole != 0;
            if fills && s.sequence.wrapping_sub(d.hole).cast_signed() >= 0 {
                raw(skb, s);
            }
            return;
        }
        s.at = behind;
    } else if ahead > 0 {
        hole(s, d, ahead.unsigned_abs());
    }
    d.expected = end;
    if d.phase == phase::LOST {
        if s.at == 0 && starts_with_frames(skb, s) {
            d.phase = phase::FOLLOWED;
            d.frame_left = 0;
            d.pad_left = 0;
            d.header_have = 0;
            d.message_stream = 0;
            d.message_left = 0;
            d.prefix_have = 0;
        } else {
            raw(skb, s);
            return;
        }
    }
    s.record_start = s.at;
    s.untold = d.untold;
    d.untold = 0;
    let mut place = Walk { skb, scratch: s, direction: d };
    walk(&mut place);
    // SAFETY: the pointers are those we just put in.
    let (s, d) = unsafe { (&mut *place.scratch, &mut *place.direction) };
    if s.piece == NO_PIECE && s.record_start + s.length < UNTOLD_MAX && d.frame_left != 0 && s.failed == 0 {
        // Nothing but the inside of a body: the next record tells it as well.
        let run = s.at - s.record_start + s.untold;
        if run < UNTOLD_MAX {
            d.untold = run;
            return;
        }
    }
    if s.window_start == 0 && s.window_end == s.length {
        s.keep_end = s.length;
    }
    close_window(s);
    send(s);
    if s.failed != 0 {
        d.phase = phase::LOST;
        raw(skb, s);
    }
}

/// Bytes before this segment are missing: jumps over them when they lie inside a skipped body.
#[inline(always)]
fn hole(s: &mut Scratch, d: &mut Direction, missing: u32) {
    if d.untold != 0 {
        // Told on its own, or the hole would look larger than it is.
        let (sequence, length) = (s.sequence, s.length);
        s.sequence = d.expected;
        s.untold = d.untold;
        send(s);
        s.sequence = sequence;
        s.length = length;
        d.untold = 0;
    }
    if d.has_hole == 0 {
        d.has_hole = 1;
        d.hole = d.expected;
    }
    let inside = d.phase == phase::FOLLOWED && missing < d.frame_left;
    if inside && d.frame_payload == payload::OPAQUE {
        d.frame_left -= missing;
    } else if inside && d.frame_payload == payload::BODY && missing <= d.message_left {
        d.frame_left -= missing;
        d.message_left -= missing;
    } else {
        d.phase = phase::LOST;
        d.plausible = 0;
    }
}

/// Whether the payload begins with a frame header, and another one follows where the frame ends.
#[inline(always)]
fn starts_with_frames(skb: *mut __sk_buff, s: &Scratch) -> bool {
    let mut at = 0;
    for _ in 0..RESYNC_AFTER {
        let mut bytes = [0u8; 16];
        // SAFETY: nine of sixteen bytes; the helper checks the packet's bounds.
        let failed =
            unsafe { bpf_skb_load_bytes(skb.cast(), s.payload_at + at, bytes.as_mut_ptr().cast(), 9) };
        if failed != 0 {
            return false;
        }
        // SAFETY: the array has sixteen bytes.
        let header = unsafe { Header::read(bytes.as_ptr()) };
        if !header.is_plausible() {
            return false;
        }
        at += 9 + header.length;
        if at == s.length {
            return true;
        }
        if at > s.length {
            return false;
        }
    }
    true
}

/// Sends the segment's first bytes as they are. The record says no more than it holds: what is cut off
/// looks like a hole, because nobody knows what it is.
#[inline(always)]
fn raw(skb: *mut __sk_buff, s: &mut Scratch) {
    if s.at >= s.length {
        return;
    }
    s.failed = 0;
    s.untold = 0;
    s.out = 0;
    s.piece = NO_PIECE;
    s.record_start = s.at;
    s.window = WINDOW;
    if open_window(skb, s) != 0 {
        return;
    }
    s.at = s.window_end;
    s.keep_end = s.at;
    if s.at < s.length {
        if open_window(skb, s) != 0 {
            return;
        }
        s.at = s.window_end;
        s.keep_end = s.at;
    }
    close_window(s);
    send(s);
}

/// Prepares a slot for one segment.
#[inline(always)]
pub fn prepare(s: &mut Scratch, length: u32) {
    s.length = length;
    s.at = 0;
    s.window_start = 0;
    s.window_end = 0;
    s.window_out = 0;
    s.window = if length <= WINDOW { WINDOW } else { NARROW_WINDOW };
    s.keep_end = 0;
    s.piece = NO_PIECE;
    s.out = 0;
    s.record_start = 0;
    s.untold = 0;
    s.failed = 0;
}

/// Says that this direction begins here, with the client's preface or with a frame.
#[inline(always)]
pub fn begin(d: &mut Direction, sequence: u32, preface: bool) {
    d.phase = phase::FOLLOWED;
    d.expected = sequence;
    d.frame_payload = payload::WHOLE;
    d.frame_left = if preface { PREFACE } else { 0 };
}

/// Counts a segment that no slot was free for.
#[inline(always)]
pub fn give_up() {
    count_loss(loss::SEGMENT);
}
