//! Where orders go: a port for sinks, and the webhook behind it.

use std::error::Error;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use async_trait::async_trait;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode, Url};
use secrecy::ExposeSecret;
use standardwebhooks::{HEADER_WEBHOOK_ID, HEADER_WEBHOOK_SIGNATURE, HEADER_WEBHOOK_TIMESTAMP, Webhook as Signer};

use super::backoff::retry_after;
use super::config::{WebhookConfig, secret_key};
use super::message::Message;

/// An answer's body is read up to here, so that its connection can be used again.
const DRAINED_BYTES: u64 = 64 * 1024;

/// How one try ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The receiver has it.
    Accepted,
    /// This order should be tried again, not before `after`.
    Retry { reason: String, after: Duration },
    /// The receiver wants to be left alone for a while, by all orders.
    Rest { reason: String, after: Duration },
    /// The receiver will never take it.
    Refused { reason: String },
}

/// A receiver of orders.
#[async_trait]
pub trait Sink: Send + Sync {
    /// Makes one try.
    async fn deliver(&self, message: &Message) -> Outcome;
}

/// Calls one URL by the Standard Webhooks spec.
pub struct Webhook {
    url: Url,
    signer: Signer,
    client: Client,
    timeout: Duration,
    retry_after_longest: Duration,
    permanent: Vec<u16>,
}

impl Webhook {
    /// Reads the secret and prepares the client; connects to nothing.
    pub fn new(config: &WebhookConfig) -> anyhow::Result<Self> {
        Self::with_secret(config, config.secret()?.expose_secret())
    }

    fn with_secret(config: &WebhookConfig, secret: &str) -> anyhow::Result<Self> {
        let url = Url::parse(&config.url).context("[relay.webhook] url")?;
        ensure!(matches!(url.scheme(), "http" | "https"), "[relay.webhook] url: must begin with http:// or https://");
        let client = Client::builder()
            .user_agent(concat!("flashsale/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::none())
            .pool_idle_timeout(Duration::from_secs(30))
            .build()?;
        Ok(Self {
            url,
            signer: Signer::from_bytes(secret_key(secret)?)?,
            client,
            timeout: config.timeout(),
            retry_after_longest: Duration::from_millis(config.retry_after_longest_ms),
            permanent: config.permanent.clone(),
        })
    }

    async fn call(&self, message: &Message) -> Result<Response, String> {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        let timestamp = since_epoch.map_or(0, |elapsed| elapsed.as_secs() as i64);
        let signature = self.signer.sign(&message.id, timestamp, &message.body);
        let signature = signature.map_err(|error| format!("cannot sign: {error}"))?;
        let request = self
            .client
            .post(self.url.clone())
            .timeout(self.timeout)
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .header(HEADER_WEBHOOK_ID, &message.id)
            .header(HEADER_WEBHOOK_TIMESTAMP, timestamp)
            .header(HEADER_WEBHOOK_SIGNATURE, signature)
            .body(message.body.clone());
        request.send().await.map_err(|error| describe(&error))
    }

    /// What a status means: 2xx is taken; the `permanent` ones are refusals; all else is tried again, because
    /// a 401 or 404 is more likely a mistake in somebody's configuration than in the order.
    fn judge(&self, status: StatusCode, wait: Option<Duration>) -> Outcome {
        let reason = format!("HTTP {}", status.as_u16());
        let after = wait.unwrap_or_default().min(self.retry_after_longest);
        match status.as_u16() {
            200..300 => Outcome::Accepted,
            code if self.permanent.contains(&code) => Outcome::Refused { reason },
            429 | 503 if !after.is_zero() => Outcome::Rest { reason, after },
            _ => Outcome::Retry { reason, after },
        }
    }
}

#[async_trait]
impl Sink for Webhook {
    async fn deliver(&self, message: &Message) -> Outcome {
        match self.call(message).await {
            Ok(response) => {
                let status = response.status();
                let wait = wait_asked_for(response.headers());
                drain(response).await;
                self.judge(status, wait)
            }
            Err(reason) => Outcome::Retry { reason, after: Duration::ZERO },
        }
    }
}

fn wait_asked_for(headers: &HeaderMap) -> Option<Duration> {
    retry_after(headers.get(RETRY_AFTER)?.to_str().ok()?, SystemTime::now())
}

/// Reads a short body, so that the connection is kept; a long one is not worth it. The try's timeout holds here too,
/// and whatever happens the status has been told already.
async fn drain(response: Response) {
    if response.content_length().is_some_and(|length| length <= DRAINED_BYTES) {
        let _ignored = response.bytes().await;
    }
}

/// The error with its causes, without the URL: that may carry a password.
fn describe(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let mut text = if error.is_connect() { "cannot connect" } else { "no answer" }.to_owned();
    let mut cause = error.source();
    while let Some(deeper) = cause {
        text = format!("{text}: {deeper}");
        cause = deeper.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the spec's reference implementations.
    const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

    fn webhook() -> Webhook {
        let config = WebhookConfig { url: "http://127.0.0.1:1/orders".to_owned(), ..WebhookConfig::default() };
        Webhook::with_secret(&config, SECRET).expect("a good config")
    }

    #[test]
    fn signs_as_the_published_example() {
        let body = br#"{"email":"test@example.com","username":"test_user"}"#;
        let signature = webhook().signer.sign("msg_27UH4WbU6Z5A5EzD8u03UvzRbpk", 1_649_367_553, body);
        assert_eq!(signature.expect("text"), "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=");
    }

    #[test]
    fn refuses_a_url_that_is_none() {
        for url in ["", "shop", "ftp://shop/", "/orders"] {
            let config = WebhookConfig { url: url.to_owned(), ..WebhookConfig::default() };
            let error = Webhook::with_secret(&config, SECRET).err().expect(url);
            assert!(error.to_string().contains("url"), "{error}");
        }
    }

    #[test]
    fn judges_by_status() {
        let webhook = webhook();
        let judge = |code, wait: Option<u64>| {
            let status = StatusCode::from_u16(code).expect("a status");
            webhook.judge(status, wait.map(Duration::from_secs))
        };
        let retry =
            |code: u16, seconds| Outcome::Retry { reason: format!("HTTP {code}"), after: Duration::from_secs(seconds) };
        assert_eq!(judge(204, None), Outcome::Accepted);
        for code in [301, 401, 404, 408, 425, 500] {
            assert_eq!(judge(code, None), retry(code, 0));
        }
        assert_eq!(judge(500, Some(9)), retry(500, 9));
        assert!(matches!(judge(410, None), Outcome::Refused { .. }));
        let rest = Outcome::Rest { reason: "HTTP 503".to_owned(), after: Duration::from_secs(300) };
        assert_eq!(judge(503, Some(1_000_000)), rest);
    }
}
