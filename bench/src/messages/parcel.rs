//! The message of systems that bring no types of their own.

use prost::Message;

/// A message of one field: `message Parcel { bytes payload = 1; }`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Parcel {
    /// Any bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub payload: Vec<u8>,
}
