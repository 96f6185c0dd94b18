//! Faultline's kernel programs: packets and socket state changes flow in, records flow out through a ring.
//!
//! Three programs sit at the cgroup v2 root: one per packet direction and one for what happens to sockets.
//! They use only what the kernel's user API promises, always let the packet pass, and write to nothing but
//! their own maps. The stream of each HTTP/2 connection is filtered, not understood: the agent parses it
//! again. Modules in the order in which a packet meets them: [`packet`] → [`observe`] → [`classify`],
//! then [`body`] and [`whole`] for what is usual, [`follow`] → [`walk`] for all else (with [`frame`]). [`ahead`] keeps
//! what comes before its turn, [`early`] what comes before its socket, [`upgrade`] knows HTTP/1 that becomes HTTP/2. [`sample`] and [`socket`] tell of
//! connections; [`state`], [`maps`] and [`lock`] hold what is remembered.
#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(asm_experimental_arch))]
#![cfg_attr(not(target_arch = "bpf"), allow(dead_code, unused_imports, reason = "only for the kernel"))]
#![allow(
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "indices are constants or masked, the verifier checks each; a program has no other crate to hide from"
)]

#[cfg(target_arch = "bpf")]
mod ahead;
#[cfg(target_arch = "bpf")]
mod body;
#[cfg(target_arch = "bpf")]
mod classify;
#[cfg(target_arch = "bpf")]
mod early;
#[cfg(target_arch = "bpf")]
mod follow;
#[cfg(target_arch = "bpf")]
mod frame;
#[cfg(target_arch = "bpf")]
mod lock;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod multipath;
#[cfg(target_arch = "bpf")]
mod observe;
#[cfg(target_arch = "bpf")]
mod packet;
#[cfg(target_arch = "bpf")]
mod sample;
#[cfg(target_arch = "bpf")]
mod socket;
#[cfg(target_arch = "bpf")]
mod state;
#[cfg(target_arch = "bpf")]
mod tls;
#[cfg(target_arch = "bpf")]
mod upgrade;
#[cfg(target_arch = "bpf")]
mod walk;
#[cfg(target_arch = "bpf")]
mod whole;

#[cfg(target_arch = "bpf")]
mod programs {
    use crate::{observe, socket, tls};
    use aya_ebpf::macros::{cgroup_skb, sock_ops, uprobe, uretprobe};
    use aya_ebpf::programs::{ProbeContext, RetProbeContext, SkBuffContext, SockOpsContext};
    use faultline_abi::direction;

    /// The verdict that lets a packet pass; no program knows another.
    const PASS: i32 = 1;

    #[cgroup_skb(ingress)]
    pub fn faultline_ingress(ctx: SkBuffContext) -> i32 {
        observe::packet(&ctx, direction::RECEIVED);
        PASS
    }

    #[cgroup_skb(egress)]
    pub fn faultline_egress(ctx: SkBuffContext) -> i32 {
        observe::packet(&ctx, direction::SENT);
        PASS
    }

    #[sock_ops]
    pub fn faultline_socket(ctx: SockOpsContext) -> u32 {
        socket::changed(&ctx);
        PASS as u32
    }

    #[uprobe]
    pub fn faultline_tls_enter(ctx: ProbeContext) -> u32 {
        tls::enter(&ctx);
        0
    }

    #[uretprobe]
    pub fn faultline_tls_leave(ctx: RetProbeContext) -> u32 {
        tls::leave(&ctx);
        0
    }

    #[uprobe]
    pub fn faultline_tls_record(ctx: ProbeContext) -> u32 {
        tls::record(&ctx);
        0
    }

    #[panic_handler]
    fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
        loop {}
    }

    #[unsafe(link_section = "license")]
    #[unsafe(no_mangle)]
    static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
}

/// Nothing runs outside the kernel.
#[cfg(not(target_arch = "bpf"))]
fn main() {}
