//! Takes over a changed config without dropping a request, as far as that goes.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, bail};
use async_trait::async_trait;
use pingora::server::ShutdownWatch;
use pingora::services::background::BackgroundService;
use serde::Serialize;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use toml::Table;

use super::certificate::Certificate;
use super::lifecycle::connections_max;
use super::live::{Current, Fixed, Live};
use super::places::Places;
use super::successor::{self, Orders};
use crate::background;
use crate::config::{self, Config, change};
use crate::store::current::Stock;

/// Sections that say where the stock is.
const DEPLOYMENT: &[&str] = &["redis", "durability", "sales"];

/// Reloads the config file, on SIGHUP and whenever it is asked to.
pub struct Reloader {
    pub path: PathBuf,
    /// The config in force as it stands in files; two reloads do not run at the same time.
    pub source: Mutex<Table>,
    pub live: Current,
    pub fixed: Fixed,
    pub places: Arc<Places>,
    pub certificate: Option<Arc<Certificate>>,
    pub relays: Orders,
    pub balancers: Orders,
}

/// What became of a reload.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Keys whose new values are in force.
    pub changed: Vec<String>,
    /// Keys whose old values stay until the next start.
    pub kept: Vec<String>,
}

impl Reloader {
    /// Reads the file again, and the files of secrets, keys and certificates that it names.
    ///
    /// # Errors
    /// The file cannot be read or is wrong: then everything stays as it was.
    pub fn reload(&self) -> anyhow::Result<Report> {
        let mut source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        let text = config::read(&self.path)?;
        let wrong = || format!("config {}", self.path.display());
        // As a whole first, so that mistakes in what is not taken over now are told now too.
        Config::parse(&text).with_context(wrong)?;
        let new: Table = text.parse()?;
        let (changed, kept): (Vec<_>, Vec<_>) =
            change::changed_keys(&source, &new).into_iter().partition(|key| change::is_live(key));
        let merged = change::keep(&source, new, &kept);
        let config = Config::parse(&merged.to_string()).with_context(wrong)?;
        let changes = |sections: &[&str]| {
            changed.iter().any(|key| sections.iter().any(|section| key.split('.').next() == Some(section)))
        };
        let moves = changes(DEPLOYMENT);
        let stock = if moves { Some(self.reachable(&config)?) } else { None };
        let relay = if moves || changes(&["relay"]) { Some(successor::relay(&config)?) } else { None };
        let balancer = (moves || changes(&["balancer"])).then(|| successor::balancer(&config));
        let before = self.live.load_full();
        let live = Live::new(config, &self.fixed, Some(&before))?;
        if let (Some(certificate), Some(tls)) = (&self.certificate, &live.config.listen.tls) {
            certificate.renew(tls)?;
        }
        let listen = &live.config.listen;
        self.places.set_limits(listen.connections_per_address, connections_max(listen));
        if changes(&["known"]) {
            self.fixed.known.change(&live.config.known);
        }
        if let Some(stock) = stock {
            self.fixed.store.replace(stock);
            // What is known is known of the old one.
            self.fixed.known.changed_all();
        }
        self.fixed.adopt(&live, Some(&before));
        self.live.store(Arc::new(live));
        // The services are gone only when the process ends.
        let _ = relay.map(|relay| self.relays.send(relay));
        let _ = balancer.map(|balancer| self.balancers.send(balancer));
        *source = merged;
        Ok(Report { changed, kept })
    }

    /// The deployment that `config` leads to. A slip of the pen must not take a running sale away from its stock, so
    /// one of its servers must answer.
    fn reachable(&self, config: &Config) -> anyhow::Result<Arc<Stock>> {
        let stock = Stock::new(config)?;
        let fleet = stock.fleet.clone();
        let looked = Handle::try_current()?.block_on(background::run(async move { fleet.topology().await }));
        match looked {
            Some(Ok(_)) => Ok(stock),
            Some(Err(error)) => bail!("[redis]: {error}"),
            None => bail!("[redis]: looking for the servers came to nothing"),
        }
    }

    fn reload_and_tell(&self) {
        match self.reload() {
            Ok(report) => report.tell(),
            Err(error) => log::error!("the config stays as it was: {error:#}"),
        }
    }
}

impl Report {
    /// Writes it to the log.
    pub fn tell(&self) {
        log::info!(
            "reloaded; changed: {}",
            if self.changed.is_empty() { "no key".into() } else { self.changed.join(", ") }
        );
        if !self.kept.is_empty() {
            log::warn!("these need a new process, and stay as they were: {}", self.kept.join(", "));
        }
    }
}

/// Waits for SIGHUP.
pub struct OnHangup(pub Arc<Reloader>);

#[async_trait]
impl BackgroundService for OnHangup {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        let Ok(mut hangups) = signal(SignalKind::hangup()) else {
            log::error!("SIGHUP cannot be received: reload by the admin listener");
            return;
        };
        loop {
            tokio::select! {
                _ = hangups.recv() => {
                    let reloader = self.0.clone();
                    // Reads files and may resolve names.
                    let _ = tokio::task::spawn_blocking(move || reloader.reload_and_tell()).await;
                }
                _ = shutdown.changed() => return,
            }
        }
    }
}
