//! Random commands.

use flashsale_core::command::{
    Accept, Change, Command, Confirm, Grant, Item, Items, Order, Release, Reserve, Return, Stock,
};
use flashsale_core::sharding::home_shard;
use flashsale_core::{Events, Settings, Shard};
use proptest::option::{of, weighted};
use proptest::prelude::*;
use proptest::sample::{Index, select};

pub const SKUS: [&[u8]; 4] = [b"tee", b"mug", b"\0\xff", b"cap"];
pub const BUYERS: [&[u8]; 5] = [b"ada", b"bob", b"cy{x}", b"dee", b"eve"];
pub const IDS: [&[u8]; 40] = [
    b"h0", b"h1", b"h2", b"h3", b"h4", b"h5", b"h6", b"h7", b"h8", b"h9", b"i0", b"i1", b"i2", b"i3", b"i4", b"i5",
    b"i6", b"i7", b"i8", b"i9", b"j0", b"j1", b"j2", b"j3", b"j4", b"j5", b"j6", b"j7", b"j8", b"j9", b"k0", b"k1",
    b"k2", b"k3", b"k4", b"k5", b"k6", b"k7", b"k8", b"k9",
];
const TEXTS: [&[u8]; 3] = [b"", b"pay-1", b"\r\n\0"];

/// When every sale of these tests begins.
pub const START_MS: u64 = 1_700_000_000_000;

/// The kind of sale, and how many names the commands choose from.
#[derive(Clone, Debug)]
pub struct Profile {
    pub settings: Settings,
    pub shard: Shard,
    pub ids: usize,
}

/// One command and what it depends on.
#[derive(Clone, Debug)]
pub struct Step {
    pub command: Command<'static>,
    /// How far the server's clock moves before it, in ms.
    pub clock_ms: i64,
    pub backlog: u64,
    pub elsewhere: bool,
}

/// Small worlds, where everything happens soon.
pub fn settings() -> impl Strategy<Value = Settings> {
    let events = prop_oneof![3 => Just(Events::Orders), 3 => Just(Events::All), 1 => Just(Events::None)];
    let opens_at = prop_oneof![9 => Just(0), 1 => START_MS..START_MS + 100];
    let closes_in = weighted(0.1, 200_u64..2_000);
    let retain_ms = prop_oneof![1 => Just(0), 3 => 1_u64..300, 3 => Just(86_400_000)];
    let lives = prop_oneof![1 => (1_u64..20, 0_u64..20), 4 => (20_u64..200, 0_u64..200)];
    let limit = prop_oneof![2 => Just(0_u32), 1 => 1_u32..4, 1 => 4_u32..12];
    (limit, lives, opens_at, closes_in, retain_ms, events).prop_map(
        |(limit, (hold_ms, more_ms), opens_at, closes_in, retain_ms, events)| Settings {
            limit,
            hold_ms,
            maxhold_ms: hold_ms + more_ms,
            opens_at,
            closes_at: closes_in.map_or(0, |ms| START_MS + ms),
            retain_ms,
            backlog: 100,
            events,
        },
    )
}

/// A sale of few ids, or one of many that are all soon due at once (and then without an entry for each).
pub fn profile() -> impl Strategy<Value = Profile> {
    let shard = prop_oneof![
        3 => Just(Shard::default()),
        1 => (0_u32..3).prop_map(|index| Shard { index, count: 3 }),
    ];
    (settings(), shard, any::<bool>()).prop_map(|(settings, shard, many)| {
        let ids = if many && settings.events != Events::All { IDS.len() } else { 6 };
        Profile { settings, shard, ids }
    })
}

/// A sale and what is done to it.
pub fn story(most: usize) -> impl Strategy<Value = (Profile, Vec<Step>)> {
    profile().prop_flat_map(move |profile| {
        let steps = proptest::collection::vec(step(&profile), 1..most);
        (Just(profile), first_stock(), steps).prop_map(|(profile, mut first, steps)| {
            first.extend(steps);
            (profile, first)
        })
    })
}

