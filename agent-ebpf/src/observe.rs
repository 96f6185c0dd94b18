//! What happens to each packet: finds its connection, tells of it once, and passes payload on to where the
//! protocol wants it. Packets come in from the programs; [`crate::follow`] takes those of HTTP/2.

use crate::body::{goes_on, tell_headers};
use crate::classify::{HTTP1, classify};
use crate::early::put_aside;
use crate::follow::{follow, give_up};
use crate::lock::Lock;
use crate::maps::{CONNECTIONS, SCRATCH, SLOTS, count_loss};
use crate::multipath::is_multipath;
use crate::packet::{self, FIN, Packet, RST, SYN, passed_at};
use crate::sample::{exchange, sample};
use crate::socket::{closed, opened};
use crate::state::{Connection, Direction, Scratch, phase};
use crate::tls;
use crate::upgrade::{Meaning, meaning, more};
use aya_ebpf::bindings::{__sk_buff, BPF_SK_STORAGE_GET_F_CREATE, bpf_sock};
use aya_ebpf::helpers::generated::{
    bpf_get_socket_cookie, bpf_jiffies64, bpf_ktime_get_ns, bpf_sk_fullsock, bpf_sk_storage_get,
    bpf_skb_cgroup_id, bpf_tcp_sock,
};
use aya_ebpf::programs::SkBuffContext;
use core::ffi::c_void;
use faultline_abi::{direction, loss, protocol, role};

/// `TCP_LISTEN` of the socket API.
const LISTENING: u32 = 10;
const SAMPLE_EVERY: u64 = 1_000_000_000;
/// Bytes that a sender may have in flight before the first of them is acknowledged, with room to spare: what comes
/// before its stream's beginning is kept within these, until that says whether it is HTTP/2.
const FIRST_FLIGHT: u32 = 64 << 10;
/// Ports from here on are given to clients by most systems.
const EPHEMERAL: u32 = 32_768;

/// How many of the kernel's ticks (1 to 10 ms each) pass before the clock is looked at again: reading it costs as
/// much as all else that most packets need.
const LOOK_EVERY_TICKS: u64 = 25;

/// A packet passes. What most packets need is here; what is rare is in [`unusual`] and [`look`].
#[inline(always)]
pub fn packet(ctx: &SkBuffContext, way: u32) {
    let skb = ctx.skb.skb;
    let Some(mut packet) = packet::read(skb) else { return };
    let signal = packet.has(SYN | FIN | RST);
    if packet.length == 0 && !signal {
        return;
    }
    let map: *mut c_void = (&raw const CONNECTIONS).cast_mut().cast();
    // SAFETY: the context is valid, and the helper takes any socket that is there; small ones of TIME_WAIT and of
    // handshakes have no storage.
    let connection = unsafe {
        let sk = (*skb).__bindgen_anon_2.sk;
        if sk.is_null() {
            return;
        }
        bpf_sk_storage_get(map, sk.cast(), core::ptr::null_mut(), 0).cast::<Connection>()
    };
    if connection.is_null() {
        unusual(skb, &raw mut packet, way);
        return;
    }
    // SAFETY: a map value. The other direction's CPU writes other fields, or the same values.
    let c = unsafe { &mut *connection };
    if signal || c.opened == 0 || c.protocol == protocol::UNKNOWN {
        unusual(skb, &raw mut packet, way);
        // Here and not in there: 6.1 has no stack to spare for it.
        if c.protocol == protocol::TLS {
            tls::socket::meet(skb, &packet, c, way);
        }
        return;
    }
    // SAFETY: no arguments.
    let ticks = unsafe { bpf_jiffies64() };
    if c.protocol == protocol::HTTP2 {
        segment(skb, &packet, c, way);
    } else {
        exchange(c, (way == direction::SENT) == (c.asks != 0), ticks);
        if c.protocol == protocol::TLS {
            tls::socket::meet(skb, &packet, c, way);
        }
    }
    if ticks.wrapping_sub(c.look_at).cast_signed() >= 0 {
        c.look_at = ticks.wrapping_add(LOOK_EVERY_TICKS);
        look(skb);
    }
}

