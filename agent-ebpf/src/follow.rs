//! Follows one direction of an HTTP/2 connection along its sequence numbers. Segments come from
//! [`crate::observe`]; what is usual goes out by [`crate::whole`], what else is in order by [`crate::walk`],
//! duplicates stop here, the rest goes out raw.

use crate::ahead::{catch_up, fate, keep, set_aside};
use crate::body::{tell, tell_headers};
use crate::frame::{Header, PREFACE};
use crate::lock::Lock;
use crate::maps::count_loss;
use crate::state::{
    Direction, NARROW_WINDOW, NO_PIECE, PEEK, RAW_EPISODE, RAW_SEGMENT, Scratch, WINDOW, payload, phase,
};
use crate::walk::{Walk, close_window, send, walk};
use crate::whole::send_whole;
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::{bpf_loop, bpf_skb_load_bytes};
use faultline_abi::{direction, loss};

/// How often to look at a lock before the segment goes out raw: some ten microseconds. Its holder is on another CPU and
/// walks or keeps one segment.
const SPINS: u32 = 4_096;
/// Skipped bytes are told at the latest after this many.
pub const UNTOLD_MAX: u32 = 1 << 20;
/// A receive window is at most 1 GiB (RFC 7323): a hole farther back was filled.
const REACH: u32 = 1 << 30;
/// Plausible frame headers in a row after which a lost direction is followed again.
const RESYNC_AFTER: u32 = 2;

/// Takes one segment, described in `scratch`. A global function: the verifier proves it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn follow(skb: *mut __sk_buff, scratch: *mut Scratch, direction: *mut Direction) -> i32 {
    if scratch.is_null() || direction.is_null() {
        return 0;
    }
    // SAFETY: both are map values; the scratch is the caller's, the direction is shared under its lock.
    let (s, lock) = unsafe { (&mut *scratch, &raw mut (*direction).lock) };
    let mut locked = take_lock(direction) != 0;
    let missed = !locked;
    // SAFETY: the lock makes us the only one; without it only the wish is left, which its holder looks at.
    unsafe {
        if locked {
            tell(&mut *direction, s.cookie, s.direction);
        } else {
            (&raw mut (*direction).hurry).write_volatile(1);
        }
    }
    if locked && send_whole(skb, scratch, direction) != 0 {
        // SAFETY: it is ours.
        unsafe { Lock::give_back(lock) };
        return 0;
    }
    prepare(s);
    // Someone else walks this direction right now, so two CPUs bring segments at the same time: ours goes out raw, all
    // of it, and is put aside for whoever comes to its place.
    let mut pass = Pass::Raw(RAW_EPISODE);
    if locked {
        // SAFETY: the lock makes us the only one.
        unsafe {
            if (&raw const (*direction).kept).read_volatile() != 0 {
                tell_skipped(s, &mut *direction);
                catch_up(scratch, direction);
                s.raw = 0;
            }
            pass = place(skb, s, &mut *direction);
        }
    } else {
        set_aside(skb, scratch, direction);
    }
    // Through memory, so that the verifier looks at the walk once and not once for each way to it.
    let length = match pass {
        Pass::Drop => 0,
        Pass::Walk => s.length,
        Pass::Raw(most) => {
            s.raw = 1;
            s.window = WINDOW;
            s.length.min(s.at.wrapping_add(most))
        }
    };
    // SAFETY: the scratch is ours.
    unsafe { (&raw mut s.length).write_volatile(length) };
    s.record_start = s.at;
    // What goes out raw takes long to copy and leaves the direction alone: meanwhile another CPU may need it.
    if locked && s.raw != 0 {
        // SAFETY: it is ours.
        unsafe { Lock::give_back(lock) };
        locked = false;
    }
    forward(skb, scratch, direction);
    if locked {
        // SAFETY: it is ours.
        unsafe {
            if (&raw const (*direction).kept).read_volatile() != 0 && (*direction).untold == 0 {
                catch_up(scratch, direction);
            }
            Lock::give_back(lock);
        }
    }
    if missed {
        // What the lock's holder keeps to itself lies before what went out just now.
        tell_headers(direction, s.cookie, s.direction);
    }
    0
}

/// What to do with a segment.
enum Pass {
    /// It was seen before.
    Drop,
    /// Follow its frames.
    Walk,
    /// Send at most so many bytes as they are.
    Raw(u32),
}

