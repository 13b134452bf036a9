//! Whatever is sent, the answer is a clear error, nothing changes, and the server lives.

use flashsale_tests::sale::{assert_audit_is_clean, orders_key, stock};
use flashsale_tests::{Client, RedisServer, Reply, Server, on_every_server};

on_every_server!(
    wrong_numbers_of_arguments,
    numbers_out_of_range,
    ids_of_any_bytes_are_ids,
    options_in_any_case_but_only_once,
    a_missing_key,
    keys_of_another_type,
    a_stream_key_of_another_type_stops_confirming,
    nasty_values_in_every_place,
    stock_cannot_overflow,
    text_from_users_is_never_a_format,
);

/// A valid call of every command, on a sale with a live hold `h1` and an order `o1`, both of `ann`.
const CALLS: [&str; 26] = [
    "FLASH.CREATE new LIMIT 5 HOLD 1000 MAXHOLD 2000 RETAIN 1000 BACKLOG 10 EVENTS ALL ITEMS red 1",
    "FLASH.CREATE new OPENS 1 CLOSES 99999999999999",
    "FLASH.ALTER sale:1 LIMIT 50 HOLD 1000 MAXHOLD 3600000 RETAIN 86400000 EVENTS ORDERS BACKLOG 1000",
    "FLASH.STOCK sale:1 red 1 ID a1 LIMIT 9",
    "FLASH.STOCK sale:1 red -1",
    "FLASH.RESERVE sale:1 h2 bob ITEMS red 1",
    "FLASH.RESERVE sale:1 h3 bob TTL 1000 UPTO NOTAFTER 99999999999999 META note ITEMS red 1 blue 2",
    "FLASH.RESERVE sale:1 * bob ITEMS red 1",
    "FLASH.ORDER sale:1 o2 bob REF ref META note ITEMS red 1",
    "FLASH.CONFIRM sale:1 h1",
    "FLASH.CONFIRM sale:1 h1 REF ref LATE ITEMS red 1",
    "FLASH.RELEASE sale:1 h1",
    "FLASH.RELEASE sale:1 h1 REASON why",
    "FLASH.EXTEND sale:1 h1 1000",
    "FLASH.RETURN sale:1 o1 r1",
    "FLASH.RETURN sale:1 o1 r1 ITEMS red 1",
    "FLASH.EXPIRE sale:1",
    "FLASH.EXPIRE sale:1 COUNT 5",
    "FLASH.PAUSE sale:1",
    "FLASH.RESUME sale:1",
    "FLASH.INFO sale:1",
    "FLASH.HOLD sale:1 h1",
    "FLASH.BUYER sale:1 ann",
    "FLASH.HOLDS sale:1 0 STATE held COUNT 5",
    "FLASH.AUDIT sale:1",
    "FLASH.CLOSE sale:1",
];

fn sale(server: Server) -> (RedisServer, Client) {
    let redis = RedisServer::builder(server).module().start();
    let mut client = redis.client();
    fresh_sale(&mut client);
    (redis, client)
}

fn fresh_sale(client: &mut Client) {
    client.ok(&["FLUSHALL"]);
    client.ok(&["FLASH.CREATE", "sale:1", "ITEMS", "red", "100", "blue", "100"]);
    assert_eq!(client.line("FLASH.RESERVE sale:1 h1 ann ITEMS red 3").status(), "RESERVED");
    assert_eq!(client.line("FLASH.ORDER sale:1 o1 ann ITEMS red 2").status(), "CONFIRMED");
}

fn digest(client: &mut Client) -> String {
    client.ok(&["DEBUG", "DIGEST"]).text()
}