/// Takes a sample of a connection when it is time. A global function: the verifier proves it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn look(skb: *mut __sk_buff) -> i32 {
    // SAFETY: the context is valid; a socket pointer is checked before use, as the verifier wants it.
    unsafe {
        let Some(sk) = full_socket(skb) else { return 0 };
        let Some(connection) = connection_of(sk) else { return 0 };
        let c = &mut *connection;
        let now = bpf_ktime_get_ns();
        // What TCP counts is held against what was told: a sample waits for both.
        if told(c) && now.wrapping_sub(c.sampled_at) > SAMPLE_EVERY && c.closed == 0 {
            sample_socket(sk, c, now);
        }
    }
    0
}

/// Tells what waits in both directions; not if somebody is at one of them.
#[inline(always)]
pub fn told(c: &mut Connection) -> bool {
    let cookie = c.cookie;
    let sent = c.sent.headers == 0 || tell_headers(&raw mut c.sent, cookie, direction::SENT) != 0;
    let received =
        c.received.headers == 0 || tell_headers(&raw mut c.received, cookie, direction::RECEIVED) != 0;
    sent && received
}

/// A packet of a connection that is new, that ends, or whose protocol is not known. A global function: the
/// verifier proves it once, apart from what most packets need.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn unusual(skb: *mut __sk_buff, packet: *mut Packet, way: u32) -> i32 {
    if packet.is_null() {
        return 0;
    }
    // SAFETY: the context is valid, the packet is the caller's; a socket pointer is checked before use.
    unsafe {
        let packet = &mut *packet;
        let Some(sk) = full_socket(skb) else { return 0 };
        if (&raw const (*sk).state).read_volatile() == LISTENING {
            // A handshake that brings data along: they belong to a socket that is still to come.
            if packet.length != 0 {
                put_aside(skb, packet);
            }
            return 0;
        }
        let Some(connection) = connection_of(sk) else {
            count_loss(loss::CONNECTION_TABLE_FULL);
            return 0;
        };
        // A handshake only asks for several paths; what follows has them.
        let decides = packet.length != 0 && !packet.has(SYN) && (*connection).protocol == protocol::UNKNOWN;
        if decides && is_multipath(skb, packet) != 0 {
            (*connection).protocol = protocol::MPTCP;
        }
        on_connection(skb, sk, packet, connection, way);
    }
    0
}

/// # Safety
/// The context must be valid.
#[inline(always)]
unsafe fn full_socket(skb: *mut __sk_buff) -> Option<*mut bpf_sock> {
    // SAFETY: the caller vouches for the context; both pointers are checked.
    unsafe {
        let sk = (*skb).__bindgen_anon_2.sk;
        if sk.is_null() {
            return None;
        }
        let sk = bpf_sk_fullsock(sk);
        (!sk.is_null()).then_some(sk)
    }
}

/// The state of a socket, made when there is none.
///
/// # Safety
/// `sk` must be a full socket.
#[inline(always)]
pub unsafe fn connection_of(sk: *mut bpf_sock) -> Option<*mut Connection> {
    let map: *mut c_void = (&raw const CONNECTIONS).cast_mut().cast();
    let none = core::ptr::null_mut();
    // SAFETY: the caller vouches for the socket. Both directions may create at once; then one of them
    // fails and finds what the other made.
    unsafe {
        let mut found = bpf_sk_storage_get(map, sk.cast(), none, 0);
        if found.is_null() {
            found = bpf_sk_storage_get(map, sk.cast(), none, u64::from(BPF_SK_STORAGE_GET_F_CREATE));
        }
        if found.is_null() {
            found = bpf_sk_storage_get(map, sk.cast(), none, 0);
        }
        (!found.is_null()).then_some(found.cast())
    }
}

