//! Every map, each with its bound and the reason for it.

use crate::state::{Connection, Message, MessageKey, Scratch};
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::{LruHashMap, PerCpuArray, RingBuf};
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