/// Asserts that a call is refused by an error that begins so, and leaves no trace.
#[track_caller]
fn assert_refused<A: AsRef<[u8]>>(client: &mut Client, call: &[A], error: &str) {
    let before = digest(client);
    let reply = client.call(call);
    let words: Vec<_> = call.iter().map(|word| word.as_ref().escape_ascii().to_string()).collect();
    assert!(
        matches!(&reply, Reply::Error(line) if line.starts_with(error)),
        "{} gave {reply}, not {error}",
        words.join(" ")
    );
    assert_eq!(digest(client), before, "{} changed something", words.join(" "));
}

fn wrong_numbers_of_arguments(server: Server) {
    let (_redis, mut client) = sale(server);
    for call in CALLS {
        let command = call.split(' ').next().expect("a command");
        assert_refused(&mut client, &[command], "ERR wrong number of arguments");
        let shortest = CALLS.iter().filter(|call| call.split(' ').next() == Some(command));
        let shortest = shortest.map(|call| call.split(' ').count()).min().expect("one call");
        let words: Vec<&str> = call.split(' ').collect();
        // CREATE and ALTER need nothing but a key.
        if shortest > 2 && !["FLASH.CREATE", "FLASH.ALTER"].contains(&command) {
            assert_refused(&mut client, &words[..2], "ERR");
        }
    }
    for call in [
        "FLASH.INFO sale:1 more",
        "FLASH.AUDIT sale:1 more",
        "FLASH.PAUSE sale:1 more",
        "FLASH.HOLD sale:1 h1 more",
        "FLASH.BUYER sale:1 ann more",
        "FLASH.EXTEND sale:1 h1 1000 more",
        "FLASH.CONFIRM sale:1 h1 REF",
        "FLASH.CONFIRM sale:1 h1 ITEMS",
        "FLASH.CONFIRM sale:1 h1 ITEMS red",
        "FLASH.RESERVE sale:1 h2 bob",
        "FLASH.RESERVE sale:1 h2 bob ITEMS",
        "FLASH.RESERVE sale:1 h2 bob ITEMS red",
        "FLASH.RESERVE sale:1 h2 bob ITEMS red 1 blue",
        "FLASH.RESERVE sale:1 h2 bob TTL",
        "FLASH.RESERVE sale:1 h2 bob red 1",
        "FLASH.RESERVE sale:1 h2 bob SOON ITEMS red 1",
        "FLASH.ORDER sale:1 o2 bob ITEMS red",
        "FLASH.STOCK sale:1 red",
        "FLASH.STOCK sale:1 red 1 ID",
        "FLASH.STOCK sale:1 red 1 more",
        "FLASH.CREATE new ITEMS red",
        "FLASH.CREATE new LIMIT",
        "FLASH.CREATE new COLOUR red",
        "FLASH.ALTER sale:1 ITEMS red 1",
        "FLASH.HOLDS sale:1",
        "FLASH.HOLDS sale:1 0 STATE",
        "FLASH.HOLDS sale:1 0 STATE asleep",
        "FLASH.EXPIRE sale:1 COUNT",
    ] {
        let words: Vec<&str> = call.split(' ').collect();
        assert_refused(&mut client, &words, "ERR");
    }
}

