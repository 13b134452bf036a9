//! What a drill prints at its end.

use super::{Latency, Outcome};

/// The tables, and under them the proof.
pub fn text(outcome: &Outcome) -> String {
    let mut text = String::new();
    let mut row = |name: &str, count: String| text += &format!("{name:<44}{count:>10}\n");
    row("buyers", outcome.buyers.to_string());
    for (ending, count) in &outcome.endings {
        row(&format!("  {ending}"), count.to_string());
    }
    row("requests to the sale", outcome.requests.to_string());
    row("  of them for a unit", outcome.asked.to_string());
    if let (Some(sent), Some(percent)) = (outcome.sent, outcome.answered_before_redis_percent) {
        row("  that went to the stock", sent.to_string());
        row("  answered before it, %", format!("{percent:.3}"));
    }
    row("units", outcome.units.to_string());
    row("sold", outcome.sold.to_string());
    row("left", outcome.left.to_string());
    row("oversold", outcome.oversold.to_string());
    if !outcome.funnel.is_empty() {
        text += "\nstage of the funnel\n";
        for (stage, outcome, count) in &outcome.funnel {
            text += &format!("  {:<42}{count:>10}\n", format!("{stage}: {outcome}"));
        }
    }
    if !outcome.commands.is_empty() {
        text += "\ncommands, as the servers count them\n";
        for (command, count) in &outcome.commands {
            text += &format!("  {command:<42}{count:>10}\n");
        }
    }
    text += &format!(
        "\n{} shards, {:.1} s from the opening, {:.0} requests/s\n\n{:<12}{:>8}{:>10}{:>10}{:>10}{:>10}{:>10}\n",
        outcome.shards,
        outcome.seconds,
        outcome.asked_per_second,
        "ms",
        "count",
        "p50",
        "p90",
        "p99",
        "p99.9",
        "longest"
    );
    text += &line("reserve", &outcome.reserve);
    text += &line("confirm", &outcome.confirm);
    if let (Some(alone), Some(in_rush)) = (&outcome.paying_alone, &outcome.paying_in_rush) {
        text += &line("pay, alone", alone);
        text += &line("pay, rush", in_rush);
    }
    if outcome.late_ms > 100.0 {
        text += &format!(
            "\nThis machine sent requests up to {:.0} ms late: it is too slow for so many buyers in so short a time, and the \
             latencies above are its own.\n",
            outcome.late_ms
        );
    }
    text.push('\n');
    for check in &outcome.checks {
        let mark = if check.against.is_empty() { "ok  " } else { "FAIL" };
        text += &format!("{mark} {}\n", check.claim);
        check.against.iter().take(10).for_each(|fact| text += &format!("       {fact}\n"));
    }
    text
}

fn line(name: &str, latency: &Latency) -> String {
    let Latency { count, p50, p90, p99, p999, longest } = latency;
    format!("{name:<12}{count:>8}{p50:>10.1}{p90:>10.1}{p99:>10.1}{p999:>10.1}{longest:>10.1}\n")
}
