//! Plain reservations of one shard, merged: one MRESERVE is under way on a connection, and those that come meanwhile
//! go together in the next one. No timer: when nothing is under way a reservation goes at once, by itself.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use redis::{Cmd, Value};
use tokio::sync::oneshot;

use super::command::Command;
use super::fleet::Fleet;
use super::nodes::{Dialect, Place};
use super::{StoreError, answer};
use crate::http::input::Item;
use crate::metrics;

/// Most reservations that wait for the one under way in one shard; more than that is overload, and told so.
const QUEUE_MAX: usize = 8192;

/// A reservation of one SKU without META: what MRESERVE can express.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plain {
    /// `None` has the server make one.
    pub id: Option<Bytes>,
    pub buyer: Bytes,
    pub item: Item,
    pub not_after_ms: u64,
    /// The first attempt may have been heard: only the server knows.
    pub again: bool,
}

impl Plain {
    /// The command as a plain reservation, if it is one.
    pub fn of(command: &Command) -> Option<Self> {
        match command {
            Command::Reserve { id, buyer, items, meta: None, not_after_ms } => match items.as_slice() {
                [item] => Some(Self {
                    id: id.clone(),
                    buyer: buyer.clone(),
                    item: item.clone(),
                    not_after_ms: *not_after_ms,
                    again: false,
                }),
                _ => None,
            },
            _ => None,
        }
    }
}

/// The reply to a reservation, and whether its hold was there before.
type Told = Result<(Value, bool), StoreError>;

/// What becomes of one that waits: whoever changes it first decides.
const WAITS: u8 = 0;
const SENT: u8 = 1;
const GIVEN_UP: u8 = 2;

struct Waiting {
    plain: Plain,
    fate: Arc<AtomicU8>,
    told: oneshot::Sender<Told>,
}

