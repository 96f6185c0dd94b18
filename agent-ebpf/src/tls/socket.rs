//! The part of TLS that runs on packets: a socket meets the session whose ciphertext it sends. Segments come
//! in from [`crate::observe`]; what is found goes to the sessions of [`crate::tls`].

use super::plain::{TLS_STREAMS, http2};
use super::{Bound, HELLO, TLS_MARKS, TLS_SESSIONS, TOLD_BY, UNTOLD, mark};
use crate::packet::Packet;
use crate::state::Connection;
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::bpf_skb_load_bytes;
use faultline_abi::{direction, protocol};

/// Segments looked at before a socket is left alone until its next sample: most that are not watched never
/// are, and one that is met late misses a second.
const TRIES: u32 = 16;
/// [`Connection::tries`] of a socket that has its session.
const MET: u32 = u32::MAX;

/// A segment of a TLS connection passes. `tries` is free for this use: what the connection speaks is known.
#[inline(always)]
pub fn meet(skb: *mut __sk_buff, packet: &Packet, c: &mut Connection, way: u32) {
    if !super::watched() || way != direction::SENT || c.tries >= TRIES || packet.length < TOLD_BY {
        return;
    }
    c.tries += 1;
    if found(skb, packet.payload_at, c.cookie) != 0 {
        c.tries = MET;
    }
}

/// Another second begins.
#[inline(always)]
pub fn sampled(c: &mut Connection) {
    if super::watched() && c.protocol == protocol::TLS && c.tries != MET {
        c.tries = 0;
    }
}

/// What the connection speaks, as far as it is seen.
#[inline(always)]
pub fn spoken(c: &Connection) -> u32 {
    let seen = super::watched() && c.protocol == protocol::TLS && c.tries == MET && http2(c.cookie);
    if seen { protocol::HTTP2_IN_TLS } else { c.protocol }
}

/// Looks for the session that wrote these bytes. A function of its own, for its stack.
#[inline(never)]
fn found(skb: *mut __sk_buff, at: u32, cookie: u64) -> u32 {
    let mut start = [0u8; TOLD_BY as usize];
    // SAFETY: the array is as long as we say; the helper checks the packet's bounds.
    let failed = unsafe { bpf_skb_load_bytes(skb.cast(), at, start.as_mut_ptr().cast(), TOLD_BY) };
    if failed != 0 {
        return 0;
    }
    // Filled in where it is used: 6.1 has no stack to spare here.
    let mut bound = Bound { cookie, by: [0; 3], fresh: 0 };
    let what = mark(&start, &mut bound.by);
    if what == UNTOLD {
        return 0;
    }
    bound.fresh = u64::from(what == HELLO);
    let Some(session) = TLS_MARKS.get_ptr(&bound.by) else { return 0 };
    // A cookie is never used again, but a session that was met before may have left something.
    TLS_STREAMS.remove(&bound.cookie).ok();
    // SAFETY: a map value, whose memory stays a session's even if it is replaced just now.
    let met = TLS_SESSIONS.insert(unsafe { &*session }, &bound, 0).is_ok();
    TLS_MARKS.remove(&bound.by).ok();
    u32::from(met)
}
