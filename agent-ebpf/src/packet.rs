//! Finds the TCP payload of a packet. Packets come in from the cgroup programs, [`Packet`]s go out.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::{bpf_ktime_get_ns, bpf_skb_load_bytes};
use faultline_abi::direction;

/// TCP flags that matter without a payload: FIN, SYN, RST.
pub const FIN: u8 = 1;
/// See [`FIN`].
pub const SYN: u8 = 2;
/// See [`FIN`].
pub const RST: u8 = 4;

const IPPROTO_TCP: u8 = 6;
/// `htons(ETH_P_IP)`, as `skb->protocol` has it.
const ETH_P_IP: u32 = 0x0008;
/// `htons(ETH_P_IPV6)`.
const ETH_P_IPV6: u32 = 0xdd86;
const IPV4_HEADER: u32 = 20;
/// Version 4 and a header without options.
const IPV4_PLAIN: u8 = 0x45;
const IPV6_HEADER: u32 = 40;
/// The hop-by-hop options of IPv6.
const IPPROTO_HOPOPTS: u8 = 0;
/// A TCP header without options.
const TCP_HEADER: u32 = 20;
/// Bytes of the TCP header up to its flags.
const TCP_START: usize = 14;
/// The same up to the end of the word that they lie in.
const TCP_WORDS: usize = 16;
/// Offset and more-fragments bits of an IPv4 header's word, as it lies in memory. A packet that has any is a part of
/// one: only the first part has a TCP header, and none comes here before it is whole.
const FRAGMENT: u16 = 0xff1f;

/// A TCP packet.
#[repr(C)]
pub struct Packet {
    /// Where the payload begins.
    pub payload_at: u32,
    /// How long it is. Taken from `skb->len`: a GSO packet is longer than an IP header can say.
    pub length: u32,
    /// Sequence number of its first byte.
    pub sequence: u32,
    /// TCP flags.
    pub flags: u32,
    /// Bytes of TCP's options, right before the payload: at most forty.
    pub options: u32,
}

impl Packet {
    /// Whether one of these flags is set.
    #[inline(always)]
    pub fn has(&self, flags: u8) -> bool {
        self.flags & u32::from(flags) != 0
    }
}

/// When a packet passes. TCP dates what it sends by the same clock a moment before, or a moment after where it paces
/// itself: looking at that costs nothing, looking at the clock a fifth of all that a small segment costs.
#[inline(always)]
pub fn passed_at(skb: *mut __sk_buff, way: u32) -> u64 {
    if way == direction::SENT {
        // SAFETY: the context is valid.
        let dated = unsafe { (*skb).tstamp };
        if dated != 0 {
            return dated;
        }
    }
    // SAFETY: no arguments.
    unsafe { bpf_ktime_get_ns() }
}

/// Reads the headers; none when this is not TCP.
#[inline(always)]
pub fn read(skb: *mut __sk_buff) -> Option<Packet> {
    // SAFETY: the context is valid for the whole program.
    let (protocol, total) = unsafe { ((*skb).protocol, (*skb).len) };
    if protocol == ETH_P_IP {
        return read_ip4(skb, total);
    }
    if protocol != ETH_P_IPV6 {
        return None;
    }
    read_ip6(skb, total)
}

/// The packet's linear part from its first byte on, if it holds a TCP header behind an IP header of this length.
/// Headers lie there but for the rarest packets, and can be read without a call.
#[inline(always)]
fn linear(skb: *mut __sk_buff, ip_length: u32) -> Option<*const u8> {
    // SAFETY: the context is valid.
    let (start, end) = unsafe { ((*skb).data as usize, (*skb).data_end as usize) };
    (start + ip_length as usize + TCP_WORDS <= end).then_some(start as *const u8)
}

