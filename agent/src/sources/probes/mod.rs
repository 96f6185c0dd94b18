//! The kernel programs: records come out of their ring buffer, events of connections and their bytes go to
//! the core. [`attach`] loads and attaches, [`record`] parses, [`drain`] empties the ring, [`support`] says
//! what this machine allows, [`clock`] tells the kernel's time.
//!
//! The programs live as long as [`Probes`]: nothing is pinned, so nothing stays attached when the agent
//! ends, not even when it is killed.

mod attach;
pub mod clock;
mod drain;
pub mod record;
mod support;
mod uprobes;

pub use attach::{AttachError, Options, Probes};
pub use record::{MalformedRecord, parse};
pub use support::{Finding, probe_support};
