//! A listener that lets in a bounded number of connections, each for as long as it asks for something; those
//! beyond wait in the kernel's backlog.

use axum::serve::Listener;
use std::future::Future;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};

/// A few Prometheus, a few terminals and maps; each connection costs buffers, and the agent is a guest.
const MOST_CONNECTIONS: usize = 64;

/// Longer than the usual scrape intervals; a connection that says nothing for so long gives up its place.
const LONGEST_SILENCE: Duration = Duration::from_secs(120);

/// Accepts connections while there is room.
#[derive(Debug)]
pub(super) struct Guests {
    listener: TcpListener,
    room: Arc<Semaphore>,
}

/// A connection that gives its place back when it is closed.
#[derive(Debug)]
pub(super) struct Guest {
    stream: TcpStream,
    silence: Pin<Box<Sleep>>,
    _place: Option<OwnedSemaphorePermit>,
}

impl Guests {
    pub(super) fn of(listener: TcpListener) -> Self {
        Self { listener, room: Arc::new(Semaphore::new(MOST_CONNECTIONS)) }
    }
}

impl Listener for Guests {
    type Io = Guest;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Guest, SocketAddr) {
        // Never closed, so there is always a place to wait for.
        let place = Arc::clone(&self.room).acquire_owned().await.ok();
        let (stream, address) = Listener::accept(&mut self.listener).await;
        (Guest { stream, silence: Box::pin(sleep(LONGEST_SILENCE)), _place: place }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl AsyncRead for Guest {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_read(context, buffer) {
            Poll::Ready(read) => {
                self.silence.as_mut().reset(Instant::now() + LONGEST_SILENCE);
                Poll::Ready(read)
            }
            Poll::Pending => self.silence.as_mut().poll(context).map(|()| Err(ErrorKind::TimedOut.into())),
        }
    }
}

impl AsyncWrite for Guest {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn one_too_many_waits_until_somebody_leaves() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut guests = Guests::of(listener);
        let mut inside = Vec::new();
        for _ in 0..MOST_CONNECTIONS {
            let outside = TcpStream::connect(address).await.unwrap();
            inside.push((guests.accept().await.0, outside));
        }
        let _late = TcpStream::connect(address).await.unwrap();
        let soon = Duration::from_millis(50);
        assert!(tokio::time::timeout(soon, guests.accept()).await.is_err());
        inside.pop();
        assert!(tokio::time::timeout(soon, guests.accept()).await.is_ok());
    }

    #[tokio::test]
    async fn a_silent_connection_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _silent = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut guest, _) = Guests::of(listener).accept().await;
        guest.silence.as_mut().reset(Instant::now());
        assert_eq!(guest.read_u8().await.unwrap_err().kind(), ErrorKind::TimedOut);
    }
}
