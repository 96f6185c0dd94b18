//! Six gRPC stacks as peers of each other: `scenario` says what they do, `peers` runs them, each end in a
//! cgroup of its own, `truth` reads what the two ends say, and `compare` holds the agent's calls against it.
//! The peers themselves are in `tests/stacks`; `cargo xtask test stacks` builds them.

pub mod compare;
pub mod peers;
pub mod scenario;
pub mod truth;
