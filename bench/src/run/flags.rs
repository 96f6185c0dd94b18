//! What `playground run` is asked for, and the topology that follows from it.

use std::path::PathBuf;

use anyhow::bail;

use crate::topology::{Pattern, Stack, Topology};
use crate::watcher;

/// Flags of `playground run`.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    playground run --topology bench/topologies/online-boutique.toml --seconds 60 --out shop\n  \
    playground run --services 40 --seed 7 --stacks go,java,rust --seconds 600 --out mesh\n  \
    playground run --topology T --faults schedule.toml --nodes 3 --out three-nodes\n  \
    playground run --topology T --seconds 600 --agent --out watched      # does the agent count what happened?\n\n\
    A schedule is TOML with [[faults]] and [[events]], each with kind, service, at_seconds, duration_seconds and\n\
    parameters; `playground faults --list` names them all.")]
pub struct Flags {
    /// The topology file (TOML or JSON)
    #[arg(long, required_unless_present = "services", conflicts_with = "services")]
    topology: Option<PathBuf>,
    /// Draw a topology of so many services with --seed, instead of reading one
    #[arg(long)]
    services: Option<usize>,
    /// A schedule of faults and events (TOML or JSON)
    #[arg(long)]
    pub(super) faults: Option<PathBuf>,
    /// Stop after this many seconds of load; without it, run until SIGINT or SIGTERM
    #[arg(long)]
    pub(super) seconds: Option<f64>,
    /// User requests a second, instead of the topology's
    #[arg(long)]
    rate: Option<f64>,
    /// How the load moves, instead of the topology's
    #[arg(long)]
    pattern: Option<Pattern>,
    /// Seed of the drawn topology, users, costs and drawn faults; printed when not given
    #[arg(long)]
    pub(super) seed: Option<u64>,
    /// A FIFO, or a Unix socket to make, that takes faults, events and rates as JSON lines while the system runs
    #[arg(long)]
    pub(super) control: Option<PathBuf>,
    /// The folder for truth, events and logs
    #[arg(long)]
    pub(super) out: PathBuf,
    /// The folder with the prepared stacks [default: $XDG_CACHE_HOME/faultline or ~/.cache/faultline]
    #[arg(long)]
    pub(super) cache: Option<PathBuf>,
    /// Serve everything in this stack
    #[arg(long, conflicts_with = "stacks")]
    stack: Option<Stack>,
    /// Serve in these stacks: by turns in the order of the services' names, or drawn with --services; with --services, draw from these
    #[arg(long, value_delimiter = ',')]
    stacks: Vec<Stack>,
    /// Serve everything in Rust: the same as --stack rust
    #[arg(long, conflicts_with_all = ["stack", "stacks"])]
    rust_only: bool,
    /// Have the agent watch the run and compare its counts with the truth at the end: a table of edges, OUT/agent.rec,
    /// OUT/agreement.json, and failure where more than one call in a thousand differs or one request in a thousand
    /// fails unplanned [default: `faultline` beside this program]
    #[arg(long, value_name = "FILE", conflicts_with = "nodes")]
    #[expect(clippy::option_option, reason = "clap's way to say: a flag whose value may be left out")]
    pub(super) agent: Option<Option<PathBuf>>,
    /// Spread services over so many network namespaces, as if on several nodes
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=i64::from(super::network::MOST_NODES)))]
    pub(super) nodes: u32,
    /// The first of the ports on 127.0.0.1 (or on each node)
    #[arg(long, default_value_t = 17_000)]
    pub(super) base_port: u16,
    /// The cgroup under which services have theirs
    #[arg(long, default_value = "faultline-playground")]
    pub(super) cgroup: String,
}

impl Flags {
    /// The agent's program, if one is to watch.
    pub(super) fn agent(&self) -> anyhow::Result<Option<PathBuf>> {
        self.agent.as_ref().map(|file| watcher::program(file.as_deref())).transpose()
    }

    /// The system to start.
    pub(super) fn system(&self, seed: u64) -> anyhow::Result<Topology> {
        let only = if self.rust_only { Some(Stack::Rust) } else { self.stack };
        let stacks: Vec<Stack> = only.map_or_else(|| self.stacks.clone(), |stack| vec![stack]);
        let mut topology = match (&self.topology, self.services) {
            (Some(path), _) => Topology::read(path)?,
            (None, Some(services)) => Topology::generate(services, seed, &stacks)?,
            (None, None) => bail!("--topology or --services says what to run"),
        };
        if self.topology.is_some() {
            for (service, stack) in topology.services.values_mut().zip(stacks.iter().cycle()) {
                service.stack = *stack;
            }
        }
        if let Some(rate) = self.rate {
            check_rate(rate)?;
            topology.load.requests_per_second = rate;
        }
        topology.load.pattern = self.pattern.unwrap_or(topology.load.pattern);
        Ok(topology)
    }
}

/// Users can send so many requests a second.
pub(super) fn check_rate(rate: f64) -> anyhow::Result<()> {
    if !(rate > 0.0 && rate <= 100_000.0) {
        bail!("a rate of {rate} is not within 0 to 100000 requests a second");
    }
    Ok(())
}
