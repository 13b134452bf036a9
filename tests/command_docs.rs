//! COMMAND tells the truth of every command: documentation, arity, flags, and which keys it uses how.

use flashsale_tests::{Client, RedisServer, Reply, Server, on_every_server};

on_every_server!(
    every_command_is_documented,
    the_contract_is_complete,
    keys_and_what_is_done_to_them,
    too_few_words_are_refused_by_the_server,
);

/// A call of every command of the contract, and what it does to its key: `RO` reads, `RW` changes, `OW` makes it.
const CALLS: [(&str, &str); 26] = [
    ("FLASH.CREATE sale:1", "OW insert"),
    ("FLASH.ALTER sale:1 LIMIT 1", "RW access update"),
    ("FLASH.STOCK sale:1 red 1", "RW access update"),
    ("FLASH.RESERVE sale:1 h1 ann ITEMS red 1", "RW access update"),
    ("FLASH.MRESERVE sale:1 HOLDS h1 ann red 1", "RW access update"),
    ("FLASH.ORDER sale:1 h1 ann ITEMS red 1", "RW access update"),
    ("FLASH.CONFIRM sale:1 h1", "RW access update"),
    ("FLASH.RELEASE sale:1 h1", "RW access update"),
    ("FLASH.EXTEND sale:1 h1 1000", "RW access update"),
    ("FLASH.RETURN sale:1 h1 r1", "RW access update"),
    ("FLASH.EXPIRE sale:1", "RW access update"),
    ("FLASH.PAUSE sale:1", "RW access update"),
    ("FLASH.RESUME sale:1", "RW access update"),
    ("FLASH.CLOSE sale:1", "RW access update"),
    ("FLASH.INFO sale:1", "RO access"),
    ("FLASH.HOLD sale:1 h1", "RO access"),
    ("FLASH.BUYER sale:1 ann", "RO access"),
    ("FLASH.HOLDS sale:1 0", "RO access"),
    ("FLASH.AUDIT sale:1", "RO access"),
    ("FLASH.GRANT sale:1 red 1 TO 1", "RW access update"),
    ("FLASH.ACCEPT sale:1 red FROM 1 TOTAL 1", "RW access update"),
    ("FLASH.THROTTLE sale:1 1 1 1", "RW access update"),
    ("FLASH.SHARDS spring 3", ""),
    ("FLASH.ROUTE spring 3 ann", ""),
    ("FLASH._APPLY sale:1 x", "RW access update"),
    ("FLASH._LOAD sale:1 x", "OW insert"),
];

fn start(server: Server) -> (RedisServer, Client) {
    let redis = RedisServer::builder(server).module().start();
    let client = redis.client();
    (redis, client)
}

fn commands(client: &mut Client) -> Vec<String> {
    let list = client.ok(&["COMMAND", "LIST", "FILTERBY", "MODULE", "flashsale"]);
    list.items().iter().map(|name| name.text().to_uppercase()).collect()
}

fn every_command_is_documented(server: Server) {
    let (_redis, mut client) = start(server);
    for command in commands(&mut client) {
        let docs = client.ok(&["COMMAND", "DOCS", &command]);
        let docs = docs.pairs()[0].1;
        let text = |field: &str| docs.get(field).text();
        assert!(text("summary").len() > 10 && !text("summary").ends_with('.'), "{command}: {docs}");
        assert!(text("complexity").starts_with("O("), "{command}: {docs}");
        assert_eq!(text("since"), "0.1.0", "{command}");
        assert_eq!(text("module"), "flashsale", "{command}");
        let arguments = docs.get("arguments").items();
        let is_key = |argument: &Reply| argument.get("type").text() == "key";
        let has_key = !["FLASH.SHARDS", "FLASH.ROUTE"].contains(&command.as_str());
        assert_eq!(is_key(&arguments[0]), has_key, "{command}: {docs}");
        assert!(!arguments[1..].iter().any(is_key), "{command}: {docs}");
        if has_key {
            assert_eq!(arguments[0].get("key_spec_index").integer(), 0);
        }
        check_arity(&mut client, &command, arguments);
    }
}