/// # Safety
/// All pointers must be valid.
#[inline(always)]
unsafe fn on_connection(
    skb: *mut __sk_buff,
    sk: *mut bpf_sock,
    packet: &mut Packet,
    connection: *mut Connection,
    way: u32,
) {
    // SAFETY: a map value. The other direction's CPU writes other fields, or the same values.
    let c = unsafe { &mut *connection };
    if c.cgroup == 0 {
        // SAFETY: the context is valid.
        unsafe {
            c.cookie = bpf_get_socket_cookie(skb.cast());
            c.cgroup = bpf_skb_cgroup_id(skb);
        }
    }
    if packet.has(SYN) {
        if packet.length == 0 || way != direction::SENT || c.opened != 0 {
            return;
        }
        // TCP fast open: the stream begins with the handshake. If the server does not take it, it comes again.
        packet.sequence = packet.sequence.wrapping_add(1);
        c.role = role::CLIENT;
        c.fresh = 1;
        begins(&mut c.sent, packet.sequence);
    }
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    if c.opened == 0 {
        first_seen(c, sk, now);
    }
    if packet.length != 0 {
        if c.protocol == protocol::HTTP2 {
            segment(skb, packet, c, way);
        } else {
            with_other_protocol(skb, packet, c, way);
        }
    }
    if c.fresh == 0 && ends(packet, c, way) {
        told(c);
        sample_socket(sk, c, now);
        closed(c, now);
    }
}

#[inline(always)]
fn sample_socket(sk: *mut bpf_sock, c: &mut Connection, now: u64) {
    // SAFETY: the helper takes any socket and says whether it is TCP; its answer is checked.
    unsafe {
        let tcp = bpf_tcp_sock(sk);
        if tcp.is_null() {
            return;
        }
        let tcp = &*tcp;
        sample(c, now, tcp.srtt_us, tcp.total_retrans, tcp.segs_out, tcp.bytes_acked, tcp.bytes_received);
    }
}

/// Tells of a connection. An older one is told of with an unknown role, and its totals so far are set aside.
#[inline(always)]
fn first_seen(c: &mut Connection, sk: *mut bpf_sock, now: u64) {
    c.opened = 1;
    c.sampled_at = now;
    if c.fresh == 0 {
        // SAFETY: the helper takes any socket; its answer is checked.
        unsafe {
            let tcp = bpf_tcp_sock(sk);
            if !tcp.is_null() {
                c.base_retransmits = (*tcp).total_retrans;
                c.base_segments = (*tcp).segs_out;
                c.base_acked = (*tcp).bytes_acked;
                c.base_received = (*tcp).bytes_received;
            }
        }
    }
    // SAFETY: each field is read once, before any branch on the family.
    unsafe {
        let family = (&raw const (*sk).family).read_volatile();
        let local4 = (&raw const (*sk).src_ip4).read_volatile();
        let remote4 = (&raw const (*sk).dst_ip4).read_volatile();
        let local6 = [
            (&raw const (*sk).src_ip6[0]).read_volatile(),
            (&raw const (*sk).src_ip6[1]).read_volatile(),
            (&raw const (*sk).src_ip6[2]).read_volatile(),
            (&raw const (*sk).src_ip6[3]).read_volatile(),
        ];
        let remote6 = [
            (&raw const (*sk).dst_ip6[0]).read_volatile(),
            (&raw const (*sk).dst_ip6[1]).read_volatile(),
            (&raw const (*sk).dst_ip6[2]).read_volatile(),
            (&raw const (*sk).dst_ip6[3]).read_volatile(),
        ];
        let local_port = (&raw const (*sk).src_port).read_volatile();
        let remote_port = u16::from_be((&raw const (*sk).dst_port).read_volatile());
        if c.role == role::UNKNOWN {
            // For exchanges only; the record says that it is not known.
            c.asks = u32::from(local_port >= EPHEMERAL && u32::from(remote_port) < EPHEMERAL);
        } else {
            c.asks = u32::from(c.role == role::CLIENT);
        }
        opened(c, now, family, (local4, remote4), (local6, remote6), (local_port as u16, remote_port));
    }
}

