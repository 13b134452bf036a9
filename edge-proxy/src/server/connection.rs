//! A client's connection as the HTTP server sees it: plain or TLS, with its place, its real address and the
//! watch over its headers. The first bytes of a request can be looked at before it is read.

use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::poll;
use once_cell::sync::Lazy;
use pingora::http::ResponseHeader;
use pingora::protocols::l4::socket::SocketAddr as PeerAddr;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::tls::SslDigest;
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream, TimingDigest,
    UniqueID,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_rustls::server::TlsStream;

use super::header_clock::{GivenUp, HeaderClock, HeaderWatch};
use super::places::Place;
use crate::http::problem::{Problem, Refusal};
use crate::metrics;

/// What the bytes travel through.
pub enum Transport {
    Plain(Stream),
    Tls(Box<TlsStream<Stream>>),
}

/// A connection that has passed the gate.
pub struct Connection {
    transport: Transport,
    watch: HeaderWatch,
    /// The first bytes of a request, until they are taken by the one who reads it.
    beginning: BytesMut,
    digest: Arc<ProxyDigest>,
    socket: Option<Arc<SocketDigest>>,
    tls: Option<Arc<SslDigest>>,
    _place: Place,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connection({})", self.id())
    }
}

impl Connection {
    /// `client` is the address that a PROXY protocol header named, if one did.
    ///
    /// # Errors
    /// None in practice: an empty response header can always be built.
    pub fn new(
        transport: Transport,
        clock: Arc<HeaderClock>,
        watch: HeaderWatch,
        client: Option<SocketAddr>,
        place: Place,
    ) -> pingora::Result<Self> {
        // The library hands this digest from the connection to each of its requests; the answer in it, of a
        // CONNECT proxy, has no meaning here.
        let digest = ProxyDigest::new(Box::new(ResponseHeader::build(200, Some(0))?), Some(Box::new(clock)));
        let lower = transport.lower();
        let socket = match client {
            Some(client) => Some(Arc::new(named_socket(lower, client))),
            None => lower.get_socket_digest(),
        };
        let tls = transport.tls_digest().map(Arc::new);
        Ok(Self { transport, watch, beginning: BytesMut::new(), digest: Arc::new(digest), socket, tls, _place: place })
    }

    pub fn is_http2(&self) -> bool {
        self.transport.is_http2()
    }

    /// A request is expected, whose header may take its time from now on.
    pub fn expect(&self) {
        self.watch.expect();
    }

    /// Bytes that have come since the request was expected, until its header was there.
    pub fn header_bytes(&self) -> usize {
        self.watch.bytes()
    }

