//! What this edge knows of one sale: `FLASH.INFO` as it was a moment ago, and the news since.

use std::collections::BTreeMap;
use std::time::Instant;

use bytes::Bytes;

use crate::http::input::Item;
use crate::store::{Answer, SaleView, SkuView};

/// One SKU of a [`Picture`].
#[derive(Debug, Clone)]
pub struct SkuPicture {
    pub counters: SkuView,
    /// The last word of the state channel: whether there are units, its version, and when it was heard.
    news: Option<News>,
}

#[derive(Debug, Clone, Copy)]
struct News {
    available: bool,
    version: u64,
    heard_at: Instant,
}

/// A sale a moment ago.
#[derive(Debug, Clone)]
pub struct Picture {
    pub sale: SaleView,
    /// Few, so that comparing finds them sooner than hashing.
    pub skus: BTreeMap<Bytes, SkuPicture>,
    /// When Redis was asked: what was heard later is newer.
    pub asked_at: Instant,
}

/// What a sale is at a point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Pending,
    Open,
    Paused,
    Closed,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            State::Pending => "pending",
            State::Open => "open",
            State::Paused => "paused",
            State::Closed => "closed",
        }
    }
}

/// What there is of a SKU.
enum Holding {
    /// Units to be had.
    Some,
    /// Only units held by others.
    OnlyHeld,
    /// Nothing that could ever be had, unless it is stocked again.
    Nothing,
}

/// How many units of a SKU there are, as buyers are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Supply {
    Many,
    Few,
    None,
}

impl Supply {
    pub fn name(self) -> &'static str {
        match self {
            Supply::Many => "many",
            Supply::Few => "few",
            Supply::None => "none",
        }
    }
}

impl Picture {
    pub fn new(mut sale: SaleView, asked_at: Instant) -> Self {
        let skus = std::mem::take(&mut sale.skus)
            .into_iter()
            .map(|(sku, counters)| (sku, SkuPicture { counters, news: None }))
            .collect();
        Self { sale, skus, asked_at }
    }

    /// Takes over what the state channel said while this picture was on its way.
    pub fn keep_news_of(&mut self, before: &Picture) {
        for (sku, picture) in &mut self.skus {
            let asked_at = self.asked_at;
            let news = before.skus.get(sku).and_then(|before| before.news);
            picture.news = news.filter(|news| news.heard_at > asked_at);
        }
    }

    /// Notes a message of the state channel, unless a later one was heard before.
    pub fn hear(&mut self, sku: &[u8], available: bool, version: u64) {
        let Some(picture) = self.skus.get_mut(sku) else {
            return;
        };
        if picture.news.is_some_and(|news| news.version >= version) {
            return;
        }
        picture.news = Some(News { available, version, heard_at: Instant::now() });
    }

    /// This picture without a unit of `sku` to be had, as Redis said to somebody who asked at `asked_at`. `None` if it
    /// says so already, is newer or has heard newer, or is of several shards, each of which speaks for itself.
    pub fn without(&self, sku: &[u8], is_held: bool, next_ms: u64, asked_at: Instant) -> Option<Self> {
        let picture = self.skus.get(sku)?;
        let heard_newer = picture.news.is_some_and(|news| news.heard_at >= asked_at);
        let says_so = matches!(self.holding(picture), Holding::OnlyHeld | Holding::Nothing);
        if self.sale.shards > 1 || self.asked_at >= asked_at || heard_newer || says_so {
            return None;
        }
        let mut newer = self.clone();
        let picture = newer.skus.get_mut(sku)?;
        picture.news = None;
        picture.counters.available = 0;
        picture.counters.held = if is_held { picture.counters.held.max(1) } else { 0 };
        if is_held && next_ms > 0 {
            newer.sale.next_deadline_ms = next_ms;
        }
        Some(newer)
    }

    /// What the sale is at `now_ms` of the server's clock: it opens and closes by itself.
    pub fn state(&self, now_ms: u64) -> State {
        let sale = &self.sale;
        if sale.state == "closed" || (sale.closes_at_ms > 0 && now_ms >= sale.closes_at_ms) {
            State::Closed
        } else if sale.state == "paused" {
            State::Paused
        } else if sale.opens_at_ms > now_ms {
            State::Pending
        } else {
            State::Open
        }
    }

    /// Why reserving `items` would be in vain, in the order in which Redis would find it out; `None` if it
    /// might succeed.
    pub fn verdict(&self, items: &[Item], now_ms: u64, refuse_all_held: bool) -> Option<Answer> {
        match self.state(now_ms) {
            State::Open => {}
            State::Pending => {
                return Some(Answer::NotOpen { opens_at_ms: self.sale.opens_at_ms });
            }
            State::Paused => return Some(Answer::Paused),
            State::Closed => return Some(Answer::Closed),
        }
        // Shards that could not be asked may have units.
        if self.sale.shards_missing > 0 {
            return None;
        }
        items.iter().find_map(|item| self.refuse_item(item, now_ms, refuse_all_held))
    }

