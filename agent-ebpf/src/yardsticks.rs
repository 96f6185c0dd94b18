//! Programs to measure the probes by, on the same packets: one that does nothing, and one that copies every
//! byte. `cargo xtask bench` builds and attaches them; the agent does not know them.
#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(asm_experimental_arch))]
#![allow(unreachable_pub, reason = "the kernel reaches it")]

#[cfg(target_arch = "bpf")]
mod programs {
    use aya_ebpf::bindings::{__sk_buff, BPF_RB_NO_WAKEUP};
    use aya_ebpf::helpers::generated::{bpf_loop, bpf_skb_load_bytes};
    use aya_ebpf::macros::{cgroup_skb, map};
    use aya_ebpf::maps::RingBuf;
    use aya_ebpf::programs::SkBuffContext;

    /// Bytes that are copied at once.
    const CHUNK: u32 = 4_096;
    /// Chunks of the longest packet (131,018 bytes).
    const CHUNKS: u32 = 32;

    /// The copies. Large enough that it does not fill between two looks.
    #[map]
    static COPIES: RingBuf = RingBuf::with_byte_size(16 << 20, 0);

    #[cgroup_skb(ingress)]
    pub fn empty_ingress(_: SkBuffContext) -> i32 {
        1
    }

    #[cgroup_skb(egress)]
    pub fn empty_egress(_: SkBuffContext) -> i32 {
        1
    }

    #[cgroup_skb(ingress)]
    pub fn copy_ingress(ctx: SkBuffContext) -> i32 {
        copy(&ctx);
        1
    }

    #[cgroup_skb(egress)]
    pub fn copy_egress(ctx: SkBuffContext) -> i32 {
        copy(&ctx);
        1
    }

    struct Place {
        skb: *mut __sk_buff,
        at: u32,
        length: u32,
    }

    #[inline(always)]
    fn copy(ctx: &SkBuffContext) {
        let skb = ctx.skb.skb;
        // SAFETY: the context is valid; `chunk` has the signature that bpf_loop calls.
        unsafe {
            let mut place = Place { skb, at: 0, length: (*skb).len };
            bpf_loop(CHUNKS, chunk as *mut core::ffi::c_void, (&raw mut place).cast(), 0);
        }
    }

    /// Copies the next chunk; 1 ends the loop.
    unsafe extern "C" fn chunk(_: u32, place: *mut Place) -> i64 {
        // SAFETY: the loop hands over what `copy` gave it.
        let place = unsafe { &mut *place };
        if place.at >= place.length {
            return 1;
        }
        let Some(mut entry) = COPIES.reserve::<[u8; CHUNK as usize]>(0) else { return 1 };
        let wish = (place.length - place.at).min(CHUNK);
        // SAFETY: the mask keeps the length inside the entry; what is not written is not read by anyone.
        unsafe {
            let length = (opaque(wish.wrapping_sub(1)) & (CHUNK - 1)) + 1;
            bpf_skb_load_bytes(place.skb.cast(), place.at, entry.as_mut_ptr().cast(), length);
        }
        entry.submit(u64::from(BPF_RB_NO_WAKEUP));
        place.at += wish;
        0
    }

    /// Hides where a number comes from, so that the mask behind it stays in the program.
    #[inline(always)]
    fn opaque(mut number: u32) -> u32 {
        // SAFETY: moves a register onto itself.
        unsafe {
            core::arch::asm!("{0} = {0}", inout(reg) number, options(pure, nomem, nostack));
        }
        number
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
