//! What the edge answers by itself, on its way to the client.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE};
use pingora::http::ResponseHeader;
use serde_json::Value;

use super::problem::Refusal;

/// A whole answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub content_type: &'static str,
    pub cache_control: &'static str,
    pub headers: Vec<(&'static str, String)>,
    pub body: Bytes,
    /// The word that metrics and the access log give the answer.
    pub word: &'static str,
}

const NO_STORE: &str = "no-store";

impl Reply {
    pub fn json(status: u16, word: &'static str, body: &Value) -> Self {
        Self {
            status,
            content_type: "application/json",
            cache_control: NO_STORE,
            headers: Vec::new(),
            body: Bytes::from(body.to_string()),
            word,
        }
    }

    pub fn no_content(word: &'static str) -> Self {
        Self { body: Bytes::new(), ..Self::json(204, word, &Value::Null) }
    }

    /// The answer may be shared by everybody for `cache_control`'s time.
    pub fn cached(mut self, cache_control: &'static str) -> Self {
        self.cache_control = cache_control;
        self
    }

    /// Whether others than the client may get to see it.
    pub fn is_shared(&self) -> bool {
        self.cache_control != NO_STORE
    }

    /// The header as it goes over the wire.
    ///
    /// # Errors
    /// A value that no header can carry.
    pub fn header(&self) -> pingora::Result<ResponseHeader> {
        // Names as they are spelled here would be kept in a second map.
        let mut header = ResponseHeader::build_no_case(self.status, Some(6 + self.headers.len()))?;
        if self.status != 204 {
            header.insert_header(CONTENT_TYPE, self.content_type)?;
            header.insert_header(CONTENT_LENGTH, self.body.len())?;
        }
        header.insert_header(CACHE_CONTROL, self.cache_control)?;
        for (name, value) in &self.headers {
            header.append_header(*name, value.as_str())?;
        }
        Ok(header)
    }
}

impl From<Refusal> for Reply {
    fn from(refusal: Refusal) -> Self {
        let mut headers = refusal.headers.clone();
        if let Some(seconds) = refusal.retry_after_s() {
            headers.push(("Retry-After", seconds.to_string()));
        }
        Self {
            status: refusal.status,
            content_type: "application/problem+json",
            cache_control: NO_STORE,
            headers,
            body: refusal.body(),
            word: refusal.problem.word(),
        }
    }
}

/// An id or SKU in JSON. Bytes that are not UTF-8 cannot stand there; they are replaced.
pub fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::problem::Problem;

    #[test]
    fn a_refusal_is_a_problem_document_nobody_stores() {
        let reply = Reply::from(Refusal::from(Problem::RateLimited).header("RateLimit", "x"));
        let header = reply.header().unwrap();
        assert_eq!(header.status, 429);
        assert_eq!(header.headers["content-type"], "application/problem+json");
        assert_eq!(header.headers["cache-control"], "no-store");
        assert_eq!(header.headers["ratelimit"], "x");
        assert!(header.headers.contains_key("retry-after"));
    }

    #[test]
    fn no_content_has_none() {
        let header = Reply::no_content("released").header().unwrap();
        assert!(!header.headers.contains_key("content-length"));
        assert!(!header.headers.contains_key("content-type"));
    }
}
