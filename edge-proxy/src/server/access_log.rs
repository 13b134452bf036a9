//! A JSON line on standard output for a sample of the requests. No query, no header, no token.

use std::io::Write;
use std::net::IpAddr;
use std::time::Duration;

use rand::RngExt;
use serde::Serialize;

use crate::config::AccessLogConfig;
use crate::store::redis::unix_ms;

/// What a line says.
#[derive(Debug, Serialize)]
pub struct Line<'a> {
    pub method: &'a str,
    /// Without the query.
    pub path: &'a str,
    pub route: &'a str,
    pub status: u16,
    /// The word of the outcome: `reserved`, `sold-out`, ...
    #[serde(skip_serializing_if = "str::is_empty")]
    pub outcome: &'a str,
    pub client: IpAddr,
    /// The server of the shop that answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<&'a str>,
    pub bytes: usize,
    /// The request's trace, where there is tracing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
}

#[derive(Serialize)]
struct Whole<'a> {
    at: u64,
    #[serde(flatten)]
    line: &'a Line<'a>,
    ms: f64,
}

/// Decides which requests leave a line.
pub struct AccessLog {
    config: AccessLogConfig,
}

impl AccessLog {
    pub fn new(config: &AccessLogConfig) -> Self {
        Self { config: config.clone() }
    }

    /// Whether a request with this status is logged.
    pub fn wants(&self, status: u16) -> bool {
        (self.config.server_errors && status >= 500)
            || (self.config.sample > 0.0 && rand::rng().random_bool(self.config.sample.clamp(0.0, 1.0)))
    }

    pub fn write(&self, line: &Line<'_>, took: Duration) {
        let whole = Whole { at: unix_ms(), line, ms: (took.as_secs_f64() * 1e6).round() / 1e3 };
        if let Ok(mut text) = serde_json::to_vec(&whole) {
            text.push(b'\n');
            // A log that cannot be written must not stop the sale.
            let _ = std::io::stdout().lock().write_all(&text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(sample: f64, server_errors: bool) -> AccessLog {
        AccessLog::new(&AccessLogConfig { sample, server_errors })
    }

    #[test]
    fn the_share_is_kept() {
        assert!(log(1.0, false).wants(200));
        assert!(!log(0.0, false).wants(200));
        assert!(!log(0.0, false).wants(500));
        assert!(log(0.0, true).wants(500));
        let logged = (0..10_000).filter(|_| log(0.1, true).wants(200)).count();
        assert!((700..1300).contains(&logged), "{logged}");
    }
}
