//! Finds the TCP payload of a packet. Packets come in from the cgroup programs, [`Packet`]s go out.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::bpf_skb_load_bytes;

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
/// Bytes of the TCP header up to its flags.
const TCP_START: usize = 14;

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
}

impl Packet {
    /// Whether one of these flags is set.
    #[inline(always)]
    pub fn has(&self, flags: u8) -> bool {
        self.flags & u32::from(flags) != 0
    }
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
    behind_ip(skb, ipv6_length(skb)?, total)
}

#[inline(always)]
fn read_ip4(skb: *mut __sk_buff, total: u32) -> Option<Packet> {
    // SAFETY: the context is valid; what is read lies before the packet's end, which is checked first.
    unsafe {
        let (start, end) = ((*skb).data as usize, (*skb).data_end as usize);
        // Headers lie in the packet's linear part, where they can be read without a call.
        if start + IPV4_HEADER as usize + TCP_START <= end {
            let ip = start as *const u8;
            if ip.read_volatile() == IPV4_PLAIN {
                let fragment = (ip.add(6).read_volatile() & 0x1f) | ip.add(7).read_volatile();
                if ip.add(9).read_volatile() != IPPROTO_TCP || fragment != 0 {
                    return None;
                }
                let mut tcp = [0u8; TCP_START];
                for (place, byte) in tcp.iter_mut().enumerate() {
                    *byte = *ip.add(IPV4_HEADER as usize + place);
                }
                return described(&tcp, IPV4_HEADER, total);
            }
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
    let sequence = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
    Some(Packet { payload_at, length: total - payload_at, sequence, flags: u32::from(tcp[13]) })
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
