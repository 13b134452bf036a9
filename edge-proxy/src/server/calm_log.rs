//! The log of the process. Lines of the HTTP library are rationed: it writes one for each connection that ends
//! in mid-header, so that a crowd of broken clients would fill the disk.

use std::sync::Mutex;
use std::time::Instant;

use log::{Log, Metadata, Record};

/// Lines of the library a second.
const LINES_PER_SECOND: u32 = 5;

/// What `RUST_LOG` is if it is not set.
const DEFAULT_FILTER: &str = "warn,pingora_load_balancing=error,flashsale_edge=info";

/// Makes this the log of the process.
pub fn init() {
    let logger = env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(DEFAULT_FILTER)).build();
    let level = logger.filter();
    if log::set_boxed_logger(Box::new(CalmLog { logger, ration: Mutex::default() })).is_ok() {
        log::set_max_level(level);
    }
}

struct CalmLog {
    logger: env_logger::Logger,
    ration: Mutex<Ration>,
}

impl Log for CalmLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.logger.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.logger.matches(record) {
            return;
        }
        if record.target().starts_with("pingora") {
            let Some(left_out) = self.ration.lock().ok().and_then(|mut ration| ration.take(Instant::now())) else {
                return;
            };
            if left_out > 0 {
                let target = record.target();
                self.logger.log(
                    &Record::builder()
                        .level(record.level())
                        .target(target)
                        .args(format_args!("{left_out} lines like the next were left out"))
                        .build(),
                );
            }
        }
        self.logger.log(record);
    }

    fn flush(&self) {
        self.logger.flush();
    }
}

/// So many lines a second, and a count of those beyond.
#[derive(Default)]
struct Ration {
    since: Option<Instant>,
    lines: u32,
    left_out: u64,
}

impl Ration {
    /// `None` if the line is one too many; else how many were left out before it.
    fn take(&mut self, now: Instant) -> Option<u64> {
        if self.since.is_none_or(|since| now.duration_since(since).as_secs() >= 1) {
            (self.since, self.lines) = (Some(now), 0);
        }
        if self.lines == LINES_PER_SECOND {
            self.left_out += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_flood_leaves_few_lines_and_a_count() {
        let mut ration = Ration::default();
        let start = Instant::now();
        let written = (0..1000).filter(|_| ration.take(start).is_some()).count();
        assert_eq!(written, LINES_PER_SECOND as usize);
        assert_eq!(ration.take(start + Duration::from_secs(1)), Some(1000 - u64::from(LINES_PER_SECOND)));
        assert_eq!(ration.take(start + Duration::from_secs(1)), Some(0));
    }
}
