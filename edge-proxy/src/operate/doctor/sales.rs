//! Judges sales: whether they are whole, set sensibly, keep up, and whether one of them is too hot for one key.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::Finding;
use super::probe::{HotSample, lines};
use super::streams::{self, StreamFacts};
use crate::operate::deployment::{Deployment, words};
use crate::operate::list::{self, FoundKey};
use crate::operate::sale::{Book, Pair, Sale, pairs, skus_of};
use crate::operate::{create, leftovers};
use crate::store::answer::text;
use crate::store::info::ShardInfo;

/// A hold that lives longer than this keeps units from other buyers for the best part of a rush.
const LONG_HOLD_MS: u64 = 30 * 60_000;
/// Due holds that wait longer than this for their end: the server does not keep up.
const LATE_MS: u64 = 1_000;
/// From this share of a core on, a key is a bottleneck to be.
const HOT_CORE: f64 = 0.5;
/// And from this share of its server's commands on it is the cause.
const HOT_SHARE: f64 = 0.5;

/// What is known of a sale.
#[derive(Debug, Clone)]
pub struct SaleFacts {
    pub book: Book,
    /// The order stream of each shard.
    pub streams: Vec<StreamFacts>,
    pub backlog: u64,
    pub expiry_lag_ms: u64,
}

/// What is known of each sale, or its name and why nothing is.
pub type Facts = Vec<Result<SaleFacts, (String, anyhow::Error)>>;

/// What was seen of sales.
pub struct Seen {
    pub facts: Facts,
    /// What is asked how often.
    pub hot: Vec<HotSample>,
    /// All keys of sales, wherever they are; empty if only some sales were looked at.
    pub found: Vec<FoundKey>,
}

/// Reads the sales, twice with `sample` between, to see what is asked how often.
///
/// # Errors
/// The sales could not be found at all.
pub async fn look(deployment: &Deployment, prefix: &str, names: &[String], sample: Duration) -> anyhow::Result<Seen> {
    let found = if names.is_empty() { list::found(deployment, prefix).await? } else { Vec::new() };
    let mut sales: Vec<Sale> = list::sales_of(&found, prefix);
    for name in names {
        sales.push(Sale::find(deployment, prefix, name).await?);
    }
    let mut facts = Vec::new();
    let before = Counts::read(deployment, &sales).await;
    let began = Instant::now();
    for sale in &sales {
        facts.push(look_at(deployment, sale).await.map_err(|error| (sale.name.clone(), error)));
    }
    sleep(sample.saturating_sub(began.elapsed())).await;
    let seconds = began.elapsed().as_secs_f64();
    let after = Counts::read(deployment, &sales).await;
    Ok(Seen { facts, hot: after.less(&before, seconds.max(0.001)), found })
}

async fn look_at(deployment: &Deployment, sale: &Sale) -> anyhow::Result<SaleFacts> {
    let book = Book::read(deployment, sale).await?;
    let mut streams = Vec::new();
    for shard in 0..sale.shards() {
        streams.push(streams::look(deployment, sale, shard).await?);
    }
    let infos = || book.shards.iter().filter_map(|line| line.info.as_ref());
    let backlog = infos().map(|info| info.backlog).min().unwrap_or(0);
    let expiry_lag_ms = infos().map(|info| info.expiry_lag_ms).max().unwrap_or(0);
    Ok(SaleFacts { backlog, expiry_lag_ms, streams, book })
}

/// Counters that only grow.
struct Counts {
    /// Commands, and seconds of the main thread, by server.
    servers: BTreeMap<String, (u64, f64)>,
    /// Commands by server and sale, and the sale's shards.
    sales: BTreeMap<(String, String), (u64, u32)>,
}

impl Counts {
    /// Of the servers and sales that answer: what is away is a finding of its own.
    async fn read(deployment: &Deployment, sales: &[Sale]) -> Self {
        let mut counts = Self { servers: BTreeMap::new(), sales: BTreeMap::new() };
        let Ok(topology) = deployment.topology().await else { return counts };
        for node in &topology.nodes {
            let Ok(info) = deployment.ask_node(node, &words(&["INFO", "everything"])).await else { continue };
            let info = lines(&text(&info).unwrap_or_default());
            let field = |name: &str| info.get(name).and_then(|value| value.parse::<f64>().ok()).unwrap_or(0.0);
            let main = field("used_cpu_sys_main_thread") + field("used_cpu_user_main_thread");
            counts.servers.insert(node.address.clone(), (field("total_commands_processed") as u64, main));
        }
        for sale in sales {
            for (shard, info) in (0..).zip(sale.infos(deployment).await.unwrap_or_default()) {
                let Some(node) = topology.node_of(sale.place(shard)) else { continue };
                let of_sale = counts.sales.entry((node.address.clone(), sale.name.clone())).or_default();
                of_sale.0 += info.map_or(0, |info| info.commands);
                of_sale.1 = sale.shards();
            }
        }
        counts
    }

