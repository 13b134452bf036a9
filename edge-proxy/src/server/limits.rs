//! How large a request may be, and how long it may take.

use std::time::Duration;

use http::Version;
use pingora::http::RequestHeader;

use super::shop;
use crate::http::input::BODY_BYTES_MAX;
use crate::http::problem::{Problem, Refusal};

/// How large a request may be.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Fields of a header.
    pub headers: usize,
    /// Bytes of a body that goes to the shop; 0 is no limit.
    pub body_bytes: u64,
    pub body_time: BodyTime,
}

/// How long a request's body may take, whole: the timeout of the library is for each read, so that a client which sends
/// a byte now and then would be read for ever.
#[derive(Debug, Clone, Copy)]
pub struct BodyTime {
    /// Of a call of a sale.
    pub whole: Duration,
    /// Bytes a second that earn a body for the shop more time; 0: it has all the time there is.
    pub rate_min: u64,
}

impl BodyTime {
    /// Whether a body for the shop, of which `bytes` are here, has taken too long.
    pub fn is_over(self, took: Duration, bytes: u64) -> bool {
        self.rate_min > 0 && took > self.whole + Duration::from_secs(bytes / self.rate_min)
    }
}

impl Limits {
    /// # Errors
    /// What the request has too much of, or what is wrong with its form.
    pub fn check(&self, header: &RequestHeader) -> Result<(), Refusal> {
        let fields = header.headers.len();
        if fields > self.headers {
            return Err(Problem::HeaderTooLarge
                .because(format!("The header has {fields} fields; it may have {}.", self.headers)));
        }
        if header.version == Version::HTTP_11 && !header.headers.contains_key(http::header::HOST) {
            return Err(Problem::BadRequest.because("A request needs a `Host` (RFC 9112, section 3.2)."));
        }
        let target = header.raw_path();
        if !target.starts_with(b"/") && target != b"*" && !shop::is_url(target) {
            return Err(Problem::BadRequest.because("The request's target is neither a path nor a URL."));
        }
        if !is_one_length(header) {
            return Err(Problem::BadRequest.because("`Content-Length` must stand once, as a number."));
        }
        match announced_length(header) {
            Some(length) if self.body_bytes > 0 && length > self.body_bytes => {
                Err(Problem::TooLarge.because(format!("A body may have {} bytes.", self.body_bytes)))
            }
            _ => Ok(()),
        }
    }
}

pub fn too_large() -> Refusal {
    Problem::TooLarge.because(format!("A body may have {BODY_BYTES_MAX} bytes."))
}

/// Refuses by the announced length, before a byte of the body is read.
///
/// # Errors
/// It is more than a call of a sale may have.
pub fn check_length(header: &RequestHeader) -> Result<(), Refusal> {
    match announced_length(header) {
        Some(length) if length > BODY_BYTES_MAX as u64 => Err(too_large()),
        _ => Ok(()),
    }
}

fn announced_length(header: &RequestHeader) -> Option<u64> {
    header.headers.get(http::header::CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok()
}

/// The library takes `5, 5` and two equal lengths for one and passes them on as they are; what stands behind
/// might take them for something else.
fn is_one_length(header: &RequestHeader) -> bool {
    let mut lengths = header.headers.get_all(http::header::CONTENT_LENGTH).iter();
    let (first, second) = (lengths.next(), lengths.next());
    second.is_none() && first.is_none_or(|length| length.as_bytes().iter().all(u8::is_ascii_digit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_length_is_one_header_with_one_number() {
        let is_one = |values: &[&'static str]| {
            let mut header = RequestHeader::build("POST", b"/", None).unwrap();
            for value in values {
                header.append_header("Content-Length", *value).unwrap();
            }
            is_one_length(&header)
        };
        assert!(is_one(&[]) && is_one(&["5"]) && is_one(&["05"]));
        assert!(!is_one(&["5", "5"]) && !is_one(&["5, 5"]) && !is_one(&["+5"]));
    }

    #[test]
    fn a_body_earns_time_by_what_comes_of_it() {
        let time = BodyTime { whole: Duration::from_secs(10), rate_min: 500 };
        let seconds = Duration::from_secs;
        assert!(!time.is_over(seconds(10), 0) && time.is_over(seconds(11), 0));
        assert!(!time.is_over(seconds(100), 45_000) && time.is_over(seconds(101), 45_000));
        assert!(!BodyTime { rate_min: 0, ..time }.is_over(seconds(86_400), 1));
    }

    #[test]
    fn the_announced_length_counts() {
        let length = |value: &'static str| {
            let mut header = RequestHeader::build("POST", b"/", None).unwrap();
            header.insert_header("Content-Length", value).unwrap();
            check_length(&header)
        };
        length("16384").unwrap();
        assert_eq!(length("16385").unwrap_err().status, 413);
        assert_eq!(length("18446744073709551615").unwrap_err().status, 413);
    }
}
