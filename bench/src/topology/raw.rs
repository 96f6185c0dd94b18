//! The topology file's shape, field by field as users write it. Rules across fields are in `check`.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Invalid, Pattern, RedisOperation, Stack};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub name: String,
    pub entry: String,
    pub load: Load,
    #[serde(default)]
    pub backends: BTreeMap<String, Backend>,
    pub services: BTreeMap<String, Service>,
    pub users: BTreeMap<String, User>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Load {
    pub requests_per_second: f64,
    #[serde(default = "steady")]
    pub pattern: Pattern,
    #[serde(default = "user_deadline")]
    pub deadline_ms: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Backend {
    #[expect(dead_code, reason = "there is one kind; reading it checks it")]
    pub kind: BackendKind,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum BackendKind {
    Redis,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Service {
    pub stack: Stack,
    pub grpc: String,
    pub port: u16,
    #[serde(default)]
    pub limits: Limits,
    pub methods: BTreeMap<String, Method>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Limits {
    pub cpu: Option<f64>,
    pub memory_mb: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Method {
    #[serde(default)]
    #[expect(dead_code, reason = "there is one kind; reading it checks it")]
    pub kind: MethodKind,
    #[serde(default = "small_message")]
    pub request_bytes: u32,
    #[serde(default = "small_message")]
    pub response_bytes: u32,
    #[serde(default)]
    pub cpu_us: u32,
    #[serde(default)]
    pub sleep_ms: f64,
    #[serde(default)]
    pub allocate_bytes: u32,
    #[serde(default)]
    pub fan_out: FanOut,
    #[serde(default)]
    pub redis: Vec<RedisStep>,
    #[serde(default)]
    pub calls: Vec<CallStep>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum MethodKind {
    #[default]
    Unary,
}

#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum FanOut {
    #[default]
    Sequence,
    Parallel,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RedisStep {
    pub instance: String,
    pub op: RedisOperation,
    #[serde(default = "small_message")]
    pub bytes: u32,
    #[serde(default = "key_space")]
    pub keys: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CallStep {
    pub to: String,
    #[serde(default = "call_deadline")]
    pub deadline_ms: u32,
    #[serde(default = "once")]
    pub repeat: u32,
    #[serde(default)]
    pub optional: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct User {
    pub weight: u32,
    pub steps: Vec<String>,
}

const fn steady() -> Pattern {
    Pattern::Steady
}

const fn user_deadline() -> u32 {
    4_000
}

const fn call_deadline() -> u32 {
    1_000
}

const fn small_message() -> u32 {
    64
}

const fn key_space() -> u32 {
    1_000
}

const fn once() -> u32 {
    1
}

/// Parses the text; the error has the line and column.
pub(super) fn parse(file: &str, text: &str) -> Result<File, Invalid> {
    let error = |place: String, reason: String| Invalid { file: file.into(), place, reason };
    if file.ends_with(".json") {
        serde_json::from_str(text)
            .map_err(|bad| error(format!("line {}, column {}", bad.line(), bad.column()), bad.to_string()))
    } else {
        toml::from_str(text).map_err(|bad| {
            let before = bad.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            let column = before.chars().rev().take_while(|&character| character != '\n').count() + 1;
            error(format!("line {line}, column {column}"), bad.message().replace('\n', "; "))
        })
    }
}
