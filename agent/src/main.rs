//! The `faultline` command.

use clap::Parser;
use faultline::cli::{Cli, Command};
use faultline::config::{Config, Invalid};
use faultline::{check, run, sources, top};
use std::process::ExitCode;
use std::time::Duration;

/// Wrong usage, by the convention that clap follows too.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    match execute(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("faultline: {error:#}");
            let usage = error.downcast_ref::<Invalid>().is_some();
            if usage { ExitCode::from(USAGE) } else { ExitCode::FAILURE }
        }
    }
}

fn execute(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run(flags) => run::run(Config::resolve(flags)?, run::Purpose::Serve),
        Command::Record(flags) => {
            let config = Config { record: Some(flags.file), ..Config::resolve(flags.run)? };
            run::run(config, run::Purpose::Record(flags.seconds.map(Duration::from_secs)))
        }
        Command::Replay(flags) => sources::replay::print(&flags),
        Command::Top(flags) => top::run(&flags),
        Command::Check(flags) => return check::run(&Config::resolve(flags.run)?, flags.json),
    }?;
    Ok(ExitCode::SUCCESS)
}
