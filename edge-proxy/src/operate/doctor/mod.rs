//! Checks a deployment before the rush: what would lose orders, stop the sale or slow it down, and what to do.
//!
//! [`probe`] asks the servers, [`servers`], [`sales`] and [`streams`] judge what they say; judging asks nobody, so that every
//! judgement can be tested.

mod probe;
mod sales;
mod servers;
mod streams;

use serde::Serialize;

pub use self::probe::{HotSample, Probe};
pub use self::sales::SaleFacts;
use self::sales::Seen;

use super::Deployment;
use crate::balancer::config::Mode;
use crate::config::{Config, DurabilityConfig};
use crate::store::nodes::Dialect;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Ok,
    Warn,
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub level: Level,
    /// What was checked, such as `persistence`.
    pub check: &'static str,
    /// The server or sale.
    pub about: String,
    pub found: String,
    /// What to do; empty if nothing.
    pub advice: String,
}

impl Finding {
    pub fn ok(check: &'static str, about: &str, found: impl Into<String>) -> Self {
        Self { level: Level::Ok, check, about: about.to_owned(), found: found.into(), advice: String::new() }
    }

    pub fn warn(check: &'static str, about: &str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { level: Level::Warn, check, about: about.to_owned(), found: found.into(), advice: advice.into() }
    }

    pub fn fail(check: &'static str, about: &str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { level: Level::Fail, check, about: about.to_owned(), found: found.into(), advice: advice.into() }
    }
}

/// What the deployment should be fit for.
#[derive(Debug, Clone)]
pub struct Wishes<'a> {
    pub durability: DurabilityConfig,
    /// What the proxy and relay are set to, where that is known.
    pub config: Option<&'a Config>,
    /// Longest time of one command in the proxy, in ms.
    pub timeout_ms: u64,
}

/// Looks at every server and every sale whose key begins with `prefix`; of names only at those, if any are given.
pub async fn examine(
    deployment: &Deployment,
    prefix: &str,
    names: &[String],
    wishes: &Wishes<'_>,
    sample: std::time::Duration,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let topology = match deployment.topology().await {
        Ok(topology) => topology,
        Err(trouble) => {
            return vec![Finding::fail("servers", "the deployment", trouble.to_string(), "start the servers")];
        }
    };
    for why in topology.away() {
        let advice = "start its servers, or mend [[redis.groups]]";
        findings.push(Finding::fail("reachable", "the deployment", why, advice));
    }
    let probes = topology.nodes.iter().map(|node| Probe::of(deployment, node, topology.is_in_cluster(node)));
    let probes = futures_util::future::join_all(probes).await;
    let mut good = Vec::new();
    for probe in probes {
        match probe {
            Ok(probe) => {
                findings.extend(servers::judge(&probe, wishes));
                good.push(probe);
            }
            Err((address, trouble)) => findings.push(Finding::fail(
                "reachable",
                &address,
                trouble.to_string(),
                "start the server, open the network, or check user and password",
            )),
        }
    }
    findings.extend(servers::judge_together(&good));
    match sales::look(deployment, prefix, names, sample).await {
        Ok(Seen { facts, hot, found }) => {
            findings.extend(sales::judge_places(&found, prefix, topology.parts.len()));
            let needs_balancer =
                |facts: &SaleFacts| (1..facts.book.shards.len() as u32).any(|shard| !topology.have_a_bus(0, shard));
            if facts.iter().flatten().any(needs_balancer) {
                findings.extend(balancer_off(wishes.config));
            }
            for facts in facts {
                match facts {
                    Ok(facts) => findings.extend(sales::judge(&facts)),
                    Err((name, error)) => findings.push(Finding::fail(
                        "sale",
                        &format!("sale `{name}`"),
                        format!("{error:#}"),
                        "it cannot be looked at: mend its server",
                    )),
                }
            }
            // A moment tells nothing of rates, and the library does not count.
            if !sample.is_zero() && deployment.dialect() == Dialect::Module {
                findings.extend(sales::judge_heat(&hot, topology.nodes.len()));
            }
        }
        Err(error) => findings.push(Finding::fail(
            "sales",
            "all sales",
            format!("{error:#}"),
            "the sales cannot be looked at: mend what stands above first",
        )),
    }
    findings
}

/// Shards that cannot send each other units, and nobody who does it for them.
fn balancer_off(config: Option<&Config>) -> Option<Finding> {
    config.filter(|config| config.balancer.mode == Mode::Off).map(|_| {
        Finding::warn(
            "balancer",
            "the config",
            "[balancer] mode is off, and these servers cannot move stock among themselves: a shard that is bought empty \
             stays empty",
            "set mode = \"auto\", or run `flashsale balance`",
        )
    })
}
