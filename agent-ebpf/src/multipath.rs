//! Whether a segment belongs to MPTCP: a stream of bytes that several TCP connections may carry between them, so that
//! one of them alone is not to be read. TCP's options say so in each segment with payload (RFC 8684); a connection
//! whose remote does not know MPTCP is plain TCP again, and has no such option.

use crate::packet::Packet;
use crate::walk::opaque;
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::{bpf_loop, bpf_skb_load_bytes};

/// The most bytes of options that a TCP header has.
const MOST: u32 = 40;
/// Room for them: a mask away from any place the verifier can imagine.
const ROOM: u32 = 64;
/// Options: the list ends; one byte that means nothing; MPTCP.
const END: u8 = 0;
const NOTHING: u8 = 1;
const MPTCP: u8 = 30;

/// Whether it does: 1. A global function: the verifier proves it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn is_multipath(skb: *mut __sk_buff, packet: *const Packet) -> i32 {
    if packet.is_null() {
        return 0;
    }
    // SAFETY: the caller's.
    let packet = unsafe { &*packet };
    if packet.options == 0 || packet.options > MOST {
        return 0;
    }
    let mut walk = Walk { options: [END; ROOM as usize], at: 0, found: 0 };
    let length = (opaque(packet.options - 1) & (ROOM - 1)) + 1;
    let from = packet.payload_at.wrapping_sub(packet.options);
    // SAFETY: the mask keeps the length in the array; the helper checks the packet's bounds. `next` has the signature
    // that bpf_loop calls, and `walk` outlives the call.
    unsafe {
        if bpf_skb_load_bytes(skb.cast(), from, walk.options.as_mut_ptr().cast(), length) != 0 {
            return 0;
        }
        bpf_loop(MOST, next as *mut core::ffi::c_void, (&raw mut walk).cast(), 0);
    }
    walk.found
}

/// Where the walk through the options is. Behind the last one there are zeros, which end the list.
#[repr(C)]
struct Walk {
    options: [u8; ROOM as usize],
    at: u32,
    found: i32,
}

/// Goes on by an option. Returns 1 to end the walk.
unsafe extern "C" fn next(_: u32, walk: *mut Walk) -> i64 {
    // SAFETY: the loop hands over what `is_multipath` gave it.
    let walk = unsafe { &mut *walk };
    let at = opaque(walk.at);
    // SAFETY: the mask keeps the place in the array.
    let byte =
        |place: u32| unsafe { walk.options.as_ptr().add((place & (ROOM - 1)) as usize).read_volatile() };
    let step = match byte(at) {
        END => return 1,
        MPTCP => {
            walk.found = 1;
            return 1;
        }
        NOTHING => 1,
        _ => u32::from(byte(at + 1)),
    };
    // Masked, so that the verifier soon has seen every place.
    walk.at = opaque(at + step) & (ROOM - 1);
    // An option that stands still or leads beyond the header is none.
    i64::from(step == 0 || step > MOST)
}