    fn less(&self, before: &Self, seconds: f64) -> Vec<HotSample> {
        let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
        let sample = |(server, &(commands, main)): (&String, &(u64, f64))| {
            let &(commands_before, main_before) = before.servers.get(server)?;
            let mut sales: Vec<(String, u32, f64)> = (self.sales.iter())
                .filter(|((of, _), _)| of == server)
                .map(|(key, &(count, shards))| {
                    let then = before.sales.get(key).map_or(count, |&(count, _)| count);
                    (key.1.clone(), shards, rate(count, then))
                })
                .collect();
            sales.sort_by(|one, other| other.2.total_cmp(&one.2));
            Some(HotSample {
                server: server.clone(),
                commands: rate(commands, commands_before),
                core: ((main - main_before) / seconds).clamp(0.0, 1.0),
                sales,
            })
        };
        self.servers.iter().filter_map(sample).collect()
    }
}

/// Judges one sale.
pub fn judge(facts: &SaleFacts) -> Vec<Finding> {
    let book = &facts.book;
    let about = format!("sale `{}`", book.name);
    let mut findings = Vec::new();
    let missing = book.missing().count();
    if missing > 0 {
        findings.push(Finding::fail(
            "shards",
            &about,
            format!(
                "{missing} of {} shards are missing: their buyers are told that there is no sale",
                book.shards.len()
            ),
            "repeat the `sale create` that made it, with the same words: it says if that may not be",
        ));
    }
    let infos = book.shards.iter().filter_map(|line| line.info.as_ref());
    if let Err(error) = leftovers::one_edition(infos, &book.name) {
        findings.push(Finding::fail("leftovers", &about, error.to_string(), "delete the shard that is left over"));
    }
    findings.extend(judge_transfers(book, &about));
    if book.state == "mixed" {
        findings.push(Finding::warn(
            "state",
            &about,
            "the shards are not in the same state",
            "repeat the `sale pause`, `resume` or `close` that broke off",
        ));
    }
    if book.skus.values().all(|sku| sku.stocked == 0) {
        findings.push(Finding::warn("stock", &about, "has no stock", "flashsale sale stock NAME SKU=+QUANTITY"));
    }
    if book.hold_ms > LONG_HOLD_MS {
        findings.push(Finding::warn(
            "holds",
            &about,
            format!("holds live {} minutes: who does not buy keeps units from others as long", book.hold_ms / 60_000),
            "FLASH.ALTER key HOLD 300000 on each shard",
        ));
    }
    let fullest = facts.streams.iter().map(|stream| stream.entries).max().unwrap_or(0);
    if facts.backlog > 0 && fullest >= facts.backlog / 2 {
        let found = format!("{fullest} orders wait in a stream, reserving stops at {}", facts.backlog);
        let advice = "start the relay (`flashsale relay`), or see why the shop does not take its orders";
        findings.push(if fullest >= facts.backlog {
            Finding::fail("relay", &about, found, advice)
        } else {
            Finding::warn("relay", &about, found, advice)
        });
    }
    findings.extend(streams::judge(&about, &facts.streams));
    if facts.expiry_lag_ms > LATE_MS {
        findings.push(Finding::warn(
            "expiry",
            &about,
            format!("due holds end {} ms late", facts.expiry_lag_ms),
            "the server is too busy, or is a library without timer: let FLASH.EXPIRE be called",
        ));
    }
    if findings.is_empty() {
        let units: u64 = book.skus.values().map(|sku| sku.available).sum();
        findings.push(Finding::ok("sale", &about, format!("{}, {units} units available", book.state)));
    }
    findings
}

