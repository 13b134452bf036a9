//! Times, durations and quantities as operators write and read them.

use anyhow::{Context, bail, ensure};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::operate::create::{Shards, Stock, When};

const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// `90s`, `5m`, `1h30m`, `1500ms`: milliseconds.
///
/// # Errors
/// No number, no unit, or too long for anything.
pub fn duration(text: &str) -> anyhow::Result<u64> {
    let wrong = || format!("`{text}` is no duration: write 1500ms, 90s, 5m, 2h, 1d or 1h30m");
    let (mut rest, mut total) = (text, 0_u64);
    ensure!(!text.is_empty(), wrong());
    while !rest.is_empty() {
        let digits = rest.find(|sign: char| !sign.is_ascii_digit()).with_context(wrong)?;
        let number: u64 = rest[..digits].parse().ok().with_context(wrong)?;
        rest = &rest[digits..];
        let end = rest.find(|sign: char| sign.is_ascii_digit()).unwrap_or(rest.len());
        let (_, ms) = UNITS.into_iter().find(|(unit, _)| *unit == &rest[..end]).with_context(wrong)?;
        total = number.checked_mul(ms).and_then(|ms| total.checked_add(ms)).with_context(wrong)?;
        rest = &rest[end..];
    }
    Ok(total)
}

/// `2026-11-27T20:00:00+01:00`, `+10m`, `now`, or unix milliseconds.
///
/// # Errors
/// None of these.
pub fn when(text: &str) -> anyhow::Result<When> {
    if text == "now" {
        return Ok(When::After(0));
    }
    if let Some(later) = text.strip_prefix('+') {
        return duration(later).map(When::After);
    }
    if text.len() >= 13 && text.bytes().all(|sign| sign.is_ascii_digit()) {
        return Ok(When::At(text.parse()?));
    }
    let Ok(time) = OffsetDateTime::parse(text, &Rfc3339) else {
        bail!(
            "`{text}` is no time: write 2026-11-27T20:00:00+01:00 (with its offset, or Z), +10m from now, or unix \
             milliseconds"
        );
    };
    let ms = u64::try_from(time.unix_timestamp_nanos() / 1_000_000).ok();
    ms.map(When::At).with_context(|| format!("`{text}` lies before 1970"))
}

/// `SKU=QUANTITY` or `SKU=QUANTITY,LIMIT`.
///
/// # Errors
/// Not of this form.
pub fn stock(text: &str) -> anyhow::Result<Stock> {
    let wrong =
        || format!("`{text}`: write SKU=QUANTITY, or SKU=QUANTITY,LIMIT with the units that one buyer may have");
    let (sku, numbers) = text.rsplit_once('=').with_context(wrong)?;
    let (quantity, limit) = match numbers.split_once(',') {
        Some((quantity, limit)) => (quantity, Some(limit.parse().ok().with_context(wrong)?)),
        None => (numbers, None),
    };
    ensure!(!sku.is_empty(), wrong());
    Ok(Stock { sku: sku.to_owned(), quantity: quantity.parse().ok().with_context(wrong)?, limit })
}

/// `SKU=+5` or `SKU=-5`.
///
/// # Errors
/// Not of this form: without a sign it might be meant as a level.
pub fn change(text: &str) -> anyhow::Result<(String, i64)> {
    let wrong = || format!("`{text}`: write SKU=+5 to add five units, SKU=-5 to withdraw five");
    let (sku, delta) = text.rsplit_once('=').with_context(wrong)?;
    ensure!(!sku.is_empty() && delta.starts_with(['+', '-']), wrong());
    Ok((sku.to_owned(), delta.parse().ok().with_context(wrong)?))
}

/// `auto` or a number.
///
/// # Errors
/// Neither.
pub fn shards(text: &str) -> anyhow::Result<Shards> {
    if text == "auto" {
        return Ok(Shards::Auto);
    }
    let number = text.parse().ok().with_context(|| format!("`{text}`: write a number of shards, or auto"))?;
    Ok(Shards::Number(number))
}

