//! Networks that lose, delay, reorder, double and cut packets: a loopback of one's own, made bad by netem.

use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::Priority;
use std::fs;
use std::os::fd::AsFd;
use std::process::Command;

/// A kind of network.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// What netem does, in `tc`'s words; nothing when empty.
    pub netem: &'static str,
    /// Bytes of a packet with its headers (IPv4: 68 at least).
    pub mtu: u32,
    /// The stack hands packets over one by one; else many of them as one, as large as 64 KiB and more.
    pub single: bool,
    /// The receiver says what it has behind a hole. Without that the sender repeats, in one piece, what was lost
    /// and what was not.
    pub sack: bool,
}

impl Weather {
    /// Gives the calling thread, and those that it starts from now on, a network of their own with this weather.
    ///
    /// # Panics
    /// Without root, iproute2 or netem: what cannot be set up was not tested.
    pub fn begin(&self) {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        fs::write("/proc/sys/net/ipv4/tcp_sack", if self.sack { "1" } else { "0" }).unwrap();
        let mtu = self.mtu.to_string();
        tool("ip", &["link", "set", "dev", "lo", "mtu", &mtu, "up"]);
        if self.single {
            tool("ip", &["link", "set", "dev", "lo", "gso_max_segs", "1"]);
        }
        if !self.netem.is_empty() {
            let words: Vec<&str> =
                "qdisc add dev lo root netem limit 100000".split(' ').chain(self.netem.split(' ')).collect();
            tool("tc", &words);
        }
    }
}

/// The socket priority whose packets [`Weather::begin_dropping`] drops.
const DROPPED: i32 = 5;

impl Weather {
    /// As [`Weather::begin`], and what [`lose`] names is lost.
    pub fn begin_dropping(&self) {
        self.begin();
        let prio = "qdisc add dev lo root handle 1: prio bands 3 priomap 0 0 0 0 0 2 0 0 0 0 0 0 0 0 0 0";
        tool("tc", &prio.split(' ').collect::<Vec<_>>());
        tool("tc", &["qdisc", "add", "dev", "lo", "parent", "1:3", "netem", "loss", "100%"]);
    }
}

/// From now on what the socket sends is lost, or is not.
///
/// # Panics
/// When the kernel refuses.
pub fn lose(socket: &impl AsFd, lost: bool) {
    setsockopt(socket, Priority, &if lost { DROPPED } else { 0 }).unwrap();
}

fn tool(program: &str, words: &[&str]) {
    let done = Command::new(program).args(words).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{program} {}: {said}", words.join(" "));
}
