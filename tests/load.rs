//! The module loads on every supported server, says what it is, and leaves only when it may.

use flashsale_tests::{RedisServer, Reply, Server, artifacts, on_every_server};

on_every_server!(
    loads_at_start_and_sells,
    loads_into_a_running_server,
    unknown_module_arguments_are_refused,
    does_not_leave_data_behind_by_unloading,
    commands_say_what_they_touch,
);

/// A call of each command that version 0.1 must have.
const CALLS: [&str; 18] = [
    "FLASH.CREATE sale:1",
    "FLASH.ALTER sale:1 LIMIT 1",
    "FLASH.STOCK sale:1 red 1",
    "FLASH.RESERVE sale:1 h1 ann ITEMS red 1",
    "FLASH.ORDER sale:1 h1 ann ITEMS red 1",
    "FLASH.CONFIRM sale:1 h1",
    "FLASH.RELEASE sale:1 h1",
    "FLASH.EXTEND sale:1 h1 1000",
    "FLASH.RETURN sale:1 h1 r1",
    "FLASH.EXPIRE sale:1",
    "FLASH.PAUSE sale:1",
    "FLASH.RESUME sale:1",
    "FLASH.CLOSE sale:1",
    "FLASH.INFO sale:1",
    "FLASH.HOLD sale:1 h1",
    "FLASH.BUYER sale:1 ann",
    "FLASH.HOLDS sale:1 0",
    "FLASH.AUDIT sale:1",
];

fn loads_at_start_and_sells(server: Server) {
    let redis = RedisServer::builder(server).module().start();
    let mut client = redis.client();
    assert_eq!(client.line("FLASH.CREATE sale:1 ITEMS shirt 10"), Reply::Status("OK".into()));
    assert_eq!(client.line("TYPE sale:1").text(), "flashsale");
    let hold = client.line("FLASH.RESERVE sale:1 h1 ann ITEMS shirt 2");
    assert_eq!((hold.status(), hold.at(1).text()), ("RESERVED".into(), "h1".into()));
    let order = client.line("FLASH.CONFIRM sale:1 h1");
    assert_eq!(order.to_string(), "[CONFIRMED h1 1]");
    assert_eq!(client.line("FLASH.STOCK sale:1 shirt 0").to_string(), "[STOCKED 8 0 2]");
}

fn loads_into_a_running_server(server: Server) {
    let redis = RedisServer::builder(server).start();
    let mut client = redis.client();
    let module = artifacts::module();
    client.ok(&["MODULE", "LOAD", module.to_str().expect("a path in UTF-8")]);
    let modules = client.ok(&["MODULE", "LIST"]);
    let ours = modules.items().iter().find(|module| module.get("name").text() == "flashsale");
    let version = ours.expect("flashsale is listed").get("ver").integer();
    assert!(version > 0, "{modules}");
    assert_eq!(client.line("FLASH.CREATE sale:1").to_string(), "OK");
}

fn unknown_module_arguments_are_refused(server: Server) {
    let mut redis = RedisServer::builder(server).start();
    let mut client = redis.client();
    let module = artifacts::module();
    let module = module.to_str().expect("a path in UTF-8");
    let refusal = client.call(&["MODULE", "LOAD", module, "no-such-setting", "1"]);
    assert!(refusal.is_error(), "{refusal}");
    assert!(redis.is_alive());
    assert!(redis.log().contains("takes no arguments"), "the log does not say why:\n{}", redis.log());
}

fn does_not_leave_data_behind_by_unloading(server: Server) {
    let mut redis = RedisServer::builder(server).module().start();
    let mut client = redis.client();
    client.ok(&["FLASH.CREATE", "sale:1"]);
    assert!(client.line("MODULE UNLOAD flashsale").is_error());
    assert!(redis.is_alive());
    assert_eq!(client.line("EXISTS sale:1").integer(), 1);
}

fn commands_say_what_they_touch(server: Server) {
    let redis = RedisServer::builder(server).module().start();
    let mut client = redis.client();
    for call in CALLS {
        let call: Vec<&str> = call.split(' ').collect();
        let command = call[0];
        let info = client.ok(&["COMMAND", "INFO", command]);
        assert_ne!(*info.at(0), Reply::Nil, "{command} is not there");
        let flags = info.at(0).at(2).to_string();
        let reads = ["FLASH.INFO", "FLASH.HOLD", "FLASH.BUYER", "FLASH.HOLDS", "FLASH.AUDIT"];
        let expected = if reads.contains(&command) { "readonly" } else { "write" };
        assert!(flags.contains(expected), "{command} is not {expected}: {flags}");
        let grows = ["FLASH.RESERVE", "FLASH.ORDER", "FLASH.CREATE"];
        if grows.contains(&command) {
            assert!(flags.contains("denyoom"), "{command} may grow memory: {flags}");
        }
        let keys = client.call(&[&["COMMAND", "GETKEYS"], call.as_slice()].concat());
        assert_eq!(keys.to_string(), "[sale:1]", "{command}");
    }
}
