//! Stage `token`: who is calling. The shop signs a token (JWT) for each buyer; its own server has a secret.
//!
//! A key is good for the one algorithm it is configured with, and a token is only ever checked by keys of the
//! algorithm it names: so `none` has no key, and a public key is never taken for a shared secret.
//!
//! [`keys`] checks signatures, [`claims`] what was signed, [`jwks`] keeps the key sets of identity providers, [`verifier`] sees to it that the
//! costly algorithms are paid for once per token and never by all workers at once.

use std::borrow::Cow;

use anyhow::{Context, ensure};
use http::{HeaderMap, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use subtle::ConstantTimeEq;

use super::stage::{Check, Mode, Stage, later, now};
use super::visit::{Caller, Visit};
use crate::http::problem::{Problem, Refusal};
use crate::http::routes::Call;

mod claims;
pub mod jwks;
pub mod keys;
mod verifier;

use jwks::JwksConfig;
use keys::KeyConfig;
use verifier::{Rejected, Verifier};

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
    /// How many verified tokens of the costly algorithms are remembered, so that they are verified once.
    pub verified_max: u64,
    /// How many tokens of the costly algorithms may be verified at once; 0 means half the cores.
    pub verifying_max: usize,
    /// How many more may wait for that; half of them, where a request takes stock.
    pub waiting_max: usize,
    pub keys: Vec<KeyConfig>,
    pub jwks: Vec<JwksConfig>,
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
            verified_max: 100_000,
            verifying_max: 0,
            waiting_max: 256,
            keys: Vec::new(),
            jwks: Vec::new(),
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
        for set in &self.jwks {
            set.validate()?;
        }
        ensure!(
            self.verified_max > 0 && self.waiting_max > 0,
            "[tokens] verified_max and waiting_max must be at least 1"
        );
        Ok(())
    }
}

/// Stage `token`.
pub struct Tokens {
    header: http::HeaderName,
    cookie: String,
    verifier: Verifier,
    server_key: Option<SecretString>,
}

impl Tokens {
    /// # Errors
    /// A key cannot be read, or is not of the kind its algorithm needs.
    pub fn new(config: &TokensConfig, server_key: Option<SecretString>) -> anyhow::Result<Self> {
        Ok(Self {
            header: config.header.parse().context("[tokens] header")?,
            cookie: config.cookie.clone(),
            verifier: Verifier::new(config)?,
            server_key,
        })
    }

    async fn caller(&self, headers: &HeaderMap, call: Call) -> Result<Caller, Refusal> {
        let authorization = bearer(headers, &http::header::AUTHORIZATION);
        if authorization.is_some_and(|bearer| self.is_server_key(bearer)) {
            return Ok(Caller::Shop);
        }
        let own = match self.header {
            http::header::AUTHORIZATION => authorization,
            _ => bearer(headers, &self.header),
        };
        let token = own.or_else(|| cookie(headers, &self.cookie)).ok_or_else(|| {
            refused(format!(
                "Send the shop's token in `{}`{}.",
                self.header,
                if self.cookie.is_empty() { String::new() } else { format!(" or the cookie `{}`", self.cookie) }
            ))
        })?;
        self.verifier.buyer(token, call.takes_stock()).await.map(Caller::Buyer).map_err(|rejected| match rejected {
            Rejected::Bad(why) => refused(why),
            Rejected::KeysAway => Problem::Overloaded.because("The keys of the shop's tokens are not here yet."),
            Rejected::Busy => Problem::Overloaded.because("Too many new tokens are being verified at the moment."),
        })
    }

    fn is_server_key(&self, bearer: &str) -> bool {
        self.server_key.as_ref().is_some_and(|key| key.expose_secret().as_bytes().ct_eq(bearer.as_bytes()).into())
    }
}

fn refused(why: impl Into<Cow<'static, str>>) -> Refusal {
    Problem::Token.because(why).header(http::header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
}

/// The credentials of `Authorization: Bearer ...`, or the whole value of another header.
fn bearer<'a>(headers: &'a HeaderMap, name: &http::HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?.trim_ascii();
    // Two identities in one request: believing either would be a guess.
    if values.next().is_some() {
        return None;
    }
    match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Some(token.trim_ascii()),
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

impl Stage for Tokens {
    fn name(&self) -> &'static str {
        "token"
    }

    fn mode(&self) -> Mode {
        Mode::Enforce
    }

    fn check<'a>(&'a self, visit: &'a mut Visit<'_>) -> Check<'a> {
        // Everybody may look at the shop window, and a ticket has said already who somebody is.
        if visit.route.call == Call::Status || visit.caller != Caller::Unknown {
            return now(Ok(()));
        }
        later(async {
            visit.caller = self.caller(visit.headers, visit.route.call).await?;
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests;