#[inline(always)]
fn read_ip4(skb: *mut __sk_buff, total: u32) -> Option<Packet> {
    if let Some(ip) = linear(skb, IPV4_HEADER) {
        // SAFETY: what is read lies before the end that was checked.
        let (plain, fragment, protocol) = unsafe {
            (ip.read_volatile(), ip.add(6).cast::<u16>().read_volatile(), ip.add(9).read_volatile())
        };
        if plain == IPV4_PLAIN {
            if protocol != IPPROTO_TCP || fragment & FRAGMENT != 0 {
                return None;
            }
            // SAFETY: see above.
            return unsafe { described_at(ip, IPV4_HEADER, total) };
        }
    }
    let mut ip = [0u8; 12];
    load(skb, 0, &mut ip)?;
    // A later fragment has no TCP header.
    if ip[9] != IPPROTO_TCP || (ip[6] & 0x1f) | ip[7] != 0 {
        return None;
    }
    behind_ip(skb, u32::from(ip[0] & 0x0f) * 4, total)
}

#[inline(always)]
fn read_ip6(skb: *mut __sk_buff, total: u32) -> Option<Packet> {
    if let Some(ip) = linear(skb, IPV6_HEADER) {
        // SAFETY: what is read lies before the end that was checked.
        if unsafe { ip.add(6).read_volatile() } == IPPROTO_TCP {
            // SAFETY: see above.
            return unsafe { described_at(ip, IPV6_HEADER, total) };
        }
    }
    behind_ip(skb, ipv6_length(skb)?, total)
}

/// Reads the TCP header behind an IP header by its words: one by one its bytes cost more than all else that a packet
/// without payload does here.
///
/// # Safety
/// [`TCP_WORDS`] bytes must be readable behind the IP header. A word need not be aligned: the verifier refuses it
/// where the machine minds.
#[inline(always)]
unsafe fn described_at(ip: *const u8, ip_length: u32, total: u32) -> Option<Packet> {
    // SAFETY: the caller vouches for the bytes.
    let (sequence, words) = unsafe {
        let tcp = ip.add(ip_length as usize);
        (tcp.add(4).cast::<u32>().read_volatile(), tcp.add(12).cast::<u16>().read_volatile())
    };
    let payload_at = ip_length + u32::from(words >> 4 & 0x0f) * 4;
    if payload_at > total {
        return None;
    }
    Some(Packet {
        payload_at,
        length: total - payload_at,
        sequence: u32::from_be(sequence),
        flags: u32::from(words >> 8),
        options: (payload_at - ip_length).saturating_sub(TCP_HEADER),
    })
}

#[inline(always)]
fn behind_ip(skb: *mut __sk_buff, ip_length: u32, total: u32) -> Option<Packet> {
    let mut tcp = [0u8; TCP_START];
    load(skb, ip_length, &mut tcp)?;
    described(&tcp, ip_length, total)
}

#[inline(always)]
fn described(tcp: &[u8; TCP_START], ip_length: u32, total: u32) -> Option<Packet> {
    let payload_at = ip_length + u32::from(tcp[12] >> 4) * 4;
    if payload_at > total {
        return None;
    }
    Some(Packet {
        payload_at,
        length: total - payload_at,
        sequence: u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]),
        flags: u32::from(tcp[13]),
        options: (payload_at - ip_length).saturating_sub(TCP_HEADER),
    })
}

/// How long the IPv6 header is, with what lies between it and TCP. A GSO packet of more than 65,535 bytes tells
/// its length in a hop-by-hop option; other extension headers are next to unknown inside clusters.
#[inline(always)]
fn ipv6_length(skb: *mut __sk_buff) -> Option<u32> {
    let mut ip = [0u8; 8];
    load(skb, 0, &mut ip)?;
    if ip[6] == IPPROTO_TCP {
        return Some(IPV6_HEADER);
    }
    if ip[6] != IPPROTO_HOPOPTS {
        return None;
    }
    let mut options = [0u8; 2];
    load(skb, IPV6_HEADER, &mut options)?;
    (options[0] == IPPROTO_TCP).then_some(IPV6_HEADER + (u32::from(options[1]) + 1) * 8)
}

#[inline(always)]
fn load<const N: usize>(skb: *mut __sk_buff, at: u32, to: &mut [u8; N]) -> Option<()> {
    // SAFETY: `to` is as long as we say; the helper checks the packet's bounds.
    let failed = unsafe { bpf_skb_load_bytes(skb.cast(), at, to.as_mut_ptr().cast(), N as u32) };
    (failed == 0).then_some(())
}
