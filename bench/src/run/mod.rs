//! One run of the playground, from an empty machine to an empty machine: processes start, load runs,
//! faults come and go, everything is written down and cleaned up. Processes are in `children`, what is
//! written in `output`, commands from outside in `control`.

pub mod children;
mod control;
mod dataset;
mod output;
mod plan;
mod specs;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::sync::mpsc;

use crate::cgroups::{Cgroups, Limits};
use crate::faults::inject::Injector;
use crate::faults::schedule;
use crate::load::Second;
use crate::random::Random;
use crate::stacks;
use crate::topology::{BackendKind, Pattern, Topology};
use children::{Children, LOADGEN};
use control::Order;
use output::Output;
use plan::{Action, Plan};
use specs::{Placement, load_spec, service_spec};

/// Flags of `playground run`.
#[derive(clap::Args)]
pub struct Flags {
    /// The topology file (TOML or JSON)
    #[arg(long)]
    topology: PathBuf,
    /// A schedule of faults (TOML or JSON)
    #[arg(long)]
    faults: Option<PathBuf>,
    /// Stop after this many seconds of load; without it, run until SIGINT or SIGTERM
    #[arg(long)]
    seconds: Option<f64>,
    /// User requests a second, instead of the topology's
    #[arg(long)]
    rate: Option<f64>,
    /// How the load moves, instead of the topology's
    #[arg(long)]
    pattern: Option<Pattern>,
    /// Seed of users, costs and drawn faults; printed when not given
    #[arg(long)]
    seed: Option<u64>,
    /// A FIFO, or a Unix socket to make, that takes faults as JSON lines while the system runs
    #[arg(long)]
    control: Option<PathBuf>,
    /// The folder for truth, events and logs
    #[arg(long)]
    out: PathBuf,
    /// The folder with the prepared stacks [default: $XDG_CACHE_HOME/faultline or ~/.cache/faultline]
    #[arg(long)]
    cache: Option<PathBuf>,
    /// Serve everything in Rust
    #[arg(long)]
    rust_only: bool,
    /// The first of the ports on 127.0.0.1
    #[arg(long, default_value_t = 17_000)]
    base_port: u16,
    /// The cgroup under which services have theirs
    #[arg(long, default_value = "faultline-playground")]
    cgroup: String,
}

/// A service that is not ready after this long never will be.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// Children are looked after this often.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Users' numbers are shown this often, seconds.
const SHOW_EVERY: u64 = 5;

