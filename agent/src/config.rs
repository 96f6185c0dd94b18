//! Flags, environment and file flow in; one [`Config`] with nothing left to check flows out, or an error
//! that says which setting, where, and what it must be.

use crate::cli::RunFlags;
use crate::sources::tls::Selection;
use faultline_core::pipeline::Settings;
use faultline_core::units::Nanos;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where the agent serves when nothing else is said: this machine only.
const LISTEN: &str = "127.0.0.1:9464";
/// A twentieth of a second at 100,000 calls/s whose both ends are on the node (1,200 bytes of records each), ten times
/// what the agent lets pass between two looks: on two saturated cores 2, 4, 8 and 16 MiB lost the same, nothing. The
/// kernel maps the ring's pages twice, so that a record never breaks: what is resident is double.
pub(crate) const RING_SIZE: u32 = 4 << 20;
/// The kernel takes powers of two that are whole pages; below this a burst of one drain interval is lost.
const RING_SIZES: std::ops::RangeInclusive<u32> = (64 << 10)..=(1 << 30);
/// Below a second percentiles mean little; above a minute a page comes too late.
const STEPS: std::ops::RangeInclusive<Nanos> = Nanos::from_secs(1)..=Nanos::from_secs(60);
/// More services than this do not fit the memory limit that the chart sets.
const MAX_SERVICES: usize = 10_000;

/// What the agent runs with.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where to serve.
    pub listen: SocketAddr,
    /// Root of the cgroup v2 hierarchy; `None`: where it is mounted.
    pub cgroup_root: Option<PathBuf>,
    /// This node's name.
    pub node: Arc<str>,
    /// Where the model is.
    pub model: ModelFiles,
    /// The recording to write.
    pub record: Option<PathBuf>,
    /// Bytes of the ring between kernel and agent.
    pub ring_size: u32,
    /// Names for cgroups, the first match wins.
    pub names: Vec<NameRule>,
    /// What the pipeline is told.
    pub settings: Settings,
    /// Whose TLS to see; `None`: nobody's.
    pub tls: Option<Selection>,
    /// What to log.
    pub log: String,
}

/// The files that inference needs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelFiles {
    /// The ONNX file; `None`: the shipped one, where it is found.
    pub model: Option<PathBuf>,
    /// The ONNX Runtime library; `None`: where the system has it.
    pub runtime: Option<PathBuf>,
}

/// Names the service of the cgroups whose path matches.
#[derive(Clone, Debug, PartialEq)]
pub struct NameRule {
    pattern: String,
    /// The name.
    pub service: Arc<str>,
}

/// A setting is wrong.
#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    /// The file could not be read.
    #[error("cannot read the configuration file {path}: {source}; check the path or leave --config out")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("{path}:{line}: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong there.
        reason: String,
    },
    /// A value is out of its range or not of its form.
    #[error("{setting} is `{value}`, but must be {expected}")]
    Value {
        /// Which setting, as its flag is called.
        setting: &'static str,
        /// What was given.
        value: String,
        /// What it must be.
        expected: String,
    },
}

/// The file as it is written: the same keys as the flags.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    listen: Option<String>,
    cgroup_root: Option<PathBuf>,
    step: Option<String>,
    baseline_steps: Option<u64>,
    node: Option<String>,
    model: Option<PathBuf>,
    onnx_runtime: Option<PathBuf>,
    record: Option<PathBuf>,
    ring_size: Option<u32>,
    #[serde(default)]
    names: BTreeMap<String, String>,
    max_services: Option<usize>,
    tls: Option<bool>,
    #[serde(default)]
    tls_processes: Vec<String>,
    log: Option<String>,
}

