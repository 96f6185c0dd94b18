//! What happens on the wire between a caller and its callee: packets of exactly this edge are told apart by the
//! sender's cgroup and the callee's ports. Lost ones are marked (DSCP) where they leave and dropped where they arrive,
//! so that TCP retransmits them as on a real network; late ones wait in a queue of the link. With `netem` in the
//! kernel the queue delays each packet by the time asked for; without it, the link of that edge gets so slow that a
//! packet takes this long to pass, but never slower than the edge's traffic before, and a ninth more.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;

use crate::run::network::{self, Network};

/// The queue's handle on a link; nobody else's, so that what a killed run left is known.
const HANDLE: &str = "fa17";
/// The traffic of an edge is measured for this long before its link is slowed.
const MEASURE: Duration = Duration::from_millis(1_500);
/// A link is not made slower than this, bits a second: retransmissions would fill it for ever.
const SLOWEST: f64 = 8_000.0;

/// One edge, as the kernel can tell it apart.
pub struct Edge {
    /// Tables and marks of different runs and faults differ.
    pub table: String,
    /// 1 to 63: one for each fault that is on.
    pub mark: u64,
    /// Cgroup paths of the caller's processes below the version 2 mount, and the mount's name below /sys/fs/cgroup.
    pub callers: Vec<Sender>,
    /// `address:port` of the callee's replicas.
    pub callees: Vec<String>,
    /// Network namespaces in which one end is; none is the host's.
    pub networks: Vec<Option<PathBuf>>,
}

/// A caller's cgroup as nftables names it.
pub struct Sender {
    /// Below /sys/fs/cgroup.
    pub path: String,
    /// Its depth in the hierarchy.
    pub level: usize,
}

/// Something on the wire that can be taken away, and has to be: it outlives whoever put it there.
pub struct Wire {
    table: String,
    networks: Vec<Option<PathBuf>>,
    /// Links with a queue, by namespace.
    links: Vec<(Option<PathBuf>, &'static str)>,
    /// The loopback link belongs to one run at a time.
    _claim: Option<std::fs::File>,
}

impl Edge {
    /// Loses so many of a hundred packets, 0 to 90.
    pub fn lose(self, percent: f64) -> anyhow::Result<Wire> {
        let arrive = self.ports();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 900")]
        let permille = (percent * 10.0).round() as u64;
        let dscp = self.mark;
        let rules = format!(
            "{}chain arrives {{ type filter hook input priority 0; tcp dport {{ {arrive} }} ip dscp {dscp} \
             numgen random mod 1000 < {permille} counter drop; }}\n",
            self.departure(&format!("ip dscp set {dscp}"))
        );
        self.lay(&rules)
    }

    /// Makes packets late; needs a moment to see how much there is to carry.
    pub async fn delay(self, by: Duration) -> anyhow::Result<Wire> {
        let class = format!("{HANDLE}:{}", self.mark);
        let rules = self.departure(&format!("counter meta priority set \"{class}\""));
        let (mark, measured) = (self.mark, self.networks.clone());
        let mut wire = self.lay(&rules)?;
        tokio::time::sleep(MEASURE).await;
        let traffic: Vec<(u64, u64)> = measured
            .iter()
            .map(|network| carried(network.as_ref(), &wire.table).unwrap_or_default())
            .collect();
        for (network, (packets, bytes)) in measured.into_iter().zip(traffic) {
            let devices = if network.is_some() { &["lo", Network::LINK][..] } else { &["lo"] };
            for &device in devices {
                wire.slow(&(network.clone(), device), mark, by, (packets, bytes))?;
            }
        }
        Ok(wire)
    }

    /// The callee's ports.
    fn ports(&self) -> String {
        let ports = self.callees.iter().filter_map(|address| Some(address.rsplit_once(':')?.1));
        ports.collect::<Vec<_>>().join(", ")
    }

    /// What happens to packets of this edge where they leave.
    fn departure(&self, action: &str) -> String {
        let ports = self.ports();
        let rule = |sender: &Sender| {
            format!(
                "socket cgroupv2 level {} \"{}\" tcp dport {{ {ports} }} {action}; ",
                sender.level, sender.path
            )
        };
        let rules: String = self.callers.iter().map(rule).collect();
        format!("chain leaves {{ type filter hook output priority -150; {rules}}}\n")
    }

