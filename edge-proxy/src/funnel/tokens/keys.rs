//! Keys that tokens are verified by, and the verifying itself.

use std::path::PathBuf;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation};
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::TokensConfig;
use crate::config::secret;
use crate::http::routes::NAME_BYTES_MAX;

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

/// A shorter shared secret can be guessed off-line from one token.
const SECRET_BYTES_MIN: usize = 16;

impl KeyConfig {
    /// # Errors
    /// The key cannot be read, or is not of the kind its algorithm needs.
    pub(super) fn decoding_key(&self) -> anyhow::Result<DecodingKey> {
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

/// A key at work.
pub(super) struct Key {
    algorithm: Algorithm,
    kid: Option<String>,
    decoding: DecodingKey,
    validation: Validation,
}

/// What a verified token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verified {
    pub buyer: Bytes,
    /// Unix seconds, without leeway.
    pub expires_s: u64,
}

impl Key {
    pub fn new(config: &TokensConfig, algorithm: Algorithm, kid: Option<String>, decoding: DecodingKey) -> Self {
        Self { algorithm, kid, decoding, validation: validation(config, algorithm) }
    }

    /// Whether tokens with this header are this key's.
    pub fn fits(&self, header: &Header) -> bool {
        self.algorithm == header.alg && (self.kid.is_none() || self.kid == header.kid)
    }

    /// # Errors
    /// What is wrong with the token.
    pub fn verify(&self, token: &str, buyer_claim: &str) -> Result<Verified, &'static str> {
        let data = jsonwebtoken::decode::<Map<String, Value>>(token, &self.decoding, &self.validation)
            .map_err(|error| reason(&error))?;
        // The library takes an expiry with a fraction too.
        let expires_s = data.claims.get("exp").and_then(Value::as_f64).map_or(0, |seconds| seconds as u64);
        Ok(Verified { buyer: buyer_id(data.claims.get(buyer_claim))?, expires_s })
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
