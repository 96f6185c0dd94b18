//! A server of data, whichever it is: one operation at a time comes in, done or a reason goes out.

use std::time::Duration;

use super::postgres::Postgres;
use super::redis::Redis;
use crate::brief::{Backend, BackendKind, DataOperation};
use crate::truth::Lines;

/// An operation may take this long.
const WITHIN: Duration = Duration::from_secs(2);

/// A connected backend.
pub(super) enum Data {
    Redis(Redis),
    Postgres(Postgres),
}

impl Data {
    /// It connects when it is used; `sent` hears of what that takes on the wire.
    pub(super) fn new(name: &str, backend: &Backend, sent: &Lines) -> Self {
        match backend.kind {
            BackendKind::Redis => Self::Redis(Redis::new(&backend.address)),
            BackendKind::Postgres => Self::Postgres(Postgres::new(name, &backend.address, sent.clone())),
        }
    }

    pub(super) async fn run(&self, operation: DataOperation, key: &str, bytes: u32) -> Result<(), String> {
        let running = async {
            match self {
                Self::Redis(redis) => redis.run(operation, key, bytes).await,
                Self::Postgres(postgres) => postgres.run(operation, key, bytes).await,
            }
        };
        let late = |_| Err(format!("no answer within {} s", WITHIN.as_secs()));
        tokio::time::timeout(WITHIN, running).await.unwrap_or_else(late)
    }
}
