//! What comes ahead of its turn: a segment was lost on its way, or two CPUs bring segments in another order than they
//! were sent. It goes out raw at once and a copy is kept here; when what belongs before it has come and was walked,
//! the copy is walked too, and the direction is followed on. To find a frame's beginning in the middle of a stream
//! would be a guess instead: bodies may hold anything. [`crate::follow`] says when.
//!
//! Two ways lead here: [`keep`] puts segments behind each other that come ahead of what their direction expects;
//! [`set_aside`] takes a segment whose direction another CPU is at just now, so that nobody can say what it expects.

use crate::frame::{HEADER, Header};
use crate::lock::Lock;
use crate::state::{Direction, Scratch, payload, phase};
use crate::walk::{STEPS, begin_frame, gather, opaque, pad, prefixed, skip};
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::{bpf_loop, bpf_skb_load_bytes};
use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;

/// Runs of segments that may be kept at the same time, of all directions together: four megabytes, which is about what
/// one connection may have under way. Reordering on one node is over in microseconds, a retransmission in a round trip.
/// A power of two.
const PLACES: u32 = 32;
/// The longest segment that is kept. IPv6 knows longer ones, where someone asked for them.
const LONGEST: u32 = 1 << 16;
/// A run takes further segments while it is shorter than this.
const ROOM: u32 = 1 << 16;
/// A segment that has not come after so long was missed, not late. As long as the agent waits for it.
const PATIENCE: u64 = 1_000_000_000;

/// Segments of one direction, one behind the other, whose predecessor has not come.
#[repr(C)]
struct Kept {
    /// Taken by whoever uses this place.
    lock: Lock,
    /// The socket; 0: nobody's.
    cookie: u64,
    /// When the first one behind the same hole came.
    since: u64,
    /// One of `faultline_abi::direction`.
    direction: u32,
    /// Sequence number of the first byte.
    sequence: u32,
    /// How many bytes.
    length: u32,
    /// Where the walk is.
    at: u32,
    /// The masks that the verifier wants leave room for a header behind the last byte.
    bytes: [u8; (ROOM + LONGEST) as usize + 64],
}

/// What is kept.
#[map]
static KEPT: Array<Kept> = Array::with_max_entries(PLACES, 0);

/// What became of a segment that came ahead of its turn.
pub mod fate {
    /// There is no place for it, or what it waits for is not to be expected any more.
    pub const REFUSED: i32 = 0;
    /// It is kept.
    pub const KEPT: i32 = 1;
    /// It was kept before.
    pub const KNOWN: i32 = 2;
    /// It does not follow what is there, or that has no room for it.
    pub(super) const ELSEWHERE: i32 = 3;
}

/// Keeps the segment in the scratch, which comes ahead of what its direction expects; one of [`fate`]. A global
/// function: the verifier proves it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn keep(skb: *mut __sk_buff, scratch: *mut Scratch, direction: *mut Direction) -> i32 {
    if scratch.is_null() || direction.is_null() {
        return fate::REFUSED;
    }
    // SAFETY: both are map values; the caller has locked them.
    let (s, d) = unsafe { (&*scratch, &mut *direction) };
    let mut since = s.now;
    if let Some(kept) = locked(s, d.kept_in.wrapping_sub(1)) {
        // SAFETY: the lock makes it ours.
        let fate = unsafe {
            since = (*kept).since;
            let fate = append(skb, s, &mut *kept);
            Lock::give_back(&raw mut (*kept).lock);
            fate
        };
        if fate != fate::ELSEWHERE {
            return fate;
        }
    }
    let place = begin_kept(skb, scratch, since);
    if place == 0 {
        return fate::REFUSED;
    }
    d.kept_in = place;
    // SAFETY: see above.
    unsafe { (&raw mut d.kept).write_volatile(1) };
    fate::KEPT
}

/// Keeps the segment in the scratch, whose direction somebody else is at: whoever comes next walks it when its turn has
/// come. A global function: the verifier proves it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn set_aside(skb: *mut __sk_buff, scratch: *mut Scratch, direction: *mut Direction) -> i32 {
    if scratch.is_null() || direction.is_null() {
        return 0;
    }
    // SAFETY: both are map values; the scratch is the caller's, and of the direction only the mark is written, which
    // its holder looks at.
    unsafe {
        if begin_kept(skb, scratch, (*scratch).now) != 0 {
            (&raw mut (*direction).kept).write_volatile(1);
        }
    }
    0
}

/// Keeps the segment in the scratch in a place that nobody uses: the place's number, from one; 0: there is none. A
/// global function: the verifier proves it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn begin_kept(skb: *mut __sk_buff, scratch: *const Scratch, since: u64) -> u32 {
    let mut search = Search { skb, scratch, since, found: 0 };
    // SAFETY: `try_place` has the signature that bpf_loop calls, and `search` outlives the call.
    unsafe {
        bpf_loop(PLACES, try_place as *mut core::ffi::c_void, (&raw mut search).cast(), 0);
    }
    search.found
}

