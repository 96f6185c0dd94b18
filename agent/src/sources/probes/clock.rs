//! The kernel's monotonic clock, by which records and events are dated.

use faultline_core::units::Timestamp;
use std::time::{SystemTime, UNIX_EPOCH};

/// Nanoseconds since boot, as `bpf_ktime_get_ns` counts them.
#[must_use]
pub fn now() -> Timestamp {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is valid for the call, and this clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Timestamp(seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0))
}

/// Wall-clock time of the monotonic clock's zero, in nanoseconds since the Unix epoch.
#[must_use]
pub fn unix_zero() -> u64 {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(unix.as_nanos()).unwrap_or(u64::MAX).saturating_sub(now().0)
}
