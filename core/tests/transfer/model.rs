//! The world around the rules: primaries, asynchronous copies, failovers, and a network that may do anything.
//!
//! What makes the search exhaustive and yet small:
//!
//! - The network is the set of all messages ever sent. One of them is delivered at any time, or again, or never:
//!   so messages are lost, doubled, late and out of order. GRANTs are there from the start.
//! - A copy follows by taking over its primary's state, at any time or never. Every prefix of the primary's
//!   history can so be what a copy has when it is promoted.
//! - Whoever may tell something tells it at once, and an order is promised as soon as it may be. A message that
//!   is there earlier can still be delivered later, and a promise made earlier is harder to keep.
//! - What an old primary still does after a copy was promoted no copy acknowledges: nobody ever learns of it,
//!   as of what it did just before. (Where a copy of its own stays with it and counts, see `Promoted::Any`.)

use crate::shard::{Levels, Sales, StateNo, Step};
use stateright::{Model, Property};
use std::collections::BTreeSet;

/// What is done beside the rules of the two commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// As the contract says: a total is told, and an order promised, when enough copies have it.
    Contract,
    /// As the contract says, and the donor stops telling a total when the receiver's copies have it too.
    SettledWhenAcknowledged,
    /// As the contract says, and the donor stops telling a total when the receiver says that it has it, until it
    /// hears that the receiver has less: what the cluster bus does.
    SettledUntilMissed,
    /// Wrong: the receiver is told at once.
    CreditBeforeAck,
    /// Wrong: numbered transfers, each credited once and in order, told at once.
    SequenceNumbers,
    /// Wrong: the donor stops telling a total for ever as soon as the receiver says that it has it.
    SettleEarly,
    /// Wrong: the buyer is told at once.
    PromiseBeforeAck,
}

/// Which copy can become primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promoted {
    /// Any that has followed its primary since that began.
    Any,
    /// Only one that is not behind another.
    Freshest,
}

/// A FLASH.GRANT that somebody sends to shard `donor`, once or many times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    pub donor: usize,
    pub qty: u8,
    pub after: Option<u8>,
}

pub struct Transfer {
    pub protocol: Protocol,
    pub stock: [u8; 2],
    pub asks: Vec<Ask>,
    /// Units that a shard may grant in all, where units go to and fro.
    pub most_granted: u8,
    /// How many copies each shard has.
    pub copies: [usize; 2],
    /// How many of them must have a write before anybody is told.
    pub acks: [usize; 2],
    pub promoted: Promoted,
    /// Failovers of both shards together.
    pub failovers: u8,
    pub sales: Sales,
}

/// What one server knows of a shard: replicated as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    state: StateNo,
    pub levels: Levels,
    /// Bit n: ask n, which has an AFTER, debited here. An ask that did so twice sets `repeated`.
    acted: u8,
    repeated: bool,
    /// Where transfers are settled: the total that need not be told any more.
    settled: u8,
    /// Where transfers are numbered: the last sent and the last credited.
    sent: u8,
    seen: u8,
}

