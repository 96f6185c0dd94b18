//! Walks the frames of one segment and puts together the record of what must not be lost: frame headers,
//! frames that are not DATA, and gRPC message prefixes. Bodies are skipped. Segments come from [`crate::follow`],
//! records leave through the ring.
//!
//! The walk is a `bpf_loop` over small steps, all of whose state lies in map memory: the verifier then
//! proves one step instead of unrolling the walk. A bounded `for` did the same walk and cost it minutes.

use crate::frame::{HEADER, Header, PREFIX};
use crate::maps::{MESSAGES, RECORDS, count_loss, wakeup};
use crate::state::{
    AREA, Direction, FLUSH_AT, Message, MessageKey, NO_PIECE, RAW_EPISODE, Scratch, WINDOW, payload, phase,
};
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::{bpf_loop, bpf_ringbuf_output, bpf_skb_load_bytes};
use faultline_abi::{Head, PieceHead, SegmentRecord, kind, loss};

/// A 131,018-byte segment of nine-byte frames has 14,558; a straddling header adds a step per byte, a
/// window one.
pub const STEPS: u32 = 32_768;
const OUT_MASK: u32 = 0x1fff;
const READ_MASK: u32 = 0x3fff;

/// What a step needs; lives on the stack of whoever starts the walk.
#[repr(C)]
pub struct Walk {
    /// The packet.
    pub skb: *mut __sk_buff,
    /// Where the walk stands.
    pub scratch: *mut Scratch,
    /// Where the direction stands.
    pub direction: *mut Direction,
}

/// Walks from `scratch.at` to the end of the payload.
#[inline(always)]
pub fn walk(walk: &mut Walk) {
    // SAFETY: `step` has the signature that bpf_loop calls, and `walk` outlives the call.
    unsafe {
        bpf_loop(STEPS, step as *mut core::ffi::c_void, core::ptr::from_mut(walk).cast(), 0);
    }
}

/// Goes on by a frame header, a message prefix, a run of bytes, or a window. Returns 1 to end the walk.
unsafe extern "C" fn step(_: u32, walk: *mut Walk) -> i64 {
    // SAFETY: the loop hands over what `walk` gave it; all three pointers are valid while it runs, and
    // the lock makes us the only one to write.
    let (skb, s, d) = unsafe { ((*walk).skb, &mut *(*walk).scratch, &mut *(*walk).direction) };
    if s.at >= s.length || s.failed != 0 {
        return 1;
    }
    let rest = s.length - s.at;
    if s.raw != 0 {
        if s.at >= s.window_end {
            return open_window(skb, s);
        }
        s.at = s.window_end;
        s.keep_end = s.at;
        return 0;
    }
    if d.frame_left == 0 {
        if d.pad_left != 0 {
            let run = d.pad_left.min(rest);
            d.pad_left -= run;
            s.at += run;
            return 0;
        }
        return header(skb, s, d, rest);
    }
    match d.frame_payload {
        payload::OPAQUE => {
            let run = d.frame_left.min(rest);
            s.at += run;
            skip(d, run);
            0
        }
        payload::BODY if d.message_left != 0 => {
            let run = d.message_left.min(d.frame_left).min(rest);
            d.message_left -= run;
            s.at += run;
            skip(d, run);
            0
        }
        payload::BODY => prefix(skb, s, d, rest),
        payload::PADDED => padding(skb, s, d),
        _ => {
            if s.at >= s.window_end {
                return open_window(skb, s);
            }
            let run = d.frame_left.min(s.window_end - s.at);
            d.frame_left -= run;
            s.at += run;
            s.keep_end = s.at;
            0
        }
    }
}

/// At a frame header, or inside one that straddles segments.
#[inline(always)]
fn header(skb: *mut __sk_buff, s: &mut Scratch, d: &mut Direction, rest: u32) -> i64 {
    if s.at >= s.window_end {
        return open_window(skb, s);
    }
    let available = s.window_end - s.at;
    let have = d.header_have;
    let found = if have == 0 && available >= HEADER {
        s.at += HEADER;
        // SAFETY: `here` leaves sixty-four bytes of room behind it.
        unsafe { Header::read(here(s, s.at - HEADER)) }
    } else if have == 0 && rest >= HEADER {
        return open_window(skb, s);
    } else {
        // SAFETY: `here` points into the window.
        let byte = unsafe { here(s, s.at).read_volatile() };
        s.at += 1;
        s.keep_end = s.at;
        let Some(header) = gather(d, byte) else { return 0 };
        header
    };
    s.keep_end = s.at;
    begin_frame(s, d, found);
    0
}

/// Takes one more byte of a frame header that straddles segments; the header when it is whole.
#[inline(always)]
pub fn gather(d: &mut Direction, byte: u8) -> Option<Header> {
    let have = d.header_have;
    // SAFETY: the index is masked to the array, which has sixteen bytes.
    unsafe { d.header.as_mut_ptr().add((have & 15) as usize).write_volatile(byte) };
    if have + 1 < HEADER {
        d.header_have = have + 1;
        return None;
    }
    d.header_have = 0;
    // SAFETY: see above.
    Some(unsafe { Header::read(d.header.as_ptr()) })
}

