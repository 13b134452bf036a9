//! Key sets of identity providers (JWKS, RFC 7517), from a file or a URL.
//!
//! No request ever fetches: a set is read in the background, every `refresh_s`, and sooner if a token names a
//! key id that it lacks, but then at most every `unknown_kid_s`. A key id that was looked for in vain is
//! remembered, in bounded memory. If fetching fails, the last keys stay.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use arc_swap::ArcSwap;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use moka::sync::Cache;
use once_cell::sync::Lazy;
use reqwest::{Client, Url};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Notify;

use super::keys::Key;
use crate::background::{self, Task};
use crate::config::millis;
use crate::metrics;

/// One of `[[tokens.jwks]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JwksConfig {
    #[serde(default)]
    pub file: Option<PathBuf>,
    #[serde(default)]
    pub url: Option<String>,
    /// Only these are taken, whatever the set says. A key without an `alg` serves those that fit its kind.
    #[serde(default = "algorithms")]
    pub algorithms: Vec<Algorithm>,
    #[serde(default = "refresh_s")]
    pub refresh_s: u64,
    #[serde(default = "unknown_kid_s")]
    pub unknown_kid_s: u64,
    #[serde(default = "timeout_ms")]
    pub timeout_ms: u64,
}

fn algorithms() -> Vec<Algorithm> {
    vec![Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA]
}

fn refresh_s() -> u64 {
    300
}

fn unknown_kid_s() -> u64 {
    10
}

fn timeout_ms() -> u64 {
    3000
}

impl JwksConfig {
    pub fn validate(&self) -> anyhow::Result<()> {
        self.source()?;
        ensure!(
            self.refresh_s > 0 && self.unknown_kid_s > 0 && self.timeout_ms > 0,
            "[[tokens.jwks]] refresh_s, unknown_kid_s and timeout_ms must be at least 1"
        );
        for algorithm in &self.algorithms {
            ensure!(
                !matches!(algorithm, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512),
                "[[tokens.jwks]] algorithms: {algorithm:?} needs a shared secret, which has no place in a key set; \
                 use [[tokens.keys]]"
            );
        }
        Ok(())
    }

    fn source(&self) -> anyhow::Result<Source> {
        match (&self.file, &self.url) {
            (Some(path), None) => Ok(Source::File(path.clone())),
            (None, Some(url)) => {
                let url = Url::parse(url).with_context(|| format!("[[tokens.jwks]] url: `{url}`"))?;
                ensure!(
                    matches!(url.scheme(), "http" | "https"),
                    "[[tokens.jwks]] url: must begin with https:// (or http:// inside your own network)"
                );
                Ok(Source::Url(url))
            }
            _ => bail!("[[tokens.jwks]]: set either file or url"),
        }
    }
}

/// Where a set comes from.
#[derive(Clone)]
enum Source {
    File(PathBuf),
    Url(Url),
}

/// A longer set is no key set.
const SET_BYTES_MAX: usize = 1 << 20;

/// More keys than any provider has.
const KEYS_MAX: usize = 64;

/// Key ids that were looked for in vain: how many are remembered, and for how long at most.
const MISSING_MAX: u64 = 1000;
const MISSING_S_MAX: u64 = 60;

/// The first pause after a failure; it doubles up to `refresh_s`.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// The keys of one set, kept fresh while this lives.
pub(super) struct KeySet {
    shared: Arc<Shared>,
    missing: Cache<String, ()>,
    _refreshing: Task,
}

struct Shared {
    keys: ArcSwap<Vec<Key>>,
    /// Counts the sets that were different from the one before; 0: none has come yet.
    version: AtomicU64,
    wanted: Notify,
}

impl KeySet {
    /// Reads a file at once; a URL is fetched in the background.
    ///
    /// # Errors
    /// The file cannot be read, or is no key set.
    pub fn new(config: &JwksConfig) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared { keys: ArcSwap::default(), version: AtomicU64::new(0), wanted: Notify::new() });
        let mut reader = Reader {
            source: config.source()?,
            client: Client::builder()
                .timeout(millis(config.timeout_ms))
                .redirect(reqwest::redirect::Policy::none())
                .user_agent(concat!("flashsale/", env!("CARGO_PKG_VERSION")))
                .build()?,
            config: config.clone(),
            last: Vec::new(),
            shared: shared.clone(),
        };
        match &reader.source {
            Source::File(path) => {
                let set = std::fs::read(path).with_context(|| format!("[[tokens.jwks]] file {}", path.display()));
                reader.take(set?)?;
            }
            // After a reload tokens are believed at once. If nothing of the old set fits the new config, that is
            // what fetching is for.
            Source::Url(url) => {
                if let Some(set) = last_of(url) {
                    let _ = reader.take(set);
                }
            }
        }
        let missing_s = config.refresh_s.min(MISSING_S_MAX);
        Ok(Self {
            shared,
            missing: Cache::builder().max_capacity(MISSING_MAX).time_to_live(Duration::from_secs(missing_s)).build(),
            _refreshing: background::spawn(reader.keep_fresh()),
        })
    }

    pub fn keys(&self) -> Arc<Vec<Key>> {
        self.shared.keys.load_full()
    }

    pub fn version(&self) -> u64 {
        self.shared.version.load(Ordering::Acquire)
    }

    pub fn is_loaded(&self) -> bool {
        self.version() > 0
    }

    /// Has the set fetched again because of `kid`, unless it was looked for already.
    pub fn look_for(&self, kid: &str) {
        // A key id is a short name; a long one is somebody's try.
        if kid.len() > 256 || self.missing.contains_key(kid) {
            return;
        }
        self.missing.insert(kid.to_owned(), ());
        self.shared.wanted.notify_one();
    }
}

