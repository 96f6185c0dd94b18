//! A service under test as a process: a spec goes in, calls are made to it, its lines of truth are read back.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::uri::PathAndQuery;
use serde::Deserialize;
use serde_json::{Value, json};
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};

use crate::Bench;
use crate::bytes_as_they_are::message;
use playground::service::codec::Raw;

/// Longest that may take what takes moments at rest, a JVM's start seconds: a starved machine gives it little time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A line of `truth`; a field that is missing or unknown fails the test.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Served {
    pub(crate) t_ms: u64,
    pub(crate) method: String,
    pub(crate) status: String,
    pub(crate) ended: bool,
    pub(crate) request_bytes: usize,
    pub(crate) response_bytes: usize,
    pub(crate) request_messages: usize,
    pub(crate) response_messages: usize,
    pub(crate) seconds: f64,
    pub(crate) replica: u32,
}

/// A line of `sent`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Sent {
    pub(crate) t_ms: u64,
    pub(crate) callee: String,
    pub(crate) method: String,
    pub(crate) status: String,
    pub(crate) request_bytes: usize,
    pub(crate) response_bytes: usize,
    pub(crate) request_messages: usize,
    pub(crate) response_messages: usize,
    pub(crate) seconds: f64,
    pub(crate) attempt: i32,
}

/// What a caller got.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: Code,
    pub(crate) message: String,
    /// The lengths of the messages.
    pub(crate) lengths: Vec<usize>,
    pub(crate) took: Duration,
}

/// A running service; it is killed when it is dropped.
pub(crate) struct Program {
    child: Child,
    input: Option<ChildStdin>,
    folder: tempfile::TempDir,
    caller: Caller,
    address: String,
}

/// Calls a service, over one connection.
#[derive(Clone)]
pub(crate) struct Caller(Channel);

/// An address that nobody listens on now.
pub(crate) fn free_address() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

impl Program {
    /// Starts a service with these methods and, in `rest`, other fields of the spec; waits until it is ready.
    pub(crate) async fn start(bench: &Bench, methods: Value, rest: Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = free_address();
        let mut spec = json!({
            "service": "tested", "replica": 3, "listen": address, "seed": 7, "methods": methods,
            "truth": folder.path().join("truth.jsonl"), "sent": folder.path().join("sent.jsonl"),
            "a field of the future": {},
        });
        spec.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        let file = folder.path().join("spec.json");
        std::fs::write(&file, spec.to_string()).unwrap();
        let mut child = Command::new(&bench.words[0])
            .args(&bench.words[1..])
            .arg("--spec")
            .arg(&file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = child.stdout.take().unwrap();
        let input = child.stdin.take();
        let caller = Caller(Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy());
        let program = Self { child, input, folder, caller, address };
        let (said, ready) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            let mut output = BufReader::new(output);
            let mut line = String::new();
            output.read_line(&mut line).unwrap();
            said.send(line).unwrap();
        });
        assert_eq!(tokio::time::timeout(PATIENCE, ready).await.expect("ready in time").unwrap(), "ready\n");
        program
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Gives it a behaviour, and the moment that it needs to read it.
    pub(crate) async fn behave(&mut self, behaviour: Value) {
        writeln!(self.input.as_mut().unwrap(), "{behaviour}").unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
    }

    /// Who calls it.
    pub(crate) fn caller(&self) -> &Caller {
        &self.caller
    }

    /// One unary call with a message of 20 bytes.
    pub(crate) async fn call(&self, path: &str) -> Answer {
        self.caller.stream(path, &[20]).await
    }

    /// The served calls, once there are `count`.
    pub(crate) async fn served(&self, count: usize) -> Vec<Served> {
        self.lines("truth.jsonl", |_| true, count).await
    }

    /// The calls made, once there are `count`.
    pub(crate) async fn sent(&self, count: usize) -> Vec<Sent> {
        self.lines("sent.jsonl", |line| !connects(line), count).await
    }

    /// The lines of connections that took a question and an answer to be made, so far.
    pub(crate) fn connected(&self) -> Vec<Sent> {
        let text = std::fs::read_to_string(self.file("sent.jsonl")).unwrap_or_default();
        text.lines().filter(|line| connects(line)).map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    async fn lines<T: for<'a> Deserialize<'a>>(
        &self,
        name: &str,
        wanted: fn(&str) -> bool,
        count: usize,
    ) -> Vec<T> {
        let until = Instant::now() + PATIENCE;
        loop {
            let text = std::fs::read_to_string(self.file(name)).unwrap_or_default();
            let wanted = || text.lines().filter(|line| wanted(line));
            let complete = text.ends_with('\n') && wanted().count() >= count;
            if complete || Instant::now() > until {
                let read = |line: &str| {
                    serde_json::from_str(line).unwrap_or_else(|error| panic!("{name}: {error}: {line}"))
                };
                let lines: Vec<T> = wanted().map(read).collect();
                assert_eq!(lines.len(), count, "lines in {name}: {text}");
                return lines;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A file of the service.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Processor time so far of all its threads.
    pub(crate) fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        // After the name in brackets: utime and stime are fields 14 and 15 of all, in ticks of 10 ms.
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 10)
    }

    /// Memory that it holds now, bytes.
    pub(crate) fn resident(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse::<usize>().unwrap() * 1024
    }

    /// Sockets that it holds now.
    pub(crate) fn sockets(&self) -> usize {
        let files = std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap();
        files
            .filter(|file| {
                let target = std::fs::read_link(file.as_ref().unwrap().path());
                target.is_ok_and(|target| target.to_string_lossy().starts_with("socket:"))
            })
            .count()
    }

    /// Closes its standard input.
    pub(crate) fn end_input(&mut self) {
        self.input = None;
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.pid()).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// How it ended, and after how long.
    pub(crate) async fn ended(&mut self) -> (ExitStatus, Duration) {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (status, started.elapsed());
            }
            assert!(started.elapsed() < PATIENCE, "it does not end");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Caller {
    /// A call of any kind that sends messages of these lengths.
    pub(crate) async fn stream(&self, path: &str, lengths: &[usize]) -> Answer {
        let messages: Vec<Bytes> = lengths.iter().map(|&length| message(length)).collect();
        self.open(path, tokio_stream::iter(messages)).await
    }

    /// A call whose messages come as they are made.
    pub(crate) async fn open<S>(&self, path: &str, messages: S) -> Answer
    where
        S: tokio_stream::Stream<Item = Bytes> + Send + 'static,
    {
        let started = Instant::now();
        let request = Request::new(messages);
        let mut grpc = Grpc::new(self.0.clone());
        let mut lengths = Vec::new();
        let ended = async {
            grpc.ready().await.map_err(|error| tonic::Status::unavailable(error.to_string()))?;
            let answer = grpc.streaming(request, path.parse::<PathAndQuery>().unwrap(), Raw).await?;
            let mut answer = answer.into_inner();
            while let Some(message) = answer.message().await? {
                lengths.push(message.len());
            }
            Ok::<(), tonic::Status>(())
        };
        let (code, message) = match ended.await {
            Ok(()) => (Code::Ok, String::new()),
            Err(status) => (status.code(), status.message().to_owned()),
        };
        Answer { code, message, lengths, took: started.elapsed() }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A line of a connection, not of a call or an operation.
fn connects(line: &str) -> bool {
    line.contains(r#""CONNECT""#)
}
