//! Decides once what a connection speaks, from the first bytes of a segment.

use crate::frame::Header;
use crate::packet::Packet;
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::bpf_skb_load_bytes;
use faultline_abi::protocol;

/// Segments with payload after which a connection that was joined late is taken for something else. A
/// large body may fill many, and a frame begins with a segment only now and then.
const TRIES: u32 = 64;
/// `PRI * HTTP/2.0\r\n`, the start of the client's preface; no other protocol's bytes look like it.
const PREFACE: [u8; 16] = *b"PRI * HTTP/2.0\r\n";
const TLS_HANDSHAKE: u8 = 0x16;
const TLS_MAJOR: u8 = 3;

/// A request of HTTP/1, behind whose answer the connection may go on in HTTP/2; no value of [`protocol`].
pub const HTTP1: u32 = u32::MAX;

/// How requests of HTTP/1 begin that may ask for HTTP/2.
const METHODS: [[u8; 4]; 5] = [*b"GET ", *b"POST", *b"OPTI", *b"HEAD", *b"PUT "];

/// One of `faultline_abi::protocol` or [`HTTP1`], by the segment's first bytes. The `first` segment of a stream
/// decides.
#[inline(always)]
pub fn classify(skb: *mut __sk_buff, packet: &Packet, first: bool, tries: u32) -> u32 {
    let mut start = [0u8; 16];
    let undecided = if first || tries >= TRIES { protocol::OTHER } else { protocol::UNKNOWN };
    if !load(skb, packet.payload_at, &mut start, packet.length) {
        return undecided;
    }
    let opens = opening(&start);
    if opens != protocol::OTHER && (first || opens != HTTP1) {
        return opens;
    }
    // A TLS connection that was joined late shows records of application data.
    if !first && start[0] >= 0x14 && start[0] <= 0x17 && start[1] == TLS_MAJOR && start[2] <= 4 {
        return protocol::TLS;
    }
    // SAFETY: the array has sixteen bytes.
    let header = unsafe { Header::read(start.as_ptr()) };
    // A server may greet before it was spoken to.
    let plausible = header.is_plausible() && chained(skb, packet, header);
    if plausible { protocol::HTTP2 } else { undecided }
}

/// What a client's first bytes are the beginning of.
#[inline(always)]
pub fn opening(start: &[u8; 16]) -> u32 {
    if *start == PREFACE {
        return protocol::HTTP2;
    }
    if start[0] == TLS_HANDSHAKE && start[1] == TLS_MAJOR {
        return protocol::TLS;
    }
    let word = [start[0], start[1], start[2], start[3]];
    if METHODS.contains(&word) { HTTP1 } else { protocol::OTHER }
}

/// Whether the frame ends where the segment does, or where another plausible header begins.
#[inline(always)]
fn chained(skb: *mut __sk_buff, packet: &Packet, header: Header) -> bool {
    let next = 9 + header.length;
    if next >= packet.length {
        return next == packet.length;
    }
    let mut bytes = [0u8; 16];
    let enough = load(skb, packet.payload_at + next, &mut bytes, packet.length - next);
    // SAFETY: the array has sixteen bytes.
    enough && unsafe { Header::read(bytes.as_ptr()) }.is_plausible()
}

/// Loads what there is, at least nine bytes and at most sixteen.
#[inline(always)]
fn load(skb: *mut __sk_buff, at: u32, bytes: &mut [u8; 16], available: u32) -> bool {
    let to = bytes.as_mut_ptr().cast();
    // SAFETY: both lengths fit the array; the helper checks the packet's bounds.
    let failed = unsafe {
        if available >= 16 {
            bpf_skb_load_bytes(skb.cast(), at, to, 16)
        } else if available >= 9 {
            bpf_skb_load_bytes(skb.cast(), at, to, 9)
        } else {
            -1
        }
    };
    failed == 0
}
