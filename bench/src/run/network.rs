//! Several network namespaces on one machine, as if they were nodes: each has one link to a bridge in a namespace of
//! its own (so that no rule of the host's firewall is in the way), and the host has one, too. Without nodes there is
//! nothing here and everybody listens on 127.0.0.1.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

/// Nodes at most: more would have a service or two each.
pub(crate) const MOST_NODES: u32 = 32;

/// Where `ip netns` keeps the namespaces.
const NAMESPACES: &str = "/run/netns";
/// The host's place in the network.
const HOST: u32 = 254;

/// The namespaces of one run, named after its cgroup so that the next run finds what a killed one left.
pub struct Network {
    nodes: u32,
    mark: u32,
}

impl Network {
    /// Removes what an earlier run of this cgroup left, and makes the nodes.
    pub fn make(cgroup: &str, nodes: u32) -> anyhow::Result<Self> {
        let network = Self { nodes, mark: digest(cgroup) };
        network.remove();
        if nodes > 0 {
            network.add().inspect_err(|_| network.remove())?;
        }
        Ok(network)
    }

    fn name(&self, what: &str) -> String {
        format!("fl{:04x}{what}", self.mark)
    }

    /// The first three bytes of every address: within 10/8, different for different cgroups.
    fn prefix(&self) -> String {
        format!("10.{}.{}", 64 + (self.mark >> 8) % 128, self.mark & 0xFF)
    }

    /// Where a process on this node listens.
    pub fn address(&self, node: u32) -> String {
        if self.nodes == 0 { "127.0.0.1".into() } else { format!("{}.{}", self.prefix(), node + 1) }
    }

    /// Which node the n-th process is on; without nodes, none.
    pub(super) const fn node(&self, index: u32) -> Option<u32> {
        index.checked_rem(self.nodes)
    }

    /// The file of a node's namespace.
    pub fn file(&self, node: u32) -> PathBuf {
        PathBuf::from(NAMESPACES).join(self.name(&format!("n{node}")))
    }

    /// The link of every node to the others, within its namespace.
    pub(crate) const LINK: &'static str = "eth0";

    fn add(&self) -> anyhow::Result<()> {
        let hub = self.name("hub");
        let mut lines = vec![format!("netns add {hub}"), format!("-n {hub} link add name br0 type bridge")];
        lines.push(format!("-n {hub} link set br0 up"));
        for node in 0..self.nodes {
            let space = self.name(&format!("n{node}"));
            lines.push(format!("netns add {space}"));
            lines.push(format!("-n {space} link set lo up"));
            lines.push(format!("-n {space} link add {} type veth peer name v{node} netns {hub}", Self::LINK));
            lines.push(format!("-n {hub} link set v{node} master br0 up"));
            lines.push(format!("-n {space} address add {}/24 dev {}", self.address(node), Self::LINK));
            lines.push(format!("-n {space} link set {} up", Self::LINK));
        }
        let host = self.name("h");
        lines.push(format!("link add {host} type veth peer name host netns {hub}"));
        lines.push(format!("-n {hub} link set host master br0 up"));
        lines.push(format!("address add {}.{HOST}/24 dev {host}", self.prefix()));
        lines.push(format!("link set {host} up"));
        lines.iter().try_for_each(|line| ip(line))
    }

    /// Takes everything away again; the links go with their namespaces.
    pub fn remove(&self) {
        let prefix = self.name("");
        let found = std::fs::read_dir(NAMESPACES).into_iter().flatten().flatten();
        let names = found.filter_map(|entry| entry.file_name().into_string().ok());
        for name in names.filter(|name| name.starts_with(&prefix)) {
            if let Err(error) = ip(&format!("netns delete {name}")) {
                eprintln!("playground: {error:#}");
            }
        }
        let host = self.name("h");
        if PathBuf::from("/sys/class/net").join(&host).exists() {
            // It goes with the hub's namespace, sooner or later.
            drop(ip(&format!("link delete {host}")));
        }
    }
}

/// Which names and addresses a cgroup's run uses: FNV-1a, folded to 16 bits.
fn digest(text: &str) -> u32 {
    let hash =
        text.bytes().fold(0x811C_9DC5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    (hash >> 16) ^ (hash & 0xFFFF)
}

fn ip(line: &str) -> anyhow::Result<()> {
    run(Command::new("ip").args(line.split(' ')), None)
}

/// Runs a tool of the system; its complaint is the error.
pub(crate) fn run(command: &mut Command, input: Option<&str>) -> anyhow::Result<()> {
    let shown = format!("{command:?}").replace('"', "");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| {
            format!(
                "`{shown}` cannot be run; the packages iproute2, nftables and util-linux have what is needed"
            )
        })?;
    if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
        stdin.write_all(input.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("`{shown}` failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