/// Most sales begin with something to sell.
fn first_stock() -> impl Strategy<Value = Vec<Step>> {
    let stock = |sku, delta| Step {
        command: Command::Stock(Stock { sku, delta, alloc_id: None, limit: None }),
        clock_ms: 0,
        backlog: 0,
        elsewhere: false,
    };
    prop_oneof![
        9 => (1_i64..12, 1_i64..6, 1_i64..30).prop_map(move |(tees, mugs, others)| {
            vec![stock(SKUS[0], tees), stock(SKUS[1], mugs), stock(SKUS[2], others)]
        }),
        1 => Just(Vec::new()),
    ]
}

pub fn step(profile: &Profile) -> BoxedStrategy<Step> {
    let clock_ms = prop_oneof![
        40 => Just(0_i64),
        30 => 1_i64..6,
        12 => 6_i64..40,
        3 => 40_i64..200,
        3 => -100_i64..0,
        1 => 200_i64..2_000,
    ];
    let backlog = prop_oneof![60 => Just(0_u64), 1 => Just(100_u64)];
    (command(profile), clock_ms, backlog, any::<bool>())
        .prop_map(|(command, clock_ms, backlog, elsewhere)| Step { command, clock_ms, backlog, elsewhere })
        .boxed()
}

fn one_of<const N: usize>(names: [&'static [u8]; N]) -> impl Strategy<Value = &'static [u8]> + Clone {
    select(names.to_vec())
}

fn sku() -> impl Strategy<Value = &'static [u8]> + Clone {
    prop_oneof![12 => Just(SKUS[0]), 6 => Just(SKUS[1]), 4 => Just(SKUS[2]), 1 => Just(SKUS[3])]
}

fn text() -> impl Strategy<Value = Option<&'static [u8]>> {
    weighted(0.3, one_of(TEXTS))
}

/// Of a sharded sale mostly buyers who live in the shard.
fn buyer(shard: Shard) -> impl Strategy<Value = &'static [u8]> + Clone {
    let at_home: Vec<&'static [u8]> =
        BUYERS.into_iter().filter(|buyer| home_shard(buyer, shard.count) == shard.index).collect();
    let at_home = if at_home.is_empty() { BUYERS.to_vec() } else { at_home };
    prop_oneof![4 => Just(at_home[0]), 7 => select(at_home), 1 => one_of(BUYERS)]
}

fn items(least: usize) -> impl Strategy<Value = Items<'static>> {
    let qty = prop_oneof![24 => Just(1_u32), 12 => 2_u32..4, 2 => 4_u32..50, 1 => Just(i32::MAX as u32)];
    proptest::collection::vec((sku(), qty), least..4).prop_map(|pairs| {
        let mut items = Items::new();
        for (sku, qty) in pairs {
            if !items.iter().any(|item: &Item<'_>| item.sku == sku) {
                items.push(Item { sku, qty });
            }
        }
        items
    })
}

/// ITEMS where it may be left out.
fn maybe_items() -> impl Strategy<Value = Items<'static>> {
    prop_oneof![2 => Just(Items::new()), 1 => items(1)]
}

