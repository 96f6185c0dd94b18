//! Bytes that come before their socket: with the end of a handshake where the listener defers its accept
//! (TCP_DEFER_ACCEPT), or with its beginning (TCP fast open). They pass the listener's socket once and are never seen
//! again, so they are put aside there; [`crate::socket`] takes them up when their own socket is established, which
//! the kernel does next, on the same CPU.

use crate::classify::{HTTP1, opening};
use crate::maps::{RECORDS, count_loss, wakeup};
use crate::packet::{Packet, SYN};
use crate::state::{Connection, RAW_EPISODE, phase};
use crate::walk::opaque;
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::{bpf_ringbuf_output, bpf_skb_cgroup_id, bpf_skb_load_bytes};
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use faultline_abi::{Head, PieceHead, SegmentRecord, direction, kind, loss, protocol};

/// What is kept of them: a first flight of ten segments, as a network card may join them.
const MOST: u32 = 16_384;

/// The first bytes of a connection.
#[repr(C)]
struct Early {
    /// The listener's cgroup, which is the connection's.
    cgroup: u64,
    /// Sequence number of the first byte.
    sequence: u32,
    /// How many there are; 0: none, or they were taken.
    length: u32,
    /// The record, if they are HTTP/2's; its one piece follows.
    record: SegmentRecord,
    piece: PieceHead,
    bytes: [u8; MOST as usize],
}

/// Those that came last on each CPU: the next socket that it establishes is theirs, or nobody's.
#[map]
static EARLY: PerCpuArray<Early> = PerCpuArray::with_max_entries(1, 0);

/// Puts the payload of a listener's packet aside.
#[inline(always)]
pub fn put_aside(skb: *mut __sk_buff, packet: &Packet) {
    let Some(early) = EARLY.get_ptr_mut(0) else { return };
    // SAFETY: a map value of this CPU, on which packets are taken one by one; the mask keeps the length in the array.
    unsafe {
        let early = &mut *early;
        early.length = 0;
        let length = (opaque(packet.length.min(MOST).wrapping_sub(1)) & (MOST - 1)) + 1;
        let to = early.bytes.as_mut_ptr().cast();
        if bpf_skb_load_bytes(skb.cast(), packet.payload_at, to, length) != 0 {
            count_loss(loss::SEGMENT);
            return;
        }
        if packet.length > MOST {
            count_loss(loss::SEGMENT);
        }
        // A SYN takes a number of its own.
        early.sequence = packet.sequence.wrapping_add(u32::from(packet.has(SYN)));
        early.cgroup = bpf_skb_cgroup_id(skb);
        early.length = length;
    }
}

/// The cgroup of a connection that begins with the bytes that were put aside last; `None` if it does not.
#[inline(always)]
pub fn cgroup_of(sequence: u32) -> Option<u64> {
    let early = EARLY.get_ptr(0)?;
    // SAFETY: a map value of this CPU.
    let early = unsafe { &*early };
    (early.length != 0 && early.sequence == sequence).then_some(early.cgroup)
}

/// Takes up what was put aside for this connection, which was told of just now.
#[inline(always)]
pub fn take_up(c: &mut Connection, now: u64) {
    let Some(early) = EARLY.get_ptr_mut(0) else { return };
    // SAFETY: a map value of this CPU.
    let early = unsafe { &mut *early };
    let length = early.length;
    early.length = 0;
    let end = early.sequence.wrapping_add(length);
    // SAFETY: the array is longer than what is looked at; behind what came lie bytes of others or none, which are no
    // protocol's beginning together with it.
    let start = unsafe { &*early.bytes.as_ptr().cast::<[u8; 16]>() };
    c.received.expected = end;
    c.asked_at = now;
    if length < 16 {
        // Too few to tell by; those that follow do not begin the stream.
        c.protocol = protocol::OTHER;
        return;
    }
    let opens = opening(start);
    if opens == HTTP1 {
        c.http1 = 1 + direction::RECEIVED;
        return;
    }
    c.protocol = opens;
    if opens != protocol::HTTP2 {
        return;
    }
    // Where in a frame they end is not followed here: what comes next goes out as it is until a frame begins.
    c.received.phase = phase::LOST;
    c.received.raw_budget = RAW_EPISODE;
    let length = (opaque(length.wrapping_sub(1)) & (MOST - 1)) + 1;
    let size = (size_of::<SegmentRecord>() + size_of::<PieceHead>()) as u32 + length;
    early.piece = PieceHead { offset: 0, length };
    early.record = SegmentRecord {
        head: Head { kind: kind::SEGMENT, size, at: now, cookie: c.cookie },
        sequence: early.sequence,
        length,
        direction: direction::RECEIVED,
        reserved: 0,
    };
    let records = (&raw const RECORDS).cast_mut().cast();
    // SAFETY: the piece follows the record, and its bytes follow it.
    let failed =
        unsafe { bpf_ringbuf_output(records, (&raw mut early.record).cast(), u64::from(size), wakeup(now)) };
    if failed != 0 {
        count_loss(loss::RING_FULL);
    }
}
