use std::sync::atomic::AtomicUsize;

use async_trait::async_trait;

use super::*;
use crate::funnel::visit::tests::{request, visit};
use crate::http::problem::Problem;
use crate::sale::SaleConfig;
use crate::store::{Called, Command, HoldView, SaleView, SkuView};

/// A store that shows one sale and counts how often it is asked.
#[derive(Default)]
struct Shelf {
    asked: AtomicUsize,
    away: AtomicBool,
    sold_out: AtomicBool,
}

#[async_trait]
impl SaleStore for Shelf {
    async fn call(&self, _: &[u8], _: &Command) -> Result<Called, StoreError> {
        Err(StoreError::NoSale)
    }

    async fn hold(&self, _: &[u8], _: &[u8], _: Option<&[u8]>) -> Result<Option<HoldView>, StoreError> {
        Ok(None)
    }

    async fn sale(&self, key: &[u8]) -> Result<(SaleView, i64), StoreError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        tokio::task::yield_now().await;
        if self.away.load(Ordering::Relaxed) {
            return Err(StoreError::Down("away".to_owned()));
        }
        if key != b"sale:1" {
            return Err(StoreError::NoSale);
        }
        let sold_out = self.sold_out.load(Ordering::Relaxed);
        let counters = SkuView {
            stocked: 5,
            available: if sold_out { 0 } else { 5 },
            sold: if sold_out { 5 } else { 0 },
            ..SkuView::default()
        };
        let sale = SaleView {
            state: "open".to_owned(),
            skus: vec![(Bytes::from_static(b"S"), counters)],
            ..SaleView::default()
        };
        Ok((sale, 250))
    }

    async fn keys(&self, _: &[u8], _: usize) -> Result<Vec<Bytes>, StoreError> {
        Ok(Vec::new())
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

fn known(config: KnownConfig) -> (Arc<Shelf>, Arc<Known>) {
    let shelf = Arc::new(Shelf::default());
    (shelf.clone(), Arc::new(Known::new(&config, shelf)))
}

fn short() -> KnownConfig {
    KnownConfig { refresh_ms: 20, unknown_ms: 20, stale_ms: 60_000, ..KnownConfig::default() }
}

async fn check(known: &Arc<Known>, target: &str) -> Result<(), Refusal> {
    let stage = KnownStage::new(Mode::Enforce, known.clone(), Arc::new(Refusals::new(&SaleConfig::default())));
    let request = request("POST", target, &[]);
    stage.check(&mut visit(&request)).await
}

#[tokio::test]
async fn a_crowd_asks_redis_once() {
    let (shelf, known) = known(KnownConfig::default());
    let crowd = (0..100).map(|_| check(&known, "/flash/1/holds?sku=S"));
    assert!(futures_util::future::join_all(crowd).await.iter().all(Result::is_ok));
    assert_eq!(shelf.asked.load(Ordering::Relaxed), 1);
    assert_eq!(known.server_ms(1000), 1250);
}

#[tokio::test]
async fn unknown_sales_are_remembered_and_bounded() {
    let config = KnownConfig { unknown_max: 10, unknown_lookups_per_second: 5, ..KnownConfig::default() };
    let (shelf, known) = known(config);
    for _ in 0..20 {
        assert_eq!(check(&known, "/flash/2/holds?sku=S").await.unwrap_err().status, 404);
    }
    assert_eq!(shelf.asked.load(Ordering::Relaxed), 1);
    let statuses: Vec<u16> = futures_util::future::join_all((0..100).map(|n| {
        let known = known.clone();
        async move { check(&known, &format!("/flash/guess{n}/holds?sku=S")).await.unwrap_err().status }
    }))
    .await;
    assert!(statuses.contains(&503));
    assert!(shelf.asked.load(Ordering::Relaxed) <= 6);
}

#[tokio::test]
async fn sold_out_is_refused_and_seen_to_end() {
    let (shelf, known) = known(short());
    shelf.sold_out.store(true, Ordering::Relaxed);
    let refusal = check(&known, "/flash/1/holds?sku=S").await.unwrap_err();
    assert_eq!(refusal.problem, Problem::SoldOut);
    shelf.sold_out.store(false, Ordering::Relaxed);
    // The state channel is faster than the next look.
    known.hear(b"sale:1", b"S", true, 1);
    check(&known, "/flash/1/holds?sku=S").await.unwrap();
}

#[tokio::test]
async fn what_this_edge_does_itself_it_sees_at_once() {
    let (shelf, known) = known(KnownConfig::default());
    shelf.sold_out.store(true, Ordering::Relaxed);
    check(&known, "/flash/1/holds?sku=S").await.unwrap_err();
    shelf.sold_out.store(false, Ordering::Relaxed);
    check(&known, "/flash/1/holds?sku=S").await.unwrap_err();
    known.released(b"sale:1");
    check(&known, "/flash/1/holds?sku=S").await.unwrap();
}

#[tokio::test]
async fn while_redis_is_away_an_old_picture_serves_the_window_only() {
    let (shelf, known) = known(short());
    check(&known, "/flash/1/holds?sku=S").await.unwrap();
    shelf.away.store(true, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert_eq!(check(&known, "/flash/1/holds?sku=S").await.unwrap_err().status, 503);
    known.picture_or_stale(b"sale:1").await.unwrap();
    assert!(known.picture_or_stale(b"sale:never-seen").await.is_err());
}
