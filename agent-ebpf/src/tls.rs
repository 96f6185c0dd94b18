//! TLS that a program does with OpenSSL's libssl, opt-in: calls of the library come in from uprobes, the
//! plaintext of HTTP/2 leaves as segments of the socket that carries its ciphertext.
//!
//! The library does not know its socket: gRPC and Python hand it memory and do the sending themselves, on
//! whatever thread. What ties the two together is the ciphertext. The library writes each TLS record with
//! BIO_write, whatever lies behind it, and the socket sends the same bytes a moment later: a run of them that
//! cannot occur twice (a hello's random number, or what is encrypted) is remembered by [`record`] and found
//! again by [`socket::meet`]. From then on reads and writes of that session are those of that socket.
//!
//! [`enter`] and [`leave`] enclose each call, [`plain`] walks what it read or wrote, [`socket`] is the part
//! that runs on packets.

pub mod plain;
pub mod socket;

use crate::maps::count_loss;
use aya_ebpf::bindings::pt_regs;
use aya_ebpf::helpers::generated::{
    bpf_get_attach_cookie, bpf_get_current_pid_tgid, bpf_ktime_get_ns, bpf_probe_read_user,
};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{LruHashMap, PerCpuArray};
use aya_ebpf::{EbpfContext, Global};
use core::ffi::c_void;
use faultline_abi::{direction, loss, tls};

/// Whether the agent watches TLS. It is set before the programs are loaded, so that without it the verifier
/// throws all of this away.
#[unsafe(no_mangle)]
pub static TLS_WATCHED: Global<u8> = Global::new(0);
/// Which processor's registers the programs find; one of `faultline_abi::tls`.
#[unsafe(no_mangle)]
pub static TLS_MACHINE: Global<u8> = Global::new(tls::X86_64);

/// Threads inside a call of the library at one time; a blocking read holds its place for long.
const CALLS_MAX: u32 = 16_384;
/// Records that were written and not yet sent; each waits for less than a millisecond.
const RECORDS_MAX: u32 = 4_096;
/// Sessions that are known to have a socket; the least recently used leaves. More connections than the agent
/// itself keeps apart would help nobody.
const SESSIONS_MAX: u32 = 16_384;

/// A session of the library, as its process knows it.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Session {
    /// The process.
    process: u64,
    /// Where its `SSL` lies. The address is used again, but each connection begins with a hello.
    ssl: u64,
}

/// A call that a thread is in.
#[derive(Clone, Copy)]
#[repr(C)]
struct Call {
    ssl: u64,
    /// Where the plaintext is or will be.
    buffer: u64,
    /// Where the functions whose names end in `_ex` put the number of bytes.
    count: u64,
    /// When it began.
    at: u64,
}

/// What a session is bound to.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Bound {
    /// The socket.
    cookie: u64,
    /// The run of bytes that told.
    by: Mark,
    /// They were a hello: nothing was read or written before.
    fresh: u64,
}

/// Bytes of a TLS record that occur once.
pub type Mark = [u64; 3];

#[map]
static TLS_CALLS: LruHashMap<u64, Call> = LruHashMap::with_max_entries(CALLS_MAX, 0);
#[map]
pub static TLS_MARKS: LruHashMap<Mark, Session> = LruHashMap::with_max_entries(RECORDS_MAX, 0);
#[map]
pub static TLS_SESSIONS: LruHashMap<Session, Bound> = LruHashMap::with_max_entries(SESSIONS_MAX, 0);
/// How often a probe ran and how often it passed plaintext on, by the places in `faultline_abi::tls`.
#[map]
static TLS_RUNS: PerCpuArray<u64> = PerCpuArray::with_max_entries(tls::PLACES, 0);

/// Bytes that must be there to tell one record from all others.
pub const TOLD_BY: u32 = 40;
const HANDSHAKE: u8 = 0x16;
const APPLICATION: u8 = 0x17;
const FIRST_KIND: u8 = 0x14;
const MAJOR: u8 = 3;
const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;
/// How the random number of a HelloRetryRequest begins; it is the same everywhere (RFC 8446 section 4.1.3).
const RETRY: u64 = u64::from_be_bytes([0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11]);

/// Whether the agent watches TLS.
#[inline(always)]
pub fn watched() -> bool {
    TLS_WATCHED.load() != 0
}

/// The first arguments of a function.
struct Arguments([u64; 4]);

impl Arguments {
    #[inline(always)]
    fn of(registers: *const u8) -> Self {
        // Two ways and not one with a variable offset: the verifier wants to see constants.
        if TLS_MACHINE.load() == tls::AARCH64 {
            Self([word::<0>(registers), word::<8>(registers), word::<16>(registers), word::<24>(registers)])
        } else {
            Self([
                word::<112>(registers),
                word::<104>(registers),
                word::<96>(registers),
                word::<88>(registers),
            ])
        }
    }
}

/// What a function returned.
#[inline(always)]
fn returned(registers: *const u8) -> u64 {
    if TLS_MACHINE.load() == tls::AARCH64 { word::<0>(registers) } else { word::<80>(registers) }
}

/// One register. The verifier takes only places that the instruction itself names, and the compiler would
/// compute them.
#[inline(always)]
fn word<const AT: u32>(registers: *const u8) -> u64 {
    let mut value: u64;
    // SAFETY: all places are inside the registers of either machine, which the context is.
    unsafe {
        core::arch::asm!(
            "{value} = *(u64 *)({registers} + {at})",
            value = out(reg) value,
            registers = in(reg) registers,
            at = const AT,
            options(readonly, nostack),
        );
    }
    value
}

