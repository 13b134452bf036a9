//! Orders that replicas must have before anybody hears of them (the contract's section 7).
//!
//! Commands that arrive while a `WAIT` runs go together in the next batch, with one `WAIT` for all of them:
//! the slower the replicas, the larger the batches.

use std::time::Duration;

use redis::{Cmd, Pipeline, Value};
use tokio::sync::{mpsc, oneshot};

use super::StoreError;
use super::link::Link;

/// Most commands in one batch.
const BATCH_MAX: usize = 256;

/// Most commands waiting for a batch; more than that is overload, and told so.
const QUEUE_MAX: usize = 8192;

/// A command and the one who waits for its reply and whether enough replicas have it.
struct Pledge {
    cmd: Cmd,
    /// The slot is on its way to this server: it must be asked in so many words.
    asking: bool,
    reply: oneshot::Sender<Result<(Value, bool), StoreError>>,
}

/// Sends commands in batches, each followed by a `WAIT`, on a connection of its own.
pub struct GroupCommit {
    queue: mpsc::Sender<Pledge>,
    patience: Duration,
}

impl GroupCommit {
    /// Starts the batching on the current runtime. It ends when the value is dropped.
    pub fn start(link: Link, replicas: u32, wait: Duration, patience: Duration) -> Self {
        let (queue, pledges) = mpsc::channel(QUEUE_MAX);
        tokio::spawn(run(link, replicas, wait, pledges));
        Self { queue, patience }
    }

    /// Runs `cmd`; the flag says whether enough replicas have acknowledged it.
    ///
    /// # Errors
    /// [`StoreError::Down`] if it was surely not sent, else [`StoreError::Unknown`].
    pub async fn send(&self, cmd: Cmd, asking: bool) -> Result<(Value, bool), StoreError> {
        let (reply, answer) = oneshot::channel();
        self.queue
            .try_send(Pledge { cmd, asking, reply })
            .map_err(|_| StoreError::Full("too many orders wait for the replicas".to_owned()))?;
        match tokio::time::timeout(self.patience, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(StoreError::Unknown("the batch was given up".to_owned())),
            Err(_) => Err(StoreError::Unknown("the replicas are slow".to_owned())),
        }
    }
}

async fn run(link: Link, replicas: u32, wait: Duration, mut pledges: mpsc::Receiver<Pledge>) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    while pledges.recv_many(&mut batch, BATCH_MAX).await > 0 {
        // Nobody waits for these any more, and they were told that the outcome is open.
        batch.retain(|pledge| !pledge.reply.is_closed());
        if !batch.is_empty() {
            commit(&link, replicas, wait, std::mem::take(&mut batch)).await;
        }
    }
}

/// WAIT covers every write up to its connection's last command, so also one that an earlier attempt, on
/// another connection, has made: a repeated CONFIRM is answered when the first one is safe.
async fn commit(link: &Link, replicas: u32, wait: Duration, batch: Vec<Pledge>) {
    let mut pipeline = Pipeline::with_capacity(batch.len() + 1);
    let mut count = 1;
    for pledge in &batch {
        if pledge.asking {
            pipeline.cmd("ASKING");
        }
        pipeline.add_command(pledge.cmd.clone());
        count += 1 + usize::from(pledge.asking);
    }
    pipeline.cmd("WAIT").arg(replicas).arg(wait.as_millis() as u64);

    match link.send_all(&pipeline, count).await {
        Ok(mut replies) => {
            let acknowledged = match replies.pop() {
                Some(Value::Int(count)) => count >= i64::from(replicas),
                _ => false,
            };
            let mut replies = replies.into_iter();
            for pledge in batch {
                // What ASKING was answered is nothing to anybody.
                let Some(reply) = replies.nth(usize::from(pledge.asking)) else {
                    return;
                };
                // The one who waited may have left.
                let _ = pledge.reply.send(Ok((reply, acknowledged)));
            }
        }
        Err(error) => {
            for pledge in batch {
                let _ = pledge.reply.send(Err(error.clone()));
            }
        }
    }
}