fn numbers_out_of_range(server: Server) {
    let (_redis, mut client) = sale(server);
    let not_numbers = ["", "abc", "1.5", " 1", "1 ", "0x10", "1e3", "١", "99999999999999999999", "\0", "1\0"];
    let places: [(&str, &[&str]); 12] = [
        ("FLASH.RESERVE sale:1 h2 bob ITEMS red ?", &["0", "-1", "2147483648"]),
        ("FLASH.RESERVE sale:1 h2 bob TTL ? ITEMS red 1", &["0", "-1", "3600001"]),
        ("FLASH.RESERVE sale:1 h2 bob NOTAFTER ? ITEMS red 1", &["-1"]),
        ("FLASH.ORDER sale:1 o2 bob ITEMS red ?", &["0", "-1", "2147483648"]),
        ("FLASH.CONFIRM sale:1 h1 ITEMS red ?", &["0", "-1", "2147483648"]),
        ("FLASH.RETURN sale:1 o1 r1 ITEMS red ?", &["0", "-1", "2147483648"]),
        ("FLASH.STOCK sale:1 red ?", &["2147483648", "-2147483648"]),
        ("FLASH.EXTEND sale:1 h1 ?", &["0", "-1", "3600001", "9223372036854775807"]),
        ("FLASH.CREATE new ITEMS red ?", &["-1", "2147483648"]),
        ("FLASH.CREATE new LIMIT ?", &["-1", "2147483648"]),
        ("FLASH.CREATE new HOLD ?", &["0", "-1"]),
        ("FLASH.EXPIRE sale:1 COUNT ?", &["0", "-1"]),
    ];
    for (call, out_of_range) in places {
        for bad in not_numbers.iter().chain(out_of_range) {
            let words: Vec<&str> = call.split(' ').map(|word| if word == "?" { bad } else { word }).collect();
            assert_refused(&mut client, &words, "ERR");
        }
    }
    // Equal SKUs are added up first; a sum that is no quantity is refused like one.
    let words = "FLASH.RESERVE sale:1 h2 bob ITEMS red 2147483647 red 2147483647";
    assert_refused(&mut client, &words.split(' ').collect::<Vec<_>>(), "ERR");
    assert_refused(&mut client, &"FLASH.CREATE new HOLD 5000 MAXHOLD 4000".split(' ').collect::<Vec<_>>(), "ERR");
}

fn ids_of_any_bytes_are_ids(server: Server) {
    let (_redis, mut client) = sale(server);
    let every_byte: Vec<u8> = (0..=127).collect();
    let high_bytes: Vec<u8> = (128..=255).collect();
    let names: [&[u8]; 7] = [b"\0", b"a\0b", b"\xff\xfe", b"%s%n%s%n", b"\r\n", &every_byte, &high_bytes];
    for name in names {
        client.ok(&[b"FLASH.STOCK".as_slice(), b"sale:1", name, b"10"]);
        let reserve: [&[u8]; 9] = [b"FLASH.RESERVE", b"sale:1", name, name, b"META", name, b"ITEMS", name, b"2"];
        let hold = client.call(&reserve);
        assert_eq!(hold.status(), "RESERVED", "{}", name.escape_ascii());
        assert_eq!(*hold.at(1), Reply::Bytes(name.to_vec()));
        let found = client.call(&[b"FLASH.HOLD".as_slice(), b"sale:1", name]);
        assert_eq!(*found.get("buyer"), Reply::Bytes(name.to_vec()));
        assert_eq!(*found.get("meta"), Reply::Bytes(name.to_vec()));
        let order = client.call(&[b"FLASH.CONFIRM".as_slice(), b"sale:1", name, b"REF", name]);
        assert_eq!(order.status(), "CONFIRMED", "{order}");
        let given_back = client.call(&[b"FLASH.RETURN".as_slice(), b"sale:1", name, name]);
        assert_eq!(given_back.status(), "RETURNED", "{given_back}");
    }
    assert_audit_is_clean(&mut client, "sale:1");
    client.ok(&["DEBUG", "RELOAD"]);
    assert_audit_is_clean(&mut client, "sale:1");

    let too_long = [b'x'; 129];
    for bad in [b"".as_slice(), &too_long] {
        assert_refused(
            &mut client,
            &[b"FLASH.RESERVE".as_slice(), b"sale:1", bad, b"ann", b"ITEMS", b"red", b"1"],
            "ERR",
        );
        assert_refused(
            &mut client,
            &[b"FLASH.RESERVE".as_slice(), b"sale:1", b"h9", bad, b"ITEMS", b"red", b"1"],
            "ERR",
        );
        assert_refused(
            &mut client,
            &[b"FLASH.RESERVE".as_slice(), b"sale:1", b"h9", b"ann", b"ITEMS", bad, b"1"],
            "ERR",
        );
        assert_refused(&mut client, &[b"FLASH.STOCK".as_slice(), b"sale:1", bad, b"1"], "ERR");
        assert_refused(&mut client, &[b"FLASH.STOCK".as_slice(), b"sale:1", b"red", b"1", b"ID", bad], "ERR");
        assert_refused(&mut client, &[b"FLASH.CONFIRM".as_slice(), b"sale:1", bad], "ERR");
        assert_refused(&mut client, &[b"FLASH.RELEASE".as_slice(), b"sale:1", bad], "ERR");
        assert_refused(&mut client, &[b"FLASH.RETURN".as_slice(), b"sale:1", b"o1", bad], "ERR");
        assert_refused(&mut client, &[b"FLASH.CREATE".as_slice(), b"new", b"ITEMS", bad, b"1"], "ERR");
    }
}

