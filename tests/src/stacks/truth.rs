//! What the two ends of a pair say of each call, joined with what was planned: what the agent may say of it.

use super::scenario::{Certainty, Planned};
use faultline_core::call::{StatusSource, View};
use serde_json::Value;
use std::collections::HashMap;

/// What one end says.
#[derive(Clone, Copy, Debug)]
struct Said {
    status: u8,
    requests: (u32, u64),
    responses: (u32, u64),
    request_wire: Option<u64>,
    response_wire: Option<u64>,
    cancelled: bool,
    ms: f64,
}

/// The messages of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// So many messages and bytes.
    Exact(u32, u64),
    /// So many messages; the bytes are not more than so many.
    Count(u32, u64),
    /// At most so many of both.
    AtMost(u32, u64),
}

impl Expectation {
    /// Whether a status is right.
    #[must_use]
    pub fn admits_status(&self, code: u8, source: StatusSource) -> bool {
        self.statuses.contains(&code) || (source == StatusSource::Wire && self.sent_statuses.contains(&code))
    }
}

impl Expected {
    /// Whether so many messages and bytes fit.
    #[must_use]
    pub fn admits(self, count: u32, bytes: u64) -> bool {
        match self {
            Self::Exact(messages, size) => count == messages && bytes == size,
            Self::Count(messages, size) => count == messages && bytes <= size,
            Self::AtMost(messages, size) => count <= messages && bytes <= size,
        }
    }
}

/// What the agent may say of a call, from one end's view.
#[derive(Clone, Debug)]
pub struct Expectation {
    /// The call's number.
    pub id: u32,
    /// Its method.
    pub method: &'static str,
    /// The statuses that are right.
    pub statuses: Vec<u8>,
    /// Those that are right if they were read: what a server's stack may send on its own.
    pub sent_statuses: &'static [u8],
    /// The requests.
    pub requests: Expected,
    /// The responses.
    pub responses: Expected,
    /// How long the client says it took, in milliseconds.
    pub client_ms: f64,
}

/// Joins plan and truths into what may be said from one view.
///
/// # Errors
/// When the two ends contradict each other or the plan: the peers are wrong, not the agent.
pub fn expectations(
    plan: &[Planned],
    client: &str,
    server: &str,
    view: View,
) -> Result<Vec<Expectation>, String> {
    let (client, server) = (read(client)?, read(server)?);
    plan.iter().map(|planned| expectation(planned, &client, &server, view)).collect()
}

fn expectation(
    planned: &Planned,
    client: &HashMap<u32, Said>,
    server: &HashMap<u32, Said>,
    view: View,
) -> Result<Expectation, String> {
    let id = planned.id;
    let ours = *client.get(&id).ok_or_else(|| format!("the client does not speak of call {id}"))?;
    let theirs = server.get(&id).copied();
    let contradiction = |what: &str| format!("{what}, of `{}`: {ours:?} against {theirs:?}", planned.line);
    let certain = matches!(planned.certainty, Certainty::Exact | Certainty::Compressed);
    if certain {
        let theirs = theirs.ok_or_else(|| contradiction("the server does not speak"))?;
        if ours.status != theirs.status
            || ours.requests != theirs.requests
            || ours.responses != theirs.responses
        {
            return Err(contradiction("the ends contradict each other"));
        }
        if ours.requests != planned.requests || ours.responses != planned.responses {
            return Err(contradiction("not what was planned"));
        }
    }
    let wire = |of: fn(&Said) -> Option<u64>| of(&ours).or_else(|| theirs.as_ref().and_then(of));
    let side = |planned_most: (u32, u64), wire: Option<u64>, sure: bool| match (planned.certainty, wire) {
        (Certainty::Compressed, Some(bytes)) => Expected::Exact(planned_most.0, bytes),
        // gzip adds some 20 bytes to what it cannot shrink.
        (Certainty::Compressed, None) => {
            Expected::Count(planned_most.0, planned_most.1 + u64::from(planned_most.0) * 32)
        }
        _ if sure => Expected::Exact(planned_most.0, planned_most.1),
        _ => Expected::AtMost(planned_most.0, planned_most.1),
    };
    let mut statuses = vec![ours.status];
    if !certain {
        // A status that the server sent may cross with the client's cancellation. (grpc-js ends its requests
        // before it resets a stream, so the server may even answer.)
        statuses.extend(theirs.filter(|theirs| !theirs.cancelled).map(|theirs| theirs.status));
    }
    if planned.certainty == Certainty::Expired {
        statuses.push(4);
        statuses.extend(theirs.filter(|_| view == View::Server).map(|theirs| theirs.status));
    }
    Ok(Expectation {
        id,
        method: planned.method,
        statuses,
        // Some servers watch the deadline too, and tonic's says CANCELLED when it has passed.
        sent_statuses: if planned.certainty == Certainty::Expired { &[1, 4] } else { &[] },
        requests: side(planned.requests, wire(|said| said.request_wire), certain),
        responses: side(
            planned.responses,
            wire(|said| said.response_wire),
            certain || planned.certainty == Certainty::Early,
        ),
        client_ms: ours.ms,
    })
}

fn read(text: &str) -> Result<HashMap<u32, Said>, String> {
    let mut all = HashMap::new();
    for line in text.lines() {
        let truth: Value = serde_json::from_str(line).map_err(|error| format!("{error}: {line}"))?;
        let number = |key: &str| truth[key].as_u64().unwrap_or(0);
        let small = |key: &str| u32::try_from(number(key)).unwrap_or(u32::MAX);
        let said = Said {
            status: u8::try_from(number("status")).unwrap_or(u8::MAX),
            requests: (small("requests"), number("request_bytes")),
            responses: (small("responses"), number("response_bytes")),
            request_wire: truth["request_wire"].as_u64(),
            response_wire: truth["response_wire"].as_u64(),
            cancelled: truth["cancelled"].as_bool().unwrap_or(false),
            ms: truth["ms"].as_f64().unwrap_or(0.0),
        };
        all.insert(small("id"), said);
    }
    Ok(all)
}