    /// Why a ticket would be for nothing: the sale is over, or nothing is left that could come back. A sale that
    /// has not begun or is paused gives tickets.
    pub fn verdict_on_tickets(&self, now_ms: u64) -> Option<Answer> {
        if self.state(now_ms) == State::Closed {
            return Some(Answer::Closed);
        }
        let nothing = |picture: &SkuPicture| matches!(self.holding(picture), Holding::Nothing);
        if self.sale.shards_missing > 0 || !self.skus.values().all(nothing) {
            return None;
        }
        // With several SKUs any would do; it is always the same.
        self.skus.keys().next().map(|sku| Answer::SoldOut { sku: sku.clone() })
    }

    fn refuse_item(&self, item: &Item, now_ms: u64, refuse_all_held: bool) -> Option<Answer> {
        // An unknown SKU may have been stocked since.
        let picture = self.skus.get(&item.sku)?;
        let sku = || item.sku.clone();
        match self.holding(picture) {
            Holding::Some => None,
            Holding::Nothing => Some(Answer::SoldOut { sku: sku() }),
            Holding::OnlyHeld => {
                let next_ms = self.sale.next_deadline_ms;
                // Once a hold may have expired, units may be free.
                let somebody_may_have_lost = next_ms > 0 && next_ms <= now_ms;
                (refuse_all_held && !somebody_may_have_lost).then(|| Answer::AllHeld { sku: sku(), next_ms })
            }
        }
    }

    /// What there is of a SKU: by the picture or by the news, whichever is later. The channel says `soldout`
    /// when neither available nor held units are left, and `available` when the first comes back.
    fn holding(&self, picture: &SkuPicture) -> Holding {
        let counters = &picture.counters;
        // Heard while the picture was on its way, news may be older than the picture all the same.
        let later = |news: &News| news.heard_at > self.asked_at && news.version > counters.version;
        match picture.news.filter(later) {
            Some(news) if news.available => Holding::Some,
            Some(_) => Holding::Nothing,
            None => match (counters.available, counters.held) {
                // What one shard has granted and no other has accepted yet is on its way.
                (0, _) if counters.granted > counters.accepted => Holding::Some,
                (0, 0) => Holding::Nothing,
                (0, _) => Holding::OnlyHeld,
                _ => Holding::Some,
            },
        }
    }

    /// Whether of some SKU nothing is available, so that what becomes of the holds changes the answer.
    pub fn is_scarce(&self) -> bool {
        self.skus.values().any(|picture| picture.counters.available == 0)
    }

