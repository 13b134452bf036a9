//! Verifies tokens without letting the costly algorithms eat the machine.
//!
//! A shared secret costs some microseconds and is checked on the spot. A public key costs 50 to 350: such
//! tokens are verified by few at once, beside the worker threads, and remembered until they expire. What a
//! request without a place can cost is a hash.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use jsonwebtoken::{AlgorithmFamily, Header};
use moka::sync::Cache;
use tokio::sync::Semaphore;

use super::TokensConfig;
use super::claims::{Rules, Verified};
use super::jwks::KeySet;
use super::keys::{Key, Token};
use crate::metrics;
use crate::store::redis::unix_ms;

/// A longer token is refused unread.
const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// Why nobody is behind a token.
#[derive(Debug, PartialEq, Eq)]
pub enum Rejected {
    /// What is wrong with it.
    Bad(&'static str),
    /// A key set has never been fetched, and the token may be of one of its keys.
    KeysAway,
    /// Too many tokens are being verified.
    Busy,
}

impl From<&'static str> for Rejected {
    fn from(why: &'static str) -> Self {
        Rejected::Bad(why)
    }
}

const NO_KEY: &str = "No key is configured for the token's algorithm and key id.";
const NOT_A_JWT: &str = "The token is not a signed JWT of a known kind.";

/// Headers that are remembered. All tokens of a key have the same one, mostly.
const HEADERS_MAX: usize = 16;

/// The keys, wherever they come from.
struct Keys {
    fixed: Vec<Key>,
    sets: Vec<KeySet>,
    rules: Rules,
}

impl Keys {
    fn verify(&self, token: &Token<'_>, header: &Header) -> Result<Verified, &'static str> {
        let has_signed = |keys: &[Key]| keys.iter().any(|key| key.fits(header) && key.has_signed(token));
        if !has_signed(&self.fixed) && !self.sets.iter().any(|set| has_signed(&set.keys())) {
            return Err("The token's signature is wrong.");
        }
        self.rules.read(token.claims, unix_ms() / 1000)
    }

    fn has_a_key_for(&self, header: &Header) -> bool {
        let fits = |keys: &[Key]| keys.iter().any(|key| key.fits(header));
        fits(&self.fixed) || self.sets.iter().any(|set| fits(&set.keys()))
    }

    /// Changes whenever a key set does: what was verified before must be verified again.
    fn version(&self) -> u64 {
        self.sets.iter().map(KeySet::version).sum()
    }

    /// No key fits: perhaps a key set has a new one.
    fn miss(&self, header: &Header) -> Rejected {
        if self.sets.iter().any(|set| !set.is_loaded()) {
            return Rejected::KeysAway;
        }
        if let Some(kid) = &header.kid {
            for set in &self.sets {
                set.look_for(kid);
            }
        }
        Rejected::Bad(NO_KEY)
    }
}

#[derive(Clone)]
struct Remembered {
    verified: Verified,
    version: u64,
}

/// See the module.
pub struct Verifier {
    keys: Arc<Keys>,
    /// Of tokens that were good, as they stand there and what they say.
    headers: ArcSwap<Vec<(Box<str>, Arc<Header>)>>,
    verified: Cache<[u8; 32], Remembered>,
    permits: Arc<Semaphore>,
    waiting: AtomicUsize,
    waiting_max: usize,
}

/// A request that waits for its token to be verified.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Verifier {
    /// # Errors
    /// A key or a key file cannot be read, or is not of the kind its algorithm needs.
    pub fn new(config: &TokensConfig) -> anyhow::Result<Self> {
        let fixed = config
            .keys
            .iter()
            .map(|key| Ok(Key::new(key.algorithm, key.kid.clone(), key.decoding_key()?)))
            .collect::<anyhow::Result<_>>()?;
        let sets = config.jwks.iter().map(KeySet::new).collect::<anyhow::Result<_>>()?;
        let at_once = match config.verifying_max {
            0 => std::thread::available_parallelism().map_or(1, |cores| cores.get() / 2).max(1),
            at_once => at_once,
        };
        Ok(Self {
            keys: Arc::new(Keys { fixed, sets, rules: Rules::new(config) }),
            headers: ArcSwap::default(),
            verified: Cache::new(config.verified_max),
            permits: Arc::new(Semaphore::new(at_once)),
            waiting: AtomicUsize::new(0),
            waiting_max: config.waiting_max,
        })
    }

