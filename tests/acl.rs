//! Access rules apply to sales as to any key: by command, by key, by what is done to the key, and by category where
//! the server lets modules have them.

use flashsale_tests::{Client, RedisServer, Server, on_every_server};

on_every_server!(keys_are_guarded, readers_cannot_write, categories_are_known, nobody_may_send_what_replicas_get);

fn start(server: Server) -> (RedisServer, Client) {
    let redis = RedisServer::builder(server).module().start();
    let mut client = redis.client();
    client.ok(&["FLASH.CREATE", "sale:1", "ITEMS", "red", "10"]);
    client.ok(&["FLASH.CREATE", "other:1", "ITEMS", "red", "10"]);
    (redis, client)
}

fn user(redis: &RedisServer, rules: &[&str]) -> Client {
    let mut client = redis.client();
    client.ok(&[&["ACL", "SETUSER", "clerk", "reset", "on", "nopass"], rules].concat());
    client.ok(&["AUTH", "clerk", "any"]);
    client
}

#[track_caller]
fn assert_refused(client: &mut Client, line: &str) {
    let refusal = client.line(line);
    assert!(refusal.error().starts_with("NOPERM"), "{line}: {refusal}");
}

#[track_caller]
fn assert_allowed(client: &mut Client, line: &str) {
    let reply = client.line(line);
    assert!(!reply.is_error(), "{line}: {reply}");
}

fn keys_are_guarded(server: Server) {
    let (redis, _) = start(server);
    let mut clerk = user(&redis, &["~sale:*", "+@all"]);
    assert_allowed(&mut clerk, "FLASH.RESERVE sale:1 h1 ann ITEMS red 1");
    assert_allowed(&mut clerk, "FLASH.THROTTLE sale:rate 1 1 1");
    // No key is touched by these two.
    assert_allowed(&mut clerk, "FLASH.SHARDS spring 3");
    assert_allowed(&mut clerk, "FLASH.ROUTE spring 3 ann");
    for line in [
        "FLASH.RESERVE other:1 h1 ann ITEMS red 1",
        "FLASH.MRESERVE other:1 HOLDS h1 ann red 1",
        "FLASH.INFO other:1",
        "FLASH.HOLDS other:1 0",
        "FLASH.CREATE other:2",
        "FLASH.GRANT other:1 red 1 TO 1",
        "FLASH.THROTTLE rate 1 1 1",
    ] {
        assert_refused(&mut clerk, line);
    }
}

fn readers_cannot_write(server: Server) {
    let (redis, mut admin) = start(server);
    admin.ok(&["FLASH.RESERVE", "sale:1", "h1", "ann", "ITEMS", "red", "1"]);
    let mut reader = user(&redis, &["%R~sale:*", "+@all"]);
    for line in [
        "FLASH.INFO sale:1",
        "FLASH.HOLD sale:1 h1",
        "FLASH.BUYER sale:1 ann",
        "FLASH.HOLDS sale:1 0",
        "FLASH.AUDIT sale:1",
    ] {
        assert_allowed(&mut reader, line);
    }
    for line in [
        "FLASH.RESERVE sale:1 h2 ann ITEMS red 1",
        "FLASH.CONFIRM sale:1 h1",
        "FLASH.RELEASE sale:1 h1",
        "FLASH.EXPIRE sale:1",
        "FLASH.PAUSE sale:1",
        "FLASH.STOCK sale:1 red 1",
    ] {
        assert_refused(&mut reader, line);
    }
    // One command and nothing else.
    let mut clerk = user(&redis, &["~sale:*", "+flash.confirm", "+flash.release"]);
    assert_allowed(&mut clerk, "FLASH.CONFIRM sale:1 h1");
    assert_refused(&mut clerk, "FLASH.RESERVE sale:1 h2 ann ITEMS red 1");
}

fn categories_are_known(server: Server) {
    let (redis, mut admin) = start(server);
    if server == Server::Redis70 {
        assert!(admin.line("ACL CAT flashsale").is_error(), "Redis 7.0 gives modules no categories");
        return;
    }
    let category = admin.ok(&["ACL", "CAT", "flashsale"]);
    let commands = admin.ok(&["COMMAND", "LIST", "FILTERBY", "MODULE", "flashsale"]);
    assert_eq!(category.items().len(), commands.items().len());
    assert!(admin.ok(&["ACL", "CAT", "write"]).to_string().to_lowercase().contains("flash.reserve"));
    let mut clerk = user(&redis, &["~sale:*", "+@flashsale"]);
    assert_allowed(&mut clerk, "FLASH.RESERVE sale:1 h1 ann ITEMS red 1");
    assert_refused(&mut clerk, "GET sale:1");
    let mut reader = user(&redis, &["~sale:*", "+@read"]);
    assert_allowed(&mut reader, "FLASH.INFO sale:1");
    assert_refused(&mut reader, "FLASH.RESERVE sale:1 h2 ann ITEMS red 1");
    let mut fast = user(&redis, &["~sale:*", "+@all", "-@slow"]);
    assert_allowed(&mut fast, "FLASH.RELEASE sale:1 h1");
    assert_refused(&mut fast, "FLASH.AUDIT sale:1");
}

fn nobody_may_send_what_replicas_get(server: Server) {
    let (redis, mut admin) = start(server);
    let digest = redis.digest();
    for line in ["FLASH._APPLY sale:1 x", "FLASH._LOAD sale:2 x", "FLASH._RATE rate 1"] {
        let refusal = admin.line(line);
        assert!(refusal.error().contains("sent by primaries"), "{line}: {refusal}");
    }
    let script = admin.ok(&["EVAL", "return redis.pcall('FLASH._RATE', KEYS[1], '1')['err']", "1", "rate"]);
    assert!(script.text().contains("sent by primaries"), "{script}");
    assert_eq!(redis.digest(), digest);
}
