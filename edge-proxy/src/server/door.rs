//! Takes requests: how long a client may dawdle between and within them, and which way they go.
//!
//! A request to a sale is answered right here: the machinery that Pingora sets up for a request to a shop costs more
//! than a refusal. All others go to Pingora's proxy, where [`super::edge`] is its phases.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use bytes::BytesMut;
use futures_util::poll;
use http::{Method, Version};
use pingora::ErrorType;
use pingora::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream};
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::{H2Options, default_h2_options};
use pingora::proxy::HttpProxy;
use pingora::server::ShutdownWatch;
use tokio::sync::Notify;

use super::answer::{Edge, Sent, respond};
use super::connection::Connection;
use super::header_clock::HeaderClock;
use crate::config::millis;
use crate::http::routes;

/// How long a connection that was taken just before the end may take to send its request.
pub const LAST_WORDS: Duration = Duration::from_millis(300);

/// Requests of one HTTP/2 connection at a time.
const STREAMS_MAX: u32 = 100;

/// Where requests come in, with our own times from the first byte on: Pingora by itself waits 60 seconds for each
/// read.
pub struct Door {
    edge: Edge,
    proxy: Arc<HttpProxy<Edge>>,
    options: HttpServerOptions,
    closing: Closing,
}

/// A connection for the next request, and what of it was read already.
type Kept = (Box<Connection>, Option<BytesMut>);

/// Tells idle connections that this process ends.
#[derive(Default)]
struct Closing {
    begun: AtomicBool,
    told: Notify,
}

impl Door {
    pub fn new(edge: Edge, proxy: HttpProxy<Edge>) -> Self {
        let mut options = proxy.server_options.clone().unwrap_or_default();
        options.h2_idle_timeout = Some(Duration::from_secs(edge.live.load().config.listen.keepalive_s.max(1)));
        Self { edge, proxy: Arc::new(proxy), options, closing: Closing::default() }
    }

    /// Serves the requests of an HTTP/1 connection, one after another.
    pub async fn serve_http1(&self, connection: Connection, shutdown: &ShutdownWatch) {
        let mut told = pin!(self.closing.told.notified());
        // It wakes this task, which is the only one that polls here; so to have polled it once is enough.
        if poll!(told.as_mut()).is_ready() {
            return;
        }
        let mut connection = Box::new(connection);
        let mut pipelined: Option<BytesMut> = None;
        loop {
            connection.expect();
            let is_pipelined = pipelined.is_some();
            let (is_sale, beginning) = match pipelined.take() {
                Some(bytes) => (routes::begins_sale(&bytes).unwrap_or(false), bytes),
                None => match self.look(&mut connection).await {
                    Some(is_sale) => (is_sale, connection.take_beginning()),
                    None => return,
                },
            };
            let mut session = ServerSession::new_http1(connection);
            // Bytes that are read already are what the library knows this by.
            session.set_pipelined_prefix(beginning);
            session.set_keepalive(Some(0));
            self.equip(&mut session, shutdown);
            let kept = if is_sale {
                self.serve_sale(session, is_pipelined).await
            } else {
                // What was read beyond a request to the shop would have ended the connection.
                self.proxy
                    .process_new_http(session, shutdown)
                    .await
                    .and_then(|reused| Some((own(reused.consume().0)?, None)))
            };
            let Some((same, rest)) = kept else {
                return;
            };
            connection = same;
            pipelined = rest;
        }
    }

    /// Waits for a request; whether it is one to a sale. `None` if there is none to come.
    async fn look(&self, connection: &mut Connection) -> Option<bool> {
        poll_fn(|context| match connection.poll_beginning(context, routes::begins_sale) {
            Poll::Pending if self.closing.begun.load(Ordering::Acquire) => Poll::Ready(None),
            polled => polled,
        })
        .await
    }

    /// Our own times instead of the library's.
    fn equip(&self, session: &mut ServerSession, shutdown: &ShutdownWatch) {
        let (read, write, keepalive_s) = {
            let live = self.edge.live.load();
            let config = &live.config.listen;
            (millis(config.read_timeout_ms), millis(config.write_timeout_ms), config.keepalive_s)
        };
        session.set_read_timeout(Some(read));
        session.set_write_timeout(Some(write));
        if session.get_keepalive().is_some() {
            let kept = keepalive_s > 0 && !*shutdown.borrow();
            session.set_keepalive(kept.then_some(keepalive_s));
        }
    }

