//! What is left of a limit to whom it concerns, in the words of draft-ietf-httpapi-ratelimit-headers.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};

use crate::http::problem::{Problem, Refusal};
use crate::http::reply::Reply;

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// How somebody stands with one limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    pub limit: &'static str,
    /// So many requests within `window_s` seconds.
    pub quota: u32,
    pub window_s: u64,
    pub left: u32,
    /// When there is more: all of it again if something is left, one if nothing is.
    pub reset_s: u64,
}

impl Standing {
    /// Of both fields, if this is the only one that stands there.
    fn header_values(&self) -> (HeaderValue, HeaderValue) {
        let (mut policies, mut limits) = (String::new(), String::new());
        self.write(&mut policies, &mut limits);
        (header_value(policies), header_value(limits))
    }

    fn write(&self, policies: &mut String, limits: &mut String) {
        for text in [&mut *policies, &mut *limits] {
            if !text.is_empty() {
                text.push_str(", ");
            }
        }
        let Standing { limit, quota, window_s, left, reset_s } = self;
        // Writing to memory cannot fail.
        let _ = write!(policies, "\"{limit}\";q={quota};w={window_s}");
        let _ = write!(limits, "\"{limit}\";r={left};t={reset_s}");
    }
}

/// A limit that tells of itself. What is the same in each of its refusals is made once.
pub struct Told {
    limit: &'static str,
    quota: u32,
    window_s: u64,
    policy: HeaderValue,
    /// `RateLimit` if a second must be waited, which is what most refusals say.
    a_second: HeaderValue,
    document: Arc<Bytes>,
}

impl Told {
    /// `limit` is a word of letters and dashes; `quota` requests may come within `window_s` seconds.
    pub fn new(limit: &'static str, quota: u32, window_s: u64) -> Self {
        let detail = format!("More than {quota} requests came within {window_s} s, or too many at once.");
        let document = Arc::new(Problem::RateLimited.because(detail).body());
        let nothing = Standing { limit, quota, window_s, left: 0, reset_s: 1 };
        let (policy, a_second) = nothing.header_values();
        Self { limit, quota, window_s, policy, a_second, document }
    }

    pub fn quota(&self) -> u32 {
        self.quota
    }

    /// How somebody stands with this limit.
    pub fn standing(&self, left: u32, reset_s: u64) -> Standing {
        Standing { limit: self.limit, quota: self.quota, window_s: self.window_s, left, reset_s }
    }

    /// The refusal of one with whom nothing is left for `wait`.
    pub fn refused(&self, wait: Duration) -> Refusal {
        let reset_s = wait.as_secs_f64().ceil().max(1.0) as u64;
        let left = if reset_s == 1 { self.a_second.clone() } else { self.standing(0, reset_s).header_values().1 };
        Refusal::from(Problem::RateLimited)
            .document(self.document.clone())
            .header(POLICY, self.policy.clone())
            .header(LIMIT, left)
            .retry_after(wait)
    }
}

/// Of the address and of the buyer: the limits that a client can keep to. Those of a sale or of the whole server are
/// used up by others too.
#[derive(Debug, Clone, Copy, Default)]
pub struct Standings([Option<Standing>; 2]);

impl Standings {
    /// Notes one; there is room for both.
    pub fn note(&mut self, standing: Standing) {
        if let Some(free) = self.0.iter_mut().find(|free| free.is_none()) {
            *free = Some(standing);
        }
    }

    fn headers(&self) -> Vec<(HeaderName, HeaderValue)> {
        if self.0[0].is_none() {
            return Vec::new();
        }
        let (mut policies, mut limits) = (String::with_capacity(64), String::with_capacity(64));
        for standing in self.0.iter().flatten() {
            standing.write(&mut policies, &mut limits);
        }
        vec![(POLICY, header_value(policies)), (LIMIT, header_value(limits))]
    }

    /// Adds them to an answer that is the client's alone.
    ///
    /// # Errors
    /// The refusal that `result` is.
    pub fn tell(&self, result: Result<Reply, Refusal>) -> Result<Reply, Refusal> {
        match result {
            Ok(reply) if reply.is_shared() => Ok(reply),
            Ok(mut reply) => {
                reply.headers.extend(self.headers());
                Ok(reply)
            }
            Err(mut refusal) => {
                refusal.headers.extend(self.headers());
                Err(refusal)
            }
        }
    }
}

/// Made of words of the program and numbers, so it can stand in a header.
fn header_value(text: String) -> HeaderValue {
    text.try_into().unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn both_limits_stand_in_one_field() {
        let mut standings = Standings::default();
        let own = || Reply::json(201, "reserved", &json!({}));
        assert!(standings.tell(Ok(own())).unwrap().headers.is_empty());
        standings.note(Standing { limit: "address", quota: 50, window_s: 1, left: 49, reset_s: 1 });
        standings.note(Standing { limit: "buyer", quota: 10, window_s: 2, left: 9, reset_s: 1 });
        let told = [
            (POLICY, HeaderValue::from_static("\"address\";q=50;w=1, \"buyer\";q=10;w=2")),
            (LIMIT, HeaderValue::from_static("\"address\";r=49;t=1, \"buyer\";r=9;t=1")),
        ];
        assert_eq!(standings.tell(Ok(own())).unwrap().headers, told);
        assert_eq!(standings.tell(Err(Problem::SoldOut.into())).unwrap_err().headers, told);
        let everybodys = own().cached("public, max-age=1");
        assert!(standings.tell(Ok(everybodys)).unwrap().headers.is_empty());
    }

    #[test]
    fn a_refusal_says_that_nothing_is_left() {
        let told = Told::new("buyer", 10, 2);
        for (wait_ms, limit) in [(0, "\"buyer\";r=0;t=1"), (1_200, "\"buyer\";r=0;t=2")] {
            assert_eq!(
                told.refused(Duration::from_millis(wait_ms)).headers,
                [(POLICY, HeaderValue::from_static("\"buyer\";q=10;w=2")), (LIMIT, HeaderValue::from_static(limit))]
            );
        }
    }
}
