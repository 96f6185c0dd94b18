//! The truth of a run as a data set: windows per service and per edge in the long format that `evaluate`
//! reads. Calls come from the files of served and sent calls, CPU and memory from the cgroups' samples.
//! A row that is missing was not measured.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Deserialize;

use super::output::EPISODE;
use crate::load::percentile;
use crate::truth::{Processes, Sent, Served, each_line, read_lines};

/// Length of a window, seconds; the agent's default step.
const STEP_SECONDS: u64 = 5;

/// Calls that fell into one window.
#[derive(Default)]
struct Window {
    seconds: Vec<f64>,
    failed: usize,
}

impl Window {
    fn add(&mut self, seconds: f64, ok: bool) {
        self.seconds.push(seconds);
        self.failed += usize::from(!ok);
    }
}

/// Windows by their first second.
type Windows = BTreeMap<u64, Window>;

/// One line of `usage.jsonl`.
#[derive(Deserialize)]
struct Usage {
    at: f64,
    service: String,
    process: String,
    cpu_seconds: Option<f64>,
    memory_bytes: Option<u64>,
}

/// Writes `meta.json` and the episode's files for a system with a name and an entry service; `started` and `stopped`
/// bound the load, Unix seconds.
pub(super) fn write(
    out: &Path,
    (name, entry): (&str, &str),
    services: &[String],
    processes: &Processes,
    (started, stopped): (f64, f64),
) -> anyhow::Result<()> {
    let folder = out.join("episodes").join(EPISODE);
    std::fs::create_dir_all(&folder)?;
    let within = |at: f64| at >= started && at < stopped;
    let mut nodes = Rows::create(&folder.join("nodes.csv.gz"), "timestamp,service,metric,value")?;
    let mut edges = Rows::create(&folder.join("edges.csv.gz"), "timestamp,caller,callee,metric,value")?;
    for service in services {
        let mut windows = Windows::new();
        let mut callees: BTreeMap<String, Windows> = BTreeMap::new();
        let own = processes.iter().filter(|(_, of)| *of == service);
        for (process, _) in own {
            let served = |call: Served| {
                if within(seconds_of(call.t_ms)) {
                    let ok = call.status.as_deref() == Some("OK");
                    windows.entry(window_of(call.t_ms / 1_000)).or_default().add(call.seconds, ok);
                }
            };
            // A process that ended before its first call has no file.
            drop(each_line(&out.join("truth").join(format!("{process}.jsonl")), served));
            let sent = |call: Sent| {
                if within(seconds_of(call.t_ms)) {
                    let windows = callees.entry(call.callee).or_default();
                    let window = windows.entry(window_of(call.t_ms / 1_000)).or_default();
                    window.add(call.seconds, call.status == "OK");
                }
            };
            drop(each_line(&out.join("sent").join(format!("{process}.jsonl")), sent));
        }
        nodes.windows(service, windows, ["rps", "error_ratio", "lat_p50_ms", "lat_p95_ms", "lat_mean_ms"])?;
        for (callee, windows) in callees {
            let metrics = ["rps", "error_ratio", "client_p50_ms", "client_p95_ms", "client_mean_ms"];
            edges.windows(&format!("{service},{callee}"), windows, metrics)?;
        }
    }
    let usage = read_lines::<Usage>(&out.join("usage.jsonl")).unwrap_or_default();
    write_usage(&mut nodes, usage.into_iter().filter(|usage| within(usage.at)))?;
    nodes.finish()?;
    edges.finish()?;
    let meta = serde_json::json!({
        "dataset": name, "source": "playground", "step_s": STEP_SECONDS, "entry": entry,
        "timestamp": "START of the window", "services": services.len(),
    });
    std::fs::write(out.join("meta.json"), serde_json::to_string_pretty(&meta)?)?;
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "Unix milliseconds fit a double")]
fn seconds_of(ms: u64) -> f64 {
    ms as f64 / 1e3
}

const fn window_of(second: u64) -> u64 {
    second - second % STEP_SECONDS
}

