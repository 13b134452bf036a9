//! The `[cache]` section: which pages of the shop are kept for a few seconds.

use anyhow::ensure;
use serde::Deserialize;

/// Off unless there are rules.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CacheConfig {
    /// Bytes of all pages together.
    pub bytes_max: u64,
    /// Bytes of one page.
    pub page_bytes_max: usize,
    pub rules: Vec<CacheRule>,
}

/// Pages that are kept.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CacheRule {
    /// What the path begins with.
    pub path: String,
    /// How long a page is fresh.
    pub seconds: u64,
    /// How much longer it is shown while one request fetches it anew.
    #[serde(default)]
    pub stale_s: u64,
    /// Whether these pages are the same for everybody: then cookies do not reach the shop.
    #[serde(default)]
    pub ignore_cookies: bool,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self { bytes_max: 64 * 1024 * 1024, page_bytes_max: 1024 * 1024, rules: Vec::new() }
    }
}

impl CacheConfig {
    /// The rule for a path: the one that fits longest.
    pub fn rule(&self, path: &str) -> Option<&CacheRule> {
        self.rules.iter().filter(|rule| path.starts_with(&rule.path)).max_by_key(|rule| rule.path.len())
    }

    pub(super) fn validate(&self) -> anyhow::Result<()> {
        for rule in &self.rules {
            ensure!(rule.path.starts_with('/'), "[[cache.rules]] path: `{}` must start with a slash", rule.path);
            ensure!(rule.seconds > 0, "[[cache.rules]] seconds: 0 keeps nothing; leave the rule out");
        }
        ensure!(
            self.page_bytes_max > 0 && self.page_bytes_max as u64 <= self.bytes_max,
            "[cache] page_bytes_max must be at least 1 and at most bytes_max"
        );
        Ok(())
    }
}