pub fn command(profile: &Profile) -> BoxedStrategy<Command<'static>> {
    let (ids, shard, events) = (profile.ids, profile.shard, profile.settings.events);
    let id = any::<Index>().prop_map(move |index| IDS[index.index(ids)]);
    let fresh_or_id = prop_oneof![1 => Just(None), 12 => id.clone().prop_map(Some)];
    let longest_ms = profile.settings.maxhold_ms;
    let life_ms = move || prop_oneof![9 => 1..=longest_ms, 1 => 1_u64..400];
    let reserve = (
        (fresh_or_id.clone(), buyer(shard), items(1), weighted(0.3, life_ms())),
        ((weighted(0.2, Just(())), any::<bool>()), weighted(0.15, id.clone()), weighted(0.05, 0_u64..4_000), text()),
    )
        .prop_map(|((id, buyer, items, ttl_ms), ((up_to, tell_repeated), replace, not_after, meta))| Reserve {
            id,
            buyer,
            ttl_ms,
            up_to: up_to.is_some(),
            tell_repeated,
            replace,
            not_after: not_after.map(|ms| START_MS + ms),
            meta,
            items,
        });
    let order = (fresh_or_id, buyer(shard), items(1), text(), text())
        .prop_map(|(id, buyer, items, reference, meta)| Order { id, buyer, reference, meta, items });
    let confirm = (id.clone(), text(), text(), any::<bool>(), maybe_items())
        .prop_map(|(id, reference, meta, late, items)| Confirm { id, reference, meta, late, items });
    let returned = (id.clone(), one_of([b"r0", b"r1", b"r2"]), maybe_items())
        .prop_map(|(id, return_id, items)| Return { id, return_id, items });
    let delta = prop_oneof![6 => 0_i64..8, 2 => -6_i64..0, 1 => 8_i64..60, 1 => Just(i64::from(i32::MAX))];
    let stock = (sku(), delta, weighted(0.3, one_of([b"a0", b"a1"])), weighted(0.15, 0_u32..4))
        .prop_map(|(sku, delta, alloc_id, limit)| Stock { sku, delta, alloc_id, limit });
    let release = (id.clone(), text()).prop_map(|(id, reason)| Release { id, reason });
    let extend = (id, life_ms()).prop_map(|(id, ms)| Command::Extend { id, ms });
    prop_oneof![
        40 => reserve.prop_map(Command::Reserve),
        10 => order.prop_map(Command::Order),
        14 => confirm.prop_map(Command::Confirm),
        5 => release.prop_map(Command::Release),
        7 => extend,
        8 => returned.prop_map(Command::Return),
        8 => stock.prop_map(Command::Stock),
        3 => alter(events).prop_map(Command::Alter),
        4 => transfer(shard),
        4 => prop_oneof![4 => Just(Command::Pause), 15 => Just(Command::Resume), 1 => Just(Command::Close)],
    ]
    .boxed()
}

/// Changes of settings, the contradicting ones too. RETAIN is only shortened: whether an id is still known that
/// was forgotten before RETAIN was raised is not promised. EVENTS ALL stays with few ids, see [`profile`].
fn alter(events: Events) -> impl Strategy<Value = Change> {
    let events = select(match events {
        Events::All => vec![Events::All, Events::Orders, Events::None],
        _ => vec![Events::Orders, Events::None],
    });
    let times = (weighted(0.05, 0_u64..300), weighted(0.1, 0_u64..3_000));
    let lives = (weighted(0.3, 1_u64..150), weighted(0.3, 1_u64..300));
    (of(0_u32..9), lives, times, weighted(0.05, Just(0_u64)), weighted(0.2, events)).prop_map(
        |(limit, (hold_ms, maxhold_ms), (opens_in, closes_in), retain_ms, events)| Change {
            limit,
            hold_ms,
            maxhold_ms,
            opens_at: opens_in.map(|ms| if ms == 0 { 0 } else { START_MS + ms }),
            closes_at: closes_in.map(|ms| if ms == 0 { 0 } else { START_MS + ms }),
            retain_ms,
            backlog: None,
            events,
        },
    )
}

fn transfer(shard: Shard) -> impl Strategy<Value = Command<'static>> {
    let neighbour = (shard.index + 1) % shard.count;
    let other = prop_oneof![9 => Just(neighbour), 4 => 0..shard.count, 1 => Just(7_u32)];
    let grant = (sku(), prop_oneof![1_u32..6, Just(1_000)], other.clone(), weighted(0.3, 0_u64..4));
    let accept = (sku(), other, 0_u64..30);
    prop_oneof![
        grant.prop_map(|(sku, qty, to, after)| Command::Grant(Grant { sku, qty, to, after })),
        accept.prop_map(|(sku, from, total)| Command::Accept(Accept { sku, from, total })),
    ]
}