/// Looks for a place.
#[repr(C)]
struct Search {
    skb: *mut __sk_buff,
    scratch: *const Scratch,
    since: u64,
    /// Its number, from one.
    found: u32,
}

/// Takes a place if nobody uses it. Returns 1 to end the search.
unsafe extern "C" fn try_place(place: u32, search: *mut Search) -> i64 {
    // SAFETY: the loop hands over what `begin_kept` gave it; what it points to is checked, for the verifier.
    unsafe {
        let search = &mut *search;
        if search.scratch.is_null() {
            return 1;
        }
        let s = &*search.scratch;
        let Some(kept) = KEPT.get_ptr_mut(place) else { return 1 };
        // A look without the lock, so that whose place it is finds it free.
        let lock = &raw mut (*kept).lock;
        if is_used(kept, s.now) || !Lock::try_take(lock) {
            return 0;
        }
        let mut ended = 0;
        if !is_used(kept, s.now) {
            let k = &mut *kept;
            k.cookie = s.cookie;
            k.direction = s.direction;
            k.since = search.since;
            k.sequence = s.sequence;
            k.length = 0;
            if append(search.skb, s, k) == fate::KEPT {
                search.found = place + 1;
            } else {
                k.cookie = 0;
            }
            ended = 1;
        }
        Lock::give_back(lock);
        ended
    }
}

/// Whether a place is somebody's. A connection that ended while something was kept left it behind.
#[inline(always)]
unsafe fn is_used(kept: *const Kept, now: u64) -> bool {
    // SAFETY: the caller gives a map value.
    unsafe {
        let cookie = (&raw const (*kept).cookie).read_volatile();
        cookie != 0 && !is_late(now, (&raw const (*kept).since).read_volatile())
    }
}

/// Whether what is kept since then was waited for long enough. Two CPUs' times may be a little out of order.
#[inline(always)]
fn is_late(now: u64, since: u64) -> bool {
    now.wrapping_sub(since).cast_signed() > PATIENCE.cast_signed()
}

/// Puts a segment behind those that are kept.
#[inline(always)]
fn append(skb: *mut __sk_buff, s: &Scratch, k: &mut Kept) -> i32 {
    let offset = s.sequence.wrapping_sub(k.sequence);
    if offset < k.length && s.length <= k.length - offset {
        return fate::KNOWN;
    }
    if is_late(s.now, k.since) || s.length > LONGEST {
        return fate::REFUSED;
    }
    if offset != k.length || offset >= ROOM {
        return fate::ELSEWHERE;
    }
    let offset = opaque(offset) & (ROOM - 1);
    let length = (opaque(s.length.wrapping_sub(1)) & (LONGEST - 1)) + 1;
    // SAFETY: the masks keep both in the array, which has room for both.
    let failed = unsafe {
        let to = k.bytes.as_mut_ptr().add(offset as usize).cast();
        bpf_skb_load_bytes(skb.cast(), s.payload_at, to, length)
    };
    if failed != 0 {
        return fate::REFUSED;
    }
    k.length = offset + length;
    fate::KEPT
}

/// Walks what is kept of a direction as far as its turn has come. A global function: the verifier proves it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn catch_up(scratch: *mut Scratch, direction: *mut Direction) -> i32 {
    if scratch.is_null() || direction.is_null() {
        return 0;
    }
    // SAFETY: both are map values, and the caller has locked the direction: only the mark is written without that.
    // `take_up` has the signature that bpf_loop calls, and `turns` outlives the call.
    unsafe {
        // What is set aside from now on is marked again.
        (&raw mut (*direction).kept).write_volatile(0);
        let mut turns = Turns { scratch, direction, idle: 0, waits: 0 };
        bpf_loop(PLACES * PLACES, take_up as *mut core::ffi::c_void, (&raw mut turns).cast(), 0);
        if turns.waits != 0 {
            (&raw mut (*direction).kept).write_volatile(1);
        }
    }
    0
}

/// Goes through the places until no more has its turn.
#[repr(C)]
struct Turns {
    scratch: *mut Scratch,
    direction: *mut Direction,
    /// Places in a row where nothing had.
    idle: u32,
    /// Something of this direction waits.
    waits: u32,
}

