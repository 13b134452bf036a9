//! Dead letters: orders that the receiver refused, or did not take in many tries. They wait in a stream of their own
//! until somebody has mended the cause and replays them.

use std::sync::Arc;

use redis::RedisResult;
use redis::aio::MultiplexedConnection;

use super::entry::{Entry, EntryId, Fields, Parsed, field, parse};
use super::link::{command, entries};
use super::message::Message;
use super::names::StreamNames;
use super::stream::Common;
use super::webhook::Outcome;

/// Most letters read in one command.
const BATCH: usize = 100;

/// One order that was given up.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// Its id in the stream of dead letters.
    pub id: EntryId,
    fields: Fields,
}

/// How the replay of one letter ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replayed {
    /// The receiver has it; the letter is gone.
    Delivered,
    /// It stays where it is.
    Stays { reason: String },
}

impl DeadLetter {
    /// One of the letter's fields as text.
    pub fn text(&self, name: &str) -> String {
        let value = field(&self.fields, name).unwrap_or_default();
        String::from_utf8_lossy(value).into_owned()
    }

    /// The message, with the id it always had.
    fn message(&self, names: &StreamNames) -> Result<Message, String> {
        match parse(&self.fields) {
            Ok(Parsed::Deliver(order)) => Ok(Message::of_order(names, &order)),
            Ok(Parsed::Skip) => Err("not an order".to_owned()),
            Err(malformed) => Err(malformed.to_string()),
        }
    }
}

/// The dead letters of one sale (shard).
pub struct DeadLetters {
    common: Arc<Common>,
    names: StreamNames,
    connection: MultiplexedConnection,
}

impl DeadLetters {
    pub(super) async fn open(common: &Arc<Common>, key: &[u8]) -> RedisResult<Self> {
        let names = StreamNames::of_key(key);
        let connection = common.links.of_key(key, &names.dead).await?.get().await?.0;
        Ok(Self { common: Arc::clone(common), names, connection })
    }

    /// The oldest letters after `after`, a batch at most; empty at the end.
    pub async fn after(&mut self, after: Option<EntryId>) -> RedisResult<Vec<DeadLetter>> {
        let start = after.map_or_else(|| "-".to_owned(), |id| format!("({id}"));
        let mut range = command(&["XRANGE"]);
        range.arg(&self.names.dead).arg(start).arg("+").arg("COUNT").arg(BATCH);
        let list = entries(range.query_async(&mut self.connection).await?)?;
        Ok(list.into_iter().map(|Entry { id, fields }| DeadLetter { id, fields }).collect())
    }

    /// Makes one more try; what is taken is removed.
    pub async fn replay(&mut self, letter: &DeadLetter) -> RedisResult<Replayed> {
        let message = match letter.message(&self.names) {
            Ok(message) => message,
            Err(reason) => return Ok(Replayed::Stays { reason }),
        };
        match self.common.courier.try_once(&message).await {
            Outcome::Accepted => {
                let mut remove = command(&["XDEL"]);
                remove.arg(&self.names.dead).arg(letter.id.to_string());
                remove.exec_async(&mut self.connection).await?;
                Ok(Replayed::Delivered)
            }
            Outcome::Retry { reason, .. } | Outcome::Rest { reason, .. } | Outcome::Refused { reason } => {
                Ok(Replayed::Stays { reason })
            }
        }
    }
}
