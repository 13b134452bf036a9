//! The relay inside this process, for shops that want one process only.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use pingora::server::ShutdownWatch;
use pingora::services::background::BackgroundService;
use tokio::sync::{mpsc, watch};

use crate::config::Config;
use crate::relay::{Relay, Settings};

/// The relay that the config asks for, if it asks for one.
///
/// # Errors
/// A setting makes no sense, or a secret cannot be read.
pub fn wanted(config: &Config) -> anyhow::Result<Option<Relay>> {
    config.relay.enabled.then(|| Relay::new(Settings::of_config(config)?)).transpose()
}

/// Where the service is told of another relay, or of none.
pub type Orders = mpsc::UnboundedSender<Option<Relay>>;

type Inbox = mpsc::UnboundedReceiver<Option<Relay>>;

/// Runs one relay at a time. It runs once.
pub struct RelayService {
    first: Mutex<Option<(Option<Relay>, Inbox)>>,
    works: Arc<AtomicBool>,
}

impl RelayService {
    /// The flag is true until the relay has written down what was delivered and given its streams back.
    pub fn new(relay: Option<Relay>) -> (Self, Orders, Arc<AtomicBool>) {
        let (orders, inbox) = mpsc::unbounded_channel();
        let works = Arc::new(AtomicBool::new(relay.is_some()));
        (Self { first: Mutex::new(Some((relay, inbox))), works: works.clone() }, orders, works)
    }

    /// Runs `relay` until there is another; gives that one, or `None` at the end of the process.
    async fn run(relay: Option<Relay>, inbox: &mut Inbox, shutdown: &mut ShutdownWatch) -> Option<Option<Relay>> {
        let (stop, stopped) = watch::channel(false);
        let mut running = Box::pin(async {
            if let Some(relay) = relay {
                relay.run(stopped).await;
            }
        });
        let next = tokio::select! {
            next = inbox.recv() => next,
            _ = shutdown.changed() => None,
            // A relay of named sales may have nothing more to do.
            () = &mut running => {
                return tokio::select! {
                    next = inbox.recv() => next,
                    _ = shutdown.changed() => None,
                };
            }
        };
        // The streams are given back first, so that the next relay need not wait for the leases to end.
        let _ = stop.send(true);
        running.await;
        next
    }
}

#[async_trait]
impl BackgroundService for RelayService {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        let first = self.first.lock().ok().and_then(|mut first| first.take());
        if let Some((mut relay, mut inbox)) = first {
            loop {
                self.works.store(relay.is_some(), Ordering::Release);
                match Self::run(relay, &mut inbox, &mut shutdown).await {
                    Some(next) => relay = next,
                    None => break,
                }
            }
        }
        self.works.store(false, Ordering::Release);
    }
}