/// Takes a direction's lock, or gives up: 0. A global function: the verifier forgets behind it how often it tried.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn take_lock(direction: *mut Direction) -> i32 {
    if direction.is_null() {
        return 0;
    }
    // SAFETY: the lock lies in a map value; `take_again` has the signature that bpf_loop calls, and `wait` outlives it.
    unsafe {
        if Lock::try_take(&raw mut (*direction).lock) {
            return 1;
        }
        let mut wait = Wait { direction, taken: 0 };
        bpf_loop(SPINS, take_again as *mut core::ffi::c_void, (&raw mut wait).cast(), 0);
        (&raw const wait.taken).read_volatile()
    }
}

/// Whoever waits for a lock.
#[repr(C)]
struct Wait {
    direction: *mut Direction,
    taken: i32,
}

/// Tries once more; 1 when there is nothing left to wait for.
unsafe extern "C" fn take_again(_: u32, wait: *mut Wait) -> i64 {
    // SAFETY: the loop hands over what `take_lock` gave it.
    unsafe {
        let taken = Lock::try_take(&raw mut (*(*wait).direction).lock);
        (*wait).taken = i32::from(taken);
        i64::from(taken)
    }
}

/// Finds the segment's place in the stream and advances the direction beyond it.
#[inline(always)]
fn place(skb: *mut __sk_buff, s: &mut Scratch, d: &mut Direction) -> Pass {
    let end = s.sequence.wrapping_add(s.length);
    if d.phase == phase::NEW {
        d.expected = s.sequence;
    }
    if d.phase == phase::NEW || d.phase == phase::FRESH {
        lose(d);
    }
    let ahead = s.sequence.wrapping_sub(d.expected).cast_signed();
    if ahead < 0 {
        let behind = ahead.unsigned_abs();
        if behind >= s.length {
            return again(s, d, end);
        }
        if fills(s, d, end) {
            // One piece of what was lost, what was not, and what is new: all of it goes out as it is.
            tell_skipped(s, d);
            lose(d);
            d.has_hole = 0;
        } else {
            s.at = behind;
        }
    } else if ahead > 0 {
        match hole(skb, s, d, ahead.unsigned_abs()) {
            fate::KEPT => return Pass::Raw(RAW_EPISODE),
            fate::KNOWN => return Pass::Drop,
            _ => {}
        }
    }
    d.expected = end;
    if d.phase == phase::FOLLOWED {
        return Pass::Walk;
    }
    let start = if s.at == 0 { starts_with(skb, s) } else { Start::Unknown };
    if matches!(start, Start::Unknown) {
        let most = s.length.min(d.raw_budget).max(RAW_SEGMENT);
        d.raw_budget = d.raw_budget.saturating_sub(s.length);
        return Pass::Raw(most);
    }
    begin(d, end, matches!(start, Start::Preface));
    Pass::Walk
}

/// Whether a segment may bring bytes of a hole. What goes out was seen before.
#[inline(always)]
fn fills(s: &Scratch, d: &Direction, end: u32) -> bool {
    let after_hole = end.wrapping_sub(d.hole).cast_signed() > 0;
    let before_end = s.sequence.wrapping_sub(d.hole_end).cast_signed() < 0;
    s.direction == direction::RECEIVED && d.has_hole != 0 && after_hole && before_end
}

/// Bytes that lie before the expected ones: they fill a hole or were seen before.
#[inline(always)]
fn again(s: &Scratch, d: &mut Direction, end: u32) -> Pass {
    if !fills(s, d, end) {
        return Pass::Drop;
    }
    if s.sequence.wrapping_sub(d.hole).cast_signed() <= 0 {
        d.hole = end;
        if end.wrapping_sub(d.hole_end).cast_signed() >= 0 {
            d.has_hole = 0;
        }
    }
    Pass::Raw(RAW_EPISODE)
}

/// Walks, and sends what is left of the record. A global function: the verifier proves it once, with the direction's
/// lock and without.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn forward(skb: *mut __sk_buff, scratch: *mut Scratch, direction: *mut Direction) -> i32 {
    if scratch.is_null() || direction.is_null() {
        return 0;
    }
    // SAFETY: both are map values. The scratch is the caller's, and so is the direction by its lock; without that the
    // walk is a raw one, which does not touch it.
    let (s, d) = unsafe { (&mut *scratch, &mut *direction) };
    if s.at >= s.length {
        return 0;
    }
    if s.raw == 0 {
        s.untold = d.untold;
        d.untold = 0;
    }
    let mut place = Walk { skb, scratch: s, direction: d };
    walk(&mut place);
    // SAFETY: the pointers are those we just put in.
    let (s, d) = unsafe { (&mut *place.scratch, &mut *place.direction) };
    let told = s.at.wrapping_sub(s.record_start).wrapping_add(s.untold);
    if s.raw == 0 && s.piece == NO_PIECE && d.frame_left != 0 && d.kept == 0 && told < UNTOLD_MAX {
        // Nothing but the inside of a body: the next record tells it as well.
        d.untold = told;
        return 0;
    }
    if s.window_start == 0 && s.window_end == s.length && s.at == s.length {
        // A small segment goes out whole.
        s.keep_end = s.length;
    }
    close_window(s);
    if told != 0 {
        send(s);
    }
    0
}

