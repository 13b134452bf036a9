use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The time of this machine, unix ms.
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock stands after 1970").as_millis() as u64
}

/// Waits until `condition` is true, looking every few milliseconds.
///
/// # Panics
/// If it is not true within `limit`; `what` says in the panic what was waited for.
#[track_caller]
pub fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    let mut pause = Duration::from_millis(2);
    while !condition() {
        assert!(started.elapsed() < limit, "waited {limit:?} in vain until {what}");
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}
