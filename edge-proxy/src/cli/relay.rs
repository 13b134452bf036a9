//! `flashsale relay`: sends orders downstream, and looks after those that could not be sent.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use axum::Router;
use axum::routing::get;
use clap::Subcommand;
use prometheus::TextEncoder;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::config::Config;
use crate::relay::{DeadLetters, Relay, Replayed, Settings};

/// Send confirmed orders downstream, by the `[relay]` section of the config.
#[derive(clap::Args)]
pub struct Arguments {
    /// The config file
    #[arg(long, global = true, default_value = "edge.toml")]
    config: PathBuf,
    /// Serve /metrics and /healthz here while running, such as 127.0.0.1:9901
    #[arg(long)]
    admin: Option<SocketAddr>,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Subcommand)]
enum Action {
    /// List the orders that could not be delivered
    Dead(Letters),
    /// Try once more to deliver them; what is taken is removed from the list
    Replay(Letters),
}

#[derive(clap::Args)]
struct Letters {
    /// Key of the sale (shard); otherwise all that the config names
    #[arg(long)]
    sale: Option<String>,
    /// Only the letter of this id, as `dead` lists it
    #[arg(long)]
    id: Option<String>,
}

/// Runs `flashsale relay`.
///
/// # Errors
/// The config is wrong, Redis is away (`dead` and `replay`), or letters could not be replayed.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let log = env_logger::Env::default().default_filter_or("info");
    // The program may have set up its log already.
    let _ = env_logger::Builder::from_env(log).try_init();
    let config = Config::load(&arguments.config)?;
    let relay = Relay::new(Settings::of_config(&config)?)?;
    Runtime::new()?.block_on(async {
        match arguments.action {
            None => deliver(relay, arguments.admin).await,
            Some(Action::Dead(letters)) => list(&relay, &letters).await,
            Some(Action::Replay(letters)) => replay(&relay, &letters).await,
        }
    })
}

async fn deliver(relay: Relay, admin: Option<SocketAddr>) -> anyhow::Result<()> {
    if let Some(address) = admin {
        let listener = TcpListener::bind(address).await;
        let listener = listener.with_context(|| format!("cannot listen on {address}"))?;
        let pages = Router::new().route("/metrics", get(metrics)).route("/healthz", get(|| async { "ok\n" }));
        tokio::spawn(axum::serve(listener, pages).into_future());
    }
    let (stop, stopped) = watch::channel(false);
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
        log::info!("stopping: tries under way are finished");
        stop.send_replace(true);
    });
    relay.run(stopped).await;
    Ok(())
}

async fn metrics() -> String {
    let text = TextEncoder::new().encode_to_string(&prometheus::gather());
    text.unwrap_or_default()
}

async fn opened(relay: &Relay, letters: &Letters) -> anyhow::Result<Vec<(String, DeadLetters)>> {
    let keys = match &letters.sale {
        Some(key) => vec![key.clone().into_bytes()],
        None => relay.keys().await.context("Redis")?,
    };
    let mut opened = Vec::new();
    for key in keys {
        let name = String::from_utf8_lossy(&key).into_owned();
        opened.push((name, relay.dead_letters(&key).await.context("Redis")?));
    }
    Ok(opened)
}

async fn list(relay: &Relay, letters: &Letters) -> anyhow::Result<()> {
    let mut count = 0;
    for (sale, mut dead) in opened(relay, letters).await? {
        let mut last = None;
        loop {
            let batch = dead.after(last).await?;
            let Some(newest) = batch.last() else { break };
            last = Some(newest.id);
            for letter in batch.iter().filter(|letter| letters.wants(letter.id)) {
                count += 1;
                let text = |name| letter.text(name);
                println!(
                    "{sale} {} no {} hold {} buyer {} items {}: {} ({} tries)",
                    letter.id,
                    text("no"),
                    text("hold"),
                    text("buyer"),
                    text("items"),
                    text("dead_reason"),
                    text("dead_tries"),
                );
            }
        }
    }
    println!("{count} dead letters");
    Ok(())
}

async fn replay(relay: &Relay, letters: &Letters) -> anyhow::Result<()> {
    let (mut delivered, mut stay) = (0, 0);
    for (sale, mut dead) in opened(relay, letters).await? {
        let mut last = None;
        loop {
            let batch = dead.after(last).await?;
            let Some(newest) = batch.last() else { break };
            last = Some(newest.id);
            for letter in batch.iter().filter(|letter| letters.wants(letter.id)) {
                match dead.replay(letter).await? {
                    Replayed::Delivered => delivered += 1,
                    Replayed::Stays { reason } => {
                        stay += 1;
                        println!("{sale} {} stays: {reason}", letter.id);
                    }
                }
            }
        }
    }
    println!("{delivered} delivered, {stay} stay");
    anyhow::ensure!(stay == 0, "{stay} orders could not be delivered");
    Ok(())
}

impl Letters {
    fn wants(&self, id: impl ToString) -> bool {
        self.id.as_ref().is_none_or(|wanted| *wanted == id.to_string())
    }
}
