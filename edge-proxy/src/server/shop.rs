//! The shop behind the proxy: which of its servers, within which times, with which forwarded headers.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use http::{HeaderName, HeaderValue, header};
use ipnet::IpNet;
use pingora::http::RequestHeader;
use pingora::lb::Backend;
use pingora::lb::health_check::{HealthObserve, HttpHealthCheck, TcpHealthCheck};
use pingora::protocols::ALPN;
use pingora::upstreams::peer::HttpPeer;

use super::servers::{Servers, Visit};
use crate::background::{self, Task};
use crate::config::{ShopConfig, millis};
use crate::http::address::is_trusted;

/// The shop's servers. Their health is looked at for as long as this lives.
pub struct Shop {
    config: ShopConfig,
    servers: Arc<Servers>,
    _health: Option<Task>,
}

impl Shop {
    /// The shop's servers, all of them thought well until looked at.
    ///
    /// # Errors
    /// A name cannot be resolved.
    pub fn new(config: &ShopConfig) -> anyhow::Result<Self> {
        let servers = Arc::new(Servers::new(&config.upstreams, config.balance, health_check(config)?)?);
        let health = (!config.upstreams.is_empty())
            .then(|| background::spawn(watch(servers.clone(), millis(config.health_interval_ms))));
        Ok(Self { config: config.clone(), servers, _health: health })
    }

    /// Whether there is a shop at all: without one only sale routes are served.
    pub fn is_configured(&self) -> bool {
        !self.config.upstreams.is_empty()
    }

    /// Whether at least one of its servers is well; `None` if it has none.
    pub fn is_well(&self) -> Option<bool> {
        self.is_configured().then(|| self.servers.is_any_well())
    }

    /// How long a WebSocket may be silent.
    pub fn websocket_idle(&self) -> Duration {
        Duration::from_secs(self.config.websocket_idle_s)
    }

    /// The server whose turn it is, for a request that has been at `tried` in vain.
    pub fn pick(&self, tried: &[usize]) -> Option<Visit> {
        self.servers.pick(tried)
    }

    /// How to speak to `backend`.
    pub fn peer(&self, backend: &Backend, upgrade: bool) -> HttpPeer {
        let config = &self.config;
        let mut peer = HttpPeer::new(backend, config.tls, config.sni.clone());
        let options = &mut peer.options;
        options.connection_timeout = Some(millis(config.connect_timeout_ms));
        options.total_connection_timeout = Some(millis(config.connect_timeout_ms));
        options.read_timeout =
            Some(if upgrade { Duration::from_secs(config.websocket_idle_s) } else { millis(config.read_timeout_ms) });
        options.write_timeout = Some(millis(config.write_timeout_ms));
        options.idle_timeout = Some(Duration::from_secs(config.idle_timeout_s));
        // HTTP/2 to the shop would make Pingora repeat a POST after an error of the connection.
        options.alpn = ALPN::H1;
        peer
    }
}

/// Looks at the servers' health again and again.
async fn watch(servers: Arc<Servers>, interval: Duration) {
    loop {
        servers.check().await;
        tokio::time::sleep(interval).await;
    }
}

/// Says in one line what the library says in twenty.
struct Tell;

#[async_trait]
impl HealthObserve for Tell {
    async fn observe(&self, target: &Backend, healthy: bool) {
        if healthy {
            log::info!("the shop's server {} is well", target.addr);
        } else {
            log::warn!("the shop's server {} is not well", target.addr);
        }
    }
}

type HealthCheck = Box<dyn pingora::lb::health_check::HealthCheck + Send + Sync>;

fn health_check(config: &ShopConfig) -> anyhow::Result<HealthCheck> {
    let timeout = Some(millis(config.connect_timeout_ms));
    if config.health_path.is_empty() {
        let mut check = if config.tls { TcpHealthCheck::new_tls(&config.sni) } else { TcpHealthCheck::new() };
        check.peer_template.options.connection_timeout = timeout;
        check.peer_template.options.verify_cert = config.ca_file.is_none();
        check.health_changed_callback = Some(Box::new(Tell));
        return Ok(check);
    }
    let host = if config.sni.is_empty() { "shop" } else { &config.sni };
    let mut check = HttpHealthCheck::new(host, config.tls);
    check.req = RequestHeader::build("GET", config.health_path.as_bytes(), None).context("[shop] health_path")?;
    check.req.insert_header("Host", host).context("[shop] sni")?;
    check.peer_template.options.connection_timeout = timeout;
    check.peer_template.options.read_timeout = timeout;
    // The checks know only the system's certificates. They carry no secret; requests do, and verify.
    check.peer_template.options.verify_cert = config.ca_file.is_none();
    check.reuse_connection = true;
    check.health_changed_callback = Some(Box::new(Tell));
    Ok(Box::new(check))
}

