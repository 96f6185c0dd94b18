//! What the agent reads of a real cgroup v2 tree with its controllers on, held against what was done there and
//! against what the kernel says of the processes. Few hosts let a test have controllers of its own: `cargo xtask
//! test kernels` runs it in its guests.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use e2e::agent::PATIENCE;
use faultline::sources::cgroups::Cgroups;
use faultline_core::event::{CgroupIdentity, CgroupSample, Event, Missing};
use faultline_core::units::Timestamp;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// Clock ticks of `/proc/PID/stat` in a second: the same on every Linux that Debian builds.
const TICKS: f64 = 100.0;

const MEGABYTE: u64 = 1 << 20;

/// A cgroup below the root with processes in it; all of it is undone at the end.
struct Cgroup {
    path: String,
    folder: PathBuf,
    children: Vec<Child>,
}

impl Cgroup {
    fn new(name: &str, settings: &[(&str, &str)]) -> Self {
        let path = format!("/faultline-test-{name}-{}", std::process::id());
        let folder = PathBuf::from(format!("/sys/fs/cgroup{path}"));
        fs::create_dir(&folder).unwrap();
        let cgroup = Self { path, folder, children: Vec::new() };
        for (file, value) in settings {
            fs::write(cgroup.folder.join(file), value).unwrap_or_else(|error| panic!("{file}: {error}"));
        }
        cgroup
    }

    /// Starts a command in it.
    fn start(&mut self, command: &str) -> &mut Child {
        let enter = format!("echo $$ > {}/cgroup.procs; {command}", self.folder.display());
        self.children.push(Command::new("sh").args(["-c", &enter]).spawn().unwrap());
        self.children.last_mut().unwrap()
    }

    /// Seconds of CPU time that its processes used, as the kernel accounts them to processes.
    fn cpu_seconds(&self) -> f64 {
        let ticks = |child: &Child| -> f64 {
            let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
            let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
            fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()
        };
        self.children.iter().map(ticks).sum::<f64>() / TICKS
    }

