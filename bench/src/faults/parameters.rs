//! How hard a fault hits: what a user wrote, checked against the catalogue, and scaled by `strength`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Kind;
use crate::status::code_number;

/// The checked and scaled parameters of one fault.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Parameters {
    /// 0 (harmless) to 1 (as written).
    pub strength: f64,
    /// The status of failing calls, where the kind has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// The struck method's name, where the kind strikes one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Numbers by name, scaled.
    #[serde(flatten)]
    numbers: BTreeMap<&'static str, f64>,
}

/// As users write them: numbers by name, `strength`, `status` and `method`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(transparent)]
pub struct Written(Map<String, Value>);

impl Parameters {
    /// The defaults of a kind.
    pub fn of(kind: Kind) -> Self {
        Self::check(kind, &Written::default()).unwrap_or_default()
    }

    /// Checks what was written for a kind; the error names the parameter.
    pub fn check(kind: Kind, written: &Written) -> Result<Self, String> {
        let known = || {
            let mut names: Vec<&str> = kind.parameters().iter().map(|one| one.name).collect();
            names.push("strength");
            names.extend((!kind.row().status.is_empty()).then_some("status"));
            names.extend(kind.in_method().then_some("method"));
            names.join(", ")
        };
        for name in written.0.keys() {
            let fits = kind.parameters().iter().any(|one| one.name == name)
                || name == "strength"
                || (name == "status" && !kind.row().status.is_empty())
                || (name == "method" && kind.in_method());
            if !fits {
                return Err(format!("parameters.{name}: {} has only {}", kind.name(), known()));
            }
        }
        let strength = number(written, "strength", 1.0, (0.0, 1.0))?;
        let mut numbers = BTreeMap::new();
        for one in kind.parameters() {
            let value = number(written, one.name, one.default, (one.least, one.most))?;
            let scaled = one.harmless.map_or(value, |harmless| harmless + (value - harmless) * strength);
            numbers.insert(one.name, scaled);
        }
        let mut status = text(written, "status")?;
        if status.is_none() && !kind.row().status.is_empty() {
            status = Some(kind.row().status.into());
        }
        if let Some(name) = status.as_ref().filter(|name| code_number(name).is_none_or(|number| number == 0))
        {
            return Err(format!("parameters.status: `{name}` is no gRPC error such as UNAVAILABLE"));
        }
        Ok(Self { strength, status, method: text(written, "method")?, numbers })
    }

    /// A number of this kind; 0 when the kind has none of that name.
    pub fn number(&self, name: &str) -> f64 {
        self.numbers.get(name).copied().unwrap_or(0.0)
    }

    /// The same as a whole number.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "bounds are in the catalogue"
    )]
    pub fn whole(&self, name: &str) -> u32 {
        self.number(name).round() as u32
    }

    /// Milliseconds as a time.
    pub fn milliseconds(&self, name: &str) -> std::time::Duration {
        std::time::Duration::from_secs_f64(self.number(name).max(0.0) / 1e3)
    }

    /// The status number of failing calls.
    pub fn status_number(&self) -> i32 {
        self.status.as_deref().and_then(code_number).unwrap_or(14)
    }
}

fn number(written: &Written, name: &str, default: f64, (least, most): (f64, f64)) -> Result<f64, String> {
    let Some(value) = written.0.get(name) else { return Ok(default) };
    let value = value.as_f64().ok_or_else(|| format!("parameters.{name}: {value} is no number"))?;
    if !(least..=most).contains(&value) {
        return Err(format!("parameters.{name}: {value} is not within {least} to {most}"));
    }
    Ok(value)
}

fn text(written: &Written, name: &str) -> Result<Option<String>, String> {
    let Some(value) = written.0.get(name) else { return Ok(None) };
    let text = value.as_str().ok_or_else(|| format!("parameters.{name}: {value} is no text"))?;
    Ok(Some(text.into()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    fn check(kind: Kind, text: &str) -> Result<Parameters, String> {
        Parameters::check(kind, &serde_json::from_str(text).unwrap())
    }

    #[test]
    fn strength_scales_towards_what_does_no_harm() {
        let half = check(Kind::CpuQuota, r#"{"share":0.5,"strength":0.5}"#).unwrap();
        assert!((half.number("share") - 1.0).abs() < 1e-9);
        let gentle = check(Kind::Latency, r#"{"strength":0.1}"#).unwrap();
        assert!((gentle.number("latency_ms") - 20.0).abs() < 1e-9);
        let redis = check(Kind::SlowRedis, r#"{"strength":0.5}"#).unwrap();
        assert!((redis.number("stopped_ms") - 150.0).abs() < 1e-9 && redis.whole("running_ms") == 15);
    }

    #[test]
    fn what_a_kind_does_not_have_is_refused() {
        let reason = |kind, text| check(kind, text).unwrap_err();
        assert_eq!(
            reason(Kind::Latency, r#"{"fraction":1}"#),
            "parameters.fraction: latency has only latency_ms, strength"
        );
        assert!(
            reason(Kind::Errors, r#"{"fraction":2}"#)
                .starts_with("parameters.fraction: 2 is not within 0 to 1")
        );
        assert!(reason(Kind::Errors, r#"{"status":"OK"}"#).contains("`OK` is no gRPC error"));
        assert!(reason(Kind::Stop, r#"{"strength":"much"}"#).contains("no number"));
    }
}
