//! Reads and writes of one table of one PostgreSQL server over a few connections that are kept. Who fills the
//! table: `run::postgres`.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::Semaphore;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, NoTls};

use crate::brief::DataOperation;
use crate::truth::{Lines, Sent, unix_ms};

/// Connections at most; each is a process of the server.
const CONNECTIONS: usize = 16;

const READ: &str = "SELECT value FROM items WHERE key = $1";
const WRITE: &str = "INSERT INTO items (key, value) VALUES ($1, $2) \
                     ON CONFLICT (key) DO UPDATE SET value = excluded.value";

/// A server and the connections that nobody uses now.
pub(super) struct Postgres {
    name: String,
    settings: String,
    idle: Mutex<Vec<Client>>,
    free: Semaphore,
    sent: Lines,
}

impl Postgres {
    /// Connects when it is used; `sent` gets a line for each connection.
    pub(super) fn new(name: &str, address: &str, sent: Lines) -> Self {
        let (host, port) = address.rsplit_once(':').unwrap_or((address, "5432"));
        Self {
            name: name.into(),
            settings: format!("host={host} port={port} user=playground dbname=playground connect_timeout=2"),
            idle: Mutex::default(),
            free: Semaphore::new(CONNECTIONS),
            sent,
        }
    }

    /// One operation; its connection is kept only when it went well.
    pub(super) async fn run(&self, operation: DataOperation, key: &str, bytes: u32) -> Result<(), String> {
        let _permit = self.free.acquire().await.map_err(|error| error.to_string())?;
        let client = match self.take() {
            Some(client) => client,
            None => self.connect().await?,
        };
        // With their types told, statements need no preparation: one question on the wire, one answer.
        let done = match operation {
            DataOperation::Get => client.query_typed(READ, &[(&key, Type::TEXT)]).await.map(drop),
            DataOperation::Set => {
                let value = vec![b'v'; bytes as usize];
                client.execute_typed(WRITE, &[(&key, Type::TEXT), (&value, Type::BYTEA)]).await.map(drop)
            }
        };
        done.map_err(|error| error.to_string())?;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(client);
        Ok(())
    }

    fn take(&self) -> Option<Client> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|client| !client.is_closed());
        idle.pop()
    }

    async fn connect(&self) -> Result<Client, String> {
        let (t_ms, started) = (unix_ms(), Instant::now());
        let connected = tokio_postgres::connect(&self.settings, NoTls).await;
        let (client, connection) = connected.map_err(|error| error.to_string())?;
        // The connection's task ends with the client; what broke it is told to the next operation.
        tokio::spawn(connection);
        self.sent.write(&Sent {
            t_ms,
            callee: self.name.clone(),
            method: "CONNECT".into(),
            status: "OK".into(),
            request_messages: 1,
            response_messages: 1,
            seconds: started.elapsed().as_secs_f64(),
            ..Sent::default()
        });
        Ok(client)
    }
}
