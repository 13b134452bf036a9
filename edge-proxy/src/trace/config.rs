//! The `[tracing]` section.

use anyhow::ensure;
use serde::Deserialize;

/// Spans for a tracing system. Off unless there is an `endpoint`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TracingConfig {
    /// Where spans go, by OTLP over HTTP; a URL without a path gets `/v1/traces`. Empty: there is no tracing.
    pub endpoint: String,
    /// Share of requests that are traced, where nobody before us has decided it.
    pub sample: f64,
    /// What the tracing system calls this program.
    pub service_name: String,
    /// Whose `traceparent` is taken over.
    pub parent_from: ParentFrom,
    /// How long the tracing system may take for one batch of spans.
    pub timeout_ms: u64,
}

/// Who may say which trace a request belongs to, and whether it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ParentFrom {
    /// Each request begins a trace.
    Nobody,
    /// `[listen] trusted_proxies`.
    #[default]
    TrustedProxies,
    /// Every client: anybody can have any number of requests traced.
    Anybody,
}

impl Default for TracingConfig {
    fn default() -> Self {
        Self {
            endpoint: String::new(),
            sample: 0.01,
            service_name: "flashsale".to_owned(),
            parent_from: ParentFrom::TrustedProxies,
            timeout_ms: 10_000,
        }
    }
}

impl TracingConfig {
    /// # Errors
    /// The endpoint is no URL, or a number is out of range.
    pub fn validate(&self) -> anyhow::Result<()> {
        ensure!((0.0..=1.0).contains(&self.sample), "[tracing] sample: {} is not between 0.0 and 1.0", self.sample);
        ensure!(self.timeout_ms > 0, "[tracing] timeout_ms must be at least 1");
        ensure!(!self.service_name.is_empty(), "[tracing] service_name must not be empty");
        if !self.endpoint.is_empty() {
            self.url()?;
        }
        Ok(())
    }

    /// Where spans go.
    pub(super) fn url(&self) -> anyhow::Result<String> {
        let url = reqwest::Url::parse(&self.endpoint);
        let wrong = || format!("[tracing] endpoint: {:?} is not a URL such as http://127.0.0.1:4318", self.endpoint);
        let mut url = url.map_err(|error| anyhow::anyhow!("{}: {error}", wrong()))?;
        ensure!(matches!(url.scheme(), "http" | "https") && url.has_host(), "{}", wrong());
        ensure!(
            url.username().is_empty() && url.password().is_none(),
            "[tracing] endpoint: no password belongs in a config: set OTEL_EXPORTER_OTLP_HEADERS in the environment"
        );
        if url.path() == "/" {
            url.set_path("/v1/traces");
        }
        Ok(url.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_without_a_path_gets_the_usual_one() {
        let url = |endpoint: &str| TracingConfig { endpoint: endpoint.to_owned(), ..TracingConfig::default() }.url();
        assert_eq!(url("http://127.0.0.1:4318").unwrap(), "http://127.0.0.1:4318/v1/traces");
        assert_eq!(url("https://x.example/otlp/v1/traces").unwrap(), "https://x.example/otlp/v1/traces");
        for wrong in ["127.0.0.1:4318", "grpc://x", "http://", "http://user:secret@x"] {
            url(wrong).unwrap_err();
        }
    }
}
