//! Shards whose every step is taken by the real rules of `core/`.
//!
//! A model checker wants states that are small, hashed and compared; a [`Sale`] is none of that. So each state
//! of a sale that turns up is kept once, as a snapshot, and the model names it by its number. A step loads the
//! snapshot, runs the command as a primary does, and keeps what came of it: asked again it is looked up.

use flashsale_core::command::{Accept, Command, Grant, Item, Items, Order};
use flashsale_core::effect::{Effect, EffectLog, Wording};
use flashsale_core::snapshot::Loader;
use flashsale_core::{Facts, Sale, Settings, Shard, Situation};
use std::collections::HashMap;
use std::sync::Mutex;

const SKU: &[u8] = b"red";
/// Any: the transfer rule knows no time.
const NOW_MS: u64 = 1_000;
const SEED: [u64; 2] = [1, 2];

/// The number of a state of a sale.
pub type StateNo = u16;

/// What can be asked of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// FLASH.GRANT to the other shard.
    Grant { qty: u8, after: Option<u8> },
    /// FLASH.ACCEPT from the other shard.
    Accept { total: u8 },
    /// FLASH.ORDER of one unit. The n-th order has the n-th id: after a failover a client asks again.
    Order,
}

/// The counters of a shard's only SKU.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Levels {
    pub available: u8,
    pub sold: u8,
    pub granted: u8,
    pub accepted: u8,
}

impl std::fmt::Debug for Levels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { available, sold, granted, accepted } = self;
        write!(f, "available {available} sold {sold} granted {granted} accepted {accepted}")
    }
}

/// All states that the two shards of a sale have been in.
#[derive(Default)]
pub struct Sales(Mutex<Known>);

#[derive(Default)]
struct Known {
    numbers: HashMap<Vec<Vec<u8>>, StateNo>,
    states: Vec<(Vec<Vec<u8>>, Levels)>,
    steps: HashMap<(StateNo, Step), (StateNo, Levels)>,
}

impl Sales {
    /// A shard of a sale of two, with its first stock.
    pub fn create(&self, index: u32, stock: u8) -> (StateNo, Levels) {
        let mut sale = Sale::new(Settings::default(), Shard { index, count: 2 }, SEED);
        let delta = i64::from(stock);
        sale.apply(NOW_MS, &Effect::Stock { sku: SKU, delta, alloc_id: None, limit: None }, &mut Facts::default());
        self.0.lock().expect("no thread has panicked").keep(&sale)
    }

    /// Where a step leads.
    pub fn step(&self, from: StateNo, step: Step) -> (StateNo, Levels) {
        let mut known = self.0.lock().expect("no thread has panicked");
        if let Some(&to) = known.steps.get(&(from, step)) {
            return to;
        }
        let (snapshot, levels) = known.states[usize::from(from)].clone();
        let mut sale = load(&snapshot);
        run(&mut sale, step, levels);
        let to = known.keep(&sale);
        known.steps.insert((from, step), to);
        to
    }
}

impl Known {
    fn keep(&mut self, sale: &Sale) -> (StateNo, Levels) {
        assert_eq!(sale.audit(), Vec::<String>::new());
        let mut snapshot = Vec::new();
        sale.snapshot(|chunk| snapshot.push(chunk.to_vec()));
        let levels = levels(sale);
        let number = *self.numbers.entry(snapshot).or_insert_with_key(|snapshot| {
            self.states.push((snapshot.clone(), levels));
            StateNo::try_from(self.states.len() - 1).expect("a small model")
        });
        (number, levels)
    }
}

fn load(snapshot: &[Vec<u8>]) -> Sale {
    let (header, chunks) = snapshot.split_first().expect("a snapshot begins with its header");
    let mut loader = Loader::new(header, SEED).expect("our own header");
    chunks.iter().for_each(|chunk| loader.push(chunk).expect("our own chunk"));
    loader.finish().expect("a whole snapshot")
}

fn levels(sale: &Sale) -> Levels {
    let sku = sale.sku_views(NOW_MS).next().expect("the only SKU");
    let small = |units: u64| u8::try_from(units).expect("a small model");
    assert_eq!(sku.stocked + sku.accepted, sku.available + sku.held + sku.sold + sku.granted);
    Levels {
        available: small(sku.available),
        sold: small(sku.sold),
        granted: small(sku.granted),
        accepted: small(sku.accepted),
    }
}

fn run(sale: &mut Sale, step: Step, before: Levels) {
    let other = 1 - sale.shard().index;
    let buyer = buyer_of(sale.shard());
    let order_id = format!("order-{}", before.sold + 1);
    let command = match step {
        Step::Grant { qty, after } => {
            Command::Grant(Grant { sku: SKU, qty: qty.into(), to: other, after: after.map(u64::from) })
        }
        Step::Accept { total } => Command::Accept(Accept { sku: SKU, from: other, total: total.into() }),
        Step::Order => Command::Order(Order {
            id: Some(order_id.as_bytes()),
            buyer: buyer.as_bytes(),
            reference: None,
            meta: None,
            items: Items::One([Item { sku: SKU, qty: 1 }]),
        }),
    };
    let situation = Situation { now_ms: NOW_MS, elsewhere: true, ..Situation::default() };
    let (mut log, mut facts) = (EffectLog::default(), Facts::default());
    log.start(sale.now(NOW_MS), Wording::Effects);
    sale.run(&command, &situation, &mut log, &mut facts).expect("a command that can be meant");
    assert_eq!(facts.inconsistent, None);
}

/// Somebody who lives there.
fn buyer_of(shard: Shard) -> String {
    let lives_there =
        |buyer: &String| flashsale_core::sharding::home_shard(buyer.as_bytes(), shard.count) == shard.index;
    (0..).map(|n| format!("buyer-{n}")).find(lives_there).expect("every shard has buyers")
}
