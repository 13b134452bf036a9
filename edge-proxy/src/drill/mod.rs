//! `flashsale drill`: a rehearsal. A crowd rushes a sale of its own through the real proxy, and the books are checked
//! afterwards.
//!
//! The crowd is open-loop: buyers come when they come, however slow the answers are, and latency counts from the
//! moment a buyer wanted to ask. A drill that waits for answers before it asks again would hide every stall.
//!
//! [`crowd`] says who comes when and carries the visits out, [`token`] signs for them as the shop's login would, [`funnel`]
//! reads which stage refused whom, [`commands`] what Redis was asked, [`payers`] pay in the midst of it, [`report`] prints it all.

mod commands;
mod crowd;
mod funnel;
mod payers;
mod report;
mod token;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde::Serialize;

pub use self::token::Tokens;

use self::commands::Commands;
use self::crowd::Crowd;
use self::funnel::Funnel;
use self::payers::{Paid, Payers};
use crate::operate::create::{self, Plan as SalePlan, Shards, Stock, When};
use crate::operate::leftovers::Mending;
use crate::operate::switch::{self, Switch};
use crate::operate::{Book, Deployment, Sale, audit};
use crate::store::redis::unix_ms;

/// What is sold in a drill.
pub const SKU: &str = "drill";
/// From the making of the sale to its opening: proxies must hear of it.
const UNTIL_OPEN_MS: u64 = 2_000;

/// What to rehearse.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The proxy's public address, such as `http://127.0.0.1:8080`.
    pub url: String,
    /// Its admin address, if the funnel is to be shown.
    pub admin: Option<String>,
    pub buyers: u32,
    pub units: u32,
    /// Buyers who pay for a unit that they have already, before the rush and as many in it.
    pub payers: u32,
    /// In which time all buyers come.
    pub over: Duration,
    /// Most requests under way at once: a bound on this machine, not on the crowd.
    pub in_flight: u32,
    pub shards: Shards,
    pub hold_ms: u64,
    pub seed: u64,
    /// Leave the sale there.
    pub keep: bool,
}

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    pub sale: String,
    pub shards: u32,
    pub buyers: u32,
    pub units: u32,
    /// From the opening to the last answer, in seconds.
    pub seconds: f64,
    pub requests: u64,
    pub asked_per_second: f64,
    /// Requests for a unit, those of them that went to the stock, and so the share in percent that was answered before
    /// it. `None` without an admin address.
    pub asked: u64,
    pub sent: Option<u64>,
    pub answered_before_redis_percent: Option<f64>,
    /// How often the servers ran each command meanwhile, by their own count.
    pub commands: Vec<(String, u64)>,
    /// How it ended, and for how many buyers.
    pub endings: Vec<(String, u64)>,
    /// Requests by stage of the funnel and outcome; empty without an admin address.
    pub funnel: Vec<(String, String, u64)>,
    pub reserve: Latency,
    pub confirm: Latency,
    /// Of those who had a unit already: paying in peace, and in the rush. `None` without them.
    pub paying_alone: Option<Latency>,
    pub paying_in_rush: Option<Latency>,
    /// How late this machine sent the latest request. Much of it: the drill was too slow for its own plan.
    pub late_ms: f64,
    pub stocked: u64,
    pub sold: u64,
    pub left: u64,
    pub oversold: u64,
    pub checks: Vec<Check>,
}

/// Milliseconds, from when a buyer wanted to ask to the answer.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Latency {
    pub count: u64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub longest: f64,
}

/// A claim, and what speaks against it.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    pub claim: &'static str,
    pub against: Vec<String>,
}

impl Outcome {
    pub fn passed(&self) -> bool {
        self.checks.iter().all(|check| check.against.is_empty())
    }

    /// The table for people.
    pub fn text(&self) -> String {
        report::text(self)
    }
}

/// Rehearses. The sale is made for it, writes no order stream (so that nothing goes to the shop), and is removed
/// afterwards.
///
/// # Errors
/// The proxy or the servers do not answer, or the sale could not be made.
pub async fn run(plan: &Plan, deployment: &Deployment, prefix: &str, tokens: Tokens) -> anyhow::Result<Outcome> {
    let name = format!("drill-{}-{:06x}", unix_ms(), rand::random::<u32>() & 0xff_ffff);
    let tokens = Arc::new(tokens);
    let mut payers = match plan.payers {
        0 => None,
        _ => Some(Payers::gather(plan, deployment, prefix, &name).await?),
    };
    let outcome = rehearse(plan, deployment, prefix, &name, tokens, payers.as_mut()).await;
    if let (Some(payers), false) = (&payers, plan.keep) {
        remove(deployment, &payers.sale).await.context("removing the sale of those who pay")?;
    }
    outcome
}

async fn rehearse(
    plan: &Plan,
    deployment: &Deployment,
    prefix: &str,
    name: &str,
    tokens: Arc<Tokens>,
    mut payers: Option<&mut Payers>,
) -> anyhow::Result<Outcome> {
    let alone = match &mut payers {
        Some(payers) => {
            payers.reserve_all(plan, &tokens).await?;
            Some(payers.pay(plan.payers as usize, Instant::now(), plan.over).await?)
        }
        None => None,
    };
    let opens_at = unix_ms() + UNTIL_OPEN_MS;
    let sale_plan = SalePlan {
        name: name.to_owned(),
        shards: plan.shards,
        stock: vec![Stock { sku: SKU.to_owned(), quantity: plan.units.into(), limit: None }],
        limit: Some(1),
        hold_ms: Some(plan.hold_ms),
        maxhold_ms: None,
        retain_ms: None,
        backlog: None,
        // Numbered, but told to nobody: a rehearsal must not ship anything.
        events: Some("NONE".to_owned()),
        opens: Some(When::At(opens_at)),
        closes: None,
        mending: Mending::Untouched,
    };
    let sale = create::create(deployment, prefix, &sale_plan, unix_ms()).await?.sale;
    let crowd = Arc::new(Crowd::new(plan, &sale.name, tokens, opens_at)?);
    let outcome = rush(plan, deployment, &sale, &crowd, alone, payers).await;
    if !plan.keep {
        remove(deployment, &sale).await.context("removing the drill's sale")?;
    }
    outcome
}

