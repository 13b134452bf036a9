//! A buyer's browser: real HTTP through the proxy.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use reqwest::{Client, Method};
use serde_json::Value;
use tokio::sync::Semaphore;

use super::crowd::Buyer;
use super::tally::Tally;

/// What the edge answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// 200, 201 or 204, with the body.
    Done(Value),
    /// 202, or 503: the same request may be sent again.
    Later(String),
    /// Refused, by the word of the problem.
    Refused(String),
    /// Nothing, or nonsense.
    Failed(String),
}

/// The way of all buyers to the proxy.
pub struct Browser {
    client: Client,
    base: String,
    /// `/flash/SALE`
    sale: String,
    sku: String,
    /// Requests that may be under way at once.
    places: Semaphore,
    tally: Arc<Tally>,
}

impl Browser {
    /// For `concurrency` requests at once to the proxy at `base`, where a sale offers one SKU.
    ///
    /// # Errors
    /// The client cannot be built.
    pub fn new(base: &str, sale: &str, sku: &str, concurrency: u32, tally: Arc<Tally>) -> anyhow::Result<Self> {
        let client = Client::builder().timeout(Duration::from_secs(15)).build()?;
        let (sale, sku) = (format!("/flash/{sale}"), sku.to_owned());
        Ok(Self { client, base: base.to_owned(), sale, sku, places: Semaphore::new(concurrency as usize), tally })
    }

    /// Looks at a page of the shop.
    pub async fn look(&self, buyer: &Buyer, path: &str) -> Result<(), String> {
        let Ok(_place) = self.places.acquire().await else {
            return Err("no place".to_owned());
        };
        let request = self.client.get(format!("{}{path}", self.base));
        let answer = request.header("X-Forwarded-For", buyer.address.to_string()).send().await;
        let answer = answer.map_err(|error| describe(&error))?;
        let status = answer.status();
        answer.bytes().await.map_err(|error| describe(&error))?;
        if !status.is_success() {
            return Err(format!("the page {path} came with {status}"));
        }
        self.tally.pages.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Asks for a hold; `key` names it, so that asking twice is asking once.
    pub async fn reserve(&self, buyer: &Buyer, token: &str, quantity: u32, key: &str) -> Answer {
        let path = format!("{}/holds?sku={}&qty={quantity}", self.sale, self.sku);
        self.call(Method::POST, &path, buyer, token, Some(key), None).await
    }

    /// Pays for a hold.
    pub async fn confirm(&self, buyer: &Buyer, token: &str, hold: &str) -> Answer {
        let path = format!("{}/holds/{hold}/confirm", self.sale);
        let body = serde_json::json!({ "ref": format!("payment-of-{}", buyer.name) });
        self.call(Method::POST, &path, buyer, token, None, Some(body)).await
    }

    /// Gives a hold back.
    pub async fn release(&self, buyer: &Buyer, token: &str, hold: &str) -> Answer {
        let path = format!("{}/holds/{hold}", self.sale);
        self.call(Method::DELETE, &path, buyer, token, None, None).await
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        buyer: &Buyer,
        token: &str,
        key: Option<&str>,
        body: Option<Value>,
    ) -> Answer {
        let mut request = self
            .client
            .request(method, format!("{}{path}", self.base))
            .header("X-Forwarded-For", buyer.address.to_string())
            .bearer_auth(token);
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let Ok(_place) = self.places.acquire().await else {
            return Answer::Failed("no place".to_owned());
        };
        let began = Instant::now();
        let answer = match request.send().await {
            Ok(response) => read(response).await,
            Err(error) => Answer::Failed(describe(&error)),
        };
        self.tally.request(began.elapsed());
        if let Answer::Refused(word) | Answer::Later(word) = &answer {
            self.tally.refusal(word);
        }
        answer
    }
}

async fn read(response: reqwest::Response) -> Answer {
    let status = response.status().as_u16();
    let body = match response.bytes().await {
        Ok(body) => body,
        Err(error) => return Answer::Failed(describe(&error)),
    };
    if status == 204 {
        return Answer::Done(Value::Null);
    }
    let Ok(body) = serde_json::from_slice::<Value>(&body) else {
        return Answer::Failed(format!("status {status} without JSON"));
    };
    let kind = body["type"].as_str().unwrap_or_default();
    let word = kind.rsplit([':', '/']).next().unwrap_or_default().to_owned();
    match status {
        200 | 201 => Answer::Done(body),
        202 | 503 => Answer::Later(word),
        400..500 if !word.is_empty() => Answer::Refused(word),
        _ => Answer::Failed(format!("status {status} {word}")),
    }
}

fn describe(error: &reqwest::Error) -> String {
    let what = if error.is_timeout() {
        "no answer in time"
    } else if error.is_connect() {
        "no connection"
    } else {
        "the answer broke off"
    };
    what.to_owned()
}
