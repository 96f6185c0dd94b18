//! Runs pairs: a client of one stack and a server of another, perhaps with a proxy between them, go through a
//! scenario; what both ends say of it comes out. Several pairs run at a time, for most of a scenario is waiting.

use super::peers::{Network, Peers, retries};
use super::proxy::{Kind, Proxy};
use faultline_core::units::CgroupId;
use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

/// Pairs that run at a time. Two processors are busy with three; more only take each other's time.
const AT_ONCE: usize = 3;

/// Who calls whom, and how.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    /// The client's stack.
    pub client: &'static str,
    /// The server's.
    pub server: &'static str,
    /// Between the two.
    pub network: Network,
    /// The server lets go of a connection after so long.
    pub age: Option<Duration>,
    /// What stands between them.
    pub through: Option<Kind>,
}

impl Pair {
    /// A pair over IPv4 with nothing special.
    #[must_use]
    pub fn new(client: &'static str, server: &'static str) -> Self {
        Self { client, server, network: Network::V4, age: None, through: None }
    }

    /// Runs the scenario, with what the processes write in a folder below `home`.
    ///
    /// # Errors
    /// Which process did not do what it should, and what it wrote.
    ///
    /// # Panics
    /// When the folder cannot be made.
    pub fn run(self, peers: &Peers, scenario: &Path, home: &Path) -> Result<Ran, String> {
        let via = self.through.map_or(String::new(), |kind| format!("{}-", kind.name()));
        let folder = home.join(format!("{}-{via}{}", self.client, self.server));
        fs::create_dir(&folder).unwrap();
        let server = peers.serve(self.server, self.network, self.age, &folder)?;
        let proxy = self.through.map(|kind| Proxy::start(kind, server.port, &folder)).transpose()?;
        let port = proxy.as_ref().map_or(server.port, |proxy| proxy.port);
        let target = self.network.target(port);
        let mut client = peers.call(self.client, &target, &server.authority, scenario, &folder);
        let truth = client.finish()?;
        Ok(Ran {
            pair: self,
            client: client.cgroup(),
            server: server.cgroup(),
            proxy: proxy.as_ref().map(|proxy| (proxy.cgroup(), proxy.authority.clone())),
            authority: server.authority.clone(),
            retries: retries(self.client),
            tls: peers.speak_tls(),
            truths: [truth, server.truth()],
        })
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>9} -> ", self.client)?;
        if let Some(kind) = self.through {
            write!(f, "{} -> ", kind.name())?;
        }
        f.write_str(self.server)
    }
}

/// A pair that went through its scenario.
#[derive(Debug)]
pub struct Ran {
    /// Which one.
    pub pair: Pair,
    /// The client's cgroup.
    pub client: CgroupId,
    /// The server's.
    pub server: CgroupId,
    /// The proxy's, and what it calls the server, if not what the client does.
    pub proxy: Option<(CgroupId, Option<String>)>,
    /// What the client calls the server.
    pub authority: String,
    /// The client's stack retries what its service configuration says.
    pub retries: bool,
    /// They spoke TLS.
    pub tls: bool,
    /// What the client and the server say of each call.
    pub truths: [String; 2],
}

/// Runs pairs, several at a time, and says so as each ends; what ran, in their order, and why others did not.
///
/// # Panics
/// When a pair's thread does.
#[must_use]
pub fn run_all(pairs: &[Pair], peers: &Peers, scenario: &Path, home: &Path) -> (Vec<Ran>, Vec<String>) {
    let waiting = Mutex::new(pairs.iter().enumerate());
    let results = Mutex::new(Vec::new());
    let work = || {
        loop {
            let Some((place, pair)) = waiting.lock().unwrap().next() else { return };
            let started = Instant::now();
            let result = pair.run(peers, scenario, home).map_err(|why| format!("{pair}: {why}"));
            eprintln!("{pair}: {:.1} s", started.elapsed().as_secs_f64());
            results.lock().unwrap().push((place, result));
        }
    };
    thread::scope(|threads| {
        for _ in 0..AT_ONCE.min(pairs.len()) {
            threads.spawn(work);
        }
    });
    let mut results = results.into_inner().unwrap();
    results.sort_by_key(|(place, _)| *place);
    let (ran, failed): (Vec<_>, Vec<_>) = results.into_iter().partition(|(_, result)| result.is_ok());
    let ran = ran.into_iter().filter_map(|(_, result)| result.ok()).collect();
    (ran, failed.into_iter().filter_map(|(_, result)| result.err()).collect())
}
