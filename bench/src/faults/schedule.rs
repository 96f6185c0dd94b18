//! A file of faults (TOML with `[[faults]]`, or a JSON list) and control lines come in; faults that fit
//! the topology go out, or a sentence that says which one does not.

use std::path::Path;

use serde::Deserialize;

use super::{Fault, Kind, Parameters, resolve};
use crate::random::Random;
use crate::service::status::code_number;
use crate::topology::Topology;

/// A fault as users write it: without `kind` or `service` the seed chooses.
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
    pub parameters: Parameters,
}

const fn a_minute() -> f64 {
    60.0
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(alias = "fault")]
    faults: Vec<Wanted>,
}

/// Reads a schedule; errors say file, fault and reason.
pub fn read(path: &Path, topology: &Topology, random: &mut Random) -> Result<Vec<Fault>, String> {
    let file = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| format!("{file}: cannot be read: {error}"))?;
    parse(&file.to_string(), &text, topology, random)
}

/// Reads a schedule's text.
pub fn parse(file: &str, text: &str, topology: &Topology, random: &mut Random) -> Result<Vec<Fault>, String> {
    let wanted = if file.ends_with(".json") {
        serde_json::from_str::<Vec<Wanted>>(text).map_err(|error| format!("{file}: {error}"))?
    } else {
        toml::from_str::<File>(text).map_err(|error| format!("{file}: {error}"))?.faults
    };
    let check = |(index, wanted): (usize, Wanted)| {
        fault(wanted, topology, random).map_err(|reason| format!("{file}: faults[{index}]: {reason}"))
    };
    wanted.into_iter().enumerate().map(check).collect()
}

/// Checks one wanted fault.
pub fn fault(wanted: Wanted, topology: &Topology, random: &mut Random) -> Result<Fault, String> {
    let Wanted { at_seconds, duration_seconds, kind, service, parameters } = wanted;
    if !(at_seconds >= 0.0 && at_seconds.is_finite()) {
        return Err(format!("at_seconds: {at_seconds} is not a time after the start"));
    }
    if !(duration_seconds > 0.0 && duration_seconds.is_finite()) {
        return Err(format!("duration_seconds: {duration_seconds} is no duration"));
    }
    if !(0.0..=1.0).contains(&parameters.fraction) {
        return Err(format!("parameters.fraction: {} is not within 0 to 1", parameters.fraction));
    }
    if !(0.0..=60_000.0).contains(&parameters.latency_ms) {
        return Err(format!("parameters.latency_ms: {} is not within 0 to 60000", parameters.latency_ms));
    }
    if code_number(&parameters.status).is_none_or(|number| number == 0) {
        return Err(format!(
            "parameters.status: `{}` is no gRPC error such as UNAVAILABLE",
            parameters.status
        ));
    }
    if parameters.max_mb > 1_536 || parameters.mb_per_second > 200 {
        return Err("parameters: growth is limited to max_mb 1536 and mb_per_second 200".into());
    }
    if !(1..=16).contains(&parameters.threads) {
        return Err(format!("parameters.threads: {} is not within 1 to 16", parameters.threads));
    }
    if parameters.stopped_ms == 0 || parameters.running_ms == 0 {
        return Err("parameters: stopped_ms and running_ms are at least 1".into());
    }
    let (kind, service) = resolve(topology, kind, service.as_deref(), random)?;
    Ok(Fault { at_seconds, duration_seconds, kind, service, parameters })
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
    }

    #[test]
    fn errors_name_the_fault_and_the_field() {
        let cases = [
            (r#"[{"kind":"latency","service":"nobody"}]"#, "faults[0]: latency does not fit nobody"),
            (r#"[{"duration_seconds":0}]"#, "faults[0]: duration_seconds: 0 is no duration"),
            (r#"[{"at_seconds":-1}]"#, "faults[0]: at_seconds"),
            (r#"[{"parameters":{"fraction":2}}]"#, "parameters.fraction: 2"),
            (r#"[{"parameters":{"status":"OK"}}]"#, "parameters.status: `OK`"),
            (r#"[{"parameters":{"max_mb":9999}}]"#, "max_mb 1536"),
            (r#"[{"kind":"earthquake"}]"#, "unknown variant `earthquake`"),
        ];
        for (text, reason) in cases {
            let error = read("f.json", text).unwrap_err();
            assert!(error.starts_with("f.json: ") && error.contains(reason), "{error}");
        }
    }
}
