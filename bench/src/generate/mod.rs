//! Makes a data set of many faults over many systems: `plan` says which fault happens where and when,
//! `episode` runs one system with an agent beside it, `check` says whether to trust what came out, `collect`
//! writes the data set's files, `compact` packs what evaluation needs. Several episodes run at a time, each
//! with its own cgroup and ports; what is done is not run again.

mod check;
mod collect;
mod compact;
mod crew;
mod episode;
mod plan;
mod systems;

pub(crate) use collect::commit;
pub use collect::{Part, Split};
pub use compact::pack;

use crate::truth::unix_ms;
use crate::watcher;
use anyhow::{Context, Result, ensure};
use crew::Crew;
use episode::Rig;
use plan::{Episode, Menu, Plan, Settings};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use systems::System;

/// Faults that strike the whole machine, and so every episode that runs at the same time.
const OF_THE_MACHINE: [&str; 1] = ["noisy-neighbour"];

const HELP: &str = "\
How long it takes: faults x (40 + 35 s) + the normal minutes + about 95 s an episode, divided by --parallel.
The default, 100 faults and 60 normal minutes in 15 episodes, is about 68 minutes with --parallel 3, 54
with 4 and 43 with 5; two cores that have nothing else to do carry that at the default rate. It goes on where it stopped when it is started again with
the same flags.

Layout: OUT/SYSTEM is a data set (meta.json, graph.csv, faults.csv, normal_periods.csv); its episodes hold
agent.rec (for `faultline replay`), the truth as nodes.csv.gz and edges.csv.gz, and the run's own files.
OUT/split.json says what may be trained on, OUT/summary.json what came out and what was left out and why.

Examples:
  playground generate --out /var/tmp/faults
  playground generate --out /var/tmp/small --topologies online-boutique,mine.toml --faults 6 --normal-minutes 4
  playground generate --out /var/tmp/stacks --topologies online-boutique --faults 8 --normal-minutes 5 \\
      --stacks go,java,cpp,python,node,rust
  playground generate --compact /var/tmp/faults bench/data
  playground evaluate /var/tmp/faults --report faults.html";

/// Flags of `playground generate`.
#[derive(clap::Args, Debug)]
#[command(after_help = HELP)]
pub struct Flags {
    /// The folder of the data set; what is done in it is kept
    #[arg(long, required_unless_present = "compact")]
    out: Option<PathBuf>,
    /// Systems: `all`, or a list of shipped names, files, and generated-SERVICES-SEED
    #[arg(long, value_delimiter = ',', default_value = "all")]
    topologies: Vec<String>,
    /// Faults in all; two at once count as one
    #[arg(long, default_value_t = 100)]
    faults: usize,
    /// Faults of one episode, about
    #[arg(long, default_value_t = 8)]
    faults_per_episode: usize,
    /// Length of a fault, seconds
    #[arg(long, default_value_t = 40.0)]
    fault_seconds: f64,
    /// From a fault's end to the next one, seconds
    #[arg(long, default_value_t = 35.0)]
    recovery_seconds: f64,
    /// Time without a fault, warm-ups left out, minutes in all: half of it with life that is no fault
    #[arg(long, default_value_t = 60.0)]
    normal_minutes: f64,
    /// Calls between services a second in each system, about: its users come as often as that takes
    #[arg(long, default_value_t = 45.0)]
    calls_per_second: f64,
    /// Of the schedule, users and costs; drawn and printed when not given
    #[arg(long)]
    seed: Option<u64>,
    /// Episodes at a time
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=32))]
    parallel: u16,
    /// Each system once for each of these stacks (go, java, cpp, python, node, rust), which then serves all of
    /// it, with the same schedule; so many times the faults and the minutes [default: once, as its file says]
    #[arg(long, value_delimiter = ',')]
    stacks: Vec<String>,
    /// The agent [default: `faultline` beside this program]
    #[arg(long)]
    agent: Option<PathBuf>,
    /// Begins the names of the cgroups
    #[arg(long, default_value = "faultline-generate")]
    cgroup: String,
    /// The first of the ports on 127.0.0.1; each episode at a time has 1,000 of them
    #[arg(long, default_value_t = 30_000)]
    base_port: u16,
    /// Print the schedule and how long it takes, and run nothing
    #[arg(long)]
    plan: bool,
    /// Pack the data set DIR into OUT: what evaluation needs, in a tenth of the bytes
    #[arg(long, num_args = 2, value_names = ["DIR", "OUT"], conflicts_with = "out")]
    compact: Option<Vec<PathBuf>>,
}