/// CPU from the difference of a window's first sample and the next window's, memory from its last; a service has
/// what its processes have together.
fn write_usage(nodes: &mut Rows, usage: impl Iterator<Item = Usage>) -> anyhow::Result<()> {
    let mut samples: BTreeMap<String, BTreeMap<u64, (Usage, Option<u64>)>> = BTreeMap::new();
    for usage in usage {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "Unix seconds are positive"
        )]
        let window = window_of(usage.at as u64);
        let memory = usage.memory_bytes;
        let windows = samples.entry(usage.process.clone()).or_default();
        windows.entry(window).or_insert((usage, None)).1 = memory;
    }
    let mut sums: BTreeMap<(String, u64), (Option<f64>, Option<f64>)> = BTreeMap::new();
    for windows in samples.into_values() {
        for ((window, (first, memory)), (_, (next, _))) in windows.iter().zip(windows.iter().skip(1)) {
            let (cpu, held) = sums.entry((first.service.clone(), *window)).or_default();
            if let (Some(before), Some(after)) = (first.cpu_seconds, next.cpu_seconds) {
                *cpu = Some(cpu.unwrap_or(0.0) + (after - before) / (next.at - first.at) * 1e3);
            }
            if let Some(bytes) = memory {
                #[expect(clippy::cast_precision_loss, reason = "a machine's memory fits a double")]
                let bytes = *bytes as f64;
                *held = Some(held.unwrap_or(0.0) + bytes);
            }
        }
    }
    for ((service, window), (cpu, held)) in sums {
        for (metric, value) in [("cpu_millicores", cpu), ("mem_bytes", held)] {
            if let Some(value) = value {
                nodes.row(window, &service, metric, value)?;
            }
        }
    }
    Ok(())
}

/// A compressed CSV file.
struct Rows {
    file: GzEncoder<BufWriter<File>>,
}

impl Rows {
    fn create(path: &Path, header: &str) -> std::io::Result<Self> {
        let mut file = GzEncoder::new(BufWriter::new(File::create(path)?), Compression::default());
        writeln!(file, "{header}")?;
        Ok(Self { file })
    }

    fn row(&mut self, window: u64, of: &str, metric: &str, value: f64) -> std::io::Result<()> {
        writeln!(self.file, "{window},{of},{metric},{value:.4}")
    }

    /// Metrics in this order: calls a second, share of failures, median, 95th percentile, mean.
    #[expect(clippy::cast_precision_loss, reason = "calls of five seconds fit a double")]
    fn windows(&mut self, of: &str, windows: Windows, metrics: [&str; 5]) -> std::io::Result<()> {
        for (at, mut window) in windows {
            window.seconds.sort_by(f64::total_cmp);
            let count = window.seconds.len() as f64;
            let values = [
                count / STEP_SECONDS as f64,
                window.failed as f64 / count,
                percentile(&window.seconds, 0.5) * 1e3,
                percentile(&window.seconds, 0.95) * 1e3,
                window.seconds.iter().sum::<f64>() / count * 1e3,
            ];
            for (metric, value) in metrics.into_iter().zip(values) {
                self.row(at, of, metric, value)?;
            }
        }
        Ok(())
    }

    fn finish(self) -> std::io::Result<()> {
        self.file.finish()?.flush()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use std::io::Read;

    use super::*;

    fn unzip(path: &Path) -> String {
        let mut text = String::new();
        flate2::read::GzDecoder::new(File::open(path).unwrap()).read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn windows_by_hand() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path();
        std::fs::create_dir(out.join("truth")).unwrap();
        std::fs::create_dir(out.join("sent")).unwrap();
        let served = |t_ms: u64, status: &str, seconds: f64| {
            format!(
                r#"{{"t_ms":{t_ms},"method":"/m","status":"{status}","ended":true,"request_bytes":1,"response_bytes":1,"seconds":{seconds}}}"#
            ) + "\n"
        };
        let truth = served(10_000, "OK", 0.1) + &served(14_999, "INTERNAL", 0.3) + &served(99_000, "OK", 9.0);
        std::fs::write(out.join("truth/a.jsonl"), truth).unwrap();
        let usage = r#"{"at":10.0,"service":"a","process":"a","cpu_seconds":1.0,"memory_bytes":7}
{"at":15.0,"service":"a","process":"a","cpu_seconds":2.0,"memory_bytes":8}"#;
        std::fs::write(out.join("usage.jsonl"), usage).unwrap();
        write(out, ("small", "a"), &["a".into()], &[("a".into(), "a".into())].into(), (10.0, 20.0)).unwrap();
        assert_eq!(
            unzip(&out.join("episodes/run/nodes.csv.gz")),
            "timestamp,service,metric,value\n10,a,rps,0.4000\n10,a,error_ratio,0.5000\n10,a,lat_p50_ms,100.0000\n\
             10,a,lat_p95_ms,300.0000\n10,a,lat_mean_ms,200.0000\n10,a,cpu_millicores,200.0000\n10,a,mem_bytes,7.0000\n"
        );
        assert_eq!(unzip(&out.join("episodes/run/edges.csv.gz")), "timestamp,caller,callee,metric,value\n");
    }
}
