//! The rules of a service's own fields: its wire name, its limits, its replicas, how it talks to peers.

use super::super::Invalid;
use super::super::raw;
use super::{Rules, methods, names};

/// More replicas of one service than this say nothing new on one machine.
const MOST_REPLICAS: u32 = 16;
/// Connections beyond this to one address are a mistake: HTTP/2 carries a hundred calls on each.
pub(super) const LARGEST_POOL: u32 = 32;
/// What users write for one service stays readable, and a run's tables stay small.
const MOST_METHODS: usize = 64;

pub(super) fn service_is_sound(
    rules: &Rules<'_>,
    raw: &raw::File,
    name: &str,
    service: &raw::Service,
) -> Result<(), Invalid> {
    let place = format!("services.{name}");
    let grpc = |character: char| character.is_ascii_alphanumeric() || character == '.' || character == '_';
    rules.require(
        !service.grpc.is_empty() && service.grpc.chars().all(grpc),
        &format!("{place}.grpc"),
        format!("`{}` is no gRPC service name such as hipstershop.CartService", service.grpc),
    )?;
    rules.require(service.port > 0, &format!("{place}.port"), "a port is 1 to 65535")?;
    rules.within(service.replicas, 1, MOST_REPLICAS, &format!("{place}.replicas"))?;
    if let Some(cpu) = service.limits.cpu {
        rules.require(
            (0.02..=64.0).contains(&cpu),
            &format!("{place}.limits.cpu"),
            format!("{cpu} cores; 0.02 to 64 make sense"),
        )?;
    }
    if let Some(memory) = service.limits.memory_mb {
        rules.require(
            memory >= 64,
            &format!("{place}.limits.memory_mb"),
            format!("{memory} MB; a service of some stacks needs 64 to start"),
        )?;
    }
    rules.require(
        !service.methods.0.is_empty(),
        &format!("{place}.methods"),
        "a service needs at least one method",
    )?;
    rules.require(
        service.methods.0.len() <= MOST_METHODS,
        &format!("{place}.methods"),
        format!("{} methods; at most {MOST_METHODS} make sense", service.methods.0.len()),
    )?;
    for (method_name, method) in &service.methods.0 {
        let place = format!("{place}.methods.{method_name}");
        method_name_is_plain(rules, method_name, &place)?;
        methods::method_is_sound(rules, raw, &place, method)?;
    }
    peers_are_sound(rules, raw, &place, service)
}

fn method_name_is_plain(rules: &Rules<'_>, name: &str, place: &str) -> Result<(), Invalid> {
    let plain = |character: char| character.is_ascii_alphanumeric() || character == '_';
    rules.require(
        !name.is_empty() && name.len() <= 64 && name.chars().all(plain),
        place,
        "a method's name has 1 to 64 letters, digits and `_`, such as AddItem",
    )
}

/// Settings for a service that is never called would look as if they did something.
fn peers_are_sound(
    rules: &Rules<'_>,
    raw: &raw::File,
    place: &str,
    service: &raw::Service,
) -> Result<(), Invalid> {
    for (peer, settings) in &service.peers.0 {
        let place = format!("{place}.peers.{peer}");
        rules.require(
            raw.services.0.contains_key(peer),
            &place,
            format!("no service `{peer}`; services are {}", names(&raw.services)),
        )?;
        let calls = service.methods.0.values().flat_map(|method| &method.calls);
        let mut callees = calls.filter_map(|call| call.to.split_once('/')).map(|(callee, _)| callee);
        rules.require(
            callees.any(|callee| callee == peer),
            &place,
            format!("no method here calls `{peer}`; leave the settings out, or call it"),
        )?;
        rules.within(settings.pool, 1, LARGEST_POOL, &format!("{place}.pool"))?;
        if let Some(breaker) = &settings.breaker {
            rules.within(breaker.failures, 1, 10_000, &format!("{place}.breaker.failures"))?;
            rules.within(breaker.open_ms, 10, 600_000, &format!("{place}.breaker.open_ms"))?;
        }
    }
    Ok(())
}
