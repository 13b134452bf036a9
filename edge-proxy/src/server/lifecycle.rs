//! Starts the process and stops it gently.

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use async_trait::async_trait;
use pingora::proxy::http_proxy;
use pingora::server::configuration::ServerConf;
use pingora::server::{ExecutionPhase, RunArgs, Server, ShutdownSignal, ShutdownSignalWatch, ShutdownWatch};
use pingora::services::background::{BackgroundService, background_service};
use pingora::services::listening::Service;
use tokio::signal::unix::{SignalKind, signal};

use super::access_log::AccessLog;
use super::admin::{Admin, Desk};
use super::certificate::{self, Certificate};
use super::door::Door;
use super::edge::{Edge, Limits};
use super::gate::{Gate, TlsGate};
use super::places::Places;
use super::shop::Shop;
use crate::config::{Config, ListenConfig, TlsConfig};
use crate::funnel::Funnel;
use crate::funnel::known::{Known, KnownStage};
use crate::funnel::rates::{AddressRate, BuyerRate};
use crate::funnel::stage::Stage;
use crate::funnel::tokens::Tokens;
use crate::metrics;
use crate::relay::{Relay, Settings};
use crate::sale::Counter;
use crate::sale::channel::Channel;
use crate::sale::refusals::Refusals;
use crate::store::SaleStore;
use crate::store::fleet::Fleet;
use crate::store::layout::Layouts;
use crate::store::redis::RedisStore;

/// Builds everything `config` asks for and serves until a signal ends it.
///
/// # Errors
/// A secret cannot be read, a name not resolved, an address not bound. Redis need not be there.
pub fn serve(config: &Config) -> anyhow::Result<()> {
    metrics::register();
    let mut server = Server::new_with_opt_and_conf(None, server_conf(config));
    server.bootstrap();

    let fleet = Fleet::new(&config.redis, &config.durability)?;
    let layouts = Arc::new(Layouts::new(fleet.clone(), &config.sales, config.redis.key_prefix.as_bytes()));
    let store: Arc<dyn SaleStore> = Arc::new(RedisStore::new(fleet.clone(), layouts.clone()));
    let known = Arc::new(Known::new(&config.known, store.clone()));
    let channel = Channel::new(&config.redis, fleet, layouts, known.clone());
    let (shop, shop_health) = Shop::new(&config.shop)?;
    let shop_is_configured = shop.is_configured();
    let shop_balancer = shop_health.task();
    let edge = edge(config, store.clone(), known, shop)?;

    check_address("public", config.listen.public)?;
    check_address("admin", config.listen.admin)?;
    if let Some(tls) = &config.listen.tls {
        check_address("tls.address", tls.address)?;
    }

    let proxy = http_proxy(&server.configuration, edge);
    let tls = config.listen.tls.as_ref().map(tls_gate).transpose()?;
    let places = Arc::new(Places::new(config.listen.connections_per_address, connections_max(&config.listen)));
    let gate = Gate::new(Door::new(proxy, &config.listen), places, &config.listen, tls);
    let mut public = Service::new("public".to_owned(), gate);
    public.add_tcp(&config.listen.public.to_string());
    if let Some(tls) = &config.listen.tls {
        public.add_tcp(&tls.address.to_string());
    }
    server.add_service(public);
    let admin = Admin {
        address: config.listen.admin,
        public: config.listen.public,
        desk: Arc::new(Desk {
            store,
            shop_is_well: Box::new(move || shop_is_configured.then(|| super::shop::is_well(&shop_balancer))),
            key_prefix: config.redis.key_prefix.clone().into_bytes(),
        }),
    };
    server.add_service(background_service("admin", admin));
    server.add_service(background_service("state channel", channel));
    if shop_is_configured {
        server.add_service(shop_health);
    }
    let relay_works = Arc::new(AtomicBool::new(config.relay.enabled));
    if config.relay.enabled {
        let relay = Mutex::new(Some(Relay::new(Settings::of_config(config)?)?));
        server.add_service(background_service("relay", RelayService { relay, works: relay_works.clone() }));
    }

    warn_about(config);
    log::info!("serving buyers on {}, operators on {}", config.listen.public, config.listen.admin);
    leave_when_idle(&server, Duration::from_secs(config.listen.drain_s), relay_works);
    server.run(RunArgs { shutdown_signal: Box::new(Signals) });
    Ok(())
}

