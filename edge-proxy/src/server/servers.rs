//! The shop's servers: whose turn it is, and which of them are well.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context, bail, ensure};
use async_trait::async_trait;
use futures_util::FutureExt;
use pingora::lb::discovery::Static;
use pingora::lb::health_check::{HealthCheck, HealthObserve};
use pingora::lb::{Backend, Backends};

use crate::config::Balance;

/// One server of the shop.
#[derive(Debug)]
pub struct Server {
    pub backend: Backend,
    /// Requests that it is answering.
    busy: AtomicUsize,
    /// As the last checks found it; each is thought well until looked at. Every request asks, so it stands here and
    /// not only in the library's map.
    is_well: AtomicBool,
}

/// All of them. Each resolved address counts as a server.
pub struct Servers {
    servers: Arc<[Arc<Server>]>,
    balance: Balance,
    next: AtomicUsize,
    health: Backends,
}

/// A request at a server: counted until dropped.
#[derive(Debug)]
pub struct Visit {
    pub server: Arc<Server>,
    number: usize,
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.server.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Hears from the checks how the servers are, and says in one line what the library says in twenty.
pub struct Observer {
    servers: Arc<[Arc<Server>]>,
}

#[async_trait]
impl HealthObserve for Observer {
    async fn observe(&self, target: &Backend, healthy: bool) {
        for server in self.servers.iter().filter(|server| server.backend == *target) {
            server.is_well.store(healthy, Ordering::Relaxed);
        }
        if healthy {
            log::info!("the shop's server {} is well", target.addr);
        } else {
            log::warn!("the shop's server {} is not well", target.addr);
        }
    }
}

impl Servers {
    /// `check` makes the check that tells the observer.
    ///
    /// # Errors
    /// A name cannot be resolved, or `check` fails.
    pub fn new(
        upstreams: &[String],
        balance: Balance,
        check: impl FnOnce(Box<Observer>) -> anyhow::Result<Box<dyn HealthCheck + Send + Sync>>,
    ) -> anyhow::Result<Self> {
        let mut backends = BTreeSet::new();
        for upstream in upstreams {
            let resolved = std::net::ToSocketAddrs::to_socket_addrs(upstream.as_str())
                .with_context(|| format!("[shop] upstreams: cannot resolve {upstream:?}"))?;
            for address in resolved {
                let address = address.to_string();
                backends.insert(Backend::new(&address).map_err(|error| anyhow::anyhow!("[shop] {address}: {error}"))?);
            }
        }
        ensure!(upstreams.is_empty() || !backends.is_empty(), "[shop] upstreams: {upstreams:?} have no address");
        let server = |backend: &Backend| {
            Arc::new(Server { backend: backend.clone(), busy: AtomicUsize::new(0), is_well: AtomicBool::new(true) })
        };
        let servers: Arc<[Arc<Server>]> = backends.iter().map(server).collect();
        let mut health = Backends::new(Static::new(backends));
        health.set_health_check(check(Box::new(Observer { servers: servers.clone() }))?);
        // The list is fixed, so this does not wait.
        if let Some(Err(error)) = health.update(|_| {}).now_or_never() {
            bail!("[shop] upstreams: {error}");
        }
        Ok(Self { servers, balance, next: AtomicUsize::new(0), health })
    }

    /// The servers in the order of their numbers.
    pub fn backends(&self) -> impl Iterator<Item = &Backend> {
        self.servers.iter().map(|server| &server.backend)
    }

    /// Looks once how each server is.
    pub async fn check(&self) {
        self.health.run_health_check(true).await;
    }

    /// Whether at least one server is well.
    pub fn is_any_well(&self) -> bool {
        self.servers.iter().any(|server| server.is_well.load(Ordering::Relaxed))
    }

