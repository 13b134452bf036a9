//! Tracing by OpenTelemetry, if it is configured: a span for each request, and below it one for each command to the
//! stock and for each server of the shop that was asked.
//!
//! Without `[tracing] endpoint` there is none of this: a request then costs one look whether there is a trace. Names
//! and attributes are those of OpenTelemetry's semantic conventions for HTTP and Redis. No query, no header, no body
//! and no buyer ever stands in a span.

use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::Either;
use http::header::HeaderName;
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{Span as _, SpanKind, Status, TraceContextExt, Tracer as _, TracerProvider as _};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{HeaderExtractor, HeaderInjector};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider, Span};
use pingora::http::RequestHeader;

use crate::store::StoreError;

pub mod config;
mod exporter;

use config::{ParentFrom, TracingConfig};

/// How long the last spans may take to leave when the process ends.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The names of the W3C trace context.
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// What begins traces. Its spans leave in batches, from a thread of its own.
pub struct Tracing {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    parent_from: ParentFrom,
}

impl Tracing {
    /// `None` if no tracing is configured.
    ///
    /// # Errors
    /// The endpoint or a header in the environment is malformed.
    pub fn new(config: &TracingConfig) -> anyhow::Result<Option<Arc<Self>>> {
        if config.endpoint.is_empty() {
            return Ok(None);
        }
        let resource = Resource::builder()
            .with_service_name(config.service_name.clone())
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(config.sample)));
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter::exporter(config)?)
            .with_sampler(sampler)
            .with_resource(resource)
            .build();
        let tracer = provider.tracer("flashsale");
        Ok(Some(Arc::new(Self { provider, tracer, parent_from: config.parent_from })))
    }

    /// Begins the span of a request that came from `peer`, a trusted proxy or not, for `client`.
    pub fn begin(&self, header: &RequestHeader, client: IpAddr, is_trusted: bool) -> Box<Trace> {
        let believed = match self.parent_from {
            ParentFrom::Nobody => false,
            ParentFrom::TrustedProxies => is_trusted,
            ParentFrom::Anybody => true,
        };
        let parent = if believed {
            TraceContextPropagator::new().extract_with_context(&Context::new(), &HeaderExtractor(&header.headers))
        } else {
            Context::new()
        };
        // Methods are names too, and those that nobody knows must not make new ones.
        let method = known_method(header);
        let mut span =
            self.tracer.span_builder(method).with_kind(SpanKind::Server).start_with_context(&self.tracer, &parent);
        if span.is_recording() {
            span.set_attributes([
                KeyValue::new("http.request.method", method),
                KeyValue::new("url.path", header.uri.path().to_owned()),
                KeyValue::new("client.address", client.to_string()),
            ]);
        }
        let context = Context::new().with_remote_span_context(span.span_context().clone());
        Box::new(Trace { parent: Parent { tracer: self.tracer.clone(), context }, method, span, shop: None })
    }

    /// Sends what has not left yet, before the process ends.
    pub fn flush(&self) {
        // What is lost by now is lost.
        let _ = self.provider.shutdown_with_timeout(LAST_WORDS);
    }
}

impl Drop for Tracing {
    /// After a reload the last request that holds the old one drops it, on a thread that must not wait.
    fn drop(&mut self) {
        let provider = self.provider.clone();
        std::thread::spawn(move || provider.shutdown_with_timeout(LAST_WORDS));
    }
}

/// The span of a request, and of the shop's server that has it.
pub struct Trace {
    parent: Parent,
    method: &'static str,
    span: Span,
    shop: Option<Span>,
}

impl Trace {
    /// The trace's id, as it stands in the log.
    pub fn id(&self) -> String {
        self.span.span_context().trace_id().to_string()
    }

    /// It is a call of a sale; `template` is the path with the names in braces.
    pub fn route(&mut self, template: &'static str) {
        if self.span.is_recording() {
            self.span.update_name(format!("{} {template}", self.method));
            self.span.set_attribute(KeyValue::new("http.route", template));
        }
    }

    /// A server of the shop is about to be asked. One that was asked before could not take the request.
    pub fn ask_shop(&mut self, server: &str) {
        self.shop_failed();
        let mut span = self.parent.start(self.method);
        if span.is_recording() {
            let (host, port) = server.rsplit_once(':').unwrap_or((server, ""));
            span.set_attributes([
                KeyValue::new("http.request.method", self.method),
                KeyValue::new("server.address", host.trim_matches(['[', ']']).to_owned()),
                KeyValue::new("server.port", port.parse::<i64>().unwrap_or_default()),
            ]);
        }
        self.shop = Some(span);
    }

    /// Tells the shop the trace. What a stranger wrote there is thrown away.
    pub fn tell_shop(&self, request: &mut RequestHeader) {
        let Some(span) = &self.shop else {
            return;
        };
        let context = Context::new().with_remote_span_context(span.span_context().clone());
        let mut headers = http::HeaderMap::new();
        TraceContextPropagator::new().inject_context(&context, &mut HeaderInjector(&mut headers));
        for name in [TRACEPARENT, TRACESTATE] {
            request.remove_header(&name);
            // A trace without state has an empty value, which says nothing.
            if let Some(value) = headers.remove(&name).filter(|value| !value.is_empty()) {
                // Names and values of header maps are valid ones.
                let _ = request.insert_header(name, value);
            }
        }
    }

    /// The head of the shop's answer.
    pub fn shop_answered(&mut self, status: u16) {
        if let Some(span) = &mut self.shop {
            set_status(span, status, 400);
        }
    }

    /// The shop's answer is there to its last byte.
    pub fn shop_done(&mut self) {
        if let Some(mut span) = self.shop.take() {
            span.end();
        }
    }

