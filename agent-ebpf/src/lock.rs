//! A lock that is only ever tried: a program must not wait.

/// Taken by an atomic exchange. Lives in map memory, which starts as zeros: free.
#[repr(transparent)]
pub struct Lock(u64);

impl Lock {
    /// Whether it was free; it is ours then.
    ///
    /// # Safety
    /// `lock` must point into a map value.
    #[inline(always)]
    pub unsafe fn try_take(lock: *mut Self) -> bool {
        // SAFETY: the caller vouches for the pointer.
        unsafe { exchange(lock.cast(), 1) == 0 }
    }

    /// Gives it back. An exchange too, because it orders the writes before it on every machine.
    ///
    /// # Safety
    /// `lock` must point into a map value, and be ours.
    #[inline(always)]
    pub unsafe fn give_back(lock: *mut Self) {
        // SAFETY: the caller vouches for the pointer.
        unsafe { exchange(lock.cast(), 0) };
    }
}

/// The target's atomic types offer no exchange in `core`, the instruction set does.
#[inline(always)]
unsafe fn exchange(place: *mut u64, mut value: u64) -> u64 {
    // SAFETY: the caller vouches for the pointer; it is aligned.
    unsafe {
        core::arch::asm!("{value} = xchg_64({place} + 0, {value})", place = in(reg) place, value = inout(reg) value);
    }
    value
}
