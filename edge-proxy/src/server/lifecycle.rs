//! Starts the process and stops it gently.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use pingora::proxy::http_proxy;
use pingora::server::configuration::{Opt, ServerConf};
use pingora::server::{ExecutionPhase, RunArgs, Server, ShutdownSignal, ShutdownSignalWatch};
use pingora::services::background::background_service;
use pingora::services::listening::Service;
use tokio::signal::unix::{SignalKind, signal};

use super::admin::{Admin, Desk};
use super::answer::Edge;
use super::certificate::{self, Certificate};
use super::door::{Door, LAST_WORDS};
use super::gate::{Gate, TlsGate};
use super::live::{Current, Fixed, Live};
use super::places::Places;
use super::reload::{OnHangup, Reloader};
use super::straight::Straight;
use super::successor::{self, Successor};
use crate::config::{self, Config, ListenConfig, TlsConfig};
use crate::funnel::known::Known;
use crate::metrics;
use crate::sale::channel::Channel;
use crate::sale::sweep::Sweep;
use crate::store::current::{CurrentStore, Stock};

/// How to start.
pub struct Start {
    /// Read again by a reload.
    pub config_file: PathBuf,
    /// Whether to take the listeners over from the process that has them.
    pub upgrade: bool,
}

/// Builds everything the config asks for and serves until a signal ends it.
///
/// # Errors
/// The config is wrong, a secret cannot be read, a name not resolved, an address not bound. Redis need not be there.
pub fn serve(start: &Start) -> anyhow::Result<()> {
    metrics::register();
    let text = config::read(&start.config_file)?;
    let config = Config::parse(&text).with_context(|| format!("config {}", start.config_file.display()))?;
    let listen = config.listen.clone();
    ensure!(!start.upgrade || listen.upgrade_socket.is_some(), "--upgrade needs [listen] upgrade_socket");
    let options = Opt { upgrade: start.upgrade, ..Opt::default() };
    let mut server = Server::new_with_opt_and_conf(options, server_conf(&config));

    let store = CurrentStore::new(Stock::new(&config)?);
    let known = Arc::new(Known::new(&config.known, store.clone()));
    let sweep = Sweep::new(&config.redis, store.clone(), known.clone());
    let channel = Channel::new(&config.redis, store.clone(), known.clone());
    let (relay, relays) = Successor::new(successor::relay(&config)?);
    let relay_works = relay.works();
    let (balancer, balancers) = Successor::new(successor::balancer(&config));
    let key_prefix = config.redis.key_prefix.clone().into_bytes();
    warn_about(&config);
    let fixed = Fixed::new(store.clone(), known);
    let live = Arc::new(ArcSwap::from_pointee(Live::new(config, &fixed, None)?));
    fixed.adopt(&live.load(), None);
    let certificate = listen.tls.as_ref().map(Certificate::load).transpose()?.map(Arc::new);
    if !start.upgrade {
        check_addresses(&listen)?;
    }

    let straight = Arc::new(Straight::new(&server.configuration));
    let edge = Edge { live: live.clone(), key_prefix: key_prefix.clone().into(), straight };
    let proxy = http_proxy(&server.configuration, edge.clone());
    let places = Arc::new(Places::new(listen.connections_per_address, connections_max(&listen)));
    let tls = listen.tls.as_ref().zip(certificate.clone()).map(tls_gate).transpose()?;
    let gate = Gate::new(Door::new(edge, proxy), places.clone(), live.clone(), tls);
    let mut public = Service::new("public".to_owned(), gate);
    public.add_tcp(&listen.public.to_string());
    if let Some(tls) = &listen.tls {
        public.add_tcp(&tls.address.to_string());
    }
    server.add_service(public);
    let reloader = Reloader {
        path: start.config_file.clone(),
        source: Mutex::new(text.parse()?),
        live: live.clone(),
        fixed,
        places,
        certificate,
        relays,
        balancers,
    };
    let reloader = Arc::new(reloader);
    let desk = Desk { store, live: live.clone(), reloader: reloader.clone(), key_prefix };
    let admin = Admin { address: listen.admin, public: listen.public, taken_over: start.upgrade, desk: Arc::new(desk) };
    server.add_service(background_service("admin", admin));
    server.add_service(background_service("reload", OnHangup(reloader)));
    server.add_service(background_service("state channel", channel));
    server.add_service(background_service("sweep", sweep));
    server.add_service(background_service("relay", relay));
    server.add_service(background_service("balancer", balancer));

    // Last of all: an upgrade ends the other process, so nothing may go wrong after it.
    server.bootstrap();
    log::info!("serving buyers on {}, operators on {}", listen.public, listen.admin);
    leave_when_idle(&server, Duration::from_secs(listen.drain_s), relay_works, live);
    server.run(RunArgs { shutdown_signal: Box::new(Signals { upgrade_socket: listen.upgrade_socket }) });
    Ok(())
}

fn tls_gate((config, certificate): (&TlsConfig, Arc<Certificate>)) -> anyhow::Result<TlsGate> {
    Ok(TlsGate { port: config.address.port(), acceptor: certificate::acceptor(certificate, config.http2)? })
}

/// The configured number, or three quarters of the files that may be open: each connection is one, and those
/// to the shop, to Redis and of the log are others.
pub(super) fn connections_max(config: &ListenConfig) -> u32 {
    match config.connections_max {
        0 => u32::try_from(open_files_max() / 4 * 3).unwrap_or(u32::MAX),
        limit => limit,
    }
}