/// Units that have arrived and, so the donor says, never left.
fn judge_transfers(book: &Book, about: &str) -> Option<Finding> {
    let infos: Vec<Option<ShardInfo>> = book.shards.iter().map(|line| line.info.clone()).collect();
    let there = |shard: u32| infos.get(shard as usize).is_some_and(Option::is_some);
    let (pair, sku) = skus_of(&infos).into_iter().find_map(|sku| {
        let wrong = |pair: &Pair| pair.accepted > pair.granted && there(pair.from) && there(pair.to);
        pairs(&infos, &sku).into_iter().find(wrong).map(|pair| (pair, sku))
    })?;
    Some(Finding::fail(
        "transfers",
        about,
        format!(
            "shard {} has taken {} units of {} from shard {}, which says that it has sent {}",
            pair.to,
            pair.accepted,
            String::from_utf8_lossy(&sku),
            pair.from,
            pair.granted
        ),
        "one of the two is left from an earlier sale of this name, or a failover has lost a grant: see `flashsale sale \
         audit`",
    ))
}

/// Judges where the keys of all sales lie, in so many `groups`: what nobody will find there, and what belongs to no
/// sale that is whole.
pub fn judge_places(found: &[FoundKey], prefix: &str, groups: usize) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut numbers: BTreeMap<String, BTreeMap<u32, &FoundKey>> = BTreeMap::new();
    for key in found {
        let shown = String::from_utf8_lossy(&key.key);
        numbers.entry(key.sale_name(prefix)).or_default().insert(key.info.shards, key);
        let wanted = if key.info.shards > 1 { key.info.shard as usize % groups.max(1) } else { 0 };
        if key.part != wanted {
            findings.push(Finding::fail(
                "leftovers",
                &format!("sale `{}`", key.sale_name(prefix)),
                format!("{shown} lies in group {}, and is looked for in group {}", key.part + 1, wanted + 1),
                "the order or number of [[redis.groups]] (or of urls) is not what it was when the sale was made: put it \
                 back, or delete the key if it is of no sale any more",
            ));
        }
    }
    for (name, keys) in numbers.iter().filter(|(_, keys)| keys.len() > 1) {
        let one_each = keys.iter().map(|(shards, key)| format!("{} of {shards}", String::from_utf8_lossy(&key.key)));
        findings.push(Finding::fail(
            "leftovers",
            &format!("sale `{name}`"),
            format!("several sales have this name, and one is found: {}", one_each.collect::<Vec<_>>().join(", ")),
            "delete every shard of the sale that is over, each with its order stream",
        ));
    }
    findings
}

