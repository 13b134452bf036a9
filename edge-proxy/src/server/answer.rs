//! Requests that the edge answers by itself: to the sale, through the funnel, or with a refusal.

use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::Method;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::ServerSession;
use pingora::{Error, ErrorType};

use super::access_log::Line;
use super::cache::Fetch;
use super::limits::{check_length, too_large};
use super::live::{Current, Live};
use super::straight::Straight;
use super::{lifecycle, servers};
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
#[derive(Clone)]
pub struct Edge {
    pub live: Current,
    pub key_prefix: Arc<[u8]>,
    pub straight: Arc<Straight>,
}

/// What is remembered of a request until its line in the log.
pub struct Request {
    pub began: Instant,
    pub live: Arc<Live>,
    client: IpAddr,
    route: &'static str,
    pub outcome: &'static str,
    /// The server of the shop that has it.
    pub visit: Option<servers::Visit>,
    /// Servers that could not take it.
    pub tried: Vec<usize>,
    /// The shop's answer, if it may be kept.
    pub fetch: Option<Box<Fetch>>,
    /// Of the body, on its way to the shop.
    pub body_bytes: u64,
    /// Its span, where there is tracing.
    pub trace: Option<Box<Trace>>,
    _in_flight: InFlight,
}

impl Request {
    /// The number of the server whose turn it is; where the request has been before, it could not be taken.
    ///
    /// # Errors
    /// The shop has no server.
    pub fn next_server(&mut self) -> pingora::Result<usize> {
        if let Some(visit) = self.visit.take() {
            self.tried.push(visit.number());
        }
        let visit = self.live.shop.pick(&self.tried);
        let visit = visit.ok_or_else(|| Error::explain(ErrorType::ConnectNoRoute, "the shop has no server"))?;
        Ok(self.visit.insert(visit).number())
    }
}

/// What a client got.
#[derive(Debug, Clone, Copy)]
pub struct Sent {
    /// 0: nothing.
    pub status: u16,
    /// Of the body.
    pub bytes: usize,
}

impl Sent {
    pub fn through(session: &ServerSession) -> Self {
        let status = session.response_written().map_or(0, |response: &ResponseHeader| response.status.as_u16());
        Self { status, bytes: session.body_bytes_sent() }
    }
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

impl Edge {
    /// A request begins: it keeps to the config that is in force now.
    pub fn begin(&self) -> Request {
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

    /// Answers what is not for the shop; `false` if it is.
    ///
    /// # Errors
    /// The client does not take the answer.
    pub async fn answer(&self, session: &mut ServerSession, request: &mut Request) -> pingora::Result<bool> {
        match self.reply(session, request).await {
            Some(reply) => respond(session, reply).await.map(|()| true),
            None => Ok(false),
        }
    }

    /// The answer to what is not for the shop; `None` if it is.
    pub async fn reply(&self, session: &mut ServerSession, request: &mut Request) -> Option<Reply> {
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
            Destination::Shop if live.shop.is_configured() => return None,
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
                // Pinned where it stands: it is large, and a plain argument is moved.
                let visit = pin!(self.visit(session, route, request.client, &live));
                match trace::within(request.trace.as_deref(), visit).await {
                    Ok(reply) => reply,
                    Err(refusal) => refusal.into(),
                }
            }
        };
        request.outcome = reply.word;
        Some(reply)
    }

    /// Counts an answered request, and logs a sample.
    pub fn note(&self, header: &RequestHeader, sent: Sent, error: Option<&Error>, request: &mut Request) {
        let Sent { status, bytes } = sent;
        let took = request.began.elapsed();
        quick::count(&metrics::RESPONSES, [request.route, status_label(status)]);
        quick::observe(&metrics::REQUEST_SECONDS, request.route, took.as_secs_f64());
        if let Some(trace) = &mut request.trace {
            trace.end(status, request.outcome);
        }
        if !request.live.access_log.wants(status) {
            return;
        }
        let error = error.map(|error| error.etype().as_str());
        let upstream = request.visit.as_ref().map(|visit| visit.server.backend.addr.to_string());
        let line = Line {
            method: header.method.as_str(),
            path: header.uri.path(),
            route: request.route,
            status,
            outcome: request.outcome,
            client: request.client,
            upstream: upstream.as_deref(),
            error,
            bytes,
            trace_id: request.trace.as_ref().map(|trace| trace.id()),
        };
        request.live.access_log.write(&line, took);
    }

    /// Sends a request to a sale through the funnel, and what is left of it to the stock.
    async fn visit(
        &self,
        session: &mut ServerSession,
        route: Route,
        client: IpAddr,
        live: &Live,
    ) -> Result<Reply, Refusal> {
        let now_ms = unix_ms();
        let key = [&self.key_prefix[..], &route.sale[..]].concat();
        let header = session.req_header();
        let mut input = input::from_query(route.call, header.uri.query().unwrap_or_default())?;
        let wanted_id = if route.call.takes_stock() { input::idempotency_key(&header.headers)? } else { None };
        check_length(header)?;

        let mut visit = Visit {
            route: &route,
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

        if route.call.reads_body() && !session.is_body_empty() {
            input = with_body(session, &route, input, live.limits.body_time.whole).await?;
        }
        if route.call == routes::Call::Ticket {
            let challenge = input.challenge.as_deref();
            let (sale, key, caller) = (&route.sale[..], &key[..], &caller);
            let request = tickets::Request { sale, key, caller, address: client, now_ms, challenge };
            return standings.tell(live.tickets.issue(&request).await);
        }
        let asked_at = Instant::now();
        let place = live.funnel.enter(route.call, asked_at)?;
        let result = live
            .counter
            .serve(Order {
                call: route.call,
                sale: route.sale,
                key,
                hold: route.hold,
                caller,
                input,
                wanted_id: ticket.or(wanted_id),
                now_ms,
                asked_at,
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

/// What a request asks for, its body included, which must arrive within `time`.
async fn with_body(session: &mut ServerSession, route: &Route, input: Input, time: Duration) -> Result<Input, Refusal> {
    let body = tokio::time::timeout(time, read_body(session)).await;
    let body = body.unwrap_or_else(|_| Err(Problem::SlowBody.into()))?;
    merge(route, input, &session.req_header().headers, &body)
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

async fn read_body(session: &mut ServerSession) -> Result<Bytes, Refusal> {
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
pub async fn respond(session: &mut ServerSession, reply: Reply) -> pingora::Result<()> {
    if check_length(session.req_header()).is_ok() && !matches!(reply.status, 408 | 413) {
        session.set_close_on_response_before_downstream_finish(false);
        session.set_total_drain_timeout(Some(DRAIN));
    } else {
        session.set_keepalive(None);
    }
    let head = session.req_header().method == Method::HEAD;
    let without_body = head || reply.body.is_empty();
    session.write_response_header(Box::new(reply.header()?)).await?;
    if !without_body {
        session.write_response_body(reply.body, true).await?;
    }
    Ok(())
}

pub fn is_tls(session: &ServerSession) -> bool {
    session.digest().is_some_and(|digest| digest.ssl_digest.is_some())
}

pub fn peer_of(session: &ServerSession) -> IpAddr {
    session.client_addr().and_then(|address| address.as_inet()).map_or(NOBODY, |address| address.ip())
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
}
