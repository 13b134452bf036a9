//! `flashsale serve`: the edge proxy.

use std::path::PathBuf;

use anyhow::Context;

use crate::config::{self, Config};
use crate::server::calm_log;
use crate::server::lifecycle::{self, Start};

#[derive(clap::Args)]
pub struct Arguments {
    /// The config file
    #[arg(long, value_name = "FILE", required_unless_present = "print_config")]
    config: Option<PathBuf>,

    /// Print the default config, every key explained, and end
    #[arg(long)]
    print_config: bool,

    /// Check the config and end
    #[arg(long, visible_alias = "test", requires = "config")]
    check: bool,

    /// Take the listeners over from the process that has them, once that gets SIGQUIT
    #[arg(long, requires = "config")]
    upgrade: bool,
}

/// # Errors
/// The config is wrong, or the process cannot start.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    if arguments.print_config {
        print!("{}", config::DEFAULT);
        return Ok(());
    }
    let path = arguments.config.context("--config is missing")?;
    if arguments.check {
        Config::load(&path)?;
        println!("{} is good", path.display());
        return Ok(());
    }
    calm_log::init();
    lifecycle::serve(&Start { config_file: path, upgrade: arguments.upgrade })
}
