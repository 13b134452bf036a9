//! A request's life, phase by phase: to the sale through the funnel, or on to the shop.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::{Method, Version};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::HttpPeer;
use pingora::proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use pingora::{Error, ErrorSource, ErrorType};

use super::access_log::Line;
use super::cache::{Fetch, Found, Page};
use super::header_clock::HeaderClock;
use super::live::{Current, Live};
use super::{lifecycle, servers, shop};
use crate::funnel::standing::Standings;
use crate::funnel::tickets;
use crate::funnel::visit::{Caller, Visit};
use crate::http::address::{NOBODY, client_address, is_trusted};
use crate::http::input::{self, BODY_BYTES_MAX, Input};
use crate::http::problem::{Problem, Refusal};
use crate::http::reply::Reply;
use crate::http::routes::{self, Destination, Route};
use crate::sale::Order;
use crate::store::redis::unix_ms;
use crate::trace::{self, Trace};
use crate::{metrics, quick};

/// How long the rest of a refused request's body may take to arrive before the connection is given up.
const DRAIN: Duration = Duration::from_secs(1);

/// The proxy's own part: everything else is Pingora's.
pub struct Edge {
    pub live: Current,
    pub key_prefix: Vec<u8>,
}

/// How large a request may be.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Fields of a header.
    pub headers: usize,
    /// Bytes of a body that goes to the shop; 0 is no limit.
    pub body_bytes: u64,
    pub body_time: BodyTime,
}

/// How long a request's body may take, whole: the timeout of the library is for each read, so that a client which sends
/// a byte now and then would be read for ever.
#[derive(Debug, Clone, Copy)]
pub struct BodyTime {
    /// Of a call of a sale.
    pub whole: Duration,
    /// Bytes a second that earn a body for the shop more time; 0: it has all the time there is.
    pub rate_min: u64,
}

impl BodyTime {
    /// Whether a body for the shop, of which `bytes` are here, has taken too long.
    fn is_over(self, took: Duration, bytes: u64) -> bool {
        self.rate_min > 0 && took > self.whole + Duration::from_secs(bytes / self.rate_min)
    }
}

/// What is remembered of a request until its line in the log.
pub struct Request {
    began: Instant,
    live: Arc<Live>,
    client: IpAddr,
    route: &'static str,
    outcome: &'static str,
    /// The server of the shop that has it.
    visit: Option<servers::Visit>,
    /// Servers that could not take it.
    tried: Vec<usize>,
    /// The shop's answer, if it may be kept.
    fetch: Option<Box<Fetch>>,
    /// Of the body, on its way to the shop.
    body_bytes: u64,
    /// Its span, where there is tracing.
    trace: Option<Box<Trace>>,
    _in_flight: InFlight,
}

/// Counts a request for as long as it lives.
struct InFlight;

impl InFlight {
    fn new() -> Self {
        metrics::REQUESTS_IN_FLIGHT.inc();
        Self
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        metrics::REQUESTS_IN_FLIGHT.dec();
    }
}

#[async_trait]
impl ProxyHttp for Edge {
    type CTX = Request;

    fn new_ctx(&self) -> Request {
        Request {
            began: Instant::now(),
            live: self.live.load_full(),
            client: NOBODY,
            route: "shop",
            outcome: "",
            visit: None,
            tried: Vec::new(),
            fetch: None,
            body_bytes: 0,
            trace: None,
            _in_flight: InFlight::new(),
        }
    }

    /// The header is there: its time is no longer counted.
    async fn early_request_filter(&self, session: &mut Session, _: &mut Request) -> pingora::Result<()> {
        if let Some(clock) = session.digest().and_then(HeaderClock::of) {
            clock.stop();
        }
        Ok(())
    }

