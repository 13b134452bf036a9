//! Which shard asks which other one for units, and how many it is given: the policy of sharded sales.
//!
//! Stock moves to buyers (the contract's section 6), so only demand moves stock: a shard that nobody buys from asks
//! for nothing, however little it has. The same rules serve the modules of a cluster, which tell each other their
//! stock, and a balancer outside that reads the stock of every shard and drives GRANT and ACCEPT itself. Whatever
//! these rules are told may be old or wrong: units are never made or lost by them, only moved too early or too late.
//!
//! **When to ask.** A shard is *low* when it has less than [`LOW_WATER_MS`] of its pace, or less than its largest
//! request that could not be served. It asks for what brings it to [`TARGET_MS`] of its pace. One request for a SKU
//! is on its way at a time; if no units have come after [`RETRY_MS`], the next donor is asked.
//!
//! **Whom.** A shard of which fresh news ([`FRESH_MS`]) says that it has units and no buyers, or more than twice the
//! asker's units. Those with at least half as many as the richest are all as good: the asker's own number and its attempt choose among
//! them, so that shards that run low together ask different donors.
//!
//! **How many are given.** The donor decides, from what it truly has and how fast it sells:
//!
//! - Both shards' units are divided by their paces, and the asker is given what it lacks of its part; nothing, if it
//!   has half of its part already. So two shards that sell alike never send the same units to and fro. What the
//!   donor's own largest waiting request needs is as good as sold.
//! - A donor that sells nothing keeps half, for buyers who may come, until it has no more than [`HANDFUL`]: those it
//!   gives away whole, so that the last unit gets to whoever wants it.
//! - Where neither can serve its own largest request, the shard with the smaller number gets what the other one has,
//!   if that is enough for it. Otherwise both would keep too little for ever.

/// A shard is low when its stock lasts less than this at its pace.
pub const LOW_WATER_MS: u64 = 500;
/// It asks for as much as lasts this long.
pub const TARGET_MS: u64 = 2_000;
/// News of another shard counts this long: three times the longest time between two of them.
pub const FRESH_MS: u64 = 3_000;
/// After this the next donor is asked.
pub const RETRY_MS: u64 = 50;
/// So few units are given away whole by a shard that sells none.
pub const HANDFUL: u64 = 8;
/// Demand is measured over this long; a request that was refused counts as long.
pub const WINDOW_MS: u64 = 1_000;

/// What buyers want of a SKU in one shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Need {
    /// Units taken or refused for lack of stock, per second.
    pub pace: u64,
    /// Units of the largest request that was lately refused for lack of stock; 0 if none was.
    pub wanting: u64,
}

impl Need {
    /// Whether anybody wants anything.
    pub fn is_none(self) -> bool {
        self == Self::default()
    }

    fn lasting(self, ms: u64) -> u64 {
        let units = (u128::from(self.pace) * u128::from(ms)).div_ceil(1_000);
        self.wanting.max(u64::try_from(units).unwrap_or(u64::MAX))
    }

    /// With fewer units than this a shard is low.
    pub fn low_water(self) -> u64 {
        self.lasting(LOW_WATER_MS)
    }

    /// So many units it would like to have.
    pub fn target(self) -> u64 {
        self.lasting(TARGET_MS)
    }

    /// How much a shard weighs when units are divided: one that wants anything weighs at least 1.
    fn weight(self) -> u128 {
        u128::from(self.pace.max(u64::from(self.wanting > 0)).min(u64::from(u32::MAX)))
    }
}

/// A SKU in one shard, as that shard knows it itself or as another one was told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shelf {
    /// Number of the shard.
    pub shard: u32,
    /// Units free to be reserved or given away.
    pub available: u64,
    /// What buyers want there.
    pub need: Need,
}

/// What is known of another shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// What it said.
    pub shelf: Shelf,
    /// How long ago, in ms.
    pub age_ms: u64,
}

/// A request for units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The shard to ask.
    pub donor: u32,
    /// Units to ask for, at least 1 and never more than the donor is thought to have.
    pub qty: u64,
}

/// Whom a shard should ask for units of a SKU now, if anybody. `attempt` counts the requests that brought nothing
/// since units last came. The caller asks for one SKU at one donor at a time, see [`RETRY_MS`].
pub fn ask(own: &Shelf, peers: &[Peer], attempt: u32) -> Option<Ask> {
    if own.available >= own.need.low_water() {
        return None;
    }
    let may_give = |peer: &&Peer| {
        let other = &peer.shelf;
        let richer = other.available > own.available.saturating_mul(2);
        let willing = other.need.is_none() || richer || must_give_in(other, own);
        other.shard != own.shard && peer.age_ms <= FRESH_MS && other.available > 0 && willing
    };
    let richest = peers.iter().filter(may_give).map(|peer| peer.shelf.available).max()?;
    let mut good: Vec<&Shelf> = peers
        .iter()
        .filter(may_give)
        .map(|peer| &peer.shelf)
        .filter(|shelf| shelf.available >= richest.div_ceil(2))
        .collect();
    good.sort_unstable_by_key(|shelf| shelf.shard);
    let turn = u64::from(own.shard) + u64::from(attempt);
    let donor = good[(turn % good.len() as u64) as usize];
    let lacking = own.need.target() - own.available;
    Some(Ask { donor: donor.shard, qty: lacking.min(donor.available) })
}

