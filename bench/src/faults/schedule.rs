//! A file of faults and events (TOML with `[[faults]]` and `[[events]]`, or the same in JSON) and control lines come
//! in; what fits the topology goes out, or a sentence that says where which one does not.

use std::path::Path;

use serde::Deserialize;

use super::{Fault, Kind, Parameters, Role, Written, resolve};
use crate::random::Random;
use crate::topology::Topology;

/// A fault or event as users write it: without `kind` or `service` the seed chooses.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// Seconds after the load's start; a control line means now.
    #[serde(default)]
    pub at_seconds: f64,
    /// How long, seconds.
    #[serde(default = "a_minute")]
    pub duration_seconds: f64,
    /// What happens.
    pub kind: Option<Kind>,
    /// Where.
    pub service: Option<String>,
    /// How hard.
    #[serde(default)]
    pub parameters: Written,
}

const fn a_minute() -> f64 {
    60.0
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default, alias = "fault")]
    faults: Vec<Wanted>,
    #[serde(default, alias = "event")]
    events: Vec<Wanted>,
}

/// Reads a schedule; errors say file, fault and reason.
pub fn read(path: &Path, topology: &Topology, random: &mut Random) -> Result<Vec<Fault>, String> {
    let file = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| format!("{file}: cannot be read: {error}"))?;
    parse(&file.to_string(), &text, topology, random)
}

/// Reads a schedule's text.
pub fn parse(file: &str, text: &str, topology: &Topology, random: &mut Random) -> Result<Vec<Fault>, String> {
    let File { faults, events } = if file.ends_with(".json") {
        from_json(text).map_err(|error| format!("{file}: {error}"))?
    } else {
        toml::from_str::<File>(text).map_err(|error| format!("{file}: {error}"))?
    };
    let listed = |list: &'static str, wanted: Vec<Wanted>| {
        wanted.into_iter().enumerate().map(move |(index, wanted)| (format!("{list}[{index}]"), list, wanted))
    };
    let check = |(place, list, wanted)| {
        let role = if list == "events" { Role::Event } else { Role::Fault };
        fault(wanted, role, topology, random).map_err(|reason| format!("{file}: {place}: {reason}"))
    };
    listed("faults", faults).chain(listed("events", events)).map(check).collect()
}

/// A list of faults, or an object with `faults` and `events`; the shape is told by the first character, so that an error is about the shape that was meant.
fn from_json(text: &str) -> serde_json::Result<File> {
    if text.trim_start().starts_with('[') {
        return serde_json::from_str(text).map(|faults| File { faults, events: Vec::new() });
    }
    serde_json::from_str(text)
}

/// Checks one wanted fault or event.
pub fn fault(wanted: Wanted, role: Role, topology: &Topology, random: &mut Random) -> Result<Fault, String> {
    let Wanted { at_seconds, duration_seconds, kind, service, parameters } = wanted;
    if !(at_seconds >= 0.0 && at_seconds.is_finite()) {
        return Err(format!("at_seconds: {at_seconds} is not a time after the start"));
    }
    if !(duration_seconds > 0.0 && duration_seconds.is_finite()) {
        return Err(format!("duration_seconds: {duration_seconds} is no duration"));
    }
    if let Some(kind) = kind.filter(|kind| kind.role() != role) {
        return Err(match role {
            Role::Fault => format!("kind: {} is no fault; it belongs to [[events]]", kind.name()),
            Role::Event => format!("kind: {} is a fault; it belongs to [[faults]]", kind.name()),
        });
    }
    let (kind, service) = resolve(topology, role, kind, service.as_deref(), random)?;
    let mut parameters = Parameters::check(kind, &parameters)?;
    if kind.in_method() {
        parameters.method = Some(method(&service, parameters.method, topology, random)?);
    }
    Ok(Fault { at_seconds, duration_seconds, kind, service, parameters })
}

/// The named method of a service; without a name the seed chooses among those that are called.
fn method(
    service: &str,
    named: Option<String>,
    topology: &Topology,
    random: &mut Random,
) -> Result<String, String> {
    let methods = topology.services.get(service).map(|service| &service.methods);
    let all: Vec<&String> = methods.into_iter().flat_map(|methods| methods.keys()).collect();
    if let Some(name) = named {
        if all.contains(&&name) {
            return Ok(name);
        }
        let known: Vec<&str> = all.iter().map(|name| name.as_str()).collect();
        return Err(format!("parameters.method: {service} has no `{name}`; it has {}", known.join(", ")));
    }
    let used = called(service, topology);
    let choice = if used.is_empty() { all } else { used };
    let drawn = usize::try_from(random.below(choice.len() as u64)).unwrap_or(0);
    choice.get(drawn).map(|name| (*name).clone()).ok_or_else(|| format!("{service} has no method"))
}

