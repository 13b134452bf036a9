//! Rules that were once broken, each with the smallest story that shows it.

mod shop;

use flashsale_core::command::{Accept, Change, Command, Confirm, Item, Items, Order, Release, Reserve, Return};
use flashsale_core::effect::{Effect, Wording, read_log};
use flashsale_core::outcome::{Field, Misuse, Outcome};
use flashsale_core::snapshot::Loader;
use flashsale_core::{Events, Sale, Settings, Shard};
use shop::{Shop, reserve};

impl Shop {
    fn reserve<'a>(&mut self, id: &'a [u8], items: &[(&'a [u8], u32)]) -> Outcome<'a> {
        self.run(&Command::Reserve(reserve(id, b"ada", items)))
    }

    fn order<'a>(&mut self, id: &'a [u8], items: &[(&'a [u8], u32)]) -> Outcome<'a> {
        let items = list(items);
        self.run(&Command::Order(Order { id: Some(id), buyer: b"ada", reference: None, meta: None, items }))
    }

    fn take_back<'a>(&mut self, id: &'a [u8], return_id: &'a [u8], items: &[(&'a [u8], u32)]) -> Outcome<'a> {
        self.run(&Command::Return(Return { id, return_id, items: list(items) }))
    }
}

fn list<'a>(items: &[(&'a [u8], u32)]) -> Items<'a> {
    items.iter().map(|&(sku, qty)| Item { sku, qty }).collect()
}

