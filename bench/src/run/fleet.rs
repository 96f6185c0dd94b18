//! Everything that runs, as one system: replicas of services, backends and users, where each is and what each is told.
//! Replicas come, go and are replaced here while calls go on; faults are laid over services by number, so that
//! overlapping ones add up and each ends alone. Processes themselves are in `children`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::json;

use super::children::{Children, LOADGEN, Program, Readiness};
use super::network::Network;
use super::postgres;
use super::specs::{Place, Placement, bad_client_spec, load_spec, service_spec};
use crate::brief::Behaviour;
use crate::cgroups::{Cgroups, Limits};
use crate::stacks;
use crate::topology::{BackendKind, Topology};

/// A service that is not ready after this long never will be.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// Callers have read where to call within this time; calls that left before are answered by then, or drained.
const TOLD_WITHIN: Duration = Duration::from_millis(300);
/// Replicas of one service at most.
const MOST_REPLICAS: usize = 32;

/// The name and cgroup of the client that sends bad requests.
pub const BAD_CLIENT: &str = "bad-client";

/// One process that serves a service.
#[derive(Clone)]
struct Replica {
    number: u32,
    process: String,
    address: String,
}

/// What a fault tells to whom.
struct Told {
    service: String,
    /// Only these processes of the service; none is all.
    processes: Option<BTreeSet<String>>,
    behaviour: Behaviour,
}

/// The running system.
pub struct Fleet {
    pub(super) topology: Topology,
    pub(super) children: Children,
    launchers: stacks::Launchers,
    placement: Placement,
    network: Network,
    folders: postgres::Folders,
    next_port: u16,
    /// Processes so far; makes seeds and nodes differ.
    count: u32,
    serving: BTreeMap<String, Vec<Replica>>,
    /// Services that do not exist yet.
    absent: BTreeSet<String>,
    /// Clients that are no service, each with the service that it calls.
    clients: BTreeMap<&'static str, String>,
    told: BTreeMap<u64, Told>,
    /// Which service every process that ever ran belongs to.
    born: BTreeMap<String, String>,
    /// Processes that may end without being started again.
    expendable: BTreeSet<String>,
}

/// A process that has become ready, to be told to the watcher.
pub(super) struct Ready {
    pub(super) process: String,
    pub(super) service: String,
    pub(super) stack: &'static str,
    pub(super) address: Option<String>,
    pub(super) pid: Option<u32>,
}

/// What a fleet is made of.
pub(super) struct Parts {
    pub(super) topology: Topology,
    pub(super) launchers: stacks::Launchers,
    pub(super) cgroup: String,
    pub(super) nodes: u32,
    pub(super) base_port: u16,
    pub(super) seed: u64,
    pub(super) out: PathBuf,
    pub(super) absent: BTreeSet<String>,
}

impl Fleet {
    /// Takes addresses for everything; nothing runs yet.
    pub(super) fn new(parts: Parts) -> anyhow::Result<Self> {
        let Parts { topology, launchers, cgroup, nodes, base_port, seed, out, absent } = parts;
        let children = Children::new(Cgroups::claim(&cgroup)?, out.join("logs"))?;
        let network = Network::make(&cgroup, nodes)?;
        std::fs::create_dir_all(out.join("specs"))?;
        let folders = postgres::Folders::new(&out, &cgroup);
        folders.remove();
        let mut fleet = Self {
            clients: [(LOADGEN, topology.entry.clone())].into(),
            topology,
            children,
            launchers,
            placement: Placement { addresses: BTreeMap::new(), out, seed },
            network,
            folders,
            next_port: base_port,
            count: 0,
            serving: BTreeMap::new(),
            absent,
            told: BTreeMap::new(),
            born: BTreeMap::new(),
            expendable: BTreeSet::new(),
        };
        fleet.place()?;
        Ok(fleet)
    }

