//! `cargo xtask bench`: what watching costs, measured on this machine and written to bench/results. Builds what is
//! needed; the playground measures.

use crate::process::{build_host_crates, build_tls_talk, cargo, command, run};
use crate::setup::{self, Purpose, step};
use crate::{house, probes};
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// Measure what watching costs, and how fast the decoder is: some ten minutes (needs root).
#[derive(Args)]
pub(crate) struct Bench {
    /// Turns of each pair at each kind of traffic, made a multiple of four; more make the intervals narrower.
    #[arg(long, default_value_t = 32)]
    rounds: u32,
    /// Only kinds of traffic whose name contains this, such as "100 KB", HTTP, TLS or "early exit".
    #[arg(long)]
    only: Option<String>,
    /// Where to write cost.json and cost.md.
    #[arg(long, default_value = "bench/results")]
    out: PathBuf,
}

impl Bench {
    pub(crate) fn run(&self) -> Result<()> {
        if !setup::is_root() {
            bail!("the benchmark loads kernel programs and makes cgroups: run it as root");
        }
        setup::ensure(Purpose::Bench)?;
        build_host_crates()?;
        build_tls_talk()?;
        let yardsticks = probes::build_yardsticks(house::root())?;
        let decoder = house::target().join("bench-decoder.txt");
        step("decoder", "frames and calls a second on one core", || measure_decoder(&decoder))?;
        step("cost", "CPU a request with and without the agent", || {
            let mut cost = command(house::binary("playground"));
            cost.arg("cost").arg("--out").arg(std::path::absolute(&self.out)?);
            cost.arg("--yardsticks").arg(&yardsticks).arg("--decoder").arg(&decoder);
            cost.args(["--rounds", &self.rounds.to_string()]);
            if let Some(only) = &self.only {
                cost.args(["--only", only]);
            }
            run(&mut cost)
        })
    }
}

/// Runs the decoder's benchmark with what it says going to a file.
fn measure_decoder(out: &Path) -> Result<()> {
    let file = fs::File::create(out).with_context(|| format!("cannot write {}", out.display()))?;
    let status = cargo(["bench", "--package", "faultline-core", "--bench", "decode"])
        .stdout(Stdio::from(file))
        .status()
        .context("cannot start cargo")?;
    ensure!(status.success(), "the decoder's benchmark failed ({status})");
    Ok(())
}
