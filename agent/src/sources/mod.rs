//! Where events come from: kernel probes, cgroup files, names, recordings.

pub mod probes;
pub mod replay;
