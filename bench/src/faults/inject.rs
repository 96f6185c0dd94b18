//! Makes faults and events happen: lines on services' standard input, busy processes, signals, cgroup limits, replicas
//! that come and go, rules on the wire. Which are on is kept here, with what takes each back.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::process::Signal;
use tokio::process::Child;
use tokio::task::JoinHandle;

use super::wire::{self, Edge, Sender, Wire};
use super::{BATCH_JOB, Fault, Kind, NEIGHBOUR, behaviour};
use crate::brief::{Behaviour, Effect};
use crate::cgroups::Limits;
use crate::run::children::Family;
use crate::run::fleet::Fleet;

/// What a service uses is measured for this long before its limit is cut.
const MEASURE: Duration = Duration::from_secs(2);
/// A process that stands still for ever does so for this long, and then again.
const LONGEST: Duration = Duration::from_secs(86_400);
/// The kernel refuses less.
const LEAST_CORES: f64 = 0.01;
/// Marks on the wire: what fits the field, without 0.
const MARKS: u64 = 62;

/// What is on, by number.
#[derive(Default)]
pub struct Injector {
    active: BTreeMap<u64, Active>,
}

struct Active {
    fault: Fault,
    since: Instant,
    /// When a crash loop crashed last.
    struck: Instant,
    tools: Vec<Tool>,
}

/// What takes a fault back when it ends.
enum Tool {
    /// A busy process; killed when dropped.
    Hog(Child),
    /// A task that stops and continues processes.
    Duty(JoinHandle<()>, Vec<String>),
    /// The limits that a process's cgroup had before.
    Limits(String, Limits),
    /// Rules and queues of the network.
    Wire(Wire),
    /// Backends that are down.
    Held(Vec<String>),
    /// Replicas that came (or, below 0, went).
    Replicas(i64),
    /// The old version comes back.
    Roll,
    /// The client that sends bad requests.
    BadClient,
}

impl Injector {
    /// Starts a fault or an event; `rate` is the users' usual one.
    pub async fn start(
        &mut self,
        number: u64,
        fault: &Fault,
        fleet: &mut Fleet,
        rate: f64,
    ) -> anyhow::Result<()> {
        let mut active =
            Active { fault: fault.clone(), since: Instant::now(), struck: Instant::now(), tools: Vec::new() };
        let set = set_up(number, fault, fleet, &mut active.tools).await;
        self.active.insert(number, active);
        if let Err(error) = set {
            // Half a fault is worse than none.
            self.end(number, fleet, rate).await?;
            return Err(error);
        }
        if matches!(fault.kind, Kind::RateStep | Kind::Burst) {
            self.set_rate(fleet, rate).await?;
        }
        Ok(())
    }

    /// Ends it and leaves the service healthy, unless another one is on.
    pub async fn end(&mut self, number: u64, fleet: &mut Fleet, rate: f64) -> anyhow::Result<Option<Fault>> {
        let Some(active) = self.active.remove(&number) else { return Ok(None) };
        let service = &active.fault.service;
        for tool in active.tools {
            take_back(tool, service, fleet).await?;
        }
        fleet.lift(number).await;
        if matches!(active.fault.kind, Kind::RateStep | Kind::Burst) {
            self.set_rate(fleet, rate).await?;
        }
        Ok(Some(active.fault))
    }

    /// The numbers of what is on.
    pub fn numbers(&self) -> Vec<u64> {
        self.active.keys().copied().collect()
    }

    /// Users send as many requests as all events together say.
    pub async fn set_rate(&self, fleet: &mut Fleet, rate: f64) -> anyhow::Result<()> {
        let steps = self.active.values().map(|active| &active.fault);
        let steps = steps.filter(|fault| matches!(fault.kind, Kind::RateStep | Kind::Burst));
        let factor: f64 = steps.map(|fault| fault.parameters.number("factor")).product();
        fleet.set_rate(rate * factor).await
    }

