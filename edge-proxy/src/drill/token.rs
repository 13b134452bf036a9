//! Identity tokens, as the shop's login would make them.

use std::path::Path;

use anyhow::{Context, bail, ensure};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use secrecy::ExposeSecret;
use serde_json::{Map, Value, json};

use crate::config::{Config, secret};
use crate::store::redis::unix_ms;

/// How long a token is good, in seconds.
const LIFE_S: u64 = 3_600;

/// Where tokens come from.
pub enum Tokens {
    /// Signed by the shared secret of the config.
    Signed(Box<Signer>),
    /// Made elsewhere.
    Given(Vec<String>),
}

/// What signs tokens.
pub struct Signer {
    header: Header,
    key: EncodingKey,
    claims: Map<String, Value>,
    buyer_claim: String,
}

impl Tokens {
    /// Signs with the first shared secret of `[[tokens.keys]]`.
    ///
    /// # Errors
    /// There is none: whoever verifies by public keys cannot sign.
    pub fn of_config(config: &Config) -> anyhow::Result<Self> {
        let tokens = &config.tokens;
        let shared = |algorithm| matches!(algorithm, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512);
        let Some(key) = tokens.keys.iter().find(|key| shared(key.algorithm)) else {
            bail!(
                "[tokens] has no shared secret (HS256), so the drill cannot sign tokens: have your login make some, and \
                 give them with --tokens FILE, one a line"
            );
        };
        let name = "[[tokens.keys]] secret";
        let secret = secret::read(name, key.secret_file.as_deref(), key.secret_env.as_deref())?;
        let secret = secret.with_context(|| format!("{name}: none"))?;
        let mut header = Header::new(key.algorithm);
        header.kid.clone_from(&key.kid);
        let mut claims = Map::new();
        claims.insert("exp".to_owned(), json!(unix_ms() / 1_000 + LIFE_S));
        if let Some(audience) = tokens.audience.first() {
            claims.insert("aud".to_owned(), json!(audience));
        }
        if let Some(issuer) = tokens.issuer.first() {
            claims.insert("iss".to_owned(), json!(issuer));
        }
        let key = EncodingKey::from_secret(secret.expose_secret().as_bytes());
        Ok(Self::Signed(Box::new(Signer { header, key, claims, buyer_claim: tokens.buyer_claim.clone() })))
    }

    /// Reads tokens from a file, one a line.
    ///
    /// # Errors
    /// It cannot be read, or has fewer than `buyers`.
    pub fn of_file(path: &Path, buyers: u32) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let tokens: Vec<String> =
            text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
        ensure!(
            tokens.len() >= buyers as usize,
            "{} has {} tokens for {buyers} buyers: one for each, or fewer --buyers",
            path.display(),
            tokens.len()
        );
        Ok(Self::Given(tokens))
    }

    /// The token of a buyer.
    ///
    /// # Errors
    /// Never in practice: the key is a good one.
    pub fn token(&self, number: u32, buyer: &str) -> anyhow::Result<String> {
        match self {
            Self::Given(tokens) => tokens.get(number as usize).cloned().context("too few tokens"),
            Self::Signed(signer) => {
                let mut claims = signer.claims.clone();
                claims.insert(signer.buyer_claim.clone(), json!(buyer));
                Ok(encode(&signer.header, &claims, &signer.key)?)
            }
        }
    }
}
