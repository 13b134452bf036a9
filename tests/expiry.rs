//! A hold ends at its deadline: for every command at once, and without any command too.

use std::time::Duration;

use flashsale_tests::sale::{assert_audit_is_clean, order_entries, orders_key, stock};
use flashsale_tests::{Client, RedisServer, Server, on_every_server, wait_until};

on_every_server!(
    units_are_free_again_at_the_deadline,
    an_idle_sale_expires_by_itself,
    a_hold_can_be_extended_up_to_its_longest_life,
    a_late_confirm_takes_the_units_again_if_they_are_there,
    expire_ends_at_most_as_many_as_asked,
    expiry_waits_while_writes_are_paused,
    many_holds_due_at_once_all_end,
);

const PATIENCE: Duration = Duration::from_secs(20);

fn sale(server: Server, stocked: u32) -> (RedisServer, Client) {
    let redis = RedisServer::builder(server).module().start();
    let mut client = redis.client();
    client.ok(&["FLASH.CREATE", "sale:1", "EVENTS", "ALL", "ITEMS", "red", &stocked.to_string()]);
    (redis, client)
}

fn wait_past(client: &mut Client, deadline_ms: i64) {
    wait_until("the deadline is past", PATIENCE, || now_ms(client) > deadline_ms);
}

pub(crate) fn now_ms(client: &mut Client) -> i64 {
    let now = client.ok(&["TIME"]);
    now.at(0).integer() * 1000 + now.at(1).integer() / 1000
}

fn units_are_free_again_at_the_deadline(server: Server) {
    let (_redis, mut client) = sale(server, 5);
    let hold = client.line("FLASH.RESERVE sale:1 h1 ann TTL 150 ITEMS red 5");
    let deadline_ms = hold.at(2).integer();
    let refusal = client.line("FLASH.RESERVE sale:1 h2 bob ITEMS red 5");
    assert_eq!(refusal.to_string(), format!("[ALLHELD red {deadline_ms}]"));
    wait_past(&mut client, deadline_ms);
    assert_eq!(client.line("FLASH.RESERVE sale:1 h2 bob ITEMS red 5").status(), "RESERVED");
    for late in ["FLASH.CONFIRM sale:1 h1", "FLASH.EXTEND sale:1 h1 1000", "FLASH.RELEASE sale:1 h1"] {
        assert_eq!(client.line(late).status(), "EXPIRED", "{late}");
    }
    let again = client.line("FLASH.RESERVE sale:1 h1 ann TTL 150 ITEMS red 5");
    assert_eq!(again.status(), "EXPIRED", "an id that has ended does not come back");
    assert_audit_is_clean(&mut client, "sale:1");
}

fn an_idle_sale_expires_by_itself(server: Server) {
    let (_redis, mut client) = sale(server, 5);
    client.line("FLASH.RESERVE sale:1 h1 ann TTL 100 ITEMS red 5");
    // Looks at the stream only: nobody touches the sale's key.
    let stream = orders_key("sale:1");
    wait_until("the timer has expired the hold", PATIENCE, || {
        client.ok(&["XRANGE", &stream, "-", "+"]).to_string().contains("expired")
    });
    let last = order_entries(&mut client, "sale:1").pop().expect("an entry");
    assert_eq!((last["type"].as_str(), last["hold"].as_str()), ("expired", "h1"));
}

