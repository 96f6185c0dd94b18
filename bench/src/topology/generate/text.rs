//! Writes a drawn system as a topology file that a person would write.

use std::fmt::Write;

use super::super::BackendKind;
use super::flesh::{Drawn, DrawnCall, DrawnMethod, System};

pub(super) fn write(system: &System, seed: u64) -> String {
    let mut text = String::new();
    match whole(&mut text, system, seed) {
        Ok(()) => text,
        // Writing into a string cannot fail.
        Err(_) => String::new(),
    }
}

fn whole(out: &mut String, system: &System, seed: u64) -> std::fmt::Result {
    let services = system.services.len();
    writeln!(out, "# Drawn by `playground topology --services {services} --seed {seed}`.")?;
    writeln!(out, "name = \"generated-{services}-{seed}\"")?;
    writeln!(out, "entry = \"{}\"\n", system.services.first().map_or("", |entry| entry.name.as_str()))?;
    writeln!(out, "[load]\nrequests_per_second = {:?}", system.requests_per_second)?;
    for (name, weight, steps, think_ms) in &system.users {
        writeln!(out, "\n[users.{name}]\nweight = {weight}\nsteps = {steps:?}\nthink_ms = {think_ms}")?;
    }
    for (name, kind) in &system.backends {
        writeln!(out, "\n[backends.{name}]\nkind = \"{}\"", kind.name())?;
    }
    for (drawn, port) in system.services.iter().zip(7_001..) {
        service(out, drawn, port)?;
    }
    Ok(())
}

fn service(out: &mut String, drawn: &Drawn, port: u16) -> std::fmt::Result {
    let name = &drawn.name;
    writeln!(out, "\n[services.{name}]\nstack = \"{}\"", drawn.stack.name())?;
    writeln!(out, "grpc = \"{}\"\nport = {port}", drawn.grpc)?;
    if drawn.replicas > 1 {
        writeln!(out, "replicas = {}", drawn.replicas)?;
    }
    writeln!(out, "limits = {{ cpu = {:?}, memory_mb = 2048 }}", drawn.cpu)?;
    for (peer, pool, breaker) in &drawn.peers {
        writeln!(out, "\n[services.{name}.peers.{peer}]\npool = {pool}")?;
        if let Some(failures) = breaker {
            writeln!(out, "breaker = {{ failures = {failures}, open_ms = 5000 }}")?;
        }
    }
    drawn.methods.iter().try_for_each(|drawn| method(out, name, drawn))
}

fn method(out: &mut String, service: &str, drawn: &DrawnMethod) -> std::fmt::Result {
    writeln!(out, "\n[services.{service}.methods.{}]", drawn.name)?;
    let kind = drawn.kind;
    if kind.streams_requests() || kind.streams_responses() {
        writeln!(out, "kind = \"{}\"\ngap_ms = {}.0", kind.name(), drawn.gap_ms)?;
    }
    if kind.streams_requests() {
        writeln!(out, "request_messages = {}", drawn.messages)?;
    }
    if kind.streams_responses() {
        writeln!(out, "response_messages = {}", drawn.messages)?;
    }
    writeln!(out, "request_bytes = {}\nresponse_bytes = {}", drawn.request_bytes, drawn.response_bytes)?;
    writeln!(out, "cpu_us = {}", drawn.cpu_us)?;
    if drawn.sleep_ms > 0.0 {
        writeln!(out, "sleep_ms = {:?}", drawn.sleep_ms)?;
    }
    if drawn.allocate_bytes > 0 {
        writeln!(out, "allocate_bytes = {}", drawn.allocate_bytes)?;
    }
    if drawn.parallel && drawn.calls.len() > 1 {
        writeln!(out, "fan_out = \"parallel\"")?;
    }
    if drawn.cached && !drawn.calls.is_empty() {
        writeln!(out, "cache = {{ keys = 500, ttl_ms = 10000 }}")?;
    }
    for kind in [BackendKind::Redis, BackendKind::Postgres] {
        let here = drawn.operations.iter().filter(|operation| operation.1 == kind);
        let steps: Vec<String> = here
            .map(|(instance, _, sets, bytes)| match sets {
                true => format!("{{ instance = \"{instance}\", op = \"set\", bytes = {bytes} }}"),
                false => format!("{{ instance = \"{instance}\", op = \"get\" }}"),
            })
            .collect();
        if !steps.is_empty() {
            writeln!(out, "{} = [{}]", kind.name(), steps.join(", "))?;
        }
    }
    if drawn.calls.is_empty() {
        return Ok(());
    }
    writeln!(out, "calls = [")?;
    drawn.calls.iter().try_for_each(|drawn| call(out, drawn))?;
    writeln!(out, "]")
}

fn call(out: &mut String, drawn: &DrawnCall) -> std::fmt::Result {
    write!(out, "    {{ to = \"{}\", deadline_ms = {}", drawn.to, drawn.deadline_ms)?;
    if drawn.optional {
        write!(out, ", optional = true")?;
    }
    if drawn.attempts > 1 {
        write!(out, ", retries = {{ attempts = {} }}", drawn.attempts)?;
    }
    writeln!(out, " }},")
}