/// How many files this process may have open. What the system lets a process grant itself is granted.
fn open_files_max() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls only read or fill the struct they are given.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) != 0 {
            return 1024;
        }
        let raised = libc::rlimit { rlim_cur: limit.rlim_max, ..limit };
        if libc::setrlimit(libc::RLIMIT_NOFILE, &raised) == 0 { limit.rlim_max } else { limit.rlim_cur }
    }
}

fn server_conf(config: &Config) -> ServerConf {
    ServerConf {
        threads: config.listen.worker_threads(),
        // Current-thread runtimes: each worker's Redis connection puts many commands into one write.
        work_stealing: false,
        grace_period_seconds: Some(config.listen.drain_s),
        graceful_shutdown_timeout_seconds: Some(1),
        // The library's own timers read the clock for each read and write, and keep a tree of all that were ever set
        // until their time. The runtime's are made only where one has to wait, and gone when it need not.
        fast_timeout_to_tokio_threshold_seconds: Some(0),
        max_retries: config.shop.tries,
        upstream_keepalive_pool_size: config.shop.idle_max,
        ca_file: config.shop.ca_file.as_ref().map(|file| file.to_string_lossy().into_owned()),
        upgrade_sock: config
            .listen
            .upgrade_socket
            .as_ref()
            .map_or_else(String::new, |socket| socket.to_string_lossy().into_owned()),
        ..ServerConf::default()
    }
}

fn check_addresses(listen: &ListenConfig) -> anyhow::Result<()> {
    check_address("public", listen.public)?;
    check_address("admin", listen.admin)?;
    listen.tls.as_ref().map_or(Ok(()), |tls| check_address("tls.address", tls.address))
}

/// Pingora would only panic in a thread of its own and serve the rest: find out before.
fn check_address(name: &str, address: SocketAddr) -> anyhow::Result<()> {
    TcpListener::bind(address).map(drop).with_context(|| format!("[listen] {name} = \"{address}\" cannot be had"))
}

fn warn_about(config: &Config) {
    if config.tokens.keys.is_empty() && config.tokens.jwks.is_empty() {
        log::warn!("[tokens] has no keys: nobody can reserve anything");
    }
    if config.shop.upstreams.is_empty() {
        log::warn!("[shop] upstreams is empty: only sale routes are served");
    }
    if !config.listen.admin.ip().is_loopback() {
        log::warn!("the admin listener on {} is open to others than this machine", config.listen.admin);
    }
}

/// TERM, INT and QUIT all end the process gently; a second one ends it at once. With a new process waiting at the
/// upgrade socket, QUIT hands the listeners over first.
struct Signals {
    upgrade_socket: Option<PathBuf>,
}

#[async_trait]
impl ShutdownSignalWatch for Signals {
    async fn recv(&self) -> ShutdownSignal {
        let kinds = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::quit()];
        let streams: Result<Vec<_>, _> = kinds.into_iter().map(signal).collect();
        let Ok(mut streams) = streams else {
            log::error!("signals cannot be received: this process ends by SIGKILL only");
            return std::future::pending().await;
        };
        let quit = next(&mut streams).await == QUIT;
        LEAVING.store(true, Ordering::Relaxed);
        tokio::spawn(async move {
            next(&mut streams).await;
            std::process::exit(130);
        });
        match &self.upgrade_socket {
            Some(socket) if quit && socket.exists() => {
                log::info!("handing the listeners over by {}", socket.display());
                ShutdownSignal::GracefulUpgrade
            }
            _ => ShutdownSignal::GracefulTerminate,
        }
    }
}

/// Place of QUIT among the signals.
const QUIT: usize = 2;

static LEAVING: AtomicBool = AtomicBool::new(false);

/// Whether this process is about to end: then answers ask clients to connect anew.
pub fn is_leaving() -> bool {
    LEAVING.load(Ordering::Relaxed)
}

/// Waits for a signal; which of them it was.
async fn next(streams: &mut [tokio::signal::unix::Signal]) -> usize {
    let signals = streams.iter_mut().map(|stream| Box::pin(stream.recv()));
    futures_util::future::select_all(signals).await.1
}

/// Idle connections end at once, and so do their clients' next requests, elsewhere; it is enough to wait this
/// long for the ones that were just being read.
const LAST_CALL: Duration = LAST_WORDS.saturating_add(Duration::from_millis(200));

/// Pingora sleeps through the whole grace period. Once no request is left, and the relay has given its streams
/// back so that another one need not wait for the lease to end, there is nothing to wait for.
fn leave_when_idle(server: &Server, drain: Duration, relay_works: Arc<AtomicBool>, live: Current) {
    let mut phases = server.watch_execution_phase();
    thread::spawn(move || {
        loop {
            match phases.blocking_recv() {
                Ok(ExecutionPhase::ShutdownGracePeriod) => break,
                Ok(_) | Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
                Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
            }
        }
        let began = Instant::now();
        thread::sleep(LAST_CALL);
        let busy = || metrics::REQUESTS_IN_FLIGHT.get() > 0 || relay_works.load(Ordering::Acquire);
        while busy() && began.elapsed() < drain {
            thread::sleep(Duration::from_millis(10));
        }
        if let Some(tracing) = &live.load().tracing {
            tracing.flush();
        }
        log::info!("stopped with {} requests unanswered", metrics::REQUESTS_IN_FLIGHT.get());
        std::process::exit(0);
    });
}
