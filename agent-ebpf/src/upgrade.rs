//! HTTP/1 that goes on in HTTP/2 (RFC 7540 section 3.2): a request that may ask for it, an answer of 101, and both
//! directions begin anew behind these. Nothing of HTTP/1 itself is kept. Segments come from [`crate::observe`] while
//! it is open what the connection speaks.

use crate::lock::Lock;
use crate::observe::{begins, slot};
use crate::packet::Packet;
use crate::state::{Connection, Direction, Scratch, WINDOW};
use crate::walk::opaque;
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::{bpf_loop, bpf_skb_load_bytes};
use faultline_abi::direction;

/// The answer to an upgrade.
const SWITCHING: [u8; 12] = *b"HTTP/1.1 101";
/// An answer's head that is longer is not looked through: it says hardly more than that it switches.
const HEAD: u32 = 512;

/// What a segment means to a connection that began with a request of HTTP/1.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// More of the request.
    Request,
    /// An answer as any other.
    Answer,
    /// From the packet's new beginning on the connection speaks something else.
    Switched,
}

/// A segment of a connection whose first one was a request.
#[inline(always)]
pub fn meaning(skb: *mut __sk_buff, packet: &mut Packet, c: &mut Connection, way: u32) -> Meaning {
    let asked = c.http1 - 1;
    let (question, answer) = if asked == direction::SENT {
        (&mut c.sent, &mut c.received)
    } else {
        (&mut c.received, &mut c.sent)
    };
    if way == asked {
        more(question, packet);
        return Meaning::Request;
    }
    let head = if packet.sequence == answer.first { end_of_head(skb, packet) as u32 } else { 0 };
    if head == 0 {
        return Meaning::Answer;
    }
    // The sums of TCP begin anew as well, or the bytes of HTTP/1 were said to be missing.
    let request = question.expected.wrapping_sub(question.first);
    let (sent, received) = if asked == direction::SENT { (request, head) } else { (head, request) };
    c.base_acked += u64::from(sent);
    c.base_received += u64::from(received);
    begins(question, question.expected);
    begins(answer, packet.sequence.wrapping_add(head));
    c.http1 = 0;
    c.tries = 0;
    packet.payload_at += head;
    packet.length -= head;
    packet.sequence = packet.sequence.wrapping_add(head);
    Meaning::Switched
}

/// More of a request: where it ends is where HTTP/2 would begin.
#[inline(always)]
pub fn more(question: &mut Direction, packet: &Packet) {
    let end = packet.sequence.wrapping_add(packet.length);
    if end.wrapping_sub(question.expected).cast_signed() > 0 {
        question.expected = end;
    }
}

/// Bytes of an answer's head that switches protocols; 0: it does not, or does not end here. A global function: the
/// verifier proves it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn end_of_head(skb: *mut __sk_buff, packet: *const Packet) -> i32 {
    if packet.is_null() {
        return 0;
    }
    let Some((scratch, lock)) = slot() else { return 0 };
    // SAFETY: the packet is the caller's; the slot is ours until the lock is given back; the mask keeps the length in
    // its bytes.
    unsafe {
        let s = &mut *scratch;
        let length = (opaque((*packet).length.min(HEAD).wrapping_sub(1)) & (HEAD - 1)) + 1;
        s.at = 0;
        s.length = length;
        s.failed = 1;
        let to = s.bytes.as_mut_ptr().cast();
        if bpf_skb_load_bytes(skb.cast(), (*packet).payload_at, to, length) == 0 && switches(s) {
            let mut look = Look { scratch: s };
            bpf_loop(HEAD, next_byte as *mut core::ffi::c_void, (&raw mut look).cast(), 0);
        }
        let s = &mut *scratch;
        let end = if s.failed == 0 { s.at as i32 } else { 0 };
        Lock::give_back(lock);
        end
    }
}

#[inline(always)]
fn switches(s: &Scratch) -> bool {
    s.length > SWITCHING.len() as u32 && SWITCHING.iter().zip(&s.bytes).all(|(right, byte)| right == byte)
}

/// A look at one byte after the other.
#[repr(C)]
struct Look {
    scratch: *mut Scratch,
}

/// Goes on by a byte; 1 ends the look, which found the end if nothing failed.
unsafe extern "C" fn next_byte(_: u32, look: *mut Look) -> i64 {
    // SAFETY: the loop hands over what `end_of_head` gave it; the mask keeps the place inside the bytes, of which
    // enough lie behind that four can be read.
    let (s, at) = unsafe {
        let s = &mut *(*look).scratch;
        let place = opaque(s.at) & (WINDOW - 1);
        (s, (*(*look).scratch).bytes.as_ptr().add(place as usize))
    };
    if s.at + 4 > s.length {
        return 1;
    }
    // SAFETY: see above.
    let byte = |place: usize| unsafe { at.add(place).read_volatile() };
    if byte(0) == b'\r' && byte(1) == b'\n' && byte(2) == b'\r' && byte(3) == b'\n' {
        s.at += 4;
        s.failed = 0;
        return 1;
    }
    s.at += 1;
    0
}
