//! What many want at the same moment is asked for once.
//!
//! A lock would do, too, were it not for what becomes of those who wait for it: it goes from one to the next, each of
//! whom must come to its turn among all other tasks of the thread. Two hundred took a sixth of a second for that.

use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// One asks, the others wait, and all are told together. `E` is why an answer could not be had.
#[derive(Debug)]
pub struct SingleFlight<E> {
    state: Mutex<State<E>>,
    landed: Notify,
}

#[derive(Debug)]
struct State<E> {
    flying: bool,
    /// Flights that have ended with or without an answer; of one that was given up nothing is known.
    landings: u64,
    /// Of the last one.
    error: Option<E>,
}

impl<E> Default for SingleFlight<E> {
    fn default() -> Self {
        let state = State { flying: false, landings: 0, error: None };
        Self { state: Mutex::new(state), landed: Notify::new() }
    }
}

/// To be the one who asks, until this is dropped.
pub struct Flight<'a, E>(&'a SingleFlight<E>);

impl<E: Clone> SingleFlight<E> {
    /// What is `known`, or becomes known by `ask`, which one of those who are here carries out. Should it be dropped on
    /// the way, another takes its place.
    ///
    /// # Errors
    /// That of `ask`, also of one that somebody else has begun before.
    pub async fn get<T>(&self, known: impl Fn() -> Option<T>, ask: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let ask = pin!(ask);
        loop {
            // Told of every landing from here on.
            let landed = self.landed.notified();
            if let Some(known) = known() {
                return Ok(known);
            }
            let Some(flight) = self.begin() else {
                let before = self.state().landings;
                landed.await;
                if let Some(known) = known() {
                    return Ok(known);
                }
                let state = self.state();
                match &state.error {
                    Some(error) if state.landings > before => return Err(error.clone()),
                    _ => continue,
                }
            };
            // Somebody may have landed between the look and the start.
            if let Some(known) = known() {
                return Ok(known);
            }
            let result = ask.await;
            flight.land(result.as_ref().err().cloned());
            return result;
        }
    }

    /// To ask for something, unless somebody does.
    pub fn begin(&self) -> Option<Flight<'_, E>> {
        let mut state = self.state();
        (!std::mem::replace(&mut state.flying, true)).then(|| Flight(self))
    }
}

impl<E> SingleFlight<E> {
    fn state(&self) -> MutexGuard<'_, State<E>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<E> Flight<'_, E> {
    fn land(self, error: Option<E>) {
        let mut state = self.0.state();
        state.landings += 1;
        state.error = error;
    }
}

impl<E> Drop for Flight<'_, E> {
    fn drop(&mut self) {
        self.0.state().flying = false;
        self.0.landed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Poll;
    use std::time::Duration;

    use tokio::task::JoinSet;

    use super::*;

    type Flights = SingleFlight<&'static str>;

    /// A hundred who want the same, and what they are told; how often it was asked for.
    async fn crowd(answer: Result<usize, &'static str>) -> (Vec<Result<usize, &'static str>>, usize) {
        let (flights, found, asked) = (Arc::new(Flights::default()), Arc::new(Mutex::new(None)), AtomicUsize::new(0));
        let asked = Arc::new(asked);
        let mut all = JoinSet::new();
        for _ in 0..100 {
            let (flights, found, asked) = (flights.clone(), found.clone(), asked.clone());
            all.spawn(async move {
                let ask = async {
                    asked.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    if let Ok(answer) = answer {
                        *found.lock().unwrap() = Some(answer);
                    }
                    answer
                };
                flights.get(|| *found.lock().unwrap(), ask).await
            });
        }
        let told = all.join_all().await;
        (told, asked.load(Ordering::Relaxed))
    }

    #[tokio::test(start_paused = true)]
    async fn one_asks_for_all() {
        assert_eq!(crowd(Ok(7)).await, (vec![Ok(7); 100], 1));
        assert_eq!(crowd(Err("away")).await, (vec![Err("away"); 100], 1), "nobody tries again what has just failed");
    }

    #[tokio::test(start_paused = true)]
    async fn another_takes_the_place_of_one_who_leaves() {
        let flights = Flights::default();
        let left = flights.get(|| None, std::future::pending::<Result<u8, _>>());
        let (left, told) = tokio::join!(tokio::time::timeout(Duration::from_secs(1), left), async {
            tokio::task::yield_now().await;
            flights.get(|| None, async { Ok(7) }).await
        });
        assert!(left.is_err());
        assert_eq!(told, Ok(7));
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_outdated_meanwhile_is_asked_for_again() {
        let (flights, asked) = (Flights::default(), AtomicUsize::new(0));
        // Never known: each must ask by itself, one after another.
        let ask = || async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            Ok(asked.fetch_add(1, Ordering::Relaxed))
        };
        let told = tokio::join!(flights.get(|| None, ask()), flights.get(|| None, ask()), flights.get(|| None, ask()));
        let mut told = [told.0.unwrap(), told.1.unwrap(), told.2.unwrap()];
        told.sort();
        assert_eq!(told, [0, 1, 2]);
    }

    /// Lets all other tasks that are ready go before.
    async fn step_back() {
        let mut stepped = false;
        poll_fn(|context| {
            context.waker().wake_by_ref();
            if std::mem::replace(&mut stepped, true) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    #[tokio::test]
    async fn who_waits_need_not_wait_for_the_turn_of_each_other() {
        let (flights, found, turns) = (Arc::new(Flights::default()), Arc::new(Mutex::new(None)), AtomicUsize::new(0));
        let turns = Arc::new(turns);
        let busy = tokio::spawn({
            let turns = turns.clone();
            async move {
                loop {
                    turns.fetch_add(1, Ordering::Relaxed);
                    step_back().await;
                }
            }
        });
        let flight = flights.begin().unwrap();
        let mut all = JoinSet::new();
        for _ in 0..50 {
            let (flights, found, turns) = (flights.clone(), found.clone(), turns.clone());
            all.spawn(async move {
                let known = || *found.lock().unwrap();
                assert_eq!(flights.get(known, async { Err("not asked") }).await, Ok(7));
                turns.load(Ordering::Relaxed)
            });
        }
        step_back().await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        *found.lock().unwrap() = Some(7);
        let before = turns.load(Ordering::Relaxed);
        drop(flight);
        let last = all.join_all().await.into_iter().max().unwrap();
        assert!(last - before <= 2, "the other task had {} turns meanwhile", last - before);
        busy.abort();
    }
}
