//! Compares what the buyers were told with what Redis and the shop have.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use redis::Value;
use redis::aio::MultiplexedConnection;
use serde::Deserialize;
use tokio::time::sleep;

use super::Plan;
use super::stage::{SALE_KEY, SKU, Stage};
use super::tally::{Tally, ToldOrder};
use crate::relay::StreamNames;
use crate::relay::link::{items, named, whole};

/// How long the last holds may take to expire, and the relay to deliver everything.
const SETTLING: Duration = Duration::from_secs(60);

/// The sale as Redis has it.
#[derive(Debug, Clone, Default)]
pub struct Books {
    pub stocked: i64,
    pub available: i64,
    pub held: i64,
    pub sold: i64,
    pub orders: i64,
    pub audit_ok: bool,
    pub dead_letters: i64,
}

/// An order as the shop has it.
#[derive(Debug, Clone, Deserialize)]
pub struct ShopOrder {
    pub no: u64,
    pub hold: String,
    pub buyer: String,
    #[serde(rename = "type")]
    pub kind: String,
}

/// What the shop has.
#[derive(Debug, Clone, Deserialize)]
pub struct ShopBook {
    pub count: i64,
    /// Webhook calls for orders that it had already.
    pub repeats: u64,
    pub orders: Vec<ShopOrder>,
}

/// One thing that must be true.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    pub claim: &'static str,
    /// What contradicts it; empty if it is true.
    pub against: Vec<String>,
}

/// Everything that was compared.
pub struct Proof {
    pub books: Books,
    pub shop: ShopBook,
    pub oversold: i64,
    pub checks: Vec<Check>,
}

impl Proof {
    /// Waits until the last holds have ended and the relay is done, then compares.
    ///
    /// # Errors
    /// Redis or the shop does not answer.
    pub async fn collect(plan: &Plan, stage: &Stage, tally: &Tally) -> anyhow::Result<Self> {
        let mut redis = stage.redis();
        let began = Instant::now();
        let (books, shop) = loop {
            let books = read_books(&mut redis).await.context("the books in Redis")?;
            let shop = read_shop(&stage.shop_url).await.context("the shop's orders")?;
            let settled = books.held == 0 && shop.count >= books.orders;
            if settled || began.elapsed() > SETTLING {
                break (books, shop);
            }
            sleep(Duration::from_millis(100)).await;
        };
        let mut checks = check_books(plan.units.into(), &books);
        checks.extend(check_shop(&books, &shop));
        checks.extend(check_told(&tally.orders(), &shop));
        checks.push(Check {
            claim: "a repeated request was told the same as the first",
            against: tally.contradictions(),
        });
        Ok(Self { oversold: (books.sold + books.held - i64::from(plan.units)).max(0), books, shop, checks })
    }

    /// Whether everything is true.
    pub fn holds(&self) -> bool {
        self.checks.iter().all(|check| check.against.is_empty())
    }
}

fn expect_equal(against: &mut Vec<String>, what: &str, found: i64, expected: i64) {
    if found != expected {
        against.push(format!("{what}: {found}, expected {expected}"));
    }
}

fn check_books(units: i64, books: &Books) -> Vec<Check> {
    let mut oversold = Vec::new();
    expect_equal(&mut oversold, "stocked", books.stocked, units);
    expect_equal(&mut oversold, "available + held + sold", books.available + books.held + books.sold, units);
    if books.sold > units {
        oversold.push(format!("{} sold", books.sold));
    }
    let mut audit = Vec::new();
    expect_equal(&mut audit, "ok", books.audit_ok.into(), 1);
    vec![
        Check { claim: "available + held + sold is what was stocked", against: oversold },
        Check { claim: "FLASH.AUDIT finds every counter right", against: audit },
    ]
}

fn check_shop(books: &Books, shop: &ShopBook) -> Vec<Check> {
    let mut each_once = Vec::new();
    expect_equal(&mut each_once, "orders in the shop", shop.count, books.orders);
    expect_equal(&mut each_once, "units sold, one to an order", books.sold, books.orders);
    expect_equal(&mut each_once, "dead letters", books.dead_letters, 0);
    let mut seen = BTreeMap::<&str, u64>::new();
    for order in &shop.orders {
        if order.kind != "order.confirmed" {
            each_once.push(format!("{} of hold {}", order.kind, order.hold));
        }
        *seen.entry(&order.hold).or_default() += 1;
    }
    let doubled = seen.iter().filter(|(_, times)| **times > 1);
    each_once.extend(doubled.map(|(hold, times)| format!("hold {hold} is there {times} times")));

    let numbers: BTreeSet<_> = shop.orders.iter().map(|order| order.no).collect();
    let gaps = (1..=shop.orders.len() as u64).filter(|no| !numbers.contains(no));
    let mut buyers = BTreeSet::new();
    let twice = shop.orders.iter().filter(|order| !buyers.insert(&order.buyer));
    vec![
        Check { claim: "every order is in the shop exactly once", against: each_once },
        Check { claim: "order numbers have no gap", against: gaps.map(|no| format!("{no} is missing")).collect() },
        Check { claim: "no buyer has more than one unit", against: twice.map(|order| order.buyer.clone()).collect() },
    ]
}

