//! Keys that tokens are signed with.

use std::path::PathBuf;

use anyhow::{Context, bail, ensure};
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, Header};
use secrecy::ExposeSecret;
use serde::Deserialize;

use crate::config::secret;

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
pub struct Key {
    algorithm: Algorithm,
    kid: Option<String>,
    material: Material,
}

enum Material {
    /// Made ready once: that costs as much as to verify a token.
    Shared(Box<hmac::Key>),
    Public(DecodingKey),
}

impl Key {
    pub fn new(algorithm: Algorithm, kid: Option<String>, key: DecodingKey) -> Self {
        let shared =
            |hash| key.try_get_as_bytes().ok().map(|secret| Material::Shared(Box::new(hmac::Key::new(hash, secret))));
        let material = match algorithm {
            Algorithm::HS256 => shared(hmac::HMAC_SHA256),
            Algorithm::HS384 => shared(hmac::HMAC_SHA384),
            Algorithm::HS512 => shared(hmac::HMAC_SHA512),
            _ => None,
        };
        Self { algorithm, kid, material: material.unwrap_or(Material::Public(key)) }
    }

    /// Whether tokens with this header are this key's.
    pub fn fits(&self, header: &Header) -> bool {
        self.algorithm == header.alg && (self.kid.is_none() || self.kid == header.kid)
    }

    /// Whether the token's signature is of this key.
    pub fn has_signed(&self, token: &Token<'_>) -> bool {
        let message = token.message.as_bytes();
        match &self.material {
            Material::Shared(key) => URL_SAFE_NO_PAD
                .decode(token.signature)
                .is_ok_and(|signature| hmac::verify(key, message, &signature).is_ok()),
            Material::Public(key) => {
                jsonwebtoken::crypto::verify(token.signature, message, key, self.algorithm).unwrap_or(false)
            }
        }
    }
}

/// A token in its compact form, and its parts: RFC 7515, section 7.1.
pub struct Token<'a> {
    pub text: &'a str,
    /// What is signed: the header and the claims.
    message: &'a str,
    pub header: &'a str,
    pub claims: &'a str,
    signature: &'a str,
}

impl<'a> Token<'a> {
    pub fn split(text: &'a str) -> Option<Self> {
        let (message, signature) = text.rsplit_once('.')?;
        let (header, claims) = message.split_once('.')?;
        Some(Self { text, message, header, claims, signature })
    }
}
