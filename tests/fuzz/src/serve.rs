//! What comes from strangers who reach the agent's port.

use axum::serve::Listener;
use faultline::outputs::http::router;
use faultline::outputs::{Published, Snapshot};
use std::cell::RefCell;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Bytes on their way in one direction.
const PIPE: usize = 1 << 16;

/// Longest answer to one input; the map alone is some ten kilobytes, and an input may ask for it many times.
const LONGEST_ANSWER: u64 = 16 << 20;

/// What the server may say: it answers, refuses what is malformed or too large, and never breaks.
const STATUSES: [&[u8]; 9] = [b"200", b"400", b"404", b"405", b"411", b"413", b"414", b"431", b"501"];

/// Connections come from the input instead of a socket.
struct Inputs(UnboundedReceiver<DuplexStream>);

impl Listener for Inputs {
    type Io = DuplexStream;
    type Addr = ();

    async fn accept(&mut self) -> (DuplexStream, ()) {
        match self.0.recv().await {
            Some(stream) => (stream, ()),
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The agent's routes, served.
struct Server {
    runtime: Runtime,
    connect: UnboundedSender<DuplexStream>,
}

impl Server {
    fn start() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (connect, inputs) = unbounded_channel();
        let published = Arc::new(Published::default());
        let report = include_str!("../../../agent/tests/sample-report.json");
        let report = serde_json::from_str(report).expect("the sample report");
        published.publish(Snapshot { report, ..Snapshot::default() });
        runtime.spawn(async move { axum::serve(Inputs(inputs), router(published)).await });
        Self { runtime, connect }
    }

    /// Sends bytes on a connection of their own; gives all that comes back.
    fn ask(&self, bytes: &[u8]) -> Vec<u8> {
        self.runtime.block_on(async {
            let (near, far) = duplex(PIPE);
            assert!(self.connect.send(far).is_ok(), "the server is gone");
            let (reader, mut writer) = tokio::io::split(near);
            let mut answer = Vec::new();
            let ask = async {
                // A server may close before it read all.
                let _sent = writer.write_all(bytes).await;
                let _closed = writer.shutdown().await;
            };
            let mut limited = reader.take(LONGEST_ANSWER);
            let (_read, ()) = tokio::join!(limited.read_to_end(&mut answer), ask);
            answer
        })
    }
}

thread_local! {
    static SERVER: RefCell<Option<Server>> = const { RefCell::new(None) };
}

/// Any bytes on a connection to the agent: each answer is one that it means to give.
pub fn http(input: &[u8]) {
    SERVER.with_borrow_mut(|server| {
        let answer = server.get_or_insert_with(Server::start).ask(input);
        // Where some other part of the build wants HTTP/2, the server speaks it to whoever begins with its preface.
        if answer.is_empty() || input.starts_with(b"PRI * HTTP/2.0") {
            return;
        }
        let status = answer
            .strip_prefix(b"HTTP/1.1 ")
            .or_else(|| answer.strip_prefix(b"HTTP/1.0 "))
            .and_then(|rest| rest.get(..3));
        let known = status.is_some_and(|status| STATUSES.contains(&status));
        assert!(known, "{}", String::from_utf8_lossy(answer.get(..200).unwrap_or(&answer)));
    });
}
