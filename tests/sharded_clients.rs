//! The lines that `docs/sharding.md` gives to clients without the proxy do what the page says: they are taken out of
//! it and run with the cluster clients they are written for, against a real cluster.

use std::path::{Path, PathBuf};
use std::process::Command;

use flashsale_tests::sale::shard_keys;
use flashsale_tests::sharded::ShardedSale;
use flashsale_tests::{Cluster, RedisServer, Server, artifacts, on_every_server};

on_every_server!(buyers_are_routed_in_python, buyers_are_routed_in_node, the_home_of_a_buyer_is_the_key_slot_modulo_n,);

/// What each of the twelve shards has at first.
const STOCK: [i64; 12] = [100; 12];

fn buyers_are_routed_in_python(server: Server) {
    let mut cluster = Cluster::with_module(server).start();
    // Units shall be moved by the page's lines alone.
    for node in cluster.nodes() {
        node.client().ok(&["CONFIG", "SET", "flashsale.bus-interval-ms", "0"]);
    }
    let sale = ShardedSale::create(&cluster, "spring", &STOCK);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let route = write(folder.path(), "route.py", &snippet("Route a buyer", "python"));
    let mover = write(folder.path(), "move.py", &snippet("Move stock yourself", "python"));
    let mut python = Command::new(artifacts::python_with_redis());
    let script = artifacts::project().join("tests/python/sharded_sale.py");
    run(python.arg(script).arg(cluster.primaries()[0].port().to_string()).args([route, mover]));
    let sums = sale.assert_whole(&cluster);
    assert!(sums.held > 240 && sums.granted == 12, "{sums:?}");
}

fn buyers_are_routed_in_node(server: Server) {
    let Some(modules) = artifacts::node_modules() else { return };
    let mut cluster = Cluster::with_module(server).replicas_each(0).start();
    let sale = ShardedSale::create(&cluster, "spring", &STOCK);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let route = write(folder.path(), "route.js", &snippet("Route a buyer", "js"));
    let script = artifacts::project().join("tests/node/sharded_sale.js");
    let mut node = Command::new("node");
    node.env("NODE_PATH", modules).arg(script).arg(cluster.primaries()[0].port().to_string()).arg(route);
    run(&mut node);
    let sums = sale.assert_whole(&cluster);
    assert!(sums.held > 240, "{sums:?}");
}

/// What every client can compute is what FLASH.ROUTE says, for ids of any bytes, braces anywhere.
fn the_home_of_a_buyer_is_the_key_slot_modulo_n(server: Server) {
    let node = RedisServer::builder(server).module().cluster().start();
    let mut client = node.client();
    let mut ids: Vec<Vec<u8>> = ODD_IDS.iter().map(|id| id.as_bytes().to_vec()).collect();
    // Short words of few letters have braces in every place that there is.
    for number in 0..3_u32.pow(6) {
        ids.push((0..6).map(|place| b"{}a"[(number / 3_u32.pow(place) % 3) as usize]).collect());
    }
    ids.extend((0..=u8::MAX).map(|byte| vec![byte, b'\n', byte.wrapping_mul(167)]));
    for shards in [1, 2, 3, 12, 16_384] {
        let count = shards.to_string();
        let keys = shard_keys(&mut client, "spring", shards);
        for id in &ids {
            let slot = client.ok(&[&b"CLUSTER"[..], b"KEYSLOT", id.as_slice()]).integer();
            let home = client.ok(&[&b"FLASH.ROUTE"[..], b"spring", count.as_bytes(), id.as_slice()]).text();
            assert_eq!(home, keys[slot as usize % shards], "{} in {shards} shards", id.escape_ascii());
        }
    }
}

const ODD_IDS: [&str; 9] = ["user{42}", "{user}42", "{}{a}", "a{}b}", "}{", "käthe", "名前", "\u{1f600}{ü}", " "];

#[track_caller]
fn run(command: &mut Command) {
    let output = command.output().expect("the interpreter runs");
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("all well"), "{said}\n{complained}");
}

fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).expect("a temporary file");
    path
}

/// The first block of code in a language under a heading of the page.
fn snippet(heading: &str, language: &str) -> String {
    let page = std::fs::read_to_string(artifacts::project().join("docs/sharding.md")).expect("docs/sharding.md");
    let section = page.split("\n## ").find(|section| section.lines().next() == Some(heading));
    let section = section.unwrap_or_else(|| panic!("docs/sharding.md has no section {heading:?}"));
    let block = section.split_once(&format!("\n```{language}\n")).and_then(|(_, rest)| rest.split_once("\n```"));
    block.unwrap_or_else(|| panic!("the section {heading:?} has no code in {language}")).0.to_owned()
}
