//! Stage `level`: in three degrees, a share of those who arrive is turned away at random.
//!
//! Level 0 turns nobody away. An operator sets a level by hand (`PUT /api/level`), or the edge climbs by itself
//! where `auto` is set: one level up for each `rise_ms` in which the machine or the stock is overloaded, one down
//! for each `fall_ms` in which both are at ease. Who holds, extends or pays is never turned away here.

use std::sync::Arc;
use std::sync::atomic::{AtomicI8, AtomicU8, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use rand::RngExt;
use serde::Deserialize;

use super::lanes::Lanes;
use super::stage::{Check, Mode, Stage, Verdict, now};
use super::visit::Visit;
use crate::background::{self, Task};
use crate::config::millis;
use crate::http::problem::Problem;
use crate::metrics;

/// The highest level.
pub const LEVEL_MAX: u8 = 3;

/// The `[levels]` section.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LevelsConfig {
    pub mode: Mode,
    /// The share turned away at levels 1, 2 and 3.
    pub drop: [f64; LEVEL_MAX as usize],
    /// Whether levels change by themselves.
    pub auto: bool,
    /// Share of the workers' processor time above which the machine is overloaded, and below which it is at ease.
    pub cpu_high: f64,
    pub cpu_low: f64,
    /// Mean answer time above which the stock is overloaded; below half of it it is at ease.
    pub redis_high_ms: u64,
    pub rise_ms: u64,
    pub fall_ms: u64,
}

impl Default for LevelsConfig {
    fn default() -> Self {
        Self {
            mode: Mode::Enforce,
            drop: [0.5, 0.9, 0.99],
            auto: false,
            cpu_high: 0.95,
            cpu_low: 0.7,
            redis_high_ms: 250,
            rise_ms: 1000,
            fall_ms: 5000,
        }
    }
}

impl LevelsConfig {
    pub fn validate(&self) -> anyhow::Result<()> {
        ensure!(self.drop.iter().all(|share| (0.0..=1.0).contains(share)), "[levels] drop: shares lie in 0 to 1");
        ensure!(self.drop.is_sorted(), "[levels] drop: a higher level turns away at least as many");
        ensure!(
            0.0 < self.cpu_low && self.cpu_low <= self.cpu_high,
            "[levels] 0 < cpu_low <= cpu_high must hold, or levels would go up and down for ever"
        );
        ensure!(
            self.redis_high_ms > 0 && self.rise_ms > 0 && self.fall_ms > 0,
            "[levels] redis_high_ms, rise_ms and fall_ms must be at least 1"
        );
        Ok(())
    }
}

/// How the machine and the stock are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Strain {
    Overloaded,
    Between,
    AtEase,
}

/// Climbs and descends by what it is told.
struct Ladder {
    level: u8,
    rise: Duration,
    fall: Duration,
    /// Since when the strain has been as it is.
    since: Instant,
    strain: Strain,
}

impl Ladder {
    fn new(config: &LevelsConfig, level: u8, now: Instant) -> Self {
        Self { level, rise: millis(config.rise_ms), fall: millis(config.fall_ms), since: now, strain: Strain::Between }
    }

    fn step(&mut self, strain: Strain, now: Instant) -> u8 {
        if strain != self.strain {
            (self.strain, self.since) = (strain, now);
        }
        let lasted = now.duration_since(self.since);
        let next = match strain {
            Strain::Overloaded if lasted >= self.rise => (self.level + 1).min(LEVEL_MAX),
            Strain::AtEase if lasted >= self.fall => self.level.saturating_sub(1),
            _ => return self.level,
        };
        // The next step takes its own time.
        (self.level, self.since) = (next, now);
        next
    }
}

/// The levels, as the config has them.
pub struct Levels {
    config: LevelsConfig,
    switch: Arc<Switch>,
}

/// The level, whatever becomes of the config.
struct Switch {
    measured: AtomicU8,
    /// Set by an operator; -1: not.
    by_hand: AtomicI8,
}

impl Levels {
    pub fn new(config: &LevelsConfig) -> Arc<Self> {
        metrics::LEVEL.set(0);
        let switch = Switch { measured: AtomicU8::new(0), by_hand: AtomicI8::new(-1) };
        Arc::new(Self { config: config.clone(), switch: Arc::new(switch) })
    }

