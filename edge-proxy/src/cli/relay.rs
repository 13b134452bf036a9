//! `flashsale relay`.

use anyhow::bail;

#[derive(clap::Args)]
pub struct Arguments {}

pub fn run(_arguments: Arguments) -> anyhow::Result<()> {
    bail!("`flashsale relay` is not built yet")
}