/// Generates or packs.
///
/// # Errors
/// When the flags do not fit each other or the folder, or episodes failed; what is done stays.
pub fn generate(flags: &Flags) -> Result<()> {
    if let Some([from, into]) = flags.compact.as_deref() {
        return compact::compact(from, into);
    }
    let out = std::path::absolute(flags.out.as_deref().context("--out is missing")?)?;
    fs::create_dir_all(&out).with_context(|| format!("{} cannot be made", out.display()))?;
    let systems = systems(flags, &out)?;
    let plan = plan(flags, &out, &systems)?;
    if flags.plan {
        return show(&plan, flags.parallel);
    }
    let rig = Rig { agent: watcher::program(flags.agent.as_deref())? };
    fs::write(out.join("plan.json"), serde_json::to_string_pretty(&plan)? + "\n")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let failed = runtime.block_on(crew::run(
        Crew {
            dir: out.clone(),
            rig,
            systems,
            at_once: flags.parallel,
            cgroup: flags.cgroup.clone(),
            base_port: flags.base_port,
        },
        &plan,
    ));
    let records = collect::write(&out, &plan)?;
    let trusted = records.iter().filter(|record| record.verdict.reasons.is_empty()).count();
    eprintln!(
        "playground: {} of {} episodes are done, {trusted} of them trusted; {}",
        records.len(),
        plan.episodes.len(),
        out.join("summary.json").display()
    );
    for record in records.iter().filter(|record| !record.verdict.reasons.is_empty()) {
        eprintln!("playground: {} is left out: {}", record.id, record.verdict.reasons.join("; "));
    }
    failed
}

fn systems(flags: &Flags, out: &Path) -> Result<BTreeMap<String, System>> {
    let mut systems = BTreeMap::new();
    for name in &flags.topologies {
        let names = if name == "all" { systems::ALL.to_vec() } else { vec![name.as_str()] };
        for name in names {
            let system = System::named(name, &out.join("topologies"))?;
            ensure!(
                systems.insert(system.name.clone(), system).is_none(),
                "--topologies: {name} is named twice"
            );
        }
    }
    Ok(systems)
}

/// The plan that the folder has, if it was made with these flags; else a new one.
fn plan(flags: &Flags, out: &Path, systems: &BTreeMap<String, System>) -> Result<Plan> {
    let path = out.join("plan.json");
    let known: Option<Plan> = match fs::read_to_string(&path) {
        Ok(text) => Some(serde_json::from_str(&text).with_context(|| path.display().to_string())?),
        Err(_) => None,
    };
    let seed =
        flags.seed.or(known.as_ref().map(|plan| plan.settings.seed)).unwrap_or_else(|| unix_ms() % 1_000_000);
    let positive = |value: f64| value.is_finite() && value > 0.0;
    ensure!(
        positive(flags.fault_seconds) && positive(flags.recovery_seconds) && positive(flags.calls_per_second),
        "--fault-seconds, --recovery-seconds and --calls-per-second must be more than 0"
    );
    ensure!((0.0..=1e6).contains(&flags.normal_minutes), "--normal-minutes must be from 0 to a million");
    let settings = Settings {
        seed,
        topologies: systems.keys().cloned().collect(),
        faults: flags.faults,
        faults_per_episode: flags.faults_per_episode,
        fault_seconds: flags.fault_seconds,
        recovery_seconds: flags.recovery_seconds,
        normal_minutes: flags.normal_minutes,
        calls_per_second: flags.calls_per_second,
        stacks: flags.stacks.clone(),
    };
    if let Some(known) = known {
        ensure!(
            known.settings == settings,
            "{} is of another plan: give its flags to go on with it, or another --out; it has {}",
            path.display(),
            serde_json::to_string(&known.settings)?
        );
        return Ok(known);
    }
    let mut menus: BTreeMap<String, Menu> = BTreeMap::new();
    for (name, system) in systems {
        let mut menu = system.menu()?;
        menu.faults.retain(|kind, _| flags.parallel == 1 || !OF_THE_MACHINE.contains(&kind.as_str()));
        menus.insert(name.clone(), menu);
    }
    Plan::new(settings, &menus).map_err(anyhow::Error::msg)
}

fn show(plan: &Plan, parallel: u16) -> Result<()> {
    for episode in &plan.episodes {
        println!(
            "{} {} load of {} user requests/s, {:.0} s",
            episode.id, episode.pattern, episode.rate, episode.seconds
        );
        for quiet in &episode.quiet {
            println!("  {:6.0} s  {} ({:.0} s)", quiet.start, quiet.what, quiet.end - quiet.start);
        }
        for fault in &episode.faults {
            let gentle = if fault.gentle { ", gentle" } else { "" };
            println!("  {:6.0} s  FAULT {} on {}{gentle}", fault.at_seconds, fault.kind, fault.service);
        }
    }
    let all: Vec<&Episode> = plan.episodes.iter().collect();
    println!(
        "{} faults in {} episodes, seed {}: {}, {parallel} at a time",
        plan.faults(),
        plan.episodes.len(),
        plan.settings.seed,
        crew::minutes(Plan::seconds(&all, usize::from(parallel)))
    );
    Ok(())
}