/// Takes a frame header. What no peer may send loses the direction.
#[inline(always)]
pub fn begin_frame(s: &mut Scratch, d: &mut Direction, header: Header) {
    if !header.is_plausible() {
        // The rest of the segment goes out as it is; the record then covers every byte of it.
        d.phase = phase::LOST;
        d.raw_budget = RAW_EPISODE;
        s.raw = 1;
        return;
    }
    d.frame_left = header.length;
    d.frame_payload = payload::WHOLE;
    d.end_stream = 0;
    s.window = s.window_at_frame;
    if header.is_body() {
        s.window = s.window_at_body;
        d.frame_payload = if header.is_padded() { payload::PADDED } else { payload::BODY };
        d.end_stream = u32::from(header.ends_stream());
        if d.message_stream != header.stream {
            change_stream(s, d, header.stream);
        }
        if header.length == 0 {
            end_frame(d);
        }
    }
}

/// Puts aside where the message of one stream stopped and takes up another's.
#[inline(always)]
fn change_stream(s: &Scratch, d: &mut Direction, stream: u32) {
    let mut key = MessageKey { cookie: s.cookie, stream: d.message_stream, direction: s.direction };
    if d.message_left != 0 || d.prefix_have != 0 {
        let message = Message { left: d.message_left, prefix_have: d.prefix_have, prefix: d.prefix };
        // An LRU map makes room by itself; a failure costs one message's prefix.
        MESSAGES.insert(key, message, 0).ok();
        d.unfinished += 1;
    }
    d.message_stream = stream;
    d.message_left = 0;
    d.prefix_have = 0;
    if d.unfinished == 0 {
        return;
    }
    key.stream = stream;
    if let Some(message) = MESSAGES.get_ptr(key) {
        // SAFETY: the entry is this direction's own, and the direction is locked.
        unsafe {
            d.message_left = (*message).left;
            d.prefix_have = (*message).prefix_have;
            d.prefix = (*message).prefix;
        }
        MESSAGES.remove(key).ok();
        d.unfinished -= 1;
    }
}

#[inline(always)]
fn end_frame(d: &mut Direction) {
    if d.end_stream != 0 {
        d.message_stream = 0;
        d.message_left = 0;
        d.prefix_have = 0;
    }
}

/// Goes on by so many bytes of the frame's payload.
#[inline(always)]
pub fn skip(d: &mut Direction, run: u32) {
    d.frame_left -= run;
    if d.frame_left == 0 {
        end_frame(d);
    }
}

/// At the pad length of a DATA frame.
#[inline(always)]
fn padding(skb: *mut __sk_buff, s: &mut Scratch, d: &mut Direction) -> i64 {
    if s.at >= s.window_end {
        return open_window(skb, s);
    }
    // SAFETY: `here` points into the window.
    let length = unsafe { here(s, s.at).read_volatile() };
    s.at += 1;
    s.keep_end = s.at;
    pad(d, length);
    0
}

/// Takes the pad length of a DATA frame.
#[inline(always)]
pub fn pad(d: &mut Direction, length: u8) {
    d.frame_payload = payload::BODY;
    d.frame_left -= 1;
    d.pad_left = u32::from(length).min(d.frame_left);
    d.frame_left -= d.pad_left;
    if d.frame_left == 0 {
        end_frame(d);
    }
}

/// At a gRPC message prefix: a flag and the message's length.
#[inline(always)]
fn prefix(skb: *mut __sk_buff, s: &mut Scratch, d: &mut Direction, rest: u32) -> i64 {
    if s.at >= s.window_end {
        return open_window(skb, s);
    }
    let available = s.window_end - s.at;
    let have = d.prefix_have;
    if have == 0 && d.frame_left >= PREFIX && available < PREFIX && rest >= PREFIX {
        return open_window(skb, s);
    }
    let run = if have == 0 && d.frame_left >= PREFIX && available >= PREFIX { PREFIX } else { 1 };
    // SAFETY: `here` leaves sixty-four bytes of room behind it; indices are masked to the array.
    unsafe {
        let from = here(s, s.at);
        let to = d.prefix.as_mut_ptr();
        to.add((have & 7) as usize).write_volatile(from.read_volatile());
        if run == PREFIX {
            to.add(1).write_volatile(from.add(1).read_volatile());
            to.add(2).write_volatile(from.add(2).read_volatile());
            to.add(3).write_volatile(from.add(3).read_volatile());
            to.add(4).write_volatile(from.add(4).read_volatile());
        }
    }
    s.at += run;
    s.keep_end = s.at;
    prefixed(d, run);
    0
}

