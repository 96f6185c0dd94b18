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

/// What one end says of every call: by its number and, for a server, by the attempts before it.
type Ledger = HashMap<(u32, u32), Said>;

/// The messages of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// So many messages and bytes.
    Exact(u32, u64),
    /// So many messages; the bytes are not more than so many.
    Count(u32, u64),
    /// At most so many of both, all of one size.
    AtMost(u32, u64),
}

impl Expected {
    /// The most messages and bytes.
    #[must_use]
    pub fn most(self) -> (u32, u64) {
        match self {
            Self::Exact(messages, size) | Self::Count(messages, size) | Self::AtMost(messages, size) => {
                (messages, size)
            }
        }
    }

    /// Whether so many messages and bytes fit.
    #[must_use]
    pub fn admits(self, count: u32, bytes: u64) -> bool {
        match self {
            Self::Exact(messages, size) => count == messages && bytes == size,
            Self::Count(messages, size) => count == messages && bytes <= size,
            Self::AtMost(messages, size) => {
                let each = size.checked_div(u64::from(messages)).unwrap_or(0);
                // The last one may have been cut.
                let (least, most) = (u64::from(count.saturating_sub(1)) * each, u64::from(count) * each);
                count <= messages && bytes <= most && (bytes > least || bytes == most)
            }
        }
    }
}

/// What the agent may say of a call, from one end's view.
#[derive(Clone, Debug)]
pub struct Expectation {
    /// The call's number.
    pub id: u32,
    /// Attempts before this one.
    pub attempt: u32,
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
    /// The deadline that the client was given, in milliseconds.
    pub deadline: Option<u64>,
    /// The client is asked to compress with gzip.
    pub gzip: bool,
    /// The bytes of its requests before that.
    pub uncompressed: u64,
    /// It ends as its two ends say: neither cancels, no deadline passes, and their connection holds.
    pub certain: bool,
    /// Its connection broke: the ends contradict each other.
    pub broken: bool,
    /// Perhaps it never left its client: that gave up, and the server does not know of it (a busy machine lets a
    /// deadline pass before the first byte), or it found no connection to put it on.
    pub doubtful: bool,
    /// The least that it can take, in milliseconds: what its server or client waits on purpose.
    pub least_ms: f64,
    /// How long the client says it took, in milliseconds.
    pub client_ms: f64,
}

impl Expectation {
    /// Whether a status is right.
    #[must_use]
    pub fn admits_status(&self, code: u8, source: StatusSource) -> bool {
        self.statuses.contains(&code) || (source == StatusSource::Wire && self.sent_statuses.contains(&code))
    }
}

/// What the two ends of a pair wrote.
#[derive(Clone, Copy, Debug)]
pub struct Truths<'a> {
    /// The client.
    pub client: &'a str,
    /// The server.
    pub server: &'a str,
    /// The client's stack retries what its service configuration says.
    pub retries: bool,
}

/// Joins plan and truths into what may be said from one view.
///
/// # Errors
/// When the two ends contradict each other or the plan: the peers are wrong, not the agent.
pub fn expectations(plan: &[Planned], truths: Truths<'_>, view: View) -> Result<Vec<Expectation>, String> {
    let (client, server) = (read(truths.client)?, read(truths.server)?);
    let mut all = Vec::new();
    for planned in plan {
        let planned_retries = u32::try_from(planned.number("retry")).unwrap_or(u32::MAX);
        // A stack that does not retry makes one attempt, and the server refuses it.
        let refusals = if truths.retries { planned_retries } else { planned_retries.min(1) };
        for attempt in 0..refusals {
            all.push(refused(planned, attempt, &client, &server)?);
        }
        if refusals == 0 || truths.retries {
            all.push(expectation(planned, refusals, &client, &server, view)?);
        }
    }
    Ok(all)
}

/// An attempt that the server refuses, so that the client tries again.
fn refused(planned: &Planned, attempt: u32, client: &Ledger, server: &Ledger) -> Result<Expectation, String> {
    let id = planned.id;
    let ours = client.get(&(id, 0)).ok_or_else(|| format!("the client does not speak of call {id}"))?;
    if server.get(&(id, attempt)).is_none_or(|theirs| theirs.status != 14) {
        return Err(format!("the server did not refuse attempt {attempt} of `{}`", planned.line));
    }
    let (count, bytes) = planned.requests;
    Ok(Expectation {
        id,
        attempt,
        method: planned.method,
        statuses: vec![14],
        sent_statuses: &[],
        requests: Expected::Exact(count, bytes),
        responses: Expected::Exact(0, 0),
        deadline: None,
        gzip: false,
        uncompressed: bytes,
        certain: true,
        broken: false,
        doubtful: false,
        least_ms: 0.0,
        client_ms: ours.ms,
    })
}

