//! Whether a method sends one message or many each way.

use serde::{Deserialize, Serialize};

/// How many messages go each way in one call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MethodKind {
    /// One and one.
    #[default]
    Unary,
    /// Many and one.
    ClientStream,
    /// One and many.
    ServerStream,
    /// Many and many, interleaved.
    BidiStream,
}

impl MethodKind {
    /// The name in topologies and in what services are told.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unary => "unary",
            Self::ClientStream => "client-stream",
            Self::ServerStream => "server-stream",
            Self::BidiStream => "bidi-stream",
        }
    }

    /// Whether a call has several request messages.
    pub const fn streams_requests(self) -> bool {
        matches!(self, Self::ClientStream | Self::BidiStream)
    }

    /// Whether a call has several response messages.
    pub const fn streams_responses(self) -> bool {
        matches!(self, Self::ServerStream | Self::BidiStream)
    }
}