    /// Waits until its processes are there.
    fn settle(&self) {
        let started = Instant::now();
        let there = || fs::read_to_string(self.folder.join("cgroup.procs")).unwrap().lines().count();
        while there() < self.children.len() {
            assert!(started.elapsed() < PATIENCE, "the processes do not come");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn end(&mut self) {
        for child in &mut self.children {
            let _killed = child.kill();
            child.wait().unwrap();
        }
        self.children.clear();
        // The kernel may still be letting go of the last one.
        let started = Instant::now();
        while fs::remove_dir(&self.folder).is_err() && started.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        self.end();
    }
}

/// The agent's reader and the clock that it is given.
struct Reader {
    cgroups: Cgroups,
    seconds: u64,
}

/// What one reading said.
struct Reading {
    identities: Vec<CgroupIdentity>,
    samples: Vec<CgroupSample>,
    missing: Vec<Missing>,
}

impl Reader {
    fn new() -> Self {
        Self { cgroups: Cgroups::discover(None).unwrap(), seconds: 0 }
    }

    fn read(&mut self) -> Reading {
        self.seconds += 1;
        let mut reading = Reading { identities: Vec::new(), samples: Vec::new(), missing: Vec::new() };
        for event in self.cgroups.sample(Timestamp(self.seconds * 1_000_000_000)) {
            match event {
                Event::Identity(identity) => reading.identities.push(*identity),
                Event::Cgroup(sample) => reading.samples.push(sample),
                Event::Missing(missing) => reading.missing.push(missing),
                other => panic!("{other:?}"),
            }
        }
        reading
    }

    /// Reads until the cgroup is told of; gives who lives there and what it used.
    fn meet(&mut self, cgroup: &Cgroup) -> (CgroupIdentity, CgroupSample) {
        cgroup.settle();
        let reading = self.read();
        assert!(reading.missing.is_empty(), "nothing is missing here: {:?}", reading.missing);
        let identity = reading.identities.into_iter().find(|one| *one.path == *cgroup.path).unwrap();
        let sample = reading.samples.into_iter().find(|one| one.cgroup == identity.cgroup).unwrap();
        (identity, sample)
    }

    fn again(&mut self, identity: &CgroupIdentity) -> CgroupSample {
        self.read().samples.into_iter().find(|one| one.cgroup == identity.cgroup).unwrap()
    }
}

#[test]
fn cpu_time_throttling_and_waiting() {
    let mut cgroup = Cgroup::new("cpu", &[("cpu.max", "20000 100000")]);
    let mut reader = Reader::new();
    for _ in 0..2 {
        cgroup.start("while :; do :; done");
    }
    let (identity, before) = reader.meet(&cgroup);
    let (said_before, started) = (cgroup.cpu_seconds(), Instant::now());
    std::thread::sleep(Duration::from_secs(4));
    let (after, said, passed) =
        (reader.again(&identity), cgroup.cpu_seconds() - said_before, started.elapsed().as_secs_f64());
    assert_eq!(identity.process.as_deref(), Some("sh"));
    assert_eq!(after.cpu_limit, Some(0.2));
    let used = after.cpu_usage.unwrap().as_secs_f64() - before.cpu_usage.unwrap().as_secs_f64();
    let throttled = after.cpu_throttled.unwrap().as_secs_f64() - before.cpu_throttled.unwrap().as_secs_f64();
    let waited = after.cpu_pressure.unwrap().as_secs_f64() - before.cpu_pressure.unwrap().as_secs_f64();
    println!(
        "in {passed:.2} s: used {used:.2} s ({said:.2} s by process), throttled {throttled:.2} s, waited {waited:.2} s"
    );
    // Ticks are 10 ms, and the two readings are not one.
    assert!((used - said).abs() < 0.1 + said / 5.0, "{used} s, but the processes used {said} s");
    assert!(used > 0.05 && used < 0.2 * passed + 0.2, "more than the quota, or nothing");
    // Two processes that want all and get a fifth of one CPU wait nearly always.
    assert!(throttled > passed / 4.0, "throttled {throttled} s of {passed} s");
    assert!(waited > passed / 2.0 && waited < passed + 0.5, "waited {waited} s of {passed} s");
}

#[test]
fn without_a_quota_nothing_is_throttled() {
    let mut cgroup = Cgroup::new("free", &[]);
    let mut reader = Reader::new();
    cgroup.start("while :; do :; done");
    let (identity, before) = reader.meet(&cgroup);
    std::thread::sleep(Duration::from_secs(1));
    let after = reader.again(&identity);
    assert_eq!((after.cpu_limit, after.memory_limit), (None, None));
    assert!(after.cpu_usage > before.cpu_usage);
    assert_eq!(after.cpu_throttled.unwrap().as_secs_f64(), 0.0);
    assert_eq!(after.oom_kills, Some(0));
}

#[test]
fn memory_in_use_and_its_limit() {
    let mut cgroup = Cgroup::new("memory", &[("memory.max", "100663296")]);
    let mut reader = Reader::new();
    let child = cgroup.start("exec dd if=/dev/zero of=/dev/null bs=40M").id();
    let resident = || -> u64 {
        let status = fs::read_to_string(format!("/proc/{child}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    };
    let started = Instant::now();
    while resident() < 40 * MEGABYTE {
        assert!(started.elapsed() < PATIENCE, "dd does not take its memory");
        std::thread::sleep(Duration::from_millis(50));
    }
    let (identity, sample) = reader.meet(&cgroup);
    let (used, said) = (sample.memory.unwrap(), resident());
    println!("{} kB in use, {} kB resident", used / 1024, said / 1024);
    assert_eq!(identity.process.as_deref(), Some("dd"));
    assert_eq!(sample.memory_limit, Some(96 * MEGABYTE));
    // Pages of the program itself may be another cgroup's; page tables and the kernel's own come on top.
    assert!(used >= 40 * MEGABYTE && used < said + 8 * MEGABYTE, "{used} in use, {said} resident");
}

#[test]
fn a_kill_for_lack_of_memory_is_counted() {
    let mut cgroup = Cgroup::new("oom", &[("memory.max", "33554432")]);
    let mut reader = Reader::new();
    cgroup.start("while :; do sleep 1; done");
    let (identity, before) = reader.meet(&cgroup);
    assert_eq!(before.oom_kills, Some(0));
    let killed = cgroup.start("exec dd if=/dev/zero of=/dev/null bs=128M").wait().unwrap();
    assert_eq!(killed.signal(), Some(9), "{killed:?}");
    let after = reader.again(&identity);
    assert_eq!(after.oom_kills, Some(1));
    cgroup.end();
    let gone = reader.read().identities;
    assert!(gone.iter().any(|one| one.cgroup == identity.cgroup && one.gone), "{gone:?}");
}
