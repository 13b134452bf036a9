//! The `[balancer]` section of the config file.

use std::time::Duration;

use anyhow::bail;
use serde::Deserialize;

/// When to balance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Where the servers cannot move stock by themselves.
    #[default]
    Auto,
    On,
    Off,
}

/// How stock follows buyers from shard to shard.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BalancerConfig {
    pub mode: Mode,
    /// Between two looks at a sale that is being bought, in milliseconds.
    pub every_ms: u64,
    /// Between two looks at a sale that nobody touches.
    pub idle_ms: u64,
    /// Between two searches for sales.
    pub discover_ms: u64,
}

impl Default for BalancerConfig {
    fn default() -> Self {
        Self { mode: Mode::Auto, every_ms: 50, idle_ms: 500, discover_ms: 2_000 }
    }
}

impl BalancerConfig {
    pub fn every(&self) -> Duration {
        Duration::from_millis(self.every_ms)
    }

    pub fn idle(&self) -> Duration {
        Duration::from_millis(self.idle_ms)
    }

    pub fn discover(&self) -> Duration {
        Duration::from_millis(self.discover_ms)
    }

    /// # Errors
    /// A time is 0: it would look without a pause.
    pub fn validate(&self) -> anyhow::Result<()> {
        if self.every_ms == 0 || self.idle_ms == 0 || self.discover_ms == 0 {
            bail!("[balancer] every_ms, idle_ms and discover_ms must be at least 1");
        }
        Ok(())
    }
}
