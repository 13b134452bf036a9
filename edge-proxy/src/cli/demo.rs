//! `flashsale demo`.

use anyhow::bail;

#[derive(clap::Args)]
pub struct Arguments {}

pub fn run(_arguments: Arguments) -> anyhow::Result<()> {
    bail!("`flashsale demo` is not built yet")
}