    /// Sale routes are answered here, refusals too; `false` sends the request on to the shop.
    async fn request_filter(&self, session: &mut Session, request: &mut Request) -> pingora::Result<bool> {
        let live = request.live.clone();
        let trusted = &live.config.listen.trusted_proxies;
        request.client = client_address(peer_of(session), &session.req_header().headers, trusted);
        if let Some(tracing) = &live.tracing {
            let is_trusted = is_trusted(peer_of(session), trusted);
            request.trace = Some(tracing.begin(session.req_header(), request.client, is_trusted));
        }
        if lifecycle::is_leaving() {
            session.set_keepalive(None);
        }
        let header = session.req_header();
        let destination = match live.limits.check(header) {
            Ok(()) => routes::find(&header.method, header.uri.path()),
            Err(refusal) => {
                session.set_keepalive(None);
                Destination::Refused(refusal)
            }
        };
        let reply = match destination {
            Destination::Shop if live.shop.is_configured() => {
                session.set_pipelining_enabled(false);
                if session.is_upgrade_req() {
                    // The two ends of a WebSocket may both be silent for long.
                    session.set_read_timeout(Some(live.shop.websocket_idle()));
                }
                match live.cache.find(session.req_header(), is_tls(session)) {
                    Found::Nothing => {}
                    Found::Fetch(fetch) => request.fetch = Some(fetch),
                    Found::Page(page) => {
                        request.outcome = "cached";
                        show(session, &page).await?;
                        return Ok(true);
                    }
                }
                return Ok(false);
            }
            Destination::Shop => Problem::NoRoute.because("There is no shop behind this edge.").into(),
            Destination::Refused(refusal) => {
                request.route = "none";
                refusal.into()
            }
            Destination::Sale(route) => {
                request.route = route.call.name();
                if let Some(trace) = &mut request.trace {
                    trace.route(route.call.template());
                }
                let visit = self.visit(session, &route, request.client, &live);
                match trace::within(request.trace.as_deref(), visit).await {
                    Ok(reply) => reply,
                    Err(refusal) => refusal.into(),
                }
            }
        };
        request.outcome = reply.word;
        respond(session, reply).await?;
        Ok(true)
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
        let live = request.live.clone();
        if let Some(visit) = request.visit.take() {
            request.tried.push(visit.number());
        }
        let visit = live
            .shop
            .pick(&request.tried)
            .ok_or_else(|| Error::explain(ErrorType::ConnectNoRoute, "the shop has no server"))?;
        let peer = live.shop.peer(&visit.backend, session.is_upgrade_req());
        if let Some(trace) = &mut request.trace {
            trace.ask_shop(&visit.backend.addr.to_string());
        }
        request.visit = Some(visit);
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
        shop::forward(upstream, peer_of(session), is_tls(session), &request.live.config.listen.trusted_proxies)
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
            && let Err(error) = respond(session, reply).await
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
        let took = request.began.elapsed();
        let status = session.response_written().map_or(0, |response: &ResponseHeader| response.status.as_u16());
        quick::count(&metrics::RESPONSES, [request.route, status_label(status)]);
        quick::observe(&metrics::REQUEST_SECONDS, request.route, took.as_secs_f64());
        if let Some(trace) = &mut request.trace {
            trace.end(status, request.outcome);
        }
        if !request.live.access_log.wants(status) {
            return;
        }
        let header = session.req_header();
        let error = error.map(|error| error.etype().as_str());
        let upstream = request.visit.as_ref().map(|visit| visit.backend.addr.to_string());
        let line = Line {
            method: header.method.as_str(),
            path: header.uri.path(),
            route: request.route,
            status,
            outcome: request.outcome,
            client: request.client,
            upstream: upstream.as_deref(),
            error,
            bytes: session.body_bytes_sent(),
            trace_id: request.trace.as_ref().map(|trace| trace.id()),
        };
        request.live.access_log.write(&line, took);
    }
}

impl Limits {
    fn check(&self, header: &RequestHeader) -> Result<(), Refusal> {
        let fields = header.headers.len();
        if fields > self.headers {
            return Err(Problem::HeaderTooLarge
                .because(format!("The header has {fields} fields; it may have {}.", self.headers)));
        }
        if header.version == Version::HTTP_11 && !header.headers.contains_key(http::header::HOST) {
            return Err(Problem::BadRequest.because("A request needs a `Host` (RFC 9112, section 3.2)."));
        }
        let target = header.raw_path();
        if !target.starts_with(b"/") && target != b"*" && !shop::is_url(target) {
            return Err(Problem::BadRequest.because("The request's target is neither a path nor a URL."));
        }
        if !is_one_length(header) {
            return Err(Problem::BadRequest.because("`Content-Length` must stand once, as a number."));
        }
        match announced_length(header) {
            Some(length) if self.body_bytes > 0 && length > self.body_bytes => {
                Err(Problem::TooLarge.because(format!("A body may have {} bytes.", self.body_bytes)))
            }
            _ => Ok(()),
        }
    }
}

