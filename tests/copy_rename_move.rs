//! Sales that are copied, renamed, moved and dumped stay whole, are found by the timer wherever they go, and the
//! module leaves the keys and the clients of others alone.

use std::time::Duration;

use flashsale_tests::{RedisServer, Reply, Server, on_every_server, wait_until};

use crate::keyspace::{assert_expires_by_itself, sale, start};

on_every_server!(
    clients_stay_in_their_database,
    a_sale_is_found_again_among_many_keys,
    a_sale_that_travels_far_expires_by_itself,
    copies_into_other_databases_and_over_other_keys_expire_by_themselves,
    replicas_follow_every_journey,
    a_dump_is_the_same_sale,
    swapped_and_flushed_databases,
    a_sale_is_made_again_beside_its_old_stream,
);

const PATIENCE: Duration = Duration::from_secs(20);

/// A module that listens to keyspace events makes Valkey 8.1 leave the client in the other database.
fn clients_stay_in_their_database(server: Server) {
    let (_redis, mut client) = start(server);
    sale(&mut client, "sale:1", 60_000);
    client.ok(&["SET", "text", "1"]);
    for journey in ["COPY text text DB 4", "MOVE text 5", "COPY sale:1 sale:1 DB 4", "MOVE sale:1 5"] {
        assert_eq!(client.line(journey).integer(), 1, "{journey}");
        let info = client.ok(&["CLIENT", "INFO"]).text();
        assert!(info.contains(" db=0 "), "after {journey}: {info}");
    }
    assert_eq!(client.line("DBSIZE").integer(), 1, "the stream of the sale");
}

fn a_sale_is_found_again_among_many_keys(server: Server) {
    let (_redis, mut client) = start(server);
    for number in 0..300 {
        let pairs: Vec<String> = (0..100).flat_map(|n| [format!("key:{number}:{n}"), "x".into()]).collect();
        client.ok(&[&["MSET".to_owned()], pairs.as_slice()].concat());
    }
    sale(&mut client, "sale:1", 300);
    client.ok(&["RENAME", "sale:1", "sale:2"]);
    assert_expires_by_itself(&mut client, "sale:2");
}

fn a_sale_that_travels_far_expires_by_itself(server: Server) {
    let (_redis, mut client) = start(server);
    sale(&mut client, "a", 400);
    client.ok(&["RENAME", "a", "b"]);
    client.ok(&["RENAMENX", "b", "c"]);
    client.ok(&["MULTI"]);
    client.ok(&["RENAME", "c", "d"]);
    client.ok(&["MOVE", "d", "9"]);
    client.ok(&["EXEC"]);
    client.ok(&["SELECT", "9"]);
    sale(&mut client, "e", 60_000);
    client.ok(&["RENAME", "d", "e"]);
    client.ok(&["SWAPDB", "9", "2"]);
    client.ok(&["SELECT", "2"]);
    client.ok(&["DEL", "{d}:orders", "{e}:orders"]);
    assert_expires_by_itself(&mut client, "e");
}

fn copies_into_other_databases_and_over_other_keys_expire_by_themselves(server: Server) {
    let (_redis, mut client) = start(server);
    sale(&mut client, "sale:1", 400);
    client.ok(&["SET", "text", "1"]);
    assert_eq!(client.line("COPY sale:1 text").integer(), 0);
    assert_eq!(client.line("COPY sale:1 text REPLACE").integer(), 1);
    assert_eq!(client.line("COPY sale:1 far DB 3").integer(), 1);
    assert_expires_by_itself(&mut client, "sale:1");
    assert_expires_by_itself(&mut client, "text");
    client.ok(&["SELECT", "3"]);
    assert_expires_by_itself(&mut client, "far");
}

fn replicas_follow_every_journey(server: Server) {
    let primary = RedisServer::builder(server).module().start();
    let replica = RedisServer::builder(server).module().replica_of(&primary).start();
    let mut client = primary.client();
    sale(&mut client, "a", 600);
    for journey in ["COPY a b", "RENAME a c", "MOVE b 1", "COPY c a DB 1", "SWAPDB 0 1", "RENAME a d"] {
        client.ok(&journey.split(' ').collect::<Vec<_>>());
        replica.wait_for_primary(&primary);
        assert_eq!(primary.digest(), replica.digest(), "after {journey}");
    }
    // All are ended by the primary's timer, and so on the replica.
    wait_until("no hold is left", PATIENCE, || primary.info("flashsale_holds").as_deref() == Some("0"));
    replica.wait_for_primary(&primary);
    assert_eq!(primary.digest(), replica.digest());
    assert_eq!(replica.info("flashsale_sales").as_deref(), Some("3"));
}

fn a_dump_is_the_same_sale(server: Server) {
    let (_redis, mut client) = start(server);
    sale(&mut client, "sale:1", 60_000);
    client.ok(&["FLASH.ORDER", "sale:1", "o1", "bob", "REF", "cart", "ITEMS", "red", "2"]);
    client.ok(&["FLASH.RELEASE", "sale:1", "unknown"]);
    let digest = client.line("DEBUG DIGEST-VALUE sale:1");
    let Reply::Bytes(dump) = client.ok(&["DUMP", "sale:1"]) else { panic!("DUMP gives bytes") };
    client.ok(&[b"RESTORE".as_slice(), b"restored", b"0", &dump]);
    client.ok(&["COPY", "sale:1", "copy"]);
    assert_eq!(client.line("DEBUG DIGEST-VALUE restored"), digest);
    assert_eq!(client.line("DEBUG DIGEST-VALUE copy"), digest);
    client.ok(&["FLASH.RELEASE", "copy", "h1"]);
    assert_ne!(client.line("DEBUG DIGEST-VALUE copy"), digest);
    assert_eq!(client.line("DEBUG DIGEST-VALUE sale:1"), digest);
}

fn swapped_and_flushed_databases(server: Server) {
    let (mut redis, mut client) = start(server);
    for round in 0..3 {
        sale(&mut client, "sale:1", 50);
        client.ok(&["SWAPDB", "0", "1"]);
        sale(&mut client, "sale:1", 300);
        client.ok(&["FLUSHDB", if round == 1 { "SYNC" } else { "ASYNC" }]);
        client.ok(&["SWAPDB", "0", "1"]);
        assert_expires_by_itself(&mut client, "sale:1");
        client.ok(&["FLUSHALL", "ASYNC"]);
    }
    wait_until("nothing is left", PATIENCE, || redis.info("flashsale_sales").as_deref() == Some("0"));
    assert!(redis.is_alive());
}

/// DEL of a sale leaves its order stream to whoever reads it: a new sale of that name numbers from 1 again, and
/// its entries come after the old ones.
fn a_sale_is_made_again_beside_its_old_stream(server: Server) {
    let primary = RedisServer::builder(server).module().start();
    let replica = RedisServer::builder(server).module().replica_of(&primary).start();
    let mut client = primary.client();
    for _ in 0..3 {
        sale(&mut client, "sale:1", 60_000);
        for number in 0..20 {
            let id = format!("o{number}");
            client.ok(&["FLASH.ORDER", "sale:1", &id, "bob", "ITEMS", "red", "1"]);
            client.ok(&["FLASH.RETURN", "sale:1", &id, "back"]);
        }
        client.ok(&["DEL", "sale:1"]);
    }
    let entries = client.ok(&["XRANGE", "{sale:1}:orders", "-", "+"]);
    assert_eq!(entries.items().len(), 3 * (2 + 20 * 3));
    replica.wait_for_primary(&primary);
    assert_eq!(primary.digest(), replica.digest());
}
