//! What a call costs and how a service misbehaves: processor time, memory, a growing leak.

use std::hint::black_box;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crate::brief::Behaviour;

/// A leak grows in pieces of this interval.
const GROW_EVERY: Duration = Duration::from_millis(100);
/// One byte of each page is read in a walk.
const PAGE: usize = 4_096;

/// Walks take at most this share of the time, as a collector paces itself: the service gets slow, but does
/// not collapse.
const WALK_SHARE: f64 = 0.5;

/// How the service misbehaves now, and what it has leaked.
#[derive(Default)]
pub(super) struct Misbehaviour {
    behaviour: RwLock<Behaviour>,
    leaked: Mutex<Vec<Arc<Vec<u8>>>>,
    rest_until: Mutex<Option<Instant>>,
}

impl Misbehaviour {
    pub(super) fn now(&self) -> Behaviour {
        self.behaviour.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A behaviour without a leak frees what leaked.
    pub(super) fn become_like(&self, behaviour: Behaviour) {
        if behaviour.leak_bytes_per_second == 0 {
            self.leaked.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
        *self.behaviour.write().unwrap_or_else(PoisonError::into_inner) = behaviour;
    }

    /// Reads all leaked memory, as a collector or a search through an ever-growing cache does.
    pub(super) fn walk(&self, times: u32) {
        // Whoever finds the lock held has another call that walks.
        let Ok(mut rest_until) = self.rest_until.try_lock() else { return };
        let started = Instant::now();
        if times == 0 || rest_until.is_some_and(|until| started < until) {
            return;
        }
        let leaked = self.leaked.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for _ in 0..times {
            for piece in &leaked {
                let sum: u64 = piece.iter().step_by(PAGE).map(|&byte| u64::from(byte)).sum();
                black_box(sum);
            }
        }
        *rest_until = Some(Instant::now() + started.elapsed().mul_f64(1.0 / WALK_SHARE - 1.0));
    }

    fn leak(&self, bytes: usize, limit: usize) {
        let mut leaked = self.leaked.lock().unwrap_or_else(PoisonError::into_inner);
        let held: usize = leaked.iter().map(|piece| piece.len()).sum();
        if held + bytes <= limit {
            // A nonzero fill touches every page, so that the memory is really used.
            leaked.push(Arc::new(vec![1; bytes]));
        }
    }
}

/// Leaks for as long as the behaviour says so.
pub(super) async fn grow(misbehaviour: Arc<Misbehaviour>) {
    loop {
        tokio::time::sleep(GROW_EVERY).await;
        let behaviour = misbehaviour.now();
        let piece = behaviour.leak_bytes_per_second / 10;
        if piece > 0 {
            let limit = usize::try_from(behaviour.leak_limit_bytes).unwrap_or(usize::MAX);
            misbehaviour.leak(usize::try_from(piece).unwrap_or(0), limit);
        }
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leak_stops_at_its_limit_and_is_freed_by_health() {
        let misbehaviour = Misbehaviour::default();
        for _ in 0..5 {
            misbehaviour.leak(1_000, 3_000);
        }
        let held = |misbehaviour: &Misbehaviour| misbehaviour.leaked.lock().map_or(0, |leaked| leaked.len());
        assert_eq!(held(&misbehaviour), 3);
        misbehaviour.walk(2);
        misbehaviour.become_like(Behaviour::default());
        assert_eq!(held(&misbehaviour), 0);
    }
}
