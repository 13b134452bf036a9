//! The `[redis]`, `[durability]` and `[[sales]]` sections: where the stock lives and when it is safe.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use flashsale_core::bounds::MAX_SHARDS;
use redis::{Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, TlsCertificates};
use redis::{ProtocolVersion, RedisConnectionInfo};
use secrecy::ExposeSecret;
use serde::Deserialize;

use super::redis_groups::RedisGroup;
use super::secret;

/// What kind of deployment the addresses lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RedisMode {
    /// Ask the first server that answers.
    #[default]
    Auto,
    /// Each address is a server of its own.
    Standalone,
    /// The addresses are Sentinels, which know the primary.
    Sentinel,
    /// The addresses are some nodes of a Redis Cluster.
    Cluster,
}

/// What answers the commands of a sale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RedisBackend {
    /// The module if the server has it, else the library of functions.
    #[default]
    Auto,
    /// The module.
    Module,
    /// `lua/flashsale.lua`.
    Functions,
}

/// The Redis deployment that holds the sales.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RedisConfig {
    pub mode: RedisMode,
    pub backend: RedisBackend,
    /// `redis://host:port/db`, or `rediss://` for TLS. Without a password.
    pub url: String,
    /// Several addresses, in place of `url`: servers, Sentinels, or nodes of a cluster.
    pub urls: Vec<String>,
    /// Several clusters, groups of Sentinels or servers, over which the shards of a sale are spread; in place of `url`
    /// and `urls`.
    pub groups: Vec<RedisGroup>,
    /// User of the server's access control list; empty for the default user.
    pub username: String,
    pub password_file: Option<PathBuf>,
    pub password_env: Option<String>,
    /// What the Sentinels call the primary.
    pub sentinel_master: String,
    /// User and password of the Sentinels themselves, which have their own.
    pub sentinel_username: String,
    pub sentinel_password_file: Option<PathBuf>,
    pub sentinel_password_env: Option<String>,
    /// Certificates (PEM) that the servers' own must be signed by; `None`: those of public authorities.
    pub tls_ca_file: Option<PathBuf>,
    /// This edge's own certificate and key (PEM), if the servers ask for one.
    pub tls_cert_file: Option<PathBuf>,
    pub tls_key_file: Option<PathBuf>,
    /// The sale `NAME` of a URL is the key `key_prefix + NAME`.
    pub key_prefix: String,
    /// How long one command may take, and how long a waiting request stays worth doing (NOTAFTER).
    pub timeout_ms: u64,
    /// How long opening a connection may take.
    pub connect_timeout_ms: u64,
    /// How long requests are refused at once after the server was found to be away, before one may try again.
    pub retry_after_failure_ms: u64,
    /// After so many commands without an answer the server counts as away.
    pub breaker_failures: u32,
    /// Most reservations in one command; 1: each goes by itself.
    pub merge_max: usize,
    /// How often due holds are ended in sales of the library; 0: never by this edge.
    pub sweep_ms: u64,
}

impl Default for RedisConfig {
    fn default() -> Self {
        Self {
            mode: RedisMode::Auto,
            backend: RedisBackend::Auto,
            url: "redis://127.0.0.1:6379".to_owned(),
            urls: Vec::new(),
            groups: Vec::new(),
            username: String::new(),
            password_file: None,
            password_env: None,
            sentinel_master: "mymaster".to_owned(),
            sentinel_username: String::new(),
            sentinel_password_file: None,
            sentinel_password_env: None,
            tls_ca_file: None,
            tls_cert_file: None,
            tls_key_file: None,
            key_prefix: "sale:".to_owned(),
            timeout_ms: 500,
            connect_timeout_ms: 500,
            retry_after_failure_ms: 100,
            breaker_failures: 20,
            merge_max: 64,
            sweep_ms: 1000,
        }
    }
}

impl RedisConfig {
    /// The addresses: `urls`, or the one `url`. Those of groups are in [`RedisConfig::by_group`].
    pub fn addresses(&self) -> &[String] {
        if self.urls.is_empty() { std::slice::from_ref(&self.url) } else { &self.urls }
    }

    /// A client for the first address (RESP3, so that a lost connection is noticed while idle). Opens no connection.
    ///
    /// # Errors
    /// An address is malformed or carries a password, or a secret or certificate cannot be read.
    pub fn client(&self) -> anyhow::Result<Client> {
        Ok(self.clients()?.swap_remove(0))
    }

    /// A client for each address, in their order.
    ///
    /// # Errors
    /// As [`RedisConfig::client`].
    pub fn clients(&self) -> anyhow::Result<Vec<Client>> {
        let password = secret::read("[redis] password", self.password_file.as_deref(), self.password_env.as_deref())?;
        self.clients_of(&self.username, password.as_ref().map(ExposeSecret::expose_secret))
    }

    /// A client for each address, with the user and password of the Sentinels.
    ///
    /// # Errors
    /// As [`RedisConfig::client`].
    pub fn sentinel_clients(&self) -> anyhow::Result<Vec<Client>> {
        let (file, env) = (self.sentinel_password_file.as_deref(), self.sentinel_password_env.as_deref());
        let password = secret::read("[redis] sentinel_password", file, env)?;
        self.clients_of(&self.sentinel_username, password.as_ref().map(ExposeSecret::expose_secret))
    }

