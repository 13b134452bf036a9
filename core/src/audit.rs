//! AUDIT: every counter recomputed from the holds and compared (the contract's section 2).

use crate::holds::{State, kept_items};
use crate::sale::Sale;
use std::collections::BTreeMap;

impl Sale {
    /// What does not add up, in words; nothing if all is well. Looks at every hold.
    pub fn audit(&self) -> Vec<String> {
        let mut differences = Vec::new();
        let mut sums = Sums::default();
        for slot in self.holds.slots() {
            sums.count(self, slot);
        }
        self.audit_skus(&sums, &mut differences);
        self.audit_buyers(&sums, &mut differences);
        let mut compare = |what: &str, kept: u64, counted: u64| {
            if kept != counted {
                differences.push(format!("{what}: kept {kept}, counted {counted}"));
            }
        };
        compare("live holds", self.live_holds, sums.live);
        compare("holds with a deadline", self.deadlines.count(&self.holds), sums.live);
        compare("ended ids", self.ended.len() as u64, sums.ended);
        compare("tombstones", self.tombstones.len() as u64, sums.tombstones);
        compare("remembered ids", self.holds.len() as u64, sums.all);
        compare("buyers", self.buyers.len() as u64, sums.buyers.len() as u64);
        if sums.highest_order_no > self.entry_no {
            differences
                .push(format!("order {} stands above the latest entry {}", sums.highest_order_no, self.entry_no));
        }
        differences
    }

    fn audit_skus(&self, sums: &Sums, differences: &mut Vec<String>) {
        for (index, sku) in self.skus.iter().enumerate() {
            let name = sku.name.escape_ascii();
            let &(held, sold) = sums.skus.get(&(index as u16)).unwrap_or(&(0, 0));
            if (held, sold) != (sku.held, sku.sold) {
                differences
                    .push(format!("{name}: kept {} held and {} sold, counted {held} and {sold}", sku.held, sku.sold));
            }
            if sku.stocked + sku.accepted != sku.granted + sku.available + sku.held + sku.sold {
                differences.push(format!(
                    "{name}: stocked {} + accepted {} - granted {} is not available {} + held {} + sold {}",
                    sku.stocked, sku.accepted, sku.granted, sku.available, sku.held, sku.sold
                ));
            }
            let of_sku = self.transfers.iter().filter(|((sku, _), _)| usize::from(*sku) == index);
            let (granted, accepted) = of_sku.fold((0, 0), |sum, (_, t)| (sum.0 + t.granted, sum.1 + t.accepted));
            if (granted, accepted) != (sku.granted, sku.accepted) {
                differences.push(format!(
                    "{name}: kept granted {} and accepted {}, counted {granted} and {accepted}",
                    sku.granted, sku.accepted
                ));
            }
        }
    }

    fn audit_buyers(&self, sums: &Sums, differences: &mut Vec<String>) {
        for (buyer, &(held, sold)) in &sums.buyers {
            let usage = self.usage_of(buyer, 0);
            if (usage.total.held, usage.total.sold) != (held, sold) {
                differences.push(format!(
                    "buyer {}: kept {} held and {} sold, counted {held} and {sold}",
                    buyer.escape_ascii(),
                    usage.total.held,
                    usage.total.sold
                ));
            }
        }
    }
}

#[derive(Default)]
struct Sums {
    skus: BTreeMap<u16, (u64, u64)>,
    buyers: BTreeMap<Vec<u8>, (u64, u64)>,
    live: u64,
    ended: u64,
    tombstones: u64,
    all: u64,
    highest_order_no: u64,
}

impl Sums {
    fn count(&mut self, sale: &Sale, slot: u32) {
        self.all += 1;
        let content = sale.holds.content(slot);
        match sale.holds.get(slot).state {
            State::Held => {
                self.live += 1;
                self.add(content.buyer, &content.items, |sum| &mut sum.0);
            }
            State::Confirmed => {
                self.highest_order_no = self.highest_order_no.max(sale.order_no(slot));
                let kept = kept_items(&content.items, sale.extras.get(&slot).map(Box::as_ref));
                self.add(content.buyer, &kept, |sum| &mut sum.1);
            }
            State::Tombstone => self.tombstones += 1,
            State::Returned | State::Released | State::Expired | State::Free => self.ended += 1,
        }
    }

    fn add(&mut self, buyer: &[u8], items: &[(u16, u32)], part: impl Fn(&mut (u64, u64)) -> &mut u64) {
        for &(sku, qty) in items {
            *part(self.skus.entry(sku).or_default()) += u64::from(qty);
            *part(self.buyers.entry(buyer.to_vec()).or_default()) += u64::from(qty);
        }
    }
}
