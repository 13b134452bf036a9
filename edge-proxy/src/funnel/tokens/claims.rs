//! What a token says, and whether that lets somebody in: RFC 7519, section 4.1.

use std::borrow::Cow;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

use super::TokensConfig;
use crate::http::routes::NAME_BYTES_MAX;

const NOT_VALID: &str = "The token is not a valid JWT.";
const LACKS: &str = "The token lacks a claim that is needed.";

/// `exp`, `nbf`, `iss`, `aud` and the buyer's.
const CLAIMS: usize = 5;

/// What a verified token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    pub buyer: Bytes,
    /// Unix seconds, without leeway.
    pub expires_s: u64,
}

/// What the claims of a token must be like.
pub struct Rules {
    buyer: String,
    /// One of these, if there are any; the same for `issuer`.
    audience: Vec<String>,
    issuer: Vec<String>,
    pub leeway_s: u64,
}

impl Rules {
    pub fn new(config: &TokensConfig) -> Self {
        Self {
            buyer: config.buyer_claim.clone(),
            audience: config.audience.clone(),
            issuer: config.issuer.clone(),
            leeway_s: config.leeway_s,
        }
    }

    /// What the claims of a token say whose signature is good, at `now_s` of unix time.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn read(&self, encoded: &str, now_s: u64) -> Result<Verified, &'static str> {
        let json = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| NOT_VALID)?;
        let mut reader = serde_json::Deserializer::from_slice(&json);
        let names = ["exp", "nbf", "iss", "aud", &self.buyer];
        let claims = reader.deserialize_map(Reading(names)).map_err(|_| NOT_VALID)?;
        reader.end().map_err(|_| NOT_VALID)?;
        let [exp, nbf, iss, aud, buyer] = claims;

        let expires_s = exp.as_ref().and_then(seconds).ok_or(LACKS)?;
        if expires_s < now_s.saturating_sub(self.leeway_s) {
            return Err("The token has expired; fetch a new one.");
        }
        if let Some(nbf) = &nbf
            && seconds(nbf).ok_or(NOT_VALID)? > now_s.saturating_add(self.leeway_s)
        {
            return Err("The token is not valid yet.");
        }
        if !is_one_of(&self.issuer, iss.as_ref())? {
            return Err("The token is of another issuer.");
        }
        if !is_one_of(&self.audience, aud.as_ref())? {
            return Err("The token is for another audience.");
        }
        // The buyer may stand in a claim that has a meaning of its own.
        let buyer = match self.buyer.as_str() {
            "exp" => exp,
            "nbf" => nbf,
            "iss" => iss,
            "aud" => aud,
            _ => buyer,
        };
        Ok(Verified { buyer: buyer_id(buyer)?, expires_s })
    }
}

/// A `NumericDate`: seconds, perhaps with a fraction.
fn seconds(claim: &Value) -> Option<u64> {
    let fraction = || claim.as_f64().filter(|seconds| (0.0..u64::MAX as f64).contains(seconds));
    claim.as_u64().or_else(|| fraction().map(|seconds| seconds.round() as u64))
}

/// Whether a text or one of a list of texts is among the `wanted`, where any are.
fn is_one_of(wanted: &[String], claim: Option<&Value>) -> Result<bool, &'static str> {
    if wanted.is_empty() {
        return Ok(true);
    }
    let is_wanted = |text: &str| wanted.iter().any(|wanted| wanted == text);
    match claim {
        Some(Value::String(text)) => Ok(is_wanted(text)),
        Some(Value::Array(texts)) => {
            let texts = texts.iter().map(Value::as_str).collect::<Option<Vec<_>>>();
            Ok(texts.ok_or(LACKS)?.into_iter().any(is_wanted))
        }
        _ => Err(LACKS),
    }
}

/// Shops number their customers or name them; both are ids.
fn buyer_id(claim: Option<Value>) -> Result<Bytes, &'static str> {
    let id = match claim {
        Some(Value::String(text)) => text,
        Some(Value::Number(number)) if number.is_u64() => number.to_string(),
        None | Some(Value::Null) => return Err("The token does not say who the buyer is."),
        Some(_) => return Err("The token's buyer is neither a text nor a whole number."),
    };
    if id.is_empty() || id.len() > NAME_BYTES_MAX {
        return Err("The token's buyer id is empty or longer than 128 bytes.");
    }
    Ok(Bytes::from(id))
}

/// Reads the claims that count, each of which may stand once.
struct Reading<'a>([&'a str; CLAIMS]);

#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> Visitor<'de> for Reading<'_> {
    type Value = [Option<Value>; CLAIMS];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the claims of a token")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut claims = Self::Value::default();
        while let Some(Name(name)) = map.next_key()? {
            match self.0.iter().position(|claim| *claim == name) {
                Some(place) if claims[place].is_some() => return Err(A::Error::custom("a claim stands twice")),
                Some(place) => claims[place] = Some(map.next_value()?),
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(claims)
    }
}
