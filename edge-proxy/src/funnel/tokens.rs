//! Stage `token`: who is calling. The shop signs a token (JWT) for each buyer; its own server has a secret.
//!
//! A key is good for the one algorithm it is configured with, and a token is only ever checked by keys of the
//! algorithm it names: so `none` has no key, and a public key is never taken for a shared secret.

use std::path::PathBuf;

use anyhow::{Context, bail, ensure};
use async_trait::async_trait;
use bytes::Bytes;
use http::HeaderMap;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Map, Value};
use subtle::ConstantTimeEq;

use super::stage::{Mode, Stage};
use super::visit::{Caller, Visit};
use crate::config::secret;
use crate::http::problem::{Problem, Refusal};
use crate::http::routes::{Call, NAME_BYTES_MAX};

/// The `[tokens]` section.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TokensConfig {
    /// Only `enforce`: without an identity nobody could say whose hold it is.
    pub mode: Mode,
    pub header: String,
    /// Name of a cookie that may carry the token; empty: none.
    pub cookie: String,
    pub audience: Vec<String>,
    pub issuer: Vec<String>,
    pub leeway_s: u64,
    pub buyer_claim: String,
    pub keys: Vec<KeyConfig>,
}

/// A key that tokens may be signed with.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyConfig {
    pub algorithm: Algorithm,
    /// If set, the key is used for tokens that name this key id, and for no others.
    #[serde(default)]
    pub kid: Option<String>,
    /// Of HS256 and its like.
    #[serde(default)]
    pub secret_file: Option<PathBuf>,
    #[serde(default)]
    pub secret_env: Option<String>,
    /// Of all others: the public key in PEM.
    #[serde(default)]
    pub public_key_file: Option<PathBuf>,
    #[serde(default)]
    pub public_key_env: Option<String>,
}

impl Default for TokensConfig {
    fn default() -> Self {
        Self {
            mode: Mode::Enforce,
            header: "authorization".to_owned(),
            cookie: String::new(),
            audience: Vec::new(),
            issuer: Vec::new(),
            leeway_s: 30,
            buyer_claim: "sub".to_owned(),
            keys: Vec::new(),
        }
    }
}

impl TokensConfig {
    pub fn validate(&self) -> anyhow::Result<()> {
        ensure!(
            self.mode == Mode::Enforce,
            "[tokens] mode: only \"enforce\" makes sense, or nobody could say whose hold it is"
        );
        ensure!(
            self.header.parse::<http::HeaderName>().is_ok(),
            "[tokens] header: `{}` is no name of a header",
            self.header
        );
        ensure!(!self.buyer_claim.is_empty(), "[tokens] buyer_claim is empty");
        for key in &self.keys {
            key.decoding_key()?;
        }
        Ok(())
    }
}

/// A shorter shared secret can be guessed off-line from one token.
const SECRET_BYTES_MIN: usize = 16;

impl KeyConfig {
    fn decoding_key(&self) -> anyhow::Result<DecodingKey> {
        let name = format!("[[tokens.keys]] {:?}", self.algorithm);
        let secret = secret::read(&format!("{name} secret"), self.secret_file.as_deref(), self.secret_env.as_deref())?;
        let public = secret::read(
            &format!("{name} public_key"),
            self.public_key_file.as_deref(),
            self.public_key_env.as_deref(),
        )?;
        use Algorithm::{ES256, ES384, EdDSA, HS256, HS384, HS512, PS256, PS384, PS512, RS256, RS384, RS512};
        match (self.algorithm, secret, public) {
            (HS256 | HS384 | HS512, Some(secret), None) => {
                let secret = secret.expose_secret().as_bytes();
                ensure!(
                    secret.len() >= SECRET_BYTES_MIN,
                    "{name}: a secret of {} bytes can be guessed; use at least {SECRET_BYTES_MIN}",
                    secret.len()
                );
                Ok(DecodingKey::from_secret(secret))
            }
            (HS256 | HS384 | HS512, ..) => bail!("{name}: set secret_file or secret_env, and no public key"),
            (algorithm, None, Some(public)) => {
                let pem = public.expose_secret().as_bytes();
                match algorithm {
                    RS256 | RS384 | RS512 | PS256 | PS384 | PS512 => DecodingKey::from_rsa_pem(pem),
                    ES256 | ES384 => DecodingKey::from_ec_pem(pem),
                    EdDSA => DecodingKey::from_ed_pem(pem),
                    _ => bail!("{name}: this algorithm is not supported"),
                }
                .with_context(|| format!("{name} public_key: not a public key of that kind in PEM"))
            }
            _ => bail!("{name}: set public_key_file or public_key_env, and no secret"),
        }
    }
}

/// A longer token is refused unread.
const TOKEN_BYTES_MAX: usize = 8 * 1024;

struct Key {
    algorithm: Algorithm,
    kid: Option<String>,
    decoding: DecodingKey,
    validation: Validation,
}

/// Stage `token`.
pub struct Tokens {
    header: http::HeaderName,
    cookie: String,
    buyer_claim: String,
    keys: Vec<Key>,
    server_key: Option<SecretString>,
}

