//! GET and SET on one Redis server over a few connections that are kept, one command at a time on each, as the pools
//! of most client libraries do. Such a library would bring rules for reconnecting that blur what a slow Redis does
//! to its callers.

use std::sync::{Mutex, PoisonError};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::brief::DataOperation;

/// Connections at most; commands wait for one.
const CONNECTIONS: usize = 16;
/// The longest answer that is read.
const LONGEST_VALUE: usize = 16 << 20;

/// A server and the connections that nobody uses now.
pub(super) struct Redis {
    address: String,
    idle: Mutex<Vec<BufReader<TcpStream>>>,
    free: Semaphore,
}

impl Redis {
    /// Connects when it is used.
    pub(super) fn new(address: &str) -> Self {
        Self { address: address.into(), idle: Mutex::default(), free: Semaphore::new(CONNECTIONS) }
    }

    /// Runs one command and waits for its answer; its connection is kept only when that came.
    pub(super) async fn run(&self, operation: DataOperation, key: &str, bytes: u32) -> Result<(), String> {
        let _permit = self.free.acquire().await.map_err(|error| error.to_string())?;
        let mut connection = match self.take() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let command = match operation {
            DataOperation::Get => encode(&[b"GET", key.as_bytes()]),
            DataOperation::Set => encode(&[b"SET", key.as_bytes(), &vec![b'v'; bytes as usize]]),
        };
        let answer = ask(&mut connection, &command).await;
        let answer = answer.map_err(|error| format!("redis: the connection broke: {error}"))?;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        answer
    }

    fn take(&self) -> Option<BufReader<TcpStream>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(is_open);
        idle.pop()
    }

    async fn connect(&self) -> Result<BufReader<TcpStream>, String> {
        let connect = async {
            let stream = TcpStream::connect(&self.address).await?;
            stream.set_nodelay(true)?;
            std::io::Result::Ok(BufReader::new(stream))
        };
        connect.await.map_err(|error| format!("redis: cannot connect to {}: {error}", self.address))
    }
}

/// Nothing comes on a connection that nobody asked, but its end.
fn is_open(connection: &BufReader<TcpStream>) -> bool {
    let come = connection.get_ref().try_read(&mut [0]);
    come.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}

async fn ask(connection: &mut BufReader<TcpStream>, command: &[u8]) -> std::io::Result<Result<(), String>> {
    connection.get_mut().write_all(command).await?;
    read_answer(connection).await
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
async fn read_answer<R: tokio::io::AsyncRead + Unpin>(
    reader: &mut BufReader<R>,
) -> std::io::Result<Result<(), String>> {
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

    #[tokio::test]
    async fn one_command_at_a_time_on_each_connection_and_a_closed_one_is_left_alone() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let redis = Redis::new(&listener.local_addr().unwrap().to_string());
        let get = || redis.run(DataOperation::Get, "k", 0);
        let server = async {
            let question = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n";
            let mut streams = Vec::new();
            for _ in 0..2 {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut asked = vec![0; question.len()];
                stream.read_exact(&mut asked).await.unwrap();
                assert_eq!(asked, question);
                streams.push(stream);
            }
            // Neither was answered when the other one asked.
            for stream in &mut streams {
                stream.write_all(b"$-1\r\n").await.unwrap();
            }
        };
        let (one, other, ()) = tokio::join!(get(), get(), server);
        assert_eq!((one, other), (Ok(()), Ok(())));
        assert_eq!(redis.idle.lock().unwrap().len(), 2);
        // The server's ends are dropped by now; both connections are seen to be closed.
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        assert!(redis.take().is_none());
    }
}
