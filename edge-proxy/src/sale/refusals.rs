//! What the stock's answers and failures are called in HTTP.

use std::time::Duration;

use crate::http::problem::{Problem, Refusal};
use crate::http::reply::shown;
use crate::http::routes::Call;
use crate::sale::SaleConfig;
use crate::store::redis::unix_ms;
use crate::store::{Answer, StoreError};

/// Turns refusals of the stock into problem documents.
pub struct Refusals {
    not_open_status: u16,
}

impl Refusals {
    pub fn new(config: &SaleConfig) -> Self {
        Self { not_open_status: config.not_open_status }
    }

    /// The problem that an answer is, where it is not what was asked for.
    pub fn of_answer(&self, answer: &Answer) -> Refusal {
        match answer {
            Answer::NotOpen { opens_at_ms } => Refusal::from(Problem::NotOpen)
                .status(self.not_open_status)
                .with("opens_at", *opens_at_ms)
                .retry_after(until(*opens_at_ms)),
            Answer::Paused => Problem::Paused.into(),
            Answer::Closed => Problem::Closed.into(),
            Answer::TooLate => Problem::Overloaded.because("The request waited too long and was not carried out."),
            Answer::Backlog => Problem::Backlog.into(),
            Answer::NoSku { sku } => Refusal::from(Problem::NoSku).with("sku", shown(sku)),
            Answer::Limit { sku, left } if sku.is_empty() => {
                Problem::Limit.because(limit(*left, "of this sale")).with("left", *left)
            }
            Answer::Limit { sku, left } => {
                Problem::Limit.because(limit(*left, "of this article")).with("sku", shown(sku)).with("left", *left)
            }
            Answer::SoldOut { sku } => Refusal::from(Problem::SoldOut).with("sku", shown(sku)),
            Answer::AllHeld { sku, next_ms } => self.all_held(sku, *next_ms),
            Answer::Empty { sku } => Refusal::from(Problem::Empty).with("sku", shown(sku)),
            Answer::NotFound => Problem::NotFound.into(),
            Answer::Expired => Problem::Expired.into(),
            Answer::Released => Problem::Released.into(),
            Answer::Mismatch { field } => Problem::Mismatch
                .because(format!("This id was used before with another `{field}`; nothing has changed."))
                .with("field", field.as_str()),
            Answer::Confirmed { id, order_no } => {
                Refusal::from(Problem::Confirmed).with("order", shown(id)).with("no", *order_no)
            }
            Answer::WrongShard { key } => {
                log::error!("the sale is sharded, and this buyer's shard is {}", shown(key));
                Problem::Internal.because("The sale is spread over several shards, which this edge is not set up for.")
            }
            Answer::Reserved { .. } | Answer::Extended { .. } => {
                log::error!("an answer that does not fit its call: {answer:?}");
                Problem::Internal.into()
            }
        }
    }

    fn all_held(&self, sku: &[u8], next_ms: u64) -> Refusal {
        let refusal = Refusal::from(Problem::AllHeld).with("sku", shown(sku));
        if next_ms == 0 {
            return refusal;
        }
        // Holds are given back before they expire too: it is worth asking sooner than the deadline.
        let wait = until(next_ms).min(Duration::from_secs(30));
        refusal.with("next", next_ms).retry_after(wait)
    }

    /// The problem that a failure of the store is to the one who called `call` about the hold `id`.
    pub fn of_error(&self, error: &StoreError, call: Call, id: Option<&[u8]>) -> Refusal {
        match error {
            StoreError::NoSale => Problem::NoSale.into(),
            StoreError::Down(_) => Problem::RedisDown.because("Nothing has happened; try again."),
            StoreError::Full(_) => Problem::Overloaded.because("Nothing has happened; try again."),
            StoreError::Misuse(why) => Problem::BadRequest.because(format!("{why}.")),
            StoreError::Unknown(_) | StoreError::Nonsense(_) => unknown(call, id),
        }
    }
}

