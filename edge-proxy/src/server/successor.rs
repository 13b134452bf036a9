//! Work beside the requests that a reload replaces by other work of its kind: the relay, the balancer. One of them runs
//! at a time, and each ends what it has begun before the next begins.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use pingora::server::ShutdownWatch;
use pingora::services::background::BackgroundService;
use tokio::sync::{mpsc, watch};

use crate::balancer::Balancer;
use crate::balancer::config::Mode;
use crate::config::Config;
use crate::operate::transfer::Safety;
use crate::relay::{Relay, Settings};

/// Work that goes on until the watched value turns true.
pub type Work = Box<dyn FnOnce(watch::Receiver<bool>) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

/// Where a service is told of its next work, or that there is none.
pub type Orders = mpsc::UnboundedSender<Option<Work>>;

/// The relay that the config asks for to run in this process, if it asks for one.
///
/// # Errors
/// A setting makes no sense, or a secret cannot be read.
pub fn relay(config: &Config) -> anyhow::Result<Option<Work>> {
    if !config.relay.enabled {
        return Ok(None);
    }
    let relay = Relay::new(Settings::of_config(config)?)?;
    Ok(Some(Box::new(|stopped| Box::pin(relay.run(stopped)))))
}

/// The balancer that the config asks for, if it asks for one.
pub fn balancer(config: &Config) -> Option<Work> {
    if config.balancer.mode == Mode::Off {
        return None;
    }
    let safety = Safety::of(&config.durability);
    let balancer = Balancer::new(config.redis.clone(), safety, config.balancer.clone(), Vec::new());
    Some(Box::new(|stopped| Box::pin(async move { balancer.run(stopped).await })))
}

type Inbox = mpsc::UnboundedReceiver<Option<Work>>;

/// Runs one work at a time.
pub struct Successor {
    first: Mutex<Option<(Option<Work>, Inbox)>>,
    works: Arc<AtomicBool>,
}

impl Successor {
    pub fn new(first: Option<Work>) -> (Self, Orders) {
        let (orders, inbox) = mpsc::unbounded_channel();
        let works = Arc::new(AtomicBool::new(first.is_some()));
        (Self { first: Mutex::new(Some((first, inbox))), works }, orders)
    }

    /// True until the work has ended at the end of the process.
    pub fn works(&self) -> Arc<AtomicBool> {
        self.works.clone()
    }

    /// Does `work` until there is other; gives that, or `None` at the end of the process.
    async fn run(work: Option<Work>, inbox: &mut Inbox, shutdown: &mut ShutdownWatch) -> Option<Option<Work>> {
        let (stop, stopped) = watch::channel(false);
        let working = async {
            if let Some(work) = work {
                work(stopped).await;
            }
        };
        // There may be nothing more to do, and later there may.
        let ordered = async {
            let next = tokio::select! {
                next = inbox.recv() => next,
                _ = shutdown.changed() => None,
            };
            let _ = stop.send(true);
            next
        };
        tokio::join!(working, ordered).1
    }
}

#[async_trait]
impl BackgroundService for Successor {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        let first = self.first.lock().ok().and_then(|mut first| first.take());
        if let Some((mut work, mut inbox)) = first {
            loop {
                self.works.store(work.is_some(), Ordering::Release);
                match Self::run(work, &mut inbox, &mut shutdown).await {
                    Some(next) => work = next,
                    None => break,
                }
            }
        }
        self.works.store(false, Ordering::Release);
    }
}
