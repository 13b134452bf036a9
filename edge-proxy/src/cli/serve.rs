//! `flashsale serve`.

use anyhow::bail;

#[derive(clap::Args)]
pub struct Arguments {}

pub fn run(_arguments: Arguments) -> anyhow::Result<()> {
    bail!("`flashsale serve` is not built yet")
}