    /// The first addresses of services and backends, in the order of names.
    fn place(&mut self) -> anyhow::Result<()> {
        let services: Vec<(String, u32)> =
            self.topology.services.iter().map(|(name, service)| (name.clone(), service.replicas)).collect();
        for (name, replicas) in services {
            for number in 0..replicas {
                let process = if replicas == 1 { name.clone() } else { format!("{name}-{number}") };
                self.add_replica(&name, number, process)?;
            }
            self.placement.addresses.insert(name.clone(), self.addresses(&name));
        }
        for name in self.topology.backends.keys().cloned().collect::<Vec<_>>() {
            let address = self.next_address(self.count)?;
            self.adopt(&name, &name)?;
            self.placement.addresses.insert(name, vec![address]);
        }
        Ok(())
    }

    fn add_replica(&mut self, service: &str, number: u32, process: String) -> anyhow::Result<Replica> {
        let address = self.next_address(self.count)?;
        self.adopt(&process, service)?;
        let replica = Replica { number, process, address };
        self.serving.entry(service.into()).or_default().push(replica.clone());
        Ok(replica)
    }

    /// Files and cgroups are named after processes, so each name is there once.
    fn adopt(&mut self, process: &str, service: &str) -> anyhow::Result<()> {
        self.count += 1;
        let taken = process == LOADGEN || self.born.insert(process.into(), service.into()).is_some();
        if taken {
            bail!("two processes would be called {process}: rename a service of the topology");
        }
        Ok(())
    }

    /// Where the n-th process listens: the next port that nobody has.
    fn next_address(&mut self, index: u32) -> anyhow::Result<String> {
        let host = self.network.address(self.network.node(index).unwrap_or(0));
        while self.next_port < u16::MAX {
            let port = self.next_port;
            self.next_port += 1;
            if self.network.node(0).is_some() || std::net::TcpListener::bind((host.as_str(), port)).is_ok() {
                return Ok(format!("{host}:{port}"));
            }
        }
        bail!("no free port is left above --base-port")
    }

    /// Starts everything at once and waits until all is ready; `ready` hears of each.
    pub(super) async fn start_all(&mut self, mut ready: impl FnMut(Ready)) -> anyhow::Result<()> {
        let started = Instant::now();
        for (name, kind) in self.topology.backends.clone() {
            self.start_backend(&name, kind)?;
        }
        for (service, replicas) in self.serving.clone() {
            if !self.absent.contains(&service) {
                replicas.iter().try_for_each(|replica| self.start_replica(&service, replica))?;
            }
        }
        let spec = load_spec(&self.topology, &self.placement, LOADGEN);
        self.start_users(LOADGEN, &spec)?;
        let mut last = Instant::now();
        let mut all: Vec<String> = self.born.keys().cloned().chain([LOADGEN.to_owned()]).collect();
        all.retain(|process| self.children.program(process).is_some());
        for process in &all {
            self.children.ready(process, READY_WITHIN).await?;
            ready(self.introduce(process));
            if last.elapsed() > Duration::from_secs(5) {
                last = Instant::now();
                eprintln!("playground: starting, {:.0} s so far", started.elapsed().as_secs_f64());
            }
        }
        for service in self.absent.clone() {
            self.tell_callers(&service).await;
        }
        eprintln!("playground: all ready after {:.1} s", started.elapsed().as_secs_f64());
        Ok(())
    }

    fn introduce(&self, process: &str) -> Ready {
        let service = self.born.get(process).cloned().unwrap_or_else(|| process.into());
        let replica =
            self.serving.get(&service).and_then(|all| all.iter().find(|one| one.process == process));
        let backend = self.placement.address(&service, 0).map(str::to_owned);
        Ready {
            process: process.into(),
            stack: self.topology.services.get(&service).map_or("", |service| service.stack.name()),
            address: replica.map(|replica| replica.address.clone()).or(backend),
            pid: self.children.pid(process),
            service,
        }
    }

