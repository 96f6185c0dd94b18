//! The usual segment of a large message: nothing but body, or the header of one more DATA frame and then nothing but
//! body. It is told of in a few bytes, without a look at the rest. Segments come from [`crate::observe`], which takes
//! all others to [`crate::follow`].
//!
//! While a message is on its way at speed its headers are told a few at a time, in one record. None waits when the
//! message is whole, nor behind what the other side says meanwhile ([`tell_headers`] is called before that goes out):
//! what a sender may still send is known at every moment at which it may send again. Only a message that stops
//! halfway, with nothing said on its connection, keeps its last frames to itself until something is.

use crate::follow::{UNTOLD_MAX, take_lock};
use crate::frame::{HEADER, Header};
use crate::lock::Lock;
use crate::maps::{RECORDS, count_loss, wakeup};
use crate::packet::{Packet, passed_at};
use crate::state::{Direction, MOST_WAITING, Waiting, payload, phase};
use crate::walk::opaque;
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_ringbuf_output, bpf_skb_load_bytes};
use faultline_abi::{Head, PieceHead, SegmentRecord, kind, loss};

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
        let in_order = d.phase == phase::FOLLOWED && d.kept == 0 && d.expected == packet.sequence;
        let taken = in_order && (within(packet, d) || one_more(skb, packet, d, way));
        if taken {
            d.expected = packet.sequence.wrapping_add(packet.length);
            if (&raw const d.hurry).read_volatile() != 0 {
                tell(d, cookie, way);
            }
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

/// A segment that begins with a DATA frame of the message that is not over, and has nothing else. Says by `hurry`
/// whether the headers that wait must be told now.
#[inline(always)]
fn one_more(skb: *mut __sk_buff, packet: &Packet, d: &mut Direction, way: u32) -> bool {
    let inside = d.frame_left | d.pad_left | d.header_have | d.prefix_have;
    if inside != 0 || d.message_left == 0 || packet.length <= HEADER {
        return false;
    }
    let place = opaque(d.headers) & (MOST_WAITING - 1);
    // SAFETY: the mask keeps the place in the array, whose headers have room for nine bytes; the helper checks the
    // packet's bounds.
    let (waiting, header) = unsafe {
        let waiting = d.waiting.as_mut_ptr().add(place as usize);
        let to = (&raw mut (*waiting).header).cast::<u8>();
        if bpf_skb_load_bytes(skb.cast(), packet.payload_at, to.cast(), HEADER) != 0 {
            return false;
        }
        (&mut *waiting, Header::read(to))
    };
    let run = packet.length - HEADER;
    let same = header.is_body() && !header.is_padded() && header.stream == d.message_stream;
    if !same || !header.is_plausible() || run > header.length || run > d.message_left {
        return false;
    }
    waiting.piece = PieceHead { offset: d.untold, length: HEADER };
    d.headers += 1;
    d.untold += packet.length;
    d.frame_payload = payload::BODY;
    d.frame_left = header.length - run;
    d.message_left -= run;
    d.end_stream = u32::from(header.ends_stream());
    if d.frame_left == 0 && d.end_stream != 0 {
        d.message_stream = 0;
        d.message_left = 0;
    }
    d.header_at = passed_at(skb, way);
    // SAFETY: no arguments.
    let ticks = unsafe { bpf_jiffies64() };
    // A frame that is shorter than the one before it may have used up what the sender was granted.
    let slow = ticks.wrapping_sub(d.header_tick) > 1 || header.length < d.frame_length;
    d.header_tick = ticks;
    d.frame_length = header.length;
    if slow || d.message_left == 0 || d.headers >= MOST_WAITING || d.untold >= UNTOLD_MAX {
        d.hurry = 1;
    }
    true
}

/// Tells the headers that wait, if any, and every byte up to the next one; whoever calls has the lock.
#[inline(always)]
pub fn tell(d: &mut Direction, cookie: u64, way: u32) {
    d.hurry = 0;
    if d.headers == 0 {
        return;
    }
    let count = (opaque(d.headers.wrapping_sub(1)) & (MOST_WAITING - 1)) + 1;
    let size = size_of::<SegmentRecord>() as u32 + count * size_of::<Waiting>() as u32;
    d.record = SegmentRecord {
        head: Head { kind: kind::SEGMENT, size, at: d.header_at, cookie },
        sequence: d.expected.wrapping_sub(d.untold),
        length: d.untold,
        direction: way,
        reserved: 0,
    };
    d.headers = 0;
    d.untold = 0;
    let records = (&raw const RECORDS).cast_mut().cast();
    // SAFETY: the pieces follow the record, and the mask keeps the size inside both.
    let failed = unsafe {
        bpf_ringbuf_output(records, (&raw mut d.record).cast(), u64::from(size), wakeup(d.header_at))
    };
    if failed != 0 {
        count_loss(loss::RING_FULL);
    }
}

/// Tells the headers of a direction that wait: 1, or 0 if somebody is at it. A global function: the verifier proves
/// it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn tell_headers(direction: *mut Direction, cookie: u64, way: u32) -> i32 {
    if direction.is_null() || take_lock(direction) == 0 {
        return 0;
    }
    // SAFETY: a map value, which the lock makes ours.
    unsafe {
        tell(&mut *direction, cookie, way);
        Lock::give_back(&raw mut (*direction).lock);
    }
    1
}