    fn clients_of(&self, username: &str, password: Option<&str>) -> anyhow::Result<Vec<Client>> {
        // Fails if a provider was chosen before, which is as good.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let certificates = self.certificates()?;
        self.addresses().iter().map(|url| client_of(url, username, password, &certificates)).collect()
    }

    fn certificates(&self) -> anyhow::Result<TlsCertificates> {
        let client_tls = match (&self.tls_cert_file, &self.tls_key_file) {
            (None, None) => None,
            (Some(cert), Some(key)) => Some(ClientTlsConfig {
                client_cert: pem("tls_cert_file", cert)?,
                client_key: pem("tls_key_file", key)?,
            }),
            _ => bail!("[redis] tls_cert_file and tls_key_file belong together: set both or none"),
        };
        let root_cert = self.tls_ca_file.as_deref().map(|file| pem("tls_ca_file", file)).transpose()?;
        Ok(TlsCertificates { client_tls, root_cert })
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

    /// Whether it makes sense.
    ///
    /// # Errors
    /// It does not.
    pub fn check(&self) -> anyhow::Result<()> {
        if self.timeout_ms == 0 || self.connect_timeout_ms == 0 {
            bail!("[redis] timeout_ms and connect_timeout_ms must be at least 1");
        }
        ensure!(self.breaker_failures > 0, "[redis] breaker_failures must be at least 1");
        ensure!((1..=1000).contains(&self.merge_max), "[redis] merge_max = {} is not in 1..1000", self.merge_max);
        if self.key_prefix.contains(['{', '}']) {
            bail!("[redis] key_prefix: braces would change the cluster slot of every sale");
        }
        if !self.urls.is_empty() && self.url != Self::default().url {
            bail!("[redis] url and urls are both set: leave one out");
        }
        ensure!(!self.sentinel_master.is_empty(), "[redis] sentinel_master needs a name");
        self.validate_groups()?;
        self.clients()?;
        self.sentinel_clients().map(drop)
    }
}

fn client_of(url: &str, user: &str, password: Option<&str>, tls: &TlsCertificates) -> anyhow::Result<Client> {
    let info = url
        .into_connection_info()
        .with_context(|| format!("[redis] url: `{}` is not a Redis URL", without_password(url)))?;
    if info.redis_settings().password().is_some() {
        bail!("[redis] url: leave the password out and use password_file or password_env");
    }
    let mut settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    if !user.is_empty() {
        settings = settings.set_username(user);
    }
    if let Some(password) = password {
        settings = settings.set_password(password);
    }
    let info = info.set_redis_settings(settings);
    let client = match info.addr() {
        ConnectionAddr::TcpTls { .. } => Client::build_with_tls(info, tls.clone()),
        _ => Client::open(info),
    };
    client.context("[redis] url, tls_ca_file, tls_cert_file or tls_key_file")
}

/// A client for another server of the same deployment: the same user, password and certificates.
///
/// # Errors
/// The library refuses the address.
pub fn client_at(like: &Client, credentials: &Client, host: &str, port: u16) -> redis::RedisResult<Client> {
    let info: &ConnectionInfo = like.get_connection_info();
    let settings: RedisConnectionInfo = credentials.get_connection_info().redis_settings().clone();
    let addr = match info.addr() {
        ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
            ConnectionAddr::TcpTls { host: host.to_owned(), port, insecure: *insecure, tls_params: tls_params.clone() }
        }
        _ => ConnectionAddr::Tcp(host.to_owned(), port),
    };
    Client::open(info.clone().set_addr(addr).set_redis_settings(settings))
}

fn pem(name: &str, file: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(file).with_context(|| format!("[redis] {name}: cannot read {}", file.display()))
}

fn without_password(url: &str) -> &str {
    url.rsplit('@').next().unwrap_or_default()
}

/// One `[[sales]]`: what cannot be found out about a sale.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SaleEntry {
    /// As in the URL.
    pub name: String,
    /// In how many keys the sale lives.
    pub shards: u32,
}

impl SaleEntry {
    pub(super) fn validate(&self) -> anyhow::Result<()> {
        let Self { name, shards } = self;
        ensure!((1..=MAX_SHARDS).contains(shards), "[[sales]] {name}: shards = {shards} is not in 1..{MAX_SHARDS}");
        ensure!(
            *shards == 1 || !name.contains(['{', '}']),
            "[[sales]] {name}: the name of a sale in shards has no braces"
        );
        Ok(())
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

    #[test]
    fn another_server_of_a_deployment_has_its_own_address_and_the_same_manners() {
        let client = with_url("rediss://u@redis.example:6380/0").client().unwrap();
        let other = client_at(&client, &client, "10.0.0.2", 7000).unwrap();
        let info = other.get_connection_info();
        assert!(matches!(info.addr(), ConnectionAddr::TcpTls { host, port: 7000, .. } if host == "10.0.0.2"));
        assert_eq!(info.redis_settings().username(), Some("u"));
    }

    #[test]
    fn several_addresses_keep_their_order() {
        let urls = ["redis://a:1", "redis://b:2"].map(str::to_owned).to_vec();
        let config = RedisConfig { urls, ..RedisConfig::default() };
        config.check().unwrap();
        let addresses: Vec<_> =
            config.clients().unwrap().iter().map(|client| client.get_connection_info().addr().to_string()).collect();
        assert_eq!(addresses, ["a:1", "b:2"]);
    }
}
