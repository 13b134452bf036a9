//! Ending due holds of keys that nobody touches.
//!
//! Every command treats what is due by itself, so this is about memory, events and lateness, never about
//! right answers. A schedule knows when each key should be looked at; a timer takes those whose time has
//! come, a bounded number of holds at a time, on primaries only and never while the server keeps quiet.

use crate::data_type::SaleKey;
use crate::execute;
use crate::server::{Access, Ctx, OwnedString, must_keep_quiet};
use crate::state::{self, State};
use redis_module::raw;
use std::collections::BTreeSet;
use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// How often the schedule is looked at, in ms.
const TICK_MS: i64 = 25;
/// After a tick that left due holds behind, the next one comes this soon, in ms.
const HURRIED_TICK_MS: i64 = 1;
/// Most holds ended in one tick: about a quarter of a millisecond.
const HOLDS_PER_TICK: usize = 512;
/// Most keys looked at in one tick.
const KEYS_PER_TICK: usize = 128;

/// When to look at which key. A key that is gone or was renamed is dropped when its time comes.
#[derive(Default)]
pub(crate) struct Schedule {
    due: BTreeSet<(u64, c_int, Vec<u8>)>,
}

impl Schedule {
    /// Looks at a key no later than `at_ms`. Earlier entries of it stay and do no harm.
    pub fn add(&mut self, at_ms: u64, db: c_int, key: &[u8]) {
        self.due.insert((at_ms, db, key.to_vec()));
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
    ctx.start_timer(TICK_MS, on_timer);
}

/// # Safety
/// Called by the server alone.
unsafe extern "C" fn on_timer(raw: *mut raw::RedisModuleCtx, _data: *mut c_void) {
    // SAFETY: the context of a timer callback, on the main thread.
    let ctx = unsafe { Ctx::from_raw(raw) };
    let flags = ctx.flags();
    let idle = flags.is_replica() || flags.is_loading() || must_keep_quiet();
    let tick =
        if idle { Ok(TICK_MS) } else { catch_unwind(AssertUnwindSafe(|| state::with(|state| tick(ctx, state)))) };
    let next_ms = tick.unwrap_or_else(|_| {
        ctx.warn("flashsale: a bug stopped a sweep of due holds; commands still treat them");
        TICK_MS
    });
    ctx.start_timer(next_ms, on_timer);
}

/// Ends due holds, and says when to come back.
fn tick(ctx: Ctx<'_>, state: &mut State) -> i64 {
    let now_ms = state.now();
    let mut left = HOLDS_PER_TICK;
    for _ in 0..KEYS_PER_TICK {
        let Some((db, key)) = state.schedule.take_due(now_ms) else { return TICK_MS };
        left -= sweep(ctx, state, db, &key, left);
        if left == 0 {
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
    value.forget_schedule();
    execute::expire(ctx, state, name.borrowed(), value, most)
}
