//! The `[shop]` section: what stands behind the proxy.

use std::path::PathBuf;

use anyhow::{Context, bail, ensure};
use serde::Deserialize;

use super::secret;

/// Which of the shop's servers is next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// In turn.
    RoundRobin,
    /// The one that is answering the fewest requests.
    LeastConnections,
}

/// The shop behind the proxy.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ShopConfig {
    /// `host:port` of each server of the shop; requests go to them in turn. Empty: only sale routes are served.
    pub upstreams: Vec<String>,
    /// Whether the shop is spoken to by TLS.
    pub tls: bool,
    /// Name that the shop's certificate must carry.
    pub sni: String,
    /// Certificates that vouch for the shop's, in PEM; without it those that the system trusts.
    pub ca_file: Option<PathBuf>,
    pub balance: Balance,
    /// Path of a health page that answers 200; empty: a TCP connection is proof enough.
    pub health_path: String,
    pub health_interval_ms: u64,
    pub connect_timeout_ms: u64,
    /// How long the shop may be silent in mid-request.
    pub read_timeout_ms: u64,
    pub write_timeout_ms: u64,
    /// How long a WebSocket may be silent.
    pub websocket_idle_s: u64,
    /// How long an idle connection to the shop is kept.
    pub idle_timeout_s: u64,
    /// How many idle connections are kept, to all servers together.
    pub idle_max: usize,
    /// How many servers a request tries if it cannot be delivered.
    pub tries: usize,
    /// The shop's own bearer secret: with it the shop's server may see, confirm and release any hold.
    pub server_key_file: Option<PathBuf>,
    pub server_key_env: Option<String>,
}

impl Default for ShopConfig {
    fn default() -> Self {
        Self {
            upstreams: Vec::new(),
            tls: false,
            sni: String::new(),
            ca_file: None,
            balance: Balance::RoundRobin,
            health_path: String::new(),
            health_interval_ms: 1000,
            connect_timeout_ms: 1000,
            read_timeout_ms: 30_000,
            write_timeout_ms: 30_000,
            websocket_idle_s: 3600,
            idle_timeout_s: 60,
            idle_max: 1024,
            tries: 3,
            server_key_file: None,
            server_key_env: None,
        }
    }
}

/// A shorter server key could be guessed.
const SERVER_KEY_BYTES_MIN: usize = 16;

impl ShopConfig {
    /// The shop's server key, if one is configured.
    ///
    /// # Errors
    /// It cannot be read, or is shorter than 16 bytes.
    pub fn server_key(&self) -> anyhow::Result<Option<secrecy::SecretString>> {
        let key = secret::read("[shop] server_key", self.server_key_file.as_deref(), self.server_key_env.as_deref())?;
        if let Some(key) = &key {
            let length = secrecy::ExposeSecret::expose_secret(key).len();
            ensure!(
                length >= SERVER_KEY_BYTES_MIN,
                "[shop] server_key: {length} bytes can be guessed; use at least {SERVER_KEY_BYTES_MIN}"
            );
        }
        Ok(key)
    }

    pub(super) fn validate(&self) -> anyhow::Result<()> {
        for upstream in &self.upstreams {
            let (host, port) = upstream
                .rsplit_once(':')
                .with_context(|| format!("[shop] upstreams: `{upstream}` is not host:port"))?;
            ensure!(!host.is_empty() && port.parse::<u16>().is_ok(), "[shop] upstreams: `{upstream}` is not host:port");
        }
        if self.tls && self.sni.is_empty() {
            bail!("[shop] tls: set sni to the name in the shop's certificate");
        }
        if !self.health_path.is_empty() && !self.health_path.starts_with('/') {
            bail!("[shop] health_path: must start with a slash");
        }
        ensure!(self.tries > 0 && self.idle_max > 0, "[shop] tries and idle_max must be at least 1");
        ensure!(
            self.health_interval_ms > 0 && self.connect_timeout_ms > 0,
            "[shop] health_interval_ms and connect_timeout_ms must be at least 1"
        );
        self.server_key().map(|_| ())
    }
}