fn edge(config: &Config, store: Arc<dyn SaleStore>, known: Arc<Known>, shop: Shop) -> anyhow::Result<Edge> {
    let refusals = Arc::new(Refusals::new(&config.sale));
    let stages: Vec<Arc<dyn Stage>> = vec![
        Arc::new(AddressRate::new(&config.rates)),
        Arc::new(KnownStage::new(known.clone(), refusals.clone())),
        Arc::new(Tokens::new(&config.tokens, config.shop.server_key()?)?),
        Arc::new(BuyerRate::new(&config.rates)),
    ];
    Ok(Edge {
        funnel: Funnel::new(stages),
        counter: Counter::new(store, known, refusals, &config.sale, &config.redis),
        shop,
        access_log: AccessLog::new(&config.access_log),
        trusted_proxies: config.listen.trusted_proxies.clone(),
        limits: Limits { headers: config.listen.headers_max, body_bytes: config.listen.body_bytes_max },
        key_prefix: config.redis.key_prefix.clone().into_bytes(),
    })
}

fn tls_gate(config: &TlsConfig) -> anyhow::Result<TlsGate> {
    let certificate = Arc::new(Certificate::load(config)?);
    Ok(TlsGate { port: config.address.port(), acceptor: certificate::acceptor(certificate, config.http2)? })
}

/// The configured number, or three quarters of the files that may be open: each connection is one, and those
/// to the shop, to Redis and of the log are others.
fn connections_max(config: &ListenConfig) -> u32 {
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
        max_retries: config.shop.tries,
        ..ServerConf::default()
    }
}

/// Pingora would only panic in a thread of its own and serve the rest: find out before.
fn check_address(name: &str, address: SocketAddr) -> anyhow::Result<()> {
    TcpListener::bind(address).map(drop).with_context(|| format!("[listen] {name} = \"{address}\" cannot be had"))
}

fn warn_about(config: &Config) {
    if config.tokens.keys.is_empty() {
        log::warn!("[tokens] has no keys: nobody can reserve anything");
    }
    if config.shop.upstreams.is_empty() {
        log::warn!("[shop] upstreams is empty: only sale routes are served");
    }
    if !config.listen.admin.ip().is_loopback() {
        log::warn!("the admin listener on {} is open to others than this machine", config.listen.admin);
    }
}

/// The relay inside this process, for shops that want one process only. It runs once.
struct RelayService {
    relay: Mutex<Option<Relay>>,
    /// Turns false when the relay has written down what was delivered and given its streams back.
    works: Arc<AtomicBool>,
}

#[async_trait]
impl BackgroundService for RelayService {
    async fn start(&self, shutdown: ShutdownWatch) {
        let relay = self.relay.lock().ok().and_then(|mut relay| relay.take());
        if let Some(relay) = relay {
            relay.run(shutdown).await;
        }
        self.works.store(false, Ordering::Release);
    }
}

/// TERM, INT and QUIT all end the process gently; a second one ends it at once.
struct Signals;

#[async_trait]
impl ShutdownSignalWatch for Signals {
    async fn recv(&self) -> ShutdownSignal {
        let kinds = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::quit()];
        let streams: Result<Vec<_>, _> = kinds.into_iter().map(signal).collect();
        let Ok(mut streams) = streams else {
            log::error!("signals cannot be received: this process ends by SIGKILL only");
            return std::future::pending().await;
        };
        next(&mut streams).await;
        tokio::spawn(async move {
            next(&mut streams).await;
            std::process::exit(130);
        });
        ShutdownSignal::GracefulTerminate
    }
}

async fn next(streams: &mut [tokio::signal::unix::Signal]) {
    let signals = streams.iter_mut().map(|stream| Box::pin(stream.recv()));
    futures_util::future::select_all(signals).await;
}

/// Idle connections end at once, and so do their clients' next requests, elsewhere; it is enough to wait this
/// long for the ones that were just being read.
const LAST_CALL: Duration = Duration::from_millis(200);

/// Pingora sleeps through the whole grace period. Once no request is left, and the relay has given its streams
/// back so that another one need not wait for the lease to end, there is nothing to wait for.
fn leave_when_idle(server: &Server, drain: Duration, relay_works: Arc<AtomicBool>) {
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
        log::info!("stopped with {} requests unanswered", metrics::REQUESTS_IN_FLIGHT.get());
        std::process::exit(0);
    });
}
