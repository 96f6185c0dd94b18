//! The pure core of Faultline: events flow in, a [`report::Report`] flows out.
//!
//! No IO, no clock (time is an argument), no threads, no unsafe: the same events give the same report.
//! Modules in reading order, which is the order in which data flows:
//! [`units`] → [`event`] → [`h2`] → [`call`] (one finished RPC, put together by [`rpc`]) → [`connections`] and [`identity`]
//! (whose is it) → [`window`] → [`history`] → [`encode`] → [`score`] → [`graph`] → [`evidence`] → [`rank`]
//! → [`incident`] → [`report`]; [`pipeline`] joins them, [`coverage`] says what was not seen, [`totals`]
//! keeps what Prometheus counts, [`recording`] writes and reads events.
#![forbid(unsafe_code)]

pub mod call;
pub mod connections;
pub mod coverage;
pub mod encode;
pub mod event;
pub mod evidence;
pub mod graph;
pub mod h2;
pub mod history;
pub mod identity;
pub mod incident;
pub mod pipeline;
pub mod rank;
pub mod recording;
mod refused;
pub mod report;
pub mod rpc;
pub mod score;
pub mod totals;
pub mod units;
pub mod window;
