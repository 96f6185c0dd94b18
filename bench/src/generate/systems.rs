//! A system's name as users write it comes in; the arguments that make `playground run` start it and the
//! menu of what can happen in it go out. The playground itself is asked, through its command line.

use super::plan::Menu;
use crate::topology::Topology;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The systems of a data set when nothing else is said.
pub(super) const ALL: [&str; 5] =
    ["online-boutique", "deep-chain", "wide-fan-out", "layered-mesh", "generated-20-7"];

/// A system.
#[derive(Clone, Debug)]
pub(super) struct System {
    /// Names its folder in the data set.
    pub(super) name: String,
    /// Its file.
    pub(super) file: PathBuf,
}

impl System {
    /// A file's path, the name of a shipped topology, or `generated-SERVICES-SEED`; what is not a file
    /// already is written into `folder`.
    pub(super) fn named(name: &str, folder: &Path) -> Result<Self> {
        if name.ends_with(".toml") || name.ends_with(".json") {
            let file = std::path::absolute(name)?;
            ensure!(file.is_file(), "{name}: there is no such file");
            let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            return Ok(Self { name: stem, file });
        }
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("topologies").join(format!("{name}.toml"));
        if shipped.is_file() {
            return Ok(Self { name: name.to_owned(), file: shipped });
        }
        if let Some((services, seed)) = generated(name) {
            return Self::generate(name, services, seed, folder);
        }
        bail!(
            "{name}: neither a file ending in .toml or .json, nor generated-SERVICES-SEED, nor one of those in {}",
            shipped.parent().unwrap_or(Path::new(".")).display()
        )
    }

    fn generate(name: &str, services: usize, seed: u64, folder: &Path) -> Result<Self> {
        let file = folder.join(format!("{name}.toml"));
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let made = playground()?
            .arg("topology")
            .args(["--services", &services.to_string(), "--seed", &seed.to_string(), "--out"])
            .arg(&file)
            .output()?;
        ensure!(made.status.success(), "{name}: {}", String::from_utf8_lossy(&made.stderr).trim());
        Ok(Self { name: name.to_owned(), file })
    }

    /// What can happen in it.
    pub(super) fn menu(&self) -> Result<Menu> {
        let topology = Topology::read(&self.file)?;
        let list = |more: &[&str]| {
            ask(playground()?
                .args(["faults", "--list", "--json"])
                .args(more)
                .arg("--topology")
                .arg(&self.file))
        };
        Ok(Menu {
            faults: pairs(&list(&[])?),
            events: pairs(&list(&["--events"])?),
            gentle: gentle(&ask(playground()?.args(["faults", "--explain", "--json"]))?),
            calls_per_request: topology.summary().calls_per_request,
        })
    }
}

/// This program, to be asked or started again.
pub(super) fn playground() -> Result<Command> {
    Ok(Command::new(std::env::current_exe().context("the playground does not find itself")?))
}

fn generated(name: &str) -> Option<(usize, u64)> {
    let (services, seed) = name.strip_prefix("generated-")?.split_once('-')?;
    Some((services.parse().ok()?, seed.parse().ok()?))
}

/// The rows of a JSON list that the playground prints.
fn ask(command: &mut Command) -> Result<Vec<Value>> {
    let said = command.output()?;
    ensure!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr).trim());
    serde_json::from_slice(&said.stdout).context("what the playground lists is no JSON list")
}

/// Rows of kind and service, by kind.
fn pairs(rows: &[Value]) -> BTreeMap<String, Vec<String>> {
    let mut pairs: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in rows {
        let text = |key: &str| row.get(key).and_then(Value::as_str).map(str::to_owned);
        if let Some(kind) = text("kind") {
            pairs.entry(kind).or_default().extend(text("service"));
        }
    }
    pairs
}

/// The kinds with a parameter that `strength` scales.
fn gentle(rows: &[Value]) -> BTreeSet<String> {
    let scaled = |row: &&Value| {
        let parameters = row.get("parameters").and_then(Value::as_array).into_iter().flatten();
        parameters.clone().any(|one| one.get("harmless").is_some_and(Value::is_number))
    };
    rows.iter().filter(scaled).filter_map(|row| Some(row.get("kind")?.as_str()?.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn names() {
        assert_eq!(generated("generated-20-7"), Some((20, 7)));
        assert_eq!(generated("generated-x-7"), None);
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(System::named("online-boutique", folder.path()).unwrap().name, "online-boutique");
        let error = System::named("nowhere", folder.path()).unwrap_err().to_string();
        assert!(error.starts_with("nowhere: neither a file"), "{error}");
    }

    #[test]
    fn lists_become_a_menu() {
        let rows = serde_json::json!([
            {"kind": "latency", "service": "a"}, {"kind": "latency", "service": "b"}, {"kind": "burst"},
        ]);
        let pairs = pairs(rows.as_array().unwrap());
        assert_eq!(pairs.get("latency").unwrap(), &["a", "b"]);
        assert_eq!(pairs.get("burst").unwrap(), &Vec::<String>::new());
        let explained = serde_json::json!([
            {"kind": "latency", "parameters": [{"name": "latency_ms", "harmless": 0.0}]},
            {"kind": "stop", "parameters": [{"name": "x", "harmless": null}]},
        ]);
        assert_eq!(gentle(explained.as_array().unwrap()), ["latency".to_owned()].into());
    }
}