fn expectation(
    planned: &Planned,
    attempt: u32,
    client: &Ledger,
    server: &Ledger,
    view: View,
) -> Result<Expectation, String> {
    let id = planned.id;
    let ours = *client.get(&(id, 0)).ok_or_else(|| format!("the client does not speak of call {id}"))?;
    let theirs = server.get(&(id, attempt)).copied();
    let broken = !agree(planned, &ours, theirs.as_ref())?;
    let gives_up = matches!(planned.certainty, Certainty::Cancelled | Certainty::Expired);
    let certain = !gives_up && !broken;
    let exact = certain && planned.certainty != Certainty::Early;
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
    Ok(Expectation {
        id,
        attempt,
        method: planned.method,
        statuses: statuses(planned.certainty, broken, &ours, theirs.as_ref(), view),
        // Some servers watch the deadline too, and tonic's says CANCELLED when it has passed; gRPC C++ says
        // UNAVAILABLE on a connection that its peer closes, as nginx does when its own client gives up.
        sent_statuses: if certain { &[] } else { &[1, 4, 14] },
        requests: side(planned.requests, wire(|said| said.request_wire), exact),
        responses: side(planned.responses, wire(|said| said.response_wire), certain),
        deadline: Some(planned.number("deadline")).filter(|ms| *ms > 0),
        gzip: planned.number("gzip") == 1,
        uncompressed: planned.requests.1,
        certain,
        broken,
        doubtful: broken || (gives_up && theirs.is_none()),
        least_ms: if exact { least_ms(planned) } else { 0.0 },
        client_ms: ours.ms,
    })
}

/// Whether the two ends say what was planned, as far as that is sure. They do not when their connection breaks
/// under the call: then the client's stack says CANCELLED, INTERNAL or UNAVAILABLE of its own.
fn agree(planned: &Planned, ours: &Said, theirs: Option<&Said>) -> Result<bool, String> {
    let same = |theirs: &Said| {
        ours.status == theirs.status && ours.requests == theirs.requests && ours.responses == theirs.responses
    };
    let as_planned = u64::from(ours.status) == planned.number("status");
    let agreed = match (planned.certainty, theirs) {
        (Certainty::Anonymous, _) => as_planned,
        (Certainty::Exact | Certainty::Compressed, theirs) => {
            let messages = ours.requests == planned.requests && ours.responses == planned.responses;
            // A server may hear of its connection's end after it has sent everything.
            as_planned && messages && theirs.is_some_and(|theirs| same(theirs) || theirs.cancelled)
        }
        (Certainty::Early | Certainty::Cancelled | Certainty::Expired, _) => true,
    };
    if !agreed && (as_planned || !matches!(ours.status, 1 | 13 | 14)) {
        return Err(format!("the ends contradict each other, of `{}`: {ours:?}, {theirs:?}", planned.line));
    }
    Ok(agreed)
}

fn statuses(certainty: Certainty, broken: bool, ours: &Said, theirs: Option<&Said>, view: View) -> Vec<u8> {
    let mut statuses = vec![ours.status];
    if matches!(certainty, Certainty::Early | Certainty::Cancelled | Certainty::Expired) {
        // A status that the server sent may cross with the client's cancellation. (grpc-js ends its requests
        // before it resets a stream, so the server may even answer.)
        statuses.extend(theirs.filter(|theirs| !theirs.cancelled).map(|theirs| theirs.status));
    }
    if certainty == Certainty::Expired {
        statuses.push(4);
        statuses.extend(theirs.filter(|_| view == View::Server).map(|theirs| theirs.status));
    }
    if broken {
        // Some clients reset the stream on their side.
        statuses.push(1);
        statuses.extend(theirs.map(|theirs| theirs.status));
    }
    statuses
}

/// What is waited on purpose: before the first response and between two, or between two requests.
fn least_ms(planned: &Planned) -> f64 {
    let pauses = |messages: u32, key: &str| planned.number(key) * u64::from(messages.saturating_sub(1));
    let server = planned.number("delay") + pauses(planned.responses.0, "gap");
    server.max(pauses(planned.requests.0, "cgap")) as f64
}

fn read(text: &str) -> Result<Ledger, String> {
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
        all.insert((small("id"), small("attempt")), said);
    }
    Ok(all)
}
