//! A sale without a server, for what is told by commands.

use flashsale_core::command::{Command, Item, Reserve, Stock};
use flashsale_core::effect::{EffectLog, Wording};
use flashsale_core::outcome::{Misuse, Outcome};
use flashsale_core::{Facts, Sale, Settings, Shard, Situation};

pub struct Shop {
    pub sale: Sale,
    /// What the latest command has changed, and what there is to tell of it.
    pub log: EffectLog,
    pub facts: Facts,
    pub now_ms: u64,
}

impl Shop {
    pub fn new(settings: Settings, shard: Shard) -> Self {
        let sale = Sale::new(settings, shard, [7, 8]);
        Self { sale, log: EffectLog::default(), facts: Facts::default(), now_ms: 1_700_000_000_000 }
    }

    pub fn try_run<'a>(&mut self, command: &Command<'a>) -> Result<Outcome<'a>, Misuse> {
        let situation = Situation { now_ms: self.now_ms, fresh_id: b"fresh", elsewhere: true, ..Situation::default() };
        self.log.start(self.sale.now(self.now_ms), Wording::Effects);
        self.facts.clear();
        let outcome = self.sale.run(command, &situation, &mut self.log, &mut self.facts);
        assert_eq!(self.facts.inconsistent, None, "{command:?}");
        outcome
    }

    pub fn run<'a>(&mut self, command: &Command<'a>) -> Outcome<'a> {
        self.try_run(command).unwrap_or_else(|misuse| panic!("{command:?}: {misuse}"))
    }

    pub fn stock<'a>(&mut self, sku: &'a [u8], delta: i64) -> Outcome<'a> {
        self.run(&Command::Stock(Stock { sku, delta, alloc_id: None, limit: None }))
    }
}

/// A plain request for these SKUs and quantities.
pub fn reserve<'a>(id: &'a [u8], buyer: &'a [u8], items: &[(&'a [u8], u32)]) -> Reserve<'a> {
    Reserve {
        id: Some(id),
        buyer,
        ttl_ms: None,
        up_to: false,
        tell_repeated: false,
        replace: None,
        not_after: None,
        meta: None,
        items: items.iter().map(|&(sku, qty)| Item { sku, qty }).collect(),
    }
}
