//! Six gRPC stacks as peers of each other: what they are asked to do, the processes, what they say of it, and
//! what the agent may say of it.

pub mod compare;
pub mod pair;
pub mod peers;
pub mod proxy;
pub mod scenario;
pub mod seen;
pub mod tally;
pub mod truth;
