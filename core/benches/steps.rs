//! The dearest single steps of a sale: of two million RESERVEs while it grows, and of ending a million holds that fall
//! due at one instant. `make bench` runs it before what it measures of servers, `scripts/bench.sh scale` too.
//!
//! The same commands are carried out several times, and of each the quickest CPU time counts: what the machine does for
//! others meanwhile falls upon other commands each time. So a machine may be busy, and the figures hold.

use flashsale_core::command::{Command, Item, Reserve, Stock};
use flashsale_core::effect::{EffectLog, Wording};
use flashsale_core::{Facts, Sale, Settings, Shard, Situation};

const MILLION: usize = 1_000_000;
const RUNS: usize = 5;
const HOLD_MS: u64 = 3_600_000;
/// Holds that the module's timer ends between two looks at the time.
const PART: usize = 256;

fn main() {
    // `cargo test --benches` asks for a listing; there is nothing to list.
    if std::env::args().any(|argument| argument == "--list") {
        return;
    }
    let mut reserves = vec![f64::INFINITY; 2 * MILLION];
    let mut parts = vec![f64::INFINITY; MILLION.div_ceil(PART)];
    for _ in 0..RUNS {
        let mut shop = Shop::new();
        for (n, least) in reserves.iter_mut().enumerate() {
            *least = least.min(shop.reserve(n));
        }
        let mut shop = Shop::new();
        for n in 0..MILLION {
            shop.reserve(n);
        }
        shop.now_ms += HOLD_MS;
        for least in &mut parts {
            *least = least.min(shop.end_due(PART));
        }
        assert!(shop.sale.due(shop.now_ms, 1).is_empty(), "all are ended");
    }
    println!("| what | measured | target |");
    println!("|---|---|---|");
    println!("| dearest RESERVE while growing to 2 million, CPU of the rules | {} | 0.5 ms |", told(&reserves));
    println!("| dearest {PART} of a million endings, CPU of the rules | {} | 0.5 ms |", told(&parts));
}

fn told(least_ms: &[f64]) -> String {
    let (sum, most) = least_ms.iter().fold((0.0, 0.0_f64), |(sum, most), ms| (sum + ms, most.max(*ms)));
    let above = least_ms.iter().filter(|ms| **ms > 0.1).count();
    format!("{most:.2} ms ({above} of {} above 0.1 ms, mean {:.4} ms)", least_ms.len(), sum / least_ms.len() as f64)
}

/// A sale without a server.
struct Shop {
    sale: Sale,
    log: EffectLog,
    facts: Facts,
    now_ms: u64,
}

impl Shop {
    fn new() -> Self {
        let settings = Settings { hold_ms: HOLD_MS, ..Settings::default() };
        let sale = Sale::new(settings, Shard::default(), [7, 8]);
        let mut shop = Self { sale, log: EffectLog::default(), facts: Facts::default(), now_ms: 1_700_000_000_000 };
        shop.run(&Command::Stock(Stock { sku: b"shirt", delta: 1_000_000_000, alloc_id: None, limit: None }));
        shop
    }

    fn run(&mut self, command: &Command<'_>) {
        self.log.start(self.now_ms, Wording::Effects);
        self.facts.clear();
        let situation = Situation { now_ms: self.now_ms, ..Situation::default() };
        self.sale.run(command, &situation, &mut self.log, &mut self.facts).expect("a command that is meant");
    }

    /// Tells the CPU time in ms.
    fn reserve(&mut self, n: usize) -> f64 {
        // 24 bytes each; the ids, as long as a UUID in base64, in no order.
        let scattered = (n as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) % 10_u64.pow(19);
        let (id, buyer) = (format!("hold-{scattered:019}"), format!("buyer-{n:018}"));
        let reserve = Reserve {
            id: Some(id.as_bytes()),
            buyer: buyer.as_bytes(),
            ttl_ms: None,
            up_to: false,
            tell_repeated: false,
            replace: None,
            not_after: None,
            meta: None,
            items: [Item { sku: b"shirt", qty: 1 }].into_iter().collect(),
        };
        let before = own_cpu_ms();
        self.run(&Command::Reserve(reserve));
        own_cpu_ms() - before
    }

    fn end_due(&mut self, most: usize) -> f64 {
        let before = own_cpu_ms();
        let due = self.sale.due(self.now_ms, most);
        self.log.start(self.now_ms, Wording::Effects);
        self.facts.clear();
        self.sale.expire(&due, self.now_ms, &mut self.log, &mut self.facts);
        own_cpu_ms() - before
    }
}

/// The CPU time that this thread has taken.
fn own_cpu_ms() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the time is ours to write.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(status, 0, "every Linux has this clock");
    time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6
}