/// Runs until the time is over or a signal comes.
pub fn run(flags: &Flags) -> anyhow::Result<()> {
    let mut topology = Topology::read(&flags.topology)?;
    if let Some(rate) = flags.rate {
        if !(rate > 0.0 && rate <= 100_000.0) {
            bail!("--rate {rate} is not within 0 to 100000 requests a second");
        }
        topology.load.requests_per_second = rate;
    }
    topology.load.pattern = flags.pattern.unwrap_or(topology.load.pattern);
    let seed = flags.seed.unwrap_or_else(|| crate::truth::unix_ms() % 1_000_000);
    let mut random = Random::seeded(seed);
    let faults = match &flags.faults {
        Some(path) => schedule::read(path, &topology, &mut random).map_err(anyhow::Error::msg)?,
        None => Vec::new(),
    };
    let mut plan = Plan::default();
    for fault in faults {
        plan.add(fault);
    }
    let launchers = stacks::launchers(&mut topology, flags.cache.clone(), flags.rust_only)?;
    let _claim = claim(&flags.cgroup)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut stage = Stage::set(flags, topology, seed, launchers)?;
    let played = runtime.block_on(async {
        let played = stage.play(flags, plan, random).await;
        stage.children.stop_all().await;
        played
    });
    let removed = Cgroups::claim(&flags.cgroup).and_then(|left| left.remove());
    stage.output.finish()?;
    played.and(removed)
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

/// Everything that a run needs in place before the first process starts.
struct Stage {
    topology: Topology,
    children: Children,
    output: Output,
    placement: Placement,
    launchers: stacks::Launchers,
}

impl Stage {
    fn set(
        flags: &Flags,
        topology: Topology,
        seed: u64,
        launchers: stacks::Launchers,
    ) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&flags.out)
            .with_context(|| format!("{} cannot be made", flags.out.display()))?;
        let out = flags.out.canonicalize()?;
        let mut addresses = BTreeMap::new();
        let mut next = flags.base_port;
        for name in topology.services.keys().chain(topology.backends.keys()) {
            addresses.insert(name.clone(), vec![format!("127.0.0.1:{}", free_port(&mut next)?)]);
        }
        let output = Output::create(&out, &topology)?;
        eprintln!("playground: {} with seed {seed} into {}", topology.name, out.display());
        let children = Children::new(Cgroups::claim(&flags.cgroup)?, out.join("logs"))?;
        Ok(Self { topology, children, output, placement: Placement { addresses, out, seed }, launchers })
    }

    async fn play(&mut self, flags: &Flags, mut plan: Plan, mut random: Random) -> anyhow::Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let (order, mut orders) = mpsc::channel(16);
        if let Some(path) = &flags.control {
            control::listen(path, order.clone())?;
        }
        tokio::select! {
            started = self.start_all() => started?,
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
        }
        let mut seconds = self.children.load_lines()?;
        self.children.tell(LOADGEN, "start").await?;
        self.output.load_started()?;
        let begin = Instant::now();
        let mut injector = Injector::default();
        let mut look = tokio::time::interval(LOOK_EVERY);
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
                        self.act(action, &mut injector).await?;
                    }
                }
                Some(second) = seconds.recv() => self.output.second(&second, SHOW_EVERY)?,
                Some(order) = orders.recv() => match order {
                    Order::Stop => break,
                    Order::Fault(wanted, answer) => {
                        let now = begin.elapsed().as_secs_f64();
                        let fault = schedule::fault(wanted, &self.topology, &mut random);
                        let said = fault.map(|mut fault| {
                            fault.at_seconds += now;
                            let said = format!("{} {}", fault.kind.name(), fault.service);
                            plan.add(fault);
                            said
                        });
                        drop(answer.send(said));
                    }
                },
                _ = look.tick() => self.look_after(&injector).await?,
            }
        }
        eprintln!("playground: stopping");
        for number in injector.numbers() {
            self.act(Action::End(number), &mut injector).await?;
        }
        self.stop_load(&mut seconds).await
    }

    /// Starts Redis, services and load, and waits until each is ready.
    async fn start_all(&mut self) -> anyhow::Result<()> {
        let started = Instant::now();
        let specs = self.placement.out.join("specs");
        std::fs::create_dir_all(&specs)?;
        for name in self.topology.backends_of(BackendKind::Redis) {
            let port = self.port(&name).unwrap_or_default();
            self.children.start_redis(&name, port)?;
        }
        let names: Vec<String> = self.topology.services.keys().cloned().collect();
        for (name, index) in names.iter().zip(1..) {
            let spec = service_spec(&self.topology, (name, 0), name, index, &self.placement)
                .context("a service vanished")?;
            let path = specs.join(format!("{name}.json"));
            std::fs::write(&path, serde_json::to_string_pretty(&spec)?)?;
            let Some(service) = self.topology.services.get(name) else { continue };
            let limits = Limits { cpu_cores: service.cpu_cores, memory_mib: service.memory_mib };
            let command = self.launchers.command(service.stack, &path)?;
            self.children.start(name, &command, limits)?;
        }
        let load = specs.join("loadgen.json");
        std::fs::write(
            &load,
            serde_json::to_string_pretty(&load_spec(&self.topology, &self.placement, LOADGEN))?,
        )?;
        self.children.start(LOADGEN, &stacks::load_command(&load)?, Limits::default())?;
        for name in
            self.topology.backends_of(BackendKind::Redis).iter().chain(&names).chain(&[LOADGEN.to_owned()])
        {
            self.children.ready(name, READY_WITHIN).await?;
            let stack = self.topology.services.get(name).map_or("", |service| service.stack.name());
            let port = self.port(name);
            self.output.ready(name, stack, port, self.children.raw_pid(name))?;
        }
        eprintln!("playground: all ready after {:.1} s", started.elapsed().as_secs_f64());
        Ok(())
    }

    fn port(&self, name: &str) -> Option<u16> {
        self.placement.address(name, 0)?.rsplit_once(':')?.1.parse().ok()
    }

    async fn act(&mut self, action: Action, injector: &mut Injector) -> anyhow::Result<()> {
        match action {
            Action::Start(number, fault) => {
                injector.start(number, fault.clone(), &mut self.children).await?;
                self.output.fault_started(number, &fault)
            }
            Action::End(number) => match injector.end(number, &mut self.children).await? {
                Some(fault) => self.output.fault_ended(number, &fault),
                None => Ok(()),
            },
        }
    }

    /// A service that died starts again, as an orchestrator would do, and the run says so.
    async fn look_after(&mut self, injector: &Injector) -> anyhow::Result<()> {
        for name in self.children.restart_dead()? {
            self.output.died(&name)?;
            injector.tell(&name, &mut self.children).await;
        }
        let names = self.topology.services.keys().chain(self.topology.backends.keys());
        self.output.usage(names.map(|name| (name.as_str(), self.children.usage(name))))
    }

    /// Load ends first and waits for its answers, so that no call is cut by the end of the run.
    async fn stop_load(&mut self, seconds: &mut mpsc::Receiver<Second>) -> anyhow::Result<()> {
        drop(self.children.tell(LOADGEN, "stop").await);
        let longest = Duration::from_millis(u64::from(self.topology.load.deadline_ms) + 1_000);
        drop(tokio::time::timeout(longest, async { while seconds.recv().await.is_some() {} }).await);
        self.output.load_stopped()
    }
}

/// The next port that nobody listens on.
fn free_port(next: &mut u16) -> anyhow::Result<u16> {
    while *next < u16::MAX {
        let port = *next;
        *next += 1;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port is left above --base-port")
}
