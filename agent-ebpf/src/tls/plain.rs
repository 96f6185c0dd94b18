//! Walks the plaintext that one call of libssl read or wrote and puts together the record of what must not be
//! lost: frame headers, frames that are not DATA, and gRPC message prefixes. Bodies are skipped. Runs of
//! bytes come from [`crate::tls`], records leave through the ring.
//!
//! The same filter as [`crate::walk`], but simpler: what a library reads and writes is whole and in order, so
//! nothing is ever missing, repeated or early, and each part is fetched from the process where it is needed.

use crate::frame::{HEADER, Header, PREFACE, PREFIX};
use crate::lock::Lock;
use crate::maps::{MESSAGES, RECORDS, count_loss, wakeup};
use crate::state::{Message, MessageKey, NO_PIECE, payload};
use crate::walk::opaque;
use aya_ebpf::helpers::generated::{bpf_loop, bpf_probe_read_user, bpf_ringbuf_output};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{LruHashMap, PerCpuArray};
use core::ffi::c_void;
use faultline_abi::{Head, PieceHead, SegmentRecord, direction, kind, loss, protocol};

/// Plaintext streams; as many as sessions.
const STREAMS_MAX: u32 = 16_384;
/// Probes run in process context and can be preempted, so more of them than packets meet on one CPU.
const SLOTS: u32 = 8;
/// Steps of one call: 16 MiB written at once are a thousand frames of 16 KiB, of four steps each.
const STEPS: u32 = 32_768;
/// Most bytes that one step copies.
const CHUNK: u32 = 1_024;
/// A record's bytes may reach here before it is sent off.
const FLUSH_AT: u32 = 4_096;
/// A mask over the places that a record's bytes can have.
const OUT_MASK: u32 = 0x1fff;
/// Bytes that one record may tell of.
const TOLD_MAX: u32 = 1 << 20;
/// The longest run: libssl itself takes no more than an `int` of bytes.
const RUN_MAX: u64 = 1 << 30;
/// Runs after which a stream that was joined late is taken for something else than HTTP/2.
const TRIES: u32 = 64;

/// What one call read or wrote.
pub struct Run {
    /// The socket.
    pub cookie: u64,
    /// Where the bytes lie in the process.
    pub from: u64,
    /// How many.
    pub length: u64,
    /// One of `faultline_abi::direction`.
    pub way: u32,
    /// The session was seen from its hello on.
    pub fresh: u32,
    /// When they were written or read.
    pub at: u64,
}

/// The plaintext of one connection.
#[repr(C)]
pub struct Stream {
    /// One of `faultline_abi::protocol`.
    spoken: u32,
    /// Runs while that is unknown.
    tries: u32,
    sent: Way,
    received: Way,
}

/// One direction of it.
#[repr(C)]
struct Way {
    /// It is known in which frame the next byte lies.
    followed: u32,
    /// Plaintext bytes before the next one.
    sequence: u32,
    /// Payload bytes of the current frame still to come.
    frame_left: u32,
    /// One of [`payload`].
    frame_payload: u32,
    /// The current frame ends its stream.
    end_stream: u32,
    /// Padding bytes behind `frame_left`.
    pad_left: u32,
    /// The stream whose message is kept here.
    message_stream: u32,
    /// Bytes of its message still to come.
    message_left: u32,
    /// Bytes of its message prefix that were gathered.
    prefix_have: u32,
    /// Bytes of a frame header that were gathered.
    header_have: u32,
    /// The gathered message prefix.
    prefix: [u8; 16],
    /// The gathered frame header.
    header: [u8; 32],
}

#[map]
pub static TLS_STREAMS: LruHashMap<u64, Stream> = LruHashMap::with_max_entries(STREAMS_MAX, 0);
#[map]
static TLS_DESKS: PerCpuArray<Desk> = PerCpuArray::with_max_entries(SLOTS, 0);