    /// What goes on while faults are on: the next crash, a service that gets warmer. Called about once a second.
    pub async fn look(&mut self, fleet: &mut Fleet) {
        for (number, active) in &mut self.active {
            let parameters = &active.fault.parameters;
            match active.fault.kind {
                Kind::CrashLoop
                    if active.struck.elapsed().as_secs_f64() >= parameters.number("every_seconds") =>
                {
                    active.struck = Instant::now();
                    crash(&active.fault.service, fleet);
                }
                Kind::SlowStart => {
                    let warm = active.since.elapsed().as_secs_f64() / parameters.number("warm_seconds");
                    let cold = Effect {
                        delay_ms: parameters.number("latency_ms") * (1.0 - warm).max(0.0),
                        ..Effect::default()
                    };
                    let told = Behaviour { effects: vec![cold], ..Behaviour::default() };
                    fleet.lay(*number, &active.fault.service, None, told).await;
                }
                _ => {}
            }
        }
    }
}

/// Starts what the fault needs, and notes what takes it back.
async fn set_up(number: u64, fault: &Fault, fleet: &mut Fleet, tools: &mut Vec<Tool>) -> anyhow::Result<()> {
    let (service, parameters) = (fault.service.as_str(), &fault.parameters);
    let processes = fleet.processes(service);
    match fault.kind {
        Kind::CpuHog => {
            for process in &processes {
                let hog =
                    fleet.children().hog(process, parameters.whole("threads"), parameters.number("busy"))?;
                tools.push(Tool::Hog(hog));
            }
        }
        Kind::NoisyNeighbour => {
            let threads = (parameters.whole("threads"), parameters.number("busy"));
            tools.push(Tool::Hog(fleet.children().own_hog(NEIGHBOUR, threads, Limits::default(), true)?));
        }
        Kind::BatchJob => {
            let limits = Limits { cpu_cores: Some(parameters.number("cores")), memory_mib: None };
            let threads = (parameters.whole("threads"), 1.0);
            tools.push(Tool::Hog(fleet.children().own_hog(BATCH_JOB, threads, limits, false)?));
        }
        Kind::Stop => tools.push(Tool::duty(fleet, processes, Duration::MAX, Duration::ZERO)),
        Kind::LoadBalancer => {
            let last: Vec<String> = processes.last().cloned().into_iter().collect();
            let running = parameters.milliseconds("running_ms");
            // Without a word about running it stands still all the time, unless it is to be a gentle one.
            let gentle = Duration::from_secs(1).saturating_sub(parameters.milliseconds("stopped_ms"));
            let running = if running.is_zero() && parameters.strength < 1.0 { gentle } else { running };
            let stopped =
                if running.is_zero() { Duration::MAX } else { parameters.milliseconds("stopped_ms") };
            tools.push(Tool::duty(fleet, last, stopped, running));
        }
        Kind::Pauses | Kind::SlowRedis | Kind::SlowPostgres => {
            let (stopped, running) =
                (parameters.milliseconds("stopped_ms"), parameters.milliseconds("running_ms"));
            tools.push(Tool::duty(fleet, processes, stopped, running));
        }
        Kind::CpuQuota => cut_quota(&processes, parameters.number("share"), fleet, tools).await?,
        Kind::MemoryLeakOom => {
            limit_memory(&processes, parameters.number("headroom_mb"), fleet, tools)?;
            fleet.lay(number, service, None, behaviour(fault, fleet.topology())).await;
        }
        Kind::CrashLoop => crash(service, fleet),
        Kind::SlowStart => {
            let cold = Effect { delay_ms: parameters.number("latency_ms"), ..Effect::default() };
            let told = Behaviour { effects: vec![cold], ..Behaviour::default() };
            fleet.lay(number, service, None, told).await;
            fleet.restart(service).await?;
        }
        Kind::RefusingBackend => {
            fleet.children().hold(service).await;
            tools.push(Tool::Held(processes));
        }
        Kind::WireLoss => {
            tools.push(Tool::Wire(edge(number, fault, fleet)?.lose(parameters.number("percent"))?))
        }
        Kind::WireDelay => {
            let by = parameters.milliseconds("latency_ms");
            tools.push(Tool::Wire(edge(number, fault, fleet)?.delay(by).await?));
        }
        Kind::CircuitOpen => {
            let caller = fault.edge().map_or(service, |edge| edge.0);
            fleet.lay(number, caller, None, behaviour(fault, fleet.topology())).await;
        }
        Kind::BadDeployment => {
            tools.push(Tool::Roll);
            let version = behaviour(fault, fleet.topology());
            fleet.roll(service, Some((number, version))).await?;
        }
        Kind::ScaleUp => {
            tools.push(Tool::Replicas(fleet.scale(service, parameters.whole("replicas").into()).await?))
        }
        Kind::ScaleDown => {
            tools.push(Tool::Replicas(fleet.scale(service, -i64::from(parameters.whole("replicas"))).await?));
        }
        Kind::RollingRestart | Kind::CacheWarming => fleet.roll(service, None).await?,
        Kind::NewService => fleet.appear(service).await?,
        Kind::BadClient => {
            let path = crate::run::specs::refused_path(fleet.topology(), service);
            let refused = Effect { method: Some(path), status: 3, ..Effect::default() };
            let told = Behaviour { effects: vec![refused], ..Behaviour::default() };
            fleet.lay(number, service, None, told).await;
            tools.push(Tool::BadClient);
            fleet.start_bad_client(service, parameters.number("rate")).await?;
        }
        Kind::RateStep | Kind::Burst => {}
        _ => fleet.lay(number, service, None, behaviour(fault, fleet.topology())).await,
    }
    Ok(())
}

