//! The run's own thread goes before everything that it starts, so that faults begin and end when the schedule says,
//! also while one of them takes every core. It does little: far less than a hundredth of a core.

use std::process::Command;

use super::network;

/// Real-time order for this thread, until dropped.
pub(super) struct Ahead {
    thread: String,
}

impl Ahead {
    /// Asks for it; what this thread starts is scheduled as ever (`--reset-on-fork`). The services' cgroups have
    /// sixteen times the share of what is outside them, and no niceness helps against that.
    pub(super) fn of_all() -> anyhow::Result<Self> {
        let ahead = Self { thread: rustix::thread::gettid().as_raw_nonzero().to_string() };
        ahead.chrt(&["--rr", "--reset-on-fork", "--pid", "1"])?;
        Ok(ahead)
    }

    fn chrt(&self, words: &[&str]) -> anyhow::Result<()> {
        network::run(Command::new("chrt").args(words).arg(&self.thread), None)
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        drop(self.chrt(&["--other", "--pid", "0"]));
    }
}
