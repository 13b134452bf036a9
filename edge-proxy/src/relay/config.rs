//! The `[relay]` section of the config file.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::SecretString;
use serde::Deserialize;

use super::backoff::Backoff;
use crate::config::secret;

/// Which orders go downstream, and how.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RelayConfig {
    /// Whether `flashsale serve` runs the relay too; `flashsale relay` does not ask.
    pub enabled: bool,
    /// Keys of sales (of each shard).
    pub sales: Vec<String>,
    /// A pattern of `SCAN`: sales whose keys match are found while the relay runs. Empty: if `sales` is empty too,
    /// every key that begins with `redis.key_prefix`.
    pub pattern: String,
    /// How often sales are looked for, in milliseconds.
    pub discover_ms: u64,
    /// The consumer group.
    pub group: String,
    /// Most entries of a stream that are read and not yet acknowledged.
    pub max_in_flight: usize,
    /// For how long a relay owns a stream unless it renews, in milliseconds: after so long another takes over.
    pub lease_ms: u64,
    /// How often what all groups have done with is trimmed and the lag is measured, in milliseconds.
    pub trim_ms: u64,
    /// Whether delivered entries are trimmed at all.
    pub trim: bool,
    /// Whether an order must also be on the disk of the Redis server (`WAITAOF`, Redis 7.2) before it is sent.
    pub local_fsync: bool,
    /// Where orders go.
    pub webhook: WebhookConfig,
}

impl Default for RelayConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            sales: Vec::new(),
            pattern: String::new(),
            discover_ms: 2_000,
            group: "flashsale".to_owned(),
            max_in_flight: 1_000,
            lease_ms: 15_000,
            trim_ms: 1_000,
            trim: true,
            local_fsync: false,
            webhook: WebhookConfig::default(),
        }
    }
}

/// `[relay.webhook]`: one endpoint of the shop, called by the Standard Webhooks spec.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WebhookConfig {
    /// `http://` or `https://`.
    pub url: String,
    /// A file that holds the signing secret: `whsec_` and base64.
    pub secret_file: Option<PathBuf>,
    /// An environment variable that holds it.
    pub secret_env: Option<String>,
    /// Longest time of one try, in milliseconds.
    pub timeout_ms: u64,
    /// Most tries under way at once, over all sales.
    pub concurrency: usize,
    /// Tries after which an order goes to the dead letters.
    pub max_tries: u32,
    /// Wait after the first failure, in milliseconds; doubles with each further one.
    pub backoff_first_ms: u64,
    /// Longest wait, in milliseconds.
    pub backoff_longest_ms: u64,
    /// Longest `Retry-After` that is obeyed, in milliseconds.
    pub retry_after_longest_ms: u64,
    /// Answers that say the order will never be taken: it goes to the dead letters at once.
    pub permanent: Vec<u16>,
}

impl Default for WebhookConfig {
    fn default() -> Self {
        Self {
            url: String::new(),
            secret_file: None,
            secret_env: None,
            timeout_ms: 5_000,
            concurrency: 32,
            max_tries: 60,
            backoff_first_ms: 250,
            backoff_longest_ms: 60_000,
            retry_after_longest_ms: 300_000,
            permanent: vec![400, 410, 413, 415, 422],
        }
    }
}

impl RelayConfig {
    /// Checks everything that can be checked without a connection.
    ///
    /// # Errors
    /// A value makes no sense; the error names it.
    pub fn validate(&self) -> anyhow::Result<()> {
        let minima = [
            ("[relay] discover_ms", self.discover_ms, 100),
            ("[relay] max_in_flight", self.max_in_flight as u64, 1),
            ("[relay] lease_ms", self.lease_ms, 500),
            ("[relay] trim_ms", self.trim_ms, 10),
            ("[relay.webhook] timeout_ms", self.webhook.timeout_ms, 10),
            ("[relay.webhook] concurrency", self.webhook.concurrency as u64, 1),
            ("[relay.webhook] max_tries", self.webhook.max_tries.into(), 1),
            ("[relay.webhook] backoff_first_ms", self.webhook.backoff_first_ms, 1),
        ];
        for (name, value, least) in minima {
            ensure!(value >= least, "{name} must be at least {least}");
        }
        ensure!(!self.group.is_empty(), "[relay] group needs a name");
        ensure!(
            self.lease_ms / 2 >= self.webhook.timeout_ms,
            "[relay] lease_ms must be at least twice the webhook's timeout_ms, so that no try outlives the lease"
        );
        for status in &self.webhook.permanent {
            ensure!((400..500).contains(status), "[relay.webhook] permanent: {status} is not a status of 400 to 499");
        }
        Ok(())
    }

    pub(super) fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms)
    }
}

impl WebhookConfig {
    pub(super) fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    pub(super) fn backoff(&self) -> Backoff {
        Backoff {
            first: Duration::from_millis(self.backoff_first_ms),
            longest: Duration::from_millis(self.backoff_longest_ms),
        }
    }

    /// The signing secret, from wherever it is kept.
    pub(super) fn secret(&self) -> anyhow::Result<SecretString> {
        let (file, env) = (self.secret_file.as_deref(), self.secret_env.as_deref());
        secret::read("[relay.webhook] secret", file, env)?
            .context("[relay.webhook] needs the signing secret: set secret_file or secret_env")
    }
}

/// The key of a Standard Webhooks secret: `whsec_` and base64 of 24 to 64 bytes.
pub(super) fn secret_key(secret: &str) -> anyhow::Result<Vec<u8>> {
    let Some(encoded) = secret.strip_prefix("whsec_") else {
        bail!("[relay.webhook] secret: must begin with `whsec_`");
    };
    let key = STANDARD.decode(encoded);
    let key = key.map_err(|_| anyhow!("[relay.webhook] secret: what follows `whsec_` is not base64"))?;
    ensure!(
        (24..=64).contains(&key.len()),
        "[relay.webhook] secret: a key of {} bytes; the spec asks for 24 to 64",
        key.len()
    );
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_named() {
        for (text, word) in [
            ("lease_ms = 1000", "twice"),
            ("max_in_flight = 0", "max_in_flight"),
            ("group = ''", "group"),
            ("webhook.permanent = [500]", "500"),
            ("webhook.timeout_ms = 0", "timeout_ms"),
        ] {
            let config: RelayConfig = toml::from_str(text).expect(text);
            let error = config.validate().expect_err(text).to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
        assert!(toml::from_str::<RelayConfig>("salse = ['a']").is_err());
        RelayConfig::default().validate().expect("the defaults");
    }

    #[test]
    fn without_a_secret_nothing_is_sent() {
        let error = WebhookConfig::default().secret().expect_err("no secret");
        assert!(error.to_string().contains("secret_file"));
    }

    #[test]
    fn a_secret_has_the_form_of_the_spec() {
        let key = secret_key("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD").expect("a secret");
        assert_eq!(key.len(), 24);
        for secret in ["", "whsec_", "whsec_!", "C2FVsBQIhrscChlQIMV+b5sSYspob7oD", "whsec_c2hvcnQ="] {
            let error = secret_key(secret).expect_err(secret).to_string();
            assert!(secret.is_empty() || !error.contains(secret), "{error}");
        }
    }

    #[test]
    fn every_key_is_documented() {
        let documentation = include_str!("../../../docs/relay.md");
        for line in include_str!("default.toml").lines() {
            let Some((key, _)) = line.trim_start_matches("# ").split_once(" = ") else {
                continue;
            };
            assert!(documentation.contains(&format!("`{key}`")), "docs/relay.md does not explain `{key}`");
        }
    }
}
