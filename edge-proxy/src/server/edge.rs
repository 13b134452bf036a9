//! The phases of a request to the shop, from top to bottom.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::modules::http::HttpModules;
use pingora::prelude::HttpPeer;
use pingora::proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use pingora::{Error, ErrorSource, ErrorType};

use super::answer::{Edge, Request, Sent, is_tls, peer_of, respond};
use super::cache::{Found, Page};
use super::header_clock::HeaderClock;
use super::{forwarded, straight};
use crate::http::problem::{Problem, Refusal};
use crate::http::reply::Reply;
use crate::metrics;

#[async_trait]
impl ProxyHttp for Edge {
    type CTX = Request;

    fn new_ctx(&self) -> Request {
        self.begin()
    }

    /// Nothing is compressed here, so the filter for it, which would do nothing for each request, is left out.
    fn init_downstream_modules(&self, _: &mut HttpModules) {}

    /// The header is there: its time is no longer counted.
    async fn early_request_filter(&self, session: &mut Session, _: &mut Request) -> pingora::Result<()> {
        if let Some(clock) = session.digest().and_then(HeaderClock::of) {
            clock.stop();
        }
        Ok(())
    }

    /// What is not for the shop is answered here, and so are pages that were kept; `false` sends the request on.
    async fn request_filter(&self, session: &mut Session, request: &mut Request) -> pingora::Result<bool> {
        if self.answer(&mut session.downstream_session, request).await? {
            return Ok(true);
        }
        if session.is_upgrade_req() {
            // The two ends of a WebSocket may both be silent for long.
            session.set_read_timeout(Some(request.live.shop.websocket_idle()));
        }
        match request.live.cache.find(session.req_header(), is_tls(session)) {
            Found::Nothing => {}
            Found::Fetch(fetch) => request.fetch = Some(fetch),
            Found::Page(page) => {
                request.outcome = "cached";
                show(session, &page).await?;
                return Ok(true);
            }
        }
        if straight::is_plain(&mut session.downstream_session, request) {
            self.straight.pass(&mut session.downstream_session, request).await?;
            return Ok(true);
        }
        Ok(false)
    }

