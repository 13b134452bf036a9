//! Keyspace notifications and the state channel tell every change once, on primaries, replicas and clusters, and no
//! refusal.

use std::io::ErrorKind;
use std::time::Duration;

use flashsale_tests::{Client, Cluster, RedisServer, Server, on_every_server};

on_every_server!(
    each_step_is_one_event,
    refusals_are_no_events,
    replicas_tell_their_own_subscribers,
    the_state_channel_of_a_cluster_is_sharded,
);

fn listener(redis: &RedisServer) -> Client {
    redis.client().ok(&["CONFIG", "SET", "notify-keyspace-events", "Ed"]);
    let mut listener = redis.client();
    listener.ok(&["PSUBSCRIBE", "__keyevent@0__:flash.*", "*:state"]);
    listener.receive().expect("the second answer");
    listener
}

/// What is heard within a moment, as `flash.reserved` or `soldout red 1`.
fn heard(listener: &mut Client) -> Vec<String> {
    let mut words = Vec::new();
    listener.set_patience(Duration::from_millis(400));
    loop {
        match listener.receive() {
            Ok(message) => {
                let (channel, text) = (message.at(2).text(), message.at(3).text());
                words.push(channel.strip_prefix("__keyevent@0__:").map_or(text, str::to_owned));
                listener.set_patience(Duration::from_millis(100));
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return words,
            Err(error) => panic!("{error}"),
        }
    }
}

const STORY: [(&str, &[&str]); 8] = [
    ("FLASH.CREATE sale:1 ITEMS red 2", &["flash.stocked"]),
    ("FLASH.RESERVE sale:1 h1 ann ITEMS red 1", &["flash.reserved"]),
    ("FLASH.CONFIRM sale:1 h1", &["flash.confirmed"]),
    ("FLASH.RESERVE sale:1 h2 ann TTL 60000 ITEMS red 1", &["flash.reserved"]),
    ("FLASH.RELEASE sale:1 h2", &["flash.released"]),
    ("FLASH.ORDER sale:1 o1 bob ITEMS red 1", &["flash.confirmed", "flash.soldout", "soldout red 1"]),
    ("FLASH.RETURN sale:1 o1 r1", &["flash.returned", "flash.available", "available red 2"]),
    ("FLASH.STOCK sale:1 red -1", &["flash.stocked", "flash.soldout", "soldout red 3"]),
];

#[track_caller]
fn assert_told(listener: &mut Client, step: &str, expected: &[&str]) {
    let mut told = heard(listener);
    // ORDER is reserving and confirming in one: whether it tells of both is its own business.
    told.retain(|word| !(step.starts_with("FLASH.ORDER") && word == "flash.reserved"));
    assert_eq!(told, expected, "{step}");
}

fn each_step_is_one_event(server: Server) {
    let redis = RedisServer::builder(server).module().start();
    let mut client = redis.client();
    let mut listener = listener(&redis);
    for (step, expected) in STORY {
        client.ok(&step.split(' ').collect::<Vec<_>>());
        assert_told(&mut listener, step, expected);
    }
    client.ok(&["FLASH.STOCK", "sale:1", "red", "5"]);
    heard(&mut listener);
    client.ok(&["FLASH.RESERVE", "sale:1", "h9", "ann", "TTL", "50", "ITEMS", "red", "1"]);
    assert_eq!(heard(&mut listener), ["flash.reserved", "flash.expired"]);
}

fn refusals_are_no_events(server: Server) {
    let redis = RedisServer::builder(server).module().start();
    let mut client = redis.client();
    client.ok(&["FLASH.CREATE", "sale:1", "LIMIT", "1", "ITEMS", "red", "1"]);
    client.ok(&["FLASH.ORDER", "sale:1", "o1", "ann", "ITEMS", "red", "1"]);
    let mut listener = listener(&redis);
    for step in [
        "FLASH.RESERVE sale:1 h1 bob ITEMS red 1",
        "FLASH.RESERVE sale:1 h1 ann ITEMS red 1",
        "FLASH.ORDER sale:1 o1 ann ITEMS red 1",
        "FLASH.RELEASE sale:1 o1",
        "FLASH.CONFIRM sale:1 nobody",
        "FLASH.RETURN sale:1 nobody r1",
        "FLASH.STOCK sale:1 red -1",
        "FLASH.INFO sale:1",
    ] {
        client.ok(&step.split(' ').collect::<Vec<_>>());
    }
    assert_eq!(heard(&mut listener), Vec::<String>::new());
}

fn replicas_tell_their_own_subscribers(server: Server) {
    let primary = RedisServer::builder(server).module().start();
    let replica = RedisServer::builder(server).module().replica_of(&primary).start();
    let mut client = primary.client();
    let mut listener = listener(&replica);
    for (step, expected) in STORY {
        client.ok(&step.split(' ').collect::<Vec<_>>());
        replica.wait_for_primary(&primary);
        assert_told(&mut listener, step, expected);
    }
}

fn the_state_channel_of_a_cluster_is_sharded(server: Server) {
    let cluster = Cluster::with_module(server).primaries(3).replicas_each(0).start();
    let key = "sale{7}";
    let mut client = cluster.client_for(key);
    let mut listener = cluster.client_for(key);
    listener.ok(&["SSUBSCRIBE", &format!("{key}:state")]);
    client.ok(&["FLASH.CREATE", key, "ITEMS", "red", "1"]);
    client.ok(&["FLASH.ORDER", key, "o1", "ann", "ITEMS", "red", "1"]);
    let message = listener.receive().expect("a message");
    assert_eq!(message.to_string(), format!("[smessage {key}:state soldout red 1]"));
}
