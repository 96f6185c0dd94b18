//! Empties the ring buffer: records come in from the kernel, events go to the core's queue.

use super::clock;
use super::record::parse;
use super::uprobes::Uprobes;
use super::{AttachError, Probes};
use aya::maps::{MapData, PerCpuArray, RingBuf};
use bytes::BytesMut;
use faultline_abi::{WAKE_EVERY_NANOS, loss};
use faultline_core::event::{Event, Loss, LossReason, Missing};
use std::time::{Duration, Instant};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc::{Sender, error::TrySendError};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

/// Records of one batch share one allocation; more would keep much memory alive for one slow record.
const BATCH_BYTES: usize = 256 << 10;
/// Many records come together: waiting a little after each round saves wake-ups, and is far below a step.
const REST: Duration = Duration::from_millis(5);
/// Rounds without a record before the drain waits to be woken. The programs do not wake it again within
/// [`WAKE_EVERY_NANOS`], so what they write meanwhile must be looked for.
const ROUNDS: u32 = 3;
const _: () = assert!(REST.as_nanos() * (ROUNDS as u128 - 1) > WAKE_EVERY_NANOS as u128);
/// How often losses are read, and the ring is looked at even without news.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a full queue may hold up the drain; the ring buffers meanwhile.
const PATIENCE: Duration = Duration::from_millis(100);

/// The kernel's loss counters and what each means.
const LOSSES: [(u32, LossReason); 3] = [
    (loss::RING_FULL, LossReason::RingFull),
    (loss::CONNECTION_TABLE_FULL, LossReason::ConnectionTableFull),
    (loss::SEGMENT, LossReason::KernelSegment),
];

impl Probes {
    /// Sends events until `stop` becomes true or its sender is gone, or nobody receives any more; then
    /// detaches. A full queue costs events, which are counted as [`LossReason::RingFull`].
    ///
    /// # Errors
    /// [`AttachError`] when the ring buffer cannot be polled (outside a tokio runtime with IO).
    pub async fn run(
        self,
        events: Sender<Event>,
        mut stop: watch::Receiver<bool>,
    ) -> Result<(), AttachError> {
        let Self { ring, losses, mut programs, kernel_log, mut tls } = self;
        let log = kernel_log.then(|| aya_log::EbpfLogger::init(&mut programs).ok()).flatten();
        // SAFETY: the ring owns its descriptor and keeps it open and the same for as long as it lives.
        let mut ring = unsafe { AsyncFd::register(ring) }.map_err(|error| AttachError::Load {
            reason: format!("the ring buffer cannot be polled: {error}"),
            fix: "run inside a tokio runtime with IO enabled".to_owned(),
        })?;
        let mut out = Outlet { events, unsent: 0 };
        let mut told = [0; LOSSES.len()];
        let mut log = log;
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !*stop.borrow() && !out.events.is_closed() {
            tokio::select! {
                changed = stop.changed() => if changed.is_err() { break },
                _ = look.tick() => {
                    empty(ring.get_mut(), &mut out).await;
                    tell_losses(&losses, &mut told, &mut out).await;
                    if let Some(tls) = &tls {
                        tls.count();
                    }
                    if let Some(log) = &mut log {
                        log.flush();
                    }
                }
                Some(change) = Uprobes::next(&mut tls) => {
                    let followed = tls.as_mut().map(|tls| tls.follow(&mut programs, change));
                    if let Some(Err(reason)) = followed {
                        out.send(without_tls(&reason)).await;
                    }
                }
                ready = ring.readable_mut() => {
                    let Ok(mut ready) = ready else { break };
                    ready.clear_ready();
                    rounds(ring.get_mut(), &mut out, &stop).await;
                }
            }
        }
        // What came before the stop still counts.
        empty(ring.get_mut(), &mut out).await;
        tell_losses(&losses, &mut told, &mut out).await;
        drop((tls, programs));
        Ok(())
    }
}

/// Takes records round after round until none came for some.
async fn rounds(ring: &mut RingBuf<MapData>, out: &mut Outlet, stop: &watch::Receiver<bool>) {
    let began = Instant::now();
    let mut idle = 0;
    // Losses are told by whoever called this: under a steady load it must return as well.
    while idle < ROUNDS && began.elapsed() < LOOK_EVERY && !*stop.borrow() {
        idle = if empty(ring, out).await { 0 } else { idle + 1 };
        sleep(REST).await;
    }
    empty(ring, out).await;
}

/// Takes records until there are none; whether there were any.
async fn empty(ring: &mut RingBuf<MapData>, out: &mut Outlet) -> bool {
    let mut any = false;
    loop {
        let mut bytes = BytesMut::new();
        let mut lengths = Vec::new();
        while let Some(record) = ring.next() {
            lengths.push(record.len());
            bytes.extend_from_slice(&record);
            if bytes.len() >= BATCH_BYTES {
                break;
            }
        }
        if lengths.is_empty() {
            return any;
        }
        any = true;
        let mut batch = bytes.freeze();
        for length in lengths {
            let event =
                parse(&batch.split_to(length)).unwrap_or_else(|_| lost(LossReason::MalformedRecord, 1));
            out.send(event).await;
        }
        // Other tasks of this thread get their turn even when the ring never gets empty.
        tokio::task::yield_now().await;
    }
}

/// Tells what the kernel programs lost since the last time.
async fn tell_losses(losses: &PerCpuArray<MapData, u64>, told: &mut [u64; LOSSES.len()], out: &mut Outlet) {
    for ((place, reason), told) in LOSSES.into_iter().zip(told) {
        let Ok(values) = losses.get(&place, 0) else { continue };
        let total: u64 = values.iter().sum();
        if total > *told {
            out.send(lost(reason, total - *told)).await;
            *told = total;
        }
    }
    if out.unsent > 0 {
        let count = std::mem::take(&mut out.unsent);
        out.send(lost(LossReason::RingFull, count)).await;
    }
}

fn without_tls(reason: &str) -> Event {
    Event::Missing(Missing {
        at: clock::now(),
        part: "tls".into(),
        reason: reason.into(),
        fix: "faultline check --tls says what uprobes need here".into(),
    })
}

fn lost(reason: LossReason, count: u64) -> Event {
    Event::Lost(Loss { at: clock::now(), reason, count, connection: None })
}

/// The queue to the core, and what did not fit into it.
struct Outlet {
    events: Sender<Event>,
    unsent: u64,
}

impl Outlet {
    /// Waits for a place for a while; drops and counts the event when there is none. While events are being
    /// dropped it does not wait at all, or the ring would overflow as well.
    async fn send(&mut self, event: Event) {
        let event = match self.events.try_send(event) {
            Ok(()) | Err(TrySendError::Closed(_)) => return,
            Err(TrySendError::Full(event)) => event,
        };
        let patience = if self.unsent == 0 { PATIENCE } else { Duration::ZERO };
        if timeout(patience, self.events.send(event)).await.is_err() {
            self.unsent += 1;
        }
    }
}
