//! The `[listen]` and `[access_log]` sections.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use ipnet::IpNet;
use serde::Deserialize;

/// Where the proxy listens, and what it takes from whom.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListenConfig {
    /// What buyers reach.
    pub public: SocketAddr,
    /// Metrics, health and the JSON API: keep it off the internet.
    pub admin: SocketAddr,
    /// Worker threads; 0 means one per core.
    pub threads: usize,
    /// Networks of load balancers whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether connections from trusted proxies begin with a PROXY protocol header.
    pub proxy_protocol: bool,
    /// Connections of one address, IPv6 by /64; 0 is no limit. Trusted proxies have none.
    pub connections_per_address: u32,
    /// Connections at all; 0 leaves a quarter of the files that may be open to everything else.
    pub connections_max: u32,
    /// How long a whole request header may take, and a TLS handshake.
    pub header_timeout_ms: u64,
    /// Longest request header.
    pub header_bytes_max: usize,
    /// Most fields in a request header.
    pub headers_max: usize,
    /// Longest request body that is passed to the shop; 0 is no limit. Sale routes have their own.
    pub body_bytes_max: u64,
    /// How long the whole body of a call of a sale may take. One for the shop has as long, and a second more for each
    /// `body_rate_min` bytes of it.
    pub body_timeout_ms: u64,
    /// Bytes a second; 0: bodies for the shop may take as long as they like.
    pub body_rate_min: u64,
    /// How long one read from a client may take.
    pub read_timeout_ms: u64,
    /// How long one write to a client may take.
    pub write_timeout_ms: u64,
    /// How long an idle connection is kept.
    pub keepalive_s: u64,
    /// How long running requests may take to finish after SIGTERM.
    pub drain_s: u64,
    /// Where a new process takes the listeners over from this one.
    pub upgrade_socket: Option<PathBuf>,
    /// A second public listener, for TLS.
    pub tls: Option<TlsConfig>,
}

impl Default for ListenConfig {
    fn default() -> Self {
        Self {
            public: SocketAddr::from(([0, 0, 0, 0], 8080)),
            admin: SocketAddr::from(([127, 0, 0, 1], 9900)),
            threads: 0,
            trusted_proxies: Vec::new(),
            proxy_protocol: false,
            connections_per_address: 256,
            connections_max: 0,
            header_timeout_ms: 10_000,
            header_bytes_max: 32 * 1024,
            headers_max: 100,
            body_bytes_max: 100 * 1024 * 1024,
            body_timeout_ms: 20_000,
            body_rate_min: 500,
            read_timeout_ms: 10_000,
            write_timeout_ms: 10_000,
            keepalive_s: 60,
            drain_s: 5,
            upgrade_socket: None,
            tls: None,
        }
    }
}

impl ListenConfig {
    /// Worker threads of the public listener.
    pub fn worker_threads(&self) -> usize {
        match self.threads {
            0 => std::thread::available_parallelism().map_or(1, |count| count.get()),
            threads => threads,
        }
    }

    pub(super) fn validate(&self) -> anyhow::Result<()> {
        ensure!(
            self.read_timeout_ms > 0 && self.write_timeout_ms > 0,
            "[listen] read_timeout_ms and write_timeout_ms must be at least 1"
        );
        ensure!(self.header_timeout_ms > 0, "[listen] header_timeout_ms must be at least 1");
        ensure!(self.body_timeout_ms > 0, "[listen] body_timeout_ms must be at least 1");
        ensure!(
            (HEADER_BYTES_LEAST..=HEADER_BYTES_MOST).contains(&self.header_bytes_max),
            "[listen] header_bytes_max: {} is not between {HEADER_BYTES_LEAST} and {HEADER_BYTES_MOST}",
            self.header_bytes_max
        );
        ensure!(
            (1..=HEADERS_MOST).contains(&self.headers_max),
            "[listen] headers_max: {} is not between 1 and {HEADERS_MOST}",
            self.headers_max
        );
        ensure!(
            !self.proxy_protocol || !self.trusted_proxies.is_empty(),
            "[listen] proxy_protocol: name the load balancers that speak it in trusted_proxies"
        );
        if let Some(tls) = &self.tls {
            ensure!(
                tls.address.port() == 0 || (tls.address != self.public && tls.address != self.admin),
                "[listen.tls] address: {} is taken by another listener",
                tls.address
            );
        }
        ensure!(
            self.public != self.admin || self.public.port() == 0,
            "[listen] public and admin need different addresses"
        );
        Ok(())
    }
}

/// A shorter limit would refuse honest requests.
const HEADER_BYTES_LEAST: usize = 1024;
/// The library reads no longer one.
const HEADER_BYTES_MOST: usize = 1024 * 1024 - 1;
/// The library parses no more fields.
const HEADERS_MOST: usize = 256;

/// The `[listen.tls]` section: HTTPS without another proxy in front.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    pub address: SocketAddr,
    /// The certificate and those between it and the root, in PEM.
    pub certificate_file: PathBuf,
    /// Its private key, in PEM.
    pub key_file: PathBuf,
    /// Whether HTTP/2 is offered.
    #[serde(default = "yes")]
    pub http2: bool,
}

fn yes() -> bool {
    true
}

/// Which requests leave a line on standard output.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AccessLogConfig {
    /// Share of requests that are logged, 0.0 to 1.0.
    pub sample: f64,
    /// Whether every answer of 500 and above is logged, whatever the share.
    pub server_errors: bool,
}

impl Default for AccessLogConfig {
    fn default() -> Self {
        Self { sample: 0.01, server_errors: true }
    }
}

impl AccessLogConfig {
    pub(super) fn validate(&self) -> anyhow::Result<()> {
        ensure!((0.0..=1.0).contains(&self.sample), "[access_log] sample: {} is not between 0.0 and 1.0", self.sample);
        Ok(())
    }
}

/// Milliseconds of a config key.
pub fn millis(value: u64) -> Duration {
    Duration::from_millis(value)
}
