//! GET and SET on one Redis server over one pipelined connection: commands go out as they come, answers
//! come back in the same order. A client library would bring pools and reconnect rules that blur what
//! a slow Redis does to its callers.

use std::collections::VecDeque;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};

use crate::brief::DataOperation;

/// Commands that may wait for the connection; a stopped Redis fails calls beyond this.
const QUEUE: usize = 1_024;
/// The longest answer that is read.
const LONGEST_VALUE: usize = 16 << 20;

type Answer = Result<(), String>;

struct Command {
    wire: Vec<u8>,
    answer: oneshot::Sender<Answer>,
}

/// A handle to one instance; the connection lives in a task of its own.
#[derive(Clone)]
pub(super) struct Redis {
    commands: mpsc::Sender<Command>,
}

impl Redis {
    /// Starts the connection's task; it connects at the first command and again when the connection breaks.
    pub(super) fn connect(address: String) -> Self {
        let (commands, queue) = mpsc::channel(QUEUE);
        tokio::spawn(async move { hold(&address, queue).await });
        Self { commands }
    }

    /// Runs one command and waits for its answer.
    pub(super) async fn run(&self, operation: DataOperation, key: &str, bytes: u32) -> Answer {
        let wire = match operation {
            DataOperation::Get => encode(&[b"GET", key.as_bytes()]),
            DataOperation::Set => encode(&[b"SET", key.as_bytes(), &vec![b'v'; bytes as usize]]),
        };
        let (answer, answered) = oneshot::channel();
        self.commands
            .try_send(Command { wire, answer })
            .map_err(|_| "redis: too many commands wait".to_owned())?;
        answered.await.map_err(|_| "redis: the connection broke".to_owned())?
    }
}

/// Connects again whenever a connection ends, until the service ends.
async fn hold(address: &str, mut queue: mpsc::Receiver<Command>) {
    while let Some(first) = queue.recv().await {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                // Its waiting commands fail as their senders are dropped.
                drop(converse(stream, first, &mut queue).await);
            }
            Err(error) => {
                drop(first.answer.send(Err(format!("redis: cannot connect to {address}: {error}"))))
            }
        }
    }
}

async fn converse(
    stream: TcpStream,
    first: Command,
    queue: &mut mpsc::Receiver<Command>,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (reader, mut writer) = stream.into_split();
    let mut waiting = VecDeque::from([first.answer]);
    writer.write_all(&first.wire).await?;
    // Reading is not safe to cancel in the middle of an answer, so it has its own task.
    let (read, mut answers) = mpsc::channel(QUEUE);
    let reading = tokio::spawn(async move {
        let mut reader = BufReader::new(reader);
        while let Ok(answer) = read_answer(&mut reader).await {
            if read.send(answer).await.is_err() {
                break;
            }
        }
    });
    let ended = loop {
        tokio::select! {
            command = queue.recv() => match command {
                Some(command) => {
                    waiting.push_back(command.answer);
                    if let Err(error) = writer.write_all(&command.wire).await {
                        break Err(error);
                    }
                }
                None => break Ok(()),
            },
            answer = answers.recv() => match (answer, waiting.pop_front()) {
                (Some(answer), Some(waiter)) => drop(waiter.send(answer)),
                _ => break Ok(()),
            },
        }
    };
    reading.abort();
    ended
}

/// RESP: an array of bulk strings.
fn encode(words: &[&[u8]]) -> Vec<u8> {
    let mut wire = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        wire.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        wire.extend_from_slice(word);
        wire.extend_from_slice(b"\r\n");
    }
    wire
}

/// RESP: a simple string, an error or a bulk string.
async fn read_answer<R: tokio::io::AsyncRead + Unpin>(reader: &mut BufReader<R>) -> std::io::Result<Answer> {
    let mut line = String::new();
    if reader.read_line(&mut line).await? == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    let rest = line.get(1..).unwrap_or_default().trim_end();
    match line.as_bytes().first() {
        Some(b'+' | b':') => Ok(Ok(())),
        Some(b'-') => Ok(Err(format!("redis: {rest}"))),
        Some(b'$') => {
            let length: i64 =
                rest.parse().map_err(|_| std::io::Error::from(std::io::ErrorKind::InvalidData))?;
            if let Ok(length) = usize::try_from(length) {
                let mut value = vec![0; length.min(LONGEST_VALUE) + 2];
                reader.read_exact(&mut value).await?;
            }
            Ok(Ok(()))
        }
        _ => Err(std::io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[tokio::test]
    async fn answers_are_told_apart() {
        let mut reader = BufReader::new(&b"+OK\r\n$3\r\nabc\r\n$-1\r\n-ERR no\r\n?"[..]);
        assert_eq!(read_answer(&mut reader).await.unwrap(), Ok(()));
        assert_eq!(read_answer(&mut reader).await.unwrap(), Ok(()));
        assert_eq!(read_answer(&mut reader).await.unwrap(), Ok(()));
        assert_eq!(read_answer(&mut reader).await.unwrap(), Err("redis: ERR no".into()));
        assert!(read_answer(&mut reader).await.is_err());
    }

    #[test]
    fn commands_are_arrays_of_bulk_strings() {
        assert_eq!(encode(&[b"GET", b"k1"]), b"*2\r\n$3\r\nGET\r\n$2\r\nk1\r\n");
    }
}
