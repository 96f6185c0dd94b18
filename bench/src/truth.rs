//! What really happened: one JSON line per served or sent call, written by every process of the
//! playground, and read back to count and to make a data set.
//!
//! A served call is counted from the moment its handler starts, so that a call whose caller gave up
//! is there too: its line says `"ended":false`. A call that was cancelled before the server's library
//! started the handler is not a served call; it is in the caller's file only.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Watchers of a run see a call at most this late.
pub const FLUSH_EVERY: Duration = Duration::from_millis(200);

/// A caller's clock for the deadline started so much earlier at most: a reset just before it is for the deadline.
const CLOCK_SKEW: Duration = Duration::from_millis(10);

/// One served call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Served {
    /// When the handler started, Unix milliseconds.
    pub t_ms: u64,
    /// The wire path.
    pub method: String,
    /// The gRPC status name that was answered; for a call that did not end, what the server knows
    /// (`CANCELLED`, `DEADLINE_EXCEEDED`), or none when it still ran as the run ended.
    pub status: Option<String>,
    /// Whether the handler ran to its end.
    pub ended: bool,
    /// Protobuf bytes of the request, without the five bytes of the gRPC prefix.
    pub request_bytes: u64,
    /// Protobuf bytes of the response; 0 when there was none.
    pub response_bytes: u64,
    /// Messages of the request.
    #[serde(default)]
    pub request_messages: u64,
    /// Messages of the response.
    #[serde(default)]
    pub response_messages: u64,
    /// From the handler's start to its end, seconds.
    pub seconds: f64,
    /// Which replica served it.
    #[serde(default)]
    pub replica: u32,
}

/// One call as its caller saw it; also a data operation, whose method is GET or SET and whose bytes are those
/// of the value it writes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sent {
    /// When it was sent, Unix milliseconds.
    pub t_ms: u64,
    /// The called service.
    pub callee: String,
    /// The wire path.
    pub method: String,
    /// The gRPC status name that the caller got.
    pub status: String,
    /// Protobuf bytes of the request.
    pub request_bytes: u64,
    /// Protobuf bytes of the response; 0 when there was none.
    pub response_bytes: u64,
    /// Messages of the request.
    #[serde(default)]
    pub request_messages: u64,
    /// Messages of the response.
    #[serde(default)]
    pub response_messages: u64,
    /// From sending to the answer, seconds.
    pub seconds: f64,
    /// 0 for a first attempt, 1 for the first retry, and so on; negative for a call that never left.
    #[serde(default)]
    pub attempt: i32,
}

impl Sent {
    /// Whether it was on the wire, as far as its caller knows.
    pub const fn left(&self) -> bool {
        self.attempt >= 0
    }
}

/// Unix time now, milliseconds.
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Unix time now, seconds.
pub fn unix_seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// A file of JSON lines that many tasks write; lines are whole, and flushed by `flush`.
#[derive(Clone)]
pub struct Lines {
    file: Arc<Mutex<BufWriter<File>>>,
}

impl Lines {
    /// Appends, so that a service that was started again keeps what it served before.
    pub fn append(path: &Path) -> std::io::Result<Self> {
        let file = File::options().create(true).append(true).open(path)?;
        Ok(Self { file: Arc::new(Mutex::new(BufWriter::new(file))) })
    }

    /// Adds one line. A full disk loses lines, not the service.
    pub fn write<T: Serialize>(&self, line: &T) {
        if let Ok(mut text) = serde_json::to_vec(line) {
            text.push(b'\n');
            drop(self.file.lock().unwrap_or_else(PoisonError::into_inner).write_all(&text));
        }
    }

    /// Makes what was written visible.
    pub fn flush(&self) {
        drop(self.file.lock().unwrap_or_else(PoisonError::into_inner).flush());
    }
}

/// A served call in progress. Dropped without `end`, it becomes a line with `"ended":false`: that is
/// how a server library tells a handler that its caller is gone.
pub struct ServedGuard {
    lines: Lines,
    line: Option<Served>,
    started: Instant,
    deadline: Option<Duration>,
}

impl ServedGuard {
    /// The handler starts now; `deadline` is what the caller allows.
    pub fn start(lines: &Lines, method: &str, replica: u32, deadline: Option<Duration>) -> Self {
        let line = Served {
            t_ms: unix_ms(),
            method: method.into(),
            status: None,
            ended: false,
            request_bytes: 0,
            response_bytes: 0,
            request_messages: 0,
            response_messages: 0,
            seconds: 0.0,
            replica,
        };
        Self { lines: lines.clone(), line: Some(line), started: Instant::now(), deadline }
    }

    /// A message of the request came.
    pub fn request(&mut self, bytes: usize) {
        if let Some(line) = &mut self.line {
            line.request_messages += 1;
            line.request_bytes += bytes as u64;
        }
    }

    /// A message of the response goes out.
    pub fn response(&mut self, bytes: usize) {
        if let Some(line) = &mut self.line {
            line.response_messages += 1;
            line.response_bytes += bytes as u64;
        }
    }

    /// The handler ran to its end.
    pub fn end(mut self, status: &str) {
        if let Some(mut line) = self.line.take() {
            line.status = Some(status.into());
            line.ended = true;
            line.seconds = self.started.elapsed().as_secs_f64();
            self.lines.write(&line);
        }
    }
}