/// The least number of words by the documented arguments is the arity that the server enforces.
#[track_caller]
fn check_arity(client: &mut Client, command: &str, arguments: &[Reply]) {
    let flags = |argument: &Reply| argument.find("flags").map(Reply::to_string).unwrap_or_default();
    fn words(argument: &Reply) -> i64 {
        let token = i64::from(argument.find("token").is_some());
        match argument.get("type").text().as_str() {
            "pure-token" => 1,
            "oneof" => token + argument.get("arguments").items().iter().map(words).min().unwrap_or(0),
            "block" => token + argument.get("arguments").items().iter().map(words).sum::<i64>(),
            _ => token + 1,
        }
    }
    let required = arguments.iter().filter(|argument| !flags(argument).contains("optional"));
    let least = 1 + required.map(words).sum::<i64>();
    let open_ended = arguments.iter().any(|argument| !flags(argument).is_empty());
    let arity = client.ok(&["COMMAND", "INFO", command]).at(0).at(1).integer();
    assert_eq!(arity, if open_ended { -least } else { least }, "{command}");
}

fn the_contract_is_complete(server: Server) {
    let (_redis, mut client) = start(server);
    let mut known = commands(&mut client);
    known.retain(|command| command != "FLASH._RATE");
    let mut wanted: Vec<String> =
        CALLS.iter().map(|(call, _)| call.split(' ').next().unwrap_or("").to_owned()).collect();
    known.sort();
    wanted.sort();
    assert_eq!(known, wanted);
}

fn keys_and_what_is_done_to_them(server: Server) {
    let (_redis, mut client) = start(server);
    for (call, access) in CALLS {
        let call: Vec<&str> = call.split(' ').collect();
        let keys = client.call(&[&["COMMAND", "GETKEYS"], call.as_slice()].concat());
        let keys_with_flags = client.call(&[&["COMMAND", "GETKEYSANDFLAGS"], call.as_slice()].concat());
        if access.is_empty() {
            assert!(keys.error().contains("no key arguments"), "{call:?}: {keys}");
            continue;
        }
        assert_eq!(keys.to_string(), "[sale:1]", "{call:?}");
        assert_eq!(keys_with_flags.to_string(), format!("[[sale:1 [{access}]]]"), "{call:?}");
        let flags = client.ok(&["COMMAND", "INFO", call[0]]).at(0).at(2).to_string();
        let reads = access.starts_with("RO");
        assert_eq!(flags.contains("readonly"), reads, "{call:?}: {flags}");
        assert_eq!(flags.contains("write"), !reads, "{call:?}: {flags}");
    }
    let grows = ["CREATE", "STOCK", "RESERVE", "MRESERVE", "ORDER", "THROTTLE"];
    for command in grows.map(|name| format!("FLASH.{name}")) {
        let flags = client.ok(&["COMMAND", "INFO", &command]).at(0).at(2).to_string();
        assert!(flags.contains("denyoom"), "{command} may grow memory: {flags}");
    }
    for command in ["CONFIRM", "RELEASE", "EXPIRE", "RETURN", "EXTEND"].map(|name| format!("FLASH.{name}")) {
        let flags = client.ok(&["COMMAND", "INFO", &command]).at(0).at(2).to_string();
        assert!(!flags.contains("denyoom"), "{command} must go on when memory is short: {flags}");
    }
}

fn too_few_words_are_refused_by_the_server(server: Server) {
    let (_redis, mut client) = start(server);
    client.ok(&["FLASH.CREATE", "sale:1"]);
    for command in commands(&mut client) {
        let refusal = client.call(&[&command]);
        assert!(refusal.error().contains("wrong number of arguments"), "{command}: {refusal}");
    }
}
