//! What the edge answers by itself, on its way to the client.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, StatusCode};
use pingora::http::ResponseHeader;
use pingora::protocols::http::date::get_cached_date;
use pingora::{ErrorType, OrErr};
use serde::{Serialize, Serializer};

use super::problem::Refusal;

/// A whole answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub content_type: &'static str,
    pub cache_control: &'static str,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub body: Bytes,
    /// The word that metrics and the access log give the answer.
    pub word: &'static str,
}

const NO_STORE: &str = "no-store";

/// About as long as the heads of answers are.
const HEAD_BYTES: usize = 384;

fn put(out: &mut Vec<u8>, pieces: &[&[u8]]) {
    for piece in pieces {
        out.extend_from_slice(piece);
    }
}

impl Reply {
    pub fn json(status: u16, word: &'static str, body: &impl Serialize) -> Self {
        // Bodies are made of texts and numbers, which JSON can say.
        Self::with(status, word, serde_json::to_vec(body).unwrap_or_default().into())
    }

    pub fn no_content(word: &'static str) -> Self {
        Self::with(204, word, Bytes::new())
    }

    fn with(status: u16, word: &'static str, body: Bytes) -> Self {
        let headers = Vec::new();
        Self { status, content_type: "application/json", cache_control: NO_STORE, headers, body, word }
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
    /// A status that HTTP does not know.
    pub fn header(&self) -> pingora::Result<ResponseHeader> {
        let (mut parts, ()) = http::Response::new(()).into_parts();
        parts.status = StatusCode::from_u16(self.status).or_err(ErrorType::InternalError, "the status of an answer")?;
        // Room for those that stand here and for what the library adds.
        parts.headers.reserve(6 + self.headers.len());
        if self.status != 204 {
            parts.headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
            parts.headers.insert(CONTENT_LENGTH, self.body.len().into());
        }
        parts.headers.insert(CACHE_CONTROL, HeaderValue::from_static(self.cache_control));
        for (name, value) in &self.headers {
            parts.headers.append(name.clone(), value.clone());
        }
        // Not by the library's own inserting: it reads each name anew.
        Ok(parts.into())
    }

    /// The whole answer in the form of HTTP/1.1, on a connection that is kept.
    pub fn to_http1(&self) -> Vec<u8> {
        let reason = StatusCode::from_u16(self.status).ok().and_then(|status| status.canonical_reason());
        let mut out = Vec::with_capacity(HEAD_BYTES + self.body.len());
        let mut number = itoa::Buffer::new();
        put(
            &mut out,
            &[b"HTTP/1.1 ", number.format(self.status).as_bytes(), b" ", reason.unwrap_or_default().as_bytes()],
        );
        if self.status != 204 {
            put(&mut out, &[b"\r\nContent-Type: ", self.content_type.as_bytes()]);
            put(&mut out, &[b"\r\nContent-Length: ", number.format(self.body.len()).as_bytes()]);
        }
        put(&mut out, &[b"\r\nCache-Control: ", self.cache_control.as_bytes()]);
        for (name, value) in &self.headers {
            put(&mut out, &[b"\r\n", name.as_str().as_bytes(), b": ", value.as_bytes()]);
        }
        put(
            &mut out,
            &[b"\r\nDate: ", get_cached_date().as_bytes(), b"\r\nConnection: keep-alive\r\n\r\n", &self.body],
        );
        out
    }
}

impl From<Refusal> for Reply {
    fn from(refusal: Refusal) -> Self {
        let body = refusal.body();
        let retry_after = refusal.retry_after_s();
        let mut headers = refusal.headers;
        if let Some(seconds) = retry_after {
            headers.push((RETRY_AFTER, seconds.into()));
        }
        Self {
            status: refusal.status,
            content_type: "application/problem+json",
            cache_control: NO_STORE,
            headers,
            body,
            word: refusal.problem.word(),
        }
    }
}

/// An id or SKU as a part of a body that is written as it stands; see [`shown`].
pub struct Shown<'a>(pub &'a [u8]);

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&String::from_utf8_lossy(self.0))
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
        let reply = Reply::from(
            Refusal::from(Problem::RateLimited)
                .header(HeaderName::from_static("ratelimit"), HeaderValue::from_static("x")),
        );
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
