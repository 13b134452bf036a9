//! The dearest single steps of a sale: of two million RESERVEs while it grows, and of ending a million holds that fall
//! due at one instant. `make bench` runs it before what it measures of servers, `scripts/bench.sh scale` too.
//!
//! The same commands are carried out several times, and of each the quickest CPU time counts: what the machine does for
//! others meanwhile falls upon other commands each time. So a machine may be busy, and the figures hold.

#[path = "../tests/shop/mod.rs"]
mod shop;

use flashsale_core::command::Command;
use flashsale_core::effect::Wording;
use flashsale_core::{Settings, Shard};
use shop::{Shop, reserve};

const MILLION: usize = 1_000_000;
const RUNS: usize = 5;
const HOLD_MS: u64 = 3_600_000;
const SKU: &[u8] = b"shirt";
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
        let mut shop = selling();
        for (n, least) in reserves.iter_mut().enumerate() {
            *least = least.min(shop.reserve(n));
        }
        let mut shop = selling();
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

fn selling() -> Shop {
    let mut shop = Shop::new(Settings { hold_ms: HOLD_MS, ..Settings::default() }, Shard::default());
    shop.stock(SKU, 1_000_000_000);
    shop
}

impl Shop {
    /// Tells the CPU time in ms.
    fn reserve(&mut self, n: usize) -> f64 {
        // 24 bytes each; the ids, as long as a UUID in base64, in no order.
        let scattered = (n as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) % 10_u64.pow(19);
        let (id, buyer) = (format!("hold-{scattered:019}"), format!("buyer-{n:018}"));
        let reserve = reserve(id.as_bytes(), buyer.as_bytes(), &[(SKU, 1)]);
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
