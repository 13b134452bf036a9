//! Carries spans to the tracing system, beside the requests and by the HTTP client that the relay has too.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};

use super::config::TracingConfig;
use crate::config::millis;
use crate::{background, metrics};

/// The exporter that `config` asks for. Headers, such as an API key, come from the environment
/// (`OTEL_EXPORTER_OTLP_HEADERS`): the library reads it.
pub fn exporter(config: &TracingConfig) -> anyhow::Result<SpanExporter> {
    let url = config.url()?;
    let timeout = millis(config.timeout_ms);
    let client = Client::new(&url, timeout)?;
    SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(url)
        .with_timeout(timeout)
        .with_http_client(client)
        .build()
        .context("[tracing]")
}

/// More of an answer is not read: it says at most how many spans were refused.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

#[derive(Debug)]
struct Client {
    http: reqwest::Client,
    /// Without query: what is told to people.
    place: String,
    /// Whether the last batch arrived: said once, not for each.
    well: AtomicBool,
}

impl Client {
    fn new(url: &str, timeout: Duration) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder().timeout(timeout).redirect(reqwest::redirect::Policy::none()).build()?;
        let place = url.split('?').next().unwrap_or_default().to_owned();
        Ok(Self { http, place, well: AtomicBool::new(true) })
    }

    fn tell(&self, outcome: Result<u16, &str>) {
        let trouble = match outcome {
            Ok(200..=299) => None,
            Ok(status) => Some(format!("it answers {status}")),
            Err(why) => Some(why.to_owned()),
        };
        let label = if trouble.is_none() { "ok" } else { "error" };
        metrics::TRACE_EXPORTS.with_label_values(&[label]).inc();
        let was_well = self.well.swap(trouble.is_none(), Ordering::Relaxed);
        match trouble {
            Some(why) if was_well => log::warn!("spans do not reach {}: {why}", self.place),
            None if !was_well => log::info!("spans reach {} again", self.place),
            _ => {}
        }
    }
}

#[async_trait]
impl HttpClient for Client {
    /// The library calls this on a thread of its own, without the runtime that the client needs.
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let http = self.http.clone();
        let answer = background::run(send(http, request)).await.unwrap_or_else(|| Err("it panicked".into()));
        match &answer {
            Ok(answer) => self.tell(Ok(answer.status().as_u16())),
            Err(error) => self.tell(Err(&error.to_string())),
        }
        answer
    }
}

async fn send(http: reqwest::Client, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
    // Errors of the client name the URL, which may carry a key.
    let mut answer = http.execute(request.try_into()?).await.map_err(reqwest::Error::without_url)?;
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(reqwest::Error::without_url)? {
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err("the answer is too long".into());
        }
        body.extend_from_slice(&chunk);
    }
    let mut response = Response::builder().status(answer.status());
    if let Some(headers) = response.headers_mut() {
        headers.clone_from(answer.headers());
    }
    Ok(response.body(Bytes::from(body))?)
}
