//! Faults on the wire, without a playground around them: of three connections one is of the edge that is struck, and it
//! alone is late or loses packets, until the fault is taken away. Over loopback, and between two nodes.
//!
//! Needs root, cgroup v2, nftables and, unlike the rest of the playground, netem in the kernel, which few hosts have:
//! `cargo xtask test kernels` runs it in its guests.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use playground::faults::wire::{Edge, Sender, Wire, table};
use playground::run::network::Network;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Below the cgroup v2 mount, and the name of namespaces and tables.
const CGROUP: &str = "faultline-wire";
const MOUNT: &str = "/sys/fs/cgroup";
/// Long beside what an emulated machine needs for a round trip.
const LATE: Duration = Duration::from_millis(150);
/// Of a hundred packets.
const LOST: f64 = 25.0;
/// Connections of the edge that is struck. A loss costs a timeout of 200 ms and more, so they wait at once.
const STRUCK: usize = 16;
/// On each of them while packets are lost, and as many in sum on the others, one after the other.
const ROUND_TRIPS: usize = 4;
/// A quarter of 64 packets is lost in the mean, fewer than these once in 10,000 runs.
const SURELY: u64 = 5;
/// A machine that stands still for 200 ms makes TCP send a packet again that nobody lost.
const BY_ITSELF: u64 = 2;
/// Nothing was sent again for so long: what was lost last has come, too.
const QUIET: Duration = Duration::from_millis(1_000);

/// Where an end of a connection is: an address, and the namespace that has it, if that is not this one.
struct End {
    address: String,
    space: Option<PathBuf>,
}

impl End {
    /// Does something there; sockets that it makes stay there.
    fn at<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let there = scope.spawn(|| {
                if let Some(space) = &self.space {
                    let file = File::open(space).unwrap();
                    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                }
                act()
            });
            there.join().unwrap()
        })
    }

    /// Answers each byte with itself, until the test ends; where it listens.
    fn echo(&self) -> String {
        let listener = self.at(|| TcpListener::bind((self.address.as_str(), 0)).unwrap());
        let place = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                stream.set_nodelay(true).unwrap();
                std::thread::spawn(move || {
                    let mut byte = [0];
                    while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
                });
            }
        });
        place
    }

    /// Connects from a cgroup.
    fn connect(&self, cgroup: &str, place: &str) -> TcpStream {
        let folder = Path::new(MOUNT).join(CGROUP).join(cgroup);
        std::fs::create_dir_all(&folder).unwrap();
        enter(&folder);
        let stream = self.at(|| TcpStream::connect(place).unwrap());
        enter(Path::new(MOUNT));
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// What TCP has sent again so far, once it sends nothing again.
    fn sent_again_at_last(&self) -> u64 {
        let mut count = self.sent_again();
        loop {
            std::thread::sleep(QUIET);
            let now = self.sent_again();
            if now == count {
                return count;
            }
            count = now;
        }
    }

    /// What TCP has sent again so far.
    fn sent_again(&self) -> u64 {
        let text = self.at(|| std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap());
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
        let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
        let mut columns = names.split(' ').zip(values.split(' '));
        columns.find(|(name, _)| *name == "RetransSegs").unwrap().1.parse().unwrap()
    }

    /// What a tool of the network shows there.
    fn shows(&self, words: &[&str]) -> String {
        let (program, words) = words.split_first().unwrap();
        let output = self.at(|| Command::new(program).args(words).output().unwrap());
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn queues(&self) -> String {
        self.shows(&["tc", "qdisc", "show"])
    }
}

fn enter(cgroup: &Path) {
    std::fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string()).unwrap();
}

/// How long so many round trips of one byte take, shortest first.
fn round_trips(stream: &mut TcpStream, count: usize) -> Vec<Duration> {
    let mut times: Vec<Duration> = (0..count)
        .map(|_| {
            let started = Instant::now();
            stream.write_all(&[7]).unwrap();
            stream.read_exact(&mut [0]).unwrap();
            started.elapsed()
        })
        .collect();
    times.sort_unstable();
    times
}

