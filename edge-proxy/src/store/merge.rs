//! Plain reservations of one shard, merged: one MRESERVE is under way on a connection, and those that come meanwhile
//! go together in the next one. No timer: when nothing is under way a reservation goes at once, with those that are
//! ready in the same turn of the thread.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::answer::Answer;
use super::command::Command;
use super::fleet::Fleet;
use super::nodes::Place;
use super::{StoreError, mreserve};
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
    /// Whether the command is a plain reservation.
    pub fn is(command: &Command) -> bool {
        matches!(command, Command::Reserve { items, meta: None, .. } if items.len() == 1)
    }

    /// The command as a plain reservation, if it is one.
    pub fn of(command: &Command, again: bool) -> Option<Self> {
        match command {
            Command::Reserve { id, buyer, items, not_after_ms, .. } if Self::is(command) => Some(Self {
                id: id.clone(),
                buyer: buyer.clone(),
                item: items.first()?.clone(),
                not_after_ms: *not_after_ms,
                again,
            }),
            _ => None,
        }
    }
}

/// The answer to a reservation.
pub type Told = Result<Answer, StoreError>;

/// A reservation in the queue.
struct Waiting {
    plain: Plain,
    asker: Asker,
}

/// The one who waits for an answer.
struct Asker {
    /// Nobody waits longer.
    until: Instant,
    /// `None`: told.
    told: Option<oneshot::Sender<Told>>,
}

impl Asker {
    fn tell(&mut self, told: Told) {
        if let Some(sender) = self.told.take() {
            // The one who waited may have left.
            let _ = sender.send(told);
        }
    }

    fn is_gone(&self) -> bool {
        self.told.as_ref().is_none_or(oneshot::Sender::is_closed)
    }
}

/// The reservations of one thread for one server.
pub struct Merger {
    /// By shard: those that wait. A shard that is there has somebody who sends for it.
    queues: Mutex<BTreeMap<Bytes, VecDeque<Waiting>>>,
    most: usize,
    patience: Duration,
}

impl Merger {
    /// `most`: reservations in one command, at least 1.
    pub fn new(most: usize, patience: Duration) -> Arc<Self> {
        Arc::new(Self { queues: Mutex::default(), most, patience })
    }

    /// Reserves for one who waits since `began`. [`told`] waits for the answer, which is that of RESERVE.
    ///
    /// # Errors
    /// [`StoreError::Full`]: too many wait.
    pub fn reserve(
        self: &Arc<Self>,
        fleet: &Arc<Fleet>,
        place: Place<'_>,
        plain: Plain,
        began: Instant,
    ) -> Result<oneshot::Receiver<Told>, StoreError> {
        let (told, answer) = oneshot::channel();
        let asker = Asker { until: began + self.patience, told: Some(told) };
        if self.line_up(place.key, Waiting { plain, asker })? {
            // It goes when those who are ready now have lined up behind it, and with them.
            let key = Bytes::copy_from_slice(place.key);
            tokio::spawn(Arc::clone(self).work(Arc::clone(fleet), key, place.shard));
        }
        Ok(answer)
    }

    /// Whether somebody must be found who sends.
    fn line_up(&self, key: &[u8], waiting: Waiting) -> Result<bool, StoreError> {
        let mut queues = self.queues();
        match queues.get_mut(key) {
            Some(queue) if queue.len() >= QUEUE_MAX => {
                Err(StoreError::Full("too many reservations wait for one shard".to_owned()))
            }
            Some(queue) => {
                queue.push_back(waiting);
                Ok(false)
            }
            None => {
                queues.insert(Bytes::copy_from_slice(key), VecDeque::from([waiting]));
                Ok(true)
            }
        }
    }

    /// Sends until nobody waits.
    async fn work(self: Arc<Self>, fleet: Arc<Fleet>, key: Bytes, shard: u32) {
        let _unlock = Unlock { merger: &self, key: &key };
        // One for all who wait here: a timer for each would cost more than the rest of the waiting.
        let mut alarm = pin!(tokio::time::sleep(self.patience));
        while let Some((plains, mut askers)) = self.next(&key) {
            let mut sending = pin!(send(&fleet, Place { key: &key, shard }, &plains));
            let told = loop {
                tokio::select! {
                    biased;
                    told = &mut sending => break told,
                    () = &mut alarm => alarm.as_mut().reset(self.give_up(&key, &mut askers)),
                }
            };
            let mut gone = Gone::new();
            for ((plain, asker), told) in plains.iter().zip(&mut askers).zip(told) {
                note_gone(&mut gone, plain, &told);
                asker.tell(told);
            }
            self.spare(&key, &gone);
        }
    }

