//! A sale with everything that must agree with it: the naive model, a replica, and what the world was told.

use crate::steps::{Profile, START_MS, Step};
use flashsale_core::effect::{EffectLog, Wording, read_log};
use flashsale_core::facts::Facts;
use flashsale_core::model::Model;
use flashsale_core::outcome::{Misuse, Outcome};
use flashsale_core::{Sale, Situation};
use proptest::test_runner::{Config, TestCaseError};
use std::collections::BTreeMap;

/// Any seed will do: state must not depend on it.
pub const SEED: [u64; 2] = [1, 2];
pub const OTHER_SEED: [u64; 2] = [3, 4];

pub type Checked = Result<(), TestCaseError>;

/// `share` of the default number of cases, times `FLASHSALE_CASES_FACTOR`.
pub fn cases(share: u32) -> Config {
    let factor = std::env::var("FLASHSALE_CASES_FACTOR").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    Config { cases: share * factor, failure_persistence: None, max_shrink_iters: 20_000, ..Config::default() }
}

macro_rules! same {
    ($what:expr, $left:expr, $right:expr) => {
        if $left != $right {
            let message = format!("{}: {:?} is not {:?}", $what, $left, $right);
            return Err(proptest::test_runner::TestCaseError::fail(message));
        }
    };
}

pub(crate) use same;

pub struct World {
    pub sale: Sale,
    pub model: Model,
    pub replica: Sale,
    pub server_ms: u64,
    pub log: EffectLog,
    pub facts: Facts,
    fresh: u64,
    /// Number of the last entry of the order stream.
    pub last_no: u64,
    /// Hold ids of `confirmed` entries by their number.
    pub confirmed: BTreeMap<u64, Vec<u8>>,
    /// By SKU: what subscribers were last told.
    told: BTreeMap<Vec<u8>, (bool, u64)>,
}

impl World {
    pub fn new(profile: &Profile) -> Self {
        Self {
            sale: Sale::new(profile.settings, profile.shard, SEED),
            model: Model::new(profile.settings, profile.shard),
            replica: Sale::new(profile.settings, profile.shard, OTHER_SEED),
            server_ms: START_MS,
            log: EffectLog::default(),
            facts: Facts::default(),
            fresh: 0,
            last_no: 0,
            confirmed: BTreeMap::new(),
            told: BTreeMap::new(),
        }
    }

    /// Runs a step on the sale alone.
    pub fn run_sale(&mut self, step: &Step) -> Result<Outcome<'static>, Misuse> {
        self.server_ms = self.server_ms.saturating_add_signed(step.clock_ms);
        self.fresh += 1;
        let fresh_id = format!("00000000-{}", self.fresh);
        // Commands are told in both ways in turn.
        let wording = if self.fresh.is_multiple_of(2) { Wording::Words } else { Wording::Effects };
        self.log.start(self.sale.now(self.server_ms), wording);
        self.facts.clear();
        let situation = self.situation(step, &fresh_id);
        let outcome = self.sale.run(&step.command, &situation, &mut self.log, &mut self.facts);
        outcome.map(owned)
    }

    fn situation<'a>(&self, step: &Step, fresh_id: &'a str) -> Situation<'a> {
        Situation {
            now_ms: self.server_ms,
            fresh_id: fresh_id.as_bytes(),
            backlog: step.backlog,
            elsewhere: step.elsewhere,
        }
    }

    /// Runs a step on the sale and on the model, and compares what they answer.
    pub fn run(&mut self, step: &Step) -> Result<Result<Outcome<'static>, Misuse>, TestCaseError> {
        let outcome = self.run_sale(step);
        let fresh_id = format!("00000000-{}", self.fresh);
        let expected = self.model.run(&step.command, &self.situation(step, &fresh_id));
        if outcome != expected {
            let message = format!("{:?}\n answers   {outcome:?}\n should be {expected:?}", step.command);
            return Err(TestCaseError::fail(message));
        }
        if let Some(problem) = self.facts.inconsistent {
            return Err(TestCaseError::fail(format!("{:?} was decided but not applied: {problem}", step.command)));
        }
        Ok(outcome)
    }

    /// Carries the last step out on the replica: its effects, or the command if its words tell them.
    pub fn replicate(&mut self, step: &Step) -> Checked {
        let (at_ms, effects) = read_log(self.log.bytes()).map_err(|error| TestCaseError::fail(error.to_string()))?;
        let mut facts = Facts::default();
        for effect in &effects {
            self.replica.apply(at_ms, effect, &mut facts);
        }
        if self.log.commands() > 0 {
            let effects = self.replica.effects_in_words(&step.command);
            for effect in &effects.ok_or_else(|| TestCaseError::fail("a command that has no effect on the replica"))? {
                self.replica.apply(self.replica.clock_ms(), effect, &mut facts);
            }
        }
        same!("what did not fit the replica", facts.inconsistent, None::<&str>);
        Ok(())
    }

    /// Reads what the last step wrote into the order stream: every number once and in order, every order once.
    pub fn read_stream(&mut self) -> Checked {
        for entry in &self.facts.entries {
            same!("the number of the entry", entry.no(), self.last_no + 1);
            self.last_no = entry.no();
            let fields: BTreeMap<&str, Vec<u8>> = entry.fields(&self.sale).into_iter().collect();
            if fields["type"] == b"confirmed" {
                self.confirmed.insert(entry.no(), fields["hold"].clone());
            }
        }
        Ok(())
    }

    /// Reads what subscribers are told, and compares the last word on each SKU with the truth.
    pub fn read_channel(&mut self) -> Checked {
        for change in &self.facts.sku_changes {
            let sku = change.sku(&self.sale).to_vec();
            let (before, version) = self.told.get(&sku).copied().unwrap_or((false, 0));
            same!("the version told", change.version, version + 1);
            same!("a change that is told", change.sold_out, !before);
            self.told.insert(sku, (change.sold_out, change.version));
        }
        for sku in self.sale.sku_views(self.server_ms) {
            let (sold_out, version) = self.told.get(sku.name).copied().unwrap_or((false, 0));
            same!("whether subscribers think it is sold out", sold_out, sku.available + sku.held == 0);
            same!("the version", sku.version, version);
        }
        Ok(())
    }

    /// Everything that can be looked at is as the model says: also what is due and was not swept.
    pub fn compare_views(&self) -> Checked {
        let now_ms = self.server_ms;
        let seen = self.model.at(now_ms);
        let figures = self.sale.view(now_ms);
        same!("state", figures.state, seen.state(now_ms));
        same!("live holds", figures.holds, seen.live_holds());
        same!("orders", figures.orders, seen.orders());
        same!("buyers", figures.buyers, seen.buyers());
        if figures.next_deadline == 0 || figures.next_deadline > self.sale.now(now_ms) {
            same!("next deadline", figures.next_deadline, seen.next_deadline(None));
        }
        let names: Vec<&[u8]> = seen.skus().collect();
        let views: Vec<_> = self.sale.sku_views(now_ms).collect();
        same!("SKUs", views.iter().map(|sku| sku.name).collect::<Vec<_>>(), names);
        for sku in &views {
            let levels = seen.levels(sku.name);
            let kept = (sku.stocked, sku.available, sku.held, sku.sold, sku.granted, sku.accepted, sku.limit);
            let summed = (levels.stocked, levels.available, levels.held, levels.sold, levels.granted, levels.accepted);
            let (a, b, c, d, e, f) = summed;
            same!(format!("levels of {}", sku.name.escape_ascii()), kept, (a, b, c, d, e, f, levels.limit));
        }
        for buyer in crate::steps::BUYERS {
            same!("BUYER", self.sale.buyer_view(buyer, now_ms), seen.buyer(buyer));
        }
        let mut remembered = 0;
        for id in seen.ids() {
            let (kept, expected) = (self.sale.hold_view(id, now_ms), seen.hold(id, now_ms));
            same!("HOLD", kept, expected);
            remembered += usize::from(expected.is_some());
        }
        let (cursor, listed) = self.sale.hold_views(0, usize::MAX, now_ms);
        same!("HOLDS", (cursor, listed.len()), (0, remembered));
        Ok(())
    }

    pub fn audit(&self) -> Checked {
        same!("AUDIT", self.sale.audit(), Vec::<String>::new());
        same!("AUDIT of the replica", self.replica.audit(), Vec::<String>::new());
        Ok(())
    }
}

