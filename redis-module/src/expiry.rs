//! Ending due holds of keys that nobody touches.
//!
//! Every command treats what is due by itself, so this is about memory, events and lateness, never about
//! right answers. A schedule knows when each key should be looked at; a timer takes those whose time has
//! come, for a bounded time and a bounded number of holds, on primaries only and never while the server keeps quiet.

use crate::config::{SWEEP_HOLDS_PER_TICK, SWEEP_INTERVAL_MS, SWEEP_KEYS_PER_TICK};
use crate::data_type::SaleKey;
use crate::server::{Access, Ctx, OwnedString, must_keep_quiet};
use crate::state::{self, State};
use crate::{cluster, execute, search, totals};
use redis_module::raw;
use std::collections::BTreeSet;
use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// After a tick that left due holds behind, the next one comes this soon, in ms.
const HURRIED_TICK_MS: i64 = 1;
/// A tick stops when it has taken so long: nobody's command should wait a millisecond for it.
const TICK_TIME: Duration = Duration::from_micros(500);
/// Holds that are ended between two looks at the time, about a tenth of a millisecond's work.
const PART_HOLDS: usize = 256;
/// In a cluster: a key that is not this node's to write is looked at again after this.
const NOT_OURS_MS: u64 = 1_000;

/// When to look at which key. A key that is gone or was renamed is dropped when its time comes.
#[derive(Default)]
pub(crate) struct Schedule {
    due: BTreeSet<(u64, c_int, Vec<u8>)>,
    ended: u64,
    /// Whether a cluster bus wants to know of shards; if so, the keys of those that were made or loaded or have
    /// moved since it last looked.
    pub has_bus: bool,
    pub found_shards: BTreeSet<Vec<u8>>,
}

/// Keys whose time has come.
pub(crate) struct Backlog {
    /// How many, up to [`MOST_COUNTED`].
    pub keys: usize,
    /// For how long the first has been waiting.
    pub lag_ms: u64,
}

/// So many due keys are counted.
const MOST_COUNTED: usize = 1_000;

impl Schedule {
    /// Looks at a key no later than `at_ms`. Earlier entries of it stay and do no harm.
    pub fn add(&mut self, at_ms: u64, db: c_int, key: &[u8]) {
        self.due.insert((at_ms, db, key.to_vec()));
    }

    /// What is due and has not been looked at.
    pub fn backlog(&self, now_ms: u64) -> Backlog {
        let due = self.due.iter().take_while(|(at_ms, ..)| *at_ms <= now_ms).take(MOST_COUNTED);
        let keys = due.map(|(_, db, key)| (db, key)).collect::<BTreeSet<_>>().len();
        let first_ms = self.due.first().map_or(now_ms, |(at_ms, ..)| *at_ms);
        Backlog { keys, lag_ms: now_ms.saturating_sub(first_ms) }
    }

    /// Holds that the timer has ended since the server started.
    pub fn ended(&self) -> u64 {
        self.ended
    }

    fn take_due(&mut self, now_ms: u64) -> Option<(c_int, Vec<u8>)> {
        if self.due.first()?.0 > now_ms {
            return None;
        }
        self.due.pop_first().map(|(_, db, key)| (db, key))
    }

    /// Databases have changed places.
    pub fn swap_dbs(&mut self, one: c_int, other: c_int) {
        let swapped = |db| match db {
            db if db == one => other,
            db if db == other => one,
            db => db,
        };
        self.due = std::mem::take(&mut self.due).into_iter().map(|(at, db, key)| (at, swapped(db), key)).collect();
    }
}

/// Starts the timer; it starts itself again for ever.
pub(crate) fn start(ctx: Ctx<'_>) {
    ctx.start_timer(SWEEP_INTERVAL_MS.get(), on_timer);
}

/// # Safety
/// Called by the server alone.
unsafe extern "C" fn on_timer(raw: *mut raw::RedisModuleCtx, _data: *mut c_void) {
    // SAFETY: the context of a timer callback, on the main thread.
    let ctx = unsafe { Ctx::from_raw(raw) };
    let flags = ctx.flags();
    let obeys = flags.is_replica() || flags.is_loading();
    // Events tell it too; whatever they may miss is mended here.
    state::try_with(|state| state.obeys = obeys);
    let idle = obeys || must_keep_quiet();
    let interval_ms = SWEEP_INTERVAL_MS.get();
    let tick =
        if idle { Ok(interval_ms) } else { catch_unwind(AssertUnwindSafe(|| state::with(|state| tick(ctx, state)))) };
    let next_ms = tick.unwrap_or_else(|_| {
        totals::count_bug();
        ctx.warn("flashsale: a bug stopped a sweep of due holds; commands still treat them");
        interval_ms
    });
    ctx.start_timer(next_ms, on_timer);
}

/// Ends due holds, and says when to come back.
fn tick(ctx: Ctx<'_>, state: &mut State) -> i64 {
    let now_ms = state.now();
    search::step(ctx, state, now_ms);
    let started = Instant::now();
    let mut left = SWEEP_HOLDS_PER_TICK.get() as usize;
    for _ in 0..SWEEP_KEYS_PER_TICK.get() {
        let Some((db, key)) = state.schedule.take_due(now_ms) else {
            return if state.search.is_running() { HURRIED_TICK_MS } else { SWEEP_INTERVAL_MS.get() };
        };
        // A key of which more is due comes back at once.
        let ended = sweep(ctx, state, db, &key, left.min(PART_HOLDS));
        state.schedule.ended += ended as u64;
        left -= ended;
        if left == 0 || started.elapsed() >= TICK_TIME {
            break;
        }
    }
    HURRIED_TICK_MS
}

/// Ends at most `most` due holds of one key, and schedules the rest. Tells how many.
fn sweep(ctx: Ctx<'_>, state: &mut State, db: c_int, name: &[u8], most: usize) -> usize {
    if !ctx.select_db(db) {
        return 0;
    }
    let name = OwnedString::new(name);
    let mut key = ctx.open(name.borrowed(), Access::Write);
    let Ok(Some(value)) = SaleKey::of(&mut key, state.data_type) else { return 0 };
    if state.schedule.has_bus && !cluster::owns(ctx, name.borrowed()) {
        // The slot is being moved, or the cluster is not well: no node writes then of its own accord.
        let again_ms = state.now() + NOT_OURS_MS;
        state.schedule.add(again_ms, db, name.borrowed().bytes());
        return 0;
    }
    value.forget_schedule();
    execute::expire(ctx, state, name.borrowed(), value, most)
}
