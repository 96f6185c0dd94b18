//! Tells once a second what TCP knows of a connection, and counts exchanges: a run of bytes one way, then
//! an answer. Called by [`crate::observe`] and [`crate::socket`]; records leave through the ring.

use crate::maps::{RECORDS, count_loss, wakeup};
use crate::state::Connection;
use crate::tls;
use crate::walk::opaque;
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use faultline_abi::{BUCKETS, Head, SampleRecord, kind, loss};

/// A mark in [`Connection::asked_at`], which is even otherwise: the clock was not looked at, the time is that of the
/// first question in the same tick.
const ABOUT: u64 = 1;

/// Bytes passed on a connection that is not HTTP/2: a question or an answer. Looking at the clock costs as much as all
/// else that such a packet needs, so one exchange a tick is timed. Others that begin and end within that tick or the
/// next one are taken to last as long; longer ones are timed from the tick's first question on.
#[inline(always)]
pub fn exchange(c: &mut Connection, question: bool, ticks: u64) {
    // More of a question that was asked, or of an answer that was given: of no interest, and most packets.
    if question == (c.asked_at != 0) {
        return;
    }
    if question && ticks == c.timed_tick {
        c.asked_at = c.timed_at | ABOUT;
        return;
    }
    if !question && c.asked_at & ABOUT != 0 && ticks.wrapping_sub(c.timed_tick) <= 1 {
        c.asked_at = 0;
        c.alike += 1;
        return;
    }
    timed(c, u32::from(question), ticks);
}

/// Times a question or an answer by the clock. A global function: the verifier proves it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn timed(connection: *mut Connection, question: u32, ticks: u64) -> i32 {
    if connection.is_null() {
        return 0;
    }
    // SAFETY: the caller's map value; the helper has no arguments.
    let (c, now) = unsafe { (&mut *connection, bpf_ktime_get_ns()) };
    settle(c, now);
    if question != 0 {
        c.timed_tick = ticks;
        c.timed_at = now & !ABOUT;
        c.asked_at = c.timed_at;
        return 0;
    }
    c.exchange_last = now.wrapping_sub(c.asked_at & !ABOUT);
    c.asked_at = 0;
    count(c, c.exchange_last, 1);
    0
}

/// Counts the exchanges since the last one that was timed. One followed the other, so on average they did not take
/// longer than the time since then allows.
#[inline(always)]
fn settle(c: &mut Connection, now: u64) {
    let alike = c.alike;
    if alike == 0 {
        return;
    }
    c.alike = 0;
    let most = now.wrapping_sub(c.timed_at).wrapping_sub(c.exchange_last) / u64::from(alike);
    count(c, c.exchange_last.min(most), alike);
}

#[inline(always)]
fn count(c: &mut Connection, took: u64, times: u32) {
    c.exchanges += times;
    c.exchange_nanos += took * u64::from(times);
    if took > c.exchange_max {
        c.exchange_max = took;
    }
    let place = opaque(bucket(took / 1_000)) & 31;
    // SAFETY: the array has thirty-two places.
    unsafe { *c.histogram.as_mut_ptr().add(place as usize) += times };
}

/// The power of two at or below `micros`, at most the last bucket.
#[inline(always)]
fn bucket(micros: u64) -> u32 {
    let mut rest = if micros >= 1 << BUCKETS { (1 << BUCKETS) - 1 } else { micros as u32 };
    let mut power = 0;
    if rest >= 1 << 16 {
        rest >>= 16;
        power += 16;
    }
    if rest >= 1 << 8 {
        rest >>= 8;
        power += 8;
    }
    if rest >= 1 << 4 {
        rest >>= 4;
        power += 4;
    }
    if rest >= 1 << 2 {
        rest >>= 2;
        power += 2;
    }
    power + (rest >> 1)
}

/// Sends off a sample and begins to count exchanges anew.
#[inline(always)]
pub fn sample(
    c: &mut Connection,
    now: u64,
    srtt_eighths: u32,
    retransmits: u32,
    segments: u32,
    acked: u64,
    received: u64,
) {
    c.sampled_at = now;
    settle(c, now);
    tls::socket::sampled(c);
    let Some(mut entry) = RECORDS.reserve::<SampleRecord>(0) else {
        count_loss(loss::RING_FULL);
        return;
    };
    let waiting = if c.asked_at == 0 { 0 } else { now.wrapping_sub(c.asked_at) };
    let record = entry.as_mut_ptr();
    // SAFETY: the entry is ours until it is submitted, and each field is written.
    unsafe {
        (&raw mut (*record).head).write(Head {
            kind: kind::SAMPLE,
            size: size_of::<SampleRecord>() as u32,
            at: now,
            cookie: c.cookie,
        });
        (&raw mut (*record).protocol).write(tls::socket::spoken(c));
        (&raw mut (*record).rtt_micros).write(srtt_eighths >> 3);
        (&raw mut (*record).retransmits).write(retransmits.wrapping_sub(c.base_retransmits));
        (&raw mut (*record).segments_sent).write(segments.wrapping_sub(c.base_segments));
        (&raw mut (*record).bytes_sent).write(acked.wrapping_sub(c.base_acked));
        (&raw mut (*record).bytes_received).write(received.wrapping_sub(c.base_received));
        (&raw mut (*record).exchanges).write(c.exchanges);
        (&raw mut (*record).reserved).write(0);
        (&raw mut (*record).exchange_nanos).write(c.exchange_nanos);
        (&raw mut (*record).exchange_max).write(c.exchange_max);
        (&raw mut (*record).waiting).write(waiting);
        for place in 0..BUCKETS {
            (&raw mut (*record).histogram).cast::<u32>().add(place).write(c.histogram[place]);
            c.histogram[place] = 0;
        }
    }
    entry.submit(wakeup(now));
    c.exchanges = 0;
    c.exchange_nanos = 0;
    c.exchange_max = 0;
}