async fn take_back(tool: Tool, service: &str, fleet: &mut Fleet) -> anyhow::Result<()> {
    match tool {
        Tool::Hog(mut hog) => hog.kill().await.context("a busy process cannot be killed")?,
        Tool::Duty(duty, processes) => {
            duty.abort();
            drop(duty.await);
            for process in processes {
                fleet.children().signal(&process, Signal::CONT);
            }
        }
        Tool::Limits(cgroup, limits) => fleet.children().cgroups().limit(&cgroup, limits)?,
        Tool::Wire(wire) => wire.remove(),
        Tool::Held(backends) => {
            for backend in backends {
                fleet.children().release(&backend)?;
            }
        }
        Tool::Replicas(by) => drop(fleet.scale(service, -by).await?),
        Tool::Roll => fleet.roll(service, None).await?,
        Tool::BadClient => fleet.end_bad_client().await,
    }
    Ok(())
}

impl Tool {
    /// Stops and continues processes and their children by turns; forever when `stopped` is.
    fn duty(fleet: &mut Fleet, processes: Vec<String>, stopped: Duration, running: Duration) -> Self {
        let families: Vec<Family> =
            processes.iter().flat_map(|process| fleet.children().family(process)).collect();
        Self::Duty(tokio::spawn(run_now_and_then(families, stopped, running)), processes)
    }
}

/// Lets processes run for short moments only; ends with the task.
async fn run_now_and_then(families: Vec<Family>, stopped: Duration, running: Duration) {
    loop {
        if !stopped.is_zero() {
            families.iter().for_each(|family| family.signal(Signal::STOP));
        }
        tokio::time::sleep(stopped.min(LONGEST)).await;
        families.iter().for_each(|family| family.signal(Signal::CONT));
        tokio::time::sleep(running).await;
    }
}

/// Kills a service's processes at once; the run starts them again.
fn crash(service: &str, fleet: &mut Fleet) {
    for process in fleet.processes(service) {
        fleet.children().signal(&process, Signal::KILL);
    }
}

