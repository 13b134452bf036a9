//! Garbage is refused with an error: never a panic, never a state that does not add up.
//!
//! What it may take in memory is asserted where allocations are counted, in `scale.rs`.

use crate::steps::story;
use crate::world::{SEED, World, cases, same, snapshot};
use flashsale_core::Sale;
use flashsale_core::effect::{Effect, EffectLog, Wording, read_log};
use flashsale_core::facts::Facts;
use flashsale_core::protocol::args;
use flashsale_core::snapshot::Loader;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::TestCaseError;

/// A small damage to bytes that were valid.
#[derive(Clone, Debug)]
enum Damage {
    Set(Index, u8),
    Flip(Index, u8),
    Insert(Index, u8),
    Remove(Index),
    CutAt(Index),
    /// A varint that claims very much.
    Huge(Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = any::<Index>;
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, byte)| Damage::Set(at, byte)),
        (at(), 0_u8..8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        (at(), any::<u8>()).prop_map(|(at, byte)| Damage::Insert(at, byte)),
        at().prop_map(Damage::Remove),
        at().prop_map(Damage::CutAt),
        at().prop_map(Damage::Huge),
    ]
}

fn damaged(bytes: &[u8], damages: &[Damage]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for damage in damages {
        if bytes.is_empty() {
            break;
        }
        let place = |at: &Index, bytes: &Vec<u8>| at.index(bytes.len());
        match damage {
            Damage::Set(at, byte) => {
                let at = place(at, &bytes);
                bytes[at] = *byte;
            }
            Damage::Flip(at, bit) => {
                let at = place(at, &bytes);
                bytes[at] ^= 1 << bit;
            }
            Damage::Insert(at, byte) => bytes.insert(place(at, &bytes), *byte),
            Damage::Remove(at) => {
                bytes.remove(place(at, &bytes));
            }
            Damage::CutAt(at) => bytes.truncate(place(at, &bytes)),
            Damage::Huge(at) => {
                let at = place(at, &bytes);
                bytes.splice(at..=at, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]);
            }
        }
    }
    bytes
}

/// Whatever was read is applied; the sale must still add up.
fn apply_whatever_it_says(sale: &mut Sale, log: &[u8]) -> Result<(), TestCaseError> {
    let Ok((at_ms, effects)) = read_log(log) else { return Ok(()) };
    let mut facts = Facts::default();
    for effect in &effects {
        sale.apply(at_ms, effect, &mut facts);
    }
    for entry in &facts.entries {
        let _ = entry.fields(sale);
    }
    same!("AUDIT", sale.audit(), Vec::<String>::new());
    Ok(())
}

/// Loads what may be damaged. A sale that came of it adds up, can be looked at, and can be saved again.
pub fn load_whatever_it_is(chunks: &[Vec<u8>]) -> Result<Option<Sale>, TestCaseError> {
    let Some((header, chunks)) = chunks.split_first() else { return Ok(None) };
    let Ok(mut loader) = Loader::new(header, SEED) else { return Ok(None) };
    for chunk in chunks {
        if loader.push(chunk).is_err() {
            return Ok(None);
        }
    }
    let Ok(sale) = loader.finish() else { return Ok(None) };
    same!("AUDIT", sale.audit(), Vec::<String>::new());
    let again = snapshot(&sale);
    let mut loader = Loader::new(&again[0], SEED).map_err(|error| TestCaseError::fail(error.to_string()))?;
    for chunk in &again[1..] {
        loader.push(chunk).map_err(|error| TestCaseError::fail(error.to_string()))?;
    }
    let now_ms = sale.clock_ms();
    let _ = (sale.view(now_ms), sale.hold_views(0, 1_000, now_ms), sale.sku_views(now_ms).count());
    Ok(Some(sale))
}

const WORDS: [&[u8]; 32] = [
    b"ITEMS",
    b"items",
    b"tee",
    b"1",
    b"2147483647",
    b"2147483648",
    b"0",
    b"-1",
    b"",
    b"\xff\0",
    b"LIMIT",
    b"HOLD",
    b"MAXHOLD",
    b"OPENS",
    b"CLOSES",
    b"RETAIN",
    b"BACKLOG",
    b"EVENTS",
    b"ALL",
    b"SHARD",
    b"ID",
    b"TTL",
    b"UPTO",
    b"REPEATED",
    b"REPLACE",
    b"NOTAFTER",
    b"BLOCK",
    b"META",
    b"REF",
    b"LATE",
    b"COUNT",
    b"HOLDS",
];

