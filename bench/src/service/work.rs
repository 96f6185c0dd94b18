//! What a call costs: processor time, counted in rounds of a loop, and memory.

use std::hint::black_box;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Rounds of the busy loop in a microsecond of this processor.
static ROUNDS_PER_US: OnceLock<f64> = OnceLock::new();

fn rounds(count: u64) -> u64 {
    let mut mixed = count;
    for _ in 0..count {
        mixed = black_box(mixed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (mixed >> 29));
    }
    mixed
}

/// Measures the busy loop. Work is counted in rounds, not in wall time: a throttled service then takes
/// longer for the same work, as real code does. The best of several short runs is the undisturbed one.
pub(super) fn calibrate() {
    const ROUNDS: u64 = 100_000;
    let best = (0..9).map(|_| {
        let started = Instant::now();
        black_box(rounds(ROUNDS));
        started.elapsed()
    });
    let best = best.min().unwrap_or(Duration::from_micros(300)).as_secs_f64() * 1e6;
    #[expect(clippy::cast_precision_loss, reason = "a small constant")]
    let per_us = ROUNDS as f64 / best.max(1.0);
    let _again = ROUNDS_PER_US.set(per_us);
}

/// Uses so much processor time, microseconds.
pub(super) fn burn(cpu_us: u32) {
    let wanted = f64::from(cpu_us) * ROUNDS_PER_US.get().copied().unwrap_or(300.0);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "positive and far below 2^63"
    )]
    black_box(rounds(wanted as u64));
}

/// Allocates, touches and frees.
pub(super) fn allocate(bytes: u32) {
    if bytes > 0 {
        black_box(vec![1_u8; bytes as usize]);
    }
}