/// Room to put a record together.
#[repr(C)]
struct Desk {
    /// Taken by whoever uses it.
    lock: Lock,
    /// Where the run lies in the process.
    from: u64,
    cookie: u64,
    now: u64,
    /// The run's length.
    length: u32,
    /// The walk's place in it.
    at: u32,
    /// Where the record begins.
    record_start: u32,
    /// The sequence number of the run's first byte.
    sequence: u32,
    direction: u32,
    /// End of what the open piece holds.
    keep_end: u32,
    /// Where its head lies in `bytes`; [`NO_PIECE`] when there is none.
    piece: u32,
    /// Bytes of the record behind its head.
    out: u32,
    /// The walk had to stop.
    failed: u32,
    /// Keeps what follows on a multiple of eight.
    reserved: u32,
    /// The record; its pieces follow in `bytes`.
    record: SegmentRecord,
    bytes: [u8; OUT_MASK as usize + 1 + CHUNK as usize + 64],
}

/// What a step needs.
#[repr(C)]
struct Walk {
    desk: *mut Desk,
    way: *mut Way,
}

/// Whether a connection's plaintext is HTTP/2.
#[inline(always)]
pub fn http2(cookie: u64) -> bool {
    // SAFETY: a map value; one field is read.
    TLS_STREAMS.get_ptr(cookie).is_some_and(|stream| unsafe { (*stream).spoken } == protocol::HTTP2)
}

/// Takes what one call read or wrote.
#[inline(always)]
pub fn pass(run: &Run) {
    let Some(stream) = stream_of(run.cookie) else {
        count_loss(loss::CONNECTION_TABLE_FULL);
        return;
    };
    // SAFETY: a map value. A session is used by one thread at a time, so nobody else changes it.
    let stream = unsafe { &mut *stream };
    if stream.spoken == protocol::OTHER {
        return;
    }
    let Some(desk) = free_desk() else {
        // The next run that begins with a frame is followed again.
        let way = toward(stream, run.way);
        way.followed = 0;
        way.sequence = way.sequence.wrapping_add(run.length as u32);
        count_loss(loss::SEGMENT);
        return;
    };
    // SAFETY: the desk is ours until its lock is given back.
    let d = unsafe { &mut *desk };
    d.from = run.from;
    d.cookie = run.cookie;
    d.now = run.at;
    d.direction = run.way;
    d.length = if run.length > RUN_MAX { 0 } else { run.length as u32 };
    walk(d, stream, run);
    // SAFETY: it is ours.
    unsafe { Lock::give_back(&raw mut d.lock) };
}

#[inline(always)]
fn toward(stream: &mut Stream, way: u32) -> &mut Way {
    if way == direction::SENT { &mut stream.sent } else { &mut stream.received }
}

/// The stream of a socket, made when there is none. A function of its own, for its stack.
#[inline(never)]
fn stream_of(cookie: u64) -> Option<*mut Stream> {
    if let Some(found) = TLS_STREAMS.get_ptr_mut(cookie) {
        return Some(found);
    }
    // SAFETY: numbers only, for which zeros are a value.
    let empty: Stream = unsafe { core::mem::zeroed() };
    TLS_STREAMS.insert(cookie, empty, 0).ok()?;
    TLS_STREAMS.get_ptr_mut(cookie)
}

#[inline(always)]
fn free_desk() -> Option<*mut Desk> {
    for place in 0..SLOTS {
        let desk = TLS_DESKS.get_ptr_mut(place)?;
        // SAFETY: a map value lives as long as the program.
        if unsafe { Lock::try_take(&raw mut (*desk).lock) } {
            return Some(desk);
        }
    }
    None
}

