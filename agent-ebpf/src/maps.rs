//! Every map, each with its bound and the reason for it.

use crate::state::{Connection, Message, MessageKey, Scratch};
use aya_ebpf::bindings::{BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP};
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::{Array, LruHashMap, PerCpuArray, RingBuf};
use faultline_abi::loss;

/// Scratch slots per CPU: a process can be interrupted by a softirq, that by a hard interrupt's softirq
/// tail; a fourth never showed up.
pub const SLOTS: u32 = 4;

/// gRPC messages that ended a DATA frame unfinished while another stream's frame came next. 16 thousand
/// streams interleaving at one moment is far beyond what a node carries; the oldest one leaves.
const UNFINISHED_MESSAGES: u32 = 16_384;

/// The way to the agent. 8 MiB hold about a second of 100 thousand small segments; the agent may load it
/// with another size.
#[map]
pub static RECORDS: RingBuf = RingBuf::with_byte_size(8 << 20, 0);

/// State of each socket, bounded by the sockets themselves: it dies with them.
#[btf_map]
pub static CONNECTIONS: SkStorage<Connection> = SkStorage::new();

/// Room to put records together.
#[map]
pub static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(SLOTS, 0);

/// Where interleaved messages stopped.
#[map]
pub static MESSAGES: LruHashMap<MessageKey, Message> = LruHashMap::with_max_entries(UNFINISHED_MESSAGES, 0);

/// When the agent was last woken.
#[map]
static WOKEN: Array<u64> = Array::with_max_entries(1, 0);

/// What was not seen, by [`loss`].
#[map]
pub static LOSSES: PerCpuArray<u64> = PerCpuArray::with_max_entries(loss::PLACES, 0);

/// Counts one thing that was not seen.
#[inline(always)]
pub fn count_loss(place: u32) {
    if let Some(counter) = LOSSES.get_ptr_mut(place) {
        // SAFETY: the pointer is this CPU's own counter; a softirq that interrupts may lose one increment.
        unsafe { *counter += 1 };
    }
}

/// The flag to send a record with. To wake the agent costs more than to write a record, so it is woken once
/// in a while; it then looks by itself for longer than that (`REST` and `ROUNDS` in its drain).
#[inline(always)]
pub fn wakeup(now: u64) -> u64 {
    let Some(woken) = WOKEN.get_ptr_mut(0) else { return u64::from(BPF_RB_FORCE_WAKEUP) };
    // SAFETY: a map value. Two CPUs may both wake, which does no harm; what one of them dates may be a little older
    // than what another one has woken for.
    unsafe {
        let since = now.wrapping_sub(woken.read_volatile()).cast_signed();
        if since < faultline_abi::WAKE_EVERY_NANOS.cast_signed() {
            return u64::from(BPF_RB_NO_WAKEUP);
        }
        woken.write_volatile(now);
    }
    u64::from(BPF_RB_FORCE_WAKEUP)
}
