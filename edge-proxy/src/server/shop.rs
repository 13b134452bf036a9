//! The shop behind the proxy: which of its servers, and within which times.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use http::{HeaderMap, HeaderName, header};
use pingora::http::RequestHeader;
use pingora::lb::Backend;
use pingora::lb::health_check::{HttpHealthCheck, TcpHealthCheck};
use pingora::protocols::ALPN;
use pingora::upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy};

use super::servers::{Observer, Servers, Visit};
use crate::background::{self, Task};
use crate::config::{ShopConfig, millis};

/// The shop's servers. Their health is looked at for as long as this lives.
pub struct Shop {
    config: ShopConfig,
    servers: Arc<Servers>,
    /// How to speak to each of them of a plain request.
    plain: Vec<HttpPeer>,
    _health: Option<Task>,
}

impl Shop {
    /// The shop's servers, all of them thought well until looked at.
    ///
    /// # Errors
    /// A name cannot be resolved.
    pub fn new(config: &ShopConfig) -> anyhow::Result<Self> {
        let check = |observer| health_check(config, observer);
        let servers = Arc::new(Servers::new(&config.upstreams, config.balance, check)?);
        let health = (!config.upstreams.is_empty())
            .then(|| background::spawn(watch(servers.clone(), millis(config.health_interval_ms))));
        let plain = servers.backends().map(|backend| plain_peer(config, backend)).collect();
        Ok(Self { config: config.clone(), servers, plain, _health: health })
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

    /// How to speak to the server with this number of a request with these `headers`.
    pub fn peer(&self, server: usize, headers: &HeaderMap, upgrade: bool) -> HttpPeer {
        let mut peer = self.plain[server].clone();
        if upgrade {
            peer.options.read_timeout = Some(self.websocket_idle());
        }
        peer.options.http_upstream_request_policy = policy(headers);
        peer
    }

    /// How to speak to the server with this number of a request that has nothing to take away.
    pub fn plain_peer(&self, server: usize) -> &HttpPeer {
        &self.plain[server]
    }
}

fn plain_peer(config: &ShopConfig, backend: &Backend) -> HttpPeer {
    let mut peer = HttpPeer::new(backend, config.tls, config.sni.clone());
    let options = &mut peer.options;
    options.connection_timeout = Some(millis(config.connect_timeout_ms));
    options.total_connection_timeout = Some(millis(config.connect_timeout_ms));
    options.read_timeout = Some(millis(config.read_timeout_ms));
    options.write_timeout = Some(millis(config.write_timeout_ms));
    options.idle_timeout = Some(Duration::from_secs(config.idle_timeout_s));
    // HTTP/2 to the shop would make Pingora repeat a POST after an error of the connection.
    options.alpn = ALPN::H1;
    peer
}

/// Looks at the servers' health again and again.
async fn watch(servers: Arc<Servers>, interval: Duration) {
    loop {
        servers.check().await;
        tokio::time::sleep(interval).await;
    }
}

type HealthCheck = Box<dyn pingora::lb::health_check::HealthCheck + Send + Sync>;

fn health_check(config: &ShopConfig, observer: Box<Observer>) -> anyhow::Result<HealthCheck> {
    let timeout = Some(millis(config.connect_timeout_ms));
    if config.health_path.is_empty() {
        let mut check = if config.tls { TcpHealthCheck::new_tls(&config.sni) } else { TcpHealthCheck::new() };
        check.peer_template.options.connection_timeout = timeout;
        check.peer_template.options.verify_cert = config.ca_file.is_none();
        check.health_changed_callback = Some(observer);
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
    check.health_changed_callback = Some(observer);
    Ok(Box::new(check))
}

/// What is between the client and us only (RFC 9110, section 7.6.1), with all that the library takes away before a
/// request goes on. What `Connection` names goes too, so without it there is no more.
const BETWEEN_TWO: [HeaderName; 10] = [
    header::CONNECTION,
    header::UPGRADE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("http2-settings"),
];

/// What the library is to take away. Where there is nothing, it would find that out by looking for each in two maps.
fn policy(headers: &HeaderMap) -> HttpUpstreamRequestPolicy {
    if headers.keys().any(is_between) {
        HttpUpstreamRequestPolicy::standard()
    } else {
        HttpUpstreamRequestPolicy::preserve()
    }
}

/// Whether a field is between the client and us only.
pub fn is_between(name: &HeaderName) -> bool {
    BETWEEN_TWO.contains(name)
}

/// Whether a request's target is a URL, as clients send them to proxies they know of.
pub fn is_url(target: &[u8]) -> bool {
    [&b"http://"[..], b"https://"]
        .iter()
        .any(|scheme| target.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_looks_at_all_that_has_something_to_take_away() {
        let policy = |names: &[&'static str]| {
            policy(&names.iter().map(|name| (HeaderName::from_static(name), "1".parse().unwrap())).collect())
        };
        assert_eq!(policy(&["host", "cookie", "x-forwarded-for"]), HttpUpstreamRequestPolicy::preserve());
        for name in ["connection", "te", "trailer", "transfer-encoding", "upgrade", "keep-alive", "http2-settings"] {
            assert_eq!(policy(&["host", name]), HttpUpstreamRequestPolicy::standard(), "{name}");
        }
    }
}