fn words() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let known = proptest::sample::select(WORDS.map(<[u8]>::to_vec).to_vec());
    let others = proptest::sample::select(
        [&b"TO"[..], b"AFTER", b"FROM", b"TOTAL", b"STATE", b"held", b"REASON"].map(<[u8]>::to_vec).to_vec(),
    );
    let random = proptest::collection::vec(any::<u8>(), 0..140);
    proptest::collection::vec(prop_oneof![8 => known, 3 => others, 1 => random], 0..16)
}

proptest! {
    #![proptest_config(cases(600))]

    #[test]
    fn random_bytes_are_no_log(bytes in proptest::collection::vec(any::<u8>(), 0..400), story in story(20)) {
        let (profile, steps) = story;
        let mut world = World::new(&profile);
        for step in &steps {
            let _answer = world.run_sale(step);
        }
        apply_whatever_it_says(&mut world.sale, &bytes)?;
        let with_header = [&[1, 0][..], &bytes].concat();
        apply_whatever_it_says(&mut world.sale, &with_header)?;
    }

    #[test]
    fn damaged_logs_break_nothing(
        story in story(30),
        damages in proptest::collection::vec(proptest::collection::vec(damage(), 1..4), 30),
    ) {
        let (profile, steps) = story;
        let mut world = World::new(&profile);
        for (step, damages) in steps.iter().zip(&damages) {
            let _answer = world.run_sale(step);
            // A replica that once got something else goes on with whatever it has.
            apply_whatever_it_says(&mut world.replica, &damaged(world.log.bytes(), damages))?;
            apply_whatever_it_says(&mut world.replica, world.log.bytes())?;
            let (now_ms, mut facts) = (world.replica.clock_ms(), Facts::default());
            for effect in world.replica.effects_in_words(&step.command).iter().flatten() {
                world.replica.apply(now_ms, effect, &mut facts);
            }
            same!("the replica's audit", world.replica.audit(), Vec::<String>::new());
        }
    }

    #[test]
    fn random_bytes_are_no_snapshot(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 0..4)) {
        load_whatever_it_is(&chunks)?;
    }

    #[test]
    fn damaged_snapshots_are_refused_or_add_up(
        story in story(60),
        damages in proptest::collection::vec((any::<Index>(), damage()), 1..4),
        later in story(20),
    ) {
        let (profile, steps) = story;
        let mut world = World::new(&profile);
        for step in &steps {
            let _answer = world.run_sale(step);
        }
        let mut chunks = snapshot(&world.sale);
        for (which, damage) in &damages {
            let which = which.index(chunks.len());
            chunks[which] = damaged(&chunks[which], std::slice::from_ref(damage));
        }
        if let Some(sale) = load_whatever_it_is(&chunks)? {
            // What was taken for a sale can be used as one.
            world.sale = sale;
            for step in &later.1 {
                let _answer = world.run_sale(step);
                same!("what did not fit", world.facts.inconsistent, None::<&str>);
                same!("AUDIT", world.sale.audit(), Vec::<String>::new());
            }
        }
    }

    #[test]
    fn any_words_are_a_command_or_an_error(words in words()) {
        let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        let texts = [
            args::create(&words).map(drop),
            args::alter(&words).map(drop),
            args::stock(&words).map(drop),
            args::reserve(&words).map(drop),
            args::mreserve(&words).map(drop),
            args::order(&words).map(drop),
            args::confirm(&words).map(drop),
            args::release(&words).map(drop),
            args::extend(&words).map(drop),
            args::returned(&words).map(drop),
            args::expire(&words).map(drop),
            args::grant(&words).map(drop),
            args::accept(&words).map(drop),
            args::holds(&words).map(drop),
            args::single_name(&words, "id").map(drop),
            args::nothing(&words),
            args::shard_count(&words).map(drop),
            args::route(&words).map(drop),
        ]
        .map(|parsed| parsed.err().map(|error| error.to_string()));
        for text in texts.into_iter().flatten() {
            prop_assert!(!text.is_empty() && text.len() < 400 && !text.contains(['\r', '\n']), "{text:?}");
        }
    }
}

#[test]
fn a_log_that_names_a_hold_twice_ends_it_once() {
    let mut sale = Sale::new(Default::default(), Default::default(), SEED);
    let mut facts = Facts::default();
    let mut log = EffectLog::default();
    log.start(5, Wording::Effects);
    log.push(&Effect::Stock { sku: b"tee", delta: 1, alloc_id: None, limit: None });
    let items = [(0, 1)].into_iter().collect();
    log.push(&Effect::Reserve { id: b"h", buyer: b"ada", items, requested: None, deadline: 9, meta: None });
    log.push(&Effect::Expire { ids: vec![b"h", b"h"] });
    let (at_ms, effects) = read_log(log.bytes()).expect("a log");
    effects.iter().for_each(|effect| sale.apply(at_ms, effect, &mut facts));
    assert_eq!((facts.inconsistent, sale.audit()), (None, Vec::new()));
}
