//! What it costs and brings to spread a sale over a cluster, three primaries on one machine. `make bench` runs it.

use std::time::{Duration, Instant};

use flashsale_tests::callgrind::CountedServer;
use flashsale_tests::sharded::{Buyer, ShardedSale};
use flashsale_tests::{Client, Cluster, ClusterClient, RedisServer, Server, artifacts, free_port, wait_until};

const SHARDS: usize = 12;
const PATIENCE: Duration = Duration::from_secs(60);
/// News have gone round by then.
const SETTLED: Duration = Duration::from_secs(2);

fn main() {
    // `cargo test --benches` asks for a listing; there is nothing to list.
    if std::env::args().any(|argument| argument == "--list") {
        return;
    }
    println!("module: {}", artifacts::module().display());
    println!("\n| what | measured |\n|---|---|");
    for replicas_each in [0, 1] {
        first_unit_from_elsewhere(replicas_each);
    }
    commands_per_node();
    last_percent();
    instructions();
}

fn row(what: &str, measured: &str) {
    println!("| {what} | {measured} |");
}

/// From the request that finds an empty shelf to its unit from another node. Each sample has a SKU of its own.
fn first_unit_from_elsewhere(replicas_each: usize) {
    const SAMPLES: usize = 300;
    let cluster = Cluster::with_module(Server::Redis70).replicas_each(replicas_each).start();
    let sale = ShardedSale::create(&cluster, "sale", &[0; 3]);
    let mut client = ClusterClient::new(&cluster);
    for sample in 0..SAMPLES {
        for (shard, units) in [(0, 0), (1, 10), (2, 10)] {
            client.line(&format!("FLASH.STOCK {} sku-{sample} {units}", sale.keys[shard]));
        }
    }
    let mut node = cluster.nodes().next().expect("a node").client();
    let buyers = sale.buyers_in(&mut node, 0, SAMPLES);
    std::thread::sleep(SETTLED);
    let mut times_ms = Vec::new();
    for (sample, (buyer, _)) in buyers.iter().enumerate() {
        let line = format!("FLASH.RESERVE {} h{sample} {buyer} BLOCK 20000 ITEMS sku-{sample} 1", sale.keys[0]);
        let started = Instant::now();
        assert_eq!(client.line(&line).status(), "RESERVED");
        times_ms.push(started.elapsed().as_secs_f64() * 1_000.0);
    }
    times_ms.sort_by(f64::total_cmp);
    let at = |percent: usize| times_ms[(times_ms.len() * percent / 100).min(times_ms.len() - 1)];
    row(
        &format!("from an empty shard to a unit from elsewhere, {replicas_each} replicas of each primary"),
        &format!("median {:.1} ms, p99 {:.1} ms", at(50), at(99)),
    );
}

/// What all primaries have sent on the bus: messages and bytes.
fn bus(cluster: &mut Cluster) -> (u64, u64) {
    let sum = |cluster: &mut Cluster, field: &str| {
        let one = |node: &RedisServer| node.info(field).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        cluster.primaries().iter().map(one).sum()
    };
    (sum(cluster, "flashsale_bus_messages_sent"), sum(cluster, "flashsale_bus_bytes_sent"))
}

fn bus_row(what: &str, cluster: &mut Cluster, work: impl FnOnce(&mut Cluster)) {
    let (before, started) = (bus(cluster), Instant::now());
    work(cluster);
    let (after, seconds) = (bus(cluster), started.elapsed().as_secs_f64());
    let (messages, bytes) = ((after.0 - before.0) as f64 / seconds, (after.1 - before.1) as f64 / seconds);
    row(what, &format!("{messages:.0} messages and {:.1} kB a second, all nodes together", bytes / 1_000.0));
}

/// How evenly a hot sale with buyers everywhere spreads, and what the bus carries meanwhile.
fn commands_per_node() {
    const BUYERS: usize = 60_000;
    let mut cluster = Cluster::with_module(Server::Redis70).start();
    let sale = ShardedSale::create(&cluster, "sale", &[BUYERS as i64 / SHARDS as i64; SHARDS]);
    let mut node = cluster.nodes().next().expect("a node").client();
    let buyers = sale.buyers(&mut node, BUYERS);
    std::thread::sleep(SETTLED);
    bus_row("bus at rest, 12 shards", &mut cluster, |_| std::thread::sleep(Duration::from_secs(10)));
    let mut rate = 0.0;
    bus_row("bus in a rush, buyers everywhere", &mut cluster, |cluster| {
        let started = Instant::now();
        reserve_all(cluster, &sale, &buyers);
        rate = BUYERS as f64 / started.elapsed().as_secs_f64();
    });
    row("that rush, pipelines of 100, all on this machine", &format!("{rate:.0} RESERVE a second"));
    let calls: Vec<f64> = cluster
        .primaries()
        .iter()
        .map(|node| {
            let stats = node.info("cmdstat_FLASH.RESERVE").expect("the node has had such commands");
            let calls = stats.split(',').find_map(|field| field.strip_prefix("calls=")?.parse::<f64>().ok());
            calls.expect("a number of calls")
        })
        .collect();
    let mean = calls.iter().sum::<f64>() / calls.len() as f64;
    let busiest = calls.iter().copied().fold(0.0, f64::max);
    row("commands of the busiest node beside the mean, buyers everywhere", &format!("{:.3}", busiest / mean));

    let skewed = ShardedSale::create(&cluster, "skewed", &[200; SHARDS]);
    let buyers = skewed.buyers_in(&mut node, 7, 200 * SHARDS);
    bus_row("bus in a rush, all buyers in one shard", &mut cluster, |cluster| {
        skewed.sell(&cluster.ports(), &buyers, 8, 20_000);
    });
}

