//! Holds the agent's calls of one end of a pair against what may be said of them.

use super::truth::{Expectation, Expected};
use faultline_core::call::{Call, Ending, Messages, Method, StatusSource, View};

/// How long after the wire's end, in milliseconds, an application may still be busy with a call that both ends
/// finish: none. Clocks are the same, so this covers rounding alone.
const ROUNDING_MS: f64 = 2.0;

/// A client that gives up tells its application at once, and resets the stream when it comes to it.
const GIVING_UP_MS: f64 = 1_000.0;

/// How much of a deadline may have passed before the headers were written, in milliseconds.
const BEFORE_HEADERS_MS: u64 = 5_000;

/// What came out for one view of a pair.
#[derive(Debug, Default)]
pub struct Verdict<'a> {
    /// One of each call that was made, in their order.
    pub judged: Vec<Judged<'a>>,
    /// Calls that nobody made.
    pub strangers: Vec<String>,
    /// Streams that were cut off before their client heard an answer: its stack makes such a call again without a
    /// word.
    pub refused: usize,
}

/// One call that was made.
#[derive(Debug)]
pub struct Judged<'a> {
    /// What may be said of it.
    pub expectation: &'a Expectation,
    /// What the agent said, if it saw it.
    pub call: Option<&'a Call>,
    /// Whether that is right.
    pub outcome: Outcome,
}

/// What became of a call.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Everything that was said is right and claimed to be exact.
    Exact,
    /// Nothing false was said, but this was left open.
    Open(String),
    /// Not seen, and perhaps it never left its client: this test cannot tell.
    Undecided,
    /// Not seen.
    Unseen,
    /// This is false.
    Wrong(String),
}

/// What is said of one property of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Said {
    Right,
    Open,
    False,
}

/// What one end's calls are held against.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// Whose view they must be.
    pub view: View,
    /// Whom the client called.
    pub authority: &'a str,
    /// The calls were made one after the other, so that of two that look the same the first comes first.
    pub ordered: bool,
    /// A proxy stands between this end and the client: when the connection behind it breaks, it refuses a call whose
    /// answer it has begun to receive and not begun to pass on.
    pub behind_proxy: bool,
}

/// What a call and an expectation must agree in, and how far.
type Round<'a> = (&'a dyn Fn(&Expectation, &Call) -> Said, Said);

/// Matches calls with expectations one to one, the surest first.
#[must_use]
pub fn compare<'a>(expected: &'a [Expectation], calls: &[&'a Call], end: End<'_>) -> Verdict<'a> {
    let mut calls: Vec<&Call> = calls.to_vec();
    // What was refused goes to what nothing else fits.
    calls.sort_by_key(|call| (is_refused(call, end), call.started, call.stream));
    let mut matched: Vec<Option<&Call>> = vec![None; expected.len()];
    // The surest first: the sizes that were planned, then what is said in full before what is said in part, and
    // expectations without leeway before those that would take what is another's. What is left goes to the call that
    // it most likely is.
    let worst = |expectation: &Expectation, call: &Call| worst(&properties(expectation, call, end));
    let identity = |expectation: &Expectation, call: &Call| self::worst(&identity(expectation, call));
    let method = |expectation: &Expectation, call: &Call| method(expectation, call);
    let sized = |said: Said, expectation: &Expectation, call: &Call| {
        if has_sizes(expectation, call) { said } else { Said::False }
    };
    let sized_worst =
        |expectation: &Expectation, call: &Call| sized(worst(expectation, call), expectation, call);
    let sized_identity =
        |expectation: &Expectation, call: &Call| sized(identity(expectation, call), expectation, call);
    let rounds: &[Round<'_>] = &[
        (&sized_worst, Said::Right),
        (&sized_worst, Said::Open),
        (&sized_identity, Said::Open),
        (&worst, Said::Right),
        (&worst, Said::Open),
        (&identity, Said::Right),
        (&identity, Said::Open),
        (&method, Said::Open),
    ];
    let in_order: &[Round<'_>] = &[(&identity, Said::Open), (&method, Said::Open)];
    let rounds = if end.ordered { in_order } else { rounds };
    for (says, most) in rounds {
        for leeway in 0..=2 {
            calls.retain(|call| {
                let fits = |(expectation, taken): &(&Expectation, &mut Option<&Call>)| {
                    taken.is_none() && self::leeway(expectation) == leeway && says(expectation, call) <= *most
                };
                let Some((_, place)) = expected.iter().zip(&mut matched).find(fits) else { return true };
                *place = Some(call);
                false
            });
        }
    }
    let judged = expected.iter().zip(matched).map(|(expectation, call)| Judged {
        expectation,
        call,
        outcome: match call {
            Some(call) => judge(expectation, call, end),
            None if expectation.doubtful => Outcome::Undecided,
            None => Outcome::Unseen,
        },
    });
    let (refused, strangers): (Vec<&Call>, Vec<&Call>) =
        calls.into_iter().partition(|call| is_refused(call, end));
    Verdict {
        judged: judged.collect(),
        strangers: strangers.into_iter().map(describe).collect(),
        refused: refused.len(),
    }
}