/// An edge between two ends, and two others that share one end with it each.
struct Edges {
    caller: End,
    callee: End,
    place: String,
    struck: Vec<TcpStream>,
    others: [TcpStream; 2],
}

impl Edges {
    fn between(caller: End, callee: End) -> Self {
        let (place, elsewhere) = (callee.echo(), callee.echo());
        let struck = (0..STRUCK).map(|_| caller.connect("caller", &place)).collect();
        let others = [caller.connect("bystander", &place), caller.connect("caller", &elsewhere)];
        Self { caller, callee, place, struck, others }
    }

    fn edge(&self, number: u64) -> Edge {
        let mut networks = vec![self.caller.space.clone(), self.callee.space.clone()];
        networks.dedup();
        Edge {
            table: table(CGROUP, number),
            mark: 1 + number,
            callers: vec![Sender { path: format!("{CGROUP}/caller"), level: 2 }],
            callees: vec![self.place.clone()],
            networks,
        }
    }

    /// Median round trips: of the edge, and the longer one of the others.
    fn medians(&mut self) -> [Duration; 2] {
        let median = |stream: &mut TcpStream| *round_trips(stream, 5).get(2).unwrap();
        let [one, other] = &mut self.others;
        [median(self.struck.first_mut().unwrap()), median(one).max(median(other))]
    }

    /// Packets that round trips made TCP send again: on the edge, and on the others.
    fn sent_again(&mut self) -> [u64; 2] {
        let before = self.caller.sent_again();
        std::thread::scope(|scope| {
            for stream in &mut self.struck {
                scope.spawn(|| round_trips(stream, ROUND_TRIPS));
            }
        });
        // An answer's acknowledgement may be lost as well, and the answer comes again later.
        let between = self.caller.sent_again_at_last();
        for other in &mut self.others {
            round_trips(other, STRUCK * ROUND_TRIPS / 2);
        }
        [between - before, self.caller.sent_again() - between]
    }

    fn nothing_is_left(&self, wire: Wire) {
        wire.remove();
        for end in [&self.caller, &self.callee] {
            let queues = end.queues();
            assert!(!queues.contains("netem") && !queues.contains("htb"), "{queues}");
            assert_eq!(end.shows(&["nft", "list", "tables"]), "");
        }
    }

    fn are_struck_alone(mut self, name: &str) {
        let before = self.medians();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let wire = runtime.block_on(self.edge(0).delay(LATE)).unwrap();
        let queues = self.caller.queues();
        assert!(
            queues.contains("netem"),
            "this kernel has no netem, so the link is slowed instead: {queues}"
        );
        let late = self.medians();
        self.nothing_is_left(wire);
        let after = self.medians();
        println!(
            "{name}: round trips {before:?}, with {LATE:?} more on the first {late:?}, after it {after:?}"
        );
        assert!(late[0] >= LATE && late[0] < before[0] + LATE * 4 / 3);
        assert!([before[0], before[1], late[1], after[0], after[1]].iter().all(|time| *time < LATE / 2));

        let wire = self.edge(1).lose(LOST).unwrap();
        let lossy = self.sent_again();
        self.nothing_is_left(wire);
        let healed = self.sent_again();
        println!("{name}: sent again {lossy:?}, with {LOST} % lost on the first; after it {healed:?}");
        assert!(lossy[0] >= SURELY && lossy[1] <= BY_ITSELF && healed.iter().sum::<u64>() <= BY_ITSELF);
    }
}

/// Both in one test: they would see each other's queues.
#[test]
#[ignore = "needs root and netem: see the file's head"]
fn an_edge_is_struck_alone() {
    let here = || End { address: "127.0.0.1".into(), space: None };
    Edges::between(here(), here()).are_struck_alone("loopback");

    let network = Network::make(CGROUP, 2).unwrap();
    let node = |number| End { address: network.address(number), space: Some(network.file(number)) };
    Edges::between(node(0), node(1)).are_struck_alone("nodes");
    network.remove();
    for cgroup in ["caller", "bystander", ""] {
        std::fs::remove_dir(Path::new(MOUNT).join(CGROUP).join(cgroup)).unwrap();
    }
}