/// Bytes before this segment are missing: jumps over them when they lie inside a skipped body, else keeps the segment
/// until they come, else the direction is lost. Says whether it is kept.
#[inline(always)]
fn hole(skb: *mut __sk_buff, s: &mut Scratch, d: &mut Direction, missing: u32) -> i32 {
    tell_skipped(s, d);
    let inside = d.phase == phase::FOLLOWED && missing < d.frame_left;
    let skipped = match d.frame_payload {
        payload::OPAQUE => inside,
        payload::BODY => inside && missing <= d.message_left,
        _ => false,
    };
    if !skipped && d.phase == phase::FOLLOWED {
        let fate = keep(skb, s, d);
        if fate != fate::REFUSED {
            return fate;
        }
    }
    if d.has_hole == 0 || d.expected.wrapping_sub(d.hole) > REACH {
        d.has_hole = 1;
        d.hole = d.expected;
    }
    d.hole_end = s.sequence;
    if !skipped {
        lose(d);
        return fate::REFUSED;
    }
    d.frame_left -= missing;
    if d.frame_payload == payload::BODY {
        d.message_left -= missing;
    }
    fate::REFUSED
}

/// From here on nothing is known of the frames.
#[inline(always)]
fn lose(d: &mut Direction) {
    d.phase = phase::LOST;
    d.raw_budget = RAW_EPISODE;
}

/// Tells the skipped bytes before the expected ones on their own: what follows does not follow them.
#[inline(always)]
fn tell_skipped(s: &mut Scratch, d: &mut Direction) {
    if d.untold != 0 {
        let sequence = s.sequence;
        s.sequence = d.expected;
        s.untold = d.untold;
        send(s);
        s.sequence = sequence;
        d.untold = 0;
    }
}

/// What a segment begins with.
enum Start {
    /// The client's preface.
    Preface,
    /// A frame header, and another one where the frame ends, or the segment's end.
    Frames,
    /// Something else.
    Unknown,
}

#[inline(always)]
fn starts_with(skb: *mut __sk_buff, s: &Scratch) -> Start {
    let mut at = 0;
    for _ in 0..RESYNC_AFTER {
        let mut bytes = [0u8; 16];
        // SAFETY: nine of sixteen bytes; the helper checks the packet's bounds.
        let failed =
            unsafe { bpf_skb_load_bytes(skb.cast(), s.payload_at + at, bytes.as_mut_ptr().cast(), 9) };
        if failed != 0 {
            return Start::Unknown;
        }
        if at == 0 && bytes[0] == b'P' && bytes[1] == b'R' && bytes[2] == b'I' && bytes[3] == b' ' {
            return Start::Preface;
        }
        // SAFETY: the array has sixteen bytes.
        let header = unsafe { Header::read(bytes.as_ptr()) };
        if !header.is_plausible() {
            return Start::Unknown;
        }
        at += 9 + header.length;
        if at >= s.length {
            return if at == s.length { Start::Frames } else { Start::Unknown };
        }
    }
    Start::Frames
}

/// Prepares a slot for a walk.
#[inline(always)]
fn prepare(s: &mut Scratch) {
    let length = s.length;
    s.at = 0;
    s.window_start = 0;
    s.window_end = 0;
    s.window_out = 0;
    let small = length <= WINDOW;
    s.window_at_frame = if small { WINDOW } else { NARROW_WINDOW };
    s.window_at_body = if small { WINDOW } else { PEEK };
    s.window = s.window_at_frame;
    s.keep_end = 0;
    s.piece = NO_PIECE;
    s.out = 0;
    s.record_start = 0;
    s.untold = 0;
    s.failed = 0;
    s.raw = 0;
}

/// Says that a frame begins here, or the client's preface, and at which sequence number to go on.
#[inline(always)]
pub fn begin(d: &mut Direction, expected: u32, preface: bool) {
    d.phase = phase::FOLLOWED;
    d.expected = expected;
    d.frame_payload = payload::WHOLE;
    d.frame_left = if preface { PREFACE } else { 0 };
    d.pad_left = 0;
    d.header_have = 0;
    d.message_stream = 0;
    d.message_left = 0;
    d.prefix_have = 0;
    d.untold = 0;
}

/// Counts a segment that no slot was free for.
#[inline(always)]
pub fn give_up() {
    count_loss(loss::SEGMENT);
}
