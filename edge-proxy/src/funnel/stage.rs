//! What a stage of the funnel is.

use async_trait::async_trait;
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

/// One filter of the funnel. It lets a visit pass, perhaps having learnt something about it, or refuses it.
#[async_trait]
pub trait Stage: Send + Sync {
    /// Name of the stage in metrics.
    fn name(&self) -> &'static str;

    fn mode(&self) -> Mode;

    /// `Err` refuses the visit.
    async fn check(&self, visit: &mut Visit<'_>) -> Result<(), Refusal>;
}
