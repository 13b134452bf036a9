//! A sale spread over the shards of a cluster: its keys, its buyers, and what all of it adds up to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::sale::{confirmed_orders, shard_keys};
use crate::{Client, Cluster, ClusterClient, wait_until};

/// How long units may be on their way once nobody asks for more.
const PATIENCE: Duration = Duration::from_secs(30);

/// A sale of one SKU, `shirt`.
#[derive(Debug, Clone)]
pub struct ShardedSale {
    pub keys: Vec<String>,
    stocked: i64,
    /// Whether buyers ask after each order if a replica has it.
    pub wants_replicas: bool,
}

/// What all shards come to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sums {
    pub stocked: i64,
    pub available: i64,
    pub held: i64,
    pub sold: i64,
    pub granted: i64,
    pub accepted: i64,
}

/// A buyer and the number of the shard where he lives.
pub type Buyer = (String, usize);

/// What buyers were told.
#[derive(Debug, Default)]
pub struct Sold {
    /// Shard and order number by hold.
    pub confirmed: BTreeMap<String, (usize, i64)>,
    /// Holds of them that a replica had when the buyer was told.
    pub safe: BTreeSet<String>,
    /// How often each refusal was received.
    pub refused: BTreeMap<String, u64>,
}

impl ShardedSale {
    /// Makes a sale of as many units as `stock` adds up to, so many of them in each shard.
    #[track_caller]
    pub fn create(cluster: &Cluster, name: &str, stock: &[i64]) -> ShardedSale {
        let mut client = ClusterClient::new(cluster);
        let count = stock.len();
        let keys = shard_keys(&mut cluster.nodes().next().expect("a node").client(), name, count);
        for (index, (key, units)) in keys.iter().zip(stock).enumerate() {
            let line = format!("FLASH.CREATE {key} SHARD {index} {count} ITEMS shirt {units}");
            assert_eq!(client.line(&line).text(), "OK", "{line}");
        }
        ShardedSale { keys, stocked: stock.iter().sum(), wants_replicas: false }
    }

    /// A sale that was made by other means, of so many units.
    pub fn of_keys(keys: Vec<String>, stocked: i64) -> ShardedSale {
        ShardedSale { keys, stocked, wants_replicas: false }
    }

    /// So many buyers, each living wherever his name puts him.
    pub fn buyers(&self, node: &mut Client, count: usize) -> Vec<Buyer> {
        let names: Vec<String> = (0..count).map(|number| format!("buyer-{number}")).collect();
        let questions: Vec<[&str; 3]> = names.iter().map(|name| ["CLUSTER", "KEYSLOT", name]).collect();
        node.send_all(&questions).expect("the node takes questions");
        let slots: Vec<usize> =
            names.iter().map(|_| node.receive().expect("the node answers").integer() as usize).collect();
        let shards = self.keys.len();
        names.into_iter().zip(slots).map(|(name, slot)| (name, slot % shards)).collect()
    }

    /// So many buyers who all live in one shard.
    pub fn buyers_in(&self, node: &mut Client, shard: usize, count: usize) -> Vec<Buyer> {
        let mut buyers = self.buyers(node, count * self.keys.len() * 2 + 1_000);
        buyers.retain(|buyer| buyer.1 == shard);
        assert!(buyers.len() >= count, "{} buyers live in shard {shard}", buyers.len());
        buyers.truncate(count);
        buyers
    }

    /// Adds up all shards.
    #[track_caller]
    pub fn sums(&self, client: &mut ClusterClient) -> Sums {
        let mut sums = Sums::default();
        for key in &self.keys {
            let info = client.call(&["FLASH.INFO", key]);
            assert!(!info.is_error(), "{key}: {info}");
            let counters = info.get("skus").get("shirt");
            let count = |name: &str| counters.get(name).integer();
            sums.stocked += count("stocked");
            sums.available += count("available");
            sums.held += count("held");
            sums.sold += count("sold");
            sums.granted += count("granted");
            sums.accepted += count("accepted");
        }
        sums
    }