/// Those who have a unit pay while the crowd comes.
async fn pay_in_rush(plan: &Plan, opens: Instant, payers: Option<&mut Payers>) -> anyhow::Result<Option<Paid>> {
    match payers {
        Some(payers) => Ok(Some(payers.pay(plan.payers as usize, opens, plan.over).await?)),
        None => Ok(None),
    }
}

async fn rush(
    plan: &Plan,
    deployment: &Deployment,
    sale: &Sale,
    crowd: &Arc<Crowd>,
    alone: Option<Paid>,
    payers: Option<&mut Payers>,
) -> anyhow::Result<Outcome> {
    let funnel = match &plan.admin {
        Some(admin) => Some((admin, Funnel::read(admin).await?)),
        None => None,
    };
    let before = Commands::read(deployment).await?;
    let opens = crowd.opens();
    let (seconds, in_rush) = tokio::try_join!(crowd::come(crowd, plan, opens), pay_in_rush(plan, opens, payers))?;
    let commands = Commands::read(deployment).await?.less(&before);
    let (funnel, sent) = match funnel {
        Some((admin, before)) => {
            let after = Funnel::read(admin).await?;
            (after.less(&before), Some(after.sent_since(&before)))
        }
        None => (Vec::new(), None),
    };
    switch::switch(deployment, sale, Switch::Close).await?;
    let book = Book::read(deployment, sale).await?;
    let report = audit::audit(deployment, sale).await?;
    let sku = book.skus.get(SKU.as_bytes()).copied().unwrap_or_default();
    let (requests, asked) = (crowd.requests(), crowd.asked());
    let mut checks = check(plan, crowd, &book, &report);
    if let (Some(alone), Some(in_rush)) = (&alone, &in_rush) {
        let against = [&alone.failures[..], &in_rush.failures].concat();
        checks.push(Check { claim: "whoever had a unit could pay for it", against });
    }
    Ok(Outcome {
        sale: sale.name.clone(),
        shards: sale.shards(),
        buyers: plan.buyers,
        units: plan.units,
        seconds,
        requests,
        asked_per_second: requests as f64 / seconds.max(0.001),
        asked,
        sent,
        answered_before_redis_percent: sent.map(|sent| 100.0 * (1.0 - sent as f64 / asked.max(1) as f64)),
        commands,
        endings: crowd.endings(),
        funnel,
        reserve: crowd.reserve_latency(),
        confirm: crowd.confirm_latency(),
        paying_alone: alone.map(|paid| paid.latency),
        paying_in_rush: in_rush.map(|paid| paid.latency),
        late_ms: crowd.late_ms(),
        stocked: sku.stocked,
        sold: sku.sold,
        left: sku.available + sku.held + sku.in_transit,
        oversold: sku.sold.saturating_sub(plan.units.into()),
        checks,
    })
}

fn check(plan: &Plan, crowd: &Crowd, book: &Book, report: &audit::Report) -> Vec<Check> {
    let sku = book.skus.get(SKU.as_bytes()).copied().unwrap_or_default();
    let said = |claim, wrong: bool, fact: String| Check { claim, against: if wrong { vec![fact] } else { Vec::new() } };
    let differences = report.shards.iter().flat_map(|shard| shard.differences.clone());
    let differences = differences.chain(report.skus.iter().flat_map(|sku| sku.differences.clone())).collect();
    let told = crowd.orders();
    let lost = told.len() as u64 > book.orders;
    vec![
        said("nothing was oversold", sku.sold > plan.units.into(), format!("{} sold of {}", sku.sold, plan.units)),
        Check { claim: "every counter adds up, over all shards", against: differences },
        said(
            "every order that a buyer was told of is in the books",
            lost,
            format!("{} were told, {} are in the books", told.len(), book.orders),
        ),
        Check { claim: "no buyer has two orders, no order two buyers", against: crowd.doubles() },
        Check { claim: "every request was answered, and with sense", against: crowd.failures() },
    ]
}

async fn remove(deployment: &Deployment, sale: &Sale) -> anyhow::Result<()> {
    for shard in 0..sale.shards() {
        let place = sale.place(shard);
        let mut unlink = redis::cmd("UNLINK");
        deployment.ask(place, unlink.arg(place.key)).await?;
    }
    Ok(())
}

/// The drill on a proxy that is not there, or a sale that could not be reached, says so early.
///
/// # Errors
/// The proxy does not answer.
pub async fn reachable(url: &str) -> anyhow::Result<()> {
    let client = reqwest::Client::builder().timeout(Duration::from_secs(5)).build()?;
    let answer = client.get(format!("{url}/flash/no-such-sale")).send().await;
    let answer = answer.with_context(|| format!("no proxy answers at {url}"))?;
    let kind = answer.headers().get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    ensure!(
        kind.starts_with("application/problem+json"),
        "{url} answers, but not as flashsale does: is it the proxy's public address?"
    );
    Ok(())
}
