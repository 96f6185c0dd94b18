//! The rules of a method: its messages and costs, its stream and cache, whom it asks and calls.

use super::super::raw::{self, DataStep};
use super::super::{BackendKind, Invalid};
use super::{Rules, names};
use crate::status::code_number;
use faultline_core::call::STATUS_NAMES;

/// gRPC refuses messages above 4 MiB by default.
const LARGEST_MESSAGE: u32 = 4_000_000;
/// A call that works, sleeps or streams longer than this would only hold a thread.
const LONGEST_CALL_MS: f64 = 60_000.0;
/// More calls of one kind in one method is a loop by mistake.
const MOST_REPEATS: u32 = 100;
/// A longer stream belongs to another kind of test.
const MOST_MESSAGES: u32 = 10_000;

pub(super) fn method_is_sound(
    rules: &Rules<'_>,
    raw: &raw::File,
    place: &str,
    method: &raw::Method,
) -> Result<(), Invalid> {
    costs_are_sound(rules, place, method)?;
    stream_is_sound(rules, place, method)?;
    if let Some(cache) = &method.cache {
        rules.require(
            !method.kind.streams_requests(),
            &format!("{place}.cache"),
            format!("a {} method is not cached: its request is no key", method.kind.name()),
        )?;
        rules.within(cache.keys, 1, 1_000_000, &format!("{place}.cache.keys"))?;
        rules.within(cache.ttl_ms, 1, 3_600_000, &format!("{place}.cache.ttl_ms"))?;
    }
    let operations = [(BackendKind::Redis, &method.redis), (BackendKind::Postgres, &method.postgres)];
    for (kind, steps) in operations {
        for (index, step) in steps.iter().enumerate() {
            data_is_sound(rules, raw, &format!("{place}.{}[{index}]", kind.name()), kind, step)?;
        }
    }
    for (index, call) in method.calls.iter().enumerate() {
        call_is_sound(rules, raw, &format!("{place}.calls[{index}]"), call)?;
    }
    Ok(())
}

fn costs_are_sound(rules: &Rules<'_>, place: &str, method: &raw::Method) -> Result<(), Invalid> {
    for (field, bytes, most) in [
        ("request_bytes", method.request_bytes, LARGEST_MESSAGE),
        ("response_bytes", method.response_bytes, LARGEST_MESSAGE),
    ] {
        rules.require(
            bytes <= most,
            &format!("{place}.{field}"),
            format!("{bytes} bytes are more than the {most} that gRPC takes by default"),
        )?;
    }
    rules.require(
        method.allocate_bytes <= 64_000_000,
        &format!("{place}.allocate_bytes"),
        format!("{} bytes are more than 64 MB for one call", method.allocate_bytes),
    )?;
    rules.within(method.sleep_ms, 0.0, LONGEST_CALL_MS, &format!("{place}.sleep_ms"))?;
    rules.require(
        method.cpu_us <= 1_000_000,
        &format!("{place}.cpu_us"),
        format!("{} microseconds are more than a second of work", method.cpu_us),
    )
}

/// Counts and gaps are only for the directions that stream.
fn stream_is_sound(rules: &Rules<'_>, place: &str, method: &raw::Method) -> Result<(), Invalid> {
    let kind = method.kind;
    let mut longest = 1;
    for (field, messages, streams, right) in [
        ("request_messages", method.request_messages, kind.streams_requests(), "client-stream"),
        ("response_messages", method.response_messages, kind.streams_responses(), "server-stream"),
    ] {
        let Some(messages) = messages else { continue };
        let place = format!("{place}.{field}");
        rules.require(
            streams,
            &place,
            format!("a {} method has one; set kind = \"{right}\" or \"bidi-stream\"", kind.name()),
        )?;
        rules.within(messages, 1, MOST_MESSAGES, &place)?;
        longest = longest.max(messages);
    }
    let place = format!("{place}.gap_ms");
    rules.within(method.gap_ms, 0.0, LONGEST_CALL_MS, &place)?;
    rules.require(
        method.gap_ms <= 0.0 || kind.streams_requests() || kind.streams_responses(),
        &place,
        "a unary method has no gaps; set kind to a stream",
    )?;
    rules.require(
        method.gap_ms * f64::from(longest) <= LONGEST_CALL_MS,
        &place,
        format!("{longest} messages {} ms apart take longer than {LONGEST_CALL_MS} ms", method.gap_ms),
    )
}

fn data_is_sound(
    rules: &Rules<'_>,
    raw: &raw::File,
    place: &str,
    kind: BackendKind,
    step: &DataStep,
) -> Result<(), Invalid> {
    let instance = format!("{place}.instance");
    let Some(backend) = raw.backends.0.get(&step.instance) else {
        let known = names(&raw.backends);
        return rules.require(
            false,
            &instance,
            format!("no backend `{}`; backends are {known}", step.instance),
        );
    };
    rules.require(
        backend.kind == kind,
        &instance,
        format!("`{}` is a {1} backend; write it under `{1}`", step.instance, backend.kind.name()),
    )?;
    rules.require(step.keys > 0, &format!("{place}.keys"), "at least one key is needed")?;
    rules.require(
        step.bytes <= LARGEST_MESSAGE,
        &format!("{place}.bytes"),
        format!("{} bytes; at most {LARGEST_MESSAGE} make sense", step.bytes),
    )
}

fn call_is_sound(
    rules: &Rules<'_>,
    raw: &raw::File,
    place: &str,
    call: &raw::CallStep,
) -> Result<(), Invalid> {
    let to = format!("{place}.to");
    let Some((service, method)) = call.to.split_once('/') else {
        return rules.require(false, &to, format!("`{}` is not of the form service/Method", call.to));
    };
    let Some(callee) = raw.services.0.get(service) else {
        let known = names(&raw.services);
        return rules.require(false, &to, format!("no service `{service}`; services are {known}"));
    };
    let Some(target) = callee.methods.0.get(method) else {
        let known = names(&callee.methods);
        return rules.require(false, &to, format!("`{service}` has no method `{method}`; it has {known}"));
    };
    rules.require(call.deadline_ms > 0, &format!("{place}.deadline_ms"), "a deadline is at least 1 ms")?;
    rules.within(call.repeat, 1, MOST_REPEATS, &format!("{place}.repeat"))?;
    let Some(retries) = &call.retries else { return Ok(()) };
    let place = format!("{place}.retries");
    rules.require(
        !target.kind.streams_requests(),
        &place,
        format!(
            "`{}` is a {} method: messages of a stream are not sent again; retries fit unary and \
             server-stream methods",
            call.to,
            target.kind.name()
        ),
    )?;
    rules.within(retries.attempts, 2, 10, &format!("{place}.attempts"))?;
    rules.within(retries.backoff_ms, 0, 60_000, &format!("{place}.backoff_ms"))?;
    rules.require(
        !retries.on.is_empty(),
        &format!("{place}.on"),
        "at least one status is needed, such as \"UNAVAILABLE\"",
    )?;
    for (index, status) in retries.on.iter().enumerate() {
        rules.require(
            code_number(status).is_some_and(|number| number > 0),
            &format!("{place}.on[{index}]"),
            format!(
                "`{status}` is no failure; statuses are {}",
                STATUS_NAMES.get(1..).unwrap_or_default().join(", ")
            ),
        )?;
    }
    Ok(())
}