/// Section 7 of the contract: never "failed", never "ok".
fn unknown(call: Call, id: Option<&[u8]>) -> Refusal {
    match (call, id) {
        // Looking does nothing, so nothing is pending.
        (Call::Status | Call::Show, _) => Problem::RedisDown.because("The stock did not answer in time."),
        (_, Some(id)) => Problem::Pending
            .because("It may have happened or not. Send the same request with the same id to find out.")
            .with("hold", shown(id)),
        (_, None) => Problem::Pending.because(
            "It may have happened or not. Without an `Idempotency-Key` it cannot be asked for again; \
             if there is a hold, it expires by itself.",
        ),
    }
}

/// The answer to an order that is made, but not yet safe.
pub fn not_safe_yet(id: &[u8]) -> Refusal {
    Problem::Pending
        .because("The order is made, but not enough replicas have it yet. Send the same request to find out.")
        .with("hold", shown(id))
}

fn limit(left: u64, of: &str) -> String {
    match left {
        0 => format!("The buyer has all that one may have {of}."),
        left => format!("The buyer may have {left} more {of}."),
    }
}

fn until(at_ms: u64) -> Duration {
    Duration::from_millis(at_ms.saturating_sub(unix_ms()))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn problem(answer: Answer) -> Refusal {
        Refusals::new(&SaleConfig::default()).of_answer(&answer)
    }

    #[test]
    fn answers_have_the_statuses_of_the_contract() {
        let sku = Bytes::from_static(b"S");
        let id = Bytes::from_static(b"h");
        for (answer, status, word) in [
            (Answer::SoldOut { sku: sku.clone() }, 409, "sold-out"),
            (Answer::AllHeld { sku: sku.clone(), next_ms: 0 }, 409, "all-held"),
            (Answer::Limit { sku: Bytes::new(), left: 0 }, 409, "limit"),
            (Answer::Mismatch { field: "items".to_owned() }, 409, "mismatch"),
            (Answer::Confirmed { id, order_no: 1 }, 409, "confirmed"),
            (Answer::NoSku { sku }, 404, "no-sku"),
            (Answer::NotFound, 404, "not-found"),
            (Answer::Closed, 410, "closed"),
            (Answer::Expired, 410, "expired"),
            (Answer::Released, 410, "released"),
            (Answer::NotOpen { opens_at_ms: 1 }, 425, "not-open"),
            (Answer::Paused, 503, "paused"),
            (Answer::Backlog, 503, "backlog"),
            (Answer::TooLate, 503, "overloaded"),
        ] {
            let refusal = problem(answer);
            assert_eq!((refusal.status, refusal.problem.word()), (status, word));
        }
    }

    #[test]
    fn not_open_may_be_a_403() {
        let config = SaleConfig { not_open_status: 403, ..SaleConfig::default() };
        let refusal = Refusals::new(&config).of_answer(&Answer::NotOpen { opens_at_ms: 1 });
        assert_eq!((refusal.status, refusal.problem.word()), (403, "not-open"));
    }

    #[test]
    fn waiting_is_as_long_as_it_helps() {
        let opens_at_ms = unix_ms() + 100_000;
        let wait = problem(Answer::NotOpen { opens_at_ms }).retry_after_s().unwrap();
        assert!((99..=135).contains(&wait), "{wait}");
        let next_ms = unix_ms() + 300_000;
        let sku = Bytes::from_static(b"S");
        let wait = problem(Answer::AllHeld { sku, next_ms }).retry_after_s().unwrap();
        assert!((30..=46).contains(&wait), "{wait}");
    }

    #[test]
    fn a_lost_answer_is_pending_and_a_lost_look_is_not() {
        let refusals = Refusals::new(&SaleConfig::default());
        let lost = StoreError::Unknown("timeout".to_owned());
        for call in [Call::Reserve, Call::Order, Call::Confirm, Call::Release, Call::Extend] {
            assert_eq!(refusals.of_error(&lost, call, Some(b"h")).status, 202);
        }
        assert_eq!(refusals.of_error(&lost, Call::Show, Some(b"h")).status, 503);
        let down = StoreError::Down("gone".to_owned());
        assert_eq!(refusals.of_error(&down, Call::Confirm, Some(b"h")).problem, Problem::RedisDown);
    }
}
