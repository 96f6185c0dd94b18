//! `cargo xtask test`: sets up what is missing and runs every test; a stage runs alone by its name.

use crate::process::{build_host_crates, cargo, run, test_host_crates};
use crate::setup::{self, Purpose, step};
use crate::{demo, house, kernels, probes, stacks};
use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use std::time::Instant;

/// Set up what is missing and run every test, or the named stages.
#[derive(Args)]
pub(crate) struct Test {
    /// Stages to run [default: all, in this order].
    #[arg(value_enum)]
    stages: Vec<Stage>,
}

/// A part of the tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Stage {
    /// The pure core: no root, less than a minute.
    Core,
    /// The agent's edges, the trainer, the playground and these commands: no root.
    Unit,
    /// The shipped kernel object is what its sources give, byte for byte.
    Probes,
    /// Real kernel, real traffic, real Prometheus, real Helm: needs root.
    E2e,
    /// Every fault of the playground has its effect on real processes, its nodes and its clean-up work: needs root.
    Playground,
    /// Six gRPC stacks, each as client and server of each, under the agent, and gRPC over TLS: needs root.
    Stacks,
    /// The agent's check and the capture tests on Debian's 6.1 and 6.12 kernels, in QEMU.
    Kernels,
    /// The demo, on faults of different kinds: needs root.
    Demo,
}

/// What the demo stage breaks: one fault of each family of evidence (a service's own time, status codes,
/// a back end that speaks no gRPC).
const DEMO_FAULTS: [(&str, &str); 3] =
    [("latency", "currencyservice"), ("errors", "paymentservice"), ("slow-redis", "redis-cart")];

impl Test {
    pub(crate) fn run(&self) -> Result<()> {
        let stages = if self.stages.is_empty() { Stage::value_variants() } else { &self.stages };
        if stages.iter().any(|stage| !matches!(stage, Stage::Core | Stage::Stacks)) {
            setup::ensure(Purpose::Test)?;
        }
        let started = Instant::now();
        for stage in stages {
            stage.run()?;
        }
        eprintln!("all stages passed in {:.0} s", started.elapsed().as_secs_f64());
        Ok(())
    }
}

impl Stage {
    fn run(self) -> Result<()> {
        match self {
            Self::Core => {
                step("core", "the pure core", || run(&mut cargo(["test", "--package", "faultline-core"])))
            }
            Self::Unit => step("unit", "edges, trainer, playground, commands", || {
                build_host_crates()?;
                run(&mut test_host_crates(&[
                    "--lib", "--bins", "--test", "replay", "--test", "golden", "--test", "corpus",
                ]))
            }),
            Self::Probes => step("probes", "the shipped kernel object against its sources", || {
                probes::verify(house::root())
            }),
            Self::E2e => {
                need_root("e2e")?;
                step("e2e", "real kernel, traffic, Prometheus and Helm", || {
                    build_host_crates()?;
                    let tests = [
                        "beginnings",
                        "bounds",
                        "capture",
                        "chart",
                        "harmless",
                        "lifecycle",
                        "metrics",
                        "seen",
                        "wire",
                    ];
                    let selected: Vec<&str> = tests.iter().flat_map(|test| ["--test", test]).collect();
                    run(test_host_crates(&selected).args(["--", "--test-threads=1"]))
                })
            }
            Self::Kernels => step("kernels", "capture on Debian's kernels, emulated", || {
                build_host_crates()?;
                kernels::verify()
            }),
            Self::Playground => {
                need_root("playground")?;
                step("playground", "faults, nodes and clean-up on real processes", || {
                    build_host_crates()?;
                    let arguments = ["--test", "faults", "--test", "runs"];
                    run(test_host_crates(&arguments).args(["--", "--ignored", "--test-threads=1"]))
                })
            }
            Self::Demo => {
                need_root("demo")?;
                build_host_crates()?;
                for (fault, service) in DEMO_FAULTS {
                    step("demo", &format!("{fault} on {service}"), || demo::passes(fault, service))?;
                }
                Ok(())
            }
            Self::Stacks => {
                need_root("stacks")?;
                step("stacks", "every gRPC stack with every other", stacks::verify)
            }
        }
    }
}

fn need_root(stage: &str) -> Result<()> {
    if !setup::is_root() {
        bail!(
            "the {stage} stage loads kernel programs and makes cgroups: run it as root, or name other stages"
        );
    }
    Ok(())
}

/// `cargo xtask probes`: builds the kernel object and puts it where the agent embeds it.
pub(crate) fn build_probes() -> Result<()> {
    setup::ensure(Purpose::Probes)?;
    probes::ship(house::root())
}