/// Unix milliseconds as people read them, in UTC; `-` for 0.
pub fn shown_time(ms: u64) -> String {
    if ms == 0 {
        return "-".to_owned();
    }
    let time = OffsetDateTime::from_unix_timestamp((ms / 1_000) as i64).ok();
    time.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_else(|| ms.to_string())
}

/// Milliseconds with their two largest units.
pub fn shown_duration(ms: u64) -> String {
    let mut parts = Vec::new();
    let mut rest = ms;
    for (unit, size) in UNITS.into_iter().rev() {
        if rest >= size && parts.len() < 2 {
            parts.push(format!("{}{unit}", rest / size));
            rest %= size;
        }
    }
    if parts.is_empty() { "0s".to_owned() } else { parts.join("") }
}

/// Rows under a heading, numbers to the right.
pub fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let is_number = |text: &String| !text.is_empty() && text.bytes().all(|sign| sign.is_ascii_digit() || sign == b'-');
    let mut text = String::new();
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([heading[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heading.len()).map(width).collect();
    let numeric: Vec<bool> =
        (0..heading.len()).map(|column| !rows.is_empty() && rows.iter().all(|row| is_number(&row[column]))).collect();
    let heading: Vec<String> = heading.iter().map(|&title| title.to_owned()).collect();
    for row in std::iter::once(&heading).chain(rows) {
        let cells = row.iter().enumerate().map(|(column, cell)| {
            let width = widths[column];
            if numeric[column] { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        });
        let line = cells.collect::<Vec<_>>().join("  ");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        for (text, ms) in
            [("1500ms", 1_500), ("90s", 90_000), ("5m", 300_000), ("1h30m", 5_400_000), ("1d", 86_400_000)]
        {
            assert_eq!(duration(text).unwrap(), ms, "{text}");
            assert_eq!(duration(&shown_duration(ms)).unwrap(), ms);
        }
        for wrong in ["", "5", "m", "5x", "-5m", "5 m", "99999999999999999999s", "99999999999999999d"] {
            let error = duration(wrong).unwrap_err().to_string();
            assert!(error.contains("90s"), "{wrong}: {error}");
        }
    }

    #[test]
    fn times_are_absolute_or_from_now() {
        assert_eq!(when("2026-11-27T20:00:00+01:00").unwrap(), When::At(1_795_806_000_000));
        assert_eq!(when("1795806000000").unwrap(), When::At(1_795_806_000_000));
        assert_eq!(when("+10m").unwrap(), When::After(600_000));
        assert_eq!(when("now").unwrap(), When::After(0));
        assert_eq!(shown_time(1_795_806_000_000), "2026-11-27T19:00:00Z");
        for wrong in ["", "20:00", "2026-11-27T20:00:00", "1795806000", "1960-01-01T00:00:00Z", "+5"] {
            assert!(when(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn stock_and_changes_are_told_apart() {
        let tee = stock("tee=5,2").unwrap();
        assert_eq!((tee.sku.as_str(), tee.quantity, tee.limit), ("tee", 5, Some(2)));
        assert_eq!(stock("a=b=5").unwrap().sku, "a=b");
        assert_eq!(change("tee=+5").unwrap(), ("tee".to_owned(), 5));
        assert_eq!(change("tee=-5").unwrap(), ("tee".to_owned(), -5));
        for wrong in ["tee", "=5", "tee=", "tee=x", "tee=5,x", "tee=-5"] {
            assert!(stock(wrong).is_err(), "{wrong}");
        }
        for wrong in ["tee", "tee=5", "=+5", "tee=+", "tee=+x"] {
            assert!(change(wrong).unwrap_err().to_string().contains("+5"), "{wrong}");
        }
    }

    #[test]
    fn numbers_stand_to_the_right() {
        let rows = [vec!["tee".to_owned(), "7".to_owned()], vec!["mug".to_owned(), "1000".to_owned()]];
        assert_eq!(table(&["SKU", "units"], &rows), "SKU  units\ntee      7\nmug   1000\n");
    }
}