    fn start_replica(&mut self, service: &str, replica: &Replica) -> anyhow::Result<()> {
        let seed = self.born.keys().position(|name| *name == replica.process).unwrap_or(0) as u64 + 1;
        let place = Place {
            service,
            replica: replica.number,
            process: &replica.process,
            address: &replica.address,
            index: seed,
        };
        let spec = service_spec(&self.topology, &self.placement, &place);
        let spec = spec.with_context(|| format!("no service {service}"))?;
        let path = self.placement.out.join("specs").join(format!("{}.json", replica.process));
        std::fs::write(&path, serde_json::to_string_pretty(&spec)?)?;
        let found = self.topology.services.get(service).with_context(|| format!("no service {service}"))?;
        let limits = Limits { cpu_cores: found.cpu_cores, memory_mib: found.memory_mib };
        let command = self.launchers.command(found.stack, &path)?;
        let program = self.program(&replica.process, command, Readiness::Line, limits, &replica.address);
        self.children.start(&replica.process, program)
    }

    fn start_backend(&mut self, name: &str, kind: BackendKind) -> anyhow::Result<()> {
        let address = self.placement.address(name, 0).context("a backend without an address")?.to_owned();
        if kind == BackendKind::Postgres {
            let keys = self.keys_of(name);
            let placed = self.program(name, Vec::new(), Readiness::Line, Limits::default(), &address);
            let program =
                postgres::program(name, &address, &self.folders, keys, placed.cgroup, placed.network)?;
            return self.children.start(name, program);
        }
        let (host, port) = address.rsplit_once(':').context("an address has a port")?;
        let text = format!(
            "redis-server --port {port} --bind {host} --protected-mode no --save  --appendonly no --daemonize no \
             --maxmemory 64mb --maxmemory-policy allkeys-lru"
        );
        let command = text.split(' ').map(str::to_owned).collect();
        let readiness = Readiness::Redis(address.clone());
        let program = self.program(name, command, readiness, Limits::default(), &address);
        self.children.start(name, program)
    }

    /// Keys that services draw from in a backend.
    fn keys_of(&self, backend: &str) -> u32 {
        let methods = self.topology.services.values().flat_map(|service| service.methods.values());
        let steps = methods.flat_map(|method| &method.data).filter(|step| step.backend == backend);
        steps.map(|step| step.keys).max().unwrap_or(1)
    }

    fn start_users(&mut self, name: &str, spec: &crate::brief::LoadSpec) -> anyhow::Result<()> {
        let path = self.placement.out.join("specs").join(format!("{name}.json"));
        std::fs::write(&path, serde_json::to_string_pretty(spec)?)?;
        let command = stacks::load_command(&path)?;
        // Users are on the first node.
        let address = self.network.address(0);
        let program = self.program(name, command, Readiness::Line, Limits::default(), &address);
        self.children.start(name, program)
    }

    /// A program in the cgroup and the namespace of the node that its address belongs to.
    fn program(
        &self,
        name: &str,
        command: Vec<String>,
        readiness: Readiness,
        limits: Limits,
        address: &str,
    ) -> Program {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let mut nodes =
            (0..super::network::MOST_NODES).take_while(|node| self.network.node(*node) == Some(*node));
        let node = nodes.find(|node| self.network.address(*node) == host);
        Program {
            command,
            readiness,
            cgroup: node.map_or_else(|| name.into(), |node| format!("node-{node}/{name}")),
            limits,
            network: node.map(|node| self.network.file(node)),
            user: None,
        }
    }

    /// Processes that serve a service now; of a backend, the backend.
    pub fn processes(&self, name: &str) -> Vec<String> {
        match self.serving.get(name) {
            Some(replicas) => replicas.iter().map(|replica| replica.process.clone()).collect(),
            None => vec![name.into()],
        }
    }

    /// Where a service or backend listens now.
    pub fn addresses(&self, name: &str) -> Vec<String> {
        match self.serving.get(name) {
            Some(replicas) => replicas.iter().map(|replica| replica.address.clone()).collect(),
            None => self.placement.addresses.get(name).cloned().unwrap_or_default(),
        }
    }

    /// The processes, to be signalled and measured.
    pub const fn children(&mut self) -> &mut Children {
        &mut self.children
    }

