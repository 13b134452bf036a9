//! `flashsale doctor`: checks a deployment before the rush.

use std::time::Duration;

use super::connect::{Connect, runtime};
use crate::operate::doctor::{Finding, Level, Wishes, examine};

/// Check a deployment: servers, module, persistence, eviction, replicas, clocks, latency, config, sales.
///
/// Each finding is ok, warn or fail, and says what to do. Ends with 1 if anything fails (with --strict: or is to be
/// warned of). Looks only; changes nothing.
#[derive(clap::Args)]
pub struct Arguments {
    /// Only these sales; default: all
    #[arg(long, value_name = "NAME")]
    sale: Vec<String>,
    /// For how many seconds to watch what is asked how often; 0: not at all
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(0..=600))]
    watch: u64,
    /// Warnings fail too
    #[arg(long)]
    strict: bool,
    /// Leave out what is ok
    #[arg(long)]
    quiet: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connect: Connect,
}

/// Runs `flashsale doctor`.
///
/// # Errors
/// Something is ill.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let mut findings = runtime()?.block_on(look(&arguments));
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    let (failed, warned, ok) = (count(Level::Fail), count(Level::Warn), count(Level::Ok));
    findings.retain(|finding| !arguments.quiet || finding.level > Level::Ok);
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&findings)?);
    } else {
        findings.iter().for_each(print);
        println!("{ok} ok, {warned} warnings, {failed} failures");
    }
    anyhow::ensure!(failed == 0, "{failed} checks failed");
    anyhow::ensure!(warned == 0 || !arguments.strict, "{warned} warnings");
    Ok(())
}

async fn look(arguments: &Arguments) -> Vec<Finding> {
    let target = match arguments.connect.target() {
        Ok(target) => target,
        Err(error) => return vec![Finding::fail("config", "the config", format!("{error:#}"), "mend the config")],
    };
    let mut findings = Vec::new();
    if target.config.is_some() {
        findings.push(Finding::ok("config", "the config", "every key is known, every secret can be read"));
    }
    let deployment = match target.open().await {
        Ok(deployment) => deployment,
        Err(error) => {
            let advice = "start the servers, load the module, or name other servers";
            findings.push(Finding::fail("servers", "the deployment", format!("{error:#}"), advice));
            return findings;
        }
    };
    let wishes = Wishes {
        durability: target.durability.clone(),
        config: target.config.as_ref(),
        timeout_ms: target.redis.timeout_ms,
    };
    let watch = Duration::from_secs(arguments.watch);
    findings.extend(examine(&deployment, target.prefix(), &arguments.sale, &wishes, watch).await);
    findings
}

fn print(finding: &Finding) {
    let level = match finding.level {
        Level::Ok => "ok  ",
        Level::Warn => "WARN",
        Level::Fail => "FAIL",
    };
    println!("{level}  {:<12}  {}: {}", finding.check, finding.about, finding.found);
    if !finding.advice.is_empty() {
        println!("{:20}-> {}", "", finding.advice);
    }
}