fn options_in_any_case_but_only_once(server: Server) {
    let (_redis, mut client) = sale(server);
    let hold = client.line("flash.reserve sale:1 h2 bob ttl 5000 upTo meta note items red 1");
    assert_eq!(hold.status(), "RESERVED");
    let order = client.line("Flash.Confirm sale:1 h2 ref r late items red 1");
    assert_eq!(order.status(), "CONFIRMED");
    assert_eq!(client.line("flash.create new limit 2 events none items a 1").to_string(), "OK");
    for twice in [
        "FLASH.RESERVE sale:1 h3 bob TTL 1000 TTL 2000 ITEMS red 1",
        "FLASH.RESERVE sale:1 h3 bob META a META b ITEMS red 1",
        "FLASH.CONFIRM sale:1 h1 REF a REF b",
        "FLASH.CREATE other LIMIT 1 LIMIT 2",
        "FLASH.ALTER sale:1 HOLD 1000 HOLD 2000",
        "FLASH.STOCK sale:1 red 1 ID a ID b",
        "FLASH.RELEASE sale:1 h1 REASON a REASON b",
        "FLASH.EXPIRE sale:1 COUNT 1 COUNT 2",
    ] {
        assert_refused(&mut client, &twice.split(' ').collect::<Vec<_>>(), "ERR");
    }
}

fn a_missing_key(server: Server) {
    let (_redis, mut client) = sale(server);
    for call in CALLS.iter().filter(|call| !call.starts_with("FLASH.CREATE")) {
        let call = call.replace("sale:1", "nowhere");
        assert_refused(&mut client, &call.split(' ').collect::<Vec<_>>(), "NOSALE");
    }
    assert_refused(&mut client, &["FLASH.CREATE", "sale:1"], "EXISTS");
    assert_eq!(client.line("EXISTS nowhere").integer(), 0);
}

fn keys_of_another_type(server: Server) {
    let (_redis, mut client) = sale(server);
    client.ok(&["SET", "text", "1"]);
    client.ok(&["RPUSH", "list", "1"]);
    for call in CALLS {
        for other in ["text", "list"] {
            let words: Vec<&str> = call.split(' ').collect();
            let words: Vec<&str> =
                (words.iter().enumerate()).map(|(index, &word)| if index == 1 { other } else { word }).collect();
            // A sale can't be made where any key is; the word for it is Redis' own or ours.
            let error = if call.starts_with("FLASH.CREATE") { "" } else { "WRONGTYPE" };
            assert_refused(&mut client, &words, error);
        }
    }
    for call in ["GET sale:1", "INCR sale:1", "LPUSH sale:1 a", "XADD sale:1 * a b", "HGETALL sale:1"] {
        assert_refused(&mut client, &call.split(' ').collect::<Vec<_>>(), "WRONGTYPE");
    }
}

