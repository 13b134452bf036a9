//! What the demo prints at its end.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Plan;
use super::proof::Proof;
use super::stage::{SALE_KEY, SKU, Stage};
use super::tally::Tally;

/// The table, and under it the proof.
pub fn print(plan: &Plan, tally: &Tally, proof: &Proof, lasted: Duration) {
    let requests = tally.requests.load(Ordering::Relaxed);
    let rate = requests as f64 / lasted.as_secs_f64().max(0.001);
    println!();
    row("buyers", plan.buyers);
    for (ending, count) in tally.endings() {
        row(&format!("  {ending}"), count);
    }
    row("requests to the sale", requests);
    for (word, count) in tally.refusals() {
        row(&format!("  refused: {word}"), count);
    }
    row("  sent again with the same id", tally.repeats.load(Ordering::Relaxed));
    row("pages of the shop, through the proxy", tally.pages.load(Ordering::Relaxed));
    row("units", plan.units);
    row("holds", tally.holds.load(Ordering::Relaxed));
    row("orders", proof.books.orders);
    row("orders the shop received", proof.shop.count);
    row("  told again after a failure, taken once", proof.shop.repeats);
    row("units left", proof.books.available);
    row("oversold", proof.oversold);
    println!(
        "\n{:.1} s from the opening, {rate:.0} requests/s, half answered within {}, 99% within {}",
        lasted.as_secs_f64(),
        millis(tally.latency(0.5)),
        millis(tally.latency(0.99)),
    );
    println!();
    for check in &proof.checks {
        let mark = if check.against.is_empty() { "ok  " } else { "FAIL" };
        println!("{mark} {}", check.claim);
        for fact in check.against.iter().take(10) {
            println!("       {fact}");
        }
    }
}

fn row(name: &str, count: impl ToString) {
    println!("{name:<44}{:>10}", count.to_string());
}

fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1_000.0)
}

/// Where everything is, and what to do with it.
pub fn what_to_try(stage: &Stage) -> anyhow::Result<()> {
    let token = stage.token("you")?;
    let (public, admin, port) = (&stage.public, &stage.admin, stage.redis_port);
    println!(
        "\nIt all stays up until Ctrl-C. Try this in another terminal:

  redis-cli -p {port} FLASH.STOCK {SALE_KEY} {SKU} 5         # five more units
  redis-cli -p {port} FLASH.INFO {SALE_KEY}
  curl {public}/flash/demo

  TOKEN={token}
  curl -i -X POST -H \"Authorization: Bearer $TOKEN\" -H 'Idempotency-Key: mine' '{public}/flash/demo/holds?sku={SKU}&qty=1'
  curl -i -X POST -H \"Authorization: Bearer $TOKEN\" '{public}/flash/demo/holds/mine/confirm'

  redis-cli -p {port} FLASH.BUYER {SALE_KEY} you
  redis-cli -p {port} FLASH.AUDIT {SALE_KEY}
  curl {admin}/metrics

  the shop, through the proxy:   {public}/    {public}/orders
  config, secrets and logs:      {}
  ({} is what `flashsale serve` runs with)",
        stage.folder.path().display(),
        stage.config.display(),
    );
    Ok(())
}
