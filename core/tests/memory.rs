//! What a sale tells of its memory is what an allocator has really given it, and moving it changes nothing else.

#[expect(dead_code, reason = "peaks and single allocations are for other tests")]
mod counting;
mod shop;

use flashsale_core::command::{Command, Confirm, Item, Release, Reserve, Return};
use flashsale_core::effect::EffectLog;
use flashsale_core::facts::Facts;
use flashsale_core::memory::Mover;
use flashsale_core::{Sale, Settings, Shard};
use shop::{Shop, reserve};

#[global_allocator]
static COUNTING: counting::Allocator = counting::Allocator;

/// Moves every buffer, and always has time, or never.
struct Movers {
    has_time: bool,
}

impl Mover for Movers {
    fn relocate<T>(&mut self, mut buffer: Vec<T>) -> Vec<T> {
        let mut moved = Vec::with_capacity(buffer.capacity());
        moved.append(&mut buffer);
        moved
    }

    fn is_time_up(&mut self) -> bool {
        !self.has_time
    }
}

/// A sale and the seed of its pseudo-random story.
struct Story {
    shop: Shop,
    draw: u64,
}

impl Story {
    fn new(skus: u32) -> Self {
        let mut shop = Shop::new(Settings::default(), Shard::default());
        for sku in 0..skus {
            shop.stock(&sku_name(sku), 10_000_000);
        }
        Self { shop, draw: 9 }
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.draw = self.draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.draw >> 33) % below
    }

    fn reserve(&mut self, id: &str, buyer: &str, ttl_ms: u64, items: &[(u32, u32)], meta: Option<&[u8]>) {
        let names: Vec<(Vec<u8>, u32)> = items.iter().map(|&(sku, qty)| (sku_name(sku), qty)).collect();
        let items: Vec<_> = names.iter().map(|(sku, qty)| (&sku[..], *qty)).collect();
        let plain = reserve(id.as_bytes(), buyer.as_bytes(), &items);
        self.shop.run(&Command::Reserve(Reserve { ttl_ms: Some(ttl_ms), meta, ..plain }));
    }

    #[track_caller]
    fn assert_told(&self, before: usize, what: &str) {
        let real = counting::live().wrapping_sub(before);
        for samples in [0, 5] {
            let told = self.shop.sale.heap_bytes(samples);
            let ratio = told as f64 / real as f64;
            assert!(
                (0.9..1.1).contains(&ratio),
                "{what}: {told} told with {samples} samples, {real} taken: {ratio:.3}"
            );
        }
    }
}

fn sku_name(sku: u32) -> Vec<u8> {
    format!("article-{sku:03}").into_bytes()
}

/// Makes a sale by a story, and compares what it tells with what was allocated for it.
fn check(what: &str, skus: u32, tell: impl FnOnce(&mut Story)) {
    let before = counting::live();
    let mut story = Story::new(skus);
    tell(&mut story);
    // The buffers of the story are no part of the sale.
    (story.shop.log, story.shop.facts) = (EffectLog::default(), Facts::default());
    story.assert_told(before, what);
    assert!(story.shop.sale.audit().is_empty());
}

#[test]
fn one_hold_each() {
    check("one hold each", 1, |story| {
        for number in 0..50_000 {
            story.shop.now_ms += number % 3;
            story.reserve(&format!("hold-{number:019}"), &format!("buyer-{number:018}"), 300_000, &[(0, 1)], None);
        }
    });
}

#[test]
fn a_small_sale() {
    check("a small sale", 3, |story| {
        for number in 0..300 {
            story.reserve(&format!("hold-{number}"), &format!("buyer-{number}"), 300_000, &[(0, 1)], Some(b"gift"));
        }
    });
}

#[test]
fn carts_of_several_skus_by_buyers_with_several_holds() {
    check("carts", 40, |story| {
        for number in 0..12_000_u32 {
            story.shop.now_ms += story.draw(3);
            let ttl_ms = 100_000 + story.draw(500_000);
            let (sku, buyer) = (story.draw(39) as u32, story.draw(4_000));
            let items = [(sku, 1), (sku + 1, 2)];
            story.reserve(&format!("h{number}"), &format!("buyer-{buyer:012}"), ttl_ms, &items, None);
        }
    });
}

#[test]
fn orders_refunds_and_ended_holds() {
    check("orders", 2, |story| {
        for number in 0..12_000_u32 {
            let id = format!("hold-{number:019}");
            story.shop.now_ms += 2;
            story.reserve(&id, &format!("buyer-{number:018}"), 300_000, &[(0, 2), (1, 1)], None);
            let id = id.as_bytes();
            match story.draw(4) {
                0 => {}
                1 => drop(story.shop.run(&Command::Release(Release { id, reason: None }))),
                _ => {
                    let confirm = Confirm { id, reference: Some(b"cart-0123456789"), ..confirm_all(id) };
                    story.shop.run(&Command::Confirm(confirm));
                    if story.draw(3) == 0 {
                        let items = [Item { sku: b"article-000", qty: 1 }].into_iter().collect();
                        story.shop.run(&Command::Return(Return { id, return_id: b"return-1", items }));
                    }
                }
            }
        }
    });
}

fn confirm_all(id: &[u8]) -> Confirm<'_> {
    Confirm { id, reference: None, late: false, items: Default::default(), meta: None }
}

#[test]
fn moving_changes_nothing_but_places() {
    let mut story = Story::new(10);
    let mut cursor = None;
    let mut rounds = 0;
    for number in 0..10_000_u32 {
        story.shop.now_ms += 3;
        let (sku, buyer) = (story.draw(10) as u32, story.draw(6_000));
        story.reserve(&format!("h{number}"), &format!("b{buyer}"), 20_000, &[(sku, 1)], Some(b"note"));
        if story.draw(3) == 0 {
            let id = format!("h{}", story.draw(u64::from(number) + 1));
            story.shop.run(&Command::Release(Release { id: id.as_bytes(), reason: None }));
        }
        if number % 7 == 0 {
            let before = parts(&story.shop.sale);
            cursor = story.shop.sale.defragment(cursor.unwrap_or(0), &mut Movers { has_time: false });
            rounds += u32::from(cursor.is_none());
            if number % 700 == 0 {
                assert_eq!(parts(&story.shop.sale), before, "a step has moved more than places");
            }
        }
    }
    assert!(rounds > 3, "{rounds} rounds were finished");
    assert!(story.shop.sale.audit().is_empty());
    let before = parts(&story.shop.sale);
    assert_eq!(story.shop.sale.defragment(0, &mut Movers { has_time: true }), None, "all in one go");
    assert_eq!(parts(&story.shop.sale), before);
    assert_eq!(story.shop.sale.defragment(u64::MAX, &mut Movers { has_time: true }), None, "a cursor of long ago");
}

/// The digest's parts, in an order that does not depend on places.
fn parts(sale: &Sale) -> Vec<Vec<u8>> {
    let mut parts = Vec::new();
    sale.digest_parts(|part| parts.push(part.to_vec()));
    parts.sort();
    parts
}
