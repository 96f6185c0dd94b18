//! The users: an open-loop load generator. Requests leave on a schedule that does not wait for answers,
//! so that a slow system is measured as users feel it. Parameters come from a spec file, commands (`start`,
//! `stop`, `rate N`, a behaviour) on standard input; truth goes to a file, a line a second to standard output.

mod arrivals;
mod scenarios;

use std::io::BufRead;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::brief::{Behaviour, CallSpec, LoadSpec};
use crate::random::Random;
use crate::service::client::Peers;
use crate::truth::{FLUSH_EVERY, Lines};
use arrivals::Arrivals;
use scenarios::Crowd;

/// Requests in flight beyond this are not sent but counted as failed: a machine has so much memory.
const MOST_IN_FLIGHT: usize = 5_000;

/// More user requests a second than one machine makes.
const FASTEST: f64 = 100_000.0;

/// What users felt in the last second.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Second {
    /// Requests that left.
    pub sent: u64,
    /// Answers that were OK.
    pub ok: u64,
    /// Answers that were not, deadlines included.
    pub failed: u64,
    /// Median time of answers, milliseconds.
    pub p50_ms: f64,
    /// 95th percentile of answers, milliseconds.
    pub p95_ms: f64,
}

#[derive(Default)]
struct Felt {
    sent: u64,
    ok: u64,
    failed: u64,
    seconds: Vec<f64>,
}

/// A line on standard input while load runs.
#[derive(Debug)]
enum Command {
    /// No more requests.
    Stop,
    /// So many requests a second from now on.
    Rate(f64),
    /// Where the entry service's replicas are now, among other things.
    Follow(Box<Behaviour>),
}

impl Command {
    fn parse(line: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Rate {
            rate: f64,
        }
        let line = line.trim();
        if line == "stop" {
            return Ok(Self::Stop);
        }
        let given = match line.strip_prefix("rate ") {
            Some(number) => number.trim().parse().ok(),
            None => serde_json::from_str(line).ok().map(|Rate { rate }| rate),
        };
        match given {
            Some(rate) if (0.0..=FASTEST).contains(&rate) => Ok(Self::Rate(rate)),
            Some(rate) => Err(format!("a rate of {rate} is not within 0 to {FASTEST} requests a second")),
            None => {
                serde_json::from_str(line).map(|behaviour| Self::Follow(Box::new(behaviour))).map_err(|_| {
                    format!("`{line}` is none of `stop`, `rate N`, {{\"rate\": N}} and a behaviour")
                })
            }
        }
    }
}

/// Sends load from `start` until `stop` or the end of standard input; then waits for the last answers.
pub fn generate(spec: &Path) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(spec).with_context(|| format!("{} cannot be read", spec.display()))?;
    let spec: LoadSpec =
        serde_json::from_str(&text).with_context(|| format!("{} is no load spec", spec.display()))?;
    let truth = Lines::append(&spec.truth)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let done = runtime.block_on(run(&spec, truth.clone()));
    truth.flush();
    done
}

