//! The one config file of the program (TOML; unknown keys are refused).

use serde::Deserialize;

use crate::relay::config::RelayConfig;

/// Everything that can be set.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub relay: RelayConfig,
}