/// Walks what is kept in a place if it is this direction's and its turn has come. Returns 1 when all is done.
unsafe extern "C" fn take_up(number: u32, turns: *mut Turns) -> i64 {
    // SAFETY: the loop hands over what `catch_up` gave it.
    let (t, s, d) = unsafe { (&mut *turns, &mut *(*turns).scratch, &mut *(*turns).direction) };
    t.idle += 1;
    if t.idle > PLACES {
        return 1;
    }
    let place = number & (PLACES - 1);
    let Some(kept) = KEPT.get_ptr_mut(place) else { return 1 };
    // SAFETY: a map value; a look without the lock, so that whose place it is finds it free.
    let ours = unsafe {
        (&raw const (*kept).cookie).read_volatile() == s.cookie
            && (&raw const (*kept).direction).read_volatile() == s.direction
    };
    if !ours {
        return 0;
    }
    t.waits = 1;
    let Some(kept) = locked(s, place) else { return 0 };
    // SAFETY: the lock makes it ours.
    let k = unsafe { &mut *kept };
    k.at = d.expected.wrapping_sub(k.sequence);
    if k.at.cast_signed() >= 0 {
        walk_again(k, s, d);
        t.idle = 0;
        t.waits = 0;
    } else if is_late(s.now, k.since) {
        k.cookie = 0;
    }
    // SAFETY: it is ours.
    unsafe { Lock::give_back(&raw mut (*kept).lock) };
    0
}

/// Walks what is kept from `k.at` on, and lets go of it.
#[inline(always)]
fn walk_again(k: &mut Kept, s: &mut Scratch, d: &mut Direction) {
    let is_new = k.at < k.length;
    let mut walk = Again { kept: k, scratch: s, direction: d };
    // SAFETY: `step` has the signature that bpf_loop calls, and `walk` outlives the call.
    unsafe {
        bpf_loop(STEPS, step as *mut core::ffi::c_void, (&raw mut walk).cast(), 0);
    }
    // SAFETY: the pointers are those we just put in.
    let (k, d) = unsafe { (&mut *walk.kept, &mut *walk.direction) };
    if is_new {
        d.expected = k.sequence.wrapping_add(k.length);
    }
    k.cookie = 0;
}

/// A place, if it is its direction's own; whoever takes it gives the lock back.
#[inline(always)]
fn locked(s: &Scratch, place: u32) -> Option<*mut Kept> {
    let kept = KEPT.get_ptr_mut(place)?;
    // SAFETY: a map value; what is read is compared under its lock.
    unsafe {
        let lock = &raw mut (*kept).lock;
        if !Lock::try_take(lock) {
            return None;
        }
        if (*kept).cookie == s.cookie && (*kept).direction == s.direction {
            return Some(kept);
        }
        Lock::give_back(lock);
    }
    None
}

/// What a step over kept bytes needs.
#[repr(C)]
struct Again {
    kept: *mut Kept,
    scratch: *mut Scratch,
    direction: *mut Direction,
}

/// Goes on by a frame header, a byte of one or of a message prefix, or a run of bytes. Returns 1 to end the walk. The
/// same way as [`crate::walk`]'s, but nothing is told: all of it was.
unsafe extern "C" fn step(_: u32, walk: *mut Again) -> i64 {
    // SAFETY: the loop hands over what `catch_up` gave it; all three pointers are valid while it runs, and the locks
    // make us the only one to write.
    let (k, s, d) = unsafe { (&mut *(*walk).kept, &mut *(*walk).scratch, &mut *(*walk).direction) };
    if k.at >= k.length || d.phase != phase::FOLLOWED {
        return 1;
    }
    let rest = k.length - k.at;
    let place = opaque(k.at) & (ROOM + LONGEST - 1);
    // SAFETY: the mask keeps the place in the array, which has sixty-four bytes more.
    let here = unsafe { k.bytes.as_ptr().add(place as usize) };
    // SAFETY: see above.
    let byte = || unsafe { here.read_volatile() };
    let run = if d.frame_left == 0 && d.pad_left != 0 {
        let run = d.pad_left.min(rest);
        d.pad_left -= run;
        run
    } else if d.frame_left == 0 && d.header_have == 0 && rest >= HEADER {
        // SAFETY: see above.
        begin_frame(s, d, unsafe { Header::read(here) });
        HEADER
    } else if d.frame_left == 0 {
        if let Some(header) = gather(d, byte()) {
            begin_frame(s, d, header);
        }
        1
    } else {
        match d.frame_payload {
            payload::PADDED => {
                pad(d, byte());
                1
            }
            payload::BODY if d.message_left == 0 => {
                // SAFETY: the mask keeps the place in the array.
                unsafe { d.prefix.as_mut_ptr().add((d.prefix_have & 7) as usize).write_volatile(byte()) };
                prefixed(d, 1);
                1
            }
            payload::BODY => {
                let run = d.message_left.min(d.frame_left).min(rest);
                d.message_left -= run;
                skip(d, run);
                run
            }
            _ => {
                let run = d.frame_left.min(rest);
                skip(d, run);
                run
            }
        }
    };
    k.at += run;
    0
}
