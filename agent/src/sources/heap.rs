//! Keeps the C library's heap as small as what is in it: the agent is a guest on the node. Batches of records come
//! and go by the quarter of a megabyte, on whichever thread; left to itself glibc keeps a heap for each thread and
//! never gives back what a burst took.

/// Heaps of all threads together: two threads allocate at once, and rarely for long.
#[cfg(target_env = "gnu")]
const ARENAS: libc::c_int = 2;

/// From this many bytes on an allocation is the kernel's, and given back when it is freed: below the batches of the
/// probes, above nearly everything else. Fixed, or glibc raises it with the first batch that is freed.
#[cfg(target_env = "gnu")]
const OWN_MAPPING: libc::c_int = 128 << 10;

/// Call it first, before any other thread runs.
pub fn limit() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes two numbers and refuses what it does not know; no other thread runs yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, ARENAS);
        libc::mallopt(libc::M_MMAP_THRESHOLD, OWN_MAPPING);
        libc::mallopt(libc::M_TRIM_THRESHOLD, OWN_MAPPING);
    }
}

/// Gives whole free pages back; takes about a millisecond for each ten megabytes.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim may be called at any time by any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
