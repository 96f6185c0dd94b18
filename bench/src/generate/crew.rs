//! Runs the episodes of a plan, several at a time: what is not done comes in, done episodes and a line of
//! progress go out. Ctrl-C ends every process that was started and leaves what is done.

use super::episode::{self, Rig, Slot};
use super::plan::{Episode, Plan};
use super::systems::System;
use anyhow::{Context, Result, bail, ensure};
use std::collections::{BTreeMap, VecDeque};
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Ports of one slot: the largest system has 200 services, some with replicas.
const PORTS: u16 = 1_000;
/// An episode that broke is tried so often in all.
const TRIES: u32 = 2;
/// Slots begin so long after each other: starting many processes is the hardest work of an episode.
const STAGGER: Duration = Duration::from_secs(8);

/// Who runs episodes, and with what.
pub(super) struct Crew {
    /// The data set.
    pub(super) dir: PathBuf,
    pub(super) rig: Rig,
    /// By name.
    pub(super) systems: BTreeMap<String, System>,
    /// Episodes at a time.
    pub(super) at_once: u16,
    /// Begins the cgroups' names.
    pub(super) cgroup: String,
    /// The first slot's.
    pub(super) base_port: u16,
}

/// What is to be done and what was.
#[derive(Default)]
struct Board {
    left: VecDeque<(Episode, u32)>,
    running: BTreeMap<u16, (Episode, Instant)>,
    failed: Vec<String>,
    done: usize,
    total: usize,
}

struct Shared {
    crew: Crew,
    board: Mutex<Board>,
}

impl Shared {
    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs every episode of the plan that is not done.
///
/// # Errors
/// When it was interrupted or episodes failed, with their reasons.
pub(super) async fn run(crew: Crew, plan: &Plan) -> Result<()> {
    let missing = |episode: &&Episode| !episode::folder(&crew.dir, episode).join(episode::RECORD).exists();
    let left: VecDeque<(Episode, u32)> =
        plan.episodes.iter().filter(missing).map(|episode| (episode.clone(), 1)).collect();
    let total = left.len();
    let waiting: Vec<&Episode> = left.iter().map(|(episode, _)| episode).collect();
    eprintln!(
        "playground: {} faults in {} episodes, seed {}; {} done before, {} to go, {} at a time",
        plan.faults(),
        plan.episodes.len(),
        plan.settings.seed,
        plan.episodes.len() - total,
        minutes(Plan::seconds(&waiting, usize::from(crew.at_once))),
        crew.at_once
    );
    let at_once = crew.at_once;
    let shared = Arc::new(Shared { crew, board: Mutex::new(Board { left, total, ..Board::default() }) });
    let (stop, stopped) = watch::channel(false);
    let mut slots = JoinSet::new();
    for number in 0..at_once {
        slots.spawn(slot(Arc::clone(&shared), number, stopped.clone()));
    }
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut tell = tokio::time::interval(tell_every());
    let mut interrupted = false;
    loop {
        tokio::select! {
            ended = slots.join_next() => match ended {
                Some(ended) => ended.context("a slot broke")?,
                None => break,
            },
            _ = interrupt.recv() => interrupted = true,
            _ = terminate.recv() => interrupted = true,
            _ = tell.tick() => progress(&shared.board(), usize::from(at_once)),
        }
        if interrupted && !*stop.borrow() {
            line("stopping; the same command goes on with what is not done");
            stop.send_replace(true);
        }
    }
    ensure!(!interrupted, "interrupted");
    let failed = std::mem::take(&mut shared.board().failed);
    if !failed.is_empty() {
        bail!("{} episodes failed; the same command tries them again:\n{}", failed.len(), failed.join("\n"));
    }
    Ok(())
}

/// Takes one episode after the other until none is left.
async fn slot(shared: Arc<Shared>, number: u16, mut stop: watch::Receiver<bool>) {
    let place = Slot {
        cgroup: format!("{}-{number}", shared.crew.cgroup),
        base_port: shared.crew.base_port.saturating_add(number.saturating_mul(PORTS)),
    };
    tokio::select! {
        () = tokio::time::sleep(STAGGER * u32::from(number)) => {}
        _ = stop.wait_for(|stop| *stop) => return,
    }
    while !*stop.borrow() {
        let Some((episode, attempt)) = shared.board().left.pop_front() else { return };
        shared.board().running.insert(number, (episode.clone(), Instant::now()));
        let performed = match shared.crew.systems.get(&episode.topology) {
            Some(system) => {
                episode::perform(&shared.crew.dir, &shared.crew.rig, system, &episode, &place, &mut stop)
                    .await
            }
            None => Err(anyhow::anyhow!("{}: no such system", episode.topology)),
        };
        let mut board = shared.board();
        board.running.remove(&number);
        match performed {
            Ok(record) => {
                board.done += 1;
                let trust = match record.verdict.reasons.as_slice() {
                    [] => "trusted".to_owned(),
                    reasons => format!("NOT TRUSTED: {}", reasons.join("; ")),
                };
                line(&format!("{}/{} {} done, {trust}", board.done, board.total, episode.id));
            }
            Err(_) if *stop.borrow() => return,
            Err(error) if attempt < TRIES => {
                line(&format!("{} failed, and is tried again: {error:#}", episode.id));
                board.left.push_back((episode, attempt + 1));
            }
            Err(error) => {
                line(&format!("{} failed: {error:#}", episode.id));
                board.failed.push(format!("{}: {error:#}", episode.id));
            }
        }
    }
}

/// A terminal's line is rewritten; a log gets a line now and then.
fn tell_every() -> Duration {
    Duration::from_secs(if std::io::stderr().is_terminal() { 1 } else { 60 })
}

fn progress(board: &Board, at_once: usize) {
    if board.running.is_empty() {
        return;
    }
    let mut slots: Vec<f64> = board
        .running
        .values()
        .map(|(episode, since)| (episode.seconds + episode::AROUND - since.elapsed().as_secs_f64()).max(0.0))
        .collect();
    slots.resize(at_once.max(slots.len()), 0.0);
    let left: Vec<&Episode> = board.left.iter().map(|(episode, _)| episode).collect();
    let rest = Plan::seconds_from(slots, &left);
    let names: Vec<&str> = board.running.values().map(|(episode, _)| episode.id.as_str()).collect();
    let text = format!(
        "{}/{} episodes done, {} left; running {}",
        board.done,
        board.total,
        minutes(rest),
        names.join(", ")
    );
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[Kplayground: {text}");
    } else {
        eprintln!("playground: {text}");
    }
}

/// A line of its own, also where progress was.
fn line(text: &str) {
    let clear = if std::io::stderr().is_terminal() { "\r\x1b[K" } else { "" };
    eprintln!("{clear}playground: {text}");
}

/// Seconds in words.
pub(super) fn minutes(seconds: f64) -> String {
    if seconds < 90.0 { format!("{seconds:.0} s") } else { format!("{:.0} min", seconds / 60.0) }
}
