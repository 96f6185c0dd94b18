//! Where events come from: kernel probes, cgroup files, names, recordings.

pub mod cgroups;
pub mod elsewhere;
pub mod identity;
pub mod probes;
pub mod replay;