/// How many units a donor gives to a shard that asks for `qty`: none is an answer too.
pub fn give(own: &Shelf, asker: &Shelf, qty: u64) -> u64 {
    if own.shard == asker.shard || asker.need.is_none() {
        return 0;
    }
    if own.need.is_none() {
        let keeps_half = own.available > HANDFUL;
        return qty.min(if keeps_half { own.available.div_ceil(2) } else { own.available });
    }
    if must_give_in(own, asker) {
        return qty.min(own.available);
    }
    let both = u128::from(own.available) + u128::from(asker.available);
    let part = both * asker.need.weight() / (asker.need.weight() + own.need.weight());
    let part = u64::try_from(part).unwrap_or(u64::MAX);
    if asker.available > part / 2 {
        return 0;
    }
    // What a buyer here waits for is as good as taken.
    let own_buyers = if own.available < own.need.wanting { 0 } else { own.need.wanting };
    qty.min(part - asker.available).min(own.available - own_buyers)
}

/// Whether neither shard can serve its own largest request, the asker comes first, and both together have enough.
fn must_give_in(donor: &Shelf, asker: &Shelf) -> bool {
    let short = |shelf: &Shelf| shelf.available < shelf.need.wanting;
    short(donor)
        && short(asker)
        && asker.shard < donor.shard
        && donor.available.saturating_add(asker.available) >= asker.need.wanting
}

/// The counters of a SKU in one shard that tell whether units of it are anywhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Units free to be reserved.
    pub available: u64,
    /// Units set aside.
    pub held: u64,
    /// Units ever sent to other shards.
    pub granted: u64,
    /// Units ever received from other shards.
    pub accepted: u64,
}

/// Whether the counters of *all* shards of a sale show that no unit is available, held or in transit anywhere.
///
/// They need not be of the same moment. Each shard's counters fulfil `stocked + accepted - granted = available +
/// held + sold` at its own moment; with nothing available or held anywhere and as much accepted as granted, the
/// sold units add up to the stocked ones, and what is sold stays sold until somebody returns it.
pub fn is_all_sold(shards: impl IntoIterator<Item = Counters>) -> bool {
    let (mut granted, mut accepted) = (0_u128, 0_u128);
    for shard in shards {
        if shard.available > 0 || shard.held > 0 {
            return false;
        }
        granted += u128::from(shard.granted);
        accepted += u128::from(shard.accepted);
    }
    granted == accepted
}

/// Measures the [`Need`] of a SKU in one shard.
#[derive(Clone, Copy, Debug, Default)]
pub struct Meter {
    /// Units wanted since `since_ms`, and in the window before.
    units: u64,
    units_before: u64,
    since_ms: u64,
    wanting: u64,
    wanting_since_ms: u64,
}

impl Meter {
    /// Units were taken at `now_ms`.
    pub fn took(&mut self, units: u64, now_ms: u64) {
        self.roll(now_ms);
        self.units = self.units.saturating_add(units);
    }

    /// A request for so many units was refused for lack of them, or waits for them.
    pub fn refused(&mut self, units: u64, now_ms: u64) {
        self.took(units, now_ms);
        self.wanted(units, now_ms);
    }

    /// A request that was counted before still waits for so many units.
    pub fn wanted(&mut self, units: u64, now_ms: u64) {
        self.forget_old_wish(now_ms);
        if units >= self.wanting {
            (self.wanting, self.wanting_since_ms) = (units, now_ms);
        }
    }

    /// Units have arrived: who still wants some will say so again.
    pub fn arrived(&mut self) {
        self.wanting = 0;
    }

    /// What is wanted, at `now_ms`.
    pub fn need(&mut self, now_ms: u64) -> Need {
        self.roll(now_ms);
        self.forget_old_wish(now_ms);
        // The window before counts by the part of it that the last second still covers.
        let left_ms = WINDOW_MS - now_ms.saturating_sub(self.since_ms).min(WINDOW_MS);
        let before = u128::from(self.units_before) * u128::from(left_ms) / u128::from(WINDOW_MS);
        Need { pace: self.units.saturating_add(before as u64), wanting: self.wanting }
    }

    fn forget_old_wish(&mut self, now_ms: u64) {
        if now_ms.saturating_sub(self.wanting_since_ms) > WINDOW_MS {
            self.wanting = 0;
        }
    }