impl Edge {
    /// Sends a request to a sale through the funnel, and what is left of it to the stock.
    async fn visit(&self, session: &mut Session, route: &Route, client: IpAddr, live: &Live) -> Result<Reply, Refusal> {
        let now_ms = unix_ms();
        let key = [&self.key_prefix[..], &route.sale[..]].concat();
        let header = session.req_header();
        let mut input = input::from_query(route.call, header.uri.query().unwrap_or_default())?;
        let wanted_id = if route.call.takes_stock() { input::idempotency_key(&header.headers)? } else { None };
        check_length(header)?;

        let mut visit = Visit {
            route,
            key: &key,
            headers: &header.headers,
            input: &input,
            address: client,
            now_ms,
            caller: Caller::Unknown,
            ticket: None,
            favoured: false,
            stay: None,
            standings: Standings::default(),
        };
        live.funnel.pass(&mut visit).await?;
        let Visit { caller, ticket, stay, standings, .. } = visit;

        if route.call.reads_body() {
            let body = tokio::time::timeout(live.limits.body_time.whole, read_body(session)).await;
            let body = body.unwrap_or_else(|_| Err(Problem::SlowBody.into()))?;
            input = merge(route, input, &session.req_header().headers, &body)?;
        }
        if route.call == routes::Call::Ticket {
            let challenge = input.challenge.as_deref();
            let (sale, key, caller) = (&route.sale[..], &key[..], &caller);
            let request = tickets::Request { sale, key, caller, address: client, now_ms, challenge };
            return standings.tell(live.tickets.issue(&request).await);
        }
        let place = live.funnel.enter(route.call)?;
        let result = live
            .counter
            .serve(Order {
                call: route.call,
                sale: route.sale.clone(),
                key,
                hold: route.hold.clone(),
                caller,
                input,
                wanted_id: ticket.or(wanted_id),
                now_ms,
            })
            .await;
        if let Some(place) = place {
            place.answered();
        }
        if let Some(stay) = stay {
            stay.close(&result);
        }
        standings.tell(result)
    }
}

/// Either the query says it or the body does: two sources could contradict each other.
fn merge(route: &Route, input: Input, headers: &http::HeaderMap, body: &[u8]) -> Result<Input, Refusal> {
    if body.is_empty() {
        return Ok(input);
    }
    if input != Input::default() {
        return Err(Problem::BadRequest.because("Say it in the query or in the body, not in both."));
    }
    input::from_body(route.call, headers, body)
}

fn too_large() -> Refusal {
    Problem::TooLarge.because(format!("A body may have {BODY_BYTES_MAX} bytes."))
}

/// Refuses by the announced length, before a byte of the body is read.
fn check_length(header: &RequestHeader) -> Result<(), Refusal> {
    match announced_length(header) {
        Some(length) if length > BODY_BYTES_MAX as u64 => Err(too_large()),
        _ => Ok(()),
    }
}

