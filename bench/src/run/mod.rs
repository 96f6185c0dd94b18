//! One run of the playground, from an empty machine to an empty machine: processes start, load runs,
//! faults come and go, everything is written down and cleaned up. What runs is the `fleet` of `children`, told by
//! `specs`; where it runs the `network`; what is written `output`; commands from outside `control`. That it is in time
//! on a full machine is `priority`.

pub mod children;
mod control;
mod dataset;
mod flags;
pub mod fleet;
pub mod network;
mod output;
mod plan;
pub mod postgres;
mod priority;
pub(crate) mod specs;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::sync::mpsc;

use crate::agreement;
use crate::faults::inject::Injector;
use crate::faults::{Fault, Kind, Role, schedule};
use crate::load::Second;
use crate::random::Random;
use crate::stacks;
use crate::watcher::Watcher;
use children::LOADGEN;
use control::Order;
pub use flags::Flags;
use fleet::{Fleet, Parts};
use output::Output;
use plan::{Action, Plan};

/// Children are looked after this often.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Users' numbers are shown this often, seconds.
const SHOW_EVERY: u64 = 5;

/// Runs until the time is over or a signal comes.
pub fn run(flags: &Flags) -> anyhow::Result<()> {
    let seed = flags.seed.unwrap_or_else(|| crate::truth::unix_ms() % 1_000_000);
    let mut topology = flags.system(seed)?;
    let mut random = Random::seeded(seed);
    let faults = match &flags.faults {
        Some(path) => schedule::read(path, &topology, &mut random).map_err(anyhow::Error::msg)?,
        None => Vec::new(),
    };
    let agent = flags.agent()?;
    let launchers = stacks::launchers(&mut topology, flags.cache.clone())?;
    std::fs::create_dir_all(&flags.out).with_context(|| format!("{} cannot be made", flags.out.display()))?;
    let out = flags.out.canonicalize()?;
    let _claim = claim(&flags.cgroup)?;
    crate::faults::wire::clean(&flags.cgroup);
    let output = Output::create(&out, &topology)?;
    eprintln!("playground: {} with seed {seed} into {}", topology.name, out.display());
    let rate = topology.load.requests_per_second;
    let fleet = Fleet::new(Parts {
        topology,
        launchers,
        cgroup: flags.cgroup.clone(),
        nodes: flags.nodes,
        base_port: flags.base_port,
        seed,
        out,
        absent: newcomers(&faults),
    })?;
    let ahead = priority::Ahead::of_all().inspect_err(|error| {
        eprintln!("playground: on a full machine faults may begin and end late: {error:#}")
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut stage = Stage { fleet, output, rate, failed: 0, agent, watcher: None };
    let (played, ended) = runtime.block_on(async {
        let mut plan = Plan::default();
        faults.into_iter().for_each(|fault| plan.add(fault));
        let played = stage.play(flags, plan, random).await;
        let ended = stage.fleet.end().await;
        let watched = match stage.watcher.take() {
            Some(watcher) => watcher.finish().await,
            None => Ok(()),
        };
        (played, ended.and(watched))
    });
    drop(ahead);
    stage.output.finish(stage.fleet.born())?;
    played.and(ended)?;
    if stage.agent.is_some() {
        agreement::judge(&flags.out)?;
    }
    match stage.failed {
        0 => Ok(()),
        failed => bail!("{failed} faults or events could not happen: events.jsonl has the reasons"),
    }
}

/// Services that the schedule lets appear later.
fn newcomers(faults: &[Fault]) -> BTreeSet<String> {
    let new = faults.iter().filter(|fault| fault.kind == Kind::NewService);
    new.map(|fault| fault.service.clone()).collect()
}

/// One playground per cgroup at a time: a second one would end the first one's processes.
fn claim(cgroup: &str) -> anyhow::Result<std::fs::File> {
    let path = std::env::temp_dir().join(format!("{cgroup}.lock"));
    let file = std::fs::File::create(&path).with_context(|| format!("{} cannot be made", path.display()))?;
    file.try_lock().with_context(|| {
        format!(
            "another playground runs in cgroup {cgroup} ({} is locked): stop it, or choose another --cgroup",
            path.display()
        )
    })?;
    Ok(file)
}

/// A run that is going on.
struct Stage {
    fleet: Fleet,
    output: Output,
    /// Users' requests a second while nothing changes them.
    rate: f64,
    /// Faults and events that could not happen.
    failed: u32,
    /// The program of the agent that is to watch, and that one while it does.
    agent: Option<PathBuf>,
    watcher: Option<Watcher>,
}

impl Stage {
    async fn play(&mut self, flags: &Flags, mut plan: Plan, mut random: Random) -> anyhow::Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let (order, mut orders) = mpsc::channel(16);
        if let Some(path) = &flags.control {
            control::listen(path, order.clone())?;
        }
        tokio::select! {
            started = self.begin(&flags.out) => started?,
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
        }
        let mut seconds = self.fleet.children().load_lines(LOADGEN)?;
        self.fleet.children().tell(LOADGEN, "start").await?;
        self.output.load_started();
        let begin = Instant::now();
        let mut injector = Injector::default();
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let ends = flags.seconds.map(Duration::from_secs_f64);
        loop {
            let over = ends.map_or(Duration::MAX, |ends| ends.saturating_sub(begin.elapsed()));
            let due = plan
                .next_seconds()
                .map_or(Duration::MAX, |at| Duration::from_secs_f64(at).saturating_sub(begin.elapsed()));
            tokio::select! {
                () = tokio::time::sleep(over) => break,
                _ = interrupt.recv() => break,
                _ = terminate.recv() => break,
                () = tokio::time::sleep(due) => {
                    if let Some(action) = plan.pop() {
                        self.act(action, &mut injector, &mut plan, begin).await?;
                    }
                }
                Some(second) = seconds.recv() => self.output.second(&second, SHOW_EVERY)?,
                Some(order) = orders.recv() => {
                    if !self.obey(order, begin, &mut plan, &mut injector, &mut random).await {
                        break;
                    }
                }
                _ = look.tick() => self.look_after(&mut injector).await?,
            }
        }
        eprintln!("playground: stopping");
        for number in injector.numbers() {
            self.act(Action::End(number), &mut injector, &mut plan, begin).await?;
        }
        tokio::select! {
            () = self.stop_load(&mut seconds) => {}
            // Told twice: the last answers are not worth the wait.
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        self.output.load_stopped();
        Ok(())
    }

    /// The agent is there before the first process, so that it sees each connection from its beginning.
    async fn begin(&mut self, out: &Path) -> anyhow::Result<()> {
        if let Some(agent) = &self.agent {
            let watched = self.fleet.children().cgroups().v2_folder();
            let watched = watched.context("the agent watches a cgroup v2, and none is mounted")?;
            self.watcher = Some(Watcher::start(agent, "playground", &watched, out).await?);
        }
        let output = &self.output;
        self.fleet.start_all(|ready| output.ready(&ready)).await
    }

    /// Obeys an order from outside; false is the end.
    async fn obey(
        &mut self,
        order: Order,
        begin: Instant,
        plan: &mut Plan,
        injector: &mut Injector,
        random: &mut Random,
    ) -> bool {
        match order {
            Order::Stop => return false,
            Order::Rate(rate, answer) => {
                let set = match flags::check_rate(rate) {
                    Ok(()) => injector.set_rate(&mut self.fleet, rate).await,
                    Err(error) => Err(error),
                };
                if set.is_ok() {
                    self.rate = rate;
                    self.output.rate(rate);
                }
                drop(answer.send(set.map(|()| format!("rate {rate}")).map_err(|error| format!("{error:#}"))));
            }
            Order::Fault(wanted, answer) => {
                let role = wanted.kind.map_or(Role::Fault, Kind::role);
                let fault = schedule::fault(wanted, role, self.fleet.topology(), random);
                let said = fault.map(|mut fault| {
                    fault.at_seconds += begin.elapsed().as_secs_f64();
                    let said = format!("{} {}", fault.kind.name(), fault.service);
                    plan.add(fault);
                    said
                });
                drop(answer.send(said));
            }
        }
        true
    }

    /// A fault that cannot happen is told, and the run goes on: what else was asked for is worth having.
    async fn act(
        &mut self,
        action: Action,
        injector: &mut Injector,
        plan: &mut Plan,
        begin: Instant,
    ) -> anyhow::Result<()> {
        match action {
            Action::Start(number, fault) => {
                match injector.start(number, &fault, &mut self.fleet, self.rate).await {
                    Ok(()) => {
                        plan.end(number, begin.elapsed().as_secs_f64() + fault.duration_seconds);
                        self.output.started(number, &fault)
                    }
                    Err(error) => {
                        self.failed += 1;
                        self.output.failed(number, &fault, &error);
                        Ok(())
                    }
                }
            }
            Action::End(number) => match injector.end(number, &mut self.fleet, self.rate).await {
                Ok(Some(fault)) => self.output.ended(number, &fault),
                Ok(None) => Ok(()),
                Err(error) => {
                    self.failed += 1;
                    eprintln!("playground: a fault does not end: {error:#}");
                    Ok(())
                }
            },
        }
    }

    /// A service that died starts again, as an orchestrator would do, and the run says so.
    async fn look_after(&mut self, injector: &mut Injector) -> anyhow::Result<()> {
        for name in self.fleet.restart_dead().await? {
            let killed = self.fleet.children().program(&name).map(|program| program.cgroup.clone());
            let killed = killed.and_then(|cgroup| self.fleet.children().cgroups().oom_kills(&cgroup));
            self.output.died(&name, killed);
        }
        injector.look(&mut self.fleet).await;
        let processes: Vec<(String, String)> =
            self.fleet.born().iter().map(|(process, service)| (process.clone(), service.clone())).collect();
        for (process, service) in processes {
            let usage = self.fleet.children().usage(&process);
            self.output.usage(&process, &service, usage);
        }
        self.output.usage_written();
        Ok(())
    }

    /// Load ends first and waits for its answers, so that no call is cut by the end of the run.
    async fn stop_load(&mut self, seconds: &mut mpsc::Receiver<Second>) {
        drop(self.fleet.children().tell(LOADGEN, "stop").await);
        let longest = Duration::from_millis(u64::from(self.fleet.topology().load.deadline_ms) + 1_000);
        drop(tokio::time::timeout(longest, async { while seconds.recv().await.is_some() {} }).await);
    }
}