/// Finds out what is spoken and where frames begin, and walks.
#[inline(always)]
fn walk(d: &mut Desk, stream: &mut Stream, run: &Run) {
    d.at = 0;
    d.record_start = 0;
    d.piece = NO_PIECE;
    d.out = 0;
    d.keep_end = 0;
    d.failed = 0;
    let spoken = stream.spoken;
    let tries = stream.tries;
    let way = toward(stream, run.way);
    d.sequence = way.sequence;
    way.sequence = way.sequence.wrapping_add(run.length as u32);
    let mut now_spoken = spoken;
    if way.followed == 0 {
        let start = start_of(d);
        if matches!(start, Start::Unknown) {
            if spoken == protocol::UNKNOWN {
                stream.tries = tries + 1;
                if run.fresh != 0 || tries >= TRIES {
                    stream.spoken = protocol::OTHER;
                }
            }
            return;
        }
        now_spoken = protocol::HTTP2;
        begin(way, matches!(start, Start::Preface));
    }
    let mut place = Walk { desk: d, way };
    // SAFETY: `step` has the signature that bpf_loop calls, and `place` outlives the call.
    unsafe { bpf_loop(STEPS, step as *mut c_void, (&raw mut place).cast(), 0) };
    // SAFETY: the pointers are those we just put in.
    let (d, way) = unsafe { (&mut *place.desk, &mut *place.way) };
    if d.at < d.length {
        way.followed = 0;
        count_loss(loss::SEGMENT);
    }
    if d.at != d.record_start {
        send(d);
    }
    stream.spoken = now_spoken;
}

/// What a run begins with.
enum Start {
    /// The client's preface.
    Preface,
    /// A frame header, and another one where the frame ends, or the run's end.
    Frames,
    /// Something else.
    Unknown,
}

#[inline(always)]
fn start_of(d: &Desk) -> Start {
    let mut at = 0;
    for _ in 0..2 {
        let mut bytes = [0u8; 16];
        // SAFETY: nine of sixteen bytes; the helper checks the other side.
        let failed = unsafe {
            bpf_probe_read_user(bytes.as_mut_ptr().cast(), HEADER, (d.from + u64::from(at)) as *const c_void)
        };
        if failed != 0 || d.length - at < HEADER {
            return Start::Unknown;
        }
        if at == 0
            && u64::from_be_bytes([
                bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7],
            ]) == u64::from_be_bytes(*b"PRI * HT")
        {
            return Start::Preface;
        }
        // SAFETY: the array has sixteen bytes.
        let header = unsafe { Header::read(bytes.as_ptr()) };
        if !header.is_plausible() {
            return Start::Unknown;
        }
        at += HEADER + header.length;
        if at >= d.length {
            return if at == d.length { Start::Frames } else { Start::Unknown };
        }
    }
    Start::Frames
}

#[inline(always)]
fn begin(way: &mut Way, preface: bool) {
    way.followed = 1;
    way.frame_left = if preface { PREFACE } else { 0 };
    way.frame_payload = payload::WHOLE;
    way.end_stream = 0;
    way.pad_left = 0;
    way.message_stream = 0;
    way.message_left = 0;
    way.prefix_have = 0;
    way.header_have = 0;
}

/// Goes on by a frame header, a message prefix or a run of bytes. Returns 1 to end the walk.
unsafe extern "C" fn step(_: u32, walk: *mut Walk) -> i64 {
    // SAFETY: the loop hands over what `walk` gave it; both pointers are valid while it runs.
    let (d, w) = unsafe { (&mut *(*walk).desk, &mut *(*walk).way) };
    if d.at >= d.length || d.failed != 0 {
        return 1;
    }
    if d.out > FLUSH_AT || d.at - d.record_start >= TOLD_MAX {
        send(d);
    }
    let rest = d.length - d.at;
    if w.frame_left == 0 {
        if w.pad_left != 0 {
            let run = w.pad_left.min(rest).min(TOLD_MAX);
            w.pad_left -= run;
            d.at += run;
            return 0;
        }
        return header(d, w, rest);
    }
    let room = w.frame_left.min(rest);
    match w.frame_payload {
        payload::OPAQUE => skip(d, w, room.min(TOLD_MAX)),
        payload::BODY if w.message_left != 0 => {
            let run = w.message_left.min(room).min(TOLD_MAX);
            w.message_left -= run;
            skip(d, w, run);
        }
        payload::BODY => prefix(d, w, room),
        payload::PADDED => padding(d, w),
        _ => {
            let run = room.min(CHUNK);
            keep(d, run);
            w.frame_left -= run;
        }
    }
    0
}

