//! Messages in and out, counted; and, in the module that is built for tests, lost, doubled and late on purpose.

use crate::cluster::{self, NodeId};
use crate::server::Ctx;
use flashsale_core::gossip::{Letter, MAX_MESSAGE_BYTES, Packer};
use std::collections::{BTreeMap, VecDeque};

/// Messages that wait to be read; what comes then is lost, as any message may be.
const MOST_WAITING: usize = 10_000;
/// The list of nodes is read again after this.
const NODES_FRESH_MS: u64 = 500;

/// Whom a letter is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum To {
    /// All primaries, this one too.
    All,
    /// One node, which may be this one.
    Node(NodeId),
}

impl To {
    /// The node where a shard was last heard of, or everybody.
    pub fn of(place: Option<NodeId>) -> Self {
        place.map_or(Self::All, Self::Node)
    }
}

/// A message that has arrived.
pub(super) struct Parcel {
    pub sender: NodeId,
    pub content: Vec<u8>,
    /// When it may be read.
    due_ms: u64,
}

/// What has gone over the bus since the server started.
#[derive(Default)]
pub(crate) struct Counts {
    pub messages_sent: u64,
    pub bytes_sent: u64,
    pub messages_received: u64,
    pub bytes_received: u64,
    /// Requests for units.
    pub asked: u64,
    /// Units given away at a request.
    pub granted: u64,
    /// Units that came.
    pub accepted: u64,
    /// Messages not read: garbage, too many, or lost on purpose.
    pub dropped: u64,
}

#[derive(Default)]
pub(super) struct Post {
    outgoing: BTreeMap<To, Packer>,
    waiting: VecDeque<Parcel>,
    primaries: Vec<NodeId>,
    primaries_ms: u64,
    pub counts: Counts,
}

impl Post {
    /// Has a letter sent with the next [`Post::send`].
    pub fn write(&mut self, to: To, letter: &Letter<'_>, now_ms: u64) {
        self.outgoing.entry(to).or_insert_with(|| Packer::new(now_ms)).push(letter);
    }

    /// Sends what was written. Tells whether this node has written to itself.
    pub fn send(&mut self, ctx: Ctx<'_>, now_ms: u64) -> bool {
        let outgoing = std::mem::take(&mut self.outgoing);
        let Some(me) = cluster::my_id().filter(|_| !outgoing.is_empty()) else { return false };
        if self.primaries_ms + NODES_FRESH_MS <= now_ms {
            (self.primaries, self.primaries_ms) = (cluster::other_primaries(ctx), now_ms);
        }
        let mut to_myself = false;
        for (to, packer) in outgoing {
            for message in packer.finish() {
                let others = match to {
                    To::All => &self.primaries[..],
                    To::Node(node) if node == me => &[],
                    To::Node(ref node) => std::slice::from_ref(node),
                };
                for node in others {
                    if cluster::send(ctx, node, &message) {
                        self.counts.messages_sent += 1;
                        self.counts.bytes_sent += message.len() as u64;
                    }
                }
                if to == To::All || to == To::Node(me) {
                    to_myself = true;
                    self.waiting.push_back(Parcel { sender: me, content: message, due_ms: now_ms });
                }
            }
        }
        to_myself
    }

    /// Keeps a message until the next timer.
    pub fn receive(&mut self, sender: NodeId, content: &[u8], now_ms: u64) {
        self.counts.messages_received += 1;
        self.counts.bytes_received += content.len() as u64;
        let fate = Fate::of_message();
        if content.len() > MAX_MESSAGE_BYTES || self.waiting.len() >= MOST_WAITING || fate.copies == 0 {
            self.counts.dropped += 1;
            return;
        }
        for _ in 0..fate.copies {
            self.waiting.push_back(Parcel { sender, content: content.to_vec(), due_ms: now_ms + fate.delay_ms });
        }
    }

    /// Takes out what may be read.
    pub fn arrived(&mut self, now_ms: u64) -> Vec<Parcel> {
        let (now, later): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut self.waiting).into_iter().partition(|parcel| parcel.due_ms <= now_ms);
        self.waiting = later;
        now.into()
    }
}

/// What becomes of a message.
struct Fate {
    copies: u32,
    delay_ms: u64,
}

impl Fate {
    #[cfg(not(feature = "fault-injection"))]
    fn of_message() -> Self {
        Self { copies: 1, delay_ms: 0 }
    }

    /// As `flashsale.bus-lose-percent`, `bus-double-percent` and `bus-delay-ms` say.
    #[cfg(feature = "fault-injection")]
    fn of_message() -> Self {
        use crate::config::{BUS_DELAY_MS, BUS_DOUBLE_PERCENT, BUS_LOSE_PERCENT};
        let [lose, double, delay, more] = crate::server::random_bytes();
        let hits = |dice: u8, percent: i64| i64::from(dice) * 100 < percent * 256;
        let delay = u64::from(delay) << 8 | u64::from(more);
        Self {
            copies: match () {
                () if hits(lose, BUS_LOSE_PERCENT.get()) => 0,
                () if hits(double, BUS_DOUBLE_PERCENT.get()) => 2,
                () => 1,
            },
            delay_ms: delay % (BUS_DELAY_MS.get() as u64 + 1),
        }
    }
}
