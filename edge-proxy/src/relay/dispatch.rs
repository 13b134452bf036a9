//! Sends arrivals on their way: buyers side by side, the entries of one buyer in order.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::task::{JoinError, JoinSet};

use super::courier::{Courier, Verdict};
use super::entry::{Entry, EntryId, Parsed, parse};
use super::lanes::Lanes;
use super::lease::Lease;
use super::ledger::{Ledger, Settled};
use super::message::Message;
use super::metrics::StreamMetrics;
use super::names::StreamNames;
use super::reader::Arrival;

/// An order that waits for its delivery or is under way.
struct Job {
    entry: Entry,
    buyer: Vec<u8>,
    message: Message,
    /// Given back when the order is settled.
    room: OwnedSemaphorePermit,
}

/// The delivering side of one stream.
pub struct Dispatcher<'a> {
    pub names: &'a StreamNames,
    pub courier: &'a Arc<Courier>,
    pub lease: &'a Arc<Lease>,
    pub ledger: &'a Ledger,
    pub metrics: &'a StreamMetrics,
    pub stop: watch::Receiver<bool>,
}

type Deliveries = JoinSet<(Job, Verdict)>;

impl Dispatcher<'_> {
    /// Delivers what arrives until `stop` turns true and the tries under way have ended, or until a delivery panics.
    pub async fn run(&self, mut arrivals: mpsc::Receiver<Vec<Arrival>>) -> Result<(), JoinError> {
        let mut lanes = Lanes::default();
        let mut deliveries = Deliveries::new();
        let mut stop = self.stop.clone();
        loop {
            tokio::select! {
                biased;
                Some(ended) = deliveries.join_next() => {
                    let (job, verdict) = ended?;
                    let next = lanes.leave(&job.buyer);
                    self.settle(job, verdict);
                    self.start(next, &mut deliveries);
                }
                _ = stop.wait_for(|stop| *stop) => break,
                Some(batch) = arrivals.recv() => {
                    for arrival in batch {
                        let job = self.job_of(arrival).and_then(|job| lanes.enter(&job.buyer.clone(), job));
                        self.start(job, &mut deliveries);
                    }
                }
            }
        }
        while let Some(ended) = deliveries.join_next().await {
            let (job, verdict) = ended?;
            self.settle(job, verdict);
        }
        Ok(())
    }

    /// What is no order is settled at once.
    fn job_of(&self, Arrival { entry, room }: Arrival) -> Option<Job> {
        match parse(&entry.fields) {
            Ok(Parsed::Deliver(order)) => {
                Some(Job { message: Message::of_order(self.names, &order), buyer: order.buyer, entry, room })
            }
            Ok(Parsed::Skip) => {
                self.ledger.add(Settled::Done(entry.id));
                None
            }
            Err(malformed) => {
                self.give_up(entry, malformed.to_string(), 0);
                None
            }
        }
    }

    fn start(&self, job: Option<Job>, deliveries: &mut Deliveries) {
        let Some(job) = job else { return };
        let (courier, lease) = (Arc::clone(self.courier), Arc::clone(self.lease));
        let (metrics, stop) = (self.metrics.clone(), self.stop.clone());
        deliveries.spawn(async move {
            let verdict = courier.deliver(&job.message, &lease, &metrics, stop).await;
            (job, verdict)
        });
    }

    fn settle(&self, job: Job, verdict: Verdict) {
        match verdict {
            Verdict::Delivered => {
                self.metrics.delivered.inc();
                self.ledger.add(Settled::Done(job.entry.id));
            }
            Verdict::Dead { reason, tries } => self.give_up(job.entry, reason, tries),
            Verdict::Unfinished => {}
        }
        drop(job.room);
    }

    fn give_up(&self, entry: Entry, reason: String, tries: u32) {
        let (sale, id): (_, EntryId) = (self.names.label(), entry.id);
        log::error!("{sale}: entry {id} goes to the dead letters after {tries} tries: {reason}");
        self.metrics.dead.inc();
        self.ledger.add(Settled::Dead { entry, reason, tries });
    }
}
