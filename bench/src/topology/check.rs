//! The rules across a topology's fields: names resolve, numbers make sense, calls end.

use std::collections::BTreeMap;

use super::raw::{self, FanOut};
use super::{CallStep, Invalid, Load, Method, RedisStep, Scenario, Service, Topology};

/// Two cores serve a few dozen small processes; more is a typing mistake.
const MOST_SERVICES: usize = 64;
/// gRPC refuses messages above 4 MiB by default.
const LARGEST_MESSAGE: u32 = 4_000_000;
/// A call that works or sleeps longer than this would only hold a thread.
const LONGEST_CALL_MS: f64 = 60_000.0;
/// More calls of one kind in one method is a loop by mistake.
const MOST_REPEATS: u32 = 100;

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
}

/// Turns the file's shape into a topology, or names the first field that breaks a rule.
pub(super) fn resolve(file: &str, raw: raw::File) -> Result<Topology, Invalid> {
    let rules = Rules { file };
    rules.require(!raw.services.is_empty(), "services", "at least one service is needed")?;
    rules.require(
        raw.services.len() <= MOST_SERVICES,
        "services",
        format!("{} services; at most {MOST_SERVICES} fit one machine", raw.services.len()),
    )?;
    for name in raw.services.keys().chain(raw.backends.keys()) {
        name_is_plain(&rules, name)?;
    }
    for name in raw.backends.keys() {
        rules.require(
            !raw.services.contains_key(name),
            &format!("backends.{name}"),
            "a service has the same name",
        )?;
    }
    rules.require(
        raw.services.contains_key(&raw.entry),
        "entry",
        format!("no service `{}`; services are {}", raw.entry, names(&raw.services)),
    )?;
    for (name, service) in &raw.services {
        service_is_sound(&rules, &raw, name, service)?;
    }
    calls_end(&rules, &raw)?;
    load_is_sound(&rules, &raw)?;
    Ok(build(raw))
}

/// Names become directory and cgroup names, host names and label values.
fn name_is_plain(rules: &Rules<'_>, name: &str) -> Result<(), Invalid> {
    let plain =
        |character: char| character.is_ascii_lowercase() || character.is_ascii_digit() || character == '-';
    rules.require(
        !name.is_empty() && name.len() <= 40 && name.chars().all(plain) && name != "loadgen",
        name,
        "a name has 1 to 40 of a-z, 0-9 and `-`, and is not `loadgen`",
    )
}

fn service_is_sound(
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
        !service.methods.is_empty(),
        &format!("{place}.methods"),
        "a service needs at least one method",
    )?;
    for (method_name, method) in &service.methods {
        method_is_sound(rules, raw, &format!("{place}.methods.{method_name}"), method)?;
    }
    Ok(())
}

fn method_is_sound(
    rules: &Rules<'_>,
    raw: &raw::File,
    place: &str,
    method: &raw::Method,
) -> Result<(), Invalid> {
    for (field, bytes) in [
        ("request_bytes", method.request_bytes),
        ("response_bytes", method.response_bytes),
        ("allocate_bytes", method.allocate_bytes / 16),
    ] {
        rules.require(
            bytes <= LARGEST_MESSAGE,
            &format!("{place}.{field}"),
            format!("{bytes} bytes are more than the {LARGEST_MESSAGE} that gRPC takes by default"),
        )?;
    }
    rules.require(
        (0.0..=LONGEST_CALL_MS).contains(&method.sleep_ms),
        &format!("{place}.sleep_ms"),
        format!("{} is not within 0 to {LONGEST_CALL_MS}", method.sleep_ms),
    )?;
    rules.require(
        method.cpu_us <= 1_000_000,
        &format!("{place}.cpu_us"),
        format!("{} microseconds are more than a second of work", method.cpu_us),
    )?;
    for (index, step) in method.redis.iter().enumerate() {
        rules.require(
            raw.backends.contains_key(&step.instance),
            &format!("{place}.redis[{index}].instance"),
            format!("no backend `{}`; backends are {}", step.instance, names(&raw.backends)),
        )?;
        rules.require(
            step.keys > 0,
            &format!("{place}.redis[{index}].keys"),
            "at least one key is needed",
        )?;
    }
    for (index, call) in method.calls.iter().enumerate() {
        call_is_sound(rules, raw, &format!("{place}.calls[{index}]"), call)?;
    }
    Ok(())
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
    let Some(callee) = raw.services.get(service) else {
        let known = names(&raw.services);
        return rules.require(false, &to, format!("no service `{service}`; services are {known}"));
    };
    rules.require(
        callee.methods.contains_key(method),
        &to,
        format!("`{service}` has no method `{method}`; it has {}", names(&callee.methods)),
    )?;
    rules.require(call.deadline_ms > 0, &format!("{place}.deadline_ms"), "a deadline is at least 1 ms")?;
    rules.require(
        (1..=MOST_REPEATS).contains(&call.repeat),
        &format!("{place}.repeat"),
        format!("{} is not within 1 to {MOST_REPEATS}", call.repeat),
    )
}

