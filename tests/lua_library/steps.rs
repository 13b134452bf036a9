//! Random sequences of commands on one sale: few ids, buyers and SKUs, so that they meet each other often.

use std::fmt::Write;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const SKUS: [&str; 4] = ["a", "b&c", "d", "unknown"];
const BUYERS: [&str; 5] = ["ann", "bob", "cas", "dan", "eve"];
const NASTY: [&str; 12] = [
    "",
    "\0",
    "-1",
    "0",
    "01",
    "x",
    "2147483648",
    "9223372036854775808",
    "ITEMS",
    "*",
    "%s%n\r\n'\"\\\t\u{7f}é",
    "a name that is much longer than the sixty-four bytes that an error shows of it: a name that is much longer than a name may be",
];

/// A command of the contract without its `FLASH.`: `["RESERVE", "sale", ...]`.
pub type Words = Vec<String>;

/// What a sequence of commands keeps to.
#[derive(Debug)]
pub struct Episode {
    random: StdRng,
    pub key: String,
    /// Holds that fall due are ended at once, on either side: so that also what only sweeping changes is equal.
    pub swept: bool,
    /// Ended ids are remembered to the end: so that holds have the same numbers on either side.
    pub remembering: bool,
    /// One side is another server than in the beginning.
    pub moved: bool,
}

impl Episode {
    pub fn new(seed: u64) -> Episode {
        let mut random = StdRng::seed_from_u64(seed);
        let key = ["sale", "sale{7}", "sale{21418}"][random.random_range(0..3)].to_owned();
        Episode { swept: random.random_ratio(1, 2), remembering: random.random_ratio(1, 2), moved: false, random, key }
    }

    /// One side has moved: it numbers holds anew, and has left rate limits, and what it missed, behind.
    pub fn has_moved(&mut self) {
        self.remembering = false;
        self.moved = true;
    }

    fn one_in(&mut self, count: u32) -> bool {
        self.random.random_ratio(1, count)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.random.random_range(0..end)
    }

    fn pick(&mut self, from: &[&str]) -> String {
        from[self.random.random_range(0..from.len())].to_owned()
    }

    fn words(&self, line: &str) -> Words {
        line.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect()
    }

    /// How long nothing happens.
    pub fn pause_ms(&mut self) -> u64 {
        match self.below(10) {
            0..=4 => self.below(40),
            5..=8 => self.below(400),
            _ => self.below(3_000),
        }
    }

    /// The command that begins the episode.
    pub fn create(&mut self, now_ms: u64) -> Words {
        let key = self.key.clone();
        let mut line = format!("CREATE {key} HOLD {} MAXHOLD {}", 100 + self.below(400), 500 + self.below(2_000));
        if self.key == "sale{21418}" {
            line += " SHARD 0 3";
        }
        if self.one_in(2) {
            let _ = write!(line, " LIMIT {}", 1 + self.below(8));
        }
        if !self.remembering {
            let _ = write!(line, " RETAIN {}", self.below(2_000));
        }
        if self.one_in(4) {
            let _ = write!(line, " BACKLOG {}", 5 + self.below(40));
        }
        if self.one_in(4) {
            let _ = write!(line, " OPENS {}", now_ms + self.below(300));
        }
        if self.one_in(6) {
            let _ = write!(line, " CLOSES {}", now_ms + 1_000 + self.below(20_000));
        }
        line += &self.events();
        let (first, second) = (self.below(12), 3 + self.below(30));
        let _ = write!(line, " ITEMS a {first} b&c {second} d {}", self.below(5));
        self.words(&line)
    }

    /// Which events there are; only in swept episodes all, because entries of expired holds are numbered too.
    fn events(&mut self) -> String {
        match self.below(3) {
            0 => String::new(),
            1 => " EVENTS NONE".to_owned(),
            _ if self.swept => " EVENTS ALL".to_owned(),
            _ => " EVENTS ORDERS".to_owned(),
        }
    }

    fn id(&mut self) -> String {
        format!("h{}", self.below(14))
    }

    fn new_id(&mut self) -> String {
        if self.one_in(12) { "*".to_owned() } else { self.id() }
    }

    fn sku(&mut self) -> String {
        let most = if self.one_in(20) { 4 } else { 3 };
        self.pick(&SKUS[..most])
    }