    /// Waits until nothing is on its way, and asserts that no unit was made or lost, that every audit is clean and
    /// that the order streams hold what is sold, each order once.
    #[track_caller]
    pub fn assert_whole(&self, cluster: &Cluster) -> Sums {
        let mut client = ClusterClient::new(cluster);
        wait_until("all units on their way have arrived", PATIENCE, || {
            let sums = self.sums(&mut client);
            assert!(sums.accepted <= sums.granted, "more arrived than was sent: {sums:?}");
            sums.accepted == sums.granted
        });
        let sums = self.sums(&mut client);
        assert_eq!(sums.stocked, self.stocked);
        assert_eq!(sums.available + sums.held + sums.sold, self.stocked, "units were made or lost: {sums:?}");
        for key in &self.keys {
            let audit = client.call(&["FLASH.AUDIT", key]);
            assert_eq!(audit.get("ok").integer(), 1, "{key}: {audit}");
        }
        assert_eq!(self.orders(&mut client).len() as i64, sums.sold, "orders of one unit each");
        sums
    }

    /// Every order in the streams, with shard and number.
    #[track_caller]
    pub fn orders(&self, client: &mut ClusterClient) -> BTreeMap<String, (usize, i64)> {
        let mut orders = BTreeMap::new();
        for (shard, key) in self.keys.iter().enumerate() {
            let mut owner = Client::connect(client.owner(key)).expect("the owner answers");
            for (hold, number) in confirmed_orders(&mut owner, key) {
                assert_eq!(orders.insert(hold.clone(), (shard, number)), None, "{hold} was sold twice");
            }
        }
        orders
    }

    /// All buyers order a unit each, over as many connections as there are threads. Who is told that the shard is
    /// empty, or that others hold the units, comes again until he has one or it is sold out.
    #[track_caller]
    pub fn sell(&self, ports: &[u16], buyers: &[Buyer], threads: usize, block_ms: u64) -> Sold {
        self.sell_counted(ports, buyers, threads, block_ms, &AtomicUsize::new(0))
    }

    /// As [`ShardedSale::sell`], counting orders while they are confirmed.
    #[track_caller]
    pub fn sell_counted(
        &self,
        ports: &[u16],
        buyers: &[Buyer],
        threads: usize,
        block_ms: u64,
        count: &AtomicUsize,
    ) -> Sold {
        let parts: Vec<&[Buyer]> = buyers.chunks(buyers.len().div_ceil(threads).max(1)).collect();
        let sold: Vec<Sold> = std::thread::scope(|scope| {
            let threads: Vec<_> = parts
                .into_iter()
                .map(|part| {
                    let mut client = ClusterClient::of_ports(ports);
                    scope.spawn(move || self.sell_to(&mut client, part, block_ms, count))
                })
                .collect();
            let results = threads.into_iter().map(|thread| thread.join());
            results.map(|result| result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        });
        let mut all = Sold::default();
        for part in sold {
            all.confirmed.extend(part.confirmed);
            all.safe.extend(part.safe);
            part.refused.into_iter().for_each(|(word, count)| *all.refused.entry(word).or_default() += count);
        }
        all
    }

    fn sell_to(&self, client: &mut ClusterClient, buyers: &[Buyer], block_ms: u64, count: &AtomicUsize) -> Sold {
        let mut sold = Sold::default();
        for (buyer, shard) in buyers {
            let (key, id) = (&self.keys[*shard], format!("hold-{buyer}"));
            let block = if block_ms > 0 { format!("BLOCK {block_ms}") } else { String::new() };
            let reserve = format!("FLASH.RESERVE {key} {id} {buyer} {block} ITEMS shirt 1");
            loop {
                let reply = client.line(&reserve);
                assert!(!reply.is_error(), "{reserve}: {reply}");
                match reply.status().as_str() {
                    "RESERVED" => {
                        let confirmed = client.call(&["FLASH.CONFIRM", key, &id]);
                        // A failover may have taken the hold away: then the buyer comes again.
                        if confirmed.status() == "CONFIRMED" {
                            count.fetch_add(1, Ordering::Relaxed);
                            if self.wants_replicas && client.is_replicated(key) {
                                sold.safe.insert(id.clone());
                            }
                            sold.confirmed.insert(id, (*shard, confirmed.at(2).integer()));
                            break;
                        }
                        assert_eq!(confirmed.status(), "NOTFOUND", "{confirmed}");
                    }
                    "CONFIRMED" => {
                        sold.confirmed.insert(id, (*shard, reply.at(2).integer()));
                        break;
                    }
                    word => {
                        *sold.refused.entry(word.to_owned()).or_default() += 1;
                        if word == "SOLDOUT" {
                            break;
                        }
                        assert!(["EMPTY", "ALLHELD"].contains(&word), "{reserve}: {reply}");
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
            }
        }
        sold
    }
}