impl Drop for ServedGuard {
    fn drop(&mut self) {
        if let Some(mut line) = self.line.take() {
            let elapsed = self.started.elapsed();
            let late = self.deadline.is_some_and(|deadline| elapsed + CLOCK_SKEW >= deadline);
            line.status = Some(if late { "DEADLINE_EXCEEDED" } else { "CANCELLED" }.into());
            line.seconds = elapsed.as_secs_f64();
            self.lines.write(&line);
        }
    }
}

/// Reads a file of JSON lines; a last line that a killed process cut short is skipped.
pub fn read_lines<T: for<'a> Deserialize<'a>>(path: &Path) -> std::io::Result<Vec<T>> {
    let mut found = Vec::new();
    each_line(path, |line| found.push(line))?;
    Ok(found)
}

/// The same one by one: the truth of an hour does not have to fit memory.
pub fn each_line<T: for<'a> Deserialize<'a>>(path: &Path, mut take: impl FnMut(T)) -> std::io::Result<()> {
    for line in BufReader::new(File::open(path)?).lines() {
        if let Ok(line) = serde_json::from_str(&line?) {
            take(line);
        }
    }
    Ok(())
}

/// Which service every process of a run belongs to; a backend is a service of its own here.
pub type Processes = BTreeMap<String, String>;

/// Calls per service: served ones from `truth/<process>.jsonl`.
pub fn count_served(out: &Path, processes: &Processes) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for (process, service) in processes {
        let file = out.join("truth").join(format!("{process}.jsonl"));
        // A backend writes no truth.
        drop(each_line(&file, |_: Served| *counts.entry(service.clone()).or_default() += 1));
    }
    counts
}

/// Calls of one caller to one callee, as the caller counts them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct EdgeCount {
    /// Who called: a service, or a client such as `loadgen`.
    pub caller: String,
    /// Who was called: a service, or a backend.
    pub callee: String,
    /// Calls that left, retries too; data operations of a backend.
    pub calls: u64,
    /// Those of them whose status was not OK.
    pub failed: u64,
    /// Calls that never left: no connection, or an open circuit.
    pub never_left: u64,
}

/// Calls per caller and callee: `sent/<process>.jsonl` of services, `truth/<client>.jsonl` of clients.
pub fn count_edges(out: &Path, processes: &Processes, clients: &[&str]) -> Vec<EdgeCount> {
    let mut edges: BTreeMap<(String, String), EdgeCount> = BTreeMap::new();
    let mut count = |caller: &str, file: &Path| {
        let add = |sent: Sent| {
            let edge = edges.entry((caller.into(), sent.callee.clone())).or_default();
            edge.caller = caller.into();
            edge.calls += u64::from(sent.left());
            edge.failed += u64::from(sent.left() && sent.status != "OK");
            edge.never_left += u64::from(!sent.left());
            edge.callee = sent.callee;
        };
        // A process that called nobody has no file.
        drop(each_line(file, add));
    };
    for (process, service) in processes {
        count(service, &out.join("sent").join(format!("{process}.jsonl")));
    }
    for client in clients {
        count(client, &out.join("truth").join(format!("{client}.jsonl")));
    }
    edges.into_values().collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]
    use super::*;

    #[test]
    fn calls_count_from_their_start_whatever_becomes_of_them() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("truth")).unwrap();
        let path = folder.path().join("truth/cart.jsonl");
        let lines = Lines::append(&path).unwrap();
        let mut whole = ServedGuard::start(&lines, "/a.A/B", 0, None);
        whole.request(10);
        whole.response(20);
        whole.end("OK");
        drop(ServedGuard::start(&lines, "/a.A/B", 0, None));
        drop(ServedGuard::start(&lines, "/a.A/B", 0, Some(Duration::ZERO)));
        lines.flush();
        let read: Vec<Served> = read_lines(&path).unwrap();
        let shown: Vec<(Option<&str>, bool, u64)> =
            read.iter().map(|line| (line.status.as_deref(), line.ended, line.response_bytes)).collect();
        assert_eq!(
            shown,
            [(Some("OK"), true, 20), (Some("CANCELLED"), false, 0), (Some("DEADLINE_EXCEEDED"), false, 0)]
        );
        let processes = [("cart".into(), "cart".into()), ("absent".into(), "absent".into())].into();
        assert_eq!(count_served(folder.path(), &processes)["cart"], 3);
    }

    #[test]
    fn an_edge_counts_all_replicas_and_what_left() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("sent")).unwrap();
        for (process, attempt) in [("a-0", 0), ("a-1", 1), ("a-1", -1)] {
            let lines = Lines::append(&folder.path().join(format!("sent/{process}.jsonl"))).unwrap();
            lines.write(&Sent { callee: "b".into(), status: "INTERNAL".into(), attempt, ..Sent::default() });
            lines.flush();
        }
        let processes = [("a-0".into(), "a".into()), ("a-1".into(), "a".into())].into();
        let edge = EdgeCount { caller: "a".into(), callee: "b".into(), calls: 2, failed: 2, never_left: 1 };
        assert_eq!(count_edges(folder.path(), &processes, &["nobody"]), [edge]);
    }

    #[test]
    fn a_line_cut_short_is_skipped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.jsonl");
        let whole = r#"{"t_ms":1,"callee":"a","method":"/m","status":"OK","request_bytes":1,"response_bytes":2,"seconds":0.5}"#;
        std::fs::write(&path, format!("{whole}\n{}", &whole[..30])).unwrap();
        assert_eq!(read_lines::<Sent>(&path).unwrap().len(), 1);
    }
}
