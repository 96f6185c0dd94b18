//! HTTP/2 as seen from outside: TCP segments of one direction flow in, the parts of frames flow out.
//!
//! `reassembly` puts segments in order, `frame` walks the frames, `search` finds frames again after bytes were
//! lost, `hpack` reads header blocks, `names` interns what is kept of them, and `half` joins these for one
//! direction of one connection. Streams are put together in [`crate::rpc`].
//!
//! Nothing here is a peer of the connection: it cannot answer, ask again or refuse. So, unlike the `h2` crate,
//! it takes what it gets: from the middle, with holes, with bytes left out on purpose.

pub(crate) mod frame;
#[cfg(feature = "fuzz")]
#[doc(hidden)]
pub mod fuzz;
pub(crate) mod half;
pub(crate) mod hpack;
pub(crate) mod names;
pub(crate) mod reassembly;
pub(crate) mod search;