fn is_refused(call: &Call, end: End<'_>) -> bool {
    let cut = matches!(call.ending, Ending::Reset { .. } | Ending::ConnectionClosed);
    let unanswered = call.first_response.is_none() || end.behind_proxy;
    cut && unanswered && call.status.source != StatusSource::Wire
}

/// Whether the call carried as many bytes each way as was planned, however sure the agent is of that.
fn has_sizes(expectation: &Expectation, call: &Call) -> bool {
    let same = |expected: Expected, seen: Messages| expected.most() == (seen.count, seen.bytes);
    same(expectation.requests, call.request) && same(expectation.responses, call.response)
}

fn leeway(expectation: &Expectation) -> usize {
    let sure = |side: Expected| matches!(side, Expected::Exact(..));
    usize::from(!sure(expectation.requests)) + usize::from(!sure(expectation.responses))
}

/// The properties by which a call is told from others.
fn identity(expectation: &Expectation, call: &Call) -> [(&'static str, Said); 5] {
    [
        ("method", method(expectation, call)),
        ("status", status(expectation, call)),
        ("requests", messages(expectation.requests, call.request)),
        ("responses", messages(expectation.responses, call.response)),
        ("attempt", attempt(expectation, call)),
    ]
}

/// Every property.
fn properties(expectation: &Expectation, call: &Call, end: End<'_>) -> Vec<(&'static str, Said)> {
    let authority = call.authority.as_deref().map(|authority| authority == end.authority);
    let rest = [
        ("deadline", deadline(expectation, call)),
        ("encoding", encoding(expectation, call)),
        ("authority", authority.map_or(Said::Open, right_if)),
        ("view", right_if(call.view == end.view)),
        ("ending", ending(expectation, call)),
        ("duration", duration(expectation, call)),
    ];
    identity(expectation, call).into_iter().chain(rest).collect()
}

fn worst(properties: &[(&str, Said)]) -> Said {
    properties.iter().map(|(_, said)| *said).max().unwrap_or(Said::Right)
}

fn judge(expectation: &Expectation, call: &Call, end: End<'_>) -> Outcome {
    let properties = properties(expectation, call, end);
    let said = worst(&properties);
    let named = || {
        let names: Vec<&str> =
            properties.iter().filter(|(_, what)| *what == said).map(|(name, _)| *name).collect();
        format!("{}: {} of {expectation:?}", names.join(", "), describe(call))
    };
    match said {
        Said::Right => Outcome::Exact,
        Said::Open => Outcome::Open(named()),
        Said::False => Outcome::Wrong(named()),
    }
}

fn right_if(right: bool) -> Said {
    if right { Said::Right } else { Said::False }
}

fn method(expectation: &Expectation, call: &Call) -> Said {
    match &call.method {
        Method::Named(name) => right_if(name.strip_prefix("matrix.Peer/") == Some(expectation.method)),
        Method::Unresolved(_) => Said::Open,
    }
}

fn status(expectation: &Expectation, call: &Call) -> Said {
    match (call.status.code, call.status.source) {
        (None, StatusSource::Unknown) => Said::Open,
        (None, _) => Said::False,
        // What gRPC makes of a proxy's 502 to 504; the client's deadline may have passed beside it.
        (Some(14), _) if call.ending == Ending::EndStream => right_if(!expectation.certain),
        // And of a stream that a proxy refuses when it notices that nobody waits for it any more.
        (Some(14), StatusSource::Inferred)
            if matches!(call.ending, Ending::Reset { by_client: false, .. }) =>
        {
            right_if(!expectation.certain)
        }
        (Some(code), source) => right_if(expectation.admits_status(code, source)),
    }
}

fn messages(expected: Expected, seen: Messages) -> Said {
    if seen.exact {
        return right_if(expected.admits(seen.count, seen.bytes));
    }
    match expected {
        // Nobody knows more than a bound of these: one that is claimed to be no more is right.
        Expected::AtMost(..) => right_if(expected.admits(seen.count, seen.bytes)),
        Expected::Exact(count, bytes) | Expected::Count(count, bytes) => {
            if seen.count <= count && seen.bytes <= bytes { Said::Open } else { Said::False }
        }
    }
}

fn attempt(expectation: &Expectation, call: &Call) -> Said {
    match call.previous_attempts {
        Some(attempts) => right_if(attempts == expectation.attempt),
        None if expectation.attempt == 0 => Said::Right,
        None => Said::Open,
    }
}

/// The client writes what is left of its deadline when it writes its headers: nothing, if it came to it too late;
/// gRPC C++ rounds up.
fn deadline(expectation: &Expectation, call: &Call) -> Said {
    match (expectation.deadline, call.deadline) {
        (None, None) => Said::Right,
        (None, Some(_)) => Said::False,
        (Some(_), None) => Said::Open,
        (Some(asked), Some(seen)) => {
            let ms = seen.as_millis_f64();
            let least = asked.saturating_sub(BEFORE_HEADERS_MS) as f64;
            right_if(ms >= least && ms <= asked as f64 * 1.01 + 1.0)
        }
    }
}

fn encoding(expectation: &Expectation, call: &Call) -> Said {
    match (expectation.gzip, call.encoding.as_deref()) {
        (true, Some(encoding)) => right_if(encoding == "gzip"),
        // grpcio does not compress what it is asked to in a future of a client's stream.
        (true, None) if call.request.bytes == expectation.uncompressed => Said::Right,
        (true, None) => Said::Open,
        (false, encoding) => right_if(matches!(encoding, None | Some("identity"))),
    }
}

fn ending(expectation: &Expectation, call: &Call) -> Said {
    match call.ending {
        Ending::Trailers => Said::Right,
        Ending::TrailersOnly => {
            right_if(matches!(expectation.responses, Expected::Exact(0, 0) | Expected::AtMost(..)))
        }
        // A client that gives up says CANCEL; a server that notices, or a proxy that breaks a call, may say anything.
        Ending::Reset { code, by_client } => {
            right_if(!expectation.certain && (code == 8 || !by_client || expectation.broken))
        }
        Ending::ConnectionClosed => right_if(!expectation.certain),
        // A proxy answers without gRPC when there is no one behind it.
        Ending::EndStream => right_if(!expectation.certain),
        // Its end was lost, and that is all that is said.
        Ending::Abandoned => Said::Open,
    }
}

/// On the wire a call begins after its client does and ends before it, at either end.
fn duration(expectation: &Expectation, call: &Call) -> Said {
    let slack = if expectation.certain { ROUNDING_MS } else { GIVING_UP_MS };
    let ms = call.duration.as_millis_f64();
    // Clocks of some stacks let a pause end up to a millisecond early.
    let least = expectation.least_ms * 0.98 - ROUNDING_MS;
    if call.ending == Ending::Abandoned {
        return Said::Open; // Given up is not ended: nothing is said.
    }
    right_if(ms <= expectation.client_ms + slack && ms >= least)
}

/// What the agent says of a call, for a finding.
#[must_use]
pub fn describe(call: &Call) -> String {
    format!(
        "{} status {:?} {:?} {:?} request {:?} response {:?} deadline {:?} attempts {:?} {:?} {:.1} ms stream {}",
        call.method.label(),
        call.status.code,
        call.status.source,
        call.ending,
        (call.request.count, call.request.bytes, call.request.exact),
        (call.response.count, call.response.bytes, call.response.exact),
        call.deadline.map(|deadline| deadline.as_millis_f64()),
        call.previous_attempts,
        call.encoding,
        call.duration.as_millis_f64(),
        call.stream.0,
    )
}