    fn items(&mut self) -> String {
        let mut items = " ITEMS".to_owned();
        for _ in 0..[1, 1, 1, 2, 2, 3][self.random.random_range(0..6)] {
            let _ = write!(items, " {} {}", self.sku(), 1 + self.below(4));
        }
        items
    }

    fn some(&mut self, one_in: u32, option: impl FnOnce(&mut Self) -> String) -> String {
        if self.one_in(one_in) { option(self) } else { String::new() }
    }

    /// The next command.
    pub fn step(&mut self, now_ms: u64) -> Words {
        let line = self.valid(now_ms);
        let words = self.words(&line);
        if self.one_in(40) { self.spoilt(words) } else { words }
    }

    fn valid(&mut self, now_ms: u64) -> String {
        let key = self.key.clone();
        match self.below(100) {
            0..=27 => self.reserve(now_ms),
            28..=33 => self.mreserve(now_ms),
            34..=41 => {
                let (id, buyer) = (self.new_id(), self.pick(&BUYERS));
                let (reference, meta) = (self.reference(), self.meta());
                format!("ORDER {key} {id} {buyer}{reference}{meta}{}", self.items())
            }
            42..=55 => {
                let (id, reference, meta) = (self.id(), self.reference(), self.meta());
                let (late, items) = (self.some(3, |_| " LATE".into()), self.some(4, Self::items));
                format!("CONFIRM {key} {id}{reference}{meta}{late}{items}")
            }
            56..=62 => {
                let id = self.id();
                format!("RELEASE {key} {id}{}", self.some(4, |_| " REASON why&not".into()))
            }
            63..=67 => format!("EXTEND {key} {} {}", self.id(), 1 + self.below(1_500)),
            68..=75 => {
                let (id, return_id) = (self.id(), self.below(4));
                format!("RETURN {key} {id} r{return_id}{}", self.some(2, Self::items))
            }
            76..=81 => {
                let (sku, delta) = (self.sku(), self.below(14) as i64 - 6);
                let id = self.some(3, |steps| format!(" ID a{}", steps.below(4)));
                format!("STOCK {key} {sku} {delta}{id}{}", self.some(6, |steps| format!(" LIMIT {}", steps.below(7))))
            }
            82 | 83 => format!("ALTER {key}{}", self.setting(now_ms)),
            84 => format!("{} {key}", self.pick(&["PAUSE", "RESUME", "RESUME", "RESUME"])),
            85 | 86 => {
                let (sku, qty, to) = (self.sku(), 1 + self.below(5), self.below(4));
                format!("GRANT {key} {sku} {qty} TO {to}{}", self.some(3, |steps| format!(" AFTER {}", steps.below(9))))
            }
            87 | 88 => {
                let (sku, from) = (self.sku(), self.below(4));
                format!("ACCEPT {key} {sku} FROM {from} TOTAL {}", self.below(20))
            }
            89 => format!("EXPIRE {key}{}", self.some(2, |steps| format!(" COUNT {}", 1 + steps.below(5)))),
            _ => self.look(),
        }
    }

    fn reserve(&mut self, now_ms: u64) -> String {
        let (id, buyer, ttl) = (self.new_id(), self.pick(&BUYERS), self.ttl());
        let up_to = self.some(6, |_| " UPTO".into());
        let repeated = self.some(3, |_| " REPEATED".into());
        let replace = self.some(8, |steps| format!(" REPLACE {}", steps.id()));
        let not_after = self.not_after(now_ms);
        let (key, meta) = (self.key.clone(), self.meta());
        format!("RESERVE {key} {id} {buyer}{ttl}{up_to}{repeated}{replace}{not_after}{meta}{}", self.items())
    }

    fn mreserve(&mut self, now_ms: u64) -> String {
        let (ttl, not_after) = (self.ttl(), self.not_after(now_ms));
        let repeated = self.some(3, |_| " REPEATED".into());
        // Ids of either side's own making cannot be told in packed answers.
        let packed = self.one_in(3);
        let mut line =
            format!("MRESERVE {}{ttl}{repeated}{not_after} {}", self.key, if packed { "PACKED" } else { "HOLDS" });
        for _ in 0..1 + self.below(4) {
            let (id, buyer, sku) = (self.new_id(), self.pick(&BUYERS), self.sku());
            let id = if packed && id == "*" { self.id() } else { id };
            let _ = write!(line, " {id} {buyer} {sku} {}", 1 + self.below(3));
        }
        line
    }