impl Node {
    /// How much has happened here: no counter ever falls.
    fn progress(&self) -> u8 {
        self.levels.granted + self.levels.accepted + self.levels.sold
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Group {
    pub primary: Node,
    /// `None`: has not followed this primary yet, and cannot be promoted.
    pub copies: Vec<Option<Node>>,
    /// Orders that buyers were told of.
    pub promised: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Message {
    Total { to: usize, total: u8 },
    Numbered { to: usize, number: u8, qty: u8 },
    Settled { to: usize, total: u8 },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    pub shards: [Group; 2],
    pub network: BTreeSet<Message>,
    pub failovers: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A GRANT arrives: the n-th ask.
    Grant(usize),
    Deliver(Message),
    Order {
        shard: usize,
    },
    Replicate {
        shard: usize,
        copy: usize,
    },
    /// A shard hears what the other one has accepted.
    News {
        shard: usize,
    },
    Failover {
        shard: usize,
        copy: usize,
    },
}

impl Transfer {
    fn step(&self, node: &mut Node, step: Step) {
        (node.state, node.levels) = self.sales.step(node.state, step);
    }

    fn grant(&self, world: &mut World, number: usize) {
        let Ask { donor, qty, after } = self.asks[number];
        let node = &mut world.shards[donor].primary;
        let before = node.levels.granted;
        self.step(node, Step::Grant { qty, after });
        let total = node.levels.granted;
        if total == before {
            return;
        }
        if after.is_some() {
            node.repeated |= node.acted & 1 << number != 0;
            node.acted |= 1 << number;
        }
        let to = 1 - donor;
        match self.protocol {
            Protocol::CreditBeforeAck => {
                world.network.insert(Message::Total { to, total });
            }
            Protocol::SequenceNumbers => {
                node.sent += 1;
                world.network.insert(Message::Numbered { to, number: node.sent, qty: total - before });
            }
            _ => {}
        }
    }

    fn deliver(&self, world: &mut World, message: Message) {
        match message {
            Message::Total { to, total } => {
                let node = &mut world.shards[to].primary;
                self.step(node, Step::Accept { total });
                if matches!(self.protocol, Protocol::SettleEarly | Protocol::SettledUntilMissed) {
                    world.network.insert(Message::Settled { to: 1 - to, total: node.levels.accepted });
                }
            }
            Message::Numbered { to, number, qty } => {
                let node = &mut world.shards[to].primary;
                if number == node.seen + 1 {
                    node.seen = number;
                    self.step(node, Step::Accept { total: node.levels.accepted + qty });
                }
            }
            Message::Settled { to, total } => {
                let node = &mut world.shards[to].primary;
                node.settled = node.settled.max(total);
            }
        }
    }

    fn news(&self, world: &mut World, shard: usize) {
        let accepted = world.shards[1 - shard].primary.levels.accepted;
        if self.protocol == Protocol::SettledUntilMissed {
            let node = &mut world.shards[shard].primary;
            node.settled = node.settled.min(accepted);
        }
    }

    fn order(&self, world: &mut World, shard: usize) {
        let group = &mut world.shards[shard];
        self.step(&mut group.primary, Step::Order);
        if self.protocol == Protocol::PromiseBeforeAck {
            group.promised = group.promised.max(group.primary.levels.sold);
        }
    }

    /// A copy catches up and says so. What enough copies have may now be told.
    fn replicate(&self, world: &mut World, shard: usize, copy: usize) {
        let group = &mut world.shards[shard];
        group.copies[copy] = Some(group.primary);
        let Some(safe) = self.acknowledged(group, shard) else { return };
        group.promised = group.promised.max(safe.levels.sold);
        let tells_totals = !matches!(self.protocol, Protocol::CreditBeforeAck | Protocol::SequenceNumbers);
        if tells_totals && safe.levels.granted > group.primary.settled {
            world.network.insert(Message::Total { to: 1 - shard, total: safe.levels.granted });
        }
        if self.protocol == Protocol::SettledWhenAcknowledged && safe.levels.accepted > 0 {
            world.network.insert(Message::Settled { to: 1 - shard, total: safe.levels.accepted });
        }
    }

    /// The newest state that as many copies have as must: what WAIT answers.
    fn acknowledged(&self, group: &Group, shard: usize) -> Option<Node> {
        let mut copies: Vec<Node> = group.copies.iter().flatten().copied().collect();
        copies.sort_by_key(|node| std::cmp::Reverse(node.progress()));
        copies.get(self.acks[shard].checked_sub(1)?).copied()
    }

    fn can_be_promoted(&self, group: &Group, copy: usize) -> bool {
        let Some(node) = group.copies[copy] else { return false };
        let fresher = |other: &Node| other.progress() > node.progress();
        self.promoted == Promoted::Any || !group.copies.iter().flatten().any(fresher)
    }

    /// The old primary and the other copies follow the new one, from where it stands.
    fn fail_over(&self, world: &mut World, shard: usize, copy: usize) {
        let group = &mut world.shards[shard];
        if let (true, Some(node)) = (self.can_be_promoted(group, copy), group.copies[copy]) {
            group.primary = node;
            group.copies.fill(None);
            world.failovers += 1;
        }
    }

    /// What becomes of a world in which nothing fails any more, all messages on their way having been lost.
    fn calm(&self, world: &World) -> World {
        let mut world = world.clone();
        // The wrong protocols that do not wait are given an outbox that survives everything.
        if !matches!(self.protocol, Protocol::SequenceNumbers | Protocol::CreditBeforeAck) {
            world.network.clear();
        }
        loop {
            let before = world.clone();
            for shard in 0..2 {
                self.news(&mut world, shard);
                (0..world.shards[shard].copies.len()).for_each(|copy| self.replicate(&mut world, shard, copy));
            }
            for message in world.network.clone() {
                self.deliver(&mut world, message);
            }
            if world == before {
                return world;
            }
        }
    }
}

pub const NEVER_MADE: &str = "no shard is credited with more than the other has debited";
pub const CONSERVED: &str = "what was stocked is available, sold or in transit";
pub const NEVER_LOST: &str = "what was granted can be accepted";
pub const PROMISES_KEPT: &str = "no promised order is lost";
pub const NOT_OVERSOLD: &str = "no more is sold or promised than was stocked";
pub const DEBITED_ONCE: &str = "a GRANT with AFTER debits once";
pub const ALL_SOLD: &str = "everything can be sold in spite of all failovers";
pub const MOVED_AND_SOLD: &str = "units that arrived can be sold and promised";

impl World {
    fn levels(&self) -> [Levels; 2] {
        [self.shards[0].primary.levels, self.shards[1].primary.levels]
    }

    /// Units on their way, in each direction.
    fn in_transit(&self) -> [i32; 2] {
        let [a, b] = self.levels();
        [i32::from(a.granted) - i32::from(b.accepted), i32::from(b.granted) - i32::from(a.accepted)]
    }
}

fn never_made(_: &Transfer, world: &World) -> bool {
    world.in_transit().iter().all(|&units| units >= 0)
}

fn conserved(transfer: &Transfer, world: &World) -> bool {
    let here: i32 = world.levels().iter().map(|levels| i32::from(levels.available) + i32::from(levels.sold)).sum();
    here + world.in_transit().iter().sum::<i32>() == transfer.stocked()
}

fn never_lost(transfer: &Transfer, world: &World) -> bool {
    transfer.calm(world).in_transit().iter().all(|&units| units <= 0)
}

fn promises_kept(_: &Transfer, world: &World) -> bool {
    world.shards.iter().all(|group| group.primary.levels.sold >= group.promised)
}

fn not_oversold(transfer: &Transfer, world: &World) -> bool {
    let promised: i32 = world.shards.iter().map(|group| i32::from(group.promised)).sum();
    let sold: i32 = world.levels().iter().map(|levels| i32::from(levels.sold)).sum();
    promised.max(sold) <= transfer.stocked()
}

fn debited_once(_: &Transfer, world: &World) -> bool {
    world.shards.iter().all(|group| !group.primary.repeated)
}

fn all_sold(transfer: &Transfer, world: &World) -> bool {
    let promised: i32 = world.shards.iter().map(|group| i32::from(group.promised)).sum();
    world.failovers == transfer.failovers && promised == transfer.stocked()
}

fn moved_and_sold(transfer: &Transfer, world: &World) -> bool {
    world.failovers == transfer.failovers && world.shards[1].promised > transfer.stock[1]
}

impl Transfer {
    fn stocked(&self) -> i32 {
        self.stock.iter().copied().map(i32::from).sum()
    }
}

impl Model for Transfer {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let group = |index: usize| {
            let (state, levels) = self.sales.create(index as u32, self.stock[index]);
            let primary = Node { state, levels, acted: 0, repeated: false, settled: 0, sent: 0, seen: 0 };
            Group { primary, copies: vec![Some(primary); self.copies[index]], promised: 0 }
        };
        vec![World { shards: [group(0), group(1)], network: BTreeSet::new(), failovers: 0 }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        actions.extend((0..self.asks.len()).map(Action::Grant));
        actions.extend(world.network.iter().copied().map(Action::Deliver));
        for (shard, group) in world.shards.iter().enumerate() {
            actions.extend([Action::Order { shard }, Action::News { shard }]);
            for copy in 0..group.copies.len() {
                actions.push(Action::Replicate { shard, copy });
                if world.failovers < self.failovers {
                    actions.push(Action::Failover { shard, copy });
                }
            }
        }
    }

    /// `None` where an action changes nothing: a refusal, a repeat.
    fn next_state(&self, before: &World, action: Action) -> Option<World> {
        let mut world = before.clone();
        match action {
            Action::Grant(number) => self.grant(&mut world, number),
            Action::Deliver(message) => self.deliver(&mut world, message),
            Action::Order { shard } => self.order(&mut world, shard),
            Action::Replicate { shard, copy } => self.replicate(&mut world, shard, copy),
            Action::News { shard } => self.news(&mut world, shard),
            Action::Failover { shard, copy } => self.fail_over(&mut world, shard, copy),
        }
        (world != *before).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(NEVER_MADE, never_made),
            Property::always(CONSERVED, conserved),
            Property::always(NEVER_LOST, never_lost),
            Property::always(PROMISES_KEPT, promises_kept),
            Property::always(NOT_OVERSOLD, not_oversold),
            Property::always(DEBITED_ONCE, debited_once),
            Property::sometimes(ALL_SOLD, all_sold),
            Property::sometimes(MOVED_AND_SOLD, moved_and_sold),
        ]
    }

    fn within_boundary(&self, world: &World) -> bool {
        world.shards.iter().all(|group| group.primary.levels.granted <= self.most_granted)
    }
}
