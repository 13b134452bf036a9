//! The invariants of the contract's section 2, each by its number.

use crate::steps::{BUYERS, IDS, Step, settings, step, story};
use crate::world::{World, cases, digest, same};
use flashsale_core::command::{Change, Command, Stock};
use flashsale_core::effect::Wording;
use flashsale_core::outcome::{Field, Outcome};
use flashsale_core::sharding::home_shard;
use flashsale_core::{Events, Sale, Settings, Shard};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use std::collections::{BTreeMap, BTreeSet};

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    fn invariant_1_units_of_a_shard_are_conserved(story in story(100)) {
        let (profile, steps) = story;
        let mut world = World::new(&profile);
        for step in &steps {
            let _answer = world.run(step)?;
            for sku in world.sale.sku_views(world.server_ms) {
                let here = (sku.stocked + sku.accepted).checked_sub(sku.granted);
                same!("stocked + accepted - granted", here, Some(sku.available + sku.held + sku.sold));
            }
            world.audit()?;
        }
    }

    #[test]
    fn invariant_1_units_of_a_sale_are_conserved_over_its_shards(moves in shard_moves()) {
        units_survive_lost_late_and_repeated_messages(&moves)?;
    }

    #[test]
    fn invariant_2_a_hold_ends_once_and_nothing_is_oversold(story in story(100)) {
        let (mut profile, steps) = story;
        // Nothing is forgotten, so an id means one hold for ever.
        profile.settings.retain_ms = 86_400_000;
        let mut world = World::new(&profile);
        let mut ends: BTreeMap<&[u8], &str> = BTreeMap::new();
        for step in steps.iter().filter(|step| !shortens_retain(step)) {
            let late = matches!(&step.command, Command::Confirm(confirm) if confirm.late);
            let _answer = world.run(step)?;
            for id in IDS {
                let Some(hold) = world.sale.hold_view(id, world.server_ms) else { continue };
                if hold.state == "held" {
                    same!("how a live hold ended before", ends.get(id), None::<&&str>);
                    continue;
                }
                let before = *ends.entry(id).or_insert(hold.state);
                let taken_again = late && before == "expired" && hold.state == "confirmed";
                if !taken_again {
                    same!("how the hold ended", hold.state, before);
                }
                ends.insert(id, hold.state);
            }
            for sku in world.sale.sku_views(world.server_ms) {
                prop_assert!(sku.sold <= sku.stocked + sku.accepted, "{} oversold", sku.name.escape_ascii());
            }
        }
    }

    #[test]
    fn invariant_3_no_buyer_exceeds_a_limit(
        story in story(100),
        limit in 1_u32..5,
        of_tee in 1_u32..4,
    ) {
        let (mut profile, steps) = story;
        profile.settings.limit = limit;
        let mut world = World::new(&profile);
        let of_tee_from_the_start = Stock { sku: b"tee", delta: 5, alloc_id: None, limit: Some(of_tee) };
        let first = Step { command: Command::Stock(of_tee_from_the_start), clock_ms: 0, backlog: 0, elsewhere: false };
        let _answer = world.run(&first)?;
        for step in steps.iter().filter(|step| !changes_limits(step)) {
            let _answer = world.run(step)?;
            for buyer in BUYERS {
                let usage = world.sale.buyer_view(buyer, world.server_ms);
                prop_assert!(usage.held + usage.sold <= u64::from(limit));
                let tees = units_of(&world.sale, buyer, b"tee", world.server_ms);
                prop_assert!(tees <= u64::from(of_tee), "{tees} tees");
            }
        }
    }

    #[test]
    fn invariant_4_a_repeat_answers_the_same_and_changes_nothing(story in story(60)) {
        let (mut profile, steps) = story;
        profile.settings.retain_ms = 86_400_000;
        let mut world = World::new(&profile);
        for step in steps.iter().filter(|step| !shortens_retain(step)) {
            let first = world.run(step)?;
            let before = digest(&world.sale);
            let repeat = Step { clock_ms: 0, ..step.clone() };
            let again = world.run(&repeat)?;
            if is_settled(&step.command, first.as_ref().ok()) {
                let expected = first.map(|first| told_again(first, &step.command));
                same!("the repeated answer", again, expected);
                same!("the state after it", digest(&world.sale), before);
            }
        }
    }

    #[test]
    fn invariant_4_other_arguments_are_refused_and_change_nothing(story in story(60)) {
        let (profile, steps) = story;
        let mut world = World::new(&profile);
        for step in &steps {
            let first = world.run(step)?;
            let (Command::Reserve(reserve), Ok(Outcome::Reserved { .. })) = (&step.command, &first) else { continue };
            if reserve.id.is_none() {
                continue;
            }
            let before = digest(&world.sale);
            let mut other_buyer = reserve.clone();
            other_buyer.buyer = b"mallory";
            let mut other_items = reserve.clone();
            other_items.items[0].qty ^= 1 << 20;
            for (other, field) in [(other_buyer, Field::Buyer), (other_items, Field::Items)] {
                let repeat = Step { command: Command::Reserve(other), clock_ms: 0, ..step.clone() };
                same!("the answer", world.run(&repeat)?.ok(), Some(Outcome::Mismatch(field)));
                same!("the state after it", digest(&world.sale), before);
            }
        }
    }

    #[test]
    fn invariant_5_a_sweep_makes_no_difference(story in story(80), sweep in 1_usize..4) {
        let (mut profile, steps) = story;
        // With EVENTS ALL the stream tells when each was swept: that is the one difference there may be.
        profile.settings.events = Events::Orders;
        let (mut swept, mut lazy) = (World::new(&profile), World::new(&profile));
        for step in steps.iter().filter(|step| !asks_for_all_events(step)) {
            let now_ms = swept.sale.now(swept.server_ms.saturating_add_signed(step.clock_ms));
            let due = swept.sale.due(now_ms, sweep);
            swept.log.start(now_ms, Wording::Effects);
            swept.sale.expire(&due, now_ms, &mut swept.log, &mut swept.facts);
            same!("the answer", swept.run_sale(step), lazy.run_sale(step));
            for id in IDS {
                let hold = |world: &World| format!("{:?}", world.sale.hold_view(id, world.server_ms));
                same!("HOLD", hold(&swept), hold(&lazy));
            }
        }
    }

    #[test]
    fn invariant_6_the_stream_has_every_order_once_and_no_gaps(story in story(100)) {
        let (mut profile, steps) = story;
        if profile.settings.events == Events::None {
            profile.settings.events = Events::Orders;
        }
        let mut world = World::new(&profile);
        for step in steps.iter().filter(|step| !changes_events(step)) {
            let answer = world.run(step)?;
            world.read_stream()?;
            world.read_channel()?;
            same!("entries", world.sale.entries(), world.last_no);
            same!("orders in the stream", world.confirmed.len() as u64, world.model.orders());
            if let Ok(Outcome::Confirmed { id, order_no }) = answer {
                same!("the order's entry", world.confirmed.get(&order_no).map(Vec::as_slice), Some(&*id));
            }
        }
    }

    #[test]
    fn invariant_7_replicas_and_reloads_have_the_same_state(story in story(60)) {
        let (profile, steps) = story;
        let mut world = World::new(&profile);
        for step in &steps {
            let _answer = world.run(step)?;
            world.replicate(step)?;
            same!("the replica's digest", digest(&world.replica), digest(&world.sale));
        }
        world.audit()?;
        same!("the replica's snapshot", sorted_snapshot(&world.replica), sorted_snapshot(&world.sale));
    }

    #[test]
    fn invariant_8_a_refusal_leaves_nothing_behind(story in story(60)) {
        let (profile, steps) = story;
        let mut world = World::new(&profile);
        for step in &steps {
            // What is due is expired at any command, refused or not: that is no part of the refusal.
            let now_ms = world.sale.now(world.server_ms.saturating_add_signed(step.clock_ms));
            let due = world.sale.due(now_ms, usize::MAX);
            world.log.start(now_ms, Wording::Effects);
            world.sale.expire(&due, now_ms, &mut world.log, &mut world.facts);
            let (before, bytes) = (digest(&world.sale), world.sale.heap_bytes(0));
            let answer = world.run_sale(step);
            if answer.as_ref().map_or(true, is_refusal) {
                same!("the state", digest(&world.sale), before);
                same!("the memory", world.sale.heap_bytes(0), bytes);
                prop_assert!(world.log.is_empty() && world.facts.entries.is_empty());
            }
        }
    }
}

