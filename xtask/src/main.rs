//! `cargo xtask COMMAND`: the project's own commands, one file each.
//! Nothing here is part of the product; what a user runs on a node is the `faultline` binary.
#![forbid(unsafe_code)]

mod bench;
mod check;
mod demo;
mod fuzz;
mod house;
mod kernels;
mod offline;
mod parts;
mod probes;
mod process;
mod setup;
mod soak;
mod stacks;
mod test;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Faultline's development commands.
#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    after_help = "Examples:\n  cargo xtask demo\n  cargo xtask demo --fault slow-redis --service redis-cart --json\n  \
                  cargo xtask test core probes\n  cargo xtask evaluate data/nezha-ob --out rankings/nezha-ob.jsonl\n  \
                  cargo xtask evaluate bench/data --report faults.html"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Break a real gRPC system on this machine and watch Faultline name the cause (needs root).
    Demo(demo::Demo),
    /// Set up what is missing and run every test, or the named stages.
    Test(test::Test),
    /// Formatting, lints, dependencies, documentation: fast, no root.
    Check,
    /// Find out what is missing for a purpose, and install it.
    Setup(setup::Setup),
    /// Build the kernel object from its sources and put it where the agent embeds it.
    Probes,
    /// Measure what watching costs, and how fast the decoder is (needs root).
    Bench(bench::Bench),
    /// Look for inputs that break a decoder, a parser or the agent's port.
    Fuzz(fuzz::Fuzz),
    /// Rank the faults of a data set.
    Evaluate(offline::Evaluate),
    /// Make a data set of many faults over many systems (needs root).
    Generate(offline::Generate),
    /// Score the services of an anomaly detection data set.
    Anomaly(offline::Anomaly),
    /// Keep a kernel under load for hours, with and without the programs, and count its panics.
    Soak(soak::Soak),
    /// Train, quantise and check the model.
    Train(offline::Train),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Demo(demo) => demo.run(),
        Command::Test(test) => test.run(),
        Command::Check => check::run_all(),
        Command::Setup(setup) => setup.run(),
        Command::Probes => test::build_probes(),
        Command::Bench(bench) => bench.run(),
        Command::Fuzz(fuzz) => fuzz.run(),
        Command::Evaluate(evaluate) => evaluate.run(),
        Command::Generate(generate) => generate.run(),
        Command::Anomaly(anomaly) => anomaly.run(),
        Command::Soak(soak) => soak.run(),
        Command::Train(train) => train.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
