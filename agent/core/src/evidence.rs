//! What one signal tells against one service. Windows of [`crate::history`] flow in, [`Reason`]s flow out;
//! [`crate::rank`] weighs them over the graph.

use crate::units::ServiceId;

/// One reason to suspect a service.
#[derive(Clone, Debug, PartialEq)]
pub struct Reason {
    /// `self`, `edge`, `resource`, `model`, or `discount` (what callees explain; its weight is negative).
    pub family: &'static str,
    /// The signal's name ([`crate::window::Signal::name`] or [`crate::window::EdgeSignal::name`]).
    pub signal: &'static str,
    /// The other end, for an edge.
    pub peer: Option<ServiceId>,
    /// Now, in the signal's unit.
    pub value: f64,
    /// As usual, in the signal's unit; `None` where nothing is usual.
    pub baseline: Option<f64>,
    /// Its part in the suspect's score.
    pub weight: f64,
    /// In words: `p95 latency 812 ms, usually 14 ms`. It names no service; the peer is a field.
    pub text: String,
}
