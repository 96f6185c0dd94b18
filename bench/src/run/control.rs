//! Commands from outside while the system runs: JSON lines on a FIFO, or on a Unix socket that is made
//! here and answers each line. A line is a fault or an event, `{"rate":N}`, or `{"stop":true}`.

use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use anyhow::Context;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};

use crate::faults::schedule::Wanted;

/// What was asked for, and where the answer goes.
pub(super) enum Order {
    Fault(Wanted, oneshot::Sender<Result<String, String>>),
    /// User requests a second.
    Rate(f64, oneshot::Sender<Result<String, String>>),
    Stop,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Stop { stop: bool },
    Rate { rate: f64 },
    Fault(Wanted),
}

/// Listens until the run ends.
pub(super) fn listen(path: &Path, orders: mpsc::Sender<Order>) -> anyhow::Result<()> {
    let kind = std::fs::metadata(path).map(|found| found.file_type());
    if kind.as_ref().is_ok_and(FileTypeExt::is_fifo) {
        // Open for writing too, so that the FIFO does not end when a writer leaves.
        let fifo = tokio::net::unix::pipe::OpenOptions::new().read_write(true).open_receiver(path);
        let fifo = fifo.with_context(|| format!("{} cannot be read", path.display()))?;
        tokio::spawn(async move { follow(fifo, &orders, tokio::io::stderr()).await });
        return Ok(());
    }
    if kind.is_ok_and(|kind| kind.is_socket()) {
        std::fs::remove_file(path)?;
    }
    let socket = UnixListener::bind(path).with_context(|| format!("{} cannot be made", path.display()))?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = socket.accept().await {
            let orders = orders.clone();
            tokio::spawn(async move {
                let (reader, writer) = stream.into_split();
                follow(reader, &orders, writer).await;
            });
        }
    });
    Ok(())
}

async fn follow<R, W>(reader: R, orders: &mpsc::Sender<Order>, mut writer: W)
where
    R: AsyncRead + Unpin,
    W: tokio::io::AsyncWrite + Unpin,
{
    let mut lines = BufReader::new(reader).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let answer = match serde_json::from_str::<Line>(&line) {
            Ok(Line::Stop { stop: true }) => {
                drop(orders.send(Order::Stop).await);
                Ok("stopping".into())
            }
            Ok(Line::Stop { stop: false }) => Ok("nothing to do".into()),
            Ok(Line::Rate { rate }) => {
                let (answer, answered) = oneshot::channel();
                drop(orders.send(Order::Rate(rate, answer)).await);
                answered.await.unwrap_or_else(|_| Err("the run has ended".into()))
            }
            Ok(Line::Fault(wanted)) => {
                let (answer, answered) = oneshot::channel();
                drop(orders.send(Order::Fault(wanted, answer)).await);
                answered.await.unwrap_or_else(|_| Err("the run has ended".into()))
            }
            Err(_) => Err(format!(
                "`{line}` is no fault such as {{\"kind\":\"latency\",\"service\":\"adservice\"}}"
            )),
        };
        let text = match answer {
            Ok(said) => serde_json::json!({ "ok": said }),
            Err(reason) => serde_json::json!({ "error": reason }),
        };
        if writer.write_all(format!("{text}\n").as_bytes()).await.is_err() {
            return;
        }
    }
}
