//! Holds the agent's calls against what the application says of them: events and the calls that were made flow in,
//! how many of them are exact, left open, lost and wrong flows out.

use crate::planned::{Made, Plan};
use faultline_core::call::{Call, Messages, Method, View};
use faultline_core::event::{Event, Role};
use faultline_core::rpc::Decoder;
use faultline_core::units::{ConnectionId, Nanos, Timestamp};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::net::SocketAddr;

/// How often the decoder is told the time, as the agent does.
const TICK: Nanos = Nanos::from_secs(1);

/// What came out; each call counts twice, once for each of its ends.
#[derive(Debug, Default)]
pub struct Tally {
    /// Calls that were made, times two.
    pub views: usize,
    /// Everything was said of them, and all of it is right.
    pub exact: usize,
    /// Nothing false was said, but something was left open.
    pub open: usize,
    /// Not seen, on a connection of which a loss was told.
    pub declared: usize,
    /// Not seen, and nothing was told.
    pub unseen: usize,
    /// Something false was said, or a call that nobody made.
    pub wrong: Vec<String>,
    /// What was told as lost, by reason.
    pub lost: BTreeMap<&'static str, u64>,
    /// The longest time from a call's end until the decoder told of it.
    pub latest: Nanos,
    /// Payload bytes of all segments.
    pub passed: u64,
    /// Those of them that were copied out of the kernel.
    pub copied: u64,
}

/// Decodes the events and compares.
#[must_use]
pub fn tally(made: &[Made], events: Vec<Event>) -> Tally {
    let mut tally = Tally { views: made.len() * 2, ..Tally::default() };
    let decoded = decode(events, &mut tally);
    let truth: HashMap<(SocketAddr, u32), &Plan> =
        made.iter().map(|made| ((made.client, made.stream), &made.plan)).collect();
    let mut seen = HashSet::new();
    for call in &decoded.calls {
        let Some((client, view)) = decoded.ends.get(&call.connection).copied() else {
            tally.wrong.push(format!("on a connection that was never opened: {call:?}"));
            continue;
        };
        let Some(plan) = truth.get(&(client, call.stream.0)) else {
            tally.wrong.push(format!("nobody made {call:?}"));
            continue;
        };
        if !seen.insert((client, call.stream.0, view)) {
            tally.wrong.push(format!("twice: {call:?}"));
        } else if call.view != view || !admissible(call, plan) {
            tally.wrong.push(format!("{plan:?} became {call:?}"));
        } else if complete(call) {
            tally.exact += 1;
        } else {
            tally.open += 1;
        }
    }
    let lossy: HashSet<(SocketAddr, View)> =
        decoded.lossy.iter().filter_map(|connection| decoded.ends.get(connection).copied()).collect();
    for made in made {
        for view in [View::Client, View::Server] {
            if !seen.contains(&(made.client, made.stream, view)) {
                let told = lossy.contains(&(made.client, view));
                *(if told { &mut tally.declared } else { &mut tally.unseen }) += 1;
            }
        }
    }
    tally
}

/// What the decoder said.
#[derive(Default)]
struct Decoded {
    calls: Vec<Call>,
    /// The client's address and the view of each connection's end.
    ends: HashMap<ConnectionId, (SocketAddr, View)>,
    lossy: HashSet<ConnectionId>,
}

fn decode(events: Vec<Event>, tally: &mut Tally) -> Decoded {
    let mut decoder = Decoder::default();
    let mut decoded = Decoded::default();
    let mut out = Vec::new();
    let mut ticked = Timestamp::default();
    for event in events {
        let now = event.at();
        match &event {
            Event::Opened(opened) => {
                let end = match opened.role {
                    Role::Client => (opened.local, View::Client),
                    Role::Server | Role::Unknown => (opened.remote, View::Server),
                };
                decoded.ends.insert(opened.connection, end);
            }
            Event::Segment(segment) => {
                tally.passed += u64::from(segment.length);
                tally.copied += segment.pieces.iter().map(|piece| piece.bytes.len() as u64).sum::<u64>();
            }
            _ => {}
        }
        if now.since(ticked) > TICK {
            decoder.tick(now, &mut out);
            ticked = now;
        }
        decoder.handle(event, &mut out);
        take(out.drain(..), now, &mut decoded, tally);
    }
    decoder.tick(ticked + Nanos::from_secs(60), &mut out);
    take(out.drain(..), ticked, &mut decoded, tally);
    decoded
}

fn take(events: impl Iterator<Item = Event>, now: Timestamp, decoded: &mut Decoded, tally: &mut Tally) {
    for event in events {
        match event {
            Event::Call(call) => {
                tally.latest = tally.latest.max(now.since(call.started + call.duration));
                decoded.calls.push(*call);
            }
            Event::Lost(loss) => {
                *tally.lost.entry(loss.reason.name()).or_default() += loss.count;
                decoded.lossy.extend(loss.connection);
            }
            _ => {}
        }
    }
}

/// Nothing that is said of the call is false.
fn admissible(call: &Call, plan: &Plan) -> bool {
    let method = match &call.method {
        Method::Named(name) => **name == *plan.method,
        Method::Unresolved(_) => true,
    };
    let side = |seen: Messages, lengths: &[usize]| {
        let (count, bytes) = (lengths.len() as u32, lengths.iter().sum::<usize>() as u64);
        if seen.exact {
            (seen.count, seen.bytes) == (count, bytes)
        } else {
            seen.count <= count && seen.bytes <= bytes
        }
    };
    method
        && call.status.code.is_none_or(|code| code == plan.status)
        && side(call.request, &plan.requests)
        && side(call.response, &plan.responses)
}

/// Nothing is left open.
fn complete(call: &Call) -> bool {
    matches!(call.method, Method::Named(_))
        && call.status.code.is_some()
        && call.request.exact
        && call.response.exact
}

impl fmt::Display for Tally {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{} views, {} exact, {} wrong, {} open, {} declared lost, {} unseen; lost {:?}; {:.0} ms at most; \
             {} of {} kB copied",
            self.views,
            self.exact,
            self.wrong.len(),
            self.open,
            self.declared,
            self.unseen,
            self.lost,
            self.latest.as_millis_f64(),
            self.copied / 1000,
            self.passed / 1000,
        )
    }
}
