//! The playground: a gRPC system of real stacks that breaks on command and knows what broke.
//! A topology comes in; processes, load, faults and the truth about them go out. `agreement` compares an agent's counts
//! with that truth; `evaluate` reads data
//! sets, this one's and public ones, and ranks their faults; `generate` makes large ones; `anomaly` scores services through time;
//! `cost` measures what watching costs the traffic that is watched.

pub mod agreement;
pub mod anomaly;
pub mod brief;
pub mod cgroups;
pub mod cost;
pub mod evaluate;
pub mod faults;
pub mod generate;
pub mod load;
pub mod messages;
pub mod random;
mod rows;
pub mod run;
pub mod service;
pub mod stacks;
pub mod status;
pub mod stress;
pub mod study;
pub mod topology;
pub mod truth;
mod watcher;