    /// The buyer that `token` speaks for. Arrivals find the waiting room full when it is half full: the rest
    /// is for those who are paying.
    ///
    /// # Errors
    /// What is wrong with the token, or that it cannot be verified now.
    pub async fn buyer(&self, token: &str, arrives: bool) -> Result<Bytes, Rejected> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Rejected::Bad("The token is too long."));
        }
        let token = Token::split(token).ok_or(NOT_A_JWT)?;
        let headers = self.headers.load();
        let known = headers.iter().find(|(known, _)| **known == *token.header).map(|(_, header)| header.clone());
        drop(headers);
        let header = match &known {
            Some(header) => header.clone(),
            None => Arc::new(header_of(token.text)?),
        };
        if !self.keys.has_a_key_for(&header) {
            return Err(self.keys.miss(&header));
        }
        let buyer = if header.alg.family() == AlgorithmFamily::Hmac {
            self.keys.verify(&token, &header)?.buyer
        } else {
            self.recall_or_verify(token.text, &header, arrives).await?
        };
        if known.is_none() {
            self.keep(token.header, header);
        }
        Ok(buyer)
    }

    /// Remembers the header of a good token: with others a client could push the good ones out.
    fn keep(&self, encoded: &str, header: Arc<Header>) {
        self.headers.rcu(|headers| {
            let mut headers = Vec::clone(headers);
            if headers.len() < HEADERS_MAX && headers.iter().all(|(known, _)| **known != *encoded) {
                headers.push((encoded.into(), header.clone()));
            }
            headers
        });
    }

    async fn recall_or_verify(&self, token: &str, header: &Arc<Header>, arrives: bool) -> Result<Bytes, Rejected> {
        let version = self.keys.version();
        let hash = hash(token);
        if let Some(buyer) = self.recall(&hash, version) {
            return Ok(buyer);
        }
        let verified = self.verify_beside(token, header.clone(), arrives).await?;
        let buyer = verified.buyer.clone();
        self.verified.insert(hash, Remembered { verified, version });
        Ok(buyer)
    }

    fn recall(&self, hash: &[u8; 32], version: u64) -> Option<Bytes> {
        let remembered = self.verified.get(hash).filter(|remembered| remembered.version == version)?;
        let ends_s = remembered.verified.expires_s.saturating_add(self.keys.rules.leeway_s);
        if unix_ms() / 1000 >= ends_s {
            self.verified.invalidate(hash);
            return None;
        }
        metrics::TOKENS_VERIFIED.with_label_values(&["remembered"]).inc();
        Some(remembered.verified.buyer)
    }

    async fn verify_beside(&self, token: &str, header: Arc<Header>, arrives: bool) -> Result<Verified, Rejected> {
        let _waiting = self.enter(arrives)?;
        let permit = self.permits.clone().acquire_owned().await.map_err(|_| Rejected::Busy)?;
        let (keys, token) = (self.keys.clone(), token.to_owned());
        let verifying = tokio::task::spawn_blocking(move || {
            // Given back when the work is done, also if the client has gone away meanwhile.
            let _permit = permit;
            keys.verify(&Token::split(&token).ok_or(NOT_A_JWT)?, &header)
        });
        let result = verifying.await.map_err(|_| Rejected::Busy)?;
        let outcome = if result.is_ok() { "good" } else { "bad" };
        metrics::TOKENS_VERIFIED.with_label_values(&[outcome]).inc();
        Ok(result?)
    }

    fn enter(&self, arrives: bool) -> Result<Waiting<'_>, Rejected> {
        let places = if arrives { self.waiting_max.div_ceil(2) } else { self.waiting_max };
        let waiting = Waiting(&self.waiting);
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= places {
            metrics::TOKENS_VERIFIED.with_label_values(&["busy"]).inc();
            return Err(Rejected::Busy);
        }
        Ok(waiting)
    }

    /// Takes all places in which tokens are verified.
    #[cfg(test)]
    pub async fn occupy(&self) -> tokio::sync::SemaphorePermit<'_> {
        let all = self.permits.available_permits() as u32;
        self.permits.acquire_many(all).await.unwrap()
    }

    #[cfg(test)]
    pub fn verify_now(&self, token: &str) -> Result<Bytes, &'static str> {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
            match self.buyer(token, true).await {
                Ok(buyer) => Ok(buyer),
                Err(Rejected::Bad(why)) => Err(why),
                Err(other) => panic!("{other:?}"),
            }
        })
    }
}

/// # Errors
/// It is no header of a signed token, or one that demands what we do not know (`crit`; RFC 7515, section 4.1.11).
fn header_of(token: &str) -> Result<Header, &'static str> {
    jsonwebtoken::decode_header(token).ok().filter(|header| header.crit.is_none()).ok_or(NOT_A_JWT)
}

fn hash(token: &str) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    hash
}