    fn lay(self, rules: &str) -> anyhow::Result<Wire> {
        let text = format!("table ip {} {{\n{rules}}}\n", self.table);
        let wire = Wire { table: self.table, networks: self.networks, links: Vec::new(), _claim: None };
        for space in &wire.networks {
            network::run(within(space.as_ref(), "nft").args(["-f", "-"]), Some(&text))
                .context("the wire between the two cannot be reached")?;
        }
        Ok(wire)
    }
}

impl Wire {
    fn slow(
        &mut self,
        link: &(Option<PathBuf>, &'static str),
        mark: u64,
        by: Duration,
        (packets, bytes): (u64, u64),
    ) -> anyhow::Result<()> {
        let tc = |line: &str| network::run(within(link.0.as_ref(), "tc").args(line.split(' ')), None);
        if link.0.is_none() && self._claim.is_none() {
            self._claim = Some(claim_loopback()?);
        }
        let device = link.1;
        // There may be one from another fault of this run.
        drop(tc(&format!("qdisc add dev {device} root handle {HANDLE}: htb")));
        let class = format!("class replace dev {device} parent {HANDLE}: classid {HANDLE}:{mark} htb rate");
        tc(&format!("{class} 10gbit"))?;
        self.links.push(link.clone());
        let netem = format!("qdisc add dev {device} parent {HANDLE}:{mark} netem delay {}us", by.as_micros());
        if tc(&netem).is_ok() {
            return Ok(());
        }
        #[expect(clippy::cast_precision_loss, reason = "traffic of a second")]
        let (packets, bits) = (packets as f64, bytes as f64 * 8.0);
        let per_packet = if packets > 0.0 { bits / packets } else { 4_000.0 };
        let wanted = per_packet / by.as_secs_f64().max(1e-6);
        let rate = wanted.max(bits / MEASURE.as_secs_f64() * 10.0 / 9.0).max(SLOWEST);
        tc(&format!("{class} {rate:.0}bit burst 100 cburst 100"))?;
        tc(&format!("qdisc add dev {device} parent {HANDLE}:{mark} pfifo limit 2000"))
    }

    /// Takes everything away.
    pub fn remove(self) {
        for (space, device) in &self.links {
            let words = ["qdisc", "del", "dev", device, "root"];
            if let Err(error) = network::run(within(space.as_ref(), "tc").args(words), None) {
                eprintln!("playground: {error:#}");
            }
        }
        for space in &self.networks {
            let words = ["delete", "table", "ip", &self.table];
            if let Err(error) = network::run(within(space.as_ref(), "nft").args(words), None) {
                eprintln!("playground: {error:#}");
            }
        }
    }
}

/// Packets and bytes that the edge's rules have counted.
fn carried(space: Option<&PathBuf>, table: &str) -> Option<(u64, u64)> {
    let output = within(space, "nft").args(["list", "table", "ip", table]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let mut words = text.split_whitespace();
    let (mut packets, mut bytes) = (0, 0);
    while let Some(word) = words.next() {
        match word {
            "packets" => packets += words.next()?.parse::<u64>().ok()?,
            "bytes" => bytes += words.next()?.parse::<u64>().ok()?,
            _ => {}
        }
    }
    Some((packets, bytes))
}

/// A tool of the network inside a namespace.
fn within(space: Option<&PathBuf>, program: &str) -> Command {
    match space {
        None => Command::new(program),
        Some(file) => {
            let mut entering = Command::new("nsenter");
            entering.arg(format!("--net={}", file.display())).arg(program);
            entering
        }
    }
}

/// All runs of a machine share its loopback link: one at a time slows it, and removes first what a killed one left.
fn claim_loopback() -> anyhow::Result<std::fs::File> {
    let path = std::env::temp_dir().join("faultline-loopback.lock");
    let file = std::fs::File::create(&path).with_context(|| format!("{} cannot be made", path.display()))?;
    file.try_lock().context("another playground slows the loopback link now; use --nodes, or wait")?;
    let shown = Command::new("tc").args(["qdisc", "show", "dev", "lo"]).output();
    if shown.is_ok_and(|shown| String::from_utf8_lossy(&shown.stdout).contains(&format!(" {HANDLE}: root"))) {
        network::run(Command::new("tc").args(["qdisc", "del", "dev", "lo", "root"]), None)?;
    }
    Ok(file)
}

/// The name of the table of a cgroup's n-th fault.
pub fn table(cgroup: &str, number: u64) -> String {
    format!("{}{number}", table_prefix(cgroup))
}

fn table_prefix(cgroup: &str) -> String {
    let plain = |character: char| if character.is_ascii_alphanumeric() { character } else { '_' };
    format!("{}_", cgroup.chars().map(plain).collect::<String>())
}

/// Removes the tables that a killed run of a cgroup left; namespaces take theirs with them.
pub(crate) fn clean(cgroup: &str) {
    let prefix = table_prefix(cgroup);
    let Ok(listed) = Command::new("nft").args(["list", "tables"]).output() else { return };
    for line in String::from_utf8_lossy(&listed.stdout).lines() {
        if let Some(name) = line.strip_prefix("table ip ").filter(|name| name.starts_with(&prefix)) {
            drop(network::run(Command::new("nft").args(["delete", "table", "ip", name]), None));
        }
    }
    // Whoever holds the lock slows the link now; without the lock nobody does.
    drop(claim_loopback());
}