fn sorted_snapshot(sale: &Sale) -> Vec<u8> {
    // Live holds stand in no order that means anything; bytes are the same set.
    let mut bytes = crate::world::snapshot(sale).concat();
    bytes.sort_unstable();
    bytes
}

fn shortens_retain(step: &Step) -> bool {
    matches!(step.command, Command::Alter(Change { retain_ms: Some(_), .. }))
}

fn changes_limits(step: &Step) -> bool {
    match &step.command {
        Command::Alter(change) => change.limit.is_some(),
        Command::Stock(stock) => stock.limit.is_some(),
        _ => false,
    }
}

fn changes_events(step: &Step) -> bool {
    matches!(step.command, Command::Alter(Change { events: Some(_), .. }))
}

fn asks_for_all_events(step: &Step) -> bool {
    matches!(step.command, Command::Alter(Change { events: Some(Events::All), .. }))
}

/// The answer to the same again: that it is the same again is told to whoever asks.
fn told_again<'a>(first: Outcome<'a>, command: &Command<'_>) -> Outcome<'a> {
    match (first, command) {
        (Outcome::Reserved { id, deadline, taken, .. }, Command::Reserve(reserve)) => {
            Outcome::Reserved { id, deadline, taken, repeated: reserve.tell_repeated }
        }
        (first, _) => first,
    }
}

