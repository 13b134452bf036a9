//! Buyers who have a unit already and pay for it: half of them before the rush, in peace, and half in the midst of it.
//! What the rush costs them is the difference.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use hdrhistogram::Histogram;
use tokio::task::JoinSet;

use super::crowd::{latency, micros};
use super::{Latency, Plan, SKU, Tokens};
use crate::demo::client::{Answer, Browser};
use crate::demo::crowd::{Buyer, buyer};
use crate::demo::tally::Tally;
use crate::operate::create::{self, Plan as SalePlan, Shards, Stock};
use crate::operate::leftovers::Mending;
use crate::operate::{Deployment, Sale};
use crate::store::redis::unix_ms;

/// They hold their units until it is their turn.
const HOLD_MS: u64 = 3_600_000;
/// How often a reservation is tried that finds the proxy busy.
const TRIES: u32 = 20;

/// Who is going to pay.
pub struct Payers {
    pub sale: Sale,
    browser: Arc<Browser>,
    waiting: Vec<Payer>,
}

struct Payer {
    buyer: Buyer,
    token: String,
    hold: String,
}

/// How long paying took, and who could not.
pub struct Paid {
    pub latency: Latency,
    pub failures: Vec<String>,
}

impl Payers {
    /// Makes a sale of their own.
    ///
    /// # Errors
    /// The sale cannot be made.
    pub async fn gather(plan: &Plan, deployment: &Deployment, prefix: &str, name: &str) -> anyhow::Result<Self> {
        let count = plan.payers.saturating_mul(2);
        let sale_plan = SalePlan {
            name: format!("{name}-paying"),
            shards: Shards::Number(1),
            stock: vec![Stock { sku: SKU.to_owned(), quantity: count.into(), limit: None }],
            limit: Some(1),
            hold_ms: Some(HOLD_MS),
            maxhold_ms: None,
            retain_ms: None,
            backlog: None,
            events: Some("NONE".to_owned()),
            opens: None,
            closes: None,
            mending: Mending::Untouched,
        };
        let sale = create::create(deployment, prefix, &sale_plan, unix_ms()).await?.sale;
        // Connections of their own: on this machine they do not wait behind the crowd either.
        let browser = Browser::new(&plan.url, &sale.name, SKU, count.min(1_000), Arc::new(Tally::default()))?;
        Ok(Self { sale, browser: Arc::new(browser), waiting: Vec::new() })
    }

    /// Gives each of them a unit.
    ///
    /// # Errors
    /// One of them did not get it.
    pub async fn reserve_all(&mut self, plan: &Plan, tokens: &Tokens) -> anyhow::Result<()> {
        for number in plan.buyers..plan.buyers + plan.payers.saturating_mul(2) {
            let buyer = buyer(number, plan.seed);
            let token = tokens.token(number, &buyer.name)?;
            let hold = self.reserve(&buyer, &token).await.with_context(|| format!("{} of the payers", buyer.name))?;
            self.waiting.push(Payer { buyer, token, hold });
        }
        Ok(())
    }

    async fn reserve(&self, buyer: &Buyer, token: &str) -> anyhow::Result<String> {
        for again in 0..TRIES {
            match self.browser.reserve(buyer, token, 1, &buyer.name).await {
                Answer::Done(hold) => return Ok(hold["hold"].as_str().context("a hold without an id")?.to_owned()),
                Answer::Later(_) => tokio::time::sleep(Duration::from_millis(50 * u64::from(again + 1))).await,
                Answer::Refused(word) => anyhow::bail!("was refused a unit: {word}"),
                Answer::Failed(why) => anyhow::bail!("got no answer: {why}"),
            }
        }
        anyhow::bail!("got no unit in {TRIES} tries")
    }

    /// Half of them pay, one after the other, within `over` from `start` on. Latency counts from when each wanted to.
    ///
    /// # Errors
    /// The histogram cannot be made.
    pub async fn pay(&mut self, half: usize, start: Instant, over: Duration) -> anyhow::Result<Paid> {
        let payers = self.waiting.split_off(self.waiting.len().saturating_sub(half));
        let step = over.div_f64(payers.len().max(1) as f64);
        let mut paying = JoinSet::new();
        for (number, payer) in (0..).zip(payers) {
            let due = start + step * number;
            tokio::time::sleep_until(due.into()).await;
            let browser = self.browser.clone();
            paying.spawn(async move {
                let answer = browser.confirm(&payer.buyer, &payer.token, &payer.hold).await;
                (micros(due), payer.buyer.name, answer)
            });
        }
        let mut took_us = Histogram::new_with_bounds(1, 600_000_000, 3)?;
        let mut failures = Vec::new();
        while let Some(paid) = paying.join_next().await {
            match paid? {
                (took, _, Answer::Done(_)) => took_us.saturating_record(took),
                (_, buyer, other) => failures.push(format!("{buyer}, who had a unit, paid and was told {other:?}")),
            }
        }
        Ok(Paid { latency: latency(&took_us), failures })
    }
}