    /// What there is.
    pub const fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Which service every process that ever ran belongs to.
    pub(super) const fn born(&self) -> &BTreeMap<String, String> {
        &self.born
    }

    /// Lays a behaviour over a service, or over some of its processes.
    pub async fn lay(
        &mut self,
        number: u64,
        service: &str,
        processes: Option<BTreeSet<String>>,
        behaviour: Behaviour,
    ) {
        self.told.insert(number, Told { service: service.into(), processes, behaviour });
        self.tell_service(service).await;
    }

    /// Takes it away again.
    pub async fn lift(&mut self, number: u64) {
        if let Some(told) = self.told.remove(&number) {
            self.tell_service(&told.service).await;
        }
    }

    async fn tell_service(&mut self, service: &str) {
        if self.topology.services.contains_key(service) {
            for process in self.processes(service) {
                self.tell(service, &process).await;
            }
        }
    }

    /// Tells a process all that it has to know now.
    async fn tell(&mut self, service: &str, process: &str) {
        let mut behaviour = Behaviour::default();
        for told in self.told.values().filter(|told| told.service == service) {
            if told.processes.as_ref().is_none_or(|only| only.contains(process)) {
                behaviour.join(told.behaviour.clone());
            }
        }
        for (_, callee) in self.topology.edges().iter().filter(|edge| edge.0 == service) {
            let now = self.addresses(callee);
            if self.placement.addresses.get(callee) != Some(&now) {
                behaviour.addresses.insert(callee.clone(), now);
            }
            if self.absent.contains(callee) {
                behaviour.absent.insert(callee.clone());
            }
        }
        let told = match serde_json::to_string(&behaviour) {
            Ok(line) => self.children.tell(process, &line).await,
            Err(error) => Err(error.into()),
        };
        if let Err(error) = told {
            eprintln!("playground: {error:#}");
        }
    }

    /// Tells callers, and users where it is theirs, where a service is now.
    async fn tell_callers(&mut self, service: &str) {
        let edges = self.topology.edges();
        for (caller, _) in edges.iter().filter(|edge| edge.1 == service) {
            self.tell_service(caller).await;
        }
        let line = json!({ "addresses": { service: self.addresses(service) } }).to_string();
        for (client, _) in self.clients.iter().filter(|client| client.1 == service) {
            if let Err(error) = self.children.tell(client, &line).await {
                eprintln!("playground: {error:#}");
            }
        }
    }

    /// Starts one more replica, which nobody calls yet, and waits until it is ready.
    async fn grow(&mut self, service: &str) -> anyhow::Result<Replica> {
        let replicas = self.serving.get(service).with_context(|| format!("no service {service}"))?;
        if replicas.len() >= MOST_REPLICAS {
            bail!("{service} has {MOST_REPLICAS} replicas; that is enough");
        }
        let mut number = replicas.iter().map(|replica| replica.number + 1).max().unwrap_or(0);
        while self.born.contains_key(&format!("{service}-{number}")) {
            number += 1;
        }
        let replica = self.add_replica(service, number, format!("{service}-{number}"))?;
        self.start_replica(service, &replica)?;
        self.tell(service, &replica.process).await;
        self.children.ready(&replica.process, READY_WITHIN).await?;
        Ok(replica)
    }

    /// Takes replicas away, after their callers know.
    async fn shrink(&mut self, service: &str, leaving: &BTreeSet<String>) {
        if let Some(replicas) = self.serving.get_mut(service) {
            replicas.retain(|replica| !leaving.contains(&replica.process));
        }
        self.expendable.extend(leaving.iter().cloned());
        self.tell_callers(service).await;
        tokio::time::sleep(TOLD_WITHIN).await;
        for process in leaving {
            self.children.stop(process).await;
        }
    }

