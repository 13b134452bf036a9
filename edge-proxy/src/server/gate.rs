//! The first stage of the funnel: which connections are taken, and what they must bring before HTTP begins.
//!
//! In order: a place among all connections, the PROXY protocol header of a trusted load balancer, a place among
//! the connections of the address, the TLS handshake. Whoever fails is dropped without a word and counted.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::apps::ServerApp;
use pingora::protocols::Stream;
use pingora::server::ShutdownWatch;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use super::connection::{Connection, Transport};
use super::door::Door;
use super::header_clock::{HeaderClock, HeaderLimits, HeaderWatch};
use super::live::Current;
use super::places::{Place, Places};
use super::proxy_protocol;
use crate::config::{ListenConfig, millis};
use crate::http::address::{NOBODY, is_trusted};
use crate::metrics;

/// TLS on one of the listeners.
pub struct TlsGate {
    /// The port that tells the TLS listener from the plain one.
    pub port: u16,
    pub acceptor: TlsAcceptor,
}

/// Stands before the [`Door`].
pub struct Gate {
    door: Arc<Door>,
    places: Arc<Places>,
    live: Current,
    tls: Option<TlsGate>,
}

/// Why a connection ended here: the reason in metrics, none if the client left by itself.
struct Turned(Option<&'static str>);

impl Turned {
    fn because(reason: &'static str) -> Self {
        Turned(Some(reason))
    }

    /// Load balancers look whether a port is open by connecting and leaving.
    fn by(error: &io::Error, reason: &'static str) -> Self {
        Turned((error.kind() != io::ErrorKind::UnexpectedEof).then_some(reason))
    }
}

impl From<super::places::Full> for Turned {
    fn from(full: super::places::Full) -> Self {
        Turned::because(full.word())
    }
}

impl Gate {
    pub fn new(door: Door, places: Arc<Places>, live: Current, tls: Option<TlsGate>) -> Self {
        Self { door: Arc::new(door), places, live, tls }
    }

    async fn admit(&self, mut stream: Stream) -> Result<Connection, Turned> {
        let since = Instant::now();
        let live = self.live.load_full();
        let config = &live.config.listen;
        let mut limits = HeaderLimits {
            time: millis(config.header_timeout_ms),
            bytes: config.header_bytes_max,
            idle: Duration::from_secs(config.keepalive_s),
        };
        let mut place = self.places.take()?;
        let peer = peer_of(&stream);
        let vouched = is_trusted(peer, &config.trusted_proxies);
        let wants_tls = self.tls.as_ref().filter(|tls| local_port(&stream) == Some(tls.port));
        let mut client = None;
        if !vouched {
            place.count_for(peer)?;
        } else if config.proxy_protocol {
            client = client_behind(&mut stream, &mut place, config).await?;
        }
        let transport = match wants_tls {
            None => Transport::Plain(stream),
            Some(tls) => {
                let handshake = tokio::time::timeout_at(since + limits.time, tls.acceptor.accept(stream));
                let stream = handshake.await.map_err(|_| Turned::because("tls"))?.map_err(|error| {
                    log::debug!("TLS with {peer}: {error}");
                    Turned::by(&error, "tls")
                })?;
                Transport::Tls(Box::new(stream))
            }
        };
        if transport.is_http2() {
            // HTTP/2 bounds its header lists itself; what comes before the first request may be a long body.
            limits.bytes = usize::MAX - 1;
        }
        let clock = Arc::new(HeaderClock::default());
        let watch = HeaderWatch::new(clock.clone(), limits, since);
        Connection::new(transport, clock, watch, client, place).map_err(|_| Turned::because("internal"))
    }
}

/// The client that a load balancer speaks for; `None` if it speaks for itself, as for a health check.
async fn client_behind(
    stream: &mut Stream,
    place: &mut Place,
    config: &ListenConfig,
) -> Result<Option<SocketAddr>, Turned> {
    let header = tokio::time::timeout(millis(config.header_timeout_ms), proxy_protocol::read(stream)).await;
    let client = header.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(|error| {
        log::debug!("a trusted proxy sent no PROXY protocol header: {error}");
        Turned::by(&error, "proxy-header")
    })?;
    if let Some(client) = client
        && !is_trusted(client.ip(), &config.trusted_proxies)
    {
        place.count_for(client.ip())?;
    }
    Ok(client)
}

#[async_trait]
impl ServerApp for Gate {
    async fn process_new(self: &Arc<Self>, stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        match self.admit(stream).await {
            Ok(connection) if connection.is_http2() => self.door.process_new(Box::new(connection), shutdown).await,
            Ok(connection) => {
                self.door.serve_http1(connection, shutdown).await;
                None
            }
            Err(Turned(reason)) => {
                if let Some(reason) = reason {
                    metrics::CONNECTIONS_REFUSED.with_label_values(&[reason]).inc();
                }
                None
            }
        }
    }

    async fn cleanup(&self) {
        ServerApp::cleanup(&*self.door).await;
    }
}

fn peer_of(stream: &Stream) -> IpAddr {
    let digest = stream.get_socket_digest();
    let address = digest.as_ref().and_then(|digest| digest.peer_addr()).and_then(|address| address.as_inet());
    address.map_or(NOBODY, |address| address.ip().to_canonical())
}

fn local_port(stream: &Stream) -> Option<u16> {
    let digest = stream.get_socket_digest()?;
    digest.local_addr()?.as_inet().map(|address| address.port())
}
