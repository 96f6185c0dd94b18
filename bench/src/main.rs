//! The command line of the playground; what the commands do is in the library.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use playground::cost::traffic::Wire;
use playground::faults::{Kind, Role};
use playground::random::Random;
use playground::topology::{self, Stack, Topology};
use playground::{
    agreement, anomaly, cgroups, cost, evaluate, faults, generate, load, run, service, stacks, stress, study,
};

#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start the system, put it under load, break it on schedule, and write what happened
    Run(run::Flags),
    /// Show which fault fits which service, and what each does
    Faults {
        /// The topology file [default: the online boutique]
        #[arg(long)]
        topology: Option<PathBuf>,
        /// Print every pair (the default)
        #[arg(long)]
        list: bool,
        /// Events instead of faults: what is not broken and must not page
        #[arg(long)]
        events: bool,
        /// Say what each kind does and print its parameters, instead of pairs
        #[arg(long, conflicts_with = "list")]
        explain: bool,
        /// Print a JSON list instead of plain lines
        #[arg(long)]
        json: bool,
    },
    /// Check a topology and a schedule without starting anything, and show what the topology amounts to
    Check {
        /// The topology file
        #[arg(long)]
        topology: PathBuf,
        /// The schedule of faults
        #[arg(long)]
        faults: Option<PathBuf>,
    },
    /// Make a data set of many faults over many systems, each run recorded by an agent of its own
    Generate(Box<generate::Flags>),
    /// Print a topology of so many services, drawn with a seed
    #[command(
        after_help = "Example:\n  playground topology --services 40 --seed 7 --out mesh.toml\n\nThe same seed gives the same file. \
        Degrees and depths are like those of published call graphs: bench/README.md says which."
    )]
    Topology {
        /// How many services, 2 to 200
        #[arg(long)]
        services: usize,
        /// The seed
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Draw from these stacks [default: all; above 40 services most are Rust]
        #[arg(long, value_delimiter = ',')]
        stacks: Vec<Stack>,
        /// Write it here instead of to standard output
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Find the highest rate that a system serves within a budget of errors and latency
    Stress(stress::Flags),
    /// Compare what an agent counted of a run with what happened, edge by edge
    Compare(agreement::Compare),
    /// Rank the faults of a data set
    Evaluate(evaluate::Evaluate),
    /// Measure whether scores depend on the framework: one system in several stacks
    Study(study::Study),
    /// Score the services of an anomaly data set, each by a model that never saw it
    Anomaly(anomaly::Anomaly),
    /// Measure what the agent costs the traffic that it watches
    Cost(cost::Flags),
    /// Prepare the Python, Node and Go services: downloads once, later runs are offline
    Setup(stacks::setup::Flags),
    /// One service in Rust (started by `run`)
    #[command(hide = true)]
    Service {
        #[arg(long)]
        spec: PathBuf,
    },
    /// The load generator (started by `run`)
    #[command(hide = true)]
    Load {
        #[arg(long)]
        spec: PathBuf,
    },
    /// One end of the traffic that `cost` measures (started by it)
    #[command(hide = true)]
    Talk {
        #[command(subcommand)]
        end: End,
    },
    /// A process that uses the processor (started by the fault cpu-hog)
    #[command(hide = true)]
    Hog {
        #[arg(long)]
        threads: u32,
        /// Share of the time
        #[arg(long, default_value_t = 1.0)]
        busy: f64,
    },
    /// Enter cgroups, then become another command (started by `run`)
    #[command(hide = true)]
    Enter(cgroups::Enter),
}

/// The ends of the measured traffic.
#[derive(Subcommand)]
enum End {
    /// Serves; prints its ports for each line of standard input
    Serve,
    /// Connects and talks as standard input says
    Drive,
}

fn main() -> ExitCode {
    match obey(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("playground: {error:#}");
            // As a shell tells of a program that a signal ended.
            let interrupted = error.downcast_ref::<stress::Interrupted>();
            interrupted.map_or(ExitCode::FAILURE, |by| ExitCode::from(128 + by.signal))
        }
    }
}

