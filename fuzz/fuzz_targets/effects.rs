//! Bytes that are taken for logs of effects leave a sale that adds up: what does not fit is left out.
//!
//! The bytes are logs, each after two bytes that tell its length. All are carried out on one sale that has stock,
//! a hold and an order, as a replica would that once got something else than its primary.

#![no_main]

use flashsale_core::effect::{Effect, EffectLog, Wording, read_log};
use flashsale_core::facts::Facts;
use flashsale_core::{Sale, Settings, Shard};
use libfuzzer_sys::fuzz_target;

fn apply(sale: &mut Sale, bytes: &[u8]) -> Option<&'static str> {
    let (at_ms, effects) = read_log(bytes).ok()?;
    let mut facts = Facts::default();
    for effect in &effects {
        sale.apply(at_ms, effect, &mut facts);
    }
    for entry in &facts.entries {
        let _ = entry.fields(sale);
    }
    for change in &facts.sku_changes {
        let _ = change.sku(sale);
    }
    facts.inconsistent
}

fn lively_sale() -> Sale {
    let mut sale = Sale::new(Settings::default(), Shard { index: 0, count: 3 }, [1, 2]);
    let mut log = EffectLog::default();
    log.start(1_000, Wording::Effects);
    log.push(&Effect::Stock { sku: b"tee", delta: 9, alloc_id: None, limit: None });
    for id in [b"h0", b"h1"] {
        let items = [(0, 2)].into_iter().collect();
        log.push(&Effect::Reserve { id, buyer: b"ada", items, requested: None, deadline: 9_000, meta: None });
    }
    log.push(&Effect::Confirm { id: b"h1", reference: None, meta: None, items: None });
    assert_eq!(apply(&mut sale, log.bytes()), None);
    sale
}

fuzz_target!(|bytes: &[u8]| {
    let mut sale = lively_sale();
    let mut rest = bytes;
    while let [low, high, behind @ ..] = rest {
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(behind.len());
        let (log, after) = behind.split_at(length);
        apply(&mut sale, log);
        assert_eq!(sale.audit(), Vec::<String>::new());
        rest = after;
    }
});
