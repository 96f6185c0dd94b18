//! The rules across a topology's fields: names resolve, numbers make sense, calls end. `services` and
//! `methods` hold the rules of their tables; `build` turns what passed them into a `Topology`.

mod build;
mod messages;
mod methods;
mod services;

use super::raw::{self, Named};
use super::{Invalid, Topology, graph};

/// Two cores and 8 GiB carry so many small processes.
const MOST_SERVICES: usize = 200;
/// Replicas of all services: each is a process.
const MOST_PROCESSES: u32 = 300;
/// One user request that becomes more calls than this cannot be meant for one machine.
const MOST_CALLS: f64 = 2_000.0;
/// A longer chain outlives every deadline; a walk along it must fit the stack.
const DEEPEST: u32 = 100;

/// Collects what is known of the file, so that a rule only names its field.
struct Rules<'a> {
    file: &'a str,
}

impl Rules<'_> {
    fn require(&self, holds: bool, place: &str, reason: impl Into<String>) -> Result<(), Invalid> {
        if holds {
            return Ok(());
        }
        Err(Invalid { file: self.file.into(), place: place.into(), reason: reason.into() })
    }

    /// A number within bounds that are part of what is said.
    fn within<T>(&self, value: T, low: T, high: T, place: &str) -> Result<(), Invalid>
    where
        T: Copy + PartialOrd + std::fmt::Display,
    {
        self.require(value >= low && value <= high, place, format!("{value} is not within {low} to {high}"))
    }
}

/// Turns the file's shape into a topology, or names the first field that breaks a rule.
pub(super) fn resolve(file: &str, raw: raw::File) -> Result<Topology, Invalid> {
    let rules = Rules { file };
    names_are_sound(&rules, &raw)?;
    for (name, service) in &raw.services.0 {
        services::service_is_sound(&rules, &raw, name, service)?;
    }
    let processes: u32 = raw.services.0.values().map(|service| service.replicas).sum();
    rules.require(
        processes <= MOST_PROCESSES,
        "services",
        format!("{processes} replicas in all; at most {MOST_PROCESSES} fit one machine"),
    )?;
    load_is_sound(&rules, &raw)?;
    let schema = messages::schema(&rules, &raw)?;
    let topology = build::topology(raw, schema);
    calls_end(&rules, &topology)?;
    all_is_used(&rules, &topology)?;
    Ok(topology)
}

fn names_are_sound(rules: &Rules<'_>, raw: &raw::File) -> Result<(), Invalid> {
    let (services, backends) = (&raw.services.0, &raw.backends.0);
    rules.require(!services.is_empty(), "services", "at least one service is needed")?;
    rules.require(
        services.len() <= MOST_SERVICES,
        "services",
        format!("{} services; at most {MOST_SERVICES} fit one machine", services.len()),
    )?;
    for name in services.keys().chain(backends.keys()) {
        name_is_plain(rules, name)?;
    }
    for name in backends.keys() {
        rules.require(
            !services.contains_key(name),
            &format!("backends.{name}"),
            "a service has the same name",
        )?;
    }
    rules.require(
        services.contains_key(&raw.entry),
        "entry",
        format!("no service `{}`; services are {}", raw.entry, names(&raw.services)),
    )
}

/// Names that mean something else: the users' process, and a file that every cgroup of version 1 has.
const TAKEN: [&str; 2] = ["loadgen", "tasks"];

/// Names become directory and cgroup names, host names and label values.
fn name_is_plain(rules: &Rules<'_>, name: &str) -> Result<(), Invalid> {
    let plain =
        |character: char| character.is_ascii_lowercase() || character.is_ascii_digit() || character == '-';
    rules.require(
        !name.is_empty() && name.len() <= 40 && name.chars().all(plain) && !TAKEN.contains(&name),
        name,
        "a name has 1 to 40 of a-z, 0-9 and `-`, and is neither `loadgen` nor `tasks`",
    )
}

fn load_is_sound(rules: &Rules<'_>, raw: &raw::File) -> Result<(), Invalid> {
    let rate = raw.load.requests_per_second;
    rules.require(
        rate > 0.0 && rate <= 100_000.0,
        "load.requests_per_second",
        format!("{rate} is not within 0 to 100000"),
    )?;
    rules.require(raw.load.deadline_ms > 0, "load.deadline_ms", "a deadline is at least 1 ms")?;
    rules.within(raw.load.pool, 1, services::LARGEST_POOL, "load.pool")?;
    rules.require(!raw.users.0.is_empty(), "users", "at least one kind of user is needed")?;
    let weights: u64 = raw.users.0.values().map(|user| u64::from(user.weight)).sum();
    rules.require(weights > 0, "users", "all weights are zero")?;
    let entry = raw.services.0.get(&raw.entry);
    let known = entry.map(|service| names(&service.methods)).unwrap_or_default();
    for (name, user) in &raw.users.0 {
        let place = format!("users.{name}");
        rules.require(!user.steps.is_empty(), &format!("{place}.steps"), "a user does at least one step")?;
        rules.within(user.think_ms, 0, 600_000, &format!("{place}.think_ms"))?;
        for (index, step) in user.steps.iter().enumerate() {
            rules.require(
                entry.is_some_and(|service| service.methods.0.contains_key(step)),
                &format!("{place}.steps[{index}]"),
                format!("entry service `{}` has no method `{step}`; it has {known}", raw.entry),
            )?;
        }
    }
    Ok(())
}

/// A method that reaches itself would call for ever, and one that multiplies at each step nearly so.
fn calls_end(rules: &Rules<'_>, topology: &Topology) -> Result<(), Invalid> {
    let place = |(service, method)| format!("services.{service}.methods.{method}.calls");
    let cascades = graph::cascades(topology).map_err(|trail| {
        let shown: Vec<String> =
            trail.iter().map(|(service, method)| format!("{service}/{method}")).collect();
        let at = trail.first().copied().unwrap_or_default();
        let reason = format!("calls never end: {}", shown.join(" -> "));
        Invalid { file: rules.file.into(), place: place(at), reason }
    })?;
    for (at, cascade) in cascades {
        rules.require(
            cascade.calls <= MOST_CALLS,
            &place(at),
            format!("one call becomes {:.0} calls in all; at most {MOST_CALLS} make sense", cascade.calls),
        )?;
        rules.require(
            cascade.depth <= DEEPEST,
            &place(at),
            format!("calls go {} services deep; at most {DEEPEST} make sense", cascade.depth),
        )?;
    }
    Ok(())
}

/// What no user reaches would idle, and its faults would have no symptom.
fn all_is_used(rules: &Rules<'_>, topology: &Topology) -> Result<(), Invalid> {
    let reached = graph::reached(topology);
    for name in topology.services.keys() {
        rules.require(
            reached.iter().any(|(service, _)| service == name),
            &format!("services.{name}"),
            format!("no user's step reaches it; call it from a service that `{}` reaches", topology.entry),
        )?;
    }
    for name in topology.backends.keys() {
        let used = |&(service, method): &graph::At<'_>| {
            topology
                .method(service, method)
                .is_some_and(|method| method.data.iter().any(|step| step.backend == *name))
        };
        rules.require(
            reached.iter().any(used),
            &format!("backends.{name}"),
            "no method that users reach uses it; use it or leave it out",
        )?;
    }
    Ok(())
}

fn names<T>(named: &Named<T>) -> String {
    if named.0.is_empty() {
        return "none".into();
    }
    named.0.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
}