/// An order without its stream entry would be a broken promise, so there is no order.
fn a_stream_key_of_another_type_stops_confirming(server: Server) {
    let (_redis, mut client) = sale(server);
    let stream = orders_key("sale:1");
    client.ok(&["SET", &stream, "in the way"]);
    for call in ["FLASH.CONFIRM sale:1 h1", "FLASH.ORDER sale:1 o2 bob ITEMS red 1", "FLASH.RETURN sale:1 o1 r1"] {
        assert_refused(&mut client, &call.split(' ').collect::<Vec<_>>(), "WRONGTYPE");
    }
    client.ok(&["DEL", &stream]);
    assert_eq!(client.line("FLASH.CONFIRM sale:1 h1").to_string(), "[CONFIRMED h1 2]");
    assert_audit_is_clean(&mut client, "sale:1");
}

/// Every argument of every call is replaced by every nasty value. Some are still valid; none may end
/// the server, break a counter, or change anything while answering with an error.
fn nasty_values_in_every_place(server: Server) {
    let (mut redis, mut client) = sale(server);
    let long = "x".repeat(100_000);
    let nasty: [&[u8]; 14] = [
        b"",
        b"\0",
        b"\xff\xfe\0\xc3\x28",
        b"%s%s%n%x",
        b"-1",
        b"0",
        b"-0",
        b"9223372036854775807",
        b"-9223372036854775808",
        b"18446744073709551616",
        b"ITEMS",
        b"items",
        b"*",
        long.as_bytes(),
    ];
    for call in CALLS {
        let words: Vec<&[u8]> = call.split(' ').map(str::as_bytes).collect();
        for place in 1..words.len() {
            for value in nasty {
                let mut bad = words.clone();
                bad[place] = value;
                let before = digest(&mut client);
                let reply = client.try_call(&bad);
                let shown = || {
                    let shown: Vec<_> =
                        bad.iter().map(|word| word[..word.len().min(40)].escape_ascii().to_string()).collect();
                    shown.join(" ")
                };
                let reply = reply.unwrap_or_else(|error| panic!("{}: {error}", shown()));
                if let Reply::Error(line) = &reply {
                    let known = ["ERR", "NOSALE", "WRONGTYPE", "EXISTS"];
                    assert!(known.iter().any(|word| line.starts_with(word)), "{}: {line}", shown());
                    assert!(line.len() < 400, "{}: an error of {} bytes", shown(), line.len());
                    assert_eq!(digest(&mut client), before, "{} changed something", shown());
                } else {
                    assert_audit_is_clean(&mut client, "sale:1");
                }
            }
        }
        fresh_sale(&mut client);
    }
    assert!(redis.is_alive());
}

fn stock_cannot_overflow(server: Server) {
    let (_redis, mut client) = sale(server);
    let reply = client.line("FLASH.STOCK sale:1 red -1000");
    assert_eq!(reply.to_string(), "[BELOWHELD 95]");
    for _ in 0..10 {
        client.call(&["FLASH.STOCK", "sale:1", "red", "2147483647"]);
    }
    assert_audit_is_clean(&mut client, "sale:1");
    let stock = stock(&mut client, "sale:1", "red");
    assert!(stock.available >= 2_147_483_647, "{stock:?}");
    assert_eq!(client.line("FLASH.RESERVE sale:1 big bob ITEMS red 2147483647").status(), "RESERVED");
    assert_audit_is_clean(&mut client, "sale:1");
}

/// The server's log function takes a printf format: a name with `%n` must never become one.
fn text_from_users_is_never_a_format(server: Server) {
    let (mut redis, mut client) = sale(server);
    let key = "%s%n%s%n%s%n";
    client.ok(&["FLASH.CREATE", key, "ITEMS", key, "1"]);
    client.ok(&["FLASH.RESERVE", key, key, key, "META", key, "ITEMS", key, "1"]);
    client.ok(&["FLASH.RELEASE", key, key, "REASON", key]);
    client.ok(&["FLASH.AUDIT", key]);
    client.ok(&["DEBUG", "RELOAD"]);
    client.ok(&["COPY", key, "copy"]);
    assert!(redis.is_alive());
    assert_audit_is_clean(&mut client, key);
}
