//! How a service misbehaves: what happens to its calls, a leak of memory or connections, threads that spin.
//! Who says so: lines on standard input, read in `service`.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tonic::{Code, Status};

use super::answer::Failure;
use crate::brief::{Behaviour, Effect};
use crate::random::Random;

/// A leak grows in pieces of this interval.
const GROW_EVERY: Duration = Duration::from_millis(100);
/// One byte of each page is read in a walk.
const PAGE: usize = 4_096;
/// Walks take at most this share of the time, as a collector paces itself: the service gets slow, but does
/// not collapse.
const WALK_SHARE: f64 = 0.5;
/// Connections that leak at most: below what one process may open.
const MOST_CONNECTIONS: usize = 5_000;

/// How the service misbehaves now, and what it has leaked.
#[derive(Default)]
pub(super) struct Misbehaviour {
    behaviour: RwLock<Arc<Behaviour>>,
    at_work: Arc<AtomicU32>,
    /// The one lock of the process that contended calls wait for.
    lock: tokio::sync::Mutex<()>,
    leaked: Mutex<Vec<Arc<Vec<u8>>>>,
    connections: Mutex<Vec<TcpStream>>,
    rest_until: Mutex<Option<Instant>>,
    spinning: Mutex<Vec<Arc<AtomicBool>>>,
}

/// A call that is at work, until it is dropped.
pub(super) struct AtWork(Arc<AtomicU32>);

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Misbehaviour {
    pub(super) fn now(&self) -> Arc<Behaviour> {
        Arc::clone(&self.behaviour.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// A behaviour without a leak frees what leaked.
    pub(super) fn become_like(&self, behaviour: Behaviour) {
        if behaviour.leak_bytes_per_second == 0 {
            self.leaked.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
        if behaviour.leak_connections_per_second == 0 {
            self.connections.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
        self.spin(behaviour.spin_threads as usize);
        *self.behaviour.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(behaviour);
    }

    /// A call begins its work.
    pub(super) fn at_work(&self) -> AtWork {
        self.at_work.fetch_add(1, Ordering::Relaxed);
        AtWork(Arc::clone(&self.at_work))
    }

    /// What happens to one call of a method.
    pub(super) async fn strike(&self, path: &str, random: &Mutex<Random>) -> Result<(), Failure> {
        let draw = || random.lock().unwrap_or_else(PoisonError::into_inner).unit();
        for effect in &self.now().effects {
            let other = effect.method.as_ref().is_some_and(|method| method != path);
            if other || (effect.fraction < 1.0 && draw() >= effect.fraction) {
                continue;
            }
            let jitter = if effect.jitter_ms > 0.0 { -(1.0 - draw()).ln() * effect.jitter_ms } else { 0.0 };
            pause(effect.delay_ms + jitter).await;
            if effect.lock_ms > 0.0 {
                let _held = self.lock.lock().await;
                pause(effect.lock_ms).await;
            }
            self.fail(effect)?;
        }
        Ok(())
    }

    fn fail(&self, effect: &Effect) -> Result<(), Failure> {
        let room = effect.max_in_flight > 0 && self.at_work.load(Ordering::Relaxed) <= effect.max_in_flight;
        if effect.status == 0 || room {
            return Ok(());
        }
        Err(Failure { status: Status::new(Code::from_i32(effect.status), "injected"), cut: effect.cut })
    }

    /// Reads all leaked memory, as a collector or a search through an ever-growing cache does.
    pub(super) fn walk(&self) {
        let times = self.now().leak_walks;
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

    /// Starts or ends threads until so many spin.
    fn spin(&self, wanted: usize) {
        let mut spinning = self.spinning.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = wanted.min(spinning.len());
        for stop in spinning.drain(kept..) {
            stop.store(true, Ordering::Relaxed);
        }
        while spinning.len() < wanted {
            let stop = Arc::new(AtomicBool::new(false));
            let seen = Arc::clone(&stop);
            std::thread::spawn(move || {
                while !seen.load(Ordering::Relaxed) {
                    black_box((0..1_000_u64).fold(0, |sum: u64, number| sum.wrapping_mul(31) ^ number));
                }
            });
            spinning.push(stop);
        }
    }

    /// Opens connections that nobody closes.
    async fn leak_connections(&self, count: u32, target: &str) {
        for _ in 0..count {
            let full =
                self.connections.lock().unwrap_or_else(PoisonError::into_inner).len() >= MOST_CONNECTIONS;
            if full {
                return;
            }
            if let Ok(Ok(stream)) = tokio::time::timeout(GROW_EVERY, TcpStream::connect(target)).await {
                self.connections.lock().unwrap_or_else(PoisonError::into_inner).push(stream);
            }
        }
    }
}

async fn pause(milliseconds: f64) {
    if milliseconds > 0.0 {
        tokio::time::sleep(Duration::from_secs_f64(milliseconds / 1e3)).await;
    }
}

/// Leaks for as long as the behaviour says so; `target` is where leaked connections go.
pub(super) async fn grow(misbehaviour: Arc<Misbehaviour>, target: impl Fn() -> Option<String>) {
    let mut owed = 0.0;
    loop {
        tokio::time::sleep(GROW_EVERY).await;
        let behaviour = misbehaviour.now();
        let piece = behaviour.leak_bytes_per_second / 10;
        if piece > 0 {
            let limit = usize::try_from(behaviour.leak_limit_bytes).unwrap_or(usize::MAX);
            misbehaviour.leak(usize::try_from(piece).unwrap_or(0), limit);
        }
        owed += f64::from(behaviour.leak_connections_per_second) * GROW_EVERY.as_secs_f64();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small and positive")]
        let count = owed as u32;
        owed -= f64::from(count);
        if let Some(target) = target().filter(|_| count > 0) {
            misbehaviour.leak_connections(count, &target).await;
        }
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
        misbehaviour.walk();
        misbehaviour.become_like(Behaviour::default());
        assert_eq!(held(&misbehaviour), 0);
    }

    #[tokio::test]
    async fn effects_strike_their_method_and_beyond_their_limit_only() {
        let misbehaviour = Misbehaviour::default();
        let random = Mutex::new(Random::seeded(1));
        let effects = vec![
            Effect { method: Some("/a/B".into()), status: 13, cut: true, ..Effect::default() },
            Effect { max_in_flight: 1, status: 8, ..Effect::default() },
        ];
        misbehaviour.become_like(Behaviour { effects, ..Behaviour::default() });
        let _one = misbehaviour.at_work();
        let failed =
            misbehaviour.strike("/a/B", &random).await.err().map(|failed| (failed.status.code(), failed.cut));
        assert_eq!(failed, Some((Code::Internal, true)));
        assert!(misbehaviour.strike("/a/C", &random).await.is_ok());
        let _two = misbehaviour.at_work();
        let failed = misbehaviour.strike("/a/C", &random).await.err().map(|failed| failed.status.code());
        assert_eq!(failed, Some(Code::ResourceExhausted));
    }

    #[test]
    fn threads_spin_and_stop() {
        let misbehaviour = Misbehaviour::default();
        let spinning = || misbehaviour.spinning.lock().map_or(0, |spinning| spinning.len());
        misbehaviour.spin(2);
        assert_eq!(spinning(), 2);
        misbehaviour.spin(0);
        assert_eq!(spinning(), 0);
    }
}
