//! What happens to each packet: finds its connection, tells of it once, and passes payload on to where the
//! protocol wants it. Packets come in from the programs; [`crate::follow`] takes those of HTTP/2.

use crate::classify::classify;
use crate::follow::{follow, give_up, prepare};
use crate::lock::Lock;
use crate::maps::{CONNECTIONS, SCRATCH, SLOTS, count_loss};
use crate::packet::{self, FIN, Packet, RST, SYN};
use crate::sample::{exchange, sample};
use crate::socket::{closed, opened};
use crate::state::{Connection, Direction, Scratch};
use aya_ebpf::bindings::{__sk_buff, BPF_SK_STORAGE_GET_F_CREATE, bpf_sock};
use aya_ebpf::helpers::generated::{
    bpf_get_socket_cookie, bpf_ktime_get_ns, bpf_sk_fullsock, bpf_sk_storage_get, bpf_skb_cgroup_id,
    bpf_tcp_sock,
};
use aya_ebpf::programs::SkBuffContext;
use core::ffi::c_void;
use faultline_abi::{direction, loss, protocol, role};

/// `TCP_LISTEN` of the socket API.
const LISTENING: u32 = 10;
const SAMPLE_EVERY: u64 = 1_000_000_000;
/// Ports from here on are given to clients by most systems.
const EPHEMERAL: u32 = 32_768;

/// A packet passes.
#[inline(always)]
pub fn packet(ctx: &SkBuffContext, way: u32) {
    let skb = ctx.skb.skb;
    let Some(packet) = packet::read(skb) else { return };
    if packet.length == 0 && packet.flags & (SYN | FIN | RST) == 0 {
        return;
    }
    // SAFETY: the context is valid; a socket pointer is checked before use, as the verifier wants it.
    unsafe {
        let sk = (*skb).__bindgen_anon_2.sk;
        if sk.is_null() {
            return;
        }
        let sk = bpf_sk_fullsock(sk);
        if sk.is_null() {
            return;
        }
        if (&raw const (*sk).state).read_volatile() == LISTENING {
            // The end of a handshake that brings data along belongs to a socket that is still to come.
            if packet.length != 0 {
                count_loss(loss::SEGMENT);
            }
            return;
        }
        let Some(connection) = connection_of(sk) else {
            count_loss(loss::CONNECTION_TABLE_FULL);
            return;
        };
        on_connection(skb, sk, &packet, connection, way);
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
    packet: &Packet,
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
    if packet.flags & SYN != 0 {
        return;
    }
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    if c.opened == 0 {
        first_seen(c, sk, now);
    }
    if packet.length != 0 {
        if c.protocol == protocol::HTTP2 {
            segment(skb, packet, c, way, now);
        } else {
            with_other_protocol(skb, packet, c, way, now);
        }
    }
    let ended = c.fresh == 0 && ends(packet, c, way);
    if ended || now.wrapping_sub(c.sampled_at) > SAMPLE_EVERY && c.closed == 0 {
        // SAFETY: the helper takes any socket and says whether it is TCP.
        let tcp = unsafe { bpf_tcp_sock(sk) };
        if !tcp.is_null() {
            // SAFETY: checked just now.
            unsafe {
                let tcp = &*tcp;
                sample(
                    c,
                    now,
                    tcp.srtt_us,
                    tcp.total_retrans,
                    tcp.segs_out,
                    tcp.bytes_acked,
                    tcp.bytes_received,
                );
            }
        }
        if ended {
            closed(c, now);
        }
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

/// Whether the packet is the last that matters of a connection whose state changes are not told.
#[inline(always)]
fn ends(packet: &Packet, c: &mut Connection, way: u32) -> bool {
    if packet.flags & (FIN | RST) == 0 {
        return false;
    }
    toward(c, way).finished = 1;
    packet.flags & RST != 0 || (c.sent.finished != 0 && c.received.finished != 0)
}

#[inline(always)]
fn toward(c: &mut Connection, way: u32) -> &mut Direction {
    if way == direction::SENT { &mut c.sent } else { &mut c.received }
}

/// A protocol that is not known yet, or whose bytes stay unseen: only exchanges are counted.
#[inline(always)]
fn with_other_protocol(skb: *mut __sk_buff, packet: &Packet, c: &mut Connection, way: u32, now: u64) {
    exchange(c, (way == direction::SENT) == (c.asks != 0), now);
    if c.protocol != protocol::UNKNOWN {
        return;
    }
    let class = classify(skb, packet, c.fresh != 0, c.tries);
    c.tries += 1;
    c.protocol = class;
    if class == protocol::HTTP2 {
        segment(skb, packet, c, way, now);
    }
}

/// A segment of an HTTP/2 connection.
#[inline(always)]
fn segment(skb: *mut __sk_buff, packet: &Packet, c: &mut Connection, way: u32, now: u64) {
    let Some((scratch, lock)) = slot() else {
        give_up();
        return;
    };
    // SAFETY: the slot is ours until the lock is given back.
    let s = unsafe { &mut *scratch };
    prepare(s, packet.length);
    s.payload_at = packet.payload_at;
    s.sequence = packet.sequence;
    s.direction = way;
    s.now = now;
    s.cookie = c.cookie;
    follow(skb, scratch, toward(c, way));
    // SAFETY: it is ours.
    unsafe { Lock::give_back(lock) };
}

#[inline(always)]
fn slot() -> Option<(*mut Scratch, *mut Lock)> {
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
