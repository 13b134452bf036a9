//! What a stage of the funnel is.

use std::future::{Ready, ready};

use futures_util::future::{BoxFuture, Either};
use serde::Deserialize;

use super::visit::Visit;
use crate::http::problem::Refusal;

/// Whether a stage's refusals count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Refuse.
    #[default]
    Enforce,
    /// Decide and count, but let the request through: for trying a limit out.
    Shadow,
    /// Do not look.
    Off,
}

/// What a stage says of a visit: `Err` refuses it.
pub type Verdict = Result<(), Refusal>;

/// A verdict that most stages give at once, without an allocation, and some only after asking somebody.
pub type Check<'a> = Either<Ready<Verdict>, BoxFuture<'a, Verdict>>;

/// A verdict given at once.
pub fn now<'a>(verdict: Verdict) -> Check<'a> {
    Either::Left(ready(verdict))
}

/// A verdict that has to be waited for.
pub fn later<'a>(verdict: impl Future<Output = Verdict> + Send + 'a) -> Check<'a> {
    Either::Right(Box::pin(verdict))
}

/// One filter of the funnel. It lets a visit pass, perhaps having learnt something about it, or refuses it.
pub trait Stage: Send + Sync {
    /// Name of the stage in metrics.
    fn name(&self) -> &'static str;

    fn mode(&self) -> Mode;

    /// Looks at a visit.
    fn check<'a>(&'a self, visit: &'a mut Visit<'_>) -> Check<'a>;
}