    /// Those who go together now, of whom some still wait; `None`, and the shard is nobody's, if there are none.
    fn next(&self, key: &Bytes) -> Option<(Vec<Plain>, Vec<Asker>)> {
        let mut queues = self.queues();
        let queue = queues.get_mut(key)?;
        let (mut plains, mut askers) = (Vec::new(), Vec::new());
        while plains.len() < self.most
            && let Some(Waiting { plain, asker }) = queue.pop_front()
        {
            if !asker.is_gone() {
                plains.push(plain);
                askers.push(asker);
            }
        }
        if plains.is_empty() {
            queues.remove(key);
            return None;
        }
        Some((plains, askers))
    }

    /// Tells those who have waited long enough; `sent` are those whose reservations are under way. Gives the time at
    /// which others will have.
    fn give_up(&self, key: &Bytes, sent: &mut [Asker]) -> Instant {
        let now = Instant::now();
        let mut next = now + self.patience;
        for asker in sent.iter_mut().filter(|asker| asker.told.is_some()) {
            if asker.until <= now {
                asker.tell(Err(StoreError::Unknown("the answer did not come in time".to_owned())));
            } else {
                next = next.min(asker.until);
            }
        }
        let mut queues = self.queues();
        let Some(queue) = queues.get_mut(key) else {
            return next;
        };
        // They stand nearly in the order in which they began to wait: none is told later than `patience` after it came.
        while let Some(first) = queue.front_mut() {
            if first.asker.until > now {
                return next.min(first.asker.until);
            }
            first.asker.tell(Err(StoreError::Down("it waited too long for its turn".to_owned())));
            queue.pop_front();
        }
        next
    }

    /// Answers those in the queue who want what has just turned out to be gone: the server need not be asked again. As
    /// with what is known before Redis, one who asks again for a hold that is there already is told so too.
    fn spare(&self, key: &Bytes, gone: &Gone) {
        if gone.is_empty() {
            return;
        }
        let mut spared = 0;
        if let Some(queue) = self.queues().get_mut(key) {
            queue.retain_mut(|waiting| match gone.get(&waiting.plain.item.sku) {
                Some(answer) if !waiting.plain.again => {
                    waiting.asker.tell(Ok(answer.clone()));
                    spared += 1;
                    false
                }
                _ => true,
            });
        }
        metrics::REDIS_SPARED.inc_by(spared);
    }

