//! The shop's identity tokens (JWT), good ones and others.

pub use jsonwebtoken::Algorithm;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Value, json};

use crate::unix_ms;

/// The claims of a token that is good for an hour: `sub` is the buyer.
pub fn claims(buyer: &str) -> Value {
    let now = unix_seconds();
    json!({ "sub": buyer, "iat": now, "exp": now + 3600 })
}

/// Signed with a shared secret (HS256).
pub fn hs256(claims: &Value, secret: &[u8]) -> String {
    sign(Algorithm::HS256, claims, &EncodingKey::from_secret(secret))
}

/// Signed with an Ed25519 key (EdDSA), given as PKCS#8 PEM.
pub fn eddsa(claims: &Value, private_key_pem: &str) -> String {
    let key = EncodingKey::from_ed_pem(private_key_pem.as_bytes()).expect("an Ed25519 key in PEM");
    sign(Algorithm::EdDSA, claims, &key)
}

/// `Bearer TOKEN` for `buyer`, HS256: what most tests send.
pub fn bearer(buyer: &str, secret: &[u8]) -> String {
    format!("Bearer {}", hs256(&claims(buyer), secret))
}

/// Seconds since 1970.
pub fn unix_seconds() -> u64 {
    unix_ms() / 1_000
}

fn sign(algorithm: Algorithm, claims: &Value, key: &EncodingKey) -> String {
    jsonwebtoken::encode(&Header::new(algorithm), claims, key).expect("claims that are JSON can be signed")
}

/// A key pair of the test suite, which guards nothing: made with `openssl genpkey`.
#[derive(Debug, Clone, Copy)]
pub struct KeyPair {
    pub algorithm: Algorithm,
    private_pem: &'static str,
    pub public_pem: &'static str,
}

/// One for each kind of public key.
pub const KEY_PAIRS: [KeyPair; 3] = [
    KeyPair {
        algorithm: Algorithm::RS256,
        private_pem: include_str!("keys/rs256.pem"),
        public_pem: include_str!("keys/rs256.pub.pem"),
    },
    KeyPair {
        algorithm: Algorithm::ES256,
        private_pem: include_str!("keys/es256.pem"),
        public_pem: include_str!("keys/es256.pub.pem"),
    },
    KeyPair {
        algorithm: Algorithm::EdDSA,
        private_pem: include_str!("keys/eddsa.pem"),
        public_pem: include_str!("keys/eddsa.pub.pem"),
    },
];

impl KeyPair {
    /// `Bearer TOKEN` with these claims, naming this key id.
    pub fn bearer(&self, claims: &Value, kid: Option<&str>) -> String {
        let mut header = Header::new(self.algorithm);
        header.kid = kid.map(str::to_owned);
        let token = jsonwebtoken::encode(&header, claims, &self.private());
        format!("Bearer {}", token.expect("claims that are JSON can be signed"))
    }

    /// The public key as an entry of a key set.
    pub fn jwk(&self, kid: &str) -> Value {
        let mut jwk = Jwk::from_encoding_key(&self.private(), self.algorithm).expect("a key pair of ours");
        jwk.common.key_id = Some(kid.to_owned());
        serde_json::to_value(jwk).expect("a key is JSON")
    }

    fn private(&self) -> EncodingKey {
        let pem = self.private_pem.as_bytes();
        match self.algorithm {
            Algorithm::RS256 => EncodingKey::from_rsa_pem(pem),
            Algorithm::ES256 => EncodingKey::from_ec_pem(pem),
            _ => EncodingKey::from_ed_pem(pem),
        }
        .expect("a key pair of ours")
    }
}
