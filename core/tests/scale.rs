//! Two million holds: what one takes in memory, and that no command does unbounded work.
//!
//! Work is counted in bytes allocated and in holds ended, never in time, so that a slow machine changes nothing.

mod counting;
mod shop;

use counting::Counted;
use flashsale_core::command::{Command, Confirm, Release, Stock};
use flashsale_core::effect::{Effect, Wording, read_log};
use flashsale_core::outcome::Outcome;
use flashsale_core::snapshot::Loader;
use flashsale_core::{Settings, Shard};
use shop::{Shop, reserve};

#[global_allocator]
static COUNTING: counting::Allocator = counting::Allocator;

const SKU: &[u8] = b"console";

/// A shop with so many units of [`SKU`].
fn selling(stock: u32, settings: Settings) -> Shop {
    let mut shop = Shop::new(settings, Shard::default());
    shop.stock(SKU, stock.into());
    shop
}

impl Shop {
    fn reserve(&mut self, id: &str, buyer: &str) -> Outcome<'static> {
        match self.run(&Command::Reserve(reserve(id.as_bytes(), buyer.as_bytes(), &[(SKU, 1)]))) {
            Outcome::Reserved { .. } => Outcome::Ok,
            Outcome::SoldOut { .. } => Outcome::SoldOut { sku: SKU.into() },
            other => panic!("{other:?}"),
        }
    }

    /// How many holds the last command has expired.
    fn expired(&self) -> usize {
        let (_, effects) = read_log(self.log.bytes()).expect("a log");
        let expired = |effect: &Effect<'_>| if let Effect::Expire { ids } = effect { ids.len() } else { 0 };
        effects.iter().map(expired).sum()
    }
}

/// 24 bytes, as most made-up ids have.
fn id(number: u32) -> String {
    format!("hold-{number:019}")
}

fn buyer(number: u32) -> String {
    format!("buyer-{number:018}")
}

/// The longest step of a table that grows: less than what a server copies in a tenth of a millisecond.
const MOST_BYTES_IN_ONE_COMMAND: usize = 1024 * 1024;

#[test]
fn a_live_hold_takes_at_most_100_bytes_and_no_command_grows_much() {
    const HOLDS: u32 = 2_000_000;
    let limited = Settings { limit: 4, ..Settings::default() };
    let before = counting::live();
    let mut shop = selling(HOLDS, limited);
    let mut longest = Counted::default();
    for number in 0..HOLDS {
        let (id, buyer) = (id(number), buyer(if number < HOLDS / 2 { number } else { number - HOLDS / 2 }));
        let counted = counting::during(|| assert_eq!(shop.reserve(&id, &buyer), Outcome::Ok));
        longest = longest.max(counted);
        // A million holds in the five minutes that each of them lives.
        shop.now_ms += u64::from(number % 10 < 1);
        if number + 1 == HOLDS / 2 {
            let live = counting::live() - before;
            let (bytes, told) = (live / (HOLDS as usize / 2), shop.sale.heap_bytes(0) / (HOLDS as usize / 2));
            println!("{bytes} bytes a live hold with the allocator's slack, {told} by the sale's own count");
            assert!(bytes <= 100, "{bytes} bytes a hold");
            assert_within_a_tenth(told, bytes);
        }
    }
    println!("one command allocated at most {longest:?}");
    assert!(longest.bytes <= MOST_BYTES_IN_ONE_COMMAND, "{longest:?}");
    let (bytes, told) = ((counting::live() - before) / HOLDS as usize, shop.sale.heap_bytes(0) / HOLDS as usize);
    println!("{bytes} bytes a hold where each buyer has two, {told} by the sale's own count");
    assert_within_a_tenth(told, bytes);
}

fn assert_within_a_tenth(told: usize, counted: usize) {
    assert!(told * 10 >= counted * 9 && told * 9 <= counted * 10, "{told} were told, {counted} counted");
}