/// Cuts each process's CPU limit to a share of what it just used.
async fn cut_quota(
    processes: &[String],
    share: f64,
    fleet: &mut Fleet,
    tools: &mut Vec<Tool>,
) -> anyhow::Result<()> {
    let used = |fleet: &mut Fleet| -> Vec<f64> {
        processes.iter().map(|process| fleet.children().usage(process).cpu_seconds.unwrap_or(0.0)).collect()
    };
    let before = used(fleet);
    tokio::time::sleep(MEASURE).await;
    let after = used(fleet);
    for (process, used) in
        processes.iter().zip(after.iter().zip(&before).map(|(after, before)| after - before))
    {
        let program = fleet.children().program(process).with_context(|| format!("{process} does not run"))?;
        let (cgroup, old) = (program.cgroup.clone(), program.limits);
        let cores = (used / MEASURE.as_secs_f64() * share).max(LEAST_CORES);
        fleet.children().cgroups().limit(&cgroup, Limits { cpu_cores: Some(cores), ..old })?;
        tools.push(Tool::Limits(cgroup, old));
    }
    Ok(())
}

/// A service without a memory limit gets one, a little above what it uses.
fn limit_memory(
    processes: &[String],
    headroom_mb: f64,
    fleet: &mut Fleet,
    tools: &mut Vec<Tool>,
) -> anyhow::Result<()> {
    for process in processes {
        let used = fleet.children().usage(process).memory_bytes.with_context(|| {
            format!("the memory of {process} is not counted here: this host has no memory controller")
        })?;
        let program = fleet.children().program(process).with_context(|| format!("{process} does not run"))?;
        let (cgroup, old) = (program.cgroup.clone(), program.limits);
        if old.memory_mib.is_none() {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "8 to 4096")]
            let limit = (used >> 20) + headroom_mb as u64;
            fleet.children().cgroups().limit(&cgroup, Limits { memory_mib: Some(limit), ..old })?;
            tools.push(Tool::Limits(cgroup, old));
        }
    }
    Ok(())
}

/// The edge as the kernel can tell it apart.
fn edge(number: u64, fault: &Fault, fleet: &mut Fleet) -> anyhow::Result<Edge> {
    let (caller, callee) = fault.edge().context("not an edge")?;
    let base = fleet.children().cgroups().v2_folder().context("no cgroup v2 is mounted")?;
    let mounted =
        base.strip_prefix("/sys/fs/cgroup").context("cgroup v2 is not mounted below /sys/fs/cgroup")?;
    let depth = fleet.children().cgroups().v2_depth();
    let (mut callers, mut networks) = (Vec::new(), Vec::<Option<PathBuf>>::new());
    let (calling, called) = (fleet.processes(caller), fleet.processes(callee));
    for process in calling.iter().chain(&called) {
        let program = fleet.children().program(process).with_context(|| format!("{process} does not run"))?;
        if calling.contains(process) {
            callers.push(Sender {
                path: mounted.join(&program.cgroup).display().to_string(),
                level: depth + program.cgroup.split('/').count(),
            });
        }
        if !networks.contains(&program.network) {
            networks.push(program.network.clone());
        }
    }
    Ok(Edge {
        table: wire::table(fleet.children().cgroups().base(), number),
        mark: 1 + number % MARKS,
        callers,
        callees: fleet.addresses(callee),
        networks,
    })
}

/// The `cpu-hog` process: threads that use the processor for a share of the time, until standard input ends.
pub fn hog(threads: u32, busy: f64) -> std::io::Result<()> {
    /// Busy and idle by turns of this length together.
    const TURN: Duration = Duration::from_millis(20);
    for _ in 0..threads {
        std::thread::spawn(move || {
            let work = TURN.mul_f64(busy.clamp(0.0, 1.0));
            loop {
                let started = Instant::now();
                while started.elapsed() < work {
                    std::hint::black_box(
                        (0..1_000_u64).fold(0, |sum: u64, number| sum.wrapping_mul(31) ^ number),
                    );
                }
                std::thread::sleep(TURN.saturating_sub(work));
            }
        });
    }
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).map(|_| ())
}
