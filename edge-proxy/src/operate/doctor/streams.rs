//! Judges order streams: whether somebody fetches what is sold.

use anyhow::Context;
use flashsale_core::sharding::stream_key;
use redis::{Cmd, Value};

use super::Finding;
use crate::operate::deployment::{Deployment, Trouble};
use crate::operate::sale::Sale;
use crate::store::answer::{number, pairs, text};
use crate::store::nodes::Place;

/// Whoever reads a stream asks for more at least this often, unless the shop does not take what was read.
const SILENT_MS: u64 = 60_000;

/// The order stream of one shard.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StreamFacts {
    pub key: String,
    /// Entries in it.
    pub entries: u64,
    /// `None`: the user may not ask, or there is no stream yet.
    pub groups: Option<Vec<GroupFacts>>,
}

/// A consumer group of an order stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupFacts {
    pub name: String,
    /// Entries that were not fetched, or fetched and not finished.
    pub behind: u64,
    /// How long ago one of its consumers last asked for entries; `None`: it has no consumer.
    pub silent_ms: Option<u64>,
}

/// Reads the order stream of a shard.
///
/// # Errors
/// The server does not answer.
pub async fn look(deployment: &Deployment, sale: &Sale, shard: u32) -> anyhow::Result<StreamFacts> {
    let place = sale.place(shard);
    let stream = stream_key(place.key);
    let mut length = redis::cmd("XLEN");
    length.arg(&stream);
    let entries = number(&deployment.ask(place, &length).await?).unwrap_or(0);
    let groups = groups(deployment, place, &stream, entries).await.context("XINFO GROUPS")?;
    Ok(StreamFacts { key: String::from_utf8_lossy(&stream).into_owned(), entries, groups })
}

async fn groups(
    deployment: &Deployment,
    place: Place<'_>,
    stream: &[u8],
    entries: u64,
) -> Result<Option<Vec<GroupFacts>>, Trouble> {
    let Some(listed) = rows(deployment, place, redis::cmd("XINFO").arg("GROUPS").arg(stream)).await? else {
        return Ok(None);
    };
    let mut groups = Vec::new();
    for row in listed {
        let name = row.text("name");
        let consumers = rows(deployment, place, redis::cmd("XINFO").arg("CONSUMERS").arg(stream).arg(&name)).await?;
        groups.push(GroupFacts {
            // The server cannot tell the lag after entries were deleted by hand: then everything counts.
            behind: row.number("pending").unwrap_or(0) + row.number("lag").unwrap_or(entries),
            silent_ms: consumers.iter().flatten().filter_map(|row| row.number("idle")).min(),
            name,
        });
    }
    Ok(Some(groups))
}

/// `None`: the server refuses to tell, or there is nothing of that name.
async fn rows(deployment: &Deployment, place: Place<'_>, ask: &Cmd) -> Result<Option<Vec<Row>>, Trouble> {
    match deployment.ask(place, ask).await {
        Ok(Value::Array(rows)) => Ok(rows.into_iter().map(Row::read).collect()),
        Ok(_) | Err(Trouble::Refused { .. }) => Ok(None),
        Err(trouble) => Err(trouble),
    }
}

/// A line of XINFO.
struct Row(Vec<(String, Value)>);

impl Row {
    fn read(row: Value) -> Option<Self> {
        let named = pairs(row).ok()?.into_iter().filter_map(|(name, value)| Some((text(&name)?, value)));
        Some(Self(named.collect()))
    }

    fn value(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.value(name).and_then(number)
    }

    fn text(&self, name: &str) -> String {
        self.value(name).and_then(text).unwrap_or_default()
    }
}

/// Judges the streams of a sale, which `about` names.
pub fn judge(about: &str, streams: &[StreamFacts]) -> Vec<Finding> {
    let full = || streams.iter().filter(|stream| stream.entries > 0);
    let forsaken: Vec<&StreamFacts> =
        full().filter(|stream| stream.groups.as_ref().is_some_and(Vec::is_empty)).collect();
    let mut findings = Vec::new();
    if let Some(first) = forsaken.first() {
        let orders: u64 = forsaken.iter().map(|stream| stream.entries).sum();
        findings.push(Finding::warn(
            "relay",
            about,
            format!("{orders} orders wait where no consumer group has ever read, as in {}", first.key),
            "start the relay (`flashsale relay`, or [relay] enabled), or read the streams yourself",
        ));
    }
    let silent = |group: &&GroupFacts| group.behind > 0 && group.silent_ms.is_none_or(|ms| ms >= SILENT_MS);
    let silent = full().flat_map(|stream| {
        stream.groups.iter().flatten().filter(silent).map(move |group| (stream, group)).collect::<Vec<_>>()
    });
    let silent: Vec<(&StreamFacts, &GroupFacts)> = silent.collect();
    if let Some((stream, group)) = silent.first() {
        let behind: u64 = silent.iter().map(|(_, group)| group.behind).sum();
        let since = match group.silent_ms {
            Some(ms) => format!("its readers have asked for nothing for {} s", ms / 1_000),
            None => "it has no reader".to_owned(),
        };
        findings.push(Finding::warn(
            "relay",
            about,
            format!("{behind} orders wait for the group `{}`, as in {}: {since}", group.name, stream.key),
            "start the relay again, or see why the shop does not take its orders; XGROUP DESTROY a group that nobody \
             needs",
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(entries: u64, groups: Option<Vec<GroupFacts>>) -> StreamFacts {
        StreamFacts { key: "sale:1{2}:orders".to_owned(), entries, groups }
    }

    fn group(behind: u64, silent_ms: Option<u64>) -> Option<Vec<GroupFacts>> {
        Some(vec![GroupFacts { name: "flashsale".to_owned(), behind, silent_ms }])
    }

    fn found(streams: &[StreamFacts]) -> String {
        judge("sale `1`", streams).iter().map(|finding| finding.found.as_str()).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn orders_that_nobody_fetches_are_told() {
        let text = found(&[stream(2, Some(Vec::new())), stream(0, None), stream(3, Some(Vec::new()))]);
        assert!(text.starts_with("5 orders wait where no consumer group has ever read"), "{text}");
        let text = found(&[stream(2, group(2, None)), stream(9, group(7, Some(75_000)))]);
        assert!(text.starts_with("9 orders wait for the group `flashsale`") && text.contains("no reader"), "{text}");
        let text = found(&[stream(9, group(7, Some(75_000)))]);
        assert!(text.ends_with("asked for nothing for 75 s"), "{text}");
    }

    #[test]
    fn a_stream_that_is_being_read_is_well() {
        let well = [
            stream(0, None),
            stream(0, Some(Vec::new())),
            stream(5, group(0, Some(9_000_000))),
            stream(5, group(5, Some(1_000))),
            stream(5, None),
        ];
        assert_eq!(found(&well), "");
    }
}