/// Says which sale has outgrown its keys.
pub fn judge_heat(samples: &[HotSample], servers: usize) -> Vec<Finding> {
    let mut findings = Vec::new();
    for sample in samples {
        let Some((sale, shards, rate)) = sample.sales.first() else { continue };
        let share = if sample.commands > 0.0 { (rate / sample.commands).min(1.0) } else { 0.0 };
        let found = format!(
            "`{sale}` ({shards} shards) has {:.0}% of the commands here, {rate:.0} a second; the server uses {:.0}% of \
             a core",
            share * 100.0,
            sample.core * 100.0
        );
        let is_hot = share >= HOT_SHARE && sample.core >= HOT_CORE;
        // Every server has its part already: more shards would only be more keys on the same cores.
        let could_spread = (*shards as usize) < servers;
        findings.push(match (is_hot, could_spread) {
            (false, _) => Finding::ok("hot key", &sample.server, found),
            (true, true) => Finding::warn(
                "hot key",
                &sample.server,
                found,
                format!(
                    "it would gain from shards: make the next sale with --shards auto ({} on these {servers} servers). \
                     A sale's number of shards is fixed for its life",
                    servers as u32 * create::SHARDS_PER_SERVER
                ),
            ),
            (true, false) => Finding::warn(
                "hot key",
                &sample.server,
                found,
                "add servers to the cluster and move slots to them, before the next sale with --shards auto",
            ),
        });
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operate::doctor::Level;
    use crate::store::info::SkuInfo;

    fn facts(change: impl Fn(&mut ShardInfo), streams: Vec<u64>) -> SaleFacts {
        let skus = BTreeMap::from([("tee".into(), SkuInfo { stocked: 5, available: 5, ..SkuInfo::default() })]);
        let mut info = ShardInfo { state: "open".into(), shards: 1, hold_ms: 300_000, skus, ..ShardInfo::default() };
        change(&mut info);
        let expiry_lag_ms = info.expiry_lag_ms;
        let book = Book::of(&Sale::of("sale:", "1", 1), vec![Some(info)], |_| None).unwrap();
        let stream = |entries| StreamFacts { entries, ..StreamFacts::default() };
        SaleFacts { book, streams: streams.into_iter().map(stream).collect(), backlog: 100, expiry_lag_ms }
    }

    #[test]
    fn each_ill_of_a_sale_is_found() {
        assert_eq!(judge(&facts(|_| (), vec![0]))[0].level, Level::Ok);
        for (facts, check, level) in [
            (facts(|info| info.skus.clear(), vec![0]), "stock", Level::Warn),
            (facts(|info| info.hold_ms = 3_600_000, vec![0]), "holds", Level::Warn),
            (facts(|info| info.expiry_lag_ms = 5_000, vec![0]), "expiry", Level::Warn),
            (facts(|_| (), vec![1, 50]), "relay", Level::Warn),
            (facts(|_| (), vec![100]), "relay", Level::Fail),
        ] {
            let found: Vec<_> = judge(&facts).iter().map(|found| (found.check, found.level)).collect();
            assert_eq!(found, [(check, level)]);
        }
    }

    #[test]
    fn units_that_arrived_and_never_left_are_told() {
        let shard = |sku: SkuInfo| {
            let skus = BTreeMap::from([("tee".into(), sku)]);
            Some(ShardInfo { state: "open".into(), shards: 2, skus, ..ShardInfo::default() })
        };
        let judged = |granted, accepted| {
            let donor = SkuInfo { granted_to: BTreeMap::from([(1, granted)]), ..SkuInfo::default() };
            let taker = SkuInfo { accepted_from: BTreeMap::from([(0, accepted)]), ..SkuInfo::default() };
            let book = Book::of(&Sale::of("sale:", "1", 2), vec![shard(donor), shard(taker)], |_| None).unwrap();
            judge_transfers(&book, "sale `1`").map(|finding| finding.found)
        };
        assert_eq!(judged(5, 3), None);
        assert_eq!(
            judged(3, 5).unwrap(),
            "shard 1 has taken 5 units of tee from shard 0, which says that it has sent 3"
        );
    }

    #[test]
    fn keys_of_another_sale_or_in_another_group_are_told() {
        let key = |name: &str, shard, shards, part| FoundKey {
            key: flashsale_core::sharding::shard_key(name.as_bytes(), shard, shards),
            info: ShardInfo { shard, shards, ..ShardInfo::default() },
            part,
        };
        let judged = |found: &[FoundKey]| {
            judge_places(found, "sale:", 2).into_iter().map(|finding| finding.found).collect::<Vec<_>>()
        };
        let well = [key("sale:1", 0, 2, 0), key("sale:1", 1, 2, 1), key("sale:2", 2, 3, 0)];
        assert_eq!(judged(&well), Vec::<String>::new());
        let moved = judged(&[key("sale:1", 1, 2, 0)]);
        assert!(moved[0].ends_with("lies in group 1, and is looked for in group 2"), "{moved:?}");
        let two = judged(&[key("sale:1", 0, 2, 0), key("sale:1", 0, 3, 0)]);
        assert!(two[0].contains("several sales have this name") && two[0].contains("of 3"), "{two:?}");
    }

    #[test]
    fn a_hot_key_is_told_with_its_figures() {
        let sample = |core, rate, shards| HotSample {
            server: "a:1".to_owned(),
            commands: 100_000.0,
            core,
            sales: vec![("1".to_owned(), shards, rate)],
        };
        let judged = |sample| judge_heat(&[sample], 3).remove(0);
        let hot = judged(sample(0.9, 93_000.0, 1));
        assert_eq!(hot.level, Level::Warn);
        assert!(hot.found.contains("93% of the commands") && hot.found.contains("90% of a core"), "{hot:?}");
        assert!(hot.advice.contains("--shards auto (12"), "{hot:?}");
        assert!(judged(sample(0.9, 93_000.0, 12)).advice.contains("add servers"));
        assert_eq!(judged(sample(0.1, 93_000.0, 1)).level, Level::Ok);
        assert_eq!(judged(sample(0.9, 10_000.0, 1)).level, Level::Ok);
    }
}
