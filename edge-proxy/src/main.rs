//! The `flashsale` program: one file per subcommand in [`flashsale_edge::cli`].

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use flashsale_edge::cli;

// The system's allocator keeps seven pieces of each size at hand; dozens of requests under way at once need more.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Sell a small stock to a huge crowd at one instant.
#[derive(Parser)]
#[command(name = "flashsale", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the edge proxy in front of a shop
    Serve(cli::serve::Arguments),
    /// Send confirmed orders downstream to the shop
    Relay(cli::relay::Arguments),
    Sale(cli::sale::Arguments),
    Holds(cli::holds::Arguments),
    Balance(cli::balance::Arguments),
    Doctor(cli::doctor::Arguments),
    Drill(cli::drill::Arguments),
    /// Show a whole sale on this machine
    Demo(cli::demo::Arguments),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Serve(arguments) => cli::serve::run(arguments),
        Command::Relay(arguments) => cli::relay::run(arguments),
        Command::Sale(arguments) => cli::sale::run(arguments),
        Command::Holds(arguments) => cli::holds::run(arguments),
        Command::Balance(arguments) => cli::balance::run(arguments),
        Command::Doctor(arguments) => cli::doctor::run(arguments),
        Command::Drill(arguments) => cli::drill::run(arguments),
        Command::Demo(arguments) => cli::demo::run(arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("flashsale: {error:#}");
            ExitCode::FAILURE
        }
    }
}
