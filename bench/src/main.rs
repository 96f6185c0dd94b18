//! The playground: a gRPC system of real stacks that breaks on command, and the evaluation of data sets.

use clap::Parser;
use playground::evaluate;

/// A system that breaks on command, and what was made of it.
#[derive(Parser)]
enum Command {
    /// Rank the faults of a data set.
    Evaluate(evaluate::Evaluate),
}

fn main() -> anyhow::Result<()> {
    match Command::parse() {
        Command::Evaluate(evaluate) => evaluate.run(),
    }
}