/// Whether a request's target is a URL, as clients send them to proxies they know of.
pub fn is_url(target: &[u8]) -> bool {
    [&b"http://"[..], b"https://"]
        .iter()
        .any(|scheme| target.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)))
}

/// What tells who is there and what was asked for, as written by whoever stands before.
const TOLD: [HeaderName; 6] = [
    FORWARDED_FOR,
    FORWARDED_PROTO,
    FORWARDED_HOST,
    HeaderName::from_static("x-forwarded-port"),
    header::FORWARDED,
    HeaderName::from_static("x-real-ip"),
];
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Tells the shop who is really there. What a stranger wrote into these headers is thrown away; what a trusted
/// proxy wrote is kept and extended.
///
/// # Errors
/// A value that no header can carry.
pub fn forward(request: &mut RequestHeader, peer: IpAddr, tls: bool, trusted: &[IpNet]) -> pingora::Result<()> {
    let peer = peer.to_canonical();
    // Most requests bring none of them, which one look at their names tells.
    let mut is_told = request.headers.keys().any(|name| TOLD.contains(name));
    if is_told && !is_trusted(peer, trusted) {
        for name in &TOLD {
            request.remove_header(name);
        }
        is_told = false;
    }
    let mut hops = String::new();
    if is_told {
        let before = request.headers.get_all(FORWARDED_FOR).iter();
        before.filter_map(|value| value.to_str().ok()).for_each(|hop| hops.extend([hop, ", "]));
    }
    hops.push_str(&peer.to_string());
    request.insert_header("X-Forwarded-For", hops)?;
    if !is_told || !request.headers.contains_key(FORWARDED_PROTO) {
        request.insert_header("X-Forwarded-Proto", HeaderValue::from_static(if tls { "https" } else { "http" }))?;
    }
    let host = request.headers.get(header::HOST).cloned();
    if (!is_told || !request.headers.contains_key(FORWARDED_HOST))
        && let Some(host) = &host
    {
        request.insert_header("X-Forwarded-Host", host)?;
    }
    if is_url(request.raw_path()) {
        // Servers see paths, proxies see URLs (RFC 9112, section 3.2.1); the host has been compared already.
        let path = request.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        request.set_raw_path(path.as_bytes())?;
    }
    if host.is_none() {
        // HTTP/1.0 needs none, but to the shop goes HTTP/1.1 (RFC 9112, section 3.2).
        request.insert_header("Host", "")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forwarded(peer: &str, headers: &[(&'static str, &'static str)]) -> RequestHeader {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        for (name, value) in headers {
            request.append_header(*name, *value).unwrap();
        }
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        forward(&mut request, peer.parse().unwrap(), false, &trusted).unwrap();
        request
    }

    #[test]
    fn a_strangers_claims_are_thrown_away() {
        let request = forwarded(
            "203.0.113.9",
            &[
                ("host", "shop.example"),
                ("x-forwarded-for", "1.2.3.4"),
                ("x-forwarded-proto", "https"),
                ("x-forwarded-host", "evil.example"),
                ("forwarded", "for=1.2.3.4"),
                ("x-real-ip", "1.2.3.4"),
            ],
        );
        assert_eq!(request.headers["x-forwarded-for"], "203.0.113.9");
        assert_eq!(request.headers["x-forwarded-proto"], "http");
        assert_eq!(request.headers["x-forwarded-host"], "shop.example");
        assert!(!request.headers.contains_key("forwarded"));
        assert!(!request.headers.contains_key("x-real-ip"));
    }

    #[test]
    fn a_url_becomes_a_path() {
        let mut request = RequestHeader::build("GET", b"HTTP://shop.example/a?b=c", None).unwrap();
        request.insert_header("Host", "shop.example").unwrap();
        forward(&mut request, "203.0.113.9".parse().unwrap(), false, &[]).unwrap();
        assert_eq!(request.raw_path(), b"/a?b=c");
    }

    #[test]
    fn a_trusted_proxys_word_is_kept_and_extended() {
        let request = forwarded(
            "10.0.0.1",
            &[
                ("host", "inner"),
                ("x-forwarded-for", "1.2.3.4"),
                ("x-forwarded-proto", "https"),
                ("x-forwarded-host", "shop.example"),
            ],
        );
        assert_eq!(request.headers["x-forwarded-for"], "1.2.3.4, 10.0.0.1");
        assert_eq!(request.headers["x-forwarded-proto"], "https");
        assert_eq!(request.headers["x-forwarded-host"], "shop.example");
    }
}