    /// What buyers are told of each SKU.
    pub fn supplies(&self, few_at: u64) -> impl Iterator<Item = (&Bytes, Supply)> {
        self.skus.iter().map(move |(sku, picture)| {
            let supply = match (self.holding(picture), picture.counters.available) {
                (Holding::Nothing | Holding::OnlyHeld, _) => Supply::None,
                (Holding::Some, units) if units <= few_at => Supply::Few,
                (Holding::Some, _) => Supply::Many,
            };
            (sku, supply)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_000_000;

    fn sale(available: u64, held: u64) -> SaleView {
        let counters = SkuView { stocked: 10, available, held, sold: 10 - available - held, ..SkuView::default() };
        SaleView {
            state: "open".to_owned(),
            shards: 1,
            skus: vec![(Bytes::from_static(b"S"), counters)],
            ..SaleView::default()
        }
    }

    fn picture(available: u64, held: u64) -> Picture {
        Picture::new(sale(available, held), Instant::now())
    }

    fn items(sku: &'static str) -> Vec<Item> {
        vec![Item { sku: Bytes::from_static(sku.as_bytes()), quantity: 1 }]
    }

    fn verdict(picture: &Picture) -> Option<Answer> {
        picture.verdict(&items("S"), NOW_MS, true)
    }

    #[test]
    fn a_refusal_by_redis_is_news() {
        let sku = b"S";
        let old = picture(3, 0);
        let later = Instant::now();
        let held = old.without(sku, true, NOW_MS + 5, later).unwrap();
        assert_eq!(verdict(&held), Some(Answer::AllHeld { sku: Bytes::from_static(sku), next_ms: NOW_MS + 5 }));
        assert!(held.without(sku, true, 0, later).is_none(), "it is known");
        let sold = old.without(sku, false, 0, later).unwrap();
        assert_eq!(verdict(&sold), Some(Answer::SoldOut { sku: Bytes::from_static(sku) }));
        // Whoever asked before the picture was asked for has old news.
        assert!(picture(3, 0).without(sku, true, 0, later).is_none());
        assert!(old.without(b"T", true, 0, later).is_none());
        let mut heard = old.clone();
        heard.hear(sku, true, 7);
        assert!(heard.without(sku, true, 0, later).is_none(), "a unit came back meanwhile");
        assert!(heard.without(sku, true, 0, Instant::now()).is_some_and(|newer| verdict(&newer).is_some()));
        let sharded = Picture { sale: SaleView { shards: 2, ..old.sale.clone() }, ..old };
        assert!(sharded.without(sku, true, 0, later).is_none());
    }

    #[test]
    fn what_may_succeed_passes() {
        assert_eq!(verdict(&picture(1, 0)), None);
        assert_eq!(picture(0, 0).verdict(&items("other"), NOW_MS, true), None);
        assert_eq!(picture(0, 0).verdict(&[], NOW_MS, true), None);
    }

    #[test]
    fn sold_out_and_all_held_differ() {
        let sku = Bytes::from_static(b"S");
        assert_eq!(verdict(&picture(0, 0)), Some(Answer::SoldOut { sku: sku.clone() }));
        let mut held = picture(0, 1);
        held.sale.next_deadline_ms = NOW_MS + 5;
        let next_ms = NOW_MS + 5;
        assert_eq!(verdict(&held), Some(Answer::AllHeld { sku, next_ms }));
        assert_eq!(held.verdict(&items("S"), NOW_MS, false), None);
        held.sale.next_deadline_ms = NOW_MS - 1;
        assert_eq!(verdict(&held), None, "a hold may have expired");
    }

    #[test]
    fn a_shard_does_not_speak_for_those_that_are_away() {
        let mut shards = picture(0, 0);
        shards.sale.shards = 4;
        assert!(verdict(&shards).is_some());
        shards.sale.shards_missing = 1;
        assert_eq!(verdict(&shards), None);
    }

    #[test]
    fn units_on_their_way_are_not_sold_out() {
        let mut sale = sale(0, 0);
        (sale.skus[0].1.granted, sale.skus[0].1.accepted) = (5, 4);
        assert_eq!(verdict(&Picture::new(sale, Instant::now())), None);
    }

    #[test]
    fn tickets_are_refused_when_nothing_can_come_back() {
        assert_eq!(picture(0, 1).verdict_on_tickets(NOW_MS), None);
        let sku = Bytes::from_static(b"S");
        assert_eq!(picture(0, 0).verdict_on_tickets(NOW_MS), Some(Answer::SoldOut { sku }));
        let mut early = picture(1, 0);
        early.sale.opens_at_ms = NOW_MS + 1;
        assert_eq!(early.verdict_on_tickets(NOW_MS), None);
        early.sale.closes_at_ms = NOW_MS;
        assert_eq!(early.verdict_on_tickets(NOW_MS), Some(Answer::Closed));
    }

    #[test]
    fn a_sale_opens_and_closes_by_the_clock() {
        let mut picture = picture(1, 0);
        picture.sale.state = "pending".to_owned();
        picture.sale.opens_at_ms = NOW_MS + 1;
        assert_eq!(verdict(&picture), Some(Answer::NotOpen { opens_at_ms: NOW_MS + 1 }));
        assert_eq!(picture.state(NOW_MS + 1), State::Open);
        picture.sale.closes_at_ms = NOW_MS + 2;
        assert_eq!(picture.state(NOW_MS + 2), State::Closed);
        picture.sale.state = "paused".to_owned();
        assert_eq!(verdict(&picture), Some(Answer::Paused));
        picture.sale.state = "closed".to_owned();
        assert_eq!(verdict(&picture), Some(Answer::Closed));
    }

    #[test]
    fn news_count_by_version_and_only_if_newer_than_the_picture() {
        let mut before = picture(5, 0);
        std::thread::sleep(std::time::Duration::from_millis(2));
        before.hear(b"S", false, 7);
        assert!(verdict(&before).is_some());
        before.hear(b"S", true, 6);
        assert!(verdict(&before).is_some(), "an old message hides nothing and shows nothing");
        before.hear(b"S", true, 8);
        assert_eq!(verdict(&before), None);

        // Of a picture under way when the news came, the version tells which is later.
        let mut later_by_version = sale(5, 0);
        later_by_version.skus[0].1.version = 9;
        before.hear(b"S", false, 9);
        let mut overtaking = Picture::new(later_by_version, before.asked_at);
        overtaking.keep_news_of(&before);
        assert_eq!(verdict(&overtaking), None);

        // A picture asked for before the news does not overrule it; one asked for later does.
        let mut overtaken = Picture::new(sale(5, 0), before.asked_at);
        overtaken.keep_news_of(&before);
        assert!(verdict(&overtaken).is_some());
        std::thread::sleep(std::time::Duration::from_millis(2));
        let mut later = picture(5, 0);
        later.keep_news_of(&before);
        assert_eq!(verdict(&later), None);
    }

    #[test]
    fn supplies_are_told_in_three_words() {
        let word = |available| picture(available, 0).supplies(2).next().unwrap().1.name();
        assert_eq!((word(0), word(2), word(3)), ("none", "few", "many"));
    }
}