#[test]
fn a_million_holds_due_at_once_are_ended_a_few_at_a_time() {
    const HOLDS: u32 = 1_000_000;
    /// A command's own needs, and a few more.
    const MOST_ENDED: usize = 32;
    const MOST_BYTES: usize = 64 * 1024;
    let mut shop = selling(HOLDS, Settings { hold_ms: 300_000, ..Settings::default() });
    for number in 0..HOLDS {
        shop.reserve(&id(number), &buyer(number));
    }
    shop.now_ms += 300_000;
    let sku = |shop: &Shop| shop.sale.sku_views(shop.now_ms).next().map(|sku| (sku.available, sku.held));
    assert_eq!(sku(&shop), Some((HOLDS.into(), 0)), "all are seen as expired at once");
    for number in 0..1_000 {
        let (fresh_id, known_id, buyer) = (format!("new-{number}"), id(HOLDS / 2 + number), buyer(HOLDS + number));
        let confirm =
            Confirm { id: known_id.as_bytes(), reference: None, meta: None, late: false, items: Default::default() };
        let release = Release { id: known_id.as_bytes(), reason: None };
        let withdraw = Stock { sku: SKU, delta: -1, alloc_id: None, limit: None };
        let extend = Command::Extend { id: known_id.as_bytes(), ms: 1_000 };
        let steps = [Command::Confirm(confirm), Command::Release(release), extend, Command::Stock(withdraw)];
        let counted = counting::during(|| assert_eq!(shop.reserve(&fresh_id, &buyer), Outcome::Ok));
        assert!(shop.expired() <= MOST_ENDED && counted.bytes <= MOST_BYTES, "{} {counted:?}", shop.expired());
        for step in &steps {
            let counted = counting::during(|| drop(shop.run(step)));
            let ended = shop.expired();
            assert!(ended <= MOST_ENDED && counted.bytes <= MOST_BYTES, "{step:?}: {ended} {counted:?}");
        }
    }
    let everything = reserve(b"all-of-it", b"somebody", &[(SKU, HOLDS / 2)]);
    let refused = shop.run(&Command::Reserve(everything));
    assert_eq!(refused, Outcome::AllHeld { sku: SKU.into(), next_ms: shop.now_ms }, "come again at once");
    assert!(shop.expired() <= 20 * MOST_ENDED, "{}", shop.expired());
    let mut swept = 0;
    loop {
        let due = shop.sale.due(shop.now_ms, 100);
        if due.is_empty() {
            break;
        }
        swept += due.len();
        shop.log.start(shop.now_ms, Wording::Effects);
        shop.facts.clear();
        let counted = counting::during(|| shop.sale.expire(&due, shop.now_ms, &mut shop.log, &mut shop.facts));
        assert!(counted.bytes <= MOST_BYTES, "{counted:?}");
    }
    println!("{swept} were left to the timer");
    assert_eq!(shop.sale.audit(), Vec::<String>::new());
}

#[test]
fn a_crowd_that_is_refused_takes_no_memory() {
    let mut shop = selling(1, Settings::default());
    shop.reserve("the-one-hold", "the-one-buyer");
    shop.run(&Command::Confirm(Confirm {
        id: b"the-one-hold",
        reference: None,
        meta: None,
        late: false,
        items: Default::default(),
    }));
    shop.reserve("warm-up", "somebody");
    let before = counting::live();
    for number in 0..100_000 {
        let refused = shop.reserve(&id(number), &buyer(number));
        assert_eq!(refused, Outcome::SoldOut { sku: SKU.into() });
    }
    assert_eq!(counting::live(), before);
}

