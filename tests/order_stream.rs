//! The order stream: numbers never come back, whatever operators do to the keys around it.

use flashsale_tests::sale::{assert_audit_is_clean, order_entries, orders_key};
use flashsale_tests::{Client, RedisServer, Server, on_every_server};

on_every_server!(
    a_new_sale_in_an_old_key_goes_on_with_the_numbers,
    entries_put_in_by_hand_stop_no_order,
    another_type_in_its_place_refuses_the_order_and_keeps_the_hold,
);

fn sale(server: Server) -> (RedisServer, Client) {
    let redis = RedisServer::builder(server).module().start();
    let mut client = redis.client();
    client.line("FLASH.CREATE sale ITEMS red 100");
    (redis, client)
}

fn order(client: &mut Client, id: &str) -> i64 {
    let confirmed = client.line(&format!("FLASH.ORDER sale {id} ann ITEMS red 1"));
    assert_eq!(confirmed.status(), "CONFIRMED");
    confirmed.at(2).integer()
}

fn a_new_sale_in_an_old_key_goes_on_with_the_numbers(server: Server) {
    let (redis, mut client) = sale(server);
    let replica = RedisServer::builder(server).module().replica_of(&redis).start();
    replica.wait_for_primary(&redis);
    assert_eq!(order(&mut client, "o1"), 1);
    client.line("DEL sale");
    client.line("FLASH.CREATE sale ITEMS red 100");
    assert_eq!(order(&mut client, "o1"), 2, "a shop that has seen order 1 must not take this one for it");
    // A relay that has delivered everything leaves the stream empty.
    client.ok(&["XTRIM", &orders_key("sale"), "MAXLEN", "0"]);
    client.line("DEL sale");
    client.line("FLASH.CREATE sale ITEMS red 100");
    assert_eq!(order(&mut client, "o1"), 3, "numbers do not come back with the entries gone");
    replica.wait_for_primary(&redis);
    assert_eq!(replica.digest(), redis.digest());
}

fn entries_put_in_by_hand_stop_no_order(server: Server) {
    let (redis, mut client) = sale(server);
    let replica = RedisServer::builder(server).module().replica_of(&redis).start();
    replica.wait_for_primary(&redis);
    let stream = orders_key("sale");
    assert_eq!(order(&mut client, "o1"), 1);
    client.ok(&["XADD", &stream, "4102444800000-7", "by", "hand"]);
    assert_eq!(order(&mut client, "o2"), 2);
    client.ok(&["XADD", &stream, "4102444800005-7", "taken", "back"]);
    client.ok(&["XDEL", &stream, "4102444800005-7"]);
    assert_eq!(order(&mut client, "o3"), 3);
    assert_eq!(order_entries(&mut client, "sale").len(), 4);
    assert_audit_is_clean(&mut client, "sale");
    replica.wait_for_primary(&redis);
    assert_eq!(replica.digest(), redis.digest());
}

fn another_type_in_its_place_refuses_the_order_and_keeps_the_hold(server: Server) {
    let (_redis, mut client) = sale(server);
    client.line("FLASH.RESERVE sale h1 ann ITEMS red 1");
    let stream = orders_key("sale");
    client.ok(&["SET", &stream, "not a stream"]);
    let refused = client.line("FLASH.CONFIRM sale h1").to_string();
    assert!(refused.contains("WRONGTYPE") && refused.contains("order stream"), "{refused}");
    client.ok(&["DEL", &stream]);
    assert_eq!(client.line("FLASH.CONFIRM sale h1").status(), "CONFIRMED");
    assert_audit_is_clean(&mut client, "sale");
}