/// Methods of a service that users or other services call.
fn called<'a>(service: &str, topology: &'a Topology) -> Vec<&'a String> {
    let all = topology.services.get(service).map(|service| &service.methods);
    let by_services = |name: &str| {
        let methods = topology.services.values().flat_map(|service| service.methods.values());
        methods.flat_map(|method| &method.calls).any(|call| call.service == service && call.method == name)
    };
    let by_users = |name: &str| {
        service == topology.entry
            && topology.scenarios.iter().any(|scenario| scenario.steps.iter().any(|step| step == name))
    };
    all.into_iter().flat_map(|all| all.keys()).filter(|name| by_services(name) || by_users(name)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]
    use super::*;

    fn read(file: &str, text: &str) -> Result<Vec<Fault>, String> {
        let topology = Topology::boutique().unwrap();
        parse(file, text, &topology, &mut Random::seeded(1))
    }

    #[test]
    fn both_formats() {
        let toml = "[[faults]]\nat_seconds = 5\nkind = \"latency\"\nservice = \"adservice\"\nparameters = { latency_ms = 90.0 }\n";
        let json =
            r#"[{"at_seconds":5,"kind":"latency","service":"adservice","parameters":{"latency_ms":90}}]"#;
        let faults = read("f.toml", toml).unwrap();
        assert_eq!(faults, read("f.json", json).unwrap());
        assert!((faults[0].duration_seconds - 60.0).abs() < 1e-9);
        let both = r#"{"faults":[{"kind":"stop"}],"events":[{"kind":"burst"}]}"#;
        let kinds: Vec<Kind> = read("f.json", both).unwrap().iter().map(|fault| fault.kind).collect();
        assert_eq!(kinds, [Kind::Stop, Kind::Burst]);
    }

    #[test]
    fn a_struck_method_is_drawn_among_those_that_are_called() {
        for seed in 0..20 {
            let topology = Topology::boutique().unwrap();
            let text = r#"[{"kind":"errors-in-method","service":"cartservice"}]"#;
            let faults = parse("f.json", text, &topology, &mut Random::seeded(seed)).unwrap();
            let method = faults[0].parameters.method.clone().unwrap();
            assert!(called("cartservice", &topology).contains(&&method));
        }
    }

    #[test]
    fn errors_name_the_fault_and_the_field() {
        let cases = [
            (r#"[{"kind":"latency","service":"nobody"}]"#, "faults[0]: latency does not fit nobody"),
            (r#"[{"duration_seconds":0}]"#, "faults[0]: duration_seconds: 0 is no duration"),
            (r#"[{"at_seconds":-1}]"#, "faults[0]: at_seconds"),
            (r#"[{"kind":"errors","parameters":{"fraction":2}}]"#, "parameters.fraction: 2"),
            (r#"[{"kind":"errors","parameters":{"status":"OK"}}]"#, "parameters.status: `OK`"),
            (
                r#"[{"kind":"memory-growth","parameters":{"max_mb":9999}}]"#,
                "parameters.max_mb: 9999 is not within",
            ),
            (r#"[{"kind":"earthquake"}]"#, "unknown variant `earthquake`"),
            (r#"[{"kind":"burst"}]"#, "faults[0]: kind: burst is no fault; it belongs to [[events]]"),
            (r#"{"events":[{"kind":"burst"},{"kind":"stop"}]}"#, "events[1]: kind: stop is a fault"),
            (
                r#"[{"kind":"latency-in-method","service":"adservice","parameters":{"method":"Nap"}}]"#,
                "parameters.method: adservice has no `Nap`; it has GetAds",
            ),
        ];
        for (text, reason) in cases {
            let error = read("f.json", text).unwrap_err();
            assert!(error.starts_with("f.json: ") && error.contains(reason), "{error}");
        }
        let error = read("f.toml", "[[faults]]\nkind = 7\n").unwrap_err();
        assert!(error.contains("line 2"), "{error}");
    }
}
