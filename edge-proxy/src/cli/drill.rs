//! `flashsale drill`: a rehearsal against a deployment.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::builder::RangedU64ValueParser;
use tokio::runtime::Runtime;

use super::connect::Connect;
use super::units;
use crate::drill::{self, Plan, Tokens};
use crate::operate::create::Shards;

/// Rehearse: let a crowd rush a sale of its own through the proxy, and check the books afterwards.
///
/// The sale is made for the drill and removed at its end; its orders go to no shop. Buyers come whether or not earlier
/// ones were answered, most of them in the first fifth of the time, and latency counts from when they wanted to ask.
/// Ends with 1 if anything was oversold, lost, doubled, or not answered.
///
/// The proxy takes the crowd for one address and limits its rate, unless this machine is among its `trusted_proxies`:
/// then each buyer has an address of their own.
#[derive(clap::Args)]
pub struct Arguments {
    /// The proxy's public address; default: `listen.public` of the config, on this machine
    #[arg(long)]
    url: Option<String>,
    /// The proxy's admin address, for the funnel's counts; default: `listen.admin` of the config
    #[arg(long)]
    admin: Option<String>,
    /// How many buyers come
    #[arg(long, default_value_t = 10_000, value_parser = RangedU64ValueParser::<u32>::new().range(1..=10_000_000))]
    buyers: u32,
    /// How many units there are
    #[arg(long, default_value_t = 100, value_parser = RangedU64ValueParser::<u32>::new().range(1..=10_000_000))]
    units: u32,
    /// How many more pay for a unit that they have already, first in peace and then as many in the rush: what paying takes
    #[arg(long, default_value_t = 0, value_parser = RangedU64ValueParser::<u32>::new().range(0..=10_000))]
    payers: u32,
    /// In which time they come
    #[arg(long, default_value = "10s", value_parser = units::duration)]
    over: u64,
    /// In how many shards the sale lives: a number, or auto
    #[arg(long, default_value = "1", value_parser = units::shards, value_name = "N|auto")]
    shards: Shards,
    /// How long a hold lives
    #[arg(long, default_value = "1m", value_parser = units::duration)]
    hold: u64,
    /// Most requests that this machine has under way at once
    #[arg(long, default_value_t = 1_000, value_parser = RangedU64ValueParser::<u32>::new().range(1..=60_000))]
    in_flight: u32,
    /// A file of identity tokens, one a line; default: signed with the shared secret of the config's [tokens]
    #[arg(long, value_name = "FILE")]
    tokens: Option<PathBuf>,
    /// Seed of when buyers come and what they do
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Leave the sale there, closed
    #[arg(long)]
    keep: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connect: Connect,
}

/// Runs `flashsale drill`.
///
/// # Errors
/// The proxy or Redis does not answer, or the drill failed.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let target = arguments.connect.target()?;
    let config = target.config.as_ref();
    let here = |port: u16| format!("http://127.0.0.1:{port}");
    let url = arguments.url.or_else(|| config.map(|config| here(config.listen.public.port())));
    let url = url.context("which proxy? Name its config with --config, or its public address with --url")?;
    let tokens = match (&arguments.tokens, config) {
        (Some(path), _) => Tokens::of_file(path, arguments.buyers.saturating_add(arguments.payers.saturating_mul(2)))?,
        (None, Some(config)) => Tokens::of_config(config)?,
        (None, None) => anyhow::bail!("give the proxy's config with --config, or identity tokens with --tokens FILE"),
    };
    let plan = Plan {
        url: url.trim_end_matches('/').to_owned(),
        admin: arguments.admin.or_else(|| config.map(|config| here(config.listen.admin.port()))),
        buyers: arguments.buyers,
        units: arguments.units,
        payers: arguments.payers,
        over: Duration::from_millis(arguments.over),
        in_flight: arguments.in_flight,
        shards: arguments.shards,
        hold_ms: arguments.hold,
        seed: arguments.seed,
        keep: arguments.keep,
    };
    let outcome = Runtime::new()?.block_on(async {
        drill::reachable(&plan.url).await?;
        let deployment = target.open().await?;
        drill::run(&plan, &deployment, target.prefix(), tokens).await
    })?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&outcome)?);
    } else {
        print!("{}", outcome.text());
    }
    anyhow::ensure!(outcome.passed(), "the drill failed");
    Ok(())
}