/// Every order that a buyer was told of must be in the shop, as it was told.
fn check_told(told: &[ToldOrder], shop: &ShopBook) -> Vec<Check> {
    let by_hold: BTreeMap<_, _> = shop.orders.iter().map(|order| (&order.hold, order)).collect();
    let mut lost = Vec::new();
    for order in told {
        match by_hold.get(&order.hold) {
            None => lost.push(format!("order {} of {} is not in the shop", order.no, order.buyer)),
            Some(found) if (found.no, &found.buyer) != (order.no, &order.buyer) => {
                lost.push(format!("order {} of {} is in the shop as {found:?}", order.no, order.buyer));
            }
            Some(_) => {}
        }
    }
    vec![Check { claim: "every order that a buyer was told of is in the shop", against: lost }]
}

async fn read_books(redis: &mut MultiplexedConnection) -> anyhow::Result<Books> {
    let info: Value = redis::cmd("FLASH.INFO").arg(SALE_KEY).query_async(redis).await?;
    let audit: Value = redis::cmd("FLASH.AUDIT").arg(SALE_KEY).query_async(redis).await?;
    let names = StreamNames::of_key(SALE_KEY.as_bytes());
    let dead_letters = redis::cmd("XLEN").arg(&names.dead).query_async(redis).await?;
    let (info, audit) = (items(info)?, items(audit)?);
    let skus = items(named(&info, "skus").unwrap_or_default())?;
    let sku = items(named(&skus, SKU).unwrap_or_default())?;
    let number = |list: &[Value], name: &str| {
        let found = named(list, name).and_then(whole);
        found.ok_or_else(|| anyhow!("`{name}` is missing in the answer"))
    };
    Ok(Books {
        stocked: number(&sku, "stocked")?,
        available: number(&sku, "available")?,
        held: number(&sku, "held")?,
        sold: number(&sku, "sold")?,
        orders: number(&info, "orders")?,
        audit_ok: number(&audit, "ok")? == 1,
        dead_letters,
    })
}

async fn read_shop(url: &str) -> anyhow::Result<ShopBook> {
    let answer = reqwest::get(format!("{url}/api/orders?limit=1000000")).await?;
    Ok(answer.error_for_status()?.json().await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sold_out(units: i64) -> Books {
        Books { stocked: units, sold: units, orders: units, audit_ok: true, ..Books::default() }
    }

    fn shop(orders: &[(u64, &str, &str)]) -> ShopBook {
        let orders = orders.iter().map(|(no, hold, buyer)| ShopOrder {
            no: *no,
            hold: (*hold).to_owned(),
            buyer: (*buyer).to_owned(),
            kind: "order.confirmed".to_owned(),
        });
        let orders: Vec<_> = orders.collect();
        ShopBook { count: orders.len() as i64, repeats: 0, orders }
    }

    fn true_claims(checks: &[Check]) -> usize {
        checks.iter().filter(|check| check.against.is_empty()).count()
    }

    #[test]
    fn a_good_evening_passes() {
        let shop = shop(&[(1, "a", "ada"), (2, "b", "bob")]);
        let told = [ToldOrder { buyer: "bob".to_owned(), hold: "b".to_owned(), no: 2 }];
        assert_eq!(true_claims(&check_books(2, &sold_out(2))), 2);
        assert_eq!(true_claims(&check_shop(&sold_out(2), &shop)), 3);
        assert_eq!(true_claims(&check_told(&told, &shop)), 1);
    }

    #[test]
    fn an_oversold_unit_is_found() {
        assert_eq!(true_claims(&check_books(1, &sold_out(2))), 1);
    }

    #[test]
    fn a_doubled_order_is_found() {
        let twice = shop(&[(1, "a", "ada"), (2, "a", "ada")]);
        assert_eq!(true_claims(&check_shop(&sold_out(2), &twice)), 1);
    }

    #[test]
    fn a_lost_order_and_a_gap_are_found() {
        let gap = shop(&[(1, "a", "ada"), (3, "c", "cyd")]);
        assert_eq!(true_claims(&check_shop(&sold_out(3), &gap)), 1);
        let told = [ToldOrder { buyer: "bob".to_owned(), hold: "b".to_owned(), no: 2 }];
        assert_eq!(true_claims(&check_told(&told, &gap)), 0);
    }
}
