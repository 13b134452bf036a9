//! Every refusal of the edge: one table, from which the RFC 9457 documents are made.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use rand::RngExt;
use serde::Serialize;
use serde_json::Value;

/// What the `type` of every problem begins with.
pub const TYPE_PREFIX: &str = "urn:flashsale:problem:";

/// The kinds of refusal. The order is that of [`TABLE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Problem {
    Pending,
    BadRequest,
    Token,
    Ticket,
    NotYours,
    Challenge,
    Denied,
    NoSale,
    NoSku,
    NotFound,
    NoRoute,
    Method,
    SlowHeader,
    SlowBody,
    SoldOut,
    AllHeld,
    Empty,
    Limit,
    Mismatch,
    Confirmed,
    Closed,
    Expired,
    Released,
    TooLarge,
    NotOpen,
    RateLimited,
    HeaderTooLarge,
    Internal,
    ShopDown,
    Overloaded,
    Paused,
    Backlog,
    RedisDown,
    ShopTimeout,
}

/// A row of the table.
pub struct Row {
    pub problem: Problem,
    pub status: u16,
    /// The end of `type`: stable, for programs.
    pub word: &'static str,
    /// For people; never the place where the specifics stand.
    pub title: &'static str,
    /// Seconds after which trying again makes sense, before jitter; `None`: it never does by itself.
    pub retry_after_s: Option<u32>,
}

const fn row(
    problem: Problem,
    status: u16,
    word: &'static str,
    title: &'static str,
    retry_after_s: Option<u32>,
) -> Row {
    Row { problem, status, word, title, retry_after_s }
}

/// The contract's refusals, by status.
pub const TABLE: &[Row] = &[
    row(Problem::Pending, 202, "pending", "The outcome is not known yet", Some(1)),
    row(Problem::BadRequest, 400, "bad-request", "The request cannot be understood", None),
    row(Problem::Token, 401, "token", "A valid identity token is needed", None),
    row(Problem::Ticket, 401, "ticket", "A valid ticket is needed", None),
    row(Problem::NotYours, 403, "not-yours", "This hold belongs to somebody else", None),
    row(Problem::Challenge, 403, "challenge", "A challenge must be solved first", None),
    row(Problem::Denied, 403, "denied", "You cannot take part", None),
    row(Problem::NoSale, 404, "no-sale", "There is no such sale", None),
    row(Problem::NoSku, 404, "no-sku", "The sale has no such article", None),
    row(Problem::NotFound, 404, "not-found", "There is no such hold", None),
    row(Problem::NoRoute, 404, "no-route", "There is nothing at this address", None),
    row(Problem::Method, 405, "method", "This address does not know this method", None),
    row(Problem::SlowHeader, 408, "slow-header", "The request took too long to arrive", None),
    row(Problem::SlowBody, 408, "slow-body", "The request's body took too long to arrive", None),
    row(Problem::SoldOut, 409, "sold-out", "Sold out", None),
    row(Problem::AllHeld, 409, "all-held", "All units are held by others at the moment", Some(5)),
    row(Problem::Empty, 409, "empty", "No unit here at the moment, there may be some in a second", Some(1)),
    row(Problem::Limit, 409, "limit", "More than one buyer may have", None),
    row(Problem::Mismatch, 409, "mismatch", "The same id was used for something else", None),
    row(Problem::Confirmed, 409, "confirmed", "The hold is an order already", None),
    row(Problem::Closed, 410, "closed", "The sale is over", None),
    row(Problem::Expired, 410, "expired", "The hold has expired", None),
    row(Problem::Released, 410, "released", "The hold was given back", None),
    row(Problem::TooLarge, 413, "too-large", "The body is too large", None),
    row(Problem::NotOpen, 425, "not-open", "The sale has not begun", Some(1)),
    row(Problem::RateLimited, 429, "rate-limited", "Too many requests", Some(1)),
    row(Problem::HeaderTooLarge, 431, "header-too-large", "The request's header is too large", None),
    row(Problem::Internal, 500, "internal", "Something is wrong on our side", None),
    row(Problem::ShopDown, 502, "shop-down", "The shop cannot be reached", Some(2)),
    row(Problem::Overloaded, 503, "overloaded", "Too much is going on at the moment", Some(1)),
    row(Problem::Paused, 503, "paused", "The sale is paused", Some(5)),
    row(Problem::Backlog, 503, "backlog", "Orders must be worked off first", Some(5)),
    row(Problem::RedisDown, 503, "redis-down", "The stock cannot be reached", Some(1)),
    row(Problem::ShopTimeout, 504, "shop-timeout", "The shop did not answer in time", None),
];

/// About as long as documents are.
const DOCUMENT_BYTES: usize = 256;

impl Problem {
    /// This problem's row.
    pub fn row(self) -> &'static Row {
        &TABLE[self as usize]
    }

    pub fn word(self) -> &'static str {
        self.row().word
    }

    /// A refusal with what exactly was wrong and what to do about it.
    pub fn because(self, detail: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal {
            problem: self,
            status: self.row().status,
            detail: Some(detail.into()),
            members: Vec::new(),
            headers: Vec::new(),
            retry_after: self.row().retry_after_s.map(|s| Duration::from_secs(s.into())),
            document: None,
        }
    }
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Refusal { detail: None, ..problem.because("") }
    }
}

