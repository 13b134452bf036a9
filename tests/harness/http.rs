//! A plain HTTP client: every status is an answer, refusals too. What a sale route answers is held against the
//! OpenAPI document.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

use crate::openapi;

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("no JSON ({error}): {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The last part of a problem document's `type`: the status word in lower case.
    #[track_caller]
    pub fn problem(&self) -> String {
        let problem = self.json();
        let kind = problem["type"].as_str().unwrap_or_default();
        kind.rsplit(['/', ':', '#']).next().unwrap_or_default().to_owned()
    }
}

/// Asserts that an answer is a refusal by this status and word, as RFC 9457 wants it, and that nobody keeps it.
#[track_caller]
pub fn assert_refused(answer: &Answer, status: u16, word: &str) {
    assert_eq!((answer.status, answer.problem().as_str()), (status, word), "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    assert_eq!(answer.json()["status"], status);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
}

/// A client with keep-alive. Clones share connections.
#[derive(Debug, Clone)]
pub struct Http {
    agent: ureq::Agent,
}

impl Default for Http {
    fn default() -> Self {
        Http::new()
    }
}

impl Http {
    pub fn new() -> Http {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_global(Some(Duration::from_secs(30)))
            .proxy(None)
            .build();
        Http { agent: config.into() }
    }

    /// Sends a request; `headers` are pairs of name and value, `body` may be empty.
    ///
    /// # Panics
    /// If no answer comes; [`Http::try_request`] tells.
    #[track_caller]
    pub fn request(&self, method: &str, url: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        match self.try_request(method, url, headers, body) {
            Ok(answer) => {
                openapi::check(method, url, &answer);
                answer
            }
            Err(error) => panic!("{method} {url}: {error}"),
        }
    }

    pub fn try_request(
        &self,
        method: &str,
        url: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer, ureq::Error> {
        let mut request = ureq::http::Request::builder().method(method).uri(url);
        for &(name, value) in headers {
            request = request.header(name, value);
        }
        let mut response = if body.is_empty() {
            let request = request.body(()).map_err(ureq::Error::from)?;
            self.agent.run(request)?
        } else {
            let request = request.body(body).map_err(ureq::Error::from)?;
            self.agent.run(request)?
        };
        let headers = response
            .headers()
            .iter()
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .collect();
        Ok(Answer { status: response.status().as_u16(), headers, body: response.body_mut().read_to_vec()? })
    }

    #[track_caller]
    pub fn get(&self, url: &str) -> Answer {
        self.request("GET", url, &[], b"")
    }
}

/// Everything that a connection still says, until the other side closes it or is silent for its read timeout.
pub fn read_to_end(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    // A timeout or a reset ends it too: what came before stays.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// The head of a request or an answer and nothing behind it; what there is of it if the other side says no more.
pub fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|length| length > 0) {
        head.push(byte[0]);
    }
    String::from_utf8_lossy(&head).into_owned()
}