impl Config {
    /// Resolves what was given on the command line and in the environment with the file it names.
    ///
    /// # Errors
    /// When the file cannot be read or understood, or a value is out of its range.
    pub fn resolve(flags: RunFlags) -> Result<Self, Invalid> {
        let file = match &flags.config {
            Some(path) => read(path)?,
            None => File::default(),
        };
        let names = flags.names.iter().map(|rule| NameRule::parse(rule)).collect::<Result<Vec<_>, _>>()?;
        let of_file = file.names.into_iter().map(|(pattern, name)| NameRule::new(pattern, &name));
        let names = names.into_iter().map(Ok).chain(of_file).collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            listen: parse_listen(flags.listen.or(file.listen).as_deref().unwrap_or(LISTEN))?,
            cgroup_root: flags.cgroup_root.or(file.cgroup_root),
            node: flags.node.or(file.node).unwrap_or_else(host_name).into(),
            model: ModelFiles {
                model: flags.model.or(file.model),
                runtime: flags.onnx_runtime.or(file.onnx_runtime),
            },
            record: flags.record.or(file.record),
            ring_size: parse_ring_size(flags.ring_size.or(file.ring_size).unwrap_or(RING_SIZE))?,
            names,
            settings: parse_settings(
                flags.step.or(file.step),
                flags.baseline_steps.or(file.baseline_steps),
                flags.max_services.or(file.max_services),
            )?,
            tls: parse_tls(flags.tls || file.tls == Some(true), flags.tls_processes, file.tls_processes),
            log: flags.log.or(file.log).unwrap_or_else(|| "info".to_owned()),
        })
    }

    /// The name that the rules give to the cgroup at `path`.
    #[must_use]
    pub fn name_of(&self, path: &str) -> Option<Arc<str>> {
        self.names.iter().find(|rule| matches(&rule.pattern, path)).map(|rule| Arc::clone(&rule.service))
    }
}

impl NameRule {
    fn parse(rule: &str) -> Result<Self, Invalid> {
        let (pattern, service) = rule
            .rsplit_once('=')
            .ok_or_else(|| wrong("--name", rule, "PATTERN=SERVICE, such as `*/cart.service=cart`"))?;
        Self::new(pattern.to_owned(), service)
    }

    fn new(pattern: String, service: &str) -> Result<Self, Invalid> {
        if pattern.is_empty() || service.is_empty() {
            return Err(wrong(
                "--name",
                &format!("{pattern}={service}"),
                "a pattern and a name, both not empty",
            ));
        }
        Ok(Self { pattern, service: service.into() })
    }
}

fn read(path: &Path) -> Result<File, Invalid> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| Invalid::Unreadable { path: path.to_owned(), source })?;
    toml::from_str(&text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        Invalid::File {
            path: path.to_owned(),
            line: before.matches('\n').count() + 1,
            reason: error.message().to_owned(),
        }
    })
}

fn parse_listen(value: &str) -> Result<SocketAddr, Invalid> {
    value.parse().map_err(|_| wrong("--listen", value, "an IP address and a port, such as 127.0.0.1:9464"))
}

fn parse_ring_size(bytes: u32) -> Result<u32, Invalid> {
    if bytes.is_power_of_two() && RING_SIZES.contains(&bytes) {
        return Ok(bytes);
    }
    let expected = format!("a power of two between {} and {}", RING_SIZES.start(), RING_SIZES.end());
    Err(wrong("--ring-size", &bytes.to_string(), expected))
}

fn parse_settings(
    step: Option<String>,
    baseline_steps: Option<u64>,
    max_services: Option<usize>,
) -> Result<Settings, Invalid> {
    let mut settings = Settings::default();
    if let Some(step) = step {
        settings.step_length = parse_time(&step)
            .filter(|length| STEPS.contains(length))
            .ok_or_else(|| wrong("--step", &step, "a time from 1s to 60s, such as 5s or 2500ms"))?;
    }
    if let Some(steps) = baseline_steps {
        if !(3..=1000).contains(&steps) {
            return Err(wrong("--baseline-steps", &steps.to_string(), "a number from 3 to 1000"));
        }
        settings.baseline_steps = steps;
    }
    if let Some(most) = max_services {
        if !(1..=MAX_SERVICES).contains(&most) {
            return Err(wrong(
                "--max-services",
                &most.to_string(),
                format!("a number from 1 to {MAX_SERVICES}"),
            ));
        }
        settings.max_services = most;
    }
    Ok(settings)
}

/// A selection asks for TLS by itself; flags replace the file's.
fn parse_tls(wanted: bool, flags: Vec<String>, file: Vec<String>) -> Option<Selection> {
    let patterns = if flags.is_empty() { file } else { flags };
    (wanted || !patterns.is_empty()).then(|| Selection::of(&patterns))
}