/// A method that reaches itself would call for ever.
fn calls_end(rules: &Rules<'_>, raw: &raw::File) -> Result<(), Invalid> {
    fn visit<'a>(raw: &'a raw::File, at: (&'a str, &'a str), trail: &mut Vec<(&'a str, &'a str)>) -> bool {
        if trail.contains(&at) {
            trail.push(at);
            return false;
        }
        trail.push(at);
        let method = raw.services.get(at.0).and_then(|service| service.methods.get(at.1));
        for call in method.into_iter().flat_map(|method| &method.calls) {
            if call.to.split_once('/').is_some_and(|next| !visit(raw, next, trail)) {
                return false;
            }
        }
        trail.pop();
        true
    }
    for (name, service) in &raw.services {
        for method in service.methods.keys() {
            let mut trail = Vec::new();
            let ends = visit(raw, (name, method), &mut trail);
            let shown: Vec<String> =
                trail.iter().map(|(service, method)| format!("{service}/{method}")).collect();
            rules.require(
                ends,
                &format!("services.{name}.methods.{method}.calls"),
                format!("calls never end: {}", shown.join(" -> ")),
            )?;
        }
    }
    Ok(())
}

fn load_is_sound(rules: &Rules<'_>, raw: &raw::File) -> Result<(), Invalid> {
    let rate = raw.load.requests_per_second;
    rules.require(
        rate > 0.0 && rate <= 100_000.0,
        "load.requests_per_second",
        format!("{rate} is not within 0 to 100000"),
    )?;
    rules.require(raw.load.deadline_ms > 0, "load.deadline_ms", "a deadline is at least 1 ms")?;
    rules.require(!raw.users.is_empty(), "users", "at least one kind of user is needed")?;
    let weights: u64 = raw.users.values().map(|user| u64::from(user.weight)).sum();
    rules.require(weights > 0, "users", "all weights are zero")?;
    for (name, user) in &raw.users {
        rules.require(
            !user.steps.is_empty(),
            &format!("users.{name}.steps"),
            "a user does at least one step",
        )?;
        for (index, step) in user.steps.iter().enumerate() {
            let entry = raw.services.get(&raw.entry);
            rules.require(
                entry.is_some_and(|service| service.methods.contains_key(step)),
                &format!("users.{name}.steps[{index}]"),
                format!(
                    "entry service `{}` has no method `{step}`; it has {}",
                    raw.entry,
                    entry.map(|service| names(&service.methods)).unwrap_or_default()
                ),
            )?;
        }
    }
    Ok(())
}

fn names<T>(map: &BTreeMap<String, T>) -> String {
    if map.is_empty() {
        return "none".into();
    }
    map.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
}

fn build(raw: raw::File) -> Topology {
    let services = raw.services.into_iter().map(|(name, service)| {
        let methods = service.methods.into_iter().map(|(name, method)| (name, build_method(method)));
        let built = Service {
            stack: service.stack,
            grpc: service.grpc,
            port: service.port,
            cpu_cores: service.limits.cpu,
            memory_mib: service.limits.memory_mb,
            methods: methods.collect(),
        };
        (name, built)
    });
    let scenarios =
        raw.users.into_iter().map(|(name, user)| Scenario { name, weight: user.weight, steps: user.steps });
    Topology {
        name: raw.name,
        entry: raw.entry,
        services: services.collect(),
        redis: raw.backends.into_keys().collect(),
        scenarios: scenarios.collect(),
        load: Load {
            requests_per_second: raw.load.requests_per_second,
            pattern: raw.load.pattern,
            deadline_ms: raw.load.deadline_ms,
        },
    }
}

fn build_method(raw: raw::Method) -> Method {
    let calls = raw.calls.into_iter().filter_map(|call| {
        let (service, method) = call.to.split_once('/')?;
        Some(CallStep {
            service: service.into(),
            method: method.into(),
            deadline_ms: call.deadline_ms,
            repeat: call.repeat,
            optional: call.optional,
        })
    });
    let redis = raw.redis.into_iter().map(|step| RedisStep {
        instance: step.instance,
        operation: step.op,
        bytes: step.bytes,
        keys: step.keys,
    });
    Method {
        request_bytes: raw.request_bytes,
        response_bytes: raw.response_bytes,
        cpu_us: raw.cpu_us,
        sleep_ms: raw.sleep_ms,
        allocate_bytes: raw.allocate_bytes,
        parallel: raw.fan_out == FanOut::Parallel,
        redis: redis.collect(),
        calls: calls.collect(),
    }
}
