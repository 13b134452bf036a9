//! What Redis itself says that it was asked: its count of commands before and after.

use std::collections::BTreeMap;

use anyhow::Context;

use crate::operate::Deployment;
use crate::operate::deployment::words;
use crate::store::answer::text;

/// Calls of each command of sales, over all servers.
pub struct Commands(BTreeMap<String, u64>);

impl Commands {
    /// Asks every server.
    ///
    /// # Errors
    /// One does not answer.
    pub async fn read(deployment: &Deployment) -> anyhow::Result<Self> {
        let mut calls = BTreeMap::new();
        for node in &deployment.topology().await?.nodes {
            let reply = deployment.ask_node(node, &words(&["INFO", "commandstats"])).await?;
            for (name, count) in text(&reply).context("INFO commandstats is no text")?.lines().filter_map(count) {
                *calls.entry(name).or_default() += count;
            }
        }
        Ok(Self(calls))
    }

    /// What came since.
    pub fn less(&self, before: &Self) -> Vec<(String, u64)> {
        let since = |(name, count): (&String, &u64)| {
            let more = count.saturating_sub(before.0.get(name).copied().unwrap_or(0));
            (more > 0).then(|| (name.clone(), more))
        };
        self.0.iter().filter_map(since).collect()
    }
}

/// `cmdstat_flash.reserve:calls=17,usec=...`: commands of the module, and calls of the library.
fn count(line: &str) -> Option<(String, u64)> {
    let (name, numbers) = line.trim().strip_prefix("cmdstat_")?.split_once(':')?;
    let name = name.to_ascii_lowercase();
    if !name.starts_with("flash.") && !name.starts_with("fcall") {
        return None;
    }
    let calls = numbers.split(',').find_map(|number| number.strip_prefix("calls="))?;
    Some((name, calls.parse().ok()?))
}

#[test]
fn the_servers_own_counts_are_read() {
    assert_eq!(
        count("cmdstat_FLASH.RESERVE:calls=17,usec=3,usec_per_call=0.1"),
        Some(("flash.reserve".to_owned(), 17))
    );
    assert_eq!(count("cmdstat_get:calls=17,usec=3"), None);
    assert_eq!(count("# Commandstats"), None);
    let commands = |number| Commands(BTreeMap::from([("flash.confirm".to_owned(), number)]));
    assert_eq!(commands(7).less(&commands(5)), [("flash.confirm".to_owned(), 2)]);
    assert!(commands(7).less(&commands(7)).is_empty());
}