fn confirm<'a>(id: &'a [u8], late: bool, items: &[(&'a [u8], u32)]) -> Command<'a> {
    Command::Confirm(Confirm { id, reference: None, meta: None, late, items: list(items) })
}

fn confirmed(id: &[u8], order_no: u64) -> Outcome<'_> {
    Outcome::Confirmed { id: id.into(), order_no }
}

#[test]
fn a_retry_finds_its_hold_though_maxhold_was_lowered() {
    let mut shop = Shop::new(Settings::default(), Shard::default());
    shop.stock(b"tee", 1);
    let request = Command::Reserve(Reserve { ttl_ms: Some(200_000), ..reserve(b"h", b"ada", &[(b"tee", 1)]) });
    let first = shop.run(&request);
    shop.run(&Command::Alter(Change { hold_ms: Some(1_000), maxhold_ms: Some(1_000), ..Change::default() }));
    assert_eq!(shop.run(&request), first);
}

#[test]
fn units_of_another_shard_are_not_withdrawn_as_if_they_had_been_stocked_here() {
    let mut shop = Shop::new(Settings::default(), Shard { index: 0, count: 2 });
    shop.run(&Command::Accept(Accept { sku: b"tee", from: 1, total: 5 }));
    shop.stock(b"tee", 2);
    assert_eq!(shop.stock(b"tee", -3), Outcome::BelowHeld { available: 2 });
    assert_eq!(shop.stock(b"tee", -2), Outcome::Stocked { available: 5, held: 0, sold: 0 });
}

#[test]
fn a_late_confirm_of_everything_in_another_order_is_no_part() {
    let mut shop = Shop::new(Settings::default(), Shard::default());
    shop.stock(b"tee", 1);
    shop.stock(b"mug", 1);
    shop.reserve(b"h", &[(b"tee", 1), (b"mug", 1)]);
    shop.now_ms += 400_000;
    assert_eq!(shop.run(&confirm(b"h", true, &[(b"mug", 1), (b"tee", 1)])), confirmed(b"h", 1));
    assert_eq!(shop.run(&confirm(b"h", false, &[])), confirmed(b"h", 1));
}

#[test]
fn a_return_repeated_as_all_that_is_left_must_have_been_that() {
    let mut shop = Shop::new(Settings::default(), Shard::default());
    shop.stock(b"tee", 3);
    shop.order(b"o", &[(b"tee", 3)]);
    assert_eq!(shop.take_back(b"o", b"r1", &[(b"tee", 1)]), Outcome::Returned);
    assert_eq!(shop.take_back(b"o", b"r1", &[]), Outcome::Mismatch(Field::Items));
    assert_eq!(shop.take_back(b"o", b"r2", &[]), Outcome::Returned);
    assert_eq!(shop.take_back(b"o", b"r2", &[]), Outcome::Returned);
    assert_eq!(shop.take_back(b"o", b"r2", &[(b"tee", 2)]), Outcome::Returned);
}

#[test]
fn an_expired_hold_is_remembered_from_its_deadline_on_not_from_its_sweep() {
    let settings = Settings { hold_ms: 100, retain_ms: 50, ..Settings::default() };
    let mut shop = Shop::new(settings, Shard::default());
    shop.stock(b"tee", 1);
    shop.reserve(b"h", &[(b"tee", 1)]);
    shop.now_ms += 149;
    assert_eq!(shop.sale.hold_view(b"h", shop.now_ms).map(|hold| hold.state), Some("expired"));
    assert_eq!(shop.sale.hold_view(b"h", shop.now_ms + 1), None, "seen before a sweep");
    assert_eq!(shop.run(&confirm(b"h", false, &[])), Outcome::Expired);
    assert_eq!(shop.sale.hold_view(b"h", shop.now_ms + 1), None, "and after it");
}

#[test]
fn an_entry_tells_of_the_hold_that_ended_not_of_the_next_one_in_its_place() {
    let settings = Settings { hold_ms: 100, retain_ms: 0, events: Events::All, ..Settings::default() };
    let mut shop = Shop::new(settings, Shard::default());
    shop.stock(b"tee", 1);
    shop.reserve(b"h", &[(b"tee", 1)]);
    shop.now_ms += 100;
    let other_buyer = reserve(b"h", b"bob", &[(b"tee", 1)]);
    shop.run(&Command::Reserve(other_buyer));
    let buyers = shop.facts.entries.iter().map(|entry| entry.fields(&shop.sale)[3].1.clone());
    assert_eq!(buyers.collect::<Vec<_>>(), [b"ada", b"bob"]);
}

#[test]
fn holds_may_be_forgotten_in_any_order() {
    let mut shop = Shop::new(Settings { retain_ms: 0, ..Settings::default() }, Shard::default());
    const HOLDS: u32 = 20_000;
    shop.stock(b"tee", i64::from(HOLDS));
    let id = |number: u32| format!("a-hold-of-a-certain-length-{number}").into_bytes();
    for number in 0..HOLDS {
        shop.reserve(&id(number), &[(b"tee", 1)]);
    }
    // An order that jumps about, so that chunks of the arena become sparse in every way.
    for step in 0..HOLDS / 10 * 9 {
        let number = step.wrapping_mul(7_919) % HOLDS;
        shop.run(&Command::Release(Release { id: &id(number), reason: None }));
    }
    for step in HOLDS / 10 * 9..HOLDS {
        let number = step.wrapping_mul(7_919) % HOLDS;
        assert!(shop.sale.hold_view(&id(number), shop.now_ms).is_some());
    }
    assert_eq!(shop.sale.audit(), Vec::<String>::new());
}

#[test]
fn more_can_not_be_accepted_than_a_sku_may_have() {
    let mut shop = Shop::new(Settings::default(), Shard { index: 0, count: 16_384 });
    let most = flashsale_core::bounds::MAX_STOCKED;
    shop.run(&Command::Accept(Accept { sku: b"tee", from: 1, total: most }));
    let more = Command::Accept(Accept { sku: b"tee", from: 2, total: most });
    assert_eq!(shop.try_run(&more), Err(Misuse::TooMuchStock { stocked: most }));
}

#[test]
fn an_edition_stays_with_its_sale_and_changes_no_snapshot_without_one() {
    let chunks = |sale: &Sale| {
        let mut chunks: Vec<Vec<u8>> = Vec::new();
        sale.snapshot(|chunk| chunks.push(chunk.to_vec()));
        chunks
    };
    let mut shop = Shop::new(Settings::default(), Shard { index: 0, count: 2 });
    shop.stock(b"tee", 5);
    assert_eq!((shop.sale.edition(), chunks(&shop.sale)[0][0]), (0, 1), "older modules read it");

    shop.log.start(shop.now_ms, Wording::Effects);
    shop.log.push(&Effect::Edition(1_795_100_000_000));
    let log = shop.log.bytes().to_vec();
    let (at_ms, effects) = read_log(&log).expect("our own log");
    effects.iter().for_each(|effect| shop.sale.apply(at_ms, effect, &mut shop.facts));
    assert_eq!(shop.sale.edition(), 1_795_100_000_000);

    let written = chunks(&shop.sale);
    let mut loader = Loader::new(&written[0], [3, 4]).expect("our own header");
    written[1..].iter().for_each(|chunk| loader.push(chunk).expect("our own chunk"));
    let loaded = loader.finish().expect("a whole snapshot");
    assert_eq!((loaded.edition(), chunks(&loaded)), (1_795_100_000_000, written));
}