fn announced_length(header: &RequestHeader) -> Option<u64> {
    header.headers.get(http::header::CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok()
}

/// The library takes `5, 5` and two equal lengths for one and passes them on as they are; what stands behind
/// might take them for something else.
fn is_one_length(header: &RequestHeader) -> bool {
    let mut lengths = header.headers.get_all(http::header::CONTENT_LENGTH).iter();
    let (first, second) = (lengths.next(), lengths.next());
    second.is_none() && first.is_none_or(|length| length.as_bytes().iter().all(u8::is_ascii_digit))
}

async fn read_body(session: &mut Session) -> Result<Bytes, Refusal> {
    if session.is_body_empty() {
        return Ok(Bytes::new());
    }
    let expects = session.req_header().headers.get(http::header::EXPECT);
    if expects.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        session.write_continue_response().await.map_err(|_| cut_off())?;
    }
    let mut body = BytesMut::new();
    while let Some(chunk) = session.read_request_body().await.map_err(|error| unread(&error))? {
        if body.len() + chunk.len() > BODY_BYTES_MAX {
            return Err(too_large());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

fn unread(error: &Error) -> Refusal {
    match error.etype() {
        ErrorType::ReadTimedout => Problem::SlowBody.into(),
        _ => cut_off(),
    }
}

fn cut_off() -> Refusal {
    Problem::BadRequest.because("The body did not arrive whole.")
}

/// Writes an answer of our own. A refused body that is small is read to its end, so that the connection can
/// be used again; a large one ends the connection.
async fn respond(session: &mut Session, reply: Reply) -> pingora::Result<()> {
    if check_length(session.req_header()).is_ok() && !matches!(reply.status, 408 | 413) {
        session.set_close_on_response_before_downstream_finish(false);
        session.set_total_drain_timeout(Some(DRAIN));
        // The client has its answer, so its next request may come right behind the body that we throw away.
        session.set_pipelining_enabled(true);
    } else {
        session.set_keepalive(None);
    }
    let head = session.req_header().method == Method::HEAD;
    let without_body = head || reply.body.is_empty();
    session.write_response_header(Box::new(reply.header()?), without_body).await?;
    if !without_body {
        session.write_response_body(Some(reply.body), true).await?;
    }
    Ok(())
}

/// Answers with a page that was kept.
async fn show(session: &mut Session, page: &Page) -> pingora::Result<()> {
    session.write_response_header(Box::new(page.header()?), false).await?;
    session.write_response_body(Some(page.body()), true).await
}

fn is_tls(session: &Session) -> bool {
    session.digest().is_some_and(|digest| digest.ssl_digest.is_some())
}

fn peer_of(session: &Session) -> IpAddr {
    session.client_addr().and_then(|address| address.as_inet()).map_or(NOBODY, |address| address.ip())
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

/// A status as a label: those we answer by name, others by class, so that a shop cannot make new labels.
fn status_label(status: u16) -> &'static str {
    const NAMED: &[(u16, &str)] = &[
        (0, "none"),
        (101, "101"),
        (200, "200"),
        (201, "201"),
        (202, "202"),
        (204, "204"),
        (304, "304"),
        (400, "400"),
        (401, "401"),
        (403, "403"),
        (404, "404"),
        (405, "405"),
        (408, "408"),
        (409, "409"),
        (410, "410"),
        (413, "413"),
        (425, "425"),
        (429, "429"),
        (500, "500"),
        (502, "502"),
        (503, "503"),
        (504, "504"),
    ];
    match NAMED.binary_search_by_key(&status, |(named, _)| *named) {
        Ok(index) => NAMED[index].1,
        Err(_) => match status / 100 {
            1 => "1xx",
            2 => "2xx",
            3 => "3xx",
            4 => "4xx",
            _ => "5xx",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_have_few_labels() {
        assert_eq!(status_label(201), "201");
        assert_eq!(status_label(418), "4xx");
        assert_eq!(status_label(0), "none");
        assert_eq!(status_label(599), "5xx");
    }

    #[test]
    fn one_length_is_one_header_with_one_number() {
        let is_one = |values: &[&'static str]| {
            let mut header = RequestHeader::build("POST", b"/", None).unwrap();
            for value in values {
                header.append_header("Content-Length", *value).unwrap();
            }
            is_one_length(&header)
        };
        assert!(is_one(&[]) && is_one(&["5"]) && is_one(&["05"]));
        assert!(!is_one(&["5", "5"]) && !is_one(&["5, 5"]) && !is_one(&["+5"]));
    }

    #[test]
    fn a_body_earns_time_by_what_comes_of_it() {
        let time = BodyTime { whole: Duration::from_secs(10), rate_min: 500 };
        let seconds = Duration::from_secs;
        assert!(!time.is_over(seconds(10), 0) && time.is_over(seconds(11), 0));
        assert!(!time.is_over(seconds(100), 45_000) && time.is_over(seconds(101), 45_000));
        assert!(!BodyTime { rate_min: 0, ..time }.is_over(seconds(86_400), 1));
    }

    #[test]
    fn the_announced_length_counts() {
        let length = |value: &'static str| {
            let mut header = RequestHeader::build("POST", b"/", None).unwrap();
            header.insert_header("Content-Length", value).unwrap();
            check_length(&header)
        };
        length("16384").unwrap();
        assert_eq!(length("16385").unwrap_err().status, 413);
        assert_eq!(length("18446744073709551615").unwrap_err().status, 413);
    }
}