/// At a frame header, or inside one that straddles runs.
#[inline(always)]
fn header(d: &mut Desk, w: &mut Way, rest: u32) -> i64 {
    let have = w.header_have & 15;
    let part = (HEADER.wrapping_sub(have)).min(rest);
    // SAFETY: both numbers are below sixteen, the array has thirty-two bytes.
    unsafe { fetch(d, w.header.as_mut_ptr().add((opaque(have) & 15) as usize), part) };
    keep(d, part);
    w.header_have = have + part;
    if w.header_have < HEADER {
        return 0;
    }
    w.header_have = 0;
    // SAFETY: the array has thirty-two bytes.
    let header = unsafe { Header::read(w.header.as_ptr()) };
    if !header.is_plausible() {
        d.failed = 1;
        return 1;
    }
    w.frame_left = header.length;
    w.frame_payload = payload::WHOLE;
    w.end_stream = 0;
    if header.is_body() {
        w.frame_payload = if header.is_padded() { payload::PADDED } else { payload::BODY };
        w.end_stream = u32::from(header.ends_stream());
        if w.message_stream != header.stream {
            change_stream(d, w, header.stream);
        }
        if header.length == 0 {
            end_frame(w);
        }
    }
    0
}

/// Puts aside where the message of one stream stopped and takes up another's.
#[inline(always)]
fn change_stream(d: &Desk, w: &mut Way, stream: u32) {
    let mut key = MessageKey { cookie: d.cookie, stream: w.message_stream, direction: d.direction };
    if w.message_left != 0 || w.prefix_have != 0 {
        let prefix = [w.prefix[0], w.prefix[1], w.prefix[2], w.prefix[3], w.prefix[4], 0, 0, 0];
        let message = Message { left: w.message_left, prefix_have: w.prefix_have, prefix };
        // An LRU map makes room by itself; a failure costs one message's prefix.
        MESSAGES.insert(key, message, 0).ok();
    }
    w.message_stream = stream;
    w.message_left = 0;
    w.prefix_have = 0;
    key.stream = stream;
    if let Some(message) = MESSAGES.get_ptr(key) {
        // SAFETY: the entry is this direction's own.
        unsafe {
            w.message_left = (*message).left;
            w.prefix_have = (*message).prefix_have;
            for place in 0..PREFIX as usize {
                w.prefix[place] = (*message).prefix[place];
            }
        }
        MESSAGES.remove(key).ok();
    }
}

/// At a gRPC message prefix: a flag and the message's length.
#[inline(always)]
fn prefix(d: &mut Desk, w: &mut Way, room: u32) {
    let have = w.prefix_have & 7;
    let part = (PREFIX.wrapping_sub(have)).min(room);
    // SAFETY: both numbers are below eight, the array has sixteen bytes.
    unsafe { fetch(d, w.prefix.as_mut_ptr().add((opaque(have) & 7) as usize), part) };
    keep(d, part);
    w.prefix_have = have + part;
    if w.prefix_have >= PREFIX {
        w.prefix_have = 0;
        w.message_left = u32::from_be_bytes([w.prefix[1], w.prefix[2], w.prefix[3], w.prefix[4]]);
    }
    if w.prefix[0] > 1 {
        // Not gRPC: no prefix can be told from content in this frame.
        w.prefix_have = 0;
        w.message_left = 0;
        w.frame_payload = payload::OPAQUE;
    }
    w.frame_left -= part;
    if w.frame_left == 0 {
        end_frame(w);
    }
}

