//! The live service graph: who calls whom. An arrow points from the caller to the callee.
//!
//! Built by [`crate::pipeline`] from the edges that had traffic lately; read by [`crate::rank`].

use crate::units::ServiceId;
use petgraph::graphmap::DiGraphMap;

/// How an edge was learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EdgeKind {
    /// gRPC calls were seen.
    Grpc,
    /// Only TCP exchanges were seen: a database, a cache, an external host.
    Tcp,
}

/// The service graph.
pub type ServiceGraph = DiGraphMap<ServiceId, EdgeKind>;
