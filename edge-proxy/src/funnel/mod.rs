//! The funnel: what a request to a sale must pass before it may cost Redis anything.
//!
//! ```text
//!   connection   server/gate.rs     how many, how slow, how large
//!   route        http/routes.rs     sale route, or the shop's
//!   list         funnel/lists.rs    addresses that are never let in, and those that are never held up
//!   address      funnel/rates.rs    requests a second of one address
//!   server       funnel/rates.rs    requests a second in all, of those who arrive or look
//!   level        funnel/levels.rs   a random share of those who arrive, when there is too much
//!   known        funnel/known.rs    no such sale, not open, paused, closed, sold out
//!   sale         funnel/rates.rs    requests a second of those who want units of one sale
//!   shared       funnel/leases.rs   the same over all proxies
//!   ticket       funnel/tickets/    is it a ticket of this sale
//!   token        funnel/tokens.rs   who is it
//!   buyer-list   funnel/lists.rs    buyers that are never let in, and those that are never held up
//!   buyer        funnel/rates.rs    requests a second of one buyer
//!   admission    funnel/admission   no more buyers inside than there may be units for
//!   lane         funnel/lanes.rs    who pays goes before who arrives
//!   redis        sale/mod.rs        the stock itself decides
//! ```
//!
//! Each stage has its file with its config beside it, a counter by outcome, and a mode. A new stage is a
//! file and a line where the stages are put together (`server/live.rs`).

use std::sync::Arc;
use std::time::Instant;

use prometheus::IntCounter;

use crate::http::problem::Refusal;
use crate::http::routes::Call;
use crate::{metrics, quick};

pub mod admission;
pub mod challenges;
pub mod known;
pub mod lanes;
pub mod leases;
pub mod levels;
pub mod lists;
pub mod rates;
pub mod stage;
pub mod standing;
pub mod tickets;
pub mod tokens;
pub mod visit;

use lanes::{Lanes, Place};
use stage::{Mode, Stage};
use visit::Visit;

/// The stages in their order.
pub struct Funnel {
    /// Each with the counter of those it lets pass, which nearly every request needs.
    stages: Vec<(Arc<dyn Stage>, IntCounter)>,
    lanes: Arc<Lanes>,
    lane_passed: IntCounter,
}

impl Funnel {
    pub fn new(stages: Vec<Arc<dyn Stage>>, lanes: Arc<Lanes>) -> Self {
        let passed = |name| metrics::STAGES.with_label_values(&[name, "pass"]);
        let stages = stages.into_iter().map(|stage| (stage.clone(), passed(stage.name()))).collect();
        Self { stages, lanes, lane_passed: passed("lane") }
    }

    /// The last stage before the stock, entered when the body has been read: nobody keeps a place by dawdling.
    pub fn enter(&self, call: Call, now: Instant) -> Result<Option<Place>, Refusal> {
        let mode = self.lanes.mode();
        if mode == Mode::Off {
            return Ok(None);
        }
        let (place, verdict) = self.lanes.enter(call, now);
        judge("lane", mode, verdict, &self.lane_passed)?;
        Ok(Some(place))
    }

    /// Sends a visit through all stages; the first refusal counts.
    pub async fn pass(&self, visit: &mut Visit<'_>) -> Result<(), Refusal> {
        for (stage, passed) in &self.stages {
            if stage.mode() == Mode::Off {
                continue;
            }
            let verdict = stage.check(visit).await;
            judge(stage.name(), stage.mode(), verdict, passed)?;
        }
        Ok(())
    }
}

/// Counts how a stage decided; the refusal of one in shadow mode is only counted.
fn judge(stage: &'static str, mode: Mode, verdict: Result<(), Refusal>, passed: &IntCounter) -> Result<(), Refusal> {
    match (verdict, mode) {
        (Ok(()), _) => passed.inc(),
        (Err(refusal), Mode::Shadow) => {
            metrics::SHADOWED.with_label_values(&[stage, refusal.problem.word()]).inc();
            count(stage, "shadow");
        }
        (Err(refusal), _) => {
            count(stage, refusal.problem.word());
            return Err(refusal);
        }
    }
    Ok(())
}

fn count(stage: &'static str, outcome: &'static str) {
    quick::count(&metrics::STAGES, [stage, outcome]);
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::http::problem::Problem;

    struct Refusing {
        mode: Mode,
        asked: AtomicUsize,
    }

    impl Stage for Refusing {
        fn name(&self) -> &'static str {
            "test"
        }

        fn mode(&self) -> Mode {
            self.mode
        }

        fn check<'a>(&'a self, _: &'a mut Visit<'_>) -> stage::Check<'a> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            stage::now(Err(Problem::Paused.into()))
        }
    }

    async fn pass(modes: &[Mode]) -> (bool, Vec<usize>) {
        let stages: Vec<_> =
            modes.iter().map(|mode| Arc::new(Refusing { mode: *mode, asked: AtomicUsize::new(0) })).collect();
        let lanes = Lanes::new(&lanes::LanesConfig::default());
        let funnel = Funnel::new(stages.iter().map(|stage| stage.clone() as Arc<dyn Stage>).collect(), lanes);
        let request = visit::tests::request("GET", "/flash/s", &[]);
        let passed = funnel.pass(&mut visit::tests::visit(&request)).await.is_ok();
        (passed, stages.iter().map(|stage| stage.asked.load(Ordering::Relaxed)).collect())
    }

    #[tokio::test]
    async fn modes_are_obeyed_and_the_first_refusal_ends_it() {
        assert_eq!(pass(&[Mode::Off, Mode::Shadow]).await, (true, vec![0, 1]));
        assert_eq!(pass(&[Mode::Shadow, Mode::Enforce, Mode::Enforce]).await, (false, vec![1, 1, 0]));
        assert_eq!(pass(&[]).await, (true, vec![]));
    }
}
