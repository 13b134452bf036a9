//! `flashsale balance`: moves units to the shards where buyers are.

use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::connect::{Connect, runtime};
use crate::balancer::Balancer;
use crate::balancer::config::{BalancerConfig, Mode};

/// Move units of sharded sales to the shards where buyers are.
///
/// `flashsale serve` does the same by itself; this is for clients that send raw commands to standalone servers, or to
/// several clusters. Any number may run at once, with proxies that balance too, and be killed at any time: no unit is
/// made or lost. The modules of one Redis Cluster move stock among themselves and need none.
#[derive(clap::Args)]
pub struct Arguments {
    /// Only these sales; default: all
    #[arg(value_name = "NAME")]
    sales: Vec<String>,
    /// Milliseconds between two looks at a sale that is being bought
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    every: Option<u64>,
    /// Only finish what is in transit, and end
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    connect: Connect,
}

/// Runs `flashsale balance`.
///
/// # Errors
/// The config is wrong; with --once: no server answers, or a grant waits for replicas.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let log = env_logger::Env::default().default_filter_or("info");
    // The program may have set up its log already.
    let _ = env_logger::Builder::from_env(log).try_init();
    let target = arguments.connect.target()?;
    let mut config: BalancerConfig = target.config.as_ref().map(|config| config.balancer.clone()).unwrap_or_default();
    config.every_ms = arguments.every.unwrap_or(config.every_ms);
    // Who starts it by hand wants it.
    config.mode = Mode::On;
    let safety = target.safety();
    let balancer = Balancer::new(target.redis, safety, config, arguments.sales);
    if arguments.once {
        let work = runtime()?.block_on(balancer.once())?;
        println!("{} units moved", work.moved);
        anyhow::ensure!(work.waiting == 0, "{} units wait for replicas to acknowledge that they left", work.waiting);
        return Ok(());
    }
    Runtime::new()?.block_on(async {
        let (stop, stopped) = watch::channel(false);
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::spawn(async move {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            stop.send_replace(true);
        });
        log::info!("balancing");
        balancer.run(stopped).await;
        Ok(())
    })
}