/// Goes on by so many bytes of a message prefix, which were put where it is gathered.
#[inline(always)]
pub fn prefixed(d: &mut Direction, run: u32) {
    d.prefix_have += run;
    if d.prefix_have >= PREFIX {
        d.prefix_have = 0;
        d.message_left = u32::from_be_bytes([d.prefix[1], d.prefix[2], d.prefix[3], d.prefix[4]]);
    }
    if d.prefix[0] > 1 {
        // Not gRPC, or joined inside a message: no prefix can be told from content in this frame.
        d.prefix_have = 0;
        d.message_left = 0;
        d.frame_payload = payload::OPAQUE;
    }
    skip(d, run);
}

/// The byte of the window at a place of the payload, with at least sixty-four readable ones behind it.
#[inline(always)]
fn here(s: &Scratch, at: u32) -> *const u8 {
    let place = opaque(s.window_out + (at - s.window_start)) & READ_MASK;
    // SAFETY: the mask keeps the place inside the array, which is sixty-four bytes longer.
    unsafe { s.bytes.as_ptr().add(place as usize) }
}

/// Loads the window that begins at `s.at`, behind what the record already holds.
#[inline(always)]
pub fn open_window(skb: *mut __sk_buff, s: &mut Scratch) -> i64 {
    close_window(s);
    if s.out > FLUSH_AT {
        send(s);
    }
    if s.piece == NO_PIECE || s.keep_end != s.at {
        s.out = (s.out + 7) & !7;
        s.piece = s.out;
        s.out += size_of::<PieceHead>() as u32;
        let place = opaque(s.piece) & OUT_MASK & !7;
        let head = PieceHead { offset: s.at - s.record_start + s.untold, length: 0 };
        // SAFETY: the mask keeps the head inside the array, and it is aligned.
        unsafe { s.bytes.as_mut_ptr().add(place as usize).cast::<PieceHead>().write(head) };
    }
    let wish = s.window.min(s.length - s.at);
    let length = (opaque(wish.wrapping_sub(1)) & (WINDOW - 1)) + 1;
    let out = opaque(s.out) & OUT_MASK;
    // SAFETY: `out` is at most 8 KiB and `length` 2 KiB, the array is 16 KiB.
    let failed = unsafe {
        bpf_skb_load_bytes(
            skb.cast(),
            s.payload_at + s.at,
            s.bytes.as_mut_ptr().add(out as usize).cast(),
            length,
        )
    };
    if failed != 0 {
        count_loss(loss::SEGMENT);
        s.failed = 1;
        return 1;
    }
    s.window_start = s.at;
    s.window_end = s.at + length;
    s.window_out = s.out;
    s.keep_end = s.at;
    0
}

/// Keeps what the record needs of the window and gives up the rest.
#[inline(always)]
pub fn close_window(s: &mut Scratch) {
    if s.piece == NO_PIECE {
        return;
    }
    s.out = s.window_out + (s.keep_end - s.window_start);
    let place = opaque(s.piece) & OUT_MASK & !7;
    let length = s.out - s.piece - size_of::<PieceHead>() as u32;
    // SAFETY: the mask keeps the head inside the array, and it is aligned.
    unsafe { (*s.bytes.as_mut_ptr().add(place as usize).cast::<PieceHead>()).length = length };
}

/// Sends off the record of `[record_start, at)` and begins the next one there.
#[inline(always)]
pub fn send(s: &mut Scratch) {
    let out = opaque(s.out) & READ_MASK;
    let size = size_of::<SegmentRecord>() as u32 + out;
    s.record = SegmentRecord {
        head: Head { kind: kind::SEGMENT, size, at: s.now, cookie: s.cookie },
        sequence: s.sequence.wrapping_add(s.record_start).wrapping_sub(s.untold),
        length: s.at - s.record_start + s.untold,
        direction: s.direction,
        reserved: 0,
    };
    // SAFETY: the pieces follow the record's head, and the mask keeps the size inside both.
    let failed = unsafe {
        bpf_ringbuf_output(
            (&raw const RECORDS).cast_mut().cast(),
            (&raw mut s.record).cast(),
            u64::from(size),
            wakeup(s.now),
        )
    };
    if failed != 0 {
        count_loss(loss::RING_FULL);
    }
    s.record_start = s.at;
    s.untold = 0;
    s.out = 0;
    s.piece = NO_PIECE;
}

const _: () = assert!(FLUSH_AT + 16 <= OUT_MASK && (OUT_MASK + WINDOW) as usize <= AREA);

/// Hides where a number comes from, so that the mask behind it stays in the program.
#[inline(always)]
pub fn opaque(mut number: u32) -> u32 {
    // SAFETY: moves a register onto itself. The text must not be empty: that breaks line numbers in BTF.
    #[cfg(target_arch = "bpf")]
    unsafe {
        core::arch::asm!("{0} = {0}", inout(reg) number, options(pure, nomem, nostack));
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        number = core::hint::black_box(number);
    }
    number
}