/// The stream begins with this sequence number.
#[inline(always)]
pub fn begins(d: &mut Direction, first: u32) {
    d.first = first;
    d.expected = first;
    d.phase = phase::FRESH;
}

/// Whether the packet is the last that matters of a connection whose state changes are not told.
#[inline(always)]
fn ends(packet: &Packet, c: &mut Connection, way: u32) -> bool {
    if !packet.has(FIN | RST) {
        return false;
    }
    toward(c, way).finished = 1;
    packet.has(RST) || (c.sent.finished != 0 && c.received.finished != 0)
}

#[inline(always)]
fn opposite(way: u32) -> u32 {
    if way == direction::SENT { direction::RECEIVED } else { direction::SENT }
}

#[inline(always)]
fn toward(c: &mut Connection, way: u32) -> &mut Direction {
    if way == direction::SENT { &mut c.sent } else { &mut c.received }
}

/// A protocol that is not known yet, or whose bytes stay unseen: only exchanges are counted.
#[inline(always)]
fn with_other_protocol(skb: *mut __sk_buff, packet: &mut Packet, c: &mut Connection, way: u32) {
    // SAFETY: no arguments.
    let ticks = unsafe { bpf_jiffies64() };
    exchange(c, (way == direction::SENT) == (c.asks != 0), ticks);
    if c.http1 != 0 {
        match meaning(skb, packet, c, way) {
            Meaning::Request => return,
            Meaning::Answer => {
                c.protocol = protocol::OTHER;
                c.http1 = 0;
                return;
            }
            Meaning::Switched if packet.length == 0 => return,
            Meaning::Switched => {}
        }
    }
    // How far into the stream. Only its beginning decides; it may come behind what follows it.
    let ahead = packet.sequence.wrapping_sub(toward(c, way).first);
    let fresh = c.fresh != 0;
    if c.protocol == protocol::UNKNOWN {
        let speaks = classify(skb, packet, fresh && ahead == 0, c.tries);
        if speaks == HTTP1 {
            c.http1 = 1 + way;
            more(toward(c, way), packet);
            return;
        }
        c.protocol = speaks;
        c.tries = if c.protocol == protocol::TLS { 0 } else { c.tries + 1 };
    }
    let undecided = c.protocol == protocol::UNKNOWN && fresh && ahead < FIRST_FLIGHT;
    if c.protocol == protocol::HTTP2 || undecided {
        segment(skb, packet, c, way);
    }
}

/// A segment of an HTTP/2 connection.
#[inline(always)]
fn segment(skb: *mut __sk_buff, packet: &Packet, c: &mut Connection, way: u32) {
    let cookie = c.cookie;
    let d = toward(c, way);
    // A look without the lock: who takes it looks again.
    if (d.message_left | d.frame_left) != 0 && goes_on(skb, packet, d, cookie, way) != 0 {
        return;
    }
    let other = toward(c, opposite(way));
    if other.headers != 0 {
        tell_headers(other, cookie, opposite(way));
    }
    let Some((scratch, lock)) = slot() else {
        give_up();
        return;
    };
    // SAFETY: the slot is ours until the lock is given back.
    unsafe {
        let s = &mut *scratch;
        s.payload_at = packet.payload_at;
        s.length = packet.length;
        s.sequence = packet.sequence;
        s.direction = way;
        s.now = passed_at(skb, way);
        s.cookie = c.cookie;
        follow(skb, scratch, toward(c, way));
        Lock::give_back(lock);
    }
}

/// A slot that nobody uses; whoever takes it gives the lock back.
#[inline(always)]
pub fn slot() -> Option<(*mut Scratch, *mut Lock)> {
    for place in 0..SLOTS {
        let scratch = SCRATCH.get_ptr_mut(place)?;
        // SAFETY: a map value lives as long as the program.
        unsafe {
            let lock = &raw mut (*scratch).lock;
            if Lock::try_take(lock) {
                return Some((scratch, lock));
            }
        }
    }
    None
}
