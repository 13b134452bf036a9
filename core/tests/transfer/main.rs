//! Units that move between shards are never made and never lost (the contract's section 6), in every order of
//! events that a small world allows: both shards with asynchronous copies, two failovers, messages lost,
//! doubled, delayed and reordered, buyers ordering all the while.
//!
//! [`shard`] takes each step by the real rules of this crate, [`model`] is the world around them, searched
//! whole by a model checker. Protocols that look as good and are wrong are searched too: the same properties
//! must find what is wrong with them.

mod model;
mod shard;

use model::*;
use stateright::{Checker, Model};

/// Units go one way, from a shard with four units to one with one; a copy each; whatever the donor is asked for.
fn one_way(protocol: Protocol) -> Transfer {
    let ask = |qty, after| Ask { donor: 0, qty, after };
    Transfer {
        protocol,
        stock: [5, 1],
        asks: vec![ask(2, None), ask(1, Some(0)), ask(1, Some(1)), ask(2, Some(1)), ask(1, Some(3))],
        most_granted: u8::MAX,
        copies: [1, 1],
        acks: [1, 1],
        promoted: Promoted::Any,
        failovers: 2,
        sales: Default::default(),
    }
}

/// Both shards grant: units may come back.
fn both_ways(protocol: Protocol) -> Transfer {
    let ask = |donor, qty, after| Ask { donor, qty, after };
    let asks = vec![ask(0, 1, None), ask(0, 1, Some(0)), ask(1, 2, None), ask(1, 1, Some(1))];
    Transfer { stock: [2, 1], asks, most_granted: 3, ..one_way(protocol) }
}

/// Two copies of each shard, `acks` of which must have a write before anybody is told.
fn two_copies(acks: usize, promoted: Promoted) -> Transfer {
    let ask = |qty, after| Ask { donor: 0, qty, after };
    let asks = vec![ask(1, None), ask(1, Some(0))];
    Transfer { stock: [2, 1], asks, copies: [2, 2], acks: [acks, acks], promoted, ..one_way(Protocol::Contract) }
}

/// Searches every state, and says how many there were.
#[track_caller]
fn holds(transfer: Transfer) {
    let started = std::time::Instant::now();
    let checker = transfer.checker().threads(2).spawn_bfs().join();
    println!("{} states in {:?}", checker.unique_state_count(), started.elapsed());
    checker.assert_properties();
}

/// Searches deeper and deeper until the property is found not to hold, and says how it came to that.
#[track_caller]
fn fails(transfer: impl Fn() -> Transfer, property: &'static str) {
    for depth in 2..20 {
        let checker = transfer().checker().target_max_depth(depth).spawn_bfs().join();
        if let Some(path) = checker.discovery(property) {
            println!("not so: {property}\n{path}");
            return;
        }
    }
    panic!("this was to be found wrong: {property}");
}

#[test]
fn the_contract_holds_one_way() {
    holds(one_way(Protocol::Contract));
}

#[test]
fn the_contract_holds_both_ways() {
    holds(both_ways(Protocol::Contract));
}

#[test]
fn two_copies_hold_if_both_acknowledge() {
    holds(two_copies(2, Promoted::Any));
}

#[test]
fn two_copies_hold_if_one_acknowledges_and_the_freshest_is_promoted() {
    holds(two_copies(1, Promoted::Freshest));
}

#[test]
fn two_copies_of_which_one_acknowledges_and_the_other_is_promoted_make_units() {
    fails(|| two_copies(1, Promoted::Any), NEVER_MADE);
    fails(|| two_copies(1, Promoted::Any), PROMISES_KEPT);
}

/// An ACCEPT that no copy has is lost with its primary, and so are the orders made of its units: all that is
/// lost was promised to nobody. The total is told again, and the new primary is credited.
#[test]
fn a_credit_lost_with_its_primary_is_given_again() {
    let transfer = one_way(Protocol::Contract);
    let told = Action::Deliver(Message::Total { to: 1, total: 2 });
    let receiver = |copy| Action::Replicate { shard: 1, copy };
    let mut world = transfer.init_states().remove(0);
    let mut go = |action| {
        world = transfer.next_state(&world, action).expect("the action changes something");
        let levels = world.shards[1].primary.levels;
        (levels.accepted, levels.sold, world.shards[1].promised)
    };
    go(Action::Grant(0));
    go(Action::Replicate { shard: 0, copy: 0 });
    assert_eq!(go(told), (2, 0, 0));
    go(Action::Order { shard: 1 });
    assert_eq!(go(Action::Order { shard: 1 }), (2, 2, 0), "one of its own, one that arrived");
    assert_eq!(go(Action::Failover { shard: 1, copy: 0 }), (0, 0, 0));
    assert_eq!(go(told), (2, 0, 0));
    go(Action::Order { shard: 1 });
    assert_eq!(go(receiver(0)), (2, 1, 1));
    assert_eq!(go(Action::Failover { shard: 1, copy: 0 }), (2, 1, 1));
}

#[test]
fn settling_what_the_receivers_copies_acknowledged_holds() {
    holds(Transfer { stock: [3, 1], ..one_way(Protocol::SettledWhenAcknowledged) });
}

#[test]
fn settling_until_an_acceptance_is_missed_holds() {
    holds(Transfer { stock: [3, 1], ..one_way(Protocol::SettledUntilMissed) });
}

#[test]
fn credit_before_ack_makes_units() {
    fails(|| one_way(Protocol::CreditBeforeAck), NEVER_MADE);
}

#[test]
fn sequence_numbers_without_ack_make_units() {
    fails(|| one_way(Protocol::SequenceNumbers), NEVER_MADE);
}

#[test]
fn settling_early_loses_units() {
    fails(|| one_way(Protocol::SettleEarly), NEVER_LOST);
}

#[test]
fn promising_before_ack_loses_orders() {
    fails(|| one_way(Protocol::PromiseBeforeAck), PROMISES_KEPT);
}