    /// The server for a request that has been at `tried` in vain. Servers that are not well are passed over, and
    /// so are those it has been at; if no other is left it goes all the same to the next one: the health check may
    /// be wrong, and an error is sure otherwise.
    pub fn pick(&self, tried: &[usize]) -> Option<Visit> {
        let well = |number: &usize| self.servers[*number].is_well.load(Ordering::Relaxed);
        let new = |number: &usize| !tried.contains(number);
        let count = self.servers.len();
        let first = self.next.fetch_add(1, Ordering::Relaxed) % count.max(1);
        let turn = || (0..count).map(move |step| (first + step) % count);
        let number = self
            .choose(turn().filter(|number| well(number) && new(number)))
            .or_else(|| self.choose(turn().filter(new)))
            .or_else(|| self.choose(turn()))?;
        let server = &self.servers[number];
        server.busy.fetch_add(1, Ordering::Relaxed);
        Some(Visit { server: server.clone(), number })
    }

    fn choose(&self, mut candidates: impl Iterator<Item = usize>) -> Option<usize> {
        match self.balance {
            Balance::RoundRobin => candidates.next(),
            Balance::LeastConnections => {
                candidates.min_by_key(|number| self.servers[*number].busy.load(Ordering::Relaxed))
            }
        }
    }
}

impl Visit {
    /// The number of the server, for [`Servers::pick`].
    pub fn number(&self) -> usize {
        self.number
    }
}

#[cfg(test)]
mod tests {
    use pingora::lb::health_check::TcpHealthCheck;

    use super::*;

    fn servers(count: u8, balance: Balance) -> Servers {
        let upstreams: Vec<String> = (0..count).map(|last| format!("192.0.2.{last}:80")).collect();
        Servers::new(&upstreams, balance, |observer| {
            let mut check = TcpHealthCheck::new();
            check.health_changed_callback = Some(observer);
            Ok(check)
        })
        .unwrap()
    }

    #[test]
    fn in_turn_each_gets_as_many() {
        let servers = servers(3, Balance::RoundRobin);
        let mut picked: Vec<_> = (0..9).map(|_| servers.pick(&[]).unwrap().number()).collect();
        assert_eq!(picked[..3], picked[3..6]);
        picked.sort_unstable();
        assert_eq!(picked, [0, 0, 0, 1, 1, 1, 2, 2, 2]);
    }

    #[test]
    fn by_connections_the_least_busy_is_next() {
        let servers = servers(3, Balance::LeastConnections);
        let held: Vec<_> = (0..6).map(|_| servers.pick(&[]).unwrap()).collect();
        let counts = |visits: &[Visit]| {
            (0..3).map(|number| visits.iter().filter(|visit| visit.number() == number).count()).collect::<Vec<_>>()
        };
        assert_eq!(counts(&held), [2, 2, 2]);
        let (freed, kept): (Vec<_>, Vec<_>) = held.into_iter().partition(|visit| visit.number() == 1);
        drop(freed);
        assert_eq!(servers.pick(&[]).unwrap().number(), 1);
        drop(kept);
    }

    #[test]
    fn where_it_failed_a_request_does_not_go_again() {
        for balance in [Balance::RoundRobin, Balance::LeastConnections] {
            let servers = servers(3, balance);
            let mut tried = Vec::new();
            for _ in 0..3 {
                let visit = servers.pick(&tried).unwrap();
                assert!(!tried.contains(&visit.number()));
                tried.push(visit.number());
            }
            assert!(servers.pick(&tried).is_some(), "better an old one than none");
        }
    }

    #[tokio::test]
    async fn who_is_not_well_is_passed_over_until_it_is() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let upstreams = [address.to_string()];
        let servers = Servers::new(&upstreams, Balance::RoundRobin, |observer| {
            let mut check = TcpHealthCheck::new();
            check.health_changed_callback = Some(observer);
            Ok(check)
        })
        .unwrap();
        servers.check().await;
        assert!(servers.is_any_well());
        drop(listener);
        servers.check().await;
        assert!(!servers.is_any_well());
        assert!(servers.pick(&[]).is_some(), "the check may be wrong");
        let _again = std::net::TcpListener::bind(address).unwrap();
        servers.check().await;
        assert!(servers.is_any_well());
    }

    #[test]
    fn no_server_is_nobodys_turn() {
        assert!(servers(0, Balance::RoundRobin).pick(&[]).is_none());
    }
}