fn reserve_all(cluster: &Cluster, sale: &ShardedSale, buyers: &[Buyer]) {
    let mut finder = ClusterClient::new(cluster);
    let owners: Vec<u16> = sale.keys.iter().map(|key| finder.owner(key)).collect();
    std::thread::scope(|scope| {
        for node in cluster.ports() {
            let requests: Vec<Vec<String>> = buyers
                .iter()
                .filter(|(_, shard)| owners[*shard] == node)
                .map(|(buyer, shard)| {
                    let line = format!("FLASH.RESERVE {} h-{buyer} {buyer} ITEMS shirt 1", sale.keys[*shard]);
                    line.split(' ').map(str::to_owned).collect()
                })
                .collect();
            scope.spawn(move || {
                let mut client = Client::connect(node).expect("the node listens");
                for batch in requests.chunks(100) {
                    client.send_all(batch).expect("the node takes it");
                    batch.iter().for_each(|_| {
                        let reply = client.receive().expect("an answer");
                        assert!(!reply.is_error(), "{reply}");
                    });
                }
            });
        }
    });
}

/// 120,000 units, 1% of them left and spread evenly, and all who want them live in one shard.
fn last_percent() {
    const LEFT: i64 = 1_200;
    const THREADS: usize = 16;
    let cluster = Cluster::with_module(Server::Redis70).start();
    let mut node = cluster.nodes().next().expect("a node").client();
    let mut all_here = [0; SHARDS];
    all_here[7] = LEFT;
    let cases = [("spread over 12 shards", "spread", [LEFT / SHARDS as i64; SHARDS]), ("all there", "there", all_here)];
    for (what, name, stock) in cases {
        let sale = ShardedSale::create(&cluster, name, &stock);
        let buyers = sale.buyers_in(&mut node, 7, LEFT as usize);
        std::thread::sleep(SETTLED);
        let started = Instant::now();
        let sold = sale.sell(&cluster.ports(), &buyers, THREADS, 20_000);
        assert_eq!(sold.confirmed.len(), LEFT as usize, "{:?}", sold.refused);
        row(
            &format!("last 1,200 of 120,000 units sold, demand in one shard, {THREADS} clients, {what}"),
            &format!("{:.0} ms", started.elapsed().as_secs_f64() * 1_000.0),
        );
    }
}

/// Instructions per RESERVE on a node of a cluster, of a shard beside a sale in one key.
fn instructions() {
    const COUNTED: usize = 8_000;
    const PIPELINE: usize = 32;
    let mut counts = Vec::new();
    for sharded in [false, true] {
        let bus_port = free_port().to_string();
        let server = CountedServer::start(&["--cluster-enabled", "yes", "--cluster-port", &bus_port], None);
        let mut client = server.client();
        client.ok(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
        wait_until("the cluster is well", PATIENCE, || {
            client.ok(&["CLUSTER", "INFO"]).text().contains("cluster_state:ok")
        });
        let key = client.ok(&["FLASH.SHARDS", "sale", "12"]).at(0).text();
        let create = ["FLASH.CREATE", &key, "LIMIT", "5", "ITEMS", "shirt", "1000000000"];
        let shard = if sharded { &["SHARD", "0", "12"][..] } else { &[] };
        client.ok(&[&create[..4], shard, &create[4..]].concat());
        let buyers = names_in_shard_0(&mut client, COUNTED * 5 / 4);
        let requests: Vec<Vec<String>> = buyers
            .iter()
            .enumerate()
            .map(|(number, buyer)| {
                let line = format!("FLASH.RESERVE {key} hold-{number:019} {buyer} ITEMS shirt 1");
                line.split(' ').map(str::to_owned).collect()
            })
            .collect();
        let (warm_up, counted) = requests.split_at(COUNTED / 4);
        let mut send = |requests: &[Vec<String>]| {
            for batch in requests.chunks(PIPELINE) {
                client.send_all(batch).expect("the server takes it");
                batch.iter().for_each(|_| assert_eq!(client.receive().expect("an answer").status(), "RESERVED"));
            }
        };
        send(warm_up);
        server.zero();
        send(counted);
        counts.push(server.instructions() / counted.len() as u64);
    }
    let ratio = counts[1] as f64 / counts[0] as f64;
    row(
        "instructions per RESERVE of a shard, beside a sale in one key",
        &format!("{} beside {}: {ratio:.3} times", counts[1], counts[0]),
    );
}

fn names_in_shard_0(client: &mut Client, count: usize) -> Vec<String> {
    let names: Vec<String> = (0..count * 14).map(|number| format!("buyer-{number:06}")).collect();
    let questions: Vec<[&str; 3]> = names.iter().map(|name| ["CLUSTER", "KEYSLOT", name]).collect();
    client.send_all(&questions).expect("the server takes it");
    let mut chosen = Vec::new();
    for name in names.iter() {
        if client.receive().expect("an answer").integer() % 12 == 0 {
            chosen.push(name.clone());
        }
    }
    chosen.truncate(count);
    assert_eq!(chosen.len(), count, "enough buyers live in shard 0");
    chosen
}