    /// Reads a request to a sale and answers it. `is_pipelined`: it began to come with the one before.
    async fn serve_sale(&self, mut session: ServerSession, is_pipelined: bool) -> Option<Kept> {
        match session.read_request().await {
            Ok(true) => {}
            Ok(false) => return None,
            Err(error) => {
                log::debug!("no request: {error}");
                if error.etype() == &ErrorType::InvalidHTTPHeader {
                    // The client may be gone already.
                    let _ = session.respond_error(400).await;
                }
                session.shutdown().await;
                return None;
            }
        }
        if let Some(clock) = session.digest().and_then(HeaderClock::of) {
            clock.stop();
        }
        let mut request = self.edge.begin();
        let Some(reply) = self.edge.reply(&mut session, &mut request).await else {
            log::error!("{} began like a sale's route and is none", session.req_header().uri);
            return None;
        };
        // What has come of a pipelined request cannot be told from what came behind it.
        if !is_pipelined && is_plain(&mut session) {
            let sent = Sent { status: reply.status, bytes: reply.body.len() };
            self.edge.note(session.req_header(), sent, None, &mut request);
            let (mut connection, time) = unwrap(session)?;
            return match connection.send(&reply.to_http1(), time).await {
                Ok(()) => Some((connection, None)),
                Err(error) => {
                    log::debug!("the client left before its answer: {error}");
                    None
                }
            };
        }
        let answered = respond(&mut session, reply).await;
        let error = answered.as_ref().err().map(|error| &**error);
        self.edge.note(session.req_header(), Sent::through(&session), error, &mut request);
        answered.ok()?;
        // The client has its answer, so its next request may come right behind a body that we throw away.
        session.set_pipelining_enabled(true);
        let (stream, rest) = session.finish().await.ok()??.into_parts();
        Some((own(stream)?, rest))
    }
}

/// The connection as this module made it.
fn own(stream: Stream) -> Option<Box<Connection>> {
    stream.into_any().downcast().ok()
}

/// The connection of a session that has nothing more to do, and how long a write to it may take.
fn unwrap(session: ServerSession) -> Option<(Box<Connection>, Option<Duration>)> {
    let ServerSession::H1(session) = session else {
        return None;
    };
    let time = session.get_write_timeout();
    Some((own(session.into_inner())?, time))
}

/// Whether a request is one of HTTP/1.1 that has no body and nothing behind it, on a connection that is kept: most of a
/// rush. Its answer needs none of what the library does for one: to build, look through and free a map of headers costs
/// more than the funnel, and to look for the rest of the body a good deal too.
fn is_plain(session: &mut ServerSession) -> bool {
    let ServerSession::H1(session) = session else {
        return false;
    };
    let header = session.req_header();
    let (version, method) = (header.version, &header.method);
    version == Version::HTTP_11
        && method != Method::HEAD
        && session.will_keepalive()
        && session.is_body_empty()
        && session
            .stream()
            .as_any()
            .downcast_ref::<Connection>()
            .is_some_and(|connection| connection.header_bytes() == session.get_headers_raw_bytes().len())
}

#[async_trait]
impl HttpServerApp for Door {
    /// A request of an HTTP/2 connection.
    async fn process_new_http(
        self: &Arc<Self>,
        mut session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        self.equip(&mut session, shutdown);
        let is_sale = session.is_http2() && {
            let header = session.req_header();
            header.method != Method::CONNECT && routes::is_sale(header.uri.path())
        };
        if is_sale {
            self.serve_sale(session, false).await;
            return None;
        }
        self.proxy.process_new_http(session, shutdown).await
    }

    fn h2_options(&self) -> Option<H2Options> {
        let mut options = default_h2_options();
        let most = self.edge.live.load().config.listen.header_bytes_max;
        options.max_header_list_size(most.try_into().unwrap_or(u32::MAX));
        // Streams that a client opens and resets at once cost more than they seem to.
        options.max_concurrent_streams(STREAMS_MAX);
        Some(options)
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        Some(&self.options)
    }

    /// Nobody is let in any more. Who came last has not been heard yet: a moment more for its request.
    async fn http_cleanup(&self) {
        tokio::time::sleep(LAST_WORDS).await;
        self.closing.begun.store(true, Ordering::Release);
        self.closing.told.notify_waiters();
        self.proxy.http_cleanup().await;
    }
}
