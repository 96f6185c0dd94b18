//! Where events come from: kernel probes, cgroup files, names, recordings; and what else is asked of the system.

pub mod cgroups;
pub mod elsewhere;
pub mod heap;
pub mod identity;
pub mod probes;
pub mod replay;
pub mod tls;