/// The parts of a sale, in an order of their own: equal for equal sales.
pub fn digest(sale: &Sale) -> Vec<Vec<u8>> {
    let mut parts = Vec::new();
    sale.digest_parts(|part| parts.push(part.to_vec()));
    parts.sort();
    parts
}

pub fn snapshot(sale: &Sale) -> Vec<Vec<u8>> {
    let mut chunks = Vec::new();
    sale.snapshot(|chunk| chunks.push(chunk.to_vec()));
    chunks
}

/// The outcome without its borrows.
fn owned(outcome: Outcome<'_>) -> Outcome<'static> {
    let own = |name: std::borrow::Cow<'_, [u8]>| std::borrow::Cow::Owned(name.into_owned());
    match outcome {
        Outcome::Reserved { id, deadline, taken, repeated } => {
            Outcome::Reserved { id: own(id), deadline, taken, repeated }
        }
        Outcome::Confirmed { id, order_no } => Outcome::Confirmed { id: own(id), order_no },
        Outcome::Extended { id, deadline } => Outcome::Extended { id: own(id), deadline },
        Outcome::NoSku { sku } => Outcome::NoSku { sku: own(sku) },
        Outcome::Limit { sku, left } => Outcome::Limit { sku: own(sku), left },
        Outcome::SoldOut { sku } => Outcome::SoldOut { sku: own(sku) },
        Outcome::AllHeld { sku, next_ms } => Outcome::AllHeld { sku: own(sku), next_ms },
        Outcome::Empty { sku } => Outcome::Empty { sku: own(sku) },
        Outcome::Ok => Outcome::Ok,
        Outcome::Stocked { available, held, sold } => Outcome::Stocked { available, held, sold },
        Outcome::BelowHeld { available } => Outcome::BelowHeld { available },
        Outcome::Released => Outcome::Released,
        Outcome::Expired => Outcome::Expired,
        Outcome::Returned => Outcome::Returned,
        Outcome::NotFound => Outcome::NotFound,
        Outcome::Mismatch(field) => Outcome::Mismatch(field),
        Outcome::Granted { total, available } => Outcome::Granted { total, available },
        Outcome::Accepted { taken, available } => Outcome::Accepted { taken, available },
        Outcome::WrongShard(shard) => Outcome::WrongShard(shard),
        Outcome::NotOpen { opens_at } => Outcome::NotOpen { opens_at },
        Outcome::Paused => Outcome::Paused,
        Outcome::Closed => Outcome::Closed,
        Outcome::TooLate => Outcome::TooLate,
        Outcome::Backlog => Outcome::Backlog,
    }
}