#[inline(always)]
fn registers(ctx: &impl EbpfContext) -> *const u8 {
    ctx.as_ptr().cast::<pt_regs>().cast()
}

#[inline(always)]
fn count_run(place: u32) {
    if let Some(counter) = TLS_RUNS.get_ptr_mut(place) {
        // SAFETY: this CPU's own counter; who interrupts may cost one increment.
        unsafe { *counter += 1 };
    }
}

/// A thread calls the library.
#[inline(always)]
pub fn enter(ctx: &impl EbpfContext) {
    count_run(tls::RUNS);
    let Arguments([ssl, buffer, _, count]) = Arguments::of(registers(ctx));
    // SAFETY: no arguments.
    let (thread, at) = unsafe { (bpf_get_current_pid_tgid(), bpf_ktime_get_ns()) };
    if TLS_CALLS.insert(thread, Call { ssl, buffer, count, at }, 0).is_err() {
        count_loss(loss::SEGMENT);
    }
}

/// The call returns.
#[inline(always)]
pub fn leave(ctx: &impl EbpfContext) {
    count_run(tls::RUNS);
    // SAFETY: no arguments; the context is valid.
    let (thread, what) = unsafe { (bpf_get_current_pid_tgid(), bpf_get_attach_cookie(ctx.as_ptr())) };
    // SAFETY: the entry is this thread's own, and copied at once.
    let Some(call) = (unsafe { TLS_CALLS.get(thread) }).copied() else { return };
    TLS_CALLS.remove(thread).ok();
    if what & tls::CARRIES == 0 {
        return;
    }
    let session = Session { process: thread >> 32, ssl: call.ssl };
    // SAFETY: copied at once; an entry that is replaced meanwhile is the same session's.
    let Some(bound) = (unsafe { TLS_SESSIONS.get(session) }).copied() else { return };
    let length = carried(returned(registers(ctx)), what, &call);
    if length == 0 {
        return;
    }
    let (way, at) = if what & tls::WRITES == 0 {
        // SAFETY: no arguments.
        (direction::RECEIVED, unsafe { bpf_ktime_get_ns() })
    } else {
        (direction::SENT, call.at)
    };
    count_run(tls::PASSED);
    let fresh = bound.fresh as u32;
    plain::pass(&plain::Run { cookie: bound.cookie, from: call.buffer, length, way, fresh, at });
}

/// How many bytes a call read or wrote.
#[inline(always)]
fn carried(answer: u64, what: u64, call: &Call) -> u64 {
    let answer = answer as i32;
    if what & tls::COUNTS == 0 {
        return if answer > 0 { answer as u64 } else { 0 };
    }
    let mut count = 0u64;
    if answer == 1 {
        // SAFETY: eight bytes of ours; the helper checks the other side.
        unsafe { bpf_probe_read_user((&raw mut count).cast(), 8, call.count as *const c_void) };
    }
    count
}

/// The library writes a record, or several.
#[inline(always)]
pub fn record(ctx: &impl EbpfContext) {
    count_run(tls::RUNS);
    // SAFETY: no arguments.
    let thread = unsafe { bpf_get_current_pid_tgid() };
    // SAFETY: the entry is this thread's own, and copied at once. Without one the write is not the library's.
    let Some(call) = (unsafe { TLS_CALLS.get(thread) }).copied() else { return };
    let Arguments([_, bytes, length, _]) = Arguments::of(registers(ctx));
    if (length as i32) < TOLD_BY as i32 {
        return;
    }
    let mut start = [0u8; TOLD_BY as usize];
    // SAFETY: the array is as long as we say; the helper checks the other side.
    let failed = unsafe { bpf_probe_read_user(start.as_mut_ptr().cast(), TOLD_BY, bytes as *const c_void) };
    let mut by = [0; 3];
    let what = mark(&start, &mut by);
    if failed != 0 || what == UNTOLD {
        return;
    }
    let session = Session { process: thread >> 32, ssl: call.ssl };
    // SAFETY: read at once.
    if let Some(bound) = unsafe { TLS_SESSIONS.get(session) } {
        // A client repeats its hello when it is told to, with the same random number.
        if what != HELLO || bound.by == by {
            return;
        }
        // Another connection: the memory of the last one is used again.
        TLS_SESSIONS.remove(session).ok();
    }
    TLS_MARKS.insert(by, session, 0).ok();
}

/// What [`mark`] says: the record may occur twice.
pub const UNTOLD: u32 = 0;
/// It is told from all others.
const TOLD: u32 = 1;
/// It is, and it is a hello.
pub const HELLO: u32 = 2;

/// Finds what tells a record from all others.
#[inline(always)]
pub fn mark(start: &[u8; TOLD_BY as usize], by: &mut Mark) -> u32 {
    if start[0] < FIRST_KIND || start[0] > APPLICATION || start[1] != MAJOR {
        return UNTOLD;
    }
    let hello = start[0] == HANDSHAKE && (start[5] == CLIENT_HELLO || start[5] == SERVER_HELLO);
    // A hello's random number lies behind the record's head (5), its own (4) and a version (2).
    if hello {
        *by = [word_at::<11>(start), word_at::<19>(start), word_at::<27>(start)];
    } else {
        *by = [word_at::<16>(start), word_at::<24>(start), word_at::<32>(start)];
    }
    if by[0] == RETRY {
        return UNTOLD;
    }
    if hello { HELLO } else { TOLD }
}

#[inline(always)]
fn word_at<const AT: usize>(start: &[u8; TOLD_BY as usize]) -> u64 {
    let mut word = 0;
    for place in 0..8 {
        word = word << 8 | u64::from(start[AT + place]);
    }
    word
}