fn obey(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Run(flags) => run::run(&flags),
        Command::Faults { topology, list: _, events, explain, json } => {
            let role = if events { Role::Event } else { Role::Fault };
            if explain { explain_faults(role, json) } else { list_faults(role, topology.as_deref(), json) }
        }
        Command::Check { topology, faults } => check(&topology, faults.as_deref()),
        Command::Generate(flags) => generate::generate(&flags),
        Command::Topology { services, seed, stacks, out } => {
            draw_topology(services, seed, &stacks, out.as_deref())
        }
        Command::Stress(flags) => stress::stress(&flags),
        Command::Compare(compare) => compare.run(),
        Command::Evaluate(evaluate) => evaluate.run(),
        Command::Study(study) => study.run(),
        Command::Anomaly(anomaly) => anomaly.run(),
        Command::Cost(flags) => cost::measure(&flags),
        Command::Talk { end: End::Serve } => cost::traffic::serve(Wire::Plain),
        Command::Talk { end: End::Drive } => cost::traffic::drive(Wire::Plain),
        Command::Setup(flags) => stacks::setup::setup(&flags),
        Command::Service { spec } => service::serve(&spec),
        Command::Load { spec } => load::generate(&spec),
        Command::Hog { threads, busy } => Ok(faults::inject::hog(threads, busy)?),
        Command::Enter(wanted) => cgroups::enter(&wanted),
    }
}

fn draw_topology(services: usize, seed: u64, stacks: &[Stack], out: Option<&Path>) -> anyhow::Result<()> {
    let text = topology::generate::text(services, seed, stacks)?;
    let Some(out) = out else {
        print!("{text}");
        return Ok(());
    };
    std::fs::write(out, &text).with_context(|| format!("{} cannot be written", out.display()))?;
    eprintln!("{}", Topology::read(out)?.summary());
    Ok(())
}

fn check(topology: &Path, schedule: Option<&Path>) -> anyhow::Result<()> {
    let topology = Topology::read(topology)?;
    println!("{}", topology.summary());
    if let Some(schedule) = schedule {
        let found = faults::schedule::read(schedule, &topology, &mut Random::seeded(0));
        println!("  faults     {}", found.map_err(anyhow::Error::msg)?.len());
    }
    Ok(())
}

fn list_faults(role: Role, path: Option<&Path>, json: bool) -> anyhow::Result<()> {
    let topology = match path {
        Some(path) => Topology::read(path)?,
        None => Topology::boutique()?,
    };
    let pairs = faults::pairs(&topology, role);
    if json {
        let pairs: Vec<_> = pairs
            .iter()
            .map(|(kind, service)| serde_json::json!({"kind": kind.name(), "service": service}))
            .collect();
        println!("{}", serde_json::to_string(&pairs)?);
    } else {
        for (kind, service) in pairs {
            println!("{} {service}", kind.name());
        }
    }
    Ok(())
}

fn explain_faults(role: Role, json: bool) -> anyhow::Result<()> {
    let kinds: Vec<Kind> = Kind::all().filter(|kind| kind.role() == role).collect();
    if json {
        let shown = kinds.iter().map(|kind| {
            serde_json::json!({
                "kind": kind, "does": kind.does(), "fits": kind.fits(), "method": kind.in_method(),
                "status": kind.status(), "parameters": kind.parameters(),
            })
        });
        println!("{}", serde_json::to_string_pretty(&shown.collect::<Vec<_>>())?);
        return Ok(());
    }
    for kind in kinds {
        println!("{}: {}", kind.name(), kind.does());
        for one in kind.parameters() {
            let scaled = if one.harmless.is_some() { ", scaled by strength" } else { "" };
            println!(
                "    {} = {} ({} to {}{scaled}): {}",
                one.name, one.default, one.least, one.most, one.what
            );
        }
        if let Some(status) = kind.status() {
            println!("    status = \"{status}\": the gRPC status of failing calls");
        }
        if kind.in_method() {
            println!("    method: the method that is struck; drawn with the seed when left out");
        }
    }
    Ok(())
}
