//! The kernel programs around a piece of traffic: traffic flows in, the events that the programs made of it flow
//! out. Both run in a cgroup of their own, so that nothing else of the machine is seen.

use faultline::sources::probes::{Options, Probes};
use faultline_core::event::{Event, Segment};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// Events that may wait; more than any test makes before they are collected.
const QUEUE: usize = 1 << 16;

/// What passed last is in the ring by then.
const SETTLE: Duration = Duration::from_millis(300);

/// A cgroup of our own with this process in it; both are undone at the end.
pub struct Cgroup {
    /// Its folder.
    pub path: PathBuf,
    home: PathBuf,
}

impl Cgroup {
    /// Makes it and enters it.
    ///
    /// # Panics
    /// Without a cgroup v2 tree, or without root.
    #[must_use]
    pub fn enter(name: &str) -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let line = mounts.lines().find(|line| line.contains(" - cgroup2 ")).unwrap();
        let root = PathBuf::from(line.split(' ').nth(4).unwrap());
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap().to_owned();
        let path = root.join(format!("faultline-test-{name}-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        fs::write(path.join("cgroup.procs"), std::process::id().to_string()).unwrap();
        Self { path, home: root.join(own) }
    }

    /// Attaches the programs to it.
    ///
    /// # Panics
    /// When the kernel refuses them.
    #[must_use]
    pub fn attach(&self) -> Probes {
        Probes::attach(&Options { cgroup_root: Some(self.path.clone()), ..Options::default() }).unwrap()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        fs::write(self.home.join("cgroup.procs"), std::process::id().to_string()).unwrap();
        fs::remove_dir(&self.path).unwrap();
    }
}

/// Attached programs whose events are being collected.
pub struct Watching {
    stop: watch::Sender<bool>,
    running: JoinHandle<()>,
    events: JoinHandle<Vec<Event>>,
}

impl Watching {
    /// Begins to collect.
    #[must_use]
    pub fn begin(probes: Probes) -> Self {
        let (sender, mut receiver) = mpsc::channel(QUEUE);
        let (stop, stopped) = watch::channel(false);
        let running = tokio::spawn(async move { probes.run(sender, stopped).await.unwrap() });
        let events = tokio::spawn(async move {
            let mut events = Vec::new();
            while let Some(event) = receiver.recv().await {
                events.push(event);
            }
            events
        });
        Self { stop, running, events }
    }

    /// Detaches the programs and gives what they saw.
    ///
    /// # Panics
    /// When the ring could not be read.
    pub async fn end(self) -> Vec<Event> {
        tokio::time::sleep(SETTLE).await;
        self.stop.send_replace(true);
        self.running.await.unwrap();
        self.events.await.unwrap()
    }
}

/// Runs traffic with the programs attached.
///
/// # Panics
/// Where the programs cannot be attached.
pub fn watched<T>(name: &str, traffic: impl Future<Output = T>) -> (Vec<Event>, T) {
    let cgroup = Cgroup::enter(name);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let seen = runtime.block_on(async {
        let watching = Watching::begin(cgroup.attach());
        let said = traffic.await;
        (watching.end().await, said)
    });
    drop(runtime);
    seen
}

/// The runs of bytes among the events, in the order in which they were told.
pub fn segments(events: &[Event]) -> impl Iterator<Item = &Segment> {
    events.iter().filter_map(|event| match event {
        Event::Segment(segment) => Some(segment),
        _ => None,
    })
}
