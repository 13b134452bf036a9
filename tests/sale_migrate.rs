//! `flashsale sale migrate` moves a live sale from the library to the module: nothing is lost, nothing is sold twice,
//! wherever it breaks off.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::{Duration, Instant};

use flashsale_tests::cli::{Ran, flashsale};
use flashsale_tests::http::Http;
use flashsale_tests::sale::{assert_audit_is_clean, confirmed_orders, order_entries, stock};
use flashsale_tests::{Client, Proxy, RedisServer, Reply, Server, artifacts, on_every_server, wait_until};

on_every_server!(
    everything_goes_along,
    buyers_lose_nothing_while_a_sale_moves,
    whenever_the_mover_is_killed_the_sale_sells_in_one_place,
    shards_move_together_with_what_is_in_transit,
    on_the_same_server_proxies_find_the_module,
);

const PATIENCE: Duration = Duration::from_secs(60);
const KEY: &str = "sale:42";

fn library(server: Server) -> RedisServer {
    RedisServer::builder(server).functions().start()
}

fn module(server: Server) -> RedisServer {
    RedisServer::builder(server).module().start()
}

fn migrate(name: &str, source: &RedisServer, target: &RedisServer, more: &[&str]) -> Ran {
    let (from, to) = (source.url(), target.url());
    flashsale(&[&["sale", "migrate", name, "--redis", &from, "--to", &to], more].concat())
}

#[track_caller]
fn all(client: &mut Client, lines: &[&str]) {
    for line in lines {
        let reply = client.line(line);
        assert!(!reply.is_error(), "{line}: {reply}");
    }
}

/// A reply of RESP3 as text, its maps in order, without what a move does not keep or what tells of it.
fn shown(reply: &Reply) -> String {
    const LEFT_OUT: [&str; 4] = ["state", "commands", "moved_to", "expiry_lag_ms"];
    match reply {
        Reply::Map(pairs) => {
            let kept = pairs.iter().filter(|(name, _)| !LEFT_OUT.contains(&name.text().as_str()));
            let mut lines: Vec<_> = kept.map(|(name, value)| format!("{name}: {}", shown(value))).collect();
            lines.sort();
            format!("{{{}}}", lines.join("\n"))
        }
        other => other.to_string(),
    }
}

/// All holds, in any order.
fn holds(redis: &RedisServer) -> Vec<String> {
    let page = redis.client().resp3().ok(&["FLASH.HOLDS", KEY, "0", "COUNT", "1000000"]);
    let state = |hold: &Reply| hold.get("state").text();
    let mut holds: Vec<_> = page.at(1).items().iter().map(|hold| state(hold) + &shown(hold)).collect();
    holds.sort();
    holds
}

fn info(redis: &RedisServer) -> String {
    shown(&redis.client().resp3().ok(&["FLASH.INFO", KEY]))
}

/// A sale that has everything a sale can have.
fn rich_sale(client: &mut Client) {
    all(
        client,
        &[
            "FLASH.CREATE sale:42 LIMIT 50 EVENTS ALL HOLD 600000 ITEMS red 100 blue 100",
            "FLASH.STOCK sale:42 green 9 ID pallet-1 LIMIT 9",
            "FLASH.RESERVE sale:42 live ann META note ITEMS red 1 blue 2",
            "FLASH.RESERVE sale:42 upto ann UPTO ITEMS green 20",
            "FLASH.RESERVE sale:42 part bob ITEMS red 3",
            "FLASH.CONFIRM sale:42 part REF pay-1 ITEMS red 2",
            "FLASH.ORDER sale:42 order cas REF pay-2 META gift ITEMS blue 4",
            "FLASH.RETURN sale:42 order return-1 ITEMS blue 1",
            "FLASH.ORDER sale:42 sent-back cas ITEMS red 1",
            "FLASH.RETURN sale:42 sent-back return-2",
            "FLASH.RESERVE sale:42 freed dan ITEMS red 1",
            "FLASH.RELEASE sale:42 freed REASON why",
            "FLASH.RELEASE sale:42 never-seen",
            "FLASH.RESERVE sale:42 short dan TTL 1 ITEMS red 1",
            "FLASH.RESERVE sale:42 soon eve TTL 4000 ITEMS red 1",
        ],
    );
    // It has fallen due, and nobody has swept yet.
    wait_until("the short hold is over", PATIENCE, || {
        client.line("FLASH.HOLD sale:42 short").get("state").text() == "expired"
    });
    all(client, &["FLASH.EXTEND sale:42 live 700000", "FLASH.EXPIRE sale:42"]);
}