/// Commands whose first answer settles what all repeats answer.
fn is_settled(command: &Command<'_>, answer: Option<&Outcome<'_>>) -> bool {
    match (command, answer) {
        (Command::Reserve(reserve), Some(Outcome::Reserved { .. })) => reserve.id.is_some(),
        (Command::Order(order), Some(Outcome::Confirmed { .. })) => order.id.is_some(),
        (Command::Confirm(_), Some(Outcome::Confirmed { .. })) => true,
        (Command::Release(_), Some(_)) => true,
        (Command::Extend { .. }, Some(_)) => true,
        (Command::Stock(stock), Some(Outcome::Stocked { .. })) => stock.alloc_id.is_some(),
        (Command::Grant(grant), Some(Outcome::Granted { .. })) => grant.after.is_some(),
        _ => false,
    }
}

fn is_refusal(answer: &Outcome<'_>) -> bool {
    !matches!(
        answer,
        Outcome::Ok
            | Outcome::Stocked { .. }
            | Outcome::Reserved { .. }
            | Outcome::Confirmed { .. }
            | Outcome::Released
            | Outcome::Extended { .. }
            | Outcome::Returned
            | Outcome::Granted { .. }
            | Outcome::Accepted { .. }
    )
}

/// Units of a SKU that a buyer has, summed up from the holds.
fn units_of(sale: &Sale, buyer: &[u8], sku: &[u8], now_ms: u64) -> u64 {
    let (_, holds) = sale.hold_views(0, usize::MAX, now_ms);
    let his = holds.iter().filter(|hold| hold.buyer == buyer && matches!(hold.state, "held" | "confirmed"));
    his.flat_map(|hold| &hold.items).filter(|(name, _)| *name == sku).map(|(_, qty)| u64::from(*qty)).sum()
}

/// What happens between shards.
#[derive(Clone, Debug)]
enum Move {
    /// A command to one shard.
    Do(usize, Step),
    /// One shard grants units to another; the message goes into the post.
    Grant { from: usize, to: usize, qty: u32 },
    /// Any message ever sent arrives, for the first time or again; most never do.
    Deliver(prop::sample::Index),
}

