//! The command line of the playground; what the commands do is in the library.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use playground::{cgroups, evaluate, faults, load, run, service, stacks, topology};

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
    /// Show which fault fits which service
    Faults {
        /// The topology file
        #[arg(long)]
        topology: PathBuf,
        /// Print every pair (the default, and the only thing to do)
        #[arg(long)]
        list: bool,
        /// Print a JSON list instead of plain lines
        #[arg(long)]
        json: bool,
    },
    /// Rank the faults of a data set
    Evaluate(evaluate::Evaluate),
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
    /// A process that uses the processor (started by the fault cpu-hog)
    #[command(hide = true)]
    Hog {
        #[arg(long)]
        threads: u32,
    },
    /// Enter cgroups, then become another command (started by `run`)
    #[command(hide = true)]
    Enter {
        #[arg(long)]
        into: Vec<PathBuf>,
        #[arg(last = true)]
        command: Vec<String>,
    },
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Run(flags) => run::run(&flags),
        Command::Faults { topology, list: _, json } => list_faults(&topology, json),
        Command::Evaluate(evaluate) => evaluate.run(),
        Command::Setup(flags) => stacks::setup::setup(&flags),
        Command::Service { spec } => service::serve(&spec),
        Command::Load { spec } => load::generate(&spec),
        Command::Hog { threads } => Ok(faults::inject::hog(threads)?),
        Command::Enter { into, command } => cgroups::enter(&into, &command),
    }
}

fn list_faults(path: &std::path::Path, json: bool) -> anyhow::Result<()> {
    let pairs = faults::pairs(&topology::Topology::read(path)?);
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