fn parse_time(text: &str) -> Option<Nanos> {
    let split = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(split)?;
    let number: u64 = number.parse().ok()?;
    match unit {
        "ms" => Some(Nanos::from_millis(number)),
        "s" => Some(Nanos::from_secs(number)),
        "m" => Some(Nanos::from_secs(number.saturating_mul(60))),
        _ => None,
    }
}

fn wrong(setting: &'static str, value: &str, expected: impl Into<String>) -> Invalid {
    Invalid::Value { setting, value: value.to_owned(), expected: expected.into() }
}

/// The kernel's name of this host; a container sees its own.
fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .ok()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "localhost".to_owned())
}

/// Whether `text` is what `pattern` describes: `*` stands for any run of characters, slashes too. Looks at
/// each `*` from the left and takes the earliest place that fits, which is enough when nothing but `*`
/// is special.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(mut text) = text.strip_prefix(first) else {
        return false;
    };
    let Some((middle, last)) = rest.rsplit_once('*') else {
        return text.ends_with(rest);
    };
    for part in middle.split('*').filter(|part| !part.is_empty()) {
        let Some((_, after)) = text.split_once(part) else {
            return false;
        };
        text = after;
    }
    text.ends_with(last)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;
    use expect_test::{Expect, expect};
    use std::io::Write;

    fn from_file(text: &str) -> Result<Config, Invalid> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        Config::resolve(RunFlags { config: Some(file.path().to_owned()), ..RunFlags::default() })
    }

    fn check_refused(text: &str, expected: &Expect) {
        let error = from_file(text).unwrap_err();
        let error = match error {
            Invalid::File { line, reason, .. } => format!("line {line}: {reason}"),
            other => other.to_string(),
        };
        expected.assert_eq(error.lines().next().unwrap_or_default());
    }

    #[test]
    fn defaults_need_nothing() {
        let config = Config::resolve(RunFlags::default()).unwrap();
        assert_eq!(config.listen.to_string(), LISTEN);
        assert_eq!(config.settings, Settings::default());
    }

    #[test]
    fn a_flag_wins_over_the_file() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"step = \"2s\"\nnode = \"from-file\"\n[names]\n\"*/x\" = \"y\"\n").unwrap();
        let flags = RunFlags {
            config: Some(file.path().to_owned()),
            node: Some("from-flag".to_owned()),
            names: vec!["/a/*/b=c".to_owned()],
            ..RunFlags::default()
        };
        let config = Config::resolve(flags).unwrap();
        assert_eq!(&*config.node, "from-flag");
        assert_eq!(config.settings.step_length, Nanos::from_secs(2));
        assert_eq!(config.name_of("/a/long/way/b").as_deref(), Some("c"));
        assert_eq!(config.name_of("/pods/x").as_deref(), Some("y"));
        assert_eq!(config.name_of("/pods/z"), None);
    }

    #[test]
    fn a_wrong_file_is_refused_with_its_line() {
        check_refused(
            "node = \"a\"\n\nlissen = \"x\"\n",
            &expect![
                "line 3: unknown field `lissen`, expected one of `listen`, `cgroup_root`, `step`, `baseline_steps`, `node`, `model`, `onnx_runtime`, `record`, `ring_size`, `names`, `max_services`, `tls`, `tls_processes`, `log`"
            ],
        );
        check_refused("step = 5", &expect![[r#"line 1: invalid type: integer `5`, expected a string"#]]);
        check_refused("node = \"a", &expect!["line 1: invalid basic string, expected `\"`"]);
        check_refused(
            "step = \"0s\"",
            &expect!["--step is `0s`, but must be a time from 1s to 60s, such as 5s or 2500ms"],
        );
        check_refused(
            "listen = \"9464\"",
            &expect!["--listen is `9464`, but must be an IP address and a port, such as 127.0.0.1:9464"],
        );
        check_refused(
            "ring_size = 1000",
            &expect!["--ring-size is `1000`, but must be a power of two between 65536 and 1073741824"],
        );
    }

    #[test]
    fn stars_stand_for_anything() {
        for (pattern, text, expected) in [
            ("/a", "/a", true),
            ("/a", "/ab", false),
            ("*", "", true),
            ("/a*", "/a/b", true),
            ("*b*b", "b", false),
            ("*b*b", "bb", true),
            ("/x*y*z", "/x/y/y/z", true),
            ("/x*y*z", "/x/z", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }
}
