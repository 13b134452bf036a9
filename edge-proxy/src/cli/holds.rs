//! `flashsale holds`: lists holds and orders.

use std::io::Write;

use clap::ValueEnum;

use super::connect::{Connect, runtime};
use super::units::shown_time;
use crate::operate::Sale;
use crate::operate::holds::{self, Hold, Wanted};

/// List the holds and orders of a sale.
///
/// One line each: state, id, buyer, items, deadline, order number, reference. What is there all the time is listed at
/// least once; what comes or goes meanwhile may be left out or listed twice.
#[derive(clap::Args)]
pub struct Arguments {
    /// Name of the sale
    name: String,
    /// Only those in this state
    #[arg(long)]
    state: Option<State>,
    /// Only those of this buyer
    #[arg(long)]
    buyer: Option<String>,
    /// At most so many; 0: all
    #[arg(long, default_value_t = 1_000)]
    most: usize,
    /// Print JSON, an object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Clone, Copy, ValueEnum)]
enum State {
    Held,
    Confirmed,
    Released,
    Expired,
}

/// Runs `flashsale holds`.
///
/// # Errors
/// There is no such sale, or a server does not answer.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let target = arguments.connect.target()?;
    let wanted = Wanted {
        state: arguments.state.map(|state| match state {
            State::Held => "held",
            State::Confirmed => "confirmed",
            State::Released => "released",
            State::Expired => "expired",
        }),
        buyer: arguments.buyer,
        most: (arguments.most > 0).then_some(arguments.most),
    };
    runtime()?.block_on(async {
        let deployment = target.open().await?;
        let sale = Sale::find(&deployment, target.prefix(), &arguments.name).await?;
        let mut out = std::io::stdout().lock();
        let all = holds::list(&deployment, &sale, &wanted, |hold| {
            let line = if arguments.json { serde_json::to_string(&hold)? } else { line(&hold) };
            Ok(writeln!(out, "{line}")?)
        })
        .await?;
        if !all {
            eprintln!("there are more: --most 0 lists all");
        }
        Ok(())
    })
}

fn line(hold: &Hold) -> String {
    let items: Vec<String> = hold.items.iter().map(|(sku, quantity)| format!("{sku}={quantity}")).collect();
    let mut line = format!("{:<9}  {}  {}  {}", hold.state, hold.id, hold.buyer, items.join(","));
    line += &format!("  until {}", shown_time(hold.deadline));
    if hold.order_no > 0 {
        line += &format!("  order {} of shard {}", hold.order_no, hold.shard);
    }
    if let Some(reference) = &hold.reference {
        line += &format!("  ref {reference}");
    }
    line
}