    /// Others, at the same level. Nothing changes until they are in force.
    pub fn with(&self, config: &LevelsConfig) -> Arc<Self> {
        Arc::new(Self { config: config.clone(), switch: self.switch.clone() })
    }

    /// The level that counts.
    pub fn level(&self) -> u8 {
        match u8::try_from(self.switch.by_hand.load(Ordering::Relaxed)) {
            Ok(by_hand) => by_hand,
            // What nobody measures any more would never go down again.
            Err(_) if !self.config.auto => 0,
            Err(_) => self.switch.measured.load(Ordering::Relaxed),
        }
    }

    /// The level an operator has set.
    pub fn by_hand(&self) -> Option<u8> {
        self.switch.by_hand.load(Ordering::Relaxed).try_into().ok()
    }

    /// Sets the level by hand; `None` gives it back to the measuring.
    pub fn set(&self, level: Option<u8>) {
        let level = level.map_or(-1, |level| level.min(LEVEL_MAX) as i8);
        self.switch.by_hand.store(level, Ordering::Relaxed);
        metrics::LEVEL.set(self.level().into());
    }

    /// Whether levels change by themselves when no operator has set one.
    pub fn is_auto(&self) -> bool {
        self.config.auto
    }

    /// The share of arrivals that is turned away now.
    pub fn share(&self) -> f64 {
        match self.level() {
            0 => 0.0,
            level => self.config.drop[usize::from(level) - 1],
        }
    }

    /// These are in force now. Measures, and changes the level by it, for as long as the task lives; `None` if levels
    /// do not change by themselves.
    pub fn watch(self: &Arc<Self>, lanes: Arc<Lanes>, workers: usize) -> Option<Task> {
        if !self.config.auto {
            self.switch.measured.store(0, Ordering::Relaxed);
        }
        metrics::LEVEL.set(self.level().into());
        self.config.auto.then(|| background::spawn(watch(self.clone(), lanes, workers)))
    }
}

const LOOK_EVERY: Duration = Duration::from_millis(200);

async fn watch(levels: Arc<Levels>, lanes: Arc<Lanes>, workers: usize) {
    let config = &levels.config;
    let mut ladder = Ladder::new(config, levels.switch.measured.load(Ordering::Relaxed), Instant::now());
    let mut before = (Instant::now(), processor_time());
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let now = (Instant::now(), processor_time());
        let span = now.0.duration_since(before.0).as_secs_f64() * workers as f64;
        let cpu = now.1.saturating_sub(before.1).as_secs_f64() / span;
        before = now;
        let strain = strain(config, cpu, lanes.latency());
        let level = ladder.step(strain, now.0);
        if levels.switch.measured.swap(level, Ordering::Relaxed) != level {
            log::warn!("level {level}: workers use {:.0}% of their time, the stock {:?}", cpu * 100.0, lanes.latency());
        }
        metrics::LEVEL.set(levels.level().into());
    }
}

fn strain(config: &LevelsConfig, cpu: f64, redis: Duration) -> Strain {
    let redis_high = millis(config.redis_high_ms);
    if cpu >= config.cpu_high || redis >= redis_high {
        Strain::Overloaded
    } else if cpu < config.cpu_low && redis < redis_high / 2 {
        Strain::AtEase
    } else {
        Strain::Between
    }
}

/// What this process has used of the processors, in user and system mode, to a hundredth of a second.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name in the second field may hold spaces; it ends with the last parenthesis.
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u64 = fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

/// Stage `level`.
pub struct LevelStage(pub Arc<Levels>);

impl Stage for LevelStage {
    fn name(&self) -> &'static str {
        "level"
    }

    fn mode(&self) -> Mode {
        self.0.config.mode
    }

    fn check<'a>(&'a self, visit: &'a mut Visit<'_>) -> Check<'a> {
        now(self.judge(visit))
    }
}

