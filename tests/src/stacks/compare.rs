//! Holds the agent's calls of one end of a pair against what may be said of them.

use super::truth::{Expectation, Expected};
use faultline_core::call::{Call, Messages, Method, StatusSource, View};

/// What came out for one view of a pair.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Calls that were made.
    pub calls: usize,
    /// Seen, and everything that was said is right and claimed to be exact.
    pub exact: usize,
    /// Seen, nothing false was said, but something was left open (a lower bound, an unknown status).
    pub inexact: Vec<String>,
    /// Something false was said, or a call that nobody made.
    pub wrong: Vec<String>,
    /// Calls that were not seen.
    pub unseen: Vec<String>,
}

/// Matches calls with expectations one to one, the surest first.
#[must_use]
pub fn compare(expected: &[Expectation], calls: &[&Call], authority: &str, view: View) -> Verdict {
    let mut verdict = Verdict { calls: expected.len(), ..Verdict::default() };
    let mut calls: Vec<&Call> = calls.to_vec();
    calls.sort_by_key(|call| (call.started, call.stream));
    let mut left: Vec<Option<&Expectation>> = expected.iter().map(Some).collect();
    // Expectations without leeway are matched before those that would take what is another's.
    let leeway = |expectation: &Expectation| {
        let sure = |side: Expected| matches!(side, Expected::Exact(..));
        usize::from(!sure(expectation.requests)) + usize::from(!sure(expectation.responses))
    };
    for round in 0..=2 {
        calls.retain(|call| {
            let fits =
                |expectation: &Expectation| leeway(expectation) == round && is_right(expectation, call);
            let Some(place) = left.iter_mut().find(|place| place.is_some_and(fits)) else { return true };
            *place = None;
            match call.authority.as_deref() {
                _ if call.view != view => {
                    verdict.wrong.push(format!("as {:?}: {}", call.view, describe(call)))
                }
                Some(seen) if seen == authority => verdict.exact += 1,
                Some(seen) => verdict.wrong.push(format!("to {seen}: {}", describe(call))),
                None => verdict.inexact.push(format!("without authority: {}", describe(call))),
            }
            false
        });
    }
    for call in calls {
        match left.iter_mut().find(|place| place.is_some_and(|one| is_admissible(one, call))) {
            Some(place) => {
                let expectation = place.take();
                verdict.inexact.push(format!("{} of {expectation:?}", describe(call)));
            }
            None => {
                // Told beside the call that it most likely is.
                let place = left.iter_mut().find(|place| place.is_some_and(|one| has_method(one, call)));
                let likely = place.and_then(Option::take);
                verdict.wrong.push(format!("{} instead of {likely:?}", describe(call)));
            }
        }
    }
    verdict.unseen = left.into_iter().flatten().map(|expectation| format!("{expectation:?}")).collect();
    verdict
}

/// Everything is told, and right.
fn is_right(expectation: &Expectation, call: &Call) -> bool {
    let side = |expected: Expected, messages: Messages| {
        messages.exact && expected.admits(messages.count, messages.bytes)
    };
    matches!(call.method, Method::Named(_))
        && has_method(expectation, call)
        && call.status.code.is_some_and(|code| expectation.admits_status(code, call.status.source))
        && side(expectation.requests, call.request)
        && side(expectation.responses, call.response)
}

/// What is told is not false; something is left open.
fn is_admissible(expectation: &Expectation, call: &Call) -> bool {
    let side = |expected: Expected, messages: Messages| match expected {
        _ if messages.exact => expected.admits(messages.count, messages.bytes),
        Expected::Exact(count, bytes) | Expected::Count(count, bytes) | Expected::AtMost(count, bytes) => {
            messages.count <= count && messages.bytes <= bytes
        }
    };
    has_method(expectation, call)
        && call.status.code.is_none_or(|code| expectation.admits_status(code, call.status.source))
        && (call.status.code.is_some() || call.status.source == StatusSource::Unknown)
        && side(expectation.requests, call.request)
        && side(expectation.responses, call.response)
}

fn has_method(expectation: &Expectation, call: &Call) -> bool {
    match &call.method {
        Method::Named(name) => name.strip_prefix("matrix.Peer/") == Some(expectation.method),
        Method::Unresolved(_) => true,
    }
}

fn describe(call: &Call) -> String {
    format!(
        "{} status {:?} {:?} {:?} request {:?} response {:?} {:.1} ms stream {}",
        call.method.label(),
        call.status.code,
        call.status.source,
        call.ending,
        (call.request.count, call.request.bytes, call.request.exact),
        (call.response.count, call.response.bytes, call.response.exact),
        call.duration.as_millis_f64(),
        call.stream.0,
    )
}
