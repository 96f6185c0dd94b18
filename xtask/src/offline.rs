//! `cargo xtask evaluate`, `anomaly` and `train`: the commands that read files and need no kernel; and
//! `generate`, which makes such files and needs one. They build and call the playground and the trainer, so
//! that xtask itself stays quick to build.

use crate::house;
use crate::process::{build_host_crates, cargo, command, run};
use crate::setup::{self, Purpose};
use anyhow::{Result, bail};
use clap::Args;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Rank the faults of a data set.
#[derive(Args)]
pub(crate) struct Evaluate {
    /// A folder with meta.json, graph.csv, a faults file and episodes/.
    dir: PathBuf,
    /// Where to write the rankings, one JSON object a line [default: standard output].
    #[arg(long)]
    out: Option<PathBuf>,
    /// Leave the autoencoder's evidence out.
    #[arg(long)]
    no_model: bool,
    /// Write a page with tables and plots.
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
    /// Write every number of the table, and each fault's outcome.
    #[arg(long, value_name = "FILE.json")]
    json: Option<PathBuf>,
    /// Another autoencoder than the one that comes with the agent.
    #[arg(long, value_name = "FILE.onnx")]
    model: Option<PathBuf>,
    /// Episodes replayed at a time [default: the number of cores].
    #[arg(long, value_name = "N")]
    parallel: Option<usize>,
    /// Replay everything again, whatever was kept.
    #[arg(long)]
    fresh: bool,
}

/// Make a data set of many faults over many systems (needs root).
#[derive(Args)]
pub(crate) struct Generate {
    /// Passed on to the playground; `cargo xtask generate -- --help` lists them.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "PLAYGROUND'S ARGUMENTS")]
    arguments: Vec<OsString>,
}

/// Score the services of an anomaly detection data set.
#[derive(Args)]
pub(crate) struct Anomaly {
    /// A folder with one service-NN.csv.gz a service.
    dir: PathBuf,
    /// Where to write the scores, one CSV line a service and step [default: standard output].
    #[arg(long)]
    out: Option<PathBuf>,
}

/// Train, quantise and check the model.
#[derive(Args)]
pub(crate) struct Train {
    /// Passed on to the trainer; `cargo xtask train -- --help` lists them.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "TRAINER'S ARGUMENTS")]
    arguments: Vec<OsString>,
}

impl Evaluate {
    pub(crate) fn run(&self) -> Result<()> {
        if !self.no_model {
            setup::ensure(Purpose::Model)?;
        }
        let mut arguments = playground("evaluate", &self.dir, self.out.as_deref())?;
        for (flag, file) in [("--report", &self.report), ("--json", &self.json), ("--model", &self.model)] {
            if let Some(file) = file {
                arguments.extend([flag.into(), std::path::absolute(file)?.into_os_string()]);
            }
        }
        if let Some(parallel) = self.parallel {
            arguments.extend(["--parallel".into(), parallel.to_string().into()]);
        }
        for (flag, given) in [("--no-model", self.no_model), ("--fresh", self.fresh)] {
            if given {
                arguments.push(flag.into());
            }
        }
        run_playground(&arguments)
    }
}

impl Generate {
    pub(crate) fn run(&self) -> Result<()> {
        setup::ensure(Purpose::Demo)?;
        build_host_crates()?;
        // Paths are the user's, so the playground runs where the user is.
        let here = std::env::current_dir()?;
        run(command(house::binary("playground")).arg("generate").args(&self.arguments).current_dir(here))
    }
}

impl Anomaly {
    pub(crate) fn run(&self) -> Result<()> {
        run_playground(&playground("anomaly", &self.dir, self.out.as_deref())?)
    }
}

impl Train {
    pub(crate) fn run(&self) -> Result<()> {
        setup::ensure(Purpose::Model)?;
        // Paths are the user's, so the trainer runs where the user is.
        let here = std::env::current_dir()?;
        run(cargo(["run", "--release", "--quiet", "--package", "faultline-models", "--manifest-path"])
            .arg(house::root().join("Cargo.toml"))
            .arg("--")
            .args(&self.arguments)
            .current_dir(here))
    }
}

/// Paths are made absolute: the child runs in the checkout, the user may not.
fn playground(command: &str, dir: &Path, out: Option<&Path>) -> Result<Vec<OsString>> {
    if !dir.is_dir() {
        bail!("{} is not a folder; give a data set's folder, such as data/nezha-ob", dir.display());
    }
    let mut arguments = vec![command.into(), std::path::absolute(dir)?.into_os_string()];
    if let Some(out) = out {
        arguments.push("--out".into());
        arguments.push(std::path::absolute(out)?.into_os_string());
    }
    Ok(arguments)
}

fn run_playground(arguments: &[OsString]) -> Result<()> {
    run(cargo(["run", "--release", "--quiet", "--package", "playground", "--"]).args(arguments))
}
