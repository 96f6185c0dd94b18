//! What the end-to-end tests share: the agent as a process, and real gRPC traffic over loopback.
//! The tests themselves are in `tests/`, one file a subject; they need root, a kernel and release binaries.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot set itself up must fail"
)]

pub mod agent;
pub mod exactness;
pub mod planned;
pub mod raw;
pub mod stacks;
pub mod tally;
pub mod tap;
pub mod traffic;
pub mod watched;
pub mod weather;