/// A refusal on its way to the client.
#[derive(Debug, Clone)]
pub struct Refusal {
    pub problem: Problem,
    pub status: u16,
    pub detail: Option<Cow<'static, str>>,
    /// Members of the document beside the usual ones, such as `sku`.
    pub members: Vec<(&'static str, Value)>,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// When trying again makes sense, before jitter.
    pub retry_after: Option<Duration>,
    /// The document, if somebody has made it before.
    document: Option<Arc<Bytes>>,
}

impl Refusal {
    pub fn with(mut self, member: &'static str, value: impl Into<Value>) -> Self {
        self.members.push((member, value.into()));
        self
    }

    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    pub fn status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// The same refusal with a document that was made before.
    pub fn document(mut self, document: Arc<Bytes>) -> Self {
        self.document = Some(document);
        self
    }

    /// The problem document. Written by hand: it is made for each refused request of a rush.
    pub fn body(&self) -> Bytes {
        if let Some(document) = &self.document {
            return Bytes::clone(document);
        }
        let row = self.problem.row();
        let mut document = Vec::with_capacity(DOCUMENT_BYTES);
        // Words and titles are constants of the table, without a character that JSON escapes.
        for piece in [r#"{"type":""#, TYPE_PREFIX, row.word, r#"","title":""#, row.title, r#"","status":"#] {
            document.extend_from_slice(piece.as_bytes());
        }
        write_json(&mut document, &self.status);
        if let Some(detail) = &self.detail {
            document.extend_from_slice(br#","detail":"#);
            write_json(&mut document, detail);
        }
        for (name, value) in &self.members {
            document.push(b',');
            write_json(&mut document, name);
            document.push(b':');
            write_json(&mut document, value);
        }
        document.push(b'}');
        Bytes::from(document)
    }

    /// The value of `Retry-After`: the wait plus up to half of it and a second, at random,
    /// or the refused would all come back as one wave.
    pub fn retry_after_s(&self) -> Option<u64> {
        let wait = self.retry_after?.as_secs_f64().ceil() as u64;
        let spread = wait.min(60) / 2 + 1;
        Some(wait.max(1) + rand::rng().random_range(0..=spread))
    }
}

/// Numbers, texts and values all have a form in JSON, and memory takes what is written to it.
fn write_json(document: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    let _ = serde_json::to_writer(document, value);
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use serde_json::json;

    use super::*;

    #[test]
    fn every_document_is_json_whatever_stands_in_it() {
        for row in TABLE {
            let refusal = row.problem.because("\"quoted\"\n\u{0}é").with("a \"name\"", "x\ny");
            let document: Value = serde_json::from_slice(&refusal.body()).unwrap();
            assert_eq!(document["title"], row.title);
            assert_eq!(document["detail"], "\"quoted\"\n\u{0}é");
            assert_eq!(document["a \"name\""], "x\ny");
            assert_eq!(document["type"], format!("{TYPE_PREFIX}{}", row.word));
        }
    }

    #[test]
    fn each_problem_stands_in_its_place() {
        for (index, row) in TABLE.iter().enumerate() {
            assert_eq!(row.problem as usize, index, "{}", row.word);
        }
        assert_eq!(TABLE.len(), Problem::ShopTimeout as usize + 1);
    }

    #[test]
    fn words_are_unique_and_statuses_those_of_the_contract() {
        let words: HashSet<_> = TABLE.iter().map(|row| row.word).collect();
        assert_eq!(words.len(), TABLE.len());
        for (word, status) in [
            ("pending", 202),
            ("bad-request", 400),
            ("token", 401),
            ("not-yours", 403),
            ("sold-out", 409),
            ("all-held", 409),
            ("limit", 409),
            ("mismatch", 409),
            ("closed", 410),
            ("expired", 410),
            ("released", 410),
            ("too-large", 413),
            ("not-open", 425),
            ("rate-limited", 429),
            ("overloaded", 503),
            ("paused", 503),
            ("backlog", 503),
            ("redis-down", 503),
        ] {
            let row = TABLE.iter().find(|row| row.word == word).expect(word);
            assert_eq!(row.status, status, "{word}");
        }
    }

    #[test]
    fn every_problem_is_documented() {
        let documentation = include_str!("../../../docs/edge.md");
        for row in TABLE {
            let cell = format!("| {} | `{}` |", row.status, row.word);
            assert!(documentation.contains(&cell), "docs/edge.md lacks {cell}");
        }
    }

    #[test]
    fn a_document_has_the_members_of_rfc_9457_and_its_own() {
        let refusal = Problem::Limit.because("two at most").with("left", 1);
        let document: Value = serde_json::from_slice(&refusal.body()).unwrap();
        assert_eq!(
            document,
            json!({
                "type": "urn:flashsale:problem:limit",
                "title": "More than one buyer may have",
                "status": 409,
                "detail": "two at most",
                "left": 1,
            })
        );
    }

    #[test]
    fn retry_after_is_spread() {
        let refusal = Refusal::from(Problem::AllHeld);
        let values: HashSet<_> = (0..200).filter_map(|_| refusal.retry_after_s()).collect();
        assert!(values.len() > 1);
        assert!(values.iter().all(|s| (5..=8).contains(s)), "{values:?}");
        assert!(Refusal::from(Problem::SoldOut).retry_after_s().is_none());
    }
}
