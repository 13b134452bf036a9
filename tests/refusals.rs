//! A refusal for want of units is the same every time, and the server keeps the first few of them: each SKU must be
//! told its own, kept or not, to clients of either protocol, in transactions and in scripts.

use flashsale_tests::{Client, RedisServer, Reply, Server, on_every_server};

on_every_server!(every_sku_is_told_its_own_refusal, a_refusal_of_one_status_is_not_that_of_another);

/// More than are kept.
const SKUS: usize = 80;

fn sku(n: usize) -> Vec<u8> {
    match n % 3 {
        0 => format!("cap-{n}").into_bytes(),
        1 => vec![b'\r', b'\n', 0, 0xff, n as u8],
        _ => vec![n as u8; 128],
    }
}

/// RESERVE of one unit of a SKU, all words as bytes.
fn request(n: usize) -> Vec<Vec<u8>> {
    let words: [&[u8]; 7] = [b"FLASH.RESERVE", b"sale", b"h", b"ann", b"ITEMS", &sku(n), b"1"];
    words.map(<[u8]>::to_vec).into()
}

fn refusal(n: usize) -> Reply {
    Reply::Array(vec![Reply::Bytes(b"SOLDOUT".to_vec()), Reply::Bytes(sku(n))])
}

fn every_sku_is_told_its_own_refusal(server: Server) {
    let redis = RedisServer::builder(server).module().start();
    let clients: [Client; 2] = [redis.client(), redis.client().resp3()];
    let mut client = redis.client();
    client.ok(&["FLASH.CREATE", "sale"]);
    for n in 0..SKUS {
        client.ok(&[&b"FLASH.STOCK"[..], b"sale", &sku(n), b"0"]);
    }
    for mut client in clients {
        // First in the order of their keeping, then in the other one.
        for n in (0..SKUS).chain((0..SKUS).rev()) {
            assert_eq!(client.call(&request(n)), refusal(n), "{n}");
        }
        client.ok(&["MULTI"]);
        client.call(&request(0));
        client.call(&request(SKUS - 1));
        assert_eq!(client.ok(&["EXEC"]), Reply::Array(vec![refusal(0), refusal(SKUS - 1)]));
        for n in [0, SKUS - 1] {
            let words = request(n);
            let script: [&[u8]; 4] = [b"EVAL", b"return redis.call(unpack(ARGV))", b"1", b"sale"];
            let call: Vec<&[u8]> = script.into_iter().chain(words.iter().map(Vec::as_slice)).collect();
            assert_eq!(client.call(&call), refusal(n), "in a script");
        }
    }
}

fn a_refusal_of_one_status_is_not_that_of_another(server: Server) {
    let redis = RedisServer::builder(server).module().start();
    let mut client = redis.client();
    client.ok(&["FLASH.CREATE", "alone", "ITEMS", "cap", "0"]);
    // The first of two shards, asked by a buyer who lives there: the other one may have some.
    let shard = client.ok(&["FLASH.SHARDS", "sale", "2"]).at(0).text();
    let mut buyers = (0..100).map(|n| format!("buyer-{n}"));
    let buyer = buyers.find(|buyer| client.ok(&["FLASH.ROUTE", "sale", "2", buyer]).text() == shard);
    let buyer = buyer.expect("half of them live there");
    client.ok(&["FLASH.CREATE", &shard, "SHARD", "0", "2", "ITEMS", "cap", "0"]);
    for _ in 0..3 {
        let alone = client.ok(&["FLASH.RESERVE", "alone", "h", &buyer, "ITEMS", "cap", "1"]);
        let shared = client.ok(&["FLASH.RESERVE", &shard, "h", &buyer, "ITEMS", "cap", "1"]);
        assert_eq!((alone.status(), shared.status()), ("SOLDOUT".into(), "EMPTY".into()));
        assert_eq!((alone.at(1).text(), shared.at(1).text()), ("cap".into(), "cap".into()));
    }
}