/// What each URL had last, for whoever reads it next in this process: there are as many as configs have named.
static LAST: Lazy<Mutex<HashMap<Url, Vec<u8>>>> = Lazy::new(Mutex::default);

fn last_sets() -> MutexGuard<'static, HashMap<Url, Vec<u8>>> {
    // Nothing in here panics half-way.
    LAST.lock().unwrap_or_else(PoisonError::into_inner)
}

fn last_of(url: &Url) -> Option<Vec<u8>> {
    last_sets().get(url).cloned()
}

struct Reader {
    source: Source,
    client: Client,
    config: JwksConfig,
    /// The set as it came last.
    last: Vec<u8>,
    shared: Arc<Shared>,
}

impl Reader {
    async fn keep_fresh(mut self) {
        let refresh = Duration::from_secs(self.config.refresh_s);
        let gap = Duration::from_secs(self.config.unknown_kid_s);
        let mut retry = FIRST_RETRY;
        // A file was read a moment ago; a set that another reader had may be old.
        let mut pause = if matches!(self.source, Source::Url(_)) { Duration::ZERO } else { refresh };
        let mut read_at: Option<Instant> = None;
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.shared.wanted.notified() => {
                    if let Some(since) = read_at.map(|at| at.elapsed()) && since < gap {
                        tokio::time::sleep(gap - since).await;
                    }
                }
            }
            read_at = Some(Instant::now());
            match self.read().await {
                Ok(()) => {
                    metrics::JWKS_REFRESHES.with_label_values(&["ok"]).inc();
                    (pause, retry) = (refresh, FIRST_RETRY);
                }
                Err(error) => {
                    metrics::JWKS_REFRESHES.with_label_values(&["error"]).inc();
                    log::warn!("the keys of tokens cannot be read, the last ones stay: {error:#}");
                    pause = retry.min(refresh);
                    retry *= 2;
                }
            }
        }
    }

    async fn read(&mut self) -> anyhow::Result<()> {
        let set = match &self.source {
            Source::File(path) => tokio::fs::read(path).await.with_context(|| path.display().to_string())?,
            Source::Url(url) => fetch(&self.client, url).await.with_context(|| url.to_string())?,
        };
        self.take(set)?;
        if let Source::Url(url) = &self.source {
            last_sets().insert(url.clone(), self.last.clone());
        }
        Ok(())
    }

    fn take(&mut self, set: Vec<u8>) -> anyhow::Result<()> {
        if set == self.last {
            return Ok(());
        }
        let keys = parse(&set, &self.config)?;
        log::info!("{} keys of tokens read", keys.len());
        self.shared.keys.store(Arc::new(keys));
        self.shared.version.fetch_add(1, Ordering::Release);
        self.last = set;
        Ok(())
    }
}

async fn fetch(client: &Client, url: &Url) -> anyhow::Result<Vec<u8>> {
    let mut response = client.get(url.clone()).send().await?.error_for_status()?;
    ensure!(response.status().is_success(), "status {}", response.status());
    let mut set = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        set.extend_from_slice(&chunk);
        ensure!(set.len() <= SET_BYTES_MAX, "longer than {SET_BYTES_MAX} bytes");
    }
    Ok(set)
}

/// The keys of a set that may verify tokens. Others are passed over: providers publish keys of all kinds.
///
/// # Errors
/// It is no key set, or has no key that is of any use.
fn parse(set: &[u8], config: &JwksConfig) -> anyhow::Result<Vec<Key>> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<Value>,
    }
    let set: Set = serde_json::from_slice(set).context("not a key set (JWKS)")?;
    ensure!(set.keys.len() <= KEYS_MAX, "a set of {} keys; {KEYS_MAX} are enough for anybody", set.keys.len());
    let mut keys = Vec::new();
    for value in set.keys {
        let Ok(jwk) = serde_json::from_value::<Jwk>(value) else {
            continue;
        };
        let Ok(decoding) = DecodingKey::from_jwk(&jwk) else {
            continue;
        };
        for algorithm in algorithms_of(&jwk).iter().filter(|algorithm| config.algorithms.contains(algorithm)) {
            keys.push(Key::new(*algorithm, jwk.common.key_id.clone(), decoding.clone()));
        }
    }
    ensure!(!keys.is_empty(), "the set has no key for any of {:?}", config.algorithms);
    Ok(keys)
}

/// What a key may verify: what it says, if that is of its own kind, else all of its kind.
fn algorithms_of(jwk: &Jwk) -> Vec<Algorithm> {
    use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
    let verifies = match (&jwk.common.public_key_use, &jwk.common.key_operations) {
        (Some(kind), _) => *kind == PublicKeyUse::Signature,
        (None, Some(operations)) => operations.contains(&KeyOperations::Verify),
        (None, None) => true,
    };
    if !verifies {
        return Vec::new();
    }
    let of_its_kind: &[Algorithm] = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => &[RS256, RS384, RS512, PS256, PS384, PS512],
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => &[ES256],
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P384 => &[ES384],
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => &[EdDSA],
        // A shared secret in a published set is no secret.
        _ => &[],
    };
    match jwk.common.key_algorithm.map(|name| name.to_string().parse::<Algorithm>()) {
        Some(Ok(named)) => of_its_kind.iter().copied().filter(|algorithm| *algorithm == named).collect(),
        Some(Err(_)) => Vec::new(),
        None => of_its_kind.to_vec(),
    }
}

#[cfg(test)]
#[path = "jwks_tests.rs"]
mod tests;
