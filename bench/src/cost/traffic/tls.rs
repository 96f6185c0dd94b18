//! TLS by the system's OpenSSL, on both ends. The library reads and writes through memory that tokio-openssl gives
//! it, so that it never sees the socket: the harder case for who watches it.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::stream::{Stream, StreamExt};
use http::Uri;
use hyper_util::rt::TokioIo;
use openssl::asn1::Asn1Time;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::ssl::{AlpnError, Ssl, SslAcceptor, SslConnector, SslMethod, SslVerifyMode, select_next_proto};
use openssl::x509::{X509, X509NameBuilder};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_openssl::SslStream;
use tonic::transport::server::{Connected, TcpIncoming};
use tower_service::Service;

/// HTTP/2, as ALPN has it.
const H2: &[u8] = b"\x02h2";
/// Days that a certificate is good for: a benchmark takes minutes.
const DAYS: u32 = 2;

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The server's end of a connection.
pub(super) struct Session(SslStream<TcpStream>);

/// Shakes hands with who comes in, under a certificate of its own.
pub(super) fn sessions(
    incoming: TcpIncoming,
) -> anyhow::Result<impl Stream<Item = anyhow::Result<Session>> + Send> {
    let (key, certificate) = certificate()?;
    let mut acceptor = SslAcceptor::mozilla_modern_v5(SslMethod::tls_server())?;
    acceptor.set_private_key(&key)?;
    acceptor.set_certificate(&certificate)?;
    acceptor.set_alpn_select_callback(|_, offered| select_next_proto(H2, offered).ok_or(AlpnError::NOACK));
    let acceptor = acceptor.build();
    Ok(incoming.then(move |socket| {
        let session = Ssl::new(acceptor.context());
        async move {
            let mut session = SslStream::new(session?, socket?)?;
            Pin::new(&mut session).accept().await?;
            Ok(Session(session))
        }
    }))
}

/// A new key with a certificate that it signed.
fn certificate() -> anyhow::Result<(PKey<Private>, X509)> {
    let curve = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    let key = PKey::from_ec_key(EcKey::generate(&curve)?)?;
    let mut name = X509NameBuilder::new()?;
    name.append_entry_by_nid(Nid::COMMONNAME, "echo")?;
    let name = name.build();
    let mut certificate = X509::builder()?;
    certificate.set_version(2)?;
    certificate.set_subject_name(&name)?;
    certificate.set_issuer_name(&name)?;
    certificate.set_pubkey(&key)?;
    certificate.set_not_before(&*Asn1Time::days_from_now(0)?)?;
    certificate.set_not_after(&*Asn1Time::days_from_now(DAYS)?)?;
    certificate.sign(&key, MessageDigest::sha256())?;
    Ok((key, certificate.build()))
}

impl Connected for Session {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Session {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Session {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Opens the client's end.
pub(super) struct Connector {
    address: SocketAddr,
    tls: SslConnector,
}

impl Connector {
    pub(super) fn new(address: SocketAddr) -> anyhow::Result<Self> {
        let mut tls = SslConnector::builder(SslMethod::tls_client())?;
        // Both ends are the benchmark's own, and who checks a certificate does so once a connection.
        tls.set_verify(SslVerifyMode::NONE);
        tls.set_alpn_protos(H2)?;
        Ok(Self { address, tls: tls.build() })
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<SslStream<TcpStream>>;
    type Error = anyhow::Error;
    type Future = BoxFuture<anyhow::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<anyhow::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let (address, session) = (self.address, self.tls.configure().and_then(|tls| tls.into_ssl("echo")));
        Box::pin(async move {
            let socket = TcpStream::connect(address).await?;
            socket.set_nodelay(true)?;
            let mut session = SslStream::new(session?, socket)?;
            Pin::new(&mut session).connect().await?;
            Ok(TokioIo::new(session))
        })
    }
}
