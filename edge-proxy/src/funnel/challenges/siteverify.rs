//! Asks Turnstile, hCaptcha or reCAPTCHA whether a challenge was solved: all three take a form with the secret and
//! the response and answer `{"success": ...}`.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context, ensure};
use reqwest::{Client, Url};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tokio::sync::Semaphore;

use super::{ChallengeConfig, Kind, Verdict, members, millis};
use crate::background;

/// How many are asked about at once; more would pile up behind a provider that is slow.
const AT_ONCE: usize = 256;

/// A longer response is none of theirs (Turnstile's are the longest: 2048 characters).
const RESPONSE_BYTES_MAX: usize = 8192;

const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// One provider.
pub struct Siteverify {
    url: Url,
    secret: SecretString,
    hostname: String,
    score_min: f64,
    client: Client,
    places: Arc<Semaphore>,
}

impl Siteverify {
    /// # Errors
    /// The URL is malformed.
    pub fn new(config: &ChallengeConfig, secret: SecretString) -> anyhow::Result<Self> {
        let url = match (config.url.as_str(), config.kind) {
            ("", Kind::Hcaptcha) => "https://api.hcaptcha.com/siteverify",
            ("", Kind::Recaptcha) => "https://www.google.com/recaptcha/api/siteverify",
            ("", _) => "https://challenges.cloudflare.com/turnstile/v0/siteverify",
            (url, _) => url,
        };
        let url = Url::parse(url).with_context(|| format!("[[challenges]] url: `{url}`"))?;
        ensure!(matches!(url.scheme(), "http" | "https"), "[[challenges]] url: must begin with https://");
        let client = Client::builder()
            .timeout(millis(config.timeout_ms))
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("flashsale/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self {
            url,
            secret,
            hostname: config.hostname.clone(),
            score_min: config.score_min,
            client,
            places: Arc::new(Semaphore::new(AT_ONCE)),
        })
    }

    pub async fn verify(&self, response: &str, address: IpAddr) -> Verdict {
        if response.is_empty() || response.len() > RESPONSE_BYTES_MAX {
            return Verdict::Wrong;
        }
        let Ok(_place) = self.places.clone().try_acquire_owned() else {
            return Verdict::Busy;
        };
        let request = self
            .client
            .post(self.url.clone())
            .header("content-type", "application/x-www-form-urlencoded")
            .body(self.form(response, address));
        match background::run(ask(request)).await {
            Some(Ok(answer)) => self.judge(&answer),
            Some(Err(error)) => {
                log::debug!("the provider of challenges does not answer: {error}");
                Verdict::Down
            }
            None => Verdict::Down,
        }
    }

    fn form(&self, response: &str, address: IpAddr) -> String {
        let mut form = self.url.clone();
        form.query_pairs_mut()
            .clear()
            .append_pair("secret", self.secret.expose_secret())
            .append_pair("response", response)
            .append_pair("remoteip", &address.to_string());
        form.query().unwrap_or_default().to_owned()
    }

    fn judge(&self, answer: &[u8]) -> Verdict {
        let Some(answer) = members(answer) else {
            return Verdict::Down;
        };
        if answer.get("success") != Some(&Value::Bool(true)) {
            let codes: Vec<&str> = answer
                .get("error-codes")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect();
            // A secret that is wrong is our fault, and would turn everybody away.
            if codes.iter().any(|code| code.contains("secret")) {
                log::error!("the provider of challenges refuses our secret: {codes:?}");
                return Verdict::Down;
            }
            return if codes.contains(&"timeout-or-duplicate") { Verdict::Expired } else { Verdict::Wrong };
        }
        let hostname = answer.get("hostname").and_then(Value::as_str).unwrap_or_default();
        let score = answer.get("score").and_then(Value::as_f64).unwrap_or(0.0);
        if (!self.hostname.is_empty() && self.hostname != hostname) || score < self.score_min {
            return Verdict::Wrong;
        }
        Verdict::Solved
    }
}

async fn ask(request: reqwest::RequestBuilder) -> Result<Vec<u8>, String> {
    let answered = async {
        let mut response = request.send().await?.error_for_status()?;
        let mut answer = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            answer.extend_from_slice(&chunk);
            if answer.len() > ANSWER_BYTES_MAX {
                break;
            }
        }
        Ok::<_, reqwest::Error>(answer)
    };
    // The URL has no secret in it, the form has.
    answered.await.map_err(|error| error.to_string())
}