const SHARDS: usize = 3;

fn shard_moves() -> impl Strategy<Value = (Settings, Vec<Move>)> {
    settings().prop_flat_map(|settings| {
        // Commands that move no units between shards of their own accord.
        let profile = crate::steps::Profile { settings, shard: Shard::default(), ids: 6 };
        let other = (0..SHARDS, 1..SHARDS).prop_map(|(from, step)| (from, (from + step) % SHARDS));
        let moves = prop_oneof![
            4 => (0..SHARDS, step(&profile)).prop_map(|(shard, step)| Move::Do(shard, step)),
            2 => (other, 1_u32..9).prop_map(|((from, to), qty)| Move::Grant { from, to, qty }),
            2 => any::<prop::sample::Index>().prop_map(Move::Deliver),
        ];
        (Just(settings), proptest::collection::vec(moves, 1..80))
    })
}

/// Messages say how much was granted in all, so that none of them matters.
#[derive(Clone, Debug)]
struct Message {
    from: usize,
    to: usize,
    total: u64,
}

fn units_survive_lost_late_and_repeated_messages(
    (settings, moves): &(Settings, Vec<Move>),
) -> Result<(), TestCaseError> {
    let shard = |index: usize| Shard { index: index as u32, count: SHARDS as u32 };
    let profile = |index| crate::steps::Profile { settings: *settings, shard: shard(index), ids: 6 };
    let mut worlds: Vec<World> = (0..SHARDS).map(|index| World::new(&profile(index))).collect();
    let mut post: Vec<Message> = Vec::new();
    let plain = |command| Step { command, clock_ms: 0, backlog: 0, elsewhere: true };
    for a_move in moves {
        match a_move {
            Move::Do(_, Step { command: Command::Grant(_) | Command::Accept(_), .. }) => {}
            Move::Do(at, step) => {
                let _answer = worlds[*at].run(step)?;
            }
            Move::Grant { from, to, qty } => {
                let grant = flashsale_core::command::Grant { sku: b"tee", qty: *qty, to: *to as u32, after: None };
                if let Ok(Outcome::Granted { total, .. }) = worlds[*from].run(&plain(Command::Grant(grant)))? {
                    post.push(Message { from: *from, to: *to, total });
                }
            }
            Move::Deliver(_) if post.is_empty() => {}
            Move::Deliver(which) => {
                let Message { from, to, total } = *which.get(&post);
                let accept = flashsale_core::command::Accept { sku: b"tee", from: from as u32, total };
                let _answer = worlds[to].run(&plain(Command::Accept(accept)))?;
            }
        }
        sum_over_shards(&worlds)?;
    }
    Ok(())
}

/// sum(stocked) = sum(available + held + sold) + in transit, and no shard has accepted what was not granted.
fn sum_over_shards(worlds: &[World]) -> Result<(), TestCaseError> {
    let levels = || worlds.iter().map(|world| world.model.at(world.server_ms).levels(b"tee"));
    let views =
        || worlds.iter().flat_map(|world| world.sale.sku_views(world.server_ms)).filter(|sku| sku.name == b"tee");
    let stocked: u64 = views().map(|sku| sku.stocked).sum();
    let here: u64 = views().map(|sku| sku.available + sku.held + sku.sold).sum();
    let granted: u64 = views().map(|sku| sku.granted).sum();
    let accepted: u64 = views().map(|sku| sku.accepted).sum();
    let in_transit = granted.checked_sub(accepted);
    same!("stocked units", in_transit.map(|in_transit| here + in_transit), Some(stocked));
    same!("the model's stocked units", levels().map(|level| level.stocked).sum::<u64>(), stocked);
    Ok(())
}

#[test]
fn buyers_of_the_tests_live_in_all_shards() {
    let homes: BTreeSet<u32> = BUYERS.iter().map(|buyer| home_shard(buyer, SHARDS as u32)).collect();
    assert!(homes.len() > 1, "{homes:?}");
}