    fn shop_failed(&mut self) {
        if let Some(mut span) = self.shop.take() {
            span.set_status(Status::error("not answered"));
            span.set_attribute(KeyValue::new("error.type", "shop"));
            span.end();
        }
    }

    /// The request is answered: 0 is not at all. `outcome` is the word of an answer of our own.
    pub fn end(&mut self, status: u16, outcome: &'static str) {
        self.shop_failed();
        if !outcome.is_empty() {
            self.span.set_attribute(KeyValue::new("flashsale.outcome", outcome));
        }
        set_status(&mut self.span, status, 500);
        self.span.end();
    }
}

/// Says how it ended; from `error_from` on it was a failure (a client's is one from 400 on, a server's from 500).
fn set_status(span: &mut Span, status: u16, error_from: u16) {
    if !span.is_recording() {
        return;
    }
    if status != 0 {
        span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status)));
    }
    if status == 0 || status >= error_from {
        let kind = if status == 0 { "unanswered".to_owned() } else { status.to_string() };
        span.set_attribute(KeyValue::new("error.type", kind));
        span.set_status(Status::error(""));
    }
}

fn known_method(header: &RequestHeader) -> &'static str {
    const KNOWN: [&str; 9] = ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"];
    KNOWN.into_iter().find(|known| *known == header.method.as_str()).unwrap_or("_OTHER")
}

/// Where spans hang.
#[derive(Clone)]
struct Parent {
    tracer: SdkTracer,
    context: Context,
}

impl Parent {
    fn start(&self, name: impl Into<std::borrow::Cow<'static, str>>) -> Span {
        let builder = self.tracer.span_builder(name).with_kind(SpanKind::Client);
        builder.start_with_context(&self.tracer, &self.context)
    }
}

tokio::task_local! {
    /// The request whose work this is, if its trace is kept.
    static CURRENT: Parent;
}

/// Does the work of a request so that its commands to the stock are found below its span.
pub fn within<W: Future>(trace: Option<&Trace>, work: W) -> impl Future<Output = W::Output> + use<W> {
    // The work is moved once, and not from one state of a future to another: it is large.
    match trace.filter(|trace| trace.span.is_recording()) {
        Some(trace) => Either::Left(CURRENT.scope(trace.parent.clone(), work)),
        None => Either::Right(work),
    }
}

/// A command to the stock; `name` such as `RESERVE`. With others merged into one it is still a span of its own.
pub fn command<'a, T>(
    name: &'a str,
    work: impl Future<Output = Result<T, StoreError>> + Send + 'a,
) -> impl Future<Output = Result<T, StoreError>> + Send {
    match CURRENT.try_with(Parent::clone) {
        Ok(parent) => Either::Left(Box::pin(traced(parent, name, work))),
        Err(_) => Either::Right(work),
    }
}

async fn traced<T>(
    parent: Parent,
    name: &str,
    work: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let operation = format!("FLASH.{}", name.to_ascii_uppercase());
    let mut span = parent.start(operation.clone());
    span.set_attributes([KeyValue::new("db.system.name", "redis"), KeyValue::new("db.operation.name", operation)]);
    let result = work.await;
    if let Err(error) = &result {
        span.set_attribute(KeyValue::new("error.type", error.word()));
        span.set_status(Status::error(""));
    }
    span.end();
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

    fn tracing(parent_from: ParentFrom, sample: f64) -> Arc<Tracing> {
        // Nobody listens there: spans are thrown away.
        let config = TracingConfig {
            endpoint: "http://127.0.0.1:9".to_owned(),
            parent_from,
            sample,
            ..TracingConfig::default()
        };
        Tracing::new(&config).unwrap().unwrap()
    }

    fn request(parent: &str) -> RequestHeader {
        let mut header = RequestHeader::build("GET", b"/a?secret=1", None).unwrap();
        header.insert_header("traceparent", parent).unwrap();
        header.insert_header("tracestate", "vendor=1").unwrap();
        header
    }

    fn id(parent_from: ParentFrom, is_trusted: bool, parent: &str) -> String {
        tracing(parent_from, 0.0).begin(&request(parent), IpAddr::from([192, 0, 2, 1]), is_trusted).id()
    }

    #[test]
    fn a_trace_is_taken_over_from_those_who_are_believed() {
        let parent = format!("00-{TRACE}-b7ad6b7169203331-01");
        for (from, is_trusted, taken) in [
            (ParentFrom::Nobody, true, false),
            (ParentFrom::TrustedProxies, false, false),
            (ParentFrom::TrustedProxies, true, true),
            (ParentFrom::Anybody, false, true),
        ] {
            assert_eq!(id(from, is_trusted, &parent) == TRACE, taken, "{from:?} {is_trusted}");
        }
        for malformed in
            ["", "00", &format!("00-{TRACE}-0000000000000000-01"), &format!("ff-{TRACE}-b7ad6b7169203331-01")]
        {
            let id = id(ParentFrom::Anybody, true, malformed);
            assert!(id != TRACE && id.len() == 32, "{malformed:?} gave {id}");
        }
    }

    #[test]
    fn the_shop_is_told_the_trace_and_nothing_else() {
        let stranger = request("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        let tracing = tracing(ParentFrom::Nobody, 0.0);
        let mut trace = tracing.begin(&stranger, IpAddr::from([192, 0, 2, 1]), true);
        let mut to_shop = stranger.clone();
        trace.ask_shop("127.0.0.1:3000");
        trace.tell_shop(&mut to_shop);
        let told = to_shop.headers["traceparent"].to_str().unwrap();
        assert!(told.starts_with(&format!("00-{}-", trace.id())) && told.ends_with("-00"), "{told}");
        assert!(!to_shop.headers.contains_key("tracestate"), "a stranger's state was passed on");
    }
}