impl LevelStage {
    fn judge(&self, visit: &mut Visit<'_>) -> Verdict {
        if self.0.level() == 0 || !visit.route.call.arrives() || visit.favoured {
            return Ok(());
        }
        if rand::rng().random_bool(self.0.share()) { Err(Problem::Overloaded.into()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::visit::tests::{request, visit};
    use super::*;

    async fn turned_away(levels: &Arc<Levels>, method: &str, target: &str) -> usize {
        let stage = LevelStage(levels.clone());
        let request = request(method, target, &[]);
        let mut refused = 0;
        for _ in 0..2000 {
            refused += usize::from(stage.check(&mut visit(&request)).await.is_err());
        }
        refused
    }

    #[tokio::test]
    async fn each_level_turns_its_share_of_arrivals_away_and_nobody_else() {
        let levels = Levels::new(&LevelsConfig::default());
        // Beyond six standard deviations.
        for (level, few, many) in [(0, 0, 0), (1, 860, 1140), (2, 1710, 1890), (3, 1950, 2000)] {
            levels.set(Some(level));
            let refused = turned_away(&levels, "POST", "/flash/s/holds?sku=S").await;
            assert!((few..=many).contains(&refused), "level {level} turned {refused} away");
            for (method, target) in [
                ("POST", "/flash/s/holds/h/confirm"),
                ("POST", "/flash/s/holds/h/extend"),
                ("DELETE", "/flash/s/holds/h"),
                ("GET", "/flash/s"),
            ] {
                assert_eq!(turned_away(&levels, method, target).await, 0, "{method} {target}");
            }
        }
        levels.set(None);
        assert_eq!((levels.level(), levels.by_hand()), (0, None));
    }

    #[test]
    fn a_new_config_leaves_the_level() {
        let levels = Levels::new(&LevelsConfig::default());
        levels.set(Some(2));
        let milder = levels.with(&LevelsConfig { drop: [0.1, 0.2, 0.3], ..LevelsConfig::default() });
        assert_eq!((milder.level(), milder.share()), (2, 0.2));
        milder.set(None);
        levels.switch.measured.store(3, Ordering::Relaxed);
        let measuring = levels.with(&LevelsConfig { auto: true, ..LevelsConfig::default() });
        assert_eq!(levels.with(&LevelsConfig::default()).level(), 0, "what nobody measures stays nowhere");
        assert_eq!(measuring.level(), 3, "others that never came into force have changed nothing");
    }

    #[test]
    fn the_ladder_takes_its_time() {
        let config = LevelsConfig { rise_ms: 100, fall_ms: 500, ..LevelsConfig::default() };
        let began = Instant::now();
        let mut ladder = Ladder::new(&config, 0, began);
        let mut at = |strain, ms| ladder.step(strain, began + Duration::from_millis(ms));
        use Strain::{AtEase, Between, Overloaded};
        assert_eq!(at(Overloaded, 0), 0);
        assert_eq!(at(Overloaded, 99), 0);
        assert_eq!(at(Overloaded, 100), 1);
        assert_eq!(at(Overloaded, 150), 1);
        assert_eq!(at(Overloaded, 210), 2);
        assert_eq!(at(AtEase, 220), 2);
        assert_eq!(at(Between, 600), 2, "neither up nor down");
        assert_eq!(at(AtEase, 700), 2);
        assert_eq!(at(AtEase, 1200), 1);
        assert_eq!(at(AtEase, 1700), 0);
        assert_eq!(at(AtEase, 9000), 0);
        for ms in [10_000, 10_100, 10_200, 10_300, 10_400] {
            at(Overloaded, ms);
        }
        assert_eq!(at(Overloaded, 20_000), LEVEL_MAX);
    }

    #[test]
    fn strain_has_a_middle() {
        let config = LevelsConfig::default();
        let redis = Duration::from_millis;
        assert_eq!(strain(&config, 0.96, redis(0)), Strain::Overloaded);
        assert_eq!(strain(&config, 0.1, redis(250)), Strain::Overloaded);
        assert_eq!(strain(&config, 0.8, redis(0)), Strain::Between);
        assert_eq!(strain(&config, 0.1, redis(130)), Strain::Between);
        assert_eq!(strain(&config, 0.1, redis(1)), Strain::AtEase);
    }

    #[test]
    fn the_processors_time_is_read() {
        let before = processor_time();
        let began = Instant::now();
        while processor_time() <= before {
            assert!(began.elapsed() < Duration::from_secs(60), "no time is used");
        }
    }
}
