//! What the module keeps beside the keys: buffers that are used again, made-up ids, the schedule of expiry.
//!
//! All of it belongs to the server's main thread, and so to a thread local: `free` may run elsewhere and
//! touches none of it.

use crate::blocking::Waiters;
use crate::cluster_bus::Bus;
use crate::data_type::Value;
use crate::expiry::Schedule;
use crate::ids::IdMaker;
use crate::order_stream::Words;
use crate::rate_type::Rate;
use crate::search::Search;
use crate::server;
use crate::typed::NativeType;
use flashsale_core::Facts;
use flashsale_core::effect::EffectLog;
use flashsale_core::protocol::packed::Packed;
use std::cell::RefCell;

pub(crate) struct State {
    pub log: EffectLog,
    pub facts: Facts,
    /// Whether the step told somebody of a write that an earlier step made.
    pub repeats: bool,
    pub words: Words,
    pub packed: Packed,
    pub ids: IdMaker,
    pub schedule: Schedule,
    pub search: Search,
    pub waiters: Waiters,
    pub bus: Bus,
    /// Keys the hash of ids, drawn at load.
    pub seed: [u64; 2],
    /// Whether commands may come from a primary or from a file that is being loaded.
    pub obeys: bool,
    /// The latest time seen: the clock never runs backwards.
    now_ms: u64,
    /// The type `flashsale`.
    pub data_type: NativeType<Value>,
    /// The type `flashrate`.
    pub rate_type: NativeType<Rate>,
}

thread_local! {
    static STATE: RefCell<State> = RefCell::new(State {
        log: EffectLog::default(),
        facts: Facts::default(),
        repeats: false,
        words: Words::new(),
        packed: Packed::default(),
        ids: IdMaker::default(),
        schedule: Schedule::default(),
        search: Search::default(),
        waiters: Waiters::default(),
        bus: Bus::default(),
        seed: [0; 2],
        obeys: true,
        now_ms: 0,
        data_type: NativeType::NONE,
        rate_type: NativeType::NONE,
    });
}

/// Lends the state. Callbacks of the server that run inside must find it again by argument, not by this.
pub(crate) fn with<T>(work: impl FnOnce(&mut State) -> T) -> T {
    STATE.with_borrow_mut(work)
}

/// Like [`with`], for callbacks that may run inside another one: `None` if the state is lent out.
pub(crate) fn try_with<T>(work: impl FnOnce(&mut State) -> T) -> Option<T> {
    STATE.with(|state| state.try_borrow_mut().ok().map(|mut state| work(&mut state)))
}

impl State {
    /// The time, unix ms.
    pub fn now(&mut self) -> u64 {
        self.now_ms = self.now_ms.max(server::clock_ms()).min(flashsale_core::bounds::MAX_TIME_MS);
        self.now_ms
    }
}