#[test]
fn ended_and_released_ids_are_capped_in_number() {
    const ROUNDS: u32 = 150_000;
    const MOST_REMEMBERED: u64 = 65_536;
    let mut shop = selling(10, Settings::default());
    for number in 0..ROUNDS {
        shop.reserve(&id(number), &buyer(number));
        shop.run(&Command::Release(Release { id: id(number).as_bytes(), reason: None }));
    }
    let remembered = shop.sale.view(shop.now_ms).remembered;
    assert!((MOST_REMEMBERED..=MOST_REMEMBERED + 1).contains(&remembered), "{remembered}");
    for number in 0..ROUNDS {
        shop.run(&Command::Release(Release { id: format!("never-seen-{number}").as_bytes(), reason: None }));
    }
    let remembered = shop.sale.view(shop.now_ms).remembered;
    assert!(remembered <= 2 * MOST_REMEMBERED + 1, "{remembered}");
    assert_eq!(shop.sale.audit(), Vec::<String>::new());
    assert_eq!(shop.sale.hold_view(b"never-seen-149999", shop.now_ms).map(|hold| hold.state), Some("released"));
    assert_eq!(shop.sale.hold_view(b"never-seen-0", shop.now_ms), None);
}

#[test]
fn garbage_takes_no_more_memory_than_a_multiple_of_its_bytes() {
    const MULTIPLE: usize = 16;
    const BASE: usize = 64 * 1024;
    let logs: [Vec<u8>; 4] = [
        [vec![1, 0], vec![12; 1_000_000]].concat(),
        [vec![1, 0, 8, 0xff, 0xff, 0xff, 0xff, 0x7f], [1, b'h'].repeat(500_000)].concat(),
        [vec![1, 0, 8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], vec![0; 100]].concat(),
        [vec![1, 0], [7, 2, b'h', b'i'].repeat(250_000)].concat(),
    ];
    for log in logs {
        let counted = counting::during(|| drop(read_log(&log)));
        // Of a log the effects are listed: twice as much, while the list grows.
        let allowed = 2 * MULTIPLE * log.len() + BASE;
        assert!(counted.peak <= allowed, "{counted:?} for {} bytes that begin {:?}", log.len(), &log[..8]);
    }
    for header in [many_skus(60_000), many_skus(10)] {
        let counted = counting::during(|| drop(Loader::new(&header, [1, 2])));
        println!("{counted:?} for a header of {} bytes", header.len());
        assert!(counted.largest <= MULTIPLE * header.len() + BASE, "{counted:?} for {} bytes", header.len());
    }
}

#[test]
fn many_small_holds_take_no_more_memory_than_a_multiple_of_their_bytes() {
    const HOLDS: u32 = 300_000;
    const MULTIPLE: usize = 16;
    const BASE: usize = 64 * 1024;
    for reserved in [true, false] {
        let mut shop = selling(HOLDS, Settings::default());
        for number in 0..HOLDS.min(if reserved { HOLDS } else { 65_536 }) {
            let id = format!("{number:x}");
            match reserved {
                true => shop.reserve(&id, "b"),
                false => shop.run(&Command::Release(Release { id: id.as_bytes(), reason: None })),
            };
        }
        let mut chunks = Vec::new();
        shop.sale.snapshot(|chunk| chunks.push(chunk.to_vec()));
        drop(shop);
        let bytes: usize = chunks.iter().map(Vec::len).sum();
        let counted = counting::during(|| {
            let mut loader = Loader::new(&chunks[0], [1, 2]).expect("our own header");
            chunks[1..].iter().for_each(|chunk| loader.push(chunk).expect("our own chunk"));
            drop(loader.finish().expect("a whole sale"));
        });
        println!("{counted:?} for {bytes} bytes");
        assert!(counted.peak <= MULTIPLE * bytes + BASE, "{counted:?} for {bytes} bytes");
    }
}

/// A header of as many SKUs as there is room for in few bytes.
fn many_skus(count: u32) -> Vec<u8> {
    let mut shop = selling(0, Settings::default());
    for number in 1..count {
        let name = number.to_le_bytes();
        let short = &name[..name.iter().rposition(|&byte| byte != 0).map_or(1, |last| last + 1)];
        shop.stock(short, 0);
    }
    let mut header = Vec::new();
    shop.sale.digest_parts(|part| header.extend_from_slice(part));
    header
}
