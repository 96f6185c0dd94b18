//! Reads and writes of one table of one PostgreSQL server over a few connections that are kept. Who fills the
//! table: `run::postgres`.

use std::sync::{Mutex, PoisonError};

use tokio::sync::Semaphore;
use tokio_postgres::{Client, NoTls, Statement};

use crate::brief::DataOperation;

/// Connections at most; each is a process of the server.
const CONNECTIONS: usize = 16;

const READ: &str = "SELECT value FROM items WHERE key = $1";
const WRITE: &str = "INSERT INTO items (key, value) VALUES ($1, $2) \
                     ON CONFLICT (key) DO UPDATE SET value = excluded.value";

/// A server and the connections that nobody uses now.
pub(super) struct Postgres {
    settings: String,
    idle: Mutex<Vec<Session>>,
    free: Semaphore,
}

/// A connection with its two statements.
struct Session {
    client: Client,
    read: Statement,
    write: Statement,
}

impl Postgres {
    /// Connects when it is used.
    pub(super) fn new(address: &str) -> Self {
        let (host, port) = address.rsplit_once(':').unwrap_or((address, "5432"));
        Self {
            settings: format!("host={host} port={port} user=playground dbname=playground connect_timeout=2"),
            idle: Mutex::default(),
            free: Semaphore::new(CONNECTIONS),
        }
    }

    /// One operation; its connection is kept only when it went well.
    pub(super) async fn run(&self, operation: DataOperation, key: &str, bytes: u32) -> Result<(), String> {
        let _permit = self.free.acquire().await.map_err(|error| error.to_string())?;
        let session = match self.take() {
            Some(session) => session,
            None => Session::open(&self.settings).await?,
        };
        let done = match operation {
            DataOperation::Get => session.client.query_opt(&session.read, &[&key]).await.map(|_| ()),
            DataOperation::Set => {
                let value = vec![b'v'; bytes as usize];
                session.client.execute(&session.write, &[&key, &value]).await.map(|_| ())
            }
        };
        done.map_err(|error| error.to_string())?;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(session);
        Ok(())
    }

    fn take(&self) -> Option<Session> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|session| !session.client.is_closed());
        idle.pop()
    }
}

impl Session {
    async fn open(settings: &str) -> Result<Self, String> {
        let failed = |error: tokio_postgres::Error| error.to_string();
        let (client, connection) = tokio_postgres::connect(settings, NoTls).await.map_err(failed)?;
        // The connection's task ends with the client; what broke it is told to the next operation.
        tokio::spawn(connection);
        let read = client.prepare(READ).await.map_err(failed)?;
        let write = client.prepare(WRITE).await.map_err(failed)?;
        Ok(Self { client, read, write })
    }
}