    /// Adds (or, below 0, removes) replicas, never the last one; says how many it was.
    pub async fn scale(&mut self, service: &str, by: i64) -> anyhow::Result<i64> {
        if by >= 0 {
            for _ in 0..by {
                self.grow(service).await?;
                self.tell_callers(service).await;
            }
            return Ok(by);
        }
        let processes = self.processes(service);
        let wanted = usize::try_from(-by).unwrap_or(0).min(processes.len().saturating_sub(1));
        let leaving: BTreeSet<String> = processes.into_iter().rev().take(wanted).collect();
        self.shrink(service, &leaving).await;
        Ok(-i64::try_from(wanted).unwrap_or(0))
    }

    /// Replaces every process of a service by a new one, one after the other; a behaviour that `number` names is laid
    /// over the new ones only.
    pub async fn roll(&mut self, service: &str, version: Option<(u64, Behaviour)>) -> anyhow::Result<()> {
        let mut new = BTreeSet::new();
        for old in self.processes(service) {
            let replica = self.grow(service).await?;
            new.insert(replica.process);
            if let Some((number, behaviour)) = &version {
                self.lay(*number, service, Some(new.clone()), behaviour.clone()).await;
            }
            self.shrink(service, &[old].into()).await;
        }
        Ok(())
    }

    /// Ends every process of a service and starts it in the same place.
    pub async fn restart(&mut self, service: &str) -> anyhow::Result<()> {
        for replica in self.serving.get(service).cloned().unwrap_or_default() {
            self.children.stop(&replica.process).await;
            self.start_replica(service, &replica)?;
            self.tell(service, &replica.process).await;
        }
        Ok(())
    }

    /// A service that did not exist appears, and its callers begin to call it.
    pub async fn appear(&mut self, service: &str) -> anyhow::Result<()> {
        if !self.absent.contains(service) {
            bail!("{service} exists already: a new service must be in the schedule of --faults");
        }
        for replica in self.serving.get(service).cloned().unwrap_or_default() {
            self.start_replica(service, &replica)?;
        }
        for process in self.processes(service) {
            self.children.ready(&process, READY_WITHIN).await?;
        }
        self.absent.remove(service);
        self.tell_service(service).await;
        self.tell_callers(service).await;
        Ok(())
    }

    /// A client appears that sends requests which are refused.
    pub async fn start_bad_client(&mut self, service: &str, rate: f64) -> anyhow::Result<()> {
        let spec = bad_client_spec(&self.topology, &self.placement, service, BAD_CLIENT, rate);
        self.start_users(BAD_CLIENT, &spec)?;
        self.children.ready(BAD_CLIENT, READY_WITHIN).await?;
        // Its lines are read by nobody else, and a full pipe would stop it.
        let mut lines = self.children.load_lines(BAD_CLIENT)?;
        tokio::spawn(async move { while lines.recv().await.is_some() {} });
        self.children.tell(BAD_CLIENT, "start").await?;
        self.clients.insert(BAD_CLIENT, service.into());
        // Where the service is now, which need not be where it began.
        self.tell_callers(service).await;
        Ok(())
    }

    /// It goes again.
    pub async fn end_bad_client(&mut self) {
        self.clients.remove(BAD_CLIENT);
        drop(self.children.tell(BAD_CLIENT, "stop").await);
        self.children.stop(BAD_CLIENT).await;
    }

    /// Users send so many requests a second from now on.
    pub async fn set_rate(&mut self, rate: f64) -> anyhow::Result<()> {
        self.children.tell(LOADGEN, &json!({ "rate": rate }).to_string()).await
    }

    /// Starts those again that died, and tells them what they have to know.
    pub(super) async fn restart_dead(&mut self) -> anyhow::Result<Vec<String>> {
        let dead = self.children.restart_dead(&self.expendable)?;
        for process in &dead {
            if let Some(service) = self.born.get(process).cloned() {
                self.tell(&service, process).await;
            }
        }
        Ok(dead)
    }

    /// Ends all processes and leaves nothing behind but the output.
    pub(super) async fn end(&mut self) -> anyhow::Result<()> {
        self.children.stop_all().await;
        self.network.remove();
        self.folders.remove();
        self.children.cgroups().remove()
    }
}
