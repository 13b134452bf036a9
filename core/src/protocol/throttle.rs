//! FLASH.THROTTLE: words into a rate limit, and its verdict as a reply.

use super::ParseError;
use super::reply::Reply;
use super::words::integer;
use crate::gcra::{MAX_PERIOD_S, MAX_UNITS, Quota, Verdict};

/// What THROTTLE asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Throttle {
    /// How much is allowed.
    pub quota: Quota,
    /// How much is wanted now; 0 only looks.
    pub quantity: u64,
}

/// `burst count period [quantity]`, the words after the key.
pub fn throttle(words: &[&[u8]]) -> Result<Throttle, Box<ParseError>> {
    let (burst, count, period, quantity) = match *words {
        [burst, count, period] => (burst, count, period, b"1".as_slice()),
        [burst, count, period, quantity] => (burst, count, period, quantity),
        _ => return Err(ParseError::Arity.into()),
    };
    let number = |word, what, min: u64, max: u64| -> Result<u64, Box<ParseError>> {
        Ok(integer(word, what, min as i64, max as i64)? as u64)
    };
    let burst = number(burst, "burst", 0, MAX_UNITS - 1)?;
    let count = number(count, "count", 1, MAX_UNITS)?;
    let period_s = number(period, "period", 1, MAX_PERIOD_S)?;
    let quantity = number(quantity, "quantity", 0, MAX_UNITS)?;
    Ok(Throttle { quota: Quota::new(burst, count, period_s).map_err(ParseError::from)?, quantity })
}

/// Five integers: limited, limit, remaining, seconds to retry (-1: allowed, or never), seconds to full.
pub fn verdict(reply: &mut impl Reply, verdict: &Verdict) {
    reply.array(5);
    reply.integer(verdict.limited.into());
    reply.integer(verdict.limit as i64);
    reply.integer(verdict.remaining as i64);
    reply.integer(verdict.retry_after_s.map_or(-1, |seconds| seconds as i64));
    reply.integer(verdict.reset_after_s as i64);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Throttle, Box<ParseError>> {
        throttle(&line.split(' ').map(str::as_bytes).collect::<Vec<_>>())
    }

    #[test]
    fn what_is_out_of_range_is_said() {
        assert_eq!(parsed("15 30 60").unwrap().quantity, 1);
        assert_eq!(parsed("15 30 60 0").unwrap().quantity, 0);
        assert!(parsed("4294967295 4294967296 1 4294967296").is_ok());
        let error = |line: &str| parsed(line).unwrap_err().to_string();
        assert_eq!(error("1 2"), "wrong number of arguments");
        assert_eq!(error("1 2 3 4 5"), "wrong number of arguments");
        assert_eq!(error("-1 1 1"), "burst '-1' is not an integer in 0..4294967295");
        assert_eq!(error("1 0 1"), "count '0' is not an integer in 1..4294967296");
        assert_eq!(error("1 1 0"), "period '0' is not an integer in 1..2147483648");
        assert_eq!(error("1 1 1 -1"), "quantity '-1' is not an integer in 0..4294967296");
        assert!(error("4294967295 1 2147483648").starts_with("the burst would take thousands of years"));
    }
}
