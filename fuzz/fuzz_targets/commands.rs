//! Any sequence of commands leaves a sale that adds up, answers as the naive model does, and has the same state on
//! a replica that is sent the effects.

#![no_main]

use arbitrary::{Arbitrary, Result, Unstructured};
use flashsale_core::command::{
    Accept, Change, Command, Confirm, Grant, Item, Items, Order, Release, Reserve, Return, Stock,
};
use flashsale_core::effect::{EffectLog, Wording, read_log};
use flashsale_core::facts::Facts;
use flashsale_core::model::Model;
use flashsale_core::{Events, Sale, Settings, Shard, Situation};
use libfuzzer_sys::fuzz_target;

/// When every sale begins, unix ms.
const START_MS: u64 = 1_700_000_000_000;
const IDS: [&[u8]; 8] = [b"h0", b"h1", b"h2", b"h3", b"h4", b"h5", b"h6", b"\0\xff"];
const BUYERS: [&[u8]; 4] = [b"ada", b"bob", b"cy{x}", b"dee"];
const SKUS: [&[u8]; 4] = [b"tee", b"mug", b"\0\xff", b"cap"];
const TEXTS: [&[u8]; 3] = [b"", b"pay-1", b"\r\n\0"];
const SHARD: Shard = Shard { index: 0, count: 3 };

type Bytes<'b> = Unstructured<'b>;

/// A command within the parser's bounds, and what it depends on.
#[derive(Debug)]
struct Step {
    command: Command<'static>,
    clock_ms: u64,
    backlog: u64,
    elsewhere: bool,
}

impl<'b> Arbitrary<'b> for Step {
    fn arbitrary(from: &mut Bytes<'b>) -> Result<Self> {
        Ok(Self {
            command: command(from)?,
            clock_ms: if from.ratio(1, 3)? { from.int_in_range(0..=250)? } else { 0 },
            backlog: if from.ratio(1, 60)? { 100 } else { 0 },
            elsewhere: from.arbitrary()?,
        })
    }
}

fn one_of(from: &mut Bytes<'_>, names: &[&'static [u8]]) -> Result<&'static [u8]> {
    from.choose(names).copied()
}

fn maybe<T>(from: &mut Bytes<'_>, make: impl FnOnce(&mut Bytes<'_>) -> Result<T>) -> Result<Option<T>> {
    if from.ratio(1, 4)? { make(from).map(Some) } else { Ok(None) }
}

