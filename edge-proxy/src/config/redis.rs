//! The `[redis]` and `[durability]` sections: where the stock lives and when it is safe.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use redis::{IntoConnectionInfo, ProtocolVersion};
use secrecy::ExposeSecret;
use serde::Deserialize;

use super::secret;

/// The Redis server that holds the sales.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RedisConfig {
    /// `redis://host:port/db`, or `rediss://` for TLS. Without a password.
    pub url: String,
    /// User of the server's access control list; empty for the default user.
    pub username: String,
    pub password_file: Option<PathBuf>,
    pub password_env: Option<String>,
    /// The sale `NAME` of a URL is the key `key_prefix + NAME`.
    pub key_prefix: String,
    /// How long one command may take, and how long a waiting request stays worth doing (NOTAFTER).
    pub timeout_ms: u64,
    /// How long opening a connection may take.
    pub connect_timeout_ms: u64,
    /// How long requests are refused at once after the server was found to be away.
    pub retry_after_failure_ms: u64,
}

impl Default for RedisConfig {
    fn default() -> Self {
        Self {
            url: "redis://127.0.0.1:6379".to_owned(),
            username: String::new(),
            password_file: None,
            password_env: None,
            key_prefix: "sale:".to_owned(),
            timeout_ms: 500,
            connect_timeout_ms: 500,
            retry_after_failure_ms: 100,
        }
    }
}

impl RedisConfig {
    /// A client for this server (RESP3, so that a lost connection is noticed while idle). Opens no connection yet.
    ///
    /// # Errors
    /// The URL is malformed or carries a password, or the secret cannot be read.
    pub fn client(&self) -> anyhow::Result<redis::Client> {
        let info = (self.url.as_str())
            .into_connection_info()
            .with_context(|| format!("[redis] url: `{}` is not a Redis URL", self.url_without_password()))?;
        if info.redis_settings().password().is_some() {
            bail!("[redis] url: leave the password out and use password_file or password_env");
        }
        let mut settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        if !self.username.is_empty() {
            settings = settings.set_username(&self.username);
        }
        let password = secret::read("[redis] password", self.password_file.as_deref(), self.password_env.as_deref())?;
        if let Some(password) = password {
            settings = settings.set_password(password.expose_secret());
        }
        let info = info.set_redis_settings(settings);
        // Fails if a provider was chosen before, which is as good.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        redis::Client::open(info).context("[redis] url")
    }

    /// The Redis key of the sale called `name`.
    pub fn key_of(&self, name: &[u8]) -> Vec<u8> {
        [self.key_prefix.as_bytes(), name].concat()
    }

    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    pub fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.connect_timeout_ms)
    }

    fn url_without_password(&self) -> &str {
        self.url.rsplit('@').next().unwrap_or_default()
    }

    pub(super) fn validate(&self) -> anyhow::Result<()> {
        if self.timeout_ms == 0 || self.connect_timeout_ms == 0 {
            bail!("[redis] timeout_ms and connect_timeout_ms must be at least 1");
        }
        if self.key_prefix.contains(['{', '}']) {
            bail!("[redis] key_prefix: braces would change the cluster slot of every sale");
        }
        self.client().map(|_| ())
    }
}

/// When an order counts as safe (the contract's section 7).
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DurabilityConfig {
    /// How many replicas must have an order before the buyer is told. 0: the primary alone.
    pub replicas: u32,
    /// How long to wait for them before the answer is `pending`.
    pub timeout_ms: u64,
}

impl Default for DurabilityConfig {
    fn default() -> Self {
        Self { replicas: 0, timeout_ms: 1000 }
    }
}

impl DurabilityConfig {
    pub(super) fn validate(&self) -> anyhow::Result<()> {
        if self.replicas > 0 && self.timeout_ms == 0 {
            bail!("[durability] timeout_ms: 0 would wait for ever");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_url(url: &str) -> RedisConfig {
        RedisConfig { url: url.to_owned(), ..RedisConfig::default() }
    }

    #[test]
    fn a_key_is_prefix_and_name() {
        assert_eq!(RedisConfig::default().key_of(b"42"), b"sale:42");
    }

    #[test]
    fn a_password_in_the_url_is_refused_and_not_repeated() {
        let error = format!("{:#}", with_url("redis://:hunter2@127.0.0.1/").client().unwrap_err());
        assert!(error.contains("password_env"), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
        let error = format!("{:#}", with_url("http://u:hunter2@127.0.0.1/").client().unwrap_err());
        assert!(!error.contains("hunter2"), "{error}");
    }

    #[test]
    fn a_wrong_url_is_named() {
        let error = format!("{:#}", with_url("nonsense").client().unwrap_err());
        assert!(error.contains("nonsense"), "{error}");
    }

    #[test]
    fn tls_urls_are_understood() {
        with_url("rediss://127.0.0.1:6380/0").client().unwrap();
    }
}