    /// A body without an announced length is cut off where an announced one would have been refused.
    async fn request_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        _: bool,
        request: &mut Request,
    ) -> pingora::Result<()> {
        if session.was_upgraded() {
            // What comes over a WebSocket is no body: it may go on for hours.
            return Ok(());
        }
        request.body_bytes += body.as_ref().map_or(0, |body| body.len() as u64);
        let limits = request.live.limits;
        if limits.body_bytes > 0 && request.body_bytes > limits.body_bytes {
            return Error::e_explain(ErrorType::HTTPStatus(413), "the body is too large");
        }
        if body.is_some() && limits.body_time.is_over(request.began.elapsed(), request.body_bytes) {
            return Error::e_explain(ErrorType::HTTPStatus(408), "the body is too slow");
        }
        Ok(())
    }

    async fn upstream_peer(&self, session: &mut Session, request: &mut Request) -> pingora::Result<Box<HttpPeer>> {
        let number = request.next_server()?;
        let header = session.req_header();
        let peer = request.live.shop.peer(number, &header.headers, session.is_upgrade_req());
        if let (Some(trace), Some(visit)) = (&mut request.trace, &request.visit) {
            trace.ask_shop(&visit.server.backend.addr.to_string());
        }
        Ok(Box::new(peer))
    }

    /// Nothing was delivered, so another server may get it, whatever the method.
    fn fail_to_connect(&self, _: &mut Session, _: &HttpPeer, _: &mut Request, mut error: Box<Error>) -> Box<Error> {
        metrics::SHOP_ERRORS.with_label_values(&["connect"]).inc();
        error.set_retry(true);
        error
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        upstream: &mut RequestHeader,
        request: &mut Request,
    ) -> pingora::Result<()> {
        if request.fetch.as_ref().is_some_and(|fetch| fetch.hides_cookies()) {
            upstream.remove_header("cookie");
        }
        if let Some(trace) = &request.trace {
            trace.tell_shop(upstream);
        }
        forwarded::forward(upstream, peer_of(session), is_tls(session), &request.live.config.listen.trusted_proxies)
    }

    /// The head of the shop's answer: may it be kept?
    async fn response_filter(
        &self,
        _: &mut Session,
        response: &mut ResponseHeader,
        request: &mut Request,
    ) -> pingora::Result<()> {
        if let Some(trace) = &mut request.trace
            && (!response.status.is_informational() || response.status == 101)
        {
            trace.shop_answered(response.status.as_u16());
        }
        if !response.status.is_informational() && request.fetch.as_mut().is_some_and(|fetch| !fetch.head(response)) {
            request.fetch = None;
        }
        Ok(())
    }

    fn response_body_filter(
        &self,
        _: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        request: &mut Request,
    ) -> pingora::Result<Option<Duration>> {
        if let (Some(fetch), Some(piece)) = (&mut request.fetch, body)
            && !fetch.body(piece)
        {
            request.fetch = None;
        }
        if end_of_stream && let Some(trace) = &mut request.trace {
            trace.shop_done();
        }
        if end_of_stream && let Some(fetch) = request.fetch.take() {
            fetch.finish();
        }
        Ok(None)
    }

    /// The shop did not answer: say so in the same form as every other refusal.
    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, request: &mut Request) -> FailToProxy {
        let reply = match failure(error) {
            Failure::ClientGone => {
                return FailToProxy { error_code: 0, can_reuse_downstream: false };
            }
            Failure::Refused(refusal) => Reply::from(refusal),
        };
        request.outcome = reply.word;
        let error_code = reply.status;
        session.set_keepalive(None);
        if session.response_written().is_none()
            && let Err(error) = respond(&mut session.downstream_session, reply).await
        {
            log::debug!("the client left before its error: {error}");
        }
        FailToProxy { error_code, can_reuse_downstream: false }
    }

    /// Counted as a metric and in the sampled log; a line each would be a self-made attack.
    fn suppress_error_log(&self, _: &Session, _: &Request, error: &Error) -> bool {
        log::debug!("request failed: {error}");
        true
    }

    /// The same, for a server of the shop that was passed over.
    fn suppress_proxy_warn_log(&self, _: &Session, _: &Request, error: &Error, _: ProxyWarnLogContext) -> bool {
        log::debug!("tried another server of the shop: {error}");
        true
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, request: &mut Request) {
        self.note(session.req_header(), Sent::through(&session.downstream_session), error, request);
    }
}

/// Answers with a page that was kept.
async fn show(session: &mut Session, page: &Page) -> pingora::Result<()> {
    session.write_response_header(Box::new(page.header()?), false).await?;
    session.write_response_body(Some(page.body()), true).await
}

/// Why a request to the shop failed.
enum Failure {
    ClientGone,
    Refused(Refusal),
}

fn failure(error: &Error) -> Failure {
    let (kind, refusal) = match (error.esource(), error.etype()) {
        (ErrorSource::Downstream, ErrorType::WriteError | ErrorType::ReadError | ErrorType::ConnectionClosed) => {
            metrics::SHOP_ERRORS.with_label_values(&["client-gone"]).inc();
            return Failure::ClientGone;
        }
        (ErrorSource::Downstream, ErrorType::ReadTimedout) => ("client", Problem::SlowBody.into()),
        (ErrorSource::Downstream, _) => ("client", Problem::BadRequest.because("The request is malformed.")),
        (_, ErrorType::ReadTimedout | ErrorType::WriteTimedout) => ("timeout", Problem::ShopTimeout.into()),
        (_, ErrorType::HTTPStatus(408)) => ("client", Problem::SlowBody.into()),
        (_, ErrorType::HTTPStatus(413)) => ("client", Problem::TooLarge.into()),
        (ErrorSource::Upstream, _) => ("shop", Problem::ShopDown.into()),
        (
            _,
            ErrorType::ConnectNoRoute
            | ErrorType::ConnectRefused
            | ErrorType::ConnectTimedout
            | ErrorType::ConnectError,
        ) => ("shop", Problem::ShopDown.into()),
        _ => ("internal", Problem::Internal.into()),
    };
    metrics::SHOP_ERRORS.with_label_values(&[kind]).inc();
    Failure::Refused(refusal)
}
