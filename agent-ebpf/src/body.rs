//! The usual segment of a large message: nothing but body, or the header of one more DATA frame and then nothing but
//! body. It is told of in a few bytes, without a look at the rest. Segments come from [`crate::observe`], which takes
//! all others to [`crate::follow`].

use crate::follow::UNTOLD_MAX;
use crate::frame::{HEADER, Header};
use crate::lock::Lock;
use crate::maps::{RECORDS, count_loss, wakeup};
use crate::packet::Packet;
use crate::state::{Direction, payload, phase};
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::{bpf_ktime_get_ns, bpf_ringbuf_output, bpf_skb_load_bytes};
use faultline_abi::{Head, PieceHead, SegmentRecord, kind, loss};

/// Bytes of a record of one frame header.
const SIZE: u32 = (size_of::<SegmentRecord>() + size_of::<PieceHead>()) as u32 + HEADER;

/// A record of one frame header, and room behind it.
#[repr(C)]
struct OneHeader {
    record: SegmentRecord,
    piece: PieceHead,
    header: [u8; 16],
}

/// Takes a segment that only goes on with a message: 1. Else nothing has changed: 0. A global function: the verifier
/// proves it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn goes_on(
    skb: *mut __sk_buff,
    packet: *const Packet,
    direction: *mut Direction,
    cookie: u64,
    way: u32,
) -> i32 {
    if packet.is_null() || direction.is_null() {
        return 0;
    }
    // SAFETY: the packet is the caller's; the direction is a map value, which the lock makes ours.
    unsafe {
        let lock = &raw mut (*direction).lock;
        if !Lock::try_take(lock) {
            return 0;
        }
        let (packet, d) = (&*packet, &mut *direction);
        let in_order = d.phase == phase::FOLLOWED && d.kept_in == 0 && d.expected == packet.sequence;
        let taken = in_order && (within(packet, d) || one_more(skb, packet, d, cookie, way));
        if taken {
            d.expected = packet.sequence.wrapping_add(packet.length);
        }
        Lock::give_back(lock);
        i32::from(taken)
    }
}

/// A segment inside a DATA frame: the next record tells it as well.
#[inline(always)]
fn within(packet: &Packet, d: &mut Direction) -> bool {
    let length = packet.length;
    let of_message = d.frame_payload == payload::BODY && length <= d.message_left;
    let told = d.untold.wrapping_add(length);
    if length >= d.frame_left || told >= UNTOLD_MAX || !(of_message || d.frame_payload == payload::OPAQUE) {
        return false;
    }
    d.frame_left -= length;
    if of_message {
        d.message_left -= length;
    }
    d.untold = told;
    true
}

/// A segment that begins with a DATA frame of the message that is not over, and has nothing else.
#[inline(always)]
fn one_more(skb: *mut __sk_buff, packet: &Packet, d: &mut Direction, cookie: u64, way: u32) -> bool {
    let inside = d.frame_left | d.pad_left | d.header_have | d.prefix_have;
    if inside != 0 || d.message_left == 0 || packet.length <= HEADER {
        return false;
    }
    let mut one = OneHeader {
        record: SegmentRecord {
            head: Head { kind: kind::SEGMENT, size: SIZE, at: 0, cookie },
            sequence: packet.sequence.wrapping_sub(d.untold),
            length: packet.length.wrapping_add(d.untold),
            direction: way,
            reserved: 0,
        },
        piece: PieceHead { offset: d.untold, length: HEADER },
        header: [0; 16],
    };
    // SAFETY: the array has room for nine bytes; the helper checks the packet's bounds.
    let header = unsafe {
        let to = one.header.as_mut_ptr();
        if bpf_skb_load_bytes(skb.cast(), packet.payload_at, to.cast(), HEADER) != 0 {
            return false;
        }
        Header::read(to)
    };
    let run = packet.length - HEADER;
    let same = header.is_body() && !header.is_padded() && header.stream == d.message_stream;
    if !same || !header.is_plausible() || run > header.length || run > d.message_left {
        return false;
    }
    d.frame_payload = payload::BODY;
    d.frame_left = header.length - run;
    d.message_left -= run;
    d.end_stream = u32::from(header.ends_stream());
    d.untold = 0;
    if d.frame_left == 0 && d.end_stream != 0 {
        d.message_stream = 0;
        d.message_left = 0;
    }
    // SAFETY: no arguments; then the record, as long as we say.
    let failed = unsafe {
        let now = bpf_ktime_get_ns();
        one.record.head.at = now;
        let records = (&raw const RECORDS).cast_mut().cast();
        bpf_ringbuf_output(records, (&raw mut one).cast(), u64::from(SIZE), wakeup(now))
    };
    if failed != 0 {
        count_loss(loss::RING_FULL);
    }
    true
}
