//! `flashsale demo`: a whole sale on this machine, from the first buyer to the proof.

use std::path::PathBuf;

use clap::builder::RangedU64ValueParser;

use crate::demo::{self, Plan};

/// Starts redis-server with the module, a small shop and the proxy, and lets a crowd rush a sale.
#[derive(clap::Args)]
pub struct Arguments {
    /// How many buyers come
    #[arg(long, default_value_t = 10_000, value_parser = RangedU64ValueParser::<u32>::new().range(1..=1_000_000))]
    buyers: u32,
    /// How many units there are
    #[arg(long, default_value_t = 100, value_parser = RangedU64ValueParser::<u32>::new().range(1..=1_000_000))]
    units: u32,
    /// How many requests are under way at once
    #[arg(long, default_value_t = 128, value_parser = RangedU64ValueParser::<u32>::new().range(1..=10_000))]
    concurrency: u32,
    /// Leave everything running afterwards, until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// The module; by default libflashsale.so beside this program
    #[arg(long)]
    module: Option<PathBuf>,
    /// The server to load it into
    #[arg(long, default_value = "redis-server")]
    redis_server: PathBuf,
    /// Share of webhook calls that the shop answers with 500 on purpose
    #[arg(long, default_value_t = 0.1)]
    fail_share: f64,
    /// Share of webhook calls that the shop stores and then answers with 500
    #[arg(long, default_value_t = 0.05)]
    forget_share: f64,
    /// Seed of what each buyer does
    #[arg(long, default_value_t = 42)]
    seed: u64,
}

/// Runs `flashsale demo`.
///
/// # Errors
/// A program is missing, a server does not come up, it was interrupted, or a unit was oversold, lost or doubled.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    anyhow::ensure!(
        (0.0..=0.9).contains(&arguments.fail_share) && (0.0..=0.9).contains(&arguments.forget_share),
        "--fail-share and --forget-share lie between 0 and 0.9: a shop that never answers gets no order"
    );
    let plan = Plan {
        buyers: arguments.buyers,
        units: arguments.units,
        concurrency: arguments.concurrency,
        keep: arguments.keep,
        module: arguments.module,
        redis_server: arguments.redis_server,
        fail_share: arguments.fail_share,
        forget_share: arguments.forget_share,
        seed: arguments.seed,
    };
    tokio::runtime::Runtime::new()?.block_on(demo::run(&plan))
}