fn everything_goes_along(server: Server) {
    let (source, target) = (library(server), module(server));
    let (mut from, mut to) = (source.client(), target.client());
    rich_sale(&mut from);
    assert_audit_is_clean(&mut from, KEY);
    // A relay has taken the first two entries, and one of them is still under way.
    all(&mut from, &["XGROUP CREATE {sale:42}:orders flashsale 0", "XADD {sale:42}:orders:dead 5-1 no 3"]);
    let read = from.line("XREADGROUP GROUP flashsale relay COUNT 3 STREAMS {sale:42}:orders >");
    let first = read.at(0).at(1).at(0).at(0).text();
    all(&mut from, &[&format!("XACK {{sale:42}}:orders flashsale {first}")]);
    let entries = order_entries(&mut from, KEY);

    let moved = migrate("42", &source, &target, &["--json"]).json();
    assert_eq!((moved["was_there"].as_bool(), moved["records"].as_u64()), (Some(false), Some(9)), "{moved}");
    assert_audit_is_clean(&mut to, KEY);
    // The library still shows what it had, and changes nothing any more.
    assert_eq!(info(&source), info(&target));
    assert_eq!(holds(&source), holds(&target));
    assert_eq!(from.line("FLASH.INFO sale:42").get("state").text(), "paused");
    for line in ["FLASH.RESERVE sale:42 new zoe ITEMS red 1", "FLASH.CONFIRM sale:42 live", "FLASH.EXPIRE sale:42"] {
        let refused = from.line(line);
        assert!(refused.error().starts_with("TRYAGAIN the sale was moved to 127.0.0.1:"), "{line}: {refused}");
    }

    // What nobody has read goes along with its ids, and so does the group; what was acknowledged stays behind.
    assert_eq!(order_entries(&mut to, KEY), entries[1..]);
    assert_eq!(to.line("XLEN {sale:42}:orders:dead").integer(), 1);
    let read = to.line("XREADGROUP GROUP flashsale relay STREAMS {sale:42}:orders >");
    assert_eq!(read.at(0).at(1).items().len(), entries.len() - 1);
    assert_eq!(from.line("GET {sale:42}:orders:relay").text()[..8], *"migrate:", "relays of the source are kept out");

    // Retries are answered as before, and the sale goes on.
    let says = |to: &mut Client, line: &str| to.line(line).to_string();
    let next = from.line("FLASH.INFO sale:42").get("entries").integer() + 1;
    let mut order_no = |hold: &str| from.line(&format!("FLASH.HOLD sale:42 {hold}")).get("order_no").integer();
    let (part, order) = (order_no("part"), order_no("order"));
    assert_eq!(says(&mut to, "FLASH.CONFIRM sale:42 part REF pay-1 ITEMS red 2"), format!("[CONFIRMED part {part}]"));
    assert_eq!(
        says(&mut to, "FLASH.ORDER sale:42 order cas REF pay-2 ITEMS blue 4"),
        format!("[CONFIRMED order {order}]")
    );
    assert_eq!(says(&mut to, "FLASH.RETURN sale:42 order return-1 ITEMS blue 1"), "[RETURNED]");
    assert_eq!(says(&mut to, "FLASH.CONFIRM sale:42 freed"), "[RELEASED]");
    assert_eq!(says(&mut to, "FLASH.CONFIRM sale:42 short"), "[EXPIRED]");
    assert_eq!(says(&mut to, "FLASH.RESERVE sale:42 never-seen zoe ITEMS red 1"), "[RELEASED]");
    assert_eq!(says(&mut to, "FLASH.STOCK sale:42 green 9 ID pallet-1"), "[STOCKED 0 9 0]");
    assert_eq!(says(&mut to, "FLASH.RESERVE sale:42 more ann ITEMS green 1"), "[LIMIT green 0]");
    assert_eq!(says(&mut to, "FLASH.CONFIRM sale:42 live"), format!("[CONFIRMED live {next}]"));
    wait_until("a hold of the library's ends at its deadline", PATIENCE, || {
        to.line("FLASH.HOLD sale:42 soon").get("state").text() == "expired"
    });
    assert_audit_is_clean(&mut to, KEY);
    // The same once more finds it done; the old keys may go.
    assert!(migrate("42", &source, &target, &[]).ok().contains("is at the target already"));
    let error = migrate("42", &source, &target, &["--back"]).failed();
    assert!(error.contains("may have sold there"), "{error}");
}