fn a_hold_can_be_extended_up_to_its_longest_life(server: Server) {
    let redis = RedisServer::builder(server).module().start();
    let mut client = redis.client();
    client.ok(&["FLASH.CREATE", "sale:1", "HOLD", "1000", "MAXHOLD", "5000", "ITEMS", "red", "5"]);
    let first_ms = client.line("FLASH.RESERVE sale:1 h1 ann ITEMS red 1").at(2).integer();
    let began_ms = first_ms - 1000;
    let reply = client.line("FLASH.EXTEND sale:1 h1 4000");
    assert_eq!(reply.status(), "EXTENDED");
    assert!(reply.at(2).integer() >= began_ms + 4000, "{reply}");
    let reply = client.line("FLASH.EXTEND sale:1 h1 5000");
    assert_eq!(reply.at(2).integer(), began_ms + 5000, "never beyond MAXHOLD");
    for out_of_range in ["0", "5001", "-1"] {
        let refusal = client.call(&["FLASH.EXTEND", "sale:1", "h1", out_of_range]);
        assert!(refusal.error().starts_with("ERR"), "{refusal}");
    }
}

fn a_late_confirm_takes_the_units_again_if_they_are_there(server: Server) {
    let (_redis, mut client) = sale(server, 5);
    client.line("FLASH.RESERVE sale:1 h1 ann TTL 50 ITEMS red 3");
    let second = client.line("FLASH.RESERVE sale:1 h2 bob TTL 50 ITEMS red 1");
    wait_past(&mut client, second.at(2).integer());
    assert_eq!(client.line("FLASH.CONFIRM sale:1 h1").status(), "EXPIRED");
    assert_eq!(client.line("FLASH.CONFIRM sale:1 h1 LATE").status(), "CONFIRMED");
    assert_eq!(client.line("FLASH.ORDER sale:1 h3 cas ITEMS red 2").status(), "CONFIRMED");
    assert_eq!(client.line("FLASH.CONFIRM sale:1 h2 LATE").to_string(), "[SOLDOUT red]");
    assert_audit_is_clean(&mut client, "sale:1");
}

fn expire_ends_at_most_as_many_as_asked(server: Server) {
    let (_redis, mut client) = sale(server, 100);
    client.ok(&["FLASH.RESERVE", "sale:1", "long", "ann", "ITEMS", "red", "1"]);
    assert_eq!(client.line("FLASH.EXPIRE sale:1").integer(), 0);
    assert_eq!(client.line("FLASH.EXPIRE sale:1 COUNT 1").integer(), 0);
    assert!(client.line("FLASH.EXPIRE sale:1 COUNT 0").is_error());
    assert_eq!(stock(&mut client, "sale:1", "red").held, 1);
}

fn expiry_waits_while_writes_are_paused(server: Server) {
    let (mut redis, mut client) = sale(server, 5);
    let replica = RedisServer::builder(server).module().replica_of(&redis).start();
    let hold = client.line("FLASH.RESERVE sale:1 h1 ann TTL 200 ITEMS red 5");
    client.ok(&["CLIENT", "PAUSE", "1500", "WRITE"]);
    let mut watcher = redis.client();
    wait_past(&mut watcher, hold.at(2).integer() + 300);
    assert!(redis.is_alive(), "a write from the timer while writes are paused ends the server");
    watcher.ok(&["CLIENT", "UNPAUSE"]);
    wait_until("the hold has expired", PATIENCE, || stock(&mut watcher, "sale:1", "red").held == 0);
    wait_until("primary and replica are equal", PATIENCE, || {
        replica.wait_for_primary(&redis);
        redis.digest() == replica.digest()
    });
}

fn many_holds_due_at_once_all_end(server: Server) {
    let (_redis, mut client) = sale(server, 20_000);
    for number in 0..20_000 {
        let (id, buyer) = (format!("h{number}"), format!("b{number}"));
        client
            .send(&["FLASH.RESERVE", "sale:1", &id, &buyer, "TTL", "1500", "ITEMS", "red", "1"])
            .expect("the server takes it");
        if number % 100 == 99 {
            for _ in 0..100 {
                let reply = client.receive().expect("the server answers");
                assert_eq!(reply.status(), "RESERVED");
            }
        }
    }
    wait_until("all have expired", PATIENCE, || stock(&mut client, "sale:1", "red").available == 20_000);
    assert_audit_is_clean(&mut client, "sale:1");
}
