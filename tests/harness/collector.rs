//! A tracing system for tests: takes spans by OTLP over HTTP and keeps them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use prost::Message;

use crate::Site;

/// A span as it arrived. Ids are hexadecimal.
#[derive(Debug, Clone)]
pub struct Seen {
    pub name: String,
    pub trace: String,
    pub id: String,
    /// Empty: it has none.
    pub parent: String,
    /// 2 is a server's, 3 a client's.
    pub kind: i32,
    pub failed: bool,
    pub attributes: BTreeMap<String, String>,
    /// Of whoever sent it.
    pub resource: BTreeMap<String, String>,
}

/// Listens on a port of its own until dropped.
pub struct Collector {
    site: Site,
    spans: Arc<Mutex<Vec<Seen>>>,
}

impl Collector {
    pub fn start() -> Collector {
        let spans: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let kept = Arc::clone(&spans);
        let site = Site::start_for_bytes(move |path, body| {
            if path != "/v1/traces" {
                return (404, String::new());
            }
            match ExportTraceServiceRequest::decode(body) {
                Ok(batch) => {
                    kept.lock().unwrap_or_else(PoisonError::into_inner).extend(seen(batch));
                    (200, String::new())
                }
                Err(_) => (400, String::new()),
            }
        });
        Collector { site, spans }
    }

    /// What goes into `tracing.endpoint`.
    pub fn endpoint(&self) -> String {
        self.site.url("")
    }

    /// All that has come.
    pub fn spans(&self) -> Vec<Seen> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn seen(batch: ExportTraceServiceRequest) -> Vec<Seen> {
    let mut spans = Vec::new();
    for resource_spans in batch.resource_spans {
        let resource = pairs(resource_spans.resource.map(|resource| resource.attributes).unwrap_or_default());
        for span in resource_spans.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            spans.push(Seen {
                name: span.name,
                trace: hex(&span.trace_id),
                id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                kind: span.kind,
                failed: span.status.is_some_and(|status| status.code == 2),
                attributes: pairs(span.attributes),
                resource: resource.clone(),
            });
        }
    }
    spans
}

fn pairs(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    attributes.into_iter().map(|pair| (pair.key, pair.value.map(text).unwrap_or_default())).collect()
}

fn text(value: AnyValue) -> String {
    match value.value {
        Some(any_value::Value::StringValue(text)) => text,
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