impl Waiting {
    /// Whether it may be sent: the one who asked still waits.
    fn may_go(&self) -> bool {
        !self.told.is_closed() && self.fate.compare_exchange(WAITS, SENT, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

/// The reservations of one thread for one server.
pub struct Merger {
    /// By shard: those that wait. A shard that is there has one under way.
    queues: Mutex<HashMap<Bytes, Vec<Waiting>>>,
    most: usize,
    patience: Duration,
}

impl Merger {
    /// `most`: reservations in one command, at least 1.
    pub fn new(most: usize, patience: Duration) -> Arc<Self> {
        Arc::new(Self { queues: Mutex::default(), most, patience })
    }

    /// Reserves. The reply is that of RESERVE.
    ///
    /// # Errors
    /// [`StoreError::Down`] if it was not sent, [`StoreError::Unknown`] if the answer is lost.
    pub async fn reserve(self: &Arc<Self>, fleet: &Arc<Fleet>, place: Place<'_>, plain: Plain) -> Told {
        let (told, answer) = oneshot::channel();
        let fate = Arc::new(AtomicU8::new(WAITS));
        let waiting = Waiting { plain, fate: Arc::clone(&fate), told };
        if let Some(first) = self.line_up(place.key, waiting)? {
            let key = Bytes::copy_from_slice(place.key);
            tokio::spawn(Arc::clone(self).work(Arc::clone(fleet), key, place.shard, first));
        }
        match tokio::time::timeout(self.patience, answer).await {
            Ok(Ok(told)) => told,
            Ok(Err(_)) => Err(StoreError::Unknown("the command was given up".to_owned())),
            Err(_) => match fate.compare_exchange(WAITS, GIVEN_UP, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => Err(StoreError::Down("it waited too long for its turn".to_owned())),
                Err(_) => Err(StoreError::Unknown("the answer did not come in time".to_owned())),
            },
        }
    }

    /// Gives the reservation back if nothing is under way, so that it can go.
    fn line_up(&self, key: &[u8], waiting: Waiting) -> Result<Option<Waiting>, StoreError> {
        let mut queues = self.queues();
        match queues.get_mut(key) {
            Some(queue) if queue.len() >= QUEUE_MAX => {
                Err(StoreError::Full("too many reservations wait for one shard".to_owned()))
            }
            Some(queue) => {
                queue.push(waiting);
                Ok(None)
            }
            None => {
                queues.insert(Bytes::copy_from_slice(key), Vec::new());
                Ok(Some(waiting))
            }
        }
    }

    /// Sends until nobody waits.
    async fn work(self: Arc<Self>, fleet: Arc<Fleet>, key: Bytes, shard: u32, first: Waiting) {
        let _unlock = Unlock { merger: &self, key: &key };
        let mut batch = vec![first];
        loop {
            batch.retain(Waiting::may_go);
            if !batch.is_empty() {
                let gone = send(&fleet, Place { key: &key, shard }, std::mem::take(&mut batch)).await;
                self.spare(&key, &gone);
            }
            let mut queues = self.queues();
            match queues.get_mut(&key) {
                Some(queue) if !queue.is_empty() => {
                    let most = self.most.min(queue.len());
                    batch.extend(queue.drain(..most));
                }
                _ => return drop(queues.remove(&key)),
            }
        }
    }

    /// Answers those in the queue who want what has just turned out to be gone: the server need not be asked again. As
    /// with what is known before Redis, one who asks again for a hold that is there already is told so too.
    fn spare(&self, key: &Bytes, gone: &Gone) {
        if gone.is_empty() {
            return;
        }
        let spared: Vec<Waiting> = match self.queues().get_mut(key) {
            Some(queue) => queue
                .extract_if(.., |waiting| !waiting.plain.again && gone.contains_key(&waiting.plain.item.sku))
                .collect(),
            None => return,
        };
        metrics::REDIS_SPARED.inc_by(spared.len() as u64);
        for waiting in spared {
            if let Some(answer) = gone.get(&waiting.plain.item.sku) {
                // The one who waited may have left.
                let _ = waiting.told.send(Ok((answer.clone(), false)));
            }
        }
    }

    fn queues(&self) -> MutexGuard<'_, HashMap<Bytes, Vec<Waiting>>> {
        self.queues.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Lets the shard's next reservation go by itself, whatever has become of the one who sent.
struct Unlock<'a> {
    merger: &'a Merger,
    key: &'a Bytes,
}

impl Drop for Unlock<'_> {
    fn drop(&mut self) {
        // After an orderly end another may have begun already.
        if std::thread::panicking() {
            self.merger.queues().remove(self.key);
        }
    }
}

/// Articles of which not one unit could be had, and how that was told.
type Gone = HashMap<Bytes, Value>;

/// Notes the answer if it says that not even one unit of the article can be had.
fn note_gone(gone: &mut Gone, plain: &Plain, told: &Told) {
    let Ok((Value::Array(answer), _)) = told else {
        return;
    };
    let word: &[u8] = match answer.first() {
        Some(Value::BulkString(word)) => word,
        Some(Value::SimpleString(word)) => word.as_bytes(),
        _ => return,
    };
    if plain.item.quantity == 1 && (word == b"SOLDOUT" || word == b"ALLHELD") {
        gone.insert(plain.item.sku.clone(), Value::Array(answer.clone()));
    }
}

async fn send(fleet: &Arc<Fleet>, place: Place<'_>, batch: Vec<Waiting>) -> Gone {
    metrics::REDIS_BATCH.observe(batch.len() as f64);
    let plains: Vec<&Plain> = batch.iter().map(|waiting| &waiting.plain).collect();
    let mut told = reserve_all(fleet, place, &plains).await;
    // One that the server takes for misuse must not be the ruin of the others.
    if batch.len() > 1 && matches!(told.first(), Some(Err(StoreError::Misuse(_)))) {
        told.clear();
        for plain in &plains {
            told.append(&mut reserve_all(fleet, place, &[*plain]).await);
        }
    }
    let mut gone = Gone::new();
    for (waiting, told) in batch.into_iter().zip(told) {
        note_gone(&mut gone, &waiting.plain, &told);
        // The one who waited may have left.
        let _ = waiting.told.send(told);
    }
    gone
}

/// What each of the reservations is answered.
async fn reserve_all(fleet: &Arc<Fleet>, place: Place<'_>, plains: &[&Plain]) -> Vec<Told> {
    let replies = match fleet.topology().await {
        Ok(topology) => fleet.send(place, &commands(topology.dialect, place.key, plains)).await,
        Err(error) => Err(error),
    };
    let told = replies.and_then(|replies| read(replies, plains));
    told.unwrap_or_else(|error| plains.iter().map(|_| Err(error.clone())).collect())
}

/// The holds that may be there already are looked at in the same write, which tells a repeat from the first time.
fn commands(dialect: Dialect, key: &[u8], plains: &[&Plain]) -> Vec<Cmd> {
    let ids = plains.iter().filter_map(|plain| plain.id.as_deref());
    let mut commands: Vec<Cmd> = ids.map(|id| dialect.command("HOLD", key).arg(id).to_owned()).collect();
    // They all came while the last command was under way: the first to be too late stands for them.
    let not_after_ms = plains.iter().map(|plain| plain.not_after_ms).min().unwrap_or(0);
    let mut reserve = match plains {
        [plain] => {
            let mut cmd = dialect.command("RESERVE", key);
            cmd.arg(plain.id.as_deref().unwrap_or(b"*")).arg(&plain.buyer[..]);
            cmd.arg("NOTAFTER").arg(not_after_ms).arg("ITEMS");
            cmd
        }
        _ => {
            let mut cmd = dialect.command("MRESERVE", key);
            cmd.arg("NOTAFTER").arg(not_after_ms).arg("HOLDS");
            cmd
        }
    };
    for plain in plains {
        if plains.len() > 1 {
            reserve.arg(plain.id.as_deref().unwrap_or(b"*")).arg(&plain.buyer[..]);
        }
        reserve.arg(&plain.item.sku[..]).arg(plain.item.quantity);
    }
    commands.push(reserve);
    commands
}

fn read(mut replies: Vec<Value>, plains: &[&Plain]) -> Result<Vec<Told>, StoreError> {
    let last = answer::checked(replies.pop().unwrap_or(Value::Nil))?;
    let outcomes = match last {
        reply if plains.len() == 1 => vec![reply],
        Value::Array(outcomes) if outcomes.len() == plains.len() => outcomes,
        _ => return Err(StoreError::Nonsense("MRESERVE answered for other holds than were asked for".to_owned())),
    };
    let mut before = replies.into_iter();
    let mut seen = HashSet::new();
    let told = plains.iter().zip(outcomes).map(|(plain, outcome)| {
        let repeated = match &plain.id {
            None => false,
            Some(id) => {
                let known = answer::hold(before.next().unwrap_or(Value::Nil))?.is_some();
                !seen.insert(id) || known
            }
        };
        Ok((outcome, repeated))
    });
    Ok(told.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(id: Option<&'static str>, buyer: &'static str, not_after_ms: u64) -> Plain {
        Plain {
            id: id.map(|id| Bytes::from_static(id.as_bytes())),
            buyer: Bytes::from_static(buyer.as_bytes()),
            item: Item { sku: Bytes::from_static(b"S"), quantity: 1 },
            not_after_ms,
            again: false,
        }
    }

    fn spelled(commands: &[Cmd]) -> Vec<String> {
        let word = |word: redis::Arg<&[u8]>| match word {
            redis::Arg::Simple(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            _ => String::new(),
        };
        commands.iter().map(|cmd| cmd.args_iter().map(word).collect::<Vec<_>>().join(" ")).collect()
    }

    #[test]
    fn one_goes_by_itself_and_several_go_together() {
        let (one, two) = (plain(Some("h"), "ann", 9), plain(None, "bob", 7));
        assert_eq!(
            spelled(&commands(Dialect::Module, b"k", &[&one])),
            ["FLASH.HOLD k h", "FLASH.RESERVE k h ann NOTAFTER 9 ITEMS S 1"]
        );
        assert_eq!(
            spelled(&commands(Dialect::Module, b"k", &[&one, &two])),
            ["FLASH.HOLD k h", "FLASH.MRESERVE k NOTAFTER 7 HOLDS h ann S 1 * bob S 1"]
        );
    }

    #[test]
    fn each_is_told_its_own() {
        let (one, two, again) = (plain(Some("h"), "ann", 9), plain(None, "bob", 9), plain(Some("h"), "ann", 9));
        let nobody = Value::Array(Vec::new());
        let outcomes = Value::Array(vec![Value::Int(1), Value::Int(2), Value::Int(3)]);
        let told = read(vec![nobody.clone(), nobody.clone(), outcomes], &[&one, &two, &again]).unwrap();
        let told: Vec<_> = told.into_iter().map(Result::unwrap).collect();
        assert_eq!(told, [(Value::Int(1), false), (Value::Int(2), false), (Value::Int(3), true)]);
        assert!(read(vec![nobody.clone(), nobody, Value::Array(vec![])], &[&one, &two, &again]).is_err());
    }

    fn wait(merger: &Merger, plain: Plain) -> oneshot::Receiver<Told> {
        let (told, answer) = oneshot::channel();
        let waiting = Waiting { plain, fate: Arc::new(AtomicU8::new(WAITS)), told };
        merger.line_up(b"k", waiting).unwrap();
        answer
    }

    #[test]
    fn who_waits_for_what_is_gone_is_told_so_and_a_second_attempt_is_not() {
        let merger = Merger::new(64, Duration::from_secs(1));
        let _first = wait(&merger, plain(None, "ann", 9));
        let mut same = wait(&merger, plain(None, "bob", 9));
        let mut again = wait(&merger, Plain { again: true, ..plain(Some("h"), "bob", 9) });
        let other_item = Item { sku: Bytes::from_static(b"T"), quantity: 1 };
        let mut other = wait(&merger, Plain { item: other_item, ..plain(None, "cleo", 9) });
        let answer = |word: &str| Value::Array(vec![Value::BulkString(word.as_bytes().to_vec())]);
        let gone_by = |word: &str, quantity| {
            let mut gone = Gone::new();
            let mut asked = plain(None, "ann", 9);
            asked.item.quantity = quantity;
            note_gone(&mut gone, &asked, &Ok((answer(word), false)));
            gone
        };
        assert!(gone_by("RESERVED", 1).is_empty() && gone_by("EMPTY", 1).is_empty() && gone_by("LIMIT", 1).is_empty());
        assert!(gone_by("ALLHELD", 2).is_empty(), "one unit may be there");
        merger.spare(&Bytes::from_static(b"k"), &gone_by("ALLHELD", 1));
        assert_eq!(same.try_recv().unwrap().unwrap(), (answer("ALLHELD"), false));
        assert!(again.try_recv().is_err() && other.try_recv().is_err());
    }

    #[test]
    fn what_mreserve_cannot_say_is_not_plain() {
        let one = plain(None, "ann", 9);
        let reserve =
            |items, meta| Command::Reserve { id: None, buyer: one.buyer.clone(), items, meta, not_after_ms: 9 };
        assert_eq!(Plain::of(&reserve(vec![one.item.clone()], None)), Some(one.clone()));
        assert_eq!(Plain::of(&reserve(vec![one.item.clone(); 2], None)), None);
        assert_eq!(Plain::of(&reserve(vec![one.item.clone()], Some("gift".to_owned()))), None);
    }
}
