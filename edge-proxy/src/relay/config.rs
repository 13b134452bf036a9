//! The `[relay]` section of the config file.

use serde::Deserialize;

/// How orders go downstream.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RelayConfig {}