/// A buyer who asks again where the sale is, until there is an answer.
struct Buyer<'a> {
    ports: [u16; 2],
    /// Which of them the sale is believed to be at.
    place: &'a AtomicU16,
}

impl Buyer<'_> {
    fn ask(&self, line: &str) -> Reply {
        loop {
            let port = self.place.load(Ordering::SeqCst);
            let client = Client::connect(port).expect("a server");
            let mut client = if port == self.ports[0] { client.to_functions() } else { client };
            let reply = client.line(line);
            if !reply.is_error() {
                return reply;
            }
            let error = reply.error().to_owned();
            if error.starts_with("TRYAGAIN the sale was moved to ") {
                self.place.store(self.ports[1], Ordering::SeqCst);
            }
            // Between the last step of the one and the first of the other the sale is nowhere.
            assert!(error.starts_with("TRYAGAIN") || error.starts_with("NOSALE"), "{line}: {error}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn buyers_lose_nothing_while_a_sale_moves(server: Server) {
    let (source, target) = (library(server), module(server));
    all(&mut source.client(), &["FLASH.CREATE sale:42 LIMIT 2 ITEMS red 600"]);
    let (stop, place) = (AtomicBool::new(false), AtomicU16::new(source.port()));
    let ports = [source.port(), target.port()];
    let orders: BTreeMap<String, i64> = std::thread::scope(|scope| {
        let buying = |thread: usize| {
            let (stop, place) = (&stop, &place);
            move || {
                let buyer = Buyer { ports, place };
                let mut orders = BTreeMap::new();
                for number in 0.. {
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    let id = format!("h{thread}-{number}");
                    if buyer.ask(&format!("FLASH.RESERVE sale:42 {id} b{thread}-{number} ITEMS red 1")).status()
                        != "RESERVED"
                    {
                        continue;
                    }
                    if number % 3 > 0 {
                        let confirmed = buyer.ask(&format!("FLASH.CONFIRM sale:42 {id} REF pay-{id}"));
                        assert_eq!(confirmed.status(), "CONFIRMED", "{confirmed}");
                        orders.insert(id, confirmed.at(2).integer());
                    }
                }
                orders
            }
        };
        let threads: Vec<_> = (0..3).map(|thread| scope.spawn(buying(thread))).collect();
        wait_until("the library sells", PATIENCE, || stock(&mut source.client(), KEY, "red").sold >= 30);
        migrate("42", &source, &target, &[]).ok();
        let sold = stock(&mut target.client(), KEY, "red").sold;
        wait_until("the module sells on", PATIENCE, || {
            let red = stock(&mut target.client(), KEY, "red");
            red.sold >= sold + 30 || red.available == 0
        });
        stop.store(true, Ordering::SeqCst);
        threads.into_iter().flat_map(|thread| thread.join().expect("a buyer")).collect()
    });
    let mut to = target.client();
    assert_audit_is_clean(&mut to, KEY);
    let in_stream = confirmed_orders(&mut to, KEY);
    assert_eq!(in_stream, orders, "every order that a buyer was told, once, and no other");
    assert_eq!(stock(&mut to, KEY, "red").sold as usize, orders.len());
    for (id, no) in orders.iter().step_by(7) {
        assert_eq!(to.line(&format!("FLASH.CONFIRM sale:42 {id} REF pay-{id}")).at(2).integer(), *no);
    }
}

/// The mover as a process that can be killed.
fn start_migrate(source: &RedisServer, target: &RedisServer) -> Child {
    Command::new(artifacts::flashsale())
        .args(["sale", "migrate", "42", "--redis", &source.url(), "--to", &target.url()])
        .env_remove("FLASHSALE_CONFIG")
        .env_remove("FLASHSALE_REDIS")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program runs")
}

fn whenever_the_mover_is_killed_the_sale_sells_in_one_place(server: Server) {
    let (source, target) = (library(server), module(server));
    let (mut from, mut to) = (source.client(), target.client());
    all(&mut from, &["FLASH.CREATE sale:42 ITEMS red 3000"]);
    for group in 0..20 {
        let holds: String = (0..100).map(|n| format!(" h{group}-{n} b{group}-{n} red 1")).collect();
        all(&mut from, &[&format!("FLASH.MRESERVE sale:42 HOLDS{holds}")]);
    }
    let mut seen = BTreeMap::<&str, u32>::new();
    for step in 0..40_u64 {
        let mut mover = start_migrate(&source, &target);
        if step > 0 {
            // Not before the move has begun, however slowly the program starts; it lasts a few milliseconds.
            let moves = |from: &mut Client| from.line("FLASH.INFO sale:42").to_string().contains("moved_to");
            while !moves(&mut from) && mover.try_wait().expect("a child").is_none() {}
            std::thread::sleep(Duration::from_micros(step * 200));
        }
        let _ = mover.kill();
        let _ = mover.wait();
        let id = format!("try-{step}");
        let reserve = format!("FLASH.RESERVE sale:42 {id} {id} ITEMS red 1");
        let (here, there) = (from.line(&reserve), to.line(&reserve));
        assert!(here.is_error() || there.is_error(), "both sell: {here} and {there}");
        let place = match (here.is_error(), there.is_error()) {
            (false, _) => "the library",
            (_, false) => "the module",
            _ => "nowhere",
        };
        *seen.entry(place).or_default() += 1;
        if place == "the module" {
            break;
        }
        if place == "nowhere" && step % 3 == 0 {
            // Taken back it sells on, unless the last step was done just before the end.
            let back = migrate("42", &source, &target, &["--back"]);
            assert!(back.code == 0, "{back:?}");
            assert_eq!(from.line(&reserve).status(), "RESERVED");
        }
    }
    assert!(seen.contains_key("nowhere"), "no move was broken off in the middle: {seen:?}");
    migrate("42", &source, &target, &[]).ok();
    assert_audit_is_clean(&mut to, KEY);
    assert_eq!(stock(&mut to, KEY, "red").stocked, 3000);
    assert_eq!(to.line("FLASH.CONFIRM sale:42 h3-3").to_string(), "[CONFIRMED h3-3 1]", "{seen:?}");
    assert_eq!(to.line("KEYS *:move*").items().len(), 0, "nothing is left of the move: {seen:?}");
}

fn shards_move_together_with_what_is_in_transit(server: Server) {
    let (sources, targets) = ([library(server), library(server)], [module(server), module(server)]);
    let urls = |servers: &[RedisServer; 2]| servers.each_ref().map(RedisServer::url).join(",");
    let (from, to) = (urls(&sources), urls(&targets));
    flashsale(&["sale", "create", "42", "--shards", "4", "--stock", "red=40", "--redis", &from]).ok();
    let keys = targets[0].client().ok(&["FLASH.SHARDS", KEY, "4"]);
    let key = |shard: usize| keys.at(shard).text();
    let grant = sources[0].client().ok(&["FLASH.GRANT", &key(0), "red", "3", "TO", "1"]);
    assert_eq!(grant.status(), "GRANTED");
    let moved = flashsale(&["sale", "migrate", "42", "--redis", &from, "--to", &to, "--json"]).json();
    let red = &moved["book"]["skus"]["red"];
    assert_eq!((red["stocked"].as_u64(), red["in_transit"].as_u64()), (Some(40), Some(3)), "{moved}");
    let accept = targets[1].client().ok(&["FLASH.ACCEPT", &key(1), "red", "FROM", "0", "TOTAL", "3"]);
    assert_eq!(accept.to_string(), "[ACCEPTED 3 13]");
    assert!(flashsale(&["sale", "audit", "42", "--redis", &to]).ok().contains("nothing was made or lost"));
}

fn on_the_same_server_proxies_find_the_module(server: Server) {
    let redis = RedisServer::builder(server).start();
    let proxy = Proxy::builder().redis(&redis).start();
    let mut client = redis.client().to_functions();
    wait_until("the library is there", PATIENCE, || !client.line("FCALL_RO flash_version 0").is_error());
    all(&mut client, &["FLASH.CREATE sale:42 LIMIT 3 ITEMS red 10"]);
    let post = |path: &str, id: &str| {
        let headers = [("authorization", &*proxy.bearer("ann")), ("idempotency-key", id)];
        Http::new().request("POST", &proxy.url(path), &headers, b"")
    };
    wait_until("the library sells", PATIENCE, || post("/flash/42/holds?sku=red&qty=1", "h1").status < 202);
    let deadline = client.line("FLASH.HOLD sale:42 h1").get("deadline").integer();

    let mut client = redis.client();
    let here = redis.url();
    let error = flashsale(&["sale", "migrate", "42", "--redis", &here]).failed();
    assert!(error.contains("has not loaded the module"), "{error}");
    client.ok(&["MODULE", "LOAD", artifacts::module().to_str().expect("a path")]);
    let text = flashsale(&["sale", "migrate", "42", "--redis", &here]).ok();
    assert!(text.contains("was moved to the module on the same server: 1 holds"), "{text}");
    assert_eq!(client.line("TYPE sale:42").text(), "flashsale");
    assert_eq!(client.line("FLASH.HOLD sale:42 h1").get("deadline").integer(), deadline);
    assert_eq!(client.line("KEYS {sale:42}:*").items().len(), 0, "the library's keys are gone");
    // Nobody has told the proxy.
    wait_until("the proxy confirms the old hold", PATIENCE, || {
        let answer = post("/flash/42/holds/h1/confirm", "");
        assert_ne!(answer.status, 404, "the sale was never away: {}", answer.text());
        answer.status == 200
    });
    assert_eq!(stock(&mut client, KEY, "red").sold, 1);
    let text = flashsale(&["sale", "migrate", "42", "--redis", &here]).ok();
    assert!(text.contains("already"), "{text}");
}

#[test]
fn what_cannot_be_moved_is_refused_and_sells_on() {
    let (source, target) = (library(Server::Redis70), module(Server::Redis70));
    let bare = RedisServer::builder(Server::Redis70).start();
    let (mut from, mut to) = (source.client(), target.client());
    all(&mut from, &["FLASH.CREATE sale:42 ITEMS red 5"]);
    let refused = |target: &RedisServer, name: &str, words: &str| {
        let error = migrate(name, &source, target, &["--timeout", "3"]).failed();
        assert!(error.contains(words), "{error}");
    };
    refused(&bare, "42", "has not loaded the module");
    refused(&target, "43", "there is no sale `43`");
    all(&mut to, &["FLASH.CREATE sale:42 ITEMS red 5"]);
    refused(&target, "42", "has a key sale:42 already");
    all(&mut to, &["DEL sale:42", "XADD {sale:42}:orders 1-1 no 1"]);
    refused(&target, "42", "of an earlier sale");
    all(&mut to, &["DEL {sale:42}:orders", "CONFIG SET maxmemory 1"]);
    refused(&target, "42", "OOM");
    all(&mut to, &["CONFIG SET maxmemory 0", "FLASH.CREATE sale:7 ITEMS red 5"]);
    let error = migrate("7", &target, &module(Server::Redis70), &[]).failed();
    assert!(error.contains("is the module's at the source already"), "{error}");
    let error = migrate("42", &source, &target, &["--back"]).failed();
    assert!(error.contains("no move of `42` is under way"), "{error}");
    assert_eq!(from.line("FLASH.ORDER sale:42 o1 ann ITEMS red 1").status(), "CONFIRMED");
    migrate("42", &source, &target, &[]).ok();
    assert_eq!(to.line("FLASH.ORDER sale:42 o1 ann ITEMS red 1").to_string(), "[CONFIRMED o1 1]");
}

#[test]
fn a_target_that_dies_in_mid_move_leaves_the_sale_stopped_or_selling_at_the_source() {
    let (source, mut target) = (library(Server::Redis70), module(Server::Redis70));
    let mut from = source.client();
    all(&mut from, &["FLASH.CREATE sale:42 ITEMS red 5", "FLASH.RESERVE sale:42 h1 ann ITEMS red 1"]);
    // As a mover leaves it that was killed after its first step.
    all(&mut from, &["FLASH.MOVE sale:42 BEGIN 0123456789abcdef elsewhere"]);
    assert!(from.line("FLASH.CONFIRM sale:42 h1").error().starts_with("TRYAGAIN the sale is being moved to elsewhere"));
    target.kill_9();
    migrate("42", &source, &target, &["--timeout", "2"]).failed();
    migrate("42", &source, &target, &["--timeout", "2", "--back"]).failed();
    assert!(from.line("FLASH.CONFIRM sale:42 h1").is_error(), "nobody knows whether it has landed");
    target.restart();
    migrate("42", &source, &target, &["--back"]).ok();
    assert_eq!(from.line("FLASH.CONFIRM sale:42 h1").to_string(), "[CONFIRMED h1 1]");
    // As it was left that was killed after its third step: another target will do.
    all(
        &mut from,
        &["FLASH.MOVE sale:42 BEGIN 0123456789abcdef elsewhere", "FLASH.MOVE sale:42 FINISH 0123456789abcdef"],
    );
    assert!(from.line("FLASH.MOVE sale:42 BACK another").error().contains("another one has taken over"));
    migrate("42", &source, &target, &[]).ok();
    assert_eq!(target.client().line("FLASH.CONFIRM sale:42 h1").to_string(), "[CONFIRMED h1 1]");
}

/// A config that says what the server is, so that nothing has to be asked before the first command.
fn config_of(url: &str) -> tempfile::TempPath {
    let file = tempfile::Builder::new().suffix(".toml").tempfile().expect("a temporary file");
    std::fs::write(file.path(), format!("[redis]\nurl = {url:?}\nmode = \"standalone\"\n")).expect("written");
    file.into_temp_path()
}

#[test]
fn a_server_that_says_nothing_is_named_and_not_waited_for_for_ever() {
    let source = library(Server::Redis70);
    source.client().line("FLASH.CREATE sale:42 ITEMS tee 5");
    // The system takes connections for it, and nobody reads them.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = silent.local_addr().expect("an address").to_string();
    let url = format!("redis://{address}");
    let (known, unknown) = (config_of(&source.url()), config_of(&url));
    let path = |config: &tempfile::TempPath| config.to_string_lossy().into_owned();
    for words in [
        ["--redis", &url, "--to", &source.url()],
        ["--redis", &source.url(), "--to", &url],
        ["--config", &path(&unknown), "--to", &source.url()],
        ["--config", &path(&known), "--to-config", &path(&unknown)],
    ] {
        let began = Instant::now();
        let error = flashsale(&[&["sale", "migrate", "42", "--timeout", "1"], &words[..]].concat()).failed();
        assert!(error.contains(&address), "{words:?}: {error}");
        assert!(began.elapsed() < PATIENCE, "{words:?}: {:?}", began.elapsed());
    }
    assert_eq!(source.client().line("FLASH.ORDER sale:42 o1 ann ITEMS tee 1").status(), "CONFIRMED");
}

#[test]
fn a_server_that_is_slow_is_waited_for() {
    let (source, target) = (library(Server::Redis70), module(Server::Redis70));
    source.client().line("FLASH.CREATE sale:42 ITEMS tee 5");
    let config = config_of(&source.url());
    source.client().ok(&["CLIENT", "PAUSE", "1500", "ALL"]);
    flashsale(&["sale", "migrate", "42", "--config", &config.to_string_lossy(), "--to", &target.url()]).ok();
    assert_eq!(stock(&mut target.client(), KEY, "tee").available, 5);
}

#[test]
fn buyers_are_asked_to_wait_while_a_sale_moves() {
    let source = library(Server::Redis70);
    let mut from = source.client();
    all(&mut from, &["FLASH.CREATE sale:42 ITEMS red 5", "FLASH.RESERVE sale:42 h1 ann ITEMS red 1"]);
    let proxy = Proxy::builder().redis(&source).start();
    let post = |path: &str, id: &str| {
        let headers = [("authorization", &*proxy.bearer("ann")), ("idempotency-key", id)];
        Http::new().request("POST", &proxy.url(path), &headers, b"")
    };
    all(&mut from, &["FLASH.MOVE sale:42 BEGIN 0123456789abcdef elsewhere"]);
    let waits = |answer: flashsale_tests::http::Answer, allowed: &[&str]| {
        assert!(allowed.contains(&&*answer.problem()), "{}", answer.text());
        assert!(answer.status == 503 && answer.header("retry-after").is_some(), "{}", answer.status);
    };
    waits(post("/flash/42/holds?sku=red&qty=1", "h2"), &["paused", "redis-down"]);
    waits(post("/flash/42/holds/h1/confirm", ""), &["redis-down"]);
    let sale = Http::new().get(&proxy.url("/flash/42"));
    assert_eq!((sale.status, sale.json()["state"].as_str()), (200, Some("paused")));
    all(&mut from, &["FLASH.MOVE sale:42 BACK 0123456789abcdef"]);
    wait_until("it is confirmed after all", PATIENCE, || post("/flash/42/holds/h1/confirm", "").status == 200);
}

#[test]
fn only_as_many_replicas_as_asked_for_make_a_step_sure() {
    let (source, target) = (library(Server::Redis70), module(Server::Redis70));
    all(&mut source.client(), &["FLASH.CREATE sale:42 ITEMS red 5"]);
    let error = migrate("42", &source, &target, &["--replicas", "1"]).failed();
    assert!(error.contains("0 of 1 replicas of") && error.contains("sells on where it was"), "{error}");
    assert_eq!(source.client().line("FLASH.ORDER sale:42 o1 ann ITEMS red 1").status(), "CONFIRMED");
    let _replicas =
        [&source, &target].map(|primary| RedisServer::builder(Server::Redis70).module().replica_of(primary).start());
    migrate("42", &source, &target, &["--replicas", "1"]).ok();
    assert_eq!(stock(&mut target.client(), KEY, "red").sold, 1);
}
