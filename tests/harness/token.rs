//! The shop's identity tokens (JWT), good ones and others.

use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

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
    SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock stands after 1970").as_secs()
}

fn sign(algorithm: Algorithm, claims: &Value, key: &EncodingKey) -> String {
    jsonwebtoken::encode(&Header::new(algorithm), claims, key).expect("claims that are JSON can be signed")
}
