//! A TCP stream that keeps a copy of what passes: the truth that captured bytes are compared with.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// What one end of a connection sent and received.
#[derive(Clone)]
pub struct Copy {
    /// This end's address.
    pub local: SocketAddr,
    /// The remote's address.
    pub remote: SocketAddr,
    /// Everything it wrote.
    pub sent: Arc<Mutex<Vec<u8>>>,
    /// Everything it read.
    pub received: Arc<Mutex<Vec<u8>>>,
}

/// The stream.
pub struct Tap {
    stream: TcpStream,
    copy: Copy,
}

impl Tap {
    /// Wraps a connected stream.
    ///
    /// # Panics
    /// When it is not connected.
    #[must_use]
    pub fn new(stream: TcpStream) -> (Self, Copy) {
        let copy = Copy {
            local: stream.local_addr().unwrap(),
            remote: stream.peer_addr().unwrap(),
            sent: Arc::default(),
            received: Arc::default(),
        };
        (Self { stream, copy: copy.clone() }, copy)
    }
}

impl AsyncRead for Tap {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let read = buffer.filled().get(before..).unwrap_or_default();
        self.copy.received.lock().unwrap().extend_from_slice(read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tap {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, bytes))?;
        self.copy.sent.lock().unwrap().extend_from_slice(bytes.get(..written).unwrap_or_default());
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
