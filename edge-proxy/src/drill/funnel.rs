//! Which stage of the proxy's funnel let whom pass: its metrics before and after.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;

/// Requests to sale routes by stage and outcome.
pub struct Funnel {
    stages: BTreeMap<(String, String), u64>,
    /// Reservations that went to the stock.
    sent: u64,
}

impl Funnel {
    /// Asks the admin listener.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn read(admin: &str) -> anyhow::Result<Self> {
        let client = reqwest::Client::builder().timeout(Duration::from_secs(5)).build()?;
        let answer = client.get(format!("{admin}/metrics")).send().await;
        let text = answer.with_context(|| format!("no admin listener answers at {admin}"))?.text().await?;
        Ok(Self::of(&text))
    }

    fn of(text: &str) -> Self {
        let sent = text.lines().find_map(|line| line.strip_prefix("flashsale_redis_batch_holds_sum "));
        let sent = sent.and_then(|sum| sum.trim().parse::<f64>().ok()).unwrap_or(0.0) as u64;
        Self { stages: text.lines().filter_map(count).collect(), sent }
    }

    /// Reservations that have gone to the stock since.
    pub fn sent_since(&self, before: &Self) -> u64 {
        self.sent.saturating_sub(before.sent)
    }

    /// What came since.
    pub fn less(&self, before: &Self) -> Vec<(String, String, u64)> {
        let since = |(key, count): (&(String, String), &u64)| {
            let more = count - before.stages.get(key).copied().unwrap_or(0).min(*count);
            (more > 0).then(|| (key.0.clone(), key.1.clone(), more))
        };
        self.stages.iter().filter_map(since).collect()
    }
}

/// `flashsale_stage_total{outcome="pass",stage="known"} 17`
fn count(line: &str) -> Option<((String, String), u64)> {
    let (labels, count) = line.strip_prefix("flashsale_stage_total{")?.split_once("} ")?;
    let label = |name: &str| {
        let rest = labels.split(',').find_map(|label| label.strip_prefix(name)?.strip_prefix("=\""))?;
        Some(rest.strip_suffix('"')?.to_owned())
    };
    Some(((label("stage")?, label("outcome")?), count.trim().parse::<f64>().ok()? as u64))
}

#[test]
fn metrics_are_read_and_subtracted() {
    let line = |count: u64| format!("flashsale_stage_total{{outcome=\"sold-out\",stage=\"known\"}} {count}");
    assert_eq!(count("flashsale_requests_in_flight 3"), None);
    let (key, five) = count(&line(5)).expect("a count");
    assert_eq!((key.0.as_str(), key.1.as_str(), five), ("known", "sold-out", 5));
    let funnel = |number| Funnel::of(&format!("{}\nflashsale_redis_batch_holds_sum {number}", line(number)));
    assert_eq!(funnel(7).sent_since(&funnel(5)), 2);
    assert_eq!(funnel(7).less(&funnel(5)), [("known".to_owned(), "sold-out".to_owned(), 2)]);
}
