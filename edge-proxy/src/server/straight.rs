//! The straight way to the shop, for plain requests: those without a body, and without anything that is between the
//! client and us only.
//!
//! Pingora's proxy takes any request through two tasks in one, with queues between them, so that bodies can go both ways
//! at a time, connections be upgraded and answers cached. A `GET` has one direction. Here it goes by the same library's
//! sessions and connections, which read, frame and refuse as they always do; tries, time limits and errors are those of
//! [`super::edge`].

use std::pin::pin;
use std::task::Poll;

use futures_util::{FutureExt, future};
use http::{HeaderName, HeaderValue, Method, Version, header};
use pingora::connectors::ConnectorOptions;
use pingora::connectors::http::v1::Connector;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::authority::validate_request_authority;
use pingora::protocols::http::v1::client::HttpSession as Upstream;
use pingora::protocols::http::{HttpTask, ServerSession};
use pingora::server::configuration::ServerConf;
use pingora::upstreams::peer::Peer;
use pingora::{Error, ErrorType};
use tokio::task::unconstrained;

use super::answer::{Request, is_tls, peer_of};
use super::{forwarded, shop};
use crate::metrics;

/// Pieces of an answer that are written at once, as Pingora's proxy does.
const PIECES_MAX: usize = 4;

/// Passes plain requests on.
pub struct Straight {
    connector: Connector,
    tries: usize,
}

/// Whether a request may go the straight way.
pub fn is_plain(session: &mut ServerSession, request: &Request) -> bool {
    let header = session.req_header();
    let is_plain = matches!(header.method, Method::GET | Method::HEAD)
        && header.version == Version::HTTP_11
        && header.raw_path().starts_with(b"/")
        && header.headers.iter().all(|(name, value)| !shop::is_between(name) || keeps_alive(name, value))
        && !header.headers.contains_key(header::EXPECT);
    is_plain
        && request.fetch.is_none()
        && request.trace.is_none()
        && session.as_http1().is_some()
        && session.is_body_empty()
}

/// Whether it says, as many do, what is so anyway.
fn keeps_alive(name: &HeaderName, value: &HeaderValue) -> bool {
    name == header::CONNECTION && value.as_bytes().eq_ignore_ascii_case(b"keep-alive")
}

impl Straight {
    pub fn new(conf: &ServerConf) -> Self {
        Self { connector: Connector::new(Some(ConnectorOptions::from_server_conf(conf))), tries: conf.max_retries }
    }

    /// Asks the shop and passes its answer on.
    ///
    /// # Errors
    /// No server of the shop answered, or the client left.
    pub async fn pass(&self, session: &mut ServerSession, request: &mut Request) -> pingora::Result<()> {
        let mut tried = 1;
        loop {
            match self.try_once(session, request).await {
                Err(error) if error.retry() && tried < self.tries && session.response_written().is_none() => {
                    log::debug!("tries another server of the shop: {error}");
                    tried += 1;
                }
                result => return result,
            }
        }
    }

    async fn try_once(&self, session: &mut ServerSession, request: &mut Request) -> pingora::Result<()> {
        let live = request.live.clone();
        let number = request.next_server()?;
        let peer = live.shop.plain_peer(number);
        let to_shop = written(session, &live.config.listen.trusted_proxies)?;
        let (mut upstream, is_reused) = match self.connector.reused_http_session(peer).await {
            Some(upstream) => (upstream, true),
            // What it takes to connect is large, and not to be carried by every request.
            None => Box::pin(self.connector.get_http_session(peer)).await.map_err(not_connected)?,
        };
        upstream.read_timeout = peer.options.read_timeout;
        upstream.write_timeout = peer.options.write_timeout;
        let passed = converse(session, &mut upstream, to_shop).await;
        passed.map_err(|mut error| {
            // A connection that was kept may have been closed by the shop meanwhile.
            error.retry.decide_reuse(is_reused);
            error
        })?;
        self.connector.release_http_session(upstream, peer, peer.idle_timeout()).await;
        // The client has its answer: whether its connection can be used again is all that is left.
        if let Err(error) = session.finish_body().await {
            log::debug!("the client left at the end of its answer: {error}");
            session.set_keepalive(None);
        }
        Ok(())
    }
}

/// Nothing was delivered, so another server may get it.
fn not_connected(error: Box<Error>) -> Box<Error> {
    metrics::SHOP_ERRORS.with_label_values(&["connect"]).inc();
    let mut error = error.into_up();
    error.set_retry(true);
    error
}

/// The request as the shop gets it.
fn written(session: &ServerSession, trusted: &[ipnet::IpNet]) -> pingora::Result<Box<RequestHeader>> {
    let mut to_shop = forwarded::written(session.req_header(), peer_of(session), is_tls(session), trusted)?;
    to_shop.remove_header(&header::CONNECTION);
    validate_request_authority(&to_shop).map_err(Error::into_in)?;
    Ok(Box::new(to_shop))
}

/// Sends the request and passes on what is answered, piece by piece.
async fn converse(
    session: &mut ServerSession,
    upstream: &mut Upstream,
    to_shop: Box<RequestHeader>,
) -> pingora::Result<()> {
    upstream.write_request_header(to_shop).await.map_err(Error::into_up)?;
    upstream.finish_body().await.map_err(Error::into_up)?;
    let has_body = session.req_header().method != Method::HEAD;
    loop {
        let mut pieces = Vec::with_capacity(PIECES_MAX);
        pieces.push(next(session, upstream).await?);
        // What is here already goes with it.
        while pieces.len() < PIECES_MAX && !pieces.last().is_some_and(HttpTask::is_end) {
            match unconstrained(upstream.read_response_task()).now_or_never() {
                Some(Ok(piece)) => pieces.push(piece),
                Some(Err(error)) => pieces.push(HttpTask::Failed(error.into_up())),
                None => break,
            }
        }
        for piece in &mut pieces {
            if let HttpTask::Header(header, is_end) = piece {
                frame(header, has_body && !*is_end)?;
            }
        }
        if session.response_duplex_vec(pieces).await? {
            return Ok(());
        }
    }
}

/// The next piece of the shop's answer, unless the client leaves before.
async fn next(session: &mut ServerSession, upstream: &mut Upstream) -> pingora::Result<HttpTask> {
    let mut piece = pin!(upstream.read_response_task());
    let mut gone = pin!(session.read_body_or_idle(true));
    future::poll_fn(|context| {
        if let Poll::Ready(piece) = piece.as_mut().poll(context) {
            return Poll::Ready(piece.map_err(Error::into_up));
        }
        match gone.as_mut().poll(context) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error.into_down())),
            Poll::Ready(Ok(_)) => Poll::Ready(Error::e_explain(ErrorType::InternalError, "a body out of nowhere")),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// An answer of unknown length ends with a last chunk rather than with the client's connection.
fn frame(header: &mut ResponseHeader, has_body: bool) -> pingora::Result<()> {
    let is_without = header.status.is_informational() || matches!(header.status.as_u16(), 204 | 304);
    if has_body
        && !is_without
        && !header.headers.contains_key(header::TRANSFER_ENCODING)
        && !header.headers.contains_key(header::CONTENT_LENGTH)
    {
        header.set_version(Version::HTTP_11);
        header.insert_header(header::TRANSFER_ENCODING, "chunked")?;
    }
    Ok(())
}