fn text(from: &mut Bytes<'_>) -> Result<Option<&'static [u8]>> {
    maybe(from, |from| one_of(from, &TEXTS))
}

fn life_ms(from: &mut Bytes<'_>) -> Result<u64> {
    from.int_in_range(1..=400)
}

/// Each SKU once, as the parser makes them.
fn items(from: &mut Bytes<'_>, least: usize) -> Result<Items<'static>> {
    let mut items = Items::new();
    for _ in 0..from.int_in_range(least..=3)? {
        let sku = one_of(from, &SKUS)?;
        let qty = if from.ratio(1, 40)? { i32::MAX as u32 } else { from.int_in_range(1..=4)? };
        if !items.iter().any(|item| item.sku == sku) {
            items.push(Item { sku, qty });
        }
    }
    Ok(items)
}

fn fresh_or_id(from: &mut Bytes<'_>) -> Result<Option<&'static [u8]>> {
    if from.ratio(1, 12)? { Ok(None) } else { one_of(from, &IDS).map(Some) }
}

fn command(from: &mut Bytes<'_>) -> Result<Command<'static>> {
    Ok(match from.int_in_range(0..=15)? {
        0..=3 => Command::Reserve(Reserve {
            id: fresh_or_id(from)?,
            buyer: one_of(from, &BUYERS)?,
            ttl_ms: maybe(from, life_ms)?,
            up_to: from.ratio(1, 5)?,
            tell_repeated: from.ratio(1, 5)?,
            replace: maybe(from, |from| one_of(from, &IDS))?,
            not_after: maybe(from, |from| Ok(START_MS + from.int_in_range(0..=4_000)?))?,
            meta: text(from)?,
            items: items(from, 1)?,
        }),
        4 => Command::Order(Order {
            id: fresh_or_id(from)?,
            buyer: one_of(from, &BUYERS)?,
            reference: text(from)?,
            meta: text(from)?,
            items: items(from, 1)?,
        }),
        5 | 6 => Command::Confirm(Confirm {
            id: one_of(from, &IDS)?,
            reference: text(from)?,
            meta: text(from)?,
            late: from.arbitrary()?,
            items: items(from, 0)?,
        }),
        7 => Command::Release(Release { id: one_of(from, &IDS)?, reason: text(from)? }),
        8 => Command::Extend { id: one_of(from, &IDS)?, ms: life_ms(from)? },
        9 => Command::Return(Return {
            id: one_of(from, &IDS)?,
            return_id: one_of(from, &[b"r0", b"r1"])?,
            items: items(from, 0)?,
        }),
        10 | 11 => Command::Stock(Stock {
            sku: one_of(from, &SKUS)?,
            delta: if from.ratio(1, 20)? { i64::from(i32::MAX) } else { from.int_in_range(-6..=12)? },
            alloc_id: maybe(from, |from| one_of(from, &[b"a0", b"a1"]))?,
            limit: maybe(from, |from| from.int_in_range(0..=4))?,
        }),
        12 => Command::Alter(change(from)?),
        13 => Command::Grant(Grant {
            sku: one_of(from, &SKUS)?,
            qty: from.int_in_range(1..=6)?,
            to: from.int_in_range(0..=3)?,
            after: maybe(from, |from| from.int_in_range(0..=4))?,
        }),
        14 => Command::Accept(Accept {
            sku: one_of(from, &SKUS)?,
            from: from.int_in_range(0..=3)?,
            total: from.int_in_range(0..=30)?,
        }),
        _ => from.choose(&[Command::Pause, Command::Resume, Command::Resume, Command::Close])?.clone(),
    })
}

/// RETAIN stays: whether an id is still known that was forgotten before RETAIN was raised is not promised.
fn change(from: &mut Bytes<'_>) -> Result<Change> {
    let at = |from: &mut Bytes<'_>| Ok(START_MS + from.int_in_range(0..=3_000_u64)?);
    Ok(Change {
        limit: maybe(from, |from| from.int_in_range(0..=8))?,
        hold_ms: maybe(from, life_ms)?,
        maxhold_ms: maybe(from, life_ms)?,
        opens_at: maybe(from, at)?,
        closes_at: maybe(from, at)?,
        events: maybe(from, |from| from.choose(&[Events::Orders, Events::All, Events::None]).copied())?,
        ..Change::default()
    })
}

fn digest(sale: &Sale) -> Vec<Vec<u8>> {
    let mut parts = Vec::new();
    sale.digest_parts(|part| parts.push(part.to_vec()));
    parts.sort();
    parts
}

fuzz_target!(|steps: Vec<Step>| {
    let settings = Settings { hold_ms: 100, maxhold_ms: 300, retain_ms: 500, backlog: 100, ..Settings::default() };
    let mut sale = Sale::new(settings, SHARD, [1, 2]);
    let mut replica = Sale::new(settings, SHARD, [3, 4]);
    let mut model = Model::new(settings, SHARD);
    let (mut log, mut facts) = (EffectLog::default(), Facts::default());
    let mut now_ms = START_MS;
    for (number, step) in steps.iter().enumerate() {
        now_ms += step.clock_ms;
        let fresh_id = format!("00000000-{number}");
        let situation =
            Situation { now_ms, fresh_id: fresh_id.as_bytes(), backlog: step.backlog, elsewhere: step.elsewhere };
        log.start(sale.now(now_ms), Wording::Effects);
        facts.clear();
        let outcome = sale.run(&step.command, &situation, &mut log, &mut facts);
        assert_eq!(outcome, model.run(&step.command, &situation), "{:?}", step.command);
        assert_eq!(facts.inconsistent, None, "{:?} was decided but not applied", step.command);

        let (at_ms, effects) = read_log(log.bytes()).expect("a log that was just written");
        let mut told = Facts::default();
        effects.iter().for_each(|effect| replica.apply(at_ms, effect, &mut told));
        assert_eq!(told.inconsistent, None, "{:?} did not fit the replica", step.command);
    }
    assert_eq!(sale.audit(), Vec::<String>::new());
    assert_eq!(replica.audit(), Vec::<String>::new());
    assert_eq!(digest(&replica), digest(&sale));
});
