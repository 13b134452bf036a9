//! Proof of work by the ALTCHA protocol (version 2), which has widgets for every kind of page.

use std::collections::BTreeMap;

use altcha::{CreateChallengeOptions, Payload, VerifySolutionOptions, create_challenge, verify_solution};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use super::Verdict;
use super::used;

/// Makes challenges and checks solutions. Nothing is remembered of what was made: a challenge is signed, and says
/// for whom it is and when it ends.
pub struct ProofOfWork {
    pub secret: SecretString,
    pub cost: u32,
    pub zeros: usize,
    pub ttl_s: u64,
}

/// The member of a challenge's data that says for whom it is.
const BINDING: &str = "for";

impl ProofOfWork {
    /// A new challenge as the protocol's JSON.
    ///
    /// # Errors
    /// The library cannot make one.
    pub fn create(&self, binding: &str, now_ms: u64) -> Result<Value, String> {
        let challenge = create_challenge(CreateChallengeOptions {
            algorithm: "PBKDF2/SHA-256".to_owned(),
            cost: self.cost,
            key_prefix: "0".repeat(self.zeros),
            expires_at: Some((now_ms / 1000 + self.ttl_s) as i64),
            data: Some(BTreeMap::from([(BINDING.to_owned(), binding.into())])),
            hmac_signature_secret: Some(self.secret.expose_secret().to_owned()),
            ..CreateChallengeOptions::default()
        });
        challenge
            .map_err(|error| error.to_string())
            .and_then(|challenge| serde_json::to_value(challenge).map_err(|error| error.to_string()))
    }

    /// The name under which the solved challenge is remembered.
    ///
    /// # Errors
    /// How the solution is wrong.
    pub fn verify(&self, response: &str, binding: &str) -> Result<[u8; 16], Verdict> {
        let payload = STANDARD.decode(response.trim()).map_err(|_| Verdict::Wrong)?;
        let payload: Payload = serde_json::from_slice(&payload).map_err(|_| Verdict::Wrong)?;
        let parameters = &payload.challenge.parameters;
        // Before any work is done for it.
        let of = parameters.data.as_ref().and_then(|data| data.get(BINDING)).and_then(Value::as_str);
        if of != Some(binding) || parameters.expires_at.is_none_or(|at| at <= 0) {
            return Err(Verdict::Wrong);
        }
        let options =
            VerifySolutionOptions::new(&payload.challenge, &payload.solution, self.secret.expose_secret().to_owned());
        match verify_solution(options) {
            Ok(result) if result.verified => Ok(used::name(parameters.nonce.as_bytes())),
            Ok(result) if result.expired => Err(Verdict::Expired),
            _ => Err(Verdict::Wrong),
        }
    }
}