    /// Sends `bytes` whole.
    ///
    /// # Errors
    /// The client is gone, or does not take them within `time`.
    pub async fn send(&mut self, bytes: &[u8], time: Option<Duration>) -> io::Result<()> {
        let mut sending = pin!(async {
            self.write_all(bytes).await?;
            self.flush().await
        });
        // A timer costs more than to write into the socket's buffer, where there mostly is room.
        match (poll!(sending.as_mut()), time) {
            (Poll::Ready(sent), _) => sent,
            (Poll::Pending, None) => sending.await,
            (Poll::Pending, Some(time)) => {
                tokio::time::timeout(time, sending).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }

    /// Whether the expected request `is` what its first bytes tell; no if they do not tell. Whoever reads the request
    /// must [take](Self::take_beginning) them first. Mostly they are the whole of it: it takes one read then.
    ///
    /// Ready with `None` if the connection ends before the first byte.
    pub fn poll_beginning(
        &mut self,
        context: &mut Context<'_>,
        is: impl Fn(&[u8]) -> Option<bool>,
    ) -> Poll<Option<bool>> {
        // On the stack: a connection that waits for its next request keeps no memory for it.
        let mut bytes = [const { MaybeUninit::uninit() }; BEGINNING_BYTES];
        loop {
            if let Some(known) = is(&self.beginning) {
                return Poll::Ready(Some(known));
            }
            let mut buffer = ReadBuf::uninit(&mut bytes);
            match ready!(self.poll_watched(context, &mut buffer)) {
                Ok(()) if buffer.filled().is_empty() => {
                    return Poll::Ready((!self.beginning.is_empty()).then_some(false));
                }
                Ok(()) => self.beginning.extend_from_slice(buffer.filled()),
                Err(_) => return Poll::Ready(None),
            }
        }
    }

    /// What has been read of the expected request.
    pub fn take_beginning(&mut self) -> BytesMut {
        std::mem::take(&mut self.beginning)
    }

    fn give_up(&mut self, context: &mut Context<'_>, why: GivenUp) -> io::Error {
        let (answer, reason) = match why {
            GivenUp::Slow => (&*SLOW, Problem::SlowHeader.word()),
            GivenUp::TooLarge => (&*TOO_LARGE, Problem::HeaderTooLarge.word()),
            // Nobody has asked for anything.
            GivenUp::Idle => return io::ErrorKind::TimedOut.into(),
        };
        metrics::CONNECTIONS_REFUSED.with_label_values(&[reason]).inc();
        // As much as goes into the socket's buffer at once: nothing waits for such a client.
        if let Poll::Ready(Ok(_)) = self.transport.poll_write(context, answer) {
            let _ = self.transport.poll_flush(context);
        }
        io::Error::new(io::ErrorKind::TimedOut, reason)
    }
}

/// How much of a request is read at first: most are shorter.
const BEGINNING_BYTES: usize = 4096;

/// The socket of `stream`, seen as coming from `client`.
fn named_socket(stream: &Stream, client: SocketAddr) -> SocketDigest {
    let digest = SocketDigest::from_raw_fd(stream.id());
    // The cell is new, so it takes the value.
    let _ = digest.peer_addr.set(Some(PeerAddr::Inet(client)));
    digest
}

static SLOW: Lazy<Bytes> = Lazy::new(|| farewell(Problem::SlowHeader.because("Send the whole header sooner.")));
static TOO_LARGE: Lazy<Bytes> =
    Lazy::new(|| farewell(Problem::HeaderTooLarge.because("Send fewer bytes, say cookies.")));

/// A refusal as bytes of HTTP/1, for a client whose request is not even there.
fn farewell(refusal: Refusal) -> Bytes {
    let row = refusal.problem.row();
    let body = refusal.body();
    let head = format!(
        "HTTP/1.1 {} {}\r\nContent-Type: application/problem+json\r\nContent-Length: {}\r\nCache-Control: no-store\r\n\
         Connection: close\r\n\r\n",
        row.status,
        row.word,
        body.len()
    );
    [head.as_bytes(), &body[..]].concat().into()
}

impl Transport {
    fn lower(&self) -> &Stream {
        match self {
            Transport::Plain(stream) => stream,
            Transport::Tls(stream) => stream.get_ref().0,
        }
    }

    fn poll_write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Transport::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Transport::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Transport::Plain(stream) => Pin::new(stream).poll_flush(context),
            Transport::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    /// Which protocol the client has chosen.
    pub fn is_http2(&self) -> bool {
        match self {
            Transport::Plain(_) => false,
            Transport::Tls(stream) => stream.get_ref().1.alpn_protocol() == Some(b"h2"),
        }
    }

    fn tls_digest(&self) -> Option<SslDigest> {
        let Transport::Tls(stream) = self else {
            return None;
        };
        let session = stream.get_ref().1;
        let cipher = session.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str());
        let version = session.protocol_version().and_then(|version| version.as_str());
        Some(SslDigest::new(cipher.unwrap_or_default(), version.unwrap_or_default(), None, None, Vec::new()))
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_watched(context, buffer)
    }
}

impl Connection {
    /// Reads no more than a header may have, and no longer than it may take.
    fn poll_watched(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let most = match self.watch.before_read() {
            Ok(most) => most,
            Err(why) => return Poll::Ready(Err(self.give_up(context, why))),
        };
        if most == usize::MAX {
            return self.poll_transport(context, buffer);
        }
        let before = buffer.filled().len();
        let polled = if most >= buffer.remaining() {
            self.poll_transport(context, buffer)
        } else {
            self.poll_bounded(context, buffer, most)
        };
        match polled {
            Poll::Pending => {
                let why = ready!(self.watch.poll_alarm(context));
                Poll::Ready(Err(self.give_up(context, why)))
            }
            Poll::Ready(result) => {
                self.watch.after_read(buffer.filled().len() - before);
                Poll::Ready(result)
            }
        }
    }

    /// A header's length is bounded to the byte.
    fn poll_bounded(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
        most: usize,
    ) -> Poll<io::Result<()>> {
        let mut bounded = buffer.take(most);
        let polled = self.poll_transport(context, &mut bounded);
        let read = bounded.filled().len();
        // SAFETY: `bounded` is the unfilled part of `buffer`, and the transport has filled, so initialised,
        // its first `read` bytes.
        unsafe { buffer.assume_init(read) };
        buffer.advance(read);
        polled
    }

    fn poll_transport(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Transport::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().transport.poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().transport.poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Transport::Tls(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.transport {
            Transport::Plain(stream) => stream.is_write_vectored(),
            Transport::Tls(stream) => stream.is_write_vectored(),
        }
    }
}

#[async_trait]
impl Shutdown for Connection {
    async fn shutdown(&mut self) {
        match &mut self.transport {
            Transport::Plain(stream) => Shutdown::shutdown(&mut **stream).await,
            Transport::Tls(stream) => {
                // The client may be gone already.
                let _ = AsyncWriteExt::shutdown(stream).await;
            }
        }
    }
}

impl UniqueID for Connection {
    fn id(&self) -> i32 {
        self.transport.lower().id()
    }
}

impl Ssl for Connection {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.tls.clone()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        match &self.transport {
            Transport::Plain(_) => None,
            Transport::Tls(_) if self.transport.is_http2() => Some(ALPN::H2),
            Transport::Tls(_) => Some(ALPN::H1),
        }
    }
}

impl GetTimingDigest for Connection {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.transport.lower().get_timing_digest()
    }
}

impl GetProxyDigest for Connection {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        Some(self.digest.clone())
    }
}

impl GetSocketDigest for Connection {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.socket.clone()
    }
}

impl Peek for Connection {}