impl Tokens {
    /// # Errors
    /// A key cannot be read, or is not of the kind its algorithm needs.
    pub fn new(config: &TokensConfig, server_key: Option<SecretString>) -> anyhow::Result<Self> {
        let keys = config
            .keys
            .iter()
            .map(|key| {
                Ok(Key {
                    algorithm: key.algorithm,
                    kid: key.kid.clone(),
                    decoding: key.decoding_key()?,
                    validation: validation(config, key.algorithm),
                })
            })
            .collect::<anyhow::Result<_>>()?;
        Ok(Self {
            header: config.header.parse().context("[tokens] header")?,
            cookie: config.cookie.clone(),
            buyer_claim: config.buyer_claim.clone(),
            keys,
            server_key,
        })
    }

    fn caller(&self, headers: &HeaderMap) -> Result<Caller, Refusal> {
        if let Some(bearer) = bearer(headers, &http::header::AUTHORIZATION)
            && self.is_server_key(bearer)
        {
            return Ok(Caller::Shop);
        }
        let token = self.token(headers).ok_or_else(|| {
            refused(&format!(
                "Send the shop's token in `{}`{}.",
                self.header,
                if self.cookie.is_empty() { String::new() } else { format!(" or the cookie `{}`", self.cookie) }
            ))
        })?;
        self.buyer(token).map(Caller::Buyer).map_err(refused)
    }

    fn is_server_key(&self, bearer: &str) -> bool {
        self.server_key.as_ref().is_some_and(|key| key.expose_secret().as_bytes().ct_eq(bearer.as_bytes()).into())
    }

    fn token<'a>(&self, headers: &'a HeaderMap) -> Option<&'a str> {
        bearer(headers, &self.header).or_else(|| cookie(headers, &self.cookie))
    }

    /// The buyer that `token` speaks for, or what is wrong with it.
    fn buyer(&self, token: &str) -> Result<Bytes, &'static str> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err("The token is too long.");
        }
        let header =
            jsonwebtoken::decode_header(token).map_err(|_| "The token is not a signed JWT of a known kind.")?;
        let fitting =
            self.keys.iter().filter(|key| key.algorithm == header.alg && (key.kid.is_none() || key.kid == header.kid));
        let mut problem = "No key is configured for the token's algorithm and key id.";
        for key in fitting {
            match jsonwebtoken::decode::<Map<String, Value>>(token, &key.decoding, &key.validation) {
                Ok(data) => return buyer_id(data.claims.get(&self.buyer_claim)),
                Err(error) => problem = reason(&error),
            }
        }
        Err(problem)
    }
}

fn validation(config: &TokensConfig, algorithm: Algorithm) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.leeway = config.leeway_s;
    validation.validate_nbf = true;
    let mut required = vec!["exp"];
    // The library checks these only if the token has them, unless they are required too.
    if config.audience.is_empty() {
        validation.validate_aud = false;
    } else {
        validation.set_audience(&config.audience);
        required.push("aud");
    }
    if !config.issuer.is_empty() {
        validation.set_issuer(&config.issuer);
        required.push("iss");
    }
    validation.set_required_spec_claims(&required);
    validation
}

fn reason(error: &jsonwebtoken::errors::Error) -> &'static str {
    use jsonwebtoken::errors::ErrorKind;
    match error.kind() {
        ErrorKind::ExpiredSignature => "The token has expired; fetch a new one.",
        ErrorKind::ImmatureSignature => "The token is not valid yet.",
        ErrorKind::InvalidAudience => "The token is for another audience.",
        ErrorKind::InvalidIssuer => "The token is of another issuer.",
        ErrorKind::InvalidSignature => "The token's signature is wrong.",
        ErrorKind::MissingRequiredClaim(_) => "The token lacks a claim that is needed.",
        _ => "The token is not a valid JWT.",
    }
}

/// Shops number their customers or name them; both are ids.
fn buyer_id(claim: Option<&Value>) -> Result<Bytes, &'static str> {
    let id = match claim {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) if number.is_u64() => number.to_string(),
        Some(_) => return Err("The token's buyer is neither a text nor a whole number."),
        None => return Err("The token does not say who the buyer is."),
    };
    if id.is_empty() || id.len() > NAME_BYTES_MAX {
        return Err("The token's buyer id is empty or longer than 128 bytes.");
    }
    Ok(Bytes::from(id))
}

fn refused(why: &str) -> Refusal {
    Problem::Token.because(why).header("WWW-Authenticate", "Bearer")
}

/// The credentials of `Authorization: Bearer ...`, or the whole value of another header.
fn bearer<'a>(headers: &'a HeaderMap, name: &http::HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?.trim();
    // Two identities in one request: believing either would be a guess.
    if values.next().is_some() {
        return None;
    }
    match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Some(token.trim()),
        None if name != http::header::AUTHORIZATION && !value.is_empty() => Some(value),
        _ => None,
    }
}

fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    if name.is_empty() {
        return None;
    }
    headers
        .get_all(http::header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value.trim_matches('"'))
}

#[async_trait]
impl Stage for Tokens {
    fn name(&self) -> &'static str {
        "token"
    }

    fn mode(&self) -> Mode {
        Mode::Enforce
    }

    async fn check(&self, visit: &mut Visit<'_>) -> Result<(), Refusal> {
        // Everybody may look at the shop window.
        if visit.route.call == Call::Status {
            return Ok(());
        }
        visit.caller = self.caller(visit.headers)?;
        Ok(())
    }
}

#[cfg(test)]
#[path = "tokens_tests.rs"]
mod tests;
