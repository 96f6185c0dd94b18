//! How a service of each stack is started. A stack that is not prepared is named, and its services run
//! in Rust. Who prepares the stacks: `setup`.

mod cpp;
mod java;
mod packages;
pub mod setup;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::topology::{Stack, Topology};

/// The words before `--spec FILE` that start a service, for each prepared stack.
pub struct Launchers {
    words: BTreeMap<Stack, Vec<String>>,
}

impl Launchers {
    /// The whole command of a service.
    pub fn command(&self, stack: Stack, spec: &Path) -> anyhow::Result<Vec<String>> {
        let words = self.words.get(&stack).with_context(|| format!("{} is not prepared", stack.name()))?;
        let spec = spec.to_str().context("the output path is not UTF-8")?;
        Ok(words.iter().cloned().chain(["--spec".into(), spec.into()]).collect())
    }
}

/// Finds the stacks that the topology needs, preparing them where that is possible; services of the
/// others become Rust.
pub fn launchers(topology: &mut Topology, cache: Option<PathBuf>) -> anyhow::Result<Launchers> {
    let mut words = BTreeMap::from([(Stack::Rust, vec![own_path()?, "service".into()])]);
    let needed: std::collections::BTreeSet<Stack> = topology
        .services
        .values()
        .map(|service| service.stack)
        .filter(|&stack| stack != Stack::Rust)
        .collect();
    if !needed.is_empty() {
        let cache = setup::cache_folder(cache)?;
        for stack in needed {
            match setup::prepare(stack, &cache, setup::Mode::Install) {
                Ok(launcher) => drop(words.insert(stack, launcher)),
                Err(error) => {
                    eprintln!("playground: no {}: {error:#}; its services run in Rust", stack.name())
                }
            }
        }
    }
    for service in topology.services.values_mut() {
        if !words.contains_key(&service.stack) {
            service.stack = Stack::Rust;
        }
    }
    Ok(Launchers { words })
}

/// The command of the load generator.
pub fn load_command(spec: &Path) -> anyhow::Result<Vec<String>> {
    let spec = spec.to_str().context("the output path is not UTF-8")?;
    Ok(vec![own_path()?, "load".into(), "--spec".into(), spec.into()])
}

fn own_path() -> anyhow::Result<String> {
    let path = std::env::current_exe().context("the playground does not know its own path")?;
    path.to_str().map(str::to_owned).context("the playground's path is not UTF-8")
}
