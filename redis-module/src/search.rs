//! Sales whose keys were renamed or moved are found again, so that the timer ends their due holds.
//!
//! The type learns when a value is taken from its key, but not where it goes. A value that lives on after that
//! is looked for, a few keys at a time. Keyspace notifications would tell its new name at once, but every DEL and
//! EXPIRE of the server would pay for them, and Valkey 8.1 leaves the client of a MOVE, or of a COPY to another
//! database, in that database as soon as any module listens.

use crate::scan::ScanCursor;
use crate::server::{Access, Ctx, OwnedString};
use crate::state::State;
use std::ffi::c_int;
use std::sync::Weak;

/// A deleted value may take so long to be freed in the background, in ms.
const GRACE_MS: u64 = 200;
/// Steps of the scan in one tick: each looks at a key or two.
const STEPS_PER_TICK: usize = 100;
/// Most values that are watched; if more are unlinked at once, they are searched for without a further look.
const MOST_WATCHED: usize = 1_000;

#[derive(Default)]
pub(crate) struct Search {
    /// Values that were taken from their keys, and when.
    unlinked: Vec<(u64, Weak<()>)>,
    wanted: bool,
    running: Option<Scan>,
}

/// Where a scan of all databases stands.
struct Scan {
    db: c_int,
    cursor: ScanCursor,
}

impl Search {
    /// A value was taken from its key: deleted, overwritten, renamed or moved.
    pub fn unlinked(&mut self, now_ms: u64, life: Weak<()>) {
        match self.unlinked.len() {
            MOST_WATCHED.. => self.wanted = true,
            _ => self.unlinked.push((now_ms, life)),
        }
    }

    /// Whether a search is on.
    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    fn look_at_unlinked(&mut self, now_ms: u64) {
        self.unlinked.retain(|(since_ms, life)| {
            let lives = life.strong_count() > 0;
            let lives_on = lives && since_ms + GRACE_MS <= now_ms;
            self.wanted |= lives_on;
            lives && !lives_on
        });
    }
}

/// Goes a little on with the search, if there is one.
pub(crate) fn step(ctx: Ctx<'_>, state: &mut State, now_ms: u64) {
    if !state.search.unlinked.is_empty() {
        state.search.look_at_unlinked(now_ms);
    }
    if std::mem::take(&mut state.search.wanted) {
        state.search.running = Some(Scan { db: 0, cursor: ScanCursor::new() });
    }
    let Some(mut scan) = state.search.running.take() else { return };
    let mut found = Vec::new();
    for _ in 0..STEPS_PER_TICK {
        if !ctx.select_db(scan.db) {
            return schedule(ctx, state, &found);
        }
        let is_last = !ctx.scan(&mut scan.cursor, |name, key| {
            if state.data_type.is_in(key) {
                found.push((scan.db, name.bytes().to_vec()));
            }
        });
        if is_last {
            scan = Scan { db: scan.db + 1, cursor: ScanCursor::new() };
        }
    }
    schedule(ctx, state, &found);
    state.search.running = Some(scan);
}

fn schedule(ctx: Ctx<'_>, state: &mut State, found: &[(c_int, Vec<u8>)]) {
    for (db, name) in found {
        if !ctx.select_db(*db) {
            continue;
        }
        let owned = OwnedString::new(name);
        let mut key = ctx.open(owned.borrowed(), Access::Write);
        if let Ok(Some(value)) = state.data_type.of(&mut key) {
            value.forget_name();
            value.schedule(&mut state.schedule, || (*db, name.clone()));
        }
    }
}