async fn run(spec: &LoadSpec, truth: Lines) -> anyhow::Result<()> {
    let (command, mut commands) = mpsc::channel(4);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if command.blocking_send(line).is_err() {
                break;
            }
        }
    });
    println!("ready");
    match commands.recv().await.as_deref() {
        Some("start") => {}
        None => return Ok(()),
        Some(other) => anyhow::bail!("load begins with `start`, not with {other:?}"),
    }
    let peers = Peers::new(&[(spec.entry.clone(), spec.peer.clone())].into(), truth.clone())?;
    let felt = Arc::new(Mutex::new(Felt::default()));
    tokio::spawn(tell(Arc::clone(&felt), truth));
    let mut arrivals = Arrivals::new(spec.requests_per_second, spec.pattern, spec.seed);
    let mut crowd = Crowd::new(&spec.scenarios, spec.requests_per_second, Random::seeded(spec.seed ^ 0x5EED));
    let mut running = tokio::task::JoinSet::new();
    let begin = Instant::now();
    let mut next = arrivals.next_seconds();
    loop {
        tokio::select! {
            () = tokio::time::sleep_until((begin + Duration::from_secs_f64(next)).into()) => {}
            line = commands.recv() => {
                match line.as_deref().map(Command::parse) {
                    None | Some(Ok(Command::Stop)) => break,
                    Some(Ok(Command::Rate(rate))) => {
                        arrivals.change(rate, begin.elapsed().as_secs_f64());
                        next = arrivals.next_seconds();
                    }
                    Some(Ok(Command::Follow(behaviour))) => peers.become_like(&behaviour),
                    Some(Err(reason)) => eprintln!("load: {reason}"),
                }
                continue;
            }
        }
        while running.try_join_next().is_some() {}
        let call = crowd.next_step(next).and_then(|step| spec.calls.get(step));
        next = arrivals.next_seconds();
        let Some(call) = call else { continue };
        let full = running.len() >= MOST_IN_FLIGHT;
        let mut now = felt.lock().unwrap_or_else(PoisonError::into_inner);
        now.sent += 1;
        now.failed += u64::from(full);
        drop(now);
        if !full {
            running.spawn(request(peers.clone(), call.clone(), Arc::clone(&felt)));
        }
    }
    let last = spec.calls.values().map(|call| u64::from(call.deadline_ms)).max().unwrap_or(0);
    let drain = async { while running.join_next().await.is_some() {} };
    drop(tokio::time::timeout(Duration::from_millis(last + 200), drain).await);
    Ok(())
}

async fn request(peers: Peers, call: CallSpec, felt: Arc<Mutex<Felt>>) {
    let started = Instant::now();
    let answer = peers.call(&call).await;
    let seconds = started.elapsed().as_secs_f64();
    let mut felt = felt.lock().unwrap_or_else(PoisonError::into_inner);
    felt.ok += u64::from(answer.is_ok());
    felt.failed += u64::from(answer.is_err());
    felt.seconds.push(seconds);
}

/// Prints what users felt, once a second, and makes the truth visible.
async fn tell(felt: Arc<Mutex<Felt>>, truth: Lines) {
    let mut tick = tokio::time::interval(FLUSH_EVERY);
    for count in 0_u64.. {
        tick.tick().await;
        truth.flush();
        if count % 5 == 4 {
            let last = std::mem::take(&mut *felt.lock().unwrap_or_else(PoisonError::into_inner));
            if let Ok(line) = serde_json::to_string(&second(last)) {
                println!("{line}");
            }
        }
    }
}

fn second(mut felt: Felt) -> Second {
    felt.seconds.sort_by(f64::total_cmp);
    Second {
        sent: felt.sent,
        ok: felt.ok,
        failed: felt.failed,
        p50_ms: percentile(&felt.seconds, 0.5) * 1e3,
        p95_ms: percentile(&felt.seconds, 0.95) * 1e3,
    }
}

/// The nearest-rank percentile of sorted values; 0 of none.
pub fn percentile(sorted: &[f64], share: f64) -> f64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a share of a length is within it"
    )]
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_in_words_and_in_json() {
        let check = |line: &str, expected: &str| {
            let found = match Command::parse(line) {
                Ok(Command::Stop) => "stop".to_owned(),
                Ok(Command::Rate(rate)) => format!("rate {rate}"),
                Ok(Command::Follow(behaviour)) => format!("{:?}", behaviour.addresses),
                Err(reason) => reason,
            };
            assert!(found.contains(expected), "{line}: {found}");
        };
        check("stop", "stop");
        check("rate 12.5", "rate 12.5");
        check("{\"rate\": 50}", "rate 50");
        check("rate -1", "a rate of -1 is not within 0 to 100000");
        check("rate NaN", "a rate of NaN is not within");
        check("rate fast", "`rate fast` is none of");
        check("{\"addresses\": {\"front\": [\"127.0.0.1:1\"]}}", "{\"front\": [\"127.0.0.1:1\"]}");
        check("faster", "`faster` is none of `stop`, `rate N`");
    }

    #[test]
    fn nearest_rank_by_hand() {
        assert!((percentile(&[1.0, 2.0, 3.0, 4.0], 0.5) - 2.0).abs() < 1e-12);
        assert!((percentile(&[1.0, 2.0, 3.0, 4.0], 0.95) - 4.0).abs() < 1e-12);
        assert!(percentile(&[], 0.5).abs() < 1e-12);
    }
}