    fn roll(&mut self, now_ms: u64) {
        let elapsed_ms = now_ms.saturating_sub(self.since_ms);
        if elapsed_ms < WINDOW_MS {
            return;
        }
        self.units_before = if elapsed_ms < 2 * WINDOW_MS { self.units } else { 0 };
        self.units = 0;
        self.since_ms = now_ms - elapsed_ms % WINDOW_MS;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shelf(shard: u32, available: u64, pace: u64, wanting: u64) -> Shelf {
        Shelf { shard, available, need: Need { pace, wanting } }
    }

    fn peers(shelves: &[Shelf]) -> Vec<Peer> {
        shelves.iter().map(|&shelf| Peer { shelf, age_ms: 0 }).collect()
    }

    #[test]
    fn a_shard_asks_before_it_is_empty_and_only_for_buyers() {
        let rich = peers(&[shelf(1, 1_000, 0, 0)]);
        assert_eq!(ask(&shelf(0, 0, 0, 0), &rich, 0), None);
        assert_eq!(ask(&shelf(0, 50, 100, 0), &rich, 0), None);
        assert_eq!(ask(&shelf(0, 49, 100, 0), &rich, 0), Some(Ask { donor: 1, qty: 151 }));
        assert_eq!(ask(&shelf(0, 2, 0, 3), &rich, 0), Some(Ask { donor: 1, qty: 1 }));
        let old = [Peer { shelf: shelf(1, 1_000, 0, 0), age_ms: FRESH_MS + 1 }];
        assert_eq!(ask(&shelf(0, 0, 100, 0), &old, 0), None);
    }

    #[test]
    fn shards_that_run_low_together_ask_different_donors() {
        let rich = peers(&[shelf(6, 100, 0, 0), shelf(7, 90, 0, 0), shelf(8, 60, 0, 0), shelf(9, 49, 0, 0)]);
        let donors = |attempt| (0..3).map(move |shard| (shard, attempt));
        let of = |(shard, attempt)| ask(&shelf(shard, 0, 10, 1), &rich, attempt).unwrap().donor;
        let mut first: Vec<u32> = donors(0).map(of).collect();
        first.sort_unstable();
        assert_eq!(first, [6, 7, 8]);
        assert_ne!(of((0, 0)), of((0, 1)), "a donor that does not answer is left alone next time");
    }

    #[test]
    fn a_donor_shares_by_pace_and_keeps_what_it_sells() {
        let empty = shelf(0, 0, 100, 1);
        assert_eq!(give(&shelf(1, 100, 100, 0), &empty, 1_000), 50);
        assert_eq!(give(&shelf(1, 100, 300, 0), &empty, 1_000), 25);
        assert_eq!(give(&shelf(1, 100, 0, 0), &empty, 1_000), 50);
        assert_eq!(give(&shelf(1, 100, 0, 0), &empty, 7), 7);
        assert_eq!(give(&shelf(1, HANDFUL, 0, 0), &empty, 1_000), HANDFUL);
        assert_eq!(give(&shelf(1, 1, 100, 0), &empty, 1), 0);
        assert_eq!(give(&shelf(1, 100, 100, 0), &shelf(0, 60, 100, 0), 1_000), 0);
        assert_eq!(give(&shelf(1, 100, 0, 0), &shelf(0, 0, 0, 0), 1_000), 0);
    }

    #[test]
    fn two_that_cannot_serve_their_buyers_let_one_of_them_do_so() {
        let (one, other) = (shelf(0, 2, 1, 3), shelf(1, 2, 1, 3));
        assert_eq!(ask(&one, &peers(&[other]), 0), Some(Ask { donor: 1, qty: 1 }));
        assert_eq!(give(&other, &one, 1), 1);
        assert_eq!(ask(&other, &peers(&[one]), 0), None);
        assert_eq!(give(&one, &other, 1), 0);
    }

    #[test]
    fn the_meter_follows_demand_and_forgets_it() {
        let mut meter = Meter::default();
        let start_ms = 1_700_000_000_000;
        (0..1_000).for_each(|ms| meter.took(2, start_ms + ms));
        let need = meter.need(start_ms + 999);
        assert!((1_900..=2_000).contains(&need.pace), "{need:?}");
        meter.refused(3, start_ms + 1_000);
        assert_eq!(meter.need(start_ms + 1_000).wanting, 3);
        meter.arrived();
        assert_eq!(meter.need(start_ms + 1_000).wanting, 0);
        assert!(meter.need(start_ms + 3_500).is_none());
    }

    #[test]
    fn what_is_on_its_way_is_not_sold() {
        let sold = Counters { granted: 3, accepted: 2, ..Counters::default() };
        let other = Counters { granted: 0, accepted: 1, ..Counters::default() };
        assert!(is_all_sold([sold, other]));
        assert!(!is_all_sold([sold, Counters::default()]));
        assert!(!is_all_sold([sold, Counters { held: 1, ..other }]));
    }
}