    fn queues(&self) -> MutexGuard<'_, BTreeMap<Bytes, VecDeque<Waiting>>> {
        self.queues.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Waits for the answer to a reservation.
///
/// # Errors
/// [`StoreError::Down`] if it was not sent, [`StoreError::Unknown`] if the answer is lost.
pub async fn told(answer: oneshot::Receiver<Told>) -> Told {
    answer.await.unwrap_or_else(|_| Err(StoreError::Unknown("the command was given up".to_owned())))
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
type Gone = HashMap<Bytes, Answer>;

/// Notes the answer if it says that not even one unit of the article can be had.
fn note_gone(gone: &mut Gone, plain: &Plain, told: &Told) {
    if let Ok(answer @ (Answer::SoldOut { .. } | Answer::AllHeld { .. })) = told
        && plain.item.quantity == 1
    {
        gone.insert(plain.item.sku.clone(), answer.clone());
    }
}

/// What each of the reservations is told.
async fn send(fleet: &Arc<Fleet>, place: Place<'_>, plains: &[Plain]) -> Vec<Told> {
    metrics::REDIS_BATCH.observe(plains.len() as f64);
    match send_together(fleet, place, plains).await {
        Ok(told) => told,
        // One that the server takes for misuse must not be the ruin of the others.
        Err(StoreError::Misuse(_)) if plains.len() > 1 => Box::pin(send_each(fleet, place, plains)).await,
        Err(error) => plains.iter().map(|_| Err(error.clone())).collect(),
    }
}

async fn send_each(fleet: &Arc<Fleet>, place: Place<'_>, plains: &[Plain]) -> Vec<Told> {
    let mut all = Vec::with_capacity(plains.len());
    for plain in plains {
        match send_together(fleet, place, std::slice::from_ref(plain)).await {
            Ok(mut told) => all.append(&mut told),
            Err(error) => all.push(Err(error)),
        }
    }
    all
}

async fn send_together(fleet: &Arc<Fleet>, place: Place<'_>, plains: &[Plain]) -> Result<Vec<Told>, StoreError> {
    let command = mreserve::command(fleet.topology().await?.dialect, place.key, plains);
    mreserve::read(fleet.send_one(place, &command).await?, plains)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn plain(id: Option<&'static str>, buyer: &'static str, not_after_ms: u64) -> Plain {
        Plain {
            id: id.map(|id| Bytes::from_static(id.as_bytes())),
            buyer: Bytes::from_static(buyer.as_bytes()),
            item: Item { sku: Bytes::from_static(b"S"), quantity: 1 },
            not_after_ms,
            again: false,
        }
    }

    const KEY: Bytes = Bytes::from_static(b"k");
    const PATIENCE: Duration = Duration::from_secs(1);

    fn wait(merger: &Merger, plain: Plain) -> oneshot::Receiver<Told> {
        let (told, answer) = oneshot::channel();
        let asker = Asker { until: Instant::now() + merger.patience, told: Some(told) };
        merger.line_up(&KEY, Waiting { plain, asker }).unwrap();
        answer
    }

    #[test]
    fn who_waits_for_what_is_gone_is_told_so_and_a_second_attempt_is_not() {
        let merger = Merger::new(64, PATIENCE);
        let mut same = wait(&merger, plain(None, "bob", 9));
        let mut again = wait(&merger, Plain { again: true, ..plain(Some("h"), "bob", 9) });
        let other_item = Item { sku: Bytes::from_static(b"T"), quantity: 1 };
        let mut other = wait(&merger, Plain { item: other_item, ..plain(None, "cleo", 9) });
        let sku = Bytes::from_static(b"S");
        let all_held = Answer::AllHeld { sku: sku.clone(), next_ms: 7 };
        let gone_by = |answer: &Answer, quantity| {
            let mut gone = Gone::new();
            let mut asked = plain(None, "ann", 9);
            asked.item.quantity = quantity;
            note_gone(&mut gone, &asked, &Ok(answer.clone()));
            gone
        };
        for answer in [
            Answer::Reserved { id: sku.clone(), deadline_ms: 1, repeated: false },
            Answer::Empty { sku: sku.clone() },
            Answer::Limit { sku: sku.clone(), left: 0 },
        ] {
            assert!(gone_by(&answer, 1).is_empty(), "{answer:?}");
        }
        assert!(gone_by(&all_held, 2).is_empty(), "one unit may be there");
        merger.spare(&KEY, &gone_by(&all_held, 1));
        assert_eq!(same.try_recv().unwrap(), Ok(all_held));
        assert!(again.try_recv().is_err() && other.try_recv().is_err());
    }

    #[test]
    fn so_many_go_together_and_none_that_nobody_waits_for() {
        let merger = Merger::new(2, PATIENCE);
        let _waiting: Vec<_> = ["ann", "bob", "cleo", "dan"].map(|buyer| wait(&merger, plain(None, buyer, 9))).into();
        drop(wait(&merger, plain(None, "eve", 9)));
        let next = || merger.next(&KEY).map(|(plains, _)| plains.iter().map(|plain| plain.buyer.clone()).collect());
        let (first, second): (Vec<Bytes>, Vec<Bytes>) = (next().unwrap(), next().unwrap());
        assert_eq!([first, second], [["ann", "bob"], ["cleo", "dan"]]);
        assert_eq!(next(), None);
        assert!(merger.queues().is_empty(), "the next one has to find somebody who sends");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_too_long_is_told_whether_it_was_sent() {
        let merger = Merger::new(1, PATIENCE);
        let mut sent = wait(&merger, plain(None, "ann", 9));
        let (_, mut askers) = merger.next(&KEY).unwrap();
        let mut waits = wait(&merger, plain(None, "bob", 9));
        tokio::time::advance(PATIENCE / 2).await;
        let mut later = wait(&merger, plain(None, "cleo", 9));
        assert_eq!(merger.give_up(&KEY, &mut askers), Instant::now() + PATIENCE / 2);
        assert!(sent.try_recv().is_err() && waits.try_recv().is_err());
        tokio::time::advance(PATIENCE / 2).await;
        assert_eq!(merger.give_up(&KEY, &mut askers), Instant::now() + PATIENCE / 2);
        assert!(matches!(sent.try_recv().unwrap(), Err(StoreError::Unknown(_))));
        assert!(matches!(waits.try_recv().unwrap(), Err(StoreError::Down(_))));
        assert!(later.try_recv().is_err());
        let (plains, _) = merger.next(&KEY).unwrap();
        assert_eq!(plains[0].buyer, "cleo");
    }

    #[test]
    fn what_mreserve_cannot_say_is_not_plain() {
        let one = plain(None, "ann", 9);
        let reserve =
            |items, meta| Command::Reserve { id: None, buyer: one.buyer.clone(), items, meta, not_after_ms: 9 };
        assert_eq!(Plain::of(&reserve(vec![one.item.clone()], None), false), Some(one.clone()));
        assert_eq!(Plain::of(&reserve(vec![one.item.clone(); 2], None), false), None);
        assert_eq!(Plain::of(&reserve(vec![one.item.clone()], Some("gift".to_owned())), false), None);
    }
}
