//! The funnel: what a request to a sale must pass before it may cost Redis anything.
//!
//! ```text
//!   connection   server/gate.rs     how many, how slow, how large
//!   route        http/routes.rs     sale route, or the shop's
//!   address      funnel/rates.rs    requests a second of one address
//!   known        funnel/known.rs    no such sale, not open, paused, closed, sold out
//!   token        funnel/tokens.rs   who is it
//!   buyer        funnel/rates.rs    requests a second of one buyer
//!   redis        sale/mod.rs        the stock itself decides
//! ```
//!
//! Each stage has its file with its config beside it, a counter by outcome, and a mode. A new stage is a
//! file and a line in [`Funnel::new`]; tickets and admission will stand between `buyer` and `redis`.

use std::sync::Arc;

use crate::http::problem::Refusal;
use crate::{metrics, quick};

pub mod known;
pub mod rates;
pub mod stage;
pub mod tokens;
pub mod visit;

use stage::{Mode, Stage};
use visit::Visit;

/// The stages in their order.
pub struct Funnel {
    stages: Vec<Arc<dyn Stage>>,
}

impl Funnel {
    pub fn new(stages: Vec<Arc<dyn Stage>>) -> Self {
        Self { stages }
    }

    /// Sends a visit through all stages; the first refusal counts.
    pub async fn pass(&self, visit: &mut Visit<'_>) -> Result<(), Refusal> {
        for stage in &self.stages {
            if stage.mode() == Mode::Off {
                continue;
            }
            match (stage.check(visit).await, stage.mode()) {
                (Ok(()), _) => count(stage.name(), "pass"),
                (Err(refusal), Mode::Shadow) => {
                    metrics::SHADOWED.with_label_values(&[stage.name(), refusal.problem.word()]).inc();
                    count(stage.name(), "shadow");
                }
                (Err(refusal), _) => {
                    count(stage.name(), refusal.problem.word());
                    return Err(refusal);
                }
            }
        }
        Ok(())
    }
}

fn count(stage: &'static str, outcome: &'static str) {
    quick::count(&metrics::STAGES, [stage, outcome]);
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;

    use super::*;
    use crate::http::problem::Problem;

    struct Refusing {
        mode: Mode,
        asked: AtomicUsize,
    }

    #[async_trait]
    impl Stage for Refusing {
        fn name(&self) -> &'static str {
            "test"
        }

        fn mode(&self) -> Mode {
            self.mode
        }

        async fn check(&self, _: &mut Visit<'_>) -> Result<(), Refusal> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            Err(Problem::Paused.into())
        }
    }

    async fn pass(modes: &[Mode]) -> (bool, Vec<usize>) {
        let stages: Vec<_> =
            modes.iter().map(|mode| Arc::new(Refusing { mode: *mode, asked: AtomicUsize::new(0) })).collect();
        let funnel = Funnel::new(stages.iter().map(|stage| stage.clone() as Arc<dyn Stage>).collect());
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