/// At the pad length of a DATA frame.
#[inline(always)]
fn padding(d: &mut Desk, w: &mut Way) {
    let mut pad = [0u8; 8];
    // SAFETY: at most seven bytes, of eight.
    unsafe { fetch(d, pad.as_mut_ptr(), 1) };
    keep(d, 1);
    w.frame_payload = payload::BODY;
    w.frame_left -= 1;
    w.pad_left = u32::from(pad[0]).min(w.frame_left);
    w.frame_left -= w.pad_left;
    if w.frame_left == 0 {
        end_frame(w);
    }
}

#[inline(always)]
fn end_frame(w: &mut Way) {
    if w.end_stream != 0 {
        w.message_stream = 0;
        w.message_left = 0;
        w.prefix_have = 0;
    }
}

#[inline(always)]
fn skip(d: &mut Desk, w: &mut Way, run: u32) {
    d.at += run;
    w.frame_left -= run;
    if w.frame_left == 0 {
        end_frame(w);
    }
}

/// Reads fewer than sixteen bytes at the walk's place.
///
/// # Safety
/// `to` must have room for fifteen bytes.
#[inline(always)]
unsafe fn fetch(d: &mut Desk, to: *mut u8, length: u32) {
    let from = (d.from + u64::from(d.at)) as *const c_void;
    // SAFETY: the caller vouches for the room; the helper checks the other side.
    if unsafe { bpf_probe_read_user(to.cast(), opaque(length) & 15, from) } != 0 {
        d.failed = 1;
    }
}

/// Copies what is at the walk's place into the record and goes on behind it.
#[inline(always)]
fn keep(d: &mut Desk, length: u32) {
    if d.piece == NO_PIECE || d.keep_end != d.at {
        d.out = (d.out + 7) & !7;
        d.piece = d.out;
        d.out += size_of::<PieceHead>() as u32;
        let place = opaque(d.piece) & OUT_MASK & !7;
        let head = PieceHead { offset: d.at - d.record_start, length: 0 };
        // SAFETY: the mask keeps the head inside the array, and it is aligned.
        unsafe { d.bytes.as_mut_ptr().add(place as usize).cast::<PieceHead>().write(head) };
    }
    let bounded = (opaque(length.wrapping_sub(1)) & (CHUNK - 1)) + 1;
    let out = opaque(d.out) & OUT_MASK;
    let from = (d.from + u64::from(d.at)) as *const c_void;
    // SAFETY: `out` is at most 8 KiB and the length 1 KiB, the array holds both.
    let failed = unsafe { bpf_probe_read_user(d.bytes.as_mut_ptr().add(out as usize).cast(), bounded, from) };
    if failed != 0 {
        d.failed = 1;
        return;
    }
    d.out += bounded;
    d.at += bounded;
    d.keep_end = d.at;
    let place = opaque(d.piece) & OUT_MASK & !7;
    // SAFETY: as above.
    unsafe {
        (*d.bytes.as_mut_ptr().add(place as usize).cast::<PieceHead>()).length =
            d.out - d.piece - size_of::<PieceHead>() as u32;
    }
}

/// Sends off the record of `[record_start, at)` and begins the next one there.
#[inline(always)]
fn send(d: &mut Desk) {
    let out = opaque(d.out) & OUT_MASK;
    let size = size_of::<SegmentRecord>() as u32 + out;
    d.record = SegmentRecord {
        head: Head { kind: kind::SEGMENT, size, at: d.now, cookie: d.cookie },
        sequence: d.sequence.wrapping_add(d.record_start),
        length: d.at - d.record_start,
        direction: d.direction,
        reserved: 0,
    };
    // SAFETY: the pieces follow the record's head, and the mask keeps the size inside both.
    let failed = unsafe {
        bpf_ringbuf_output(
            (&raw const RECORDS).cast_mut().cast(),
            (&raw mut d.record).cast(),
            u64::from(size),
            wakeup(d.now),
        )
    };
    if failed != 0 {
        count_loss(loss::RING_FULL);
    }
    d.record_start = d.at;
    d.out = 0;
    d.piece = NO_PIECE;
}
