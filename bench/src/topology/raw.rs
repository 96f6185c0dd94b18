//! The topology file's shape, field by field as users write it. Rules across fields are in `check`.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::{BackendKind, Breaker, Cache, DataOperation, Invalid, MethodKind, Pattern, Stack};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub name: String,
    pub entry: String,
    pub proto: Option<String>,
    pub load: Load,
    #[serde(default)]
    pub backends: Named<Backend>,
    pub services: Named<Service>,
    pub users: Named<User>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Load {
    pub requests_per_second: f64,
    #[serde(default = "steady")]
    pub pattern: Pattern,
    #[serde(default = "user_deadline")]
    pub deadline_ms: u32,
    #[serde(default = "once")]
    pub pool: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Backend {
    pub kind: BackendKind,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Service {
    pub stack: Stack,
    pub grpc: String,
    pub port: u16,
    #[serde(default = "once")]
    pub replicas: u32,
    #[serde(default)]
    pub limits: Limits,
    #[serde(default)]
    pub peers: Named<Peer>,
    pub methods: Named<Method>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Limits {
    pub cpu: Option<f64>,
    pub memory_mb: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Peer {
    #[serde(default = "once")]
    pub pool: u32,
    #[serde(default, deserialize_with = "strict_breaker")]
    pub breaker: Option<Breaker>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Method {
    #[serde(default)]
    pub kind: MethodKind,
    #[serde(default = "small_message")]
    pub request_bytes: u32,
    #[serde(default = "small_message")]
    pub response_bytes: u32,
    pub request_messages: Option<u32>,
    pub response_messages: Option<u32>,
    #[serde(default)]
    pub gap_ms: f64,
    #[serde(default)]
    pub cpu_us: u32,
    #[serde(default)]
    pub sleep_ms: f64,
    #[serde(default)]
    pub allocate_bytes: u32,
    #[serde(default)]
    pub fan_out: FanOut,
    #[serde(default, deserialize_with = "strict_cache")]
    pub cache: Option<Cache>,
    #[serde(default)]
    pub redis: Vec<DataStep>,
    #[serde(default)]
    pub postgres: Vec<DataStep>,
    #[serde(default)]
    pub calls: Vec<CallStep>,
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
pub(super) struct DataStep {
    pub instance: String,
    pub op: DataOperation,
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
    pub retries: Option<Retries>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Retries {
    #[serde(default = "three")]
    pub attempts: u32,
    #[serde(default = "backoff")]
    pub backoff_ms: u64,
    #[serde(default = "unavailable")]
    pub on: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct User {
    pub weight: u32,
    pub steps: Vec<String>,
    #[serde(default = "think")]
    pub think_ms: u32,
}

/// Things by name. A name that comes twice is an error in JSON too, where a plain map would keep the
/// last one.
#[derive(Debug)]
pub(super) struct Named<T>(pub BTreeMap<String, T>);

impl<T> Default for Named<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Named<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Once<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Once<T> {
            type Value = Named<T>;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a table of things by name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Named<T>, A::Error> {
                let mut named = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    if named.contains_key(&name) {
                        return Err(Error::custom(format!("`{name}` is there twice; names are given once")));
                    }
                    let value = map.next_value()?;
                    named.insert(name, value);
                }
                Ok(Named(named))
            }
        }
        deserializer.deserialize_map(Once(PhantomData))
    }
}

/// What services are told may have more fields one day; what users write may not.
fn strict_breaker<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Breaker>, D::Error> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Strict {
        #[serde(default = "five")]
        failures: u32,
        #[serde(default = "five_seconds")]
        open_ms: u64,
    }
    let found = Option::<Strict>::deserialize(from)?;
    Ok(found.map(|found| Breaker { failures: found.failures, open_ms: found.open_ms }))
}

/// As for breakers.
fn strict_cache<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Cache>, D::Error> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Strict {
        #[serde(default = "key_space")]
        keys: u32,
        #[serde(default = "a_minute")]
        ttl_ms: u64,
    }
    let found = Option::<Strict>::deserialize(from)?;
    Ok(found.map(|found| Cache { keys: found.keys, ttl_ms: found.ttl_ms }))
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

const fn three() -> u32 {
    3
}

const fn five() -> u32 {
    5
}

const fn five_seconds() -> u64 {
    5_000
}

const fn a_minute() -> u64 {
    60_000
}

const fn backoff() -> u64 {
    50
}

fn unavailable() -> Vec<String> {
    vec!["UNAVAILABLE".into()]
}

const fn think() -> u32 {
    1_000
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
