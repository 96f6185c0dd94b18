//! What the kernel itself counts about programs: nanoseconds a run, verified instructions, memory of their maps.
//! Yardsticks (an empty program, one that copies all) run beside the agent's on the same packets.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use aya::Ebpf;
use aya::maps::RingBuf;
use aya::programs::links::CgroupAttachMode;
use aya::programs::{CgroupSkb, CgroupSkbAttachType, ProgramInfo, loaded_programs};
use serde::Serialize;

use super::pair::Pair;
use super::traffic::{Done, Order};

/// Ids of everything that is loaded now.
pub(super) fn loaded() -> BTreeSet<u32> {
    loaded_programs().flatten().map(|program| program.id()).collect()
}

/// The programs that were loaded since.
pub(super) fn since(before: &BTreeSet<u32>) -> Vec<ProgramInfo> {
    loaded_programs().flatten().filter(|program| !before.contains(&program.id())).collect()
}

/// What the kernel knows of a program.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Loaded {
    /// Its name, as far as the kernel keeps it.
    pub name: String,
    /// Instructions that the verifier went through.
    pub verified_instructions: u32,
}

/// The programs' names and sizes.
pub(super) fn described(programs: &[ProgramInfo]) -> Vec<Loaded> {
    let describe = |program: &ProgramInfo| Loaded {
        name: program.name_as_str().unwrap_or_default().to_owned(),
        verified_instructions: program.verified_instruction_count().unwrap_or(0),
    };
    programs.iter().map(describe).collect()
}

/// Memory of the programs' maps, by name, in bytes. A socket's storage comes on top, as sockets come.
pub(super) fn map_bytes(programs: &[ProgramInfo]) -> anyhow::Result<BTreeMap<String, u64>> {
    let ids: BTreeSet<u32> =
        programs.iter().filter_map(|program| program.map_ids().ok().flatten()).flatten().collect();
    let mut found = BTreeMap::new();
    for map in aya::maps::loaded_maps().flatten().filter(|map| ids.contains(&map.id())) {
        let fd = map.fd().context("a map's descriptor")?;
        let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd()))?;
        let bytes = text.lines().find_map(|line| line.strip_prefix("memlock:"));
        let bytes: u64 = bytes.and_then(|bytes| bytes.trim().parse().ok()).context("no memlock")?;
        found.insert(map.name_as_str().unwrap_or_default().to_owned(), bytes);
    }
    Ok(found)
}

/// What a program did meanwhile.
#[derive(Clone, Debug)]
pub(super) struct Ran {
    /// Its name.
    pub program: String,
    /// How often it ran.
    pub runs: u64,
    /// For how long in all, with what the counting takes.
    pub nanos: u64,
}

impl Ran {
    /// Nanoseconds a run.
    pub(super) fn each(&self) -> f64 {
        self.nanos as f64 / self.runs as f64
    }
}

/// The agent's programs and the yardsticks on the same packets, counted by the kernel.
pub(super) struct SideBySide {
    yardsticks: Yardsticks,
    agents: Vec<u32>,
    /// The kernel counts while this is held. That itself costs some tens of nanoseconds a run.
    _counting: OwnedFd,
}

impl SideBySide {
    /// Attaches the yardsticks to the cgroup that the agent watches.
    pub(super) fn attach(object: &Path, cgroup: &Path, agents: &[ProgramInfo]) -> anyhow::Result<Self> {
        Ok(Self {
            yardsticks: Yardsticks::attach(object, cgroup)?,
            agents: agents.iter().map(ProgramInfo::id).collect(),
            _counting: aya::sys::enable_stats(aya::sys::Stats::RunTime)
                .context("the kernel does not count runs")?,
        })
    }

    /// What each of them does while an order is carried out, those that ran.
    pub(super) fn run(&self, pair: &mut Pair, order: Order) -> anyhow::Result<(Done, Vec<Ran>)> {
        let before = self.counts();
        let done = pair.run(order)?.done;
        let ran = self.counts().into_iter().filter_map(|(id, now)| {
            let then = before.get(&id)?;
            let (runs, nanos) = (now.runs - then.runs, now.nanos - then.nanos);
            (runs > 0).then_some(Ran { runs, nanos, ..now })
        });
        Ok((done, ran.collect()))
    }

    /// Runs and nanoseconds so far, by id.
    fn counts(&self) -> BTreeMap<u32, Ran> {
        let ours = |id: &u32| self.agents.contains(id) || self.yardsticks.ids.contains(id);
        let count = |program: &ProgramInfo| Ran {
            program: program.name_as_str().unwrap_or_default().to_owned(),
            runs: program.run_count(),
            nanos: u64::try_from(program.run_time().as_nanos()).unwrap_or(u64::MAX),
        };
        let programs = loaded_programs().flatten().filter(|program| ours(&program.id()));
        programs.map(|program| (program.id(), count(&program))).collect()
    }
}

/// The yardsticks, attached. Their records are thrown away as they come.
struct Yardsticks {
    _programs: Ebpf,
    ids: Vec<u32>,
    stop: Arc<AtomicBool>,
    drain: Option<JoinHandle<()>>,
}

/// Program of the object, and where it is attached.
const YARDSTICKS: [(&str, CgroupSkbAttachType); 4] = [
    ("empty_ingress", CgroupSkbAttachType::Ingress),
    ("empty_egress", CgroupSkbAttachType::Egress),
    ("copy_ingress", CgroupSkbAttachType::Ingress),
    ("copy_egress", CgroupSkbAttachType::Egress),
];

impl Yardsticks {
    /// Loads and attaches them.
    fn attach(object: &Path, cgroup: &Path) -> anyhow::Result<Self> {
        let mut programs =
            Ebpf::load_file(object).with_context(|| format!("cannot load {}", object.display()))?;
        let cgroup = File::open(cgroup)?;
        let mut ids = Vec::new();
        for (name, direction) in YARDSTICKS {
            let program: &mut CgroupSkb = programs.program_mut(name).context(name)?.try_into()?;
            program.load().context(name)?;
            program.attach(&cgroup, direction, CgroupAttachMode::Single).context(name)?;
            ids.push(program.info()?.id());
        }
        let mut ring = RingBuf::try_from(programs.take_map("COPIES").context("no ring")?)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let drain = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                while ring.next().is_some() {}
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        Ok(Self { _programs: programs, ids, stop, drain: Some(drain) })
    }
}

impl Drop for Yardsticks {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(drain) = self.drain.take() {
            let _ended = drain.join();
        }
    }
}