    fn ttl(&mut self) -> String {
        self.some(4, |steps| format!(" TTL {}", 1 + steps.below(1_500)))
    }

    fn not_after(&mut self, now_ms: u64) -> String {
        self.some(12, |steps| format!(" NOTAFTER {}", now_ms - 2 + steps.below(4)))
    }

    fn reference(&mut self) -> String {
        self.some(3, |steps| format!(" REF ref{}", steps.below(2)))
    }

    fn meta(&mut self) -> String {
        self.some(8, |_| " META note".into())
    }

    fn setting(&mut self, now_ms: u64) -> String {
        match self.below(7) {
            0 => format!(" LIMIT {}", self.below(10)),
            1 => format!(" HOLD {}", 1 + self.below(800)),
            2 => format!(" MAXHOLD {}", 300 + self.below(2_000)),
            3 => format!(" BACKLOG {}", 1 + self.below(90)),
            4 => format!(" CLOSES {}", if self.one_in(3) { 0 } else { now_ms + self.below(30_000) }),
            5 => format!(" OPENS {}", if self.one_in(3) { 0 } else { now_ms + self.below(200) }),
            _ => self.events(),
        }
    }

    fn look(&mut self) -> String {
        let key = self.key.clone();
        match self.below(10) {
            8 => format!("SHARDS sale {}", 1 + self.below(40)),
            9 if !self.moved => self.throttle(),
            0 | 1 => format!("HOLD {key} {}", self.id()),
            2 | 3 => format!("BUYER {key} {}", self.pick(&BUYERS)),
            4 => self.page(),
            5 => format!("AUDIT {key}"),
            6 => format!("ROUTE sale {} {}", 1 + self.below(20), self.pick(&BUYERS)),
            _ => format!("INFO {key}"),
        }
    }

    /// A rate limit, from one each month to billions each second.
    fn throttle(&mut self) -> String {
        let burst = [0, 3, 15, (1_u64 << 32) - 1][self.random.random_range(0..4)];
        let count = [1, 7, 30, 1_000_003, 1_u64 << 32][self.random.random_range(0..5)];
        let period_s = [1, 2, 60, 30 * 86_400][self.random.random_range(0..4)];
        let quantity = [0, 1, 1, 2, 9, 1_u64 << 31][self.random.random_range(0..6)];
        format!("THROTTLE limit{} {burst} {count} {period_s} {quantity}", self.below(3))
    }

    /// A page of holds; all of them where their numbers may differ.
    fn page(&mut self) -> String {
        let state =
            self.some(2, |steps| format!(" STATE {}", steps.pick(&["held", "Confirmed", "released", "expired"])));
        let key = self.key.clone();
        if self.remembering {
            format!("HOLDS {key} {}{state} COUNT {}", self.below(20), 1 + self.below(20))
        } else {
            format!("HOLDS {key} 0{state}")
        }
    }

    /// A command with a word lost, doubled, or replaced. The key stays: another sale would not be compared.
    fn spoilt(&mut self, mut words: Words) -> Words {
        let at = if words.len() > 2 { self.random.random_range(2..words.len()) } else { words.len() };
        match self.below(3) {
            0 => words.truncate(at),
            1 => words.insert(at, words.last().cloned().unwrap_or_default()),
            _ if at < words.len() => words[at] = self.pick(&NASTY),
            _ => words.push(self.pick(&NASTY)),
        }
        if let Some(packed) = words.iter().position(|word| word == "PACKED") {
            // As above: no ids of either side's own making in packed answers.
            words[packed..].iter_mut().filter(|word| *word == "*").for_each(|word| *word = "x".to_owned());
        }
        words
    }

    /// Looks at all there is, to end an episode.
    pub fn inspection(&self) -> Vec<Words> {
        let mut all = vec![format!("INFO {}", self.key), format!("AUDIT {}", self.key)];
        all.push(format!("HOLDS {} 0 COUNT 1000000", self.key));
        all.extend(BUYERS.iter().map(|buyer| format!("BUYER {} {buyer}", self.key)));
        all.extend((0..14).map(|number| format!("HOLD {} h{number}", self.key)));
        all.iter().map(|line| self.words(line)).collect()
    }
}
