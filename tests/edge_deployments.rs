//! The edge keeps selling while the deployment behind it changes: a cluster fails over, a slot moves, Sentinels
//! promote a replica, a server hangs. And it speaks TLS, as a user with few rights.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use flashsale_tests::http::{Answer, Http};
use flashsale_tests::sale::{assert_audit_is_clean, confirmed_orders, shard_keys, stock};
use flashsale_tests::shop::Shop;
use flashsale_tests::{Client, Cluster, Proxy, RedisServer, Sentinel, Server, free_port, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

fn send(http: &Http, proxy: &Proxy, call: &str, buyer: &str, id: &str) -> Answer {
    let headers = [("authorization", &*proxy.bearer(buyer)), ("idempotency-key", id)];
    http.request("POST", &proxy.url(&format!("/flash/s/{call}?sku=shirt")), &headers, b"")
}

/// Makes a sale `s` in shards; gives their keys.
fn make_shards(cluster: &Cluster, shards: usize, units: u32) -> Vec<String> {
    let keys = shard_keys(&mut cluster.client_for("x"), "sale:s", shards);
    let (count, units) = (shards.to_string(), units.to_string());
    for (index, key) in keys.iter().enumerate() {
        let create = ["FLASH.CREATE", key, "SHARD", &index.to_string(), &count, "ITEMS", "shirt", &units];
        cluster.client_for(key).ok(&create);
    }
    keys
}

#[test]
fn orders_told_before_and_after_a_cluster_failover_are_all_there() {
    // Two replicas each: after the failover there is still one to acknowledge orders.
    let mut cluster = Cluster::with_module(Server::Redis70).replicas_each(2).start();
    let keys = make_shards(&cluster, 6, 1000);
    let urls: Vec<_> = cluster.nodes().map(RedisServer::url).collect();
    let proxy = Proxy::builder().redis_urls(&urls[..2]).set("durability.replicas", "1").start();
    let (told, stop) = (AtomicUsize::new(0), AtomicBool::new(false));

    let orders: BTreeSet<String> = std::thread::scope(|scope| {
        let buy = |thread: usize| {
            let http = Http::new();
            let mut orders = BTreeSet::new();
            for number in 0.. {
                let id = format!("o-{thread}-{number}");
                // What is pending or refused is asked for again by the same id, until it is there.
                while send(&http, &proxy, "orders", &format!("b-{thread}-{number}"), &id).status != 200 {
                    std::thread::sleep(Duration::from_millis(20));
                }
                orders.insert(id);
                told.fetch_add(1, Ordering::Relaxed);
                if stop.load(Ordering::Relaxed) {
                    break;
                }
            }
            orders
        };
        let threads: Vec<_> = (0..6).map(|thread| scope.spawn(move || buy(thread))).collect();
        wait_until("orders are told", PATIENCE, || told.load(Ordering::Relaxed) > 30);
        cluster.primaries()[0].kill_9();
        // The buyers that live on the dead node keep their threads waiting until its replica has taken over.
        wait_until("a replica has taken over", PATIENCE, || {
            cluster.replicas()[..2].iter().any(|replica| replica.info("role").as_deref() == Some("master"))
        });
        let after = told.load(Ordering::Relaxed);
        wait_until("orders are told again", PATIENCE, || told.load(Ordering::Relaxed) > after + 30);
        stop.store(true, Ordering::Relaxed);
        threads.into_iter().flat_map(|thread| thread.join().expect("a crowd that ends well")).collect()
    });

    let mut found = BTreeSet::new();
    for key in &keys {
        let masters = cluster.nodes().skip(1).filter(|node| node.info("role").as_deref() == Some("master"));
        let mut owners = masters.filter(|node| !node.client().call(&["FLASH.INFO", key]).to_string().contains("MOVED"));
        let mut client = owners.next().expect("somebody serves the shard").client();
        assert_audit_is_clean(&mut client, key);
        found.extend(confirmed_orders(&mut client, key).into_keys());
    }
    assert_eq!(orders.difference(&found).count(), 0, "told and not there");
    assert!(orders.len() > 60);
}

#[test]
fn a_slot_that_moves_in_mid_sale_costs_no_buyer_an_answer() {
    let cluster = Cluster::with_module(Server::Redis70).replicas_each(0).start();
    let keys = make_shards(&cluster, 3, 1000);
    let urls: Vec<_> = cluster.nodes().map(RedisServer::url).collect();
    let proxy = Proxy::builder().redis_urls(&urls).start();
    let (stop, sold) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (proxy, stop, sold) = (&proxy, &stop, &sold);
            scope.spawn(move || {
                let http = Http::new();
                for number in 0.. {
                    let id = format!("h-{thread}-{number}");
                    let answer = send(&http, proxy, "holds", &format!("b-{thread}-{number}"), &id);
                    assert_eq!(answer.status, 201, "{}", answer.text());
                    sold.fetch_add(1, Ordering::Relaxed);
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                }
            });
        }
        let wait_for_more = || {
            let before = sold.load(Ordering::Relaxed);
            wait_until("it sells", PATIENCE, || sold.load(Ordering::Relaxed) > before + 20);
        };
        wait_for_more();
        for round in 0..2 {
            let (from, to) = if round == 0 { (0, 1) } else { (1, 0) };
            let node = |index| cluster.nodes().nth(index).expect("three primaries");
            move_slot(node(from), node(to), &keys[0], wait_for_more);
            wait_for_more();
        }
        stop.store(true, Ordering::Relaxed);
    });
    let held: i64 = keys.iter().map(|key| stock(&mut cluster.client_for(key), key, "shirt").held).sum();
    assert_eq!(held as usize, sold.load(Ordering::Relaxed), "each hold that was told, once");
}

/// Moves the key's slot as redis-cli does, with a pause at each step.
fn move_slot(from: &RedisServer, to: &RedisServer, key: &str, pause: impl Fn()) {
    let (mut source, mut target) = (from.client(), to.client());
    let id = |client: &mut Client| client.ok(&["CLUSTER", "MYID"]).text();
    let (source_id, target_id) = (id(&mut source), id(&mut target));
    let slot = source.ok(&["CLUSTER", "KEYSLOT", key]).integer().to_string();
    target.ok(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source_id]);
    source.ok(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target_id]);
    pause();
    let keys = source.ok(&["CLUSTER", "GETKEYSINSLOT", &slot, "100"]);
    let port = to.port().to_string();
    for key in keys.items() {
        source.ok(&["MIGRATE", "127.0.0.1", &port, &key.text(), "0", "5000"]);
    }
    // Now every command is answered ASK.
    pause();
    target.ok(&["CLUSTER", "SETSLOT", &slot, "NODE", &target_id]);
    source.ok(&["CLUSTER", "SETSLOT", &slot, "NODE", &target_id]);
}

#[test]
fn the_primary_that_the_sentinels_name_is_followed() {
    let mut primary = RedisServer::builder(Server::Redis70).module().start();
    let replica = RedisServer::builder(Server::Redis70).module().replica_of(&primary).start();
    primary.client().ok(&["FLASH.CREATE", "sale:s", "ITEMS", "shirt", "1000"]);
    let sentinel = Sentinel::watch(&primary, "shop");
    // One of the two is always away.
    let urls = ["redis://127.0.0.1:1".to_owned(), sentinel.url()];
    let proxy = Proxy::builder()
        .redis_urls(&urls)
        .set("redis.mode", "\"sentinel\"")
        .set("redis.sentinel_master", "\"shop\"")
        .start();
    let http = Http::new();
    let sells = |id: &str| send(&http, &proxy, "holds", "ann", id).status;
    wait_until("it sells", PATIENCE, || sells("h1") < 202);
    replica.wait_for_primary(&primary);
    primary.kill_9();
    wait_until("it sells at the new primary", PATIENCE, || sells("h2") < 202);
    assert_eq!(replica.info("role").as_deref(), Some("master"));
    assert_eq!(sells("h1"), 200, "what was replicated is there");

    // An operator's failover, both servers alive: the old primary is not written to any more.
    primary.restart();
    primary.client().ok(&["REPLICAOF", "127.0.0.1", &replica.port().to_string()]);
    wait_until("the old primary follows the new one", PATIENCE, || {
        primary.info("role").as_deref() == Some("slave") && primary.info("master_link_status").as_deref() == Some("up")
    });
    let mut operator = Client::connect(sentinel.port()).expect("the Sentinel");
    wait_until("the Sentinel fails over", PATIENCE, || {
        operator.call(&["SENTINEL", "FAILOVER", "shop"]).to_string() == "OK"
    });
    wait_until("the old one is primary again", PATIENCE, || primary.info("role").as_deref() == Some("master"));
    let mut number = 3;
    // What the old one took before it was told is lost with it: `[durability]` is for those who mind.
    wait_until("it sells there", PATIENCE, || {
        number += 1;
        sells(&format!("h{number}")) < 202
            && primary.client().line(&format!("FLASH.HOLD sale:s h{number}")).to_string().contains("held")
    });
    // Mode `auto` finds out that it talks to a Sentinel.
    let proxy = Proxy::builder().redis_urls(&urls).set("redis.sentinel_master", "\"shop\"").start();
    wait_until("it sells", PATIENCE, || send(&http, &proxy, "holds", "ann", "h4").status < 202);
}

fn openssl(dir: &Path, arguments: &str) {
    let mut command = Command::new("openssl");
    let output = command.current_dir(dir).args(arguments.split(' ')).output().expect("openssl");
    assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// An authority, and a certificate of its for this machine: `ca.pem`, `NAME.pem`, `NAME.key`.
fn certificates(dir: &Path) {
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(dir, &format!("req -x509 {key} -keyout ca.key -out ca.pem -days 2 -subj /CN=authority"));
    std::fs::write(dir.join("ext"), "subjectAltName=IP:127.0.0.1").expect("the folder can be written");
    for name in ["server", "edge"] {
        openssl(dir, &format!("req {key} -keyout {name}.key -out {name}.csr -subj /CN={name}"));
        let sign = "-CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext";
        openssl(dir, &format!("x509 -req -in {name}.csr -out {name}.pem {sign}"));
    }
}

/// What `docs/edge.md` says the user needs.
const RIGHTS: &str = "on >s3cret resetkeys ~sale:* ~{sale:* resetchannels &sale:*:state -@all +hello +ping +time +exists +scan \
                      +role +command|info +cluster|slots +subscribe +psubscribe +ssubscribe +sunsubscribe +wait \
                      +flash.info +flash.hold +flash.reserve +flash.mreserve +flash.order +flash.confirm +flash.release \
                      +flash.extend";

#[test]
fn tls_with_certificates_on_both_sides_and_a_user_of_few_rights() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    certificates(dir.path());
    let path = |name: &str| dir.path().join(name).to_str().expect("plain").to_owned();
    let tls_port = free_port();
    let redis = RedisServer::builder(Server::Redis70)
        .module()
        .set("tls-port", &tls_port.to_string())
        .set("tls-cert-file", &path("server.pem"))
        .set("tls-key-file", &path("server.key"))
        .set("tls-ca-cert-file", &path("ca.pem"))
        .set("tls-auth-clients", "yes")
        .start();
    let mut client = redis.client();
    let rights = format!("ACL SETUSER edge {}", RIGHTS.split_whitespace().collect::<Vec<_>>().join(" "));
    client.ok(&rights.split(' ').collect::<Vec<_>>());
    client.ok(&["FLASH.CREATE", "sale:s", "ITEMS", "shirt", "1000"]);
    let proxy = || {
        Proxy::builder()
            .redis_urls(&[format!("rediss://127.0.0.1:{tls_port}")])
            .set("redis.username", "\"edge\"")
            .file("password", "s3cret")
            .set("redis.password_file", "\"password\"")
            .set("redis.tls_ca_file", &format!("{:?}", path("ca.pem")))
    };
    let with_certificate = proxy()
        .set("redis.tls_cert_file", &format!("{:?}", path("edge.pem")))
        .set("redis.tls_key_file", &format!("{:?}", path("edge.key")))
        .start();
    let http = Http::new();
    wait_until("the edge listens", PATIENCE, || with_certificate.metric("flashsale_channel_up", &[]) == 1.0);
    let held = send(&http, &with_certificate, "holds", "ann", "h1");
    assert_eq!(held.status, 201, "{}", held.text());
    let order = send(&http, &with_certificate, "orders", "ann", "o1");
    assert_eq!(order.status, 200, "{}", order.text());
    let headers = [("authorization", &*with_certificate.bearer("ann"))];
    let url = with_certificate.url("/flash/s/holds/h1");
    assert_eq!(http.request("POST", &format!("{url}/extend"), &headers, b"").status, 200);
    assert_eq!(http.request("DELETE", &url, &headers, b"").status, 204);
    assert_eq!(http.get(&with_certificate.admin_url("/api/sales")).json()["sales"].as_array().map(Vec::len), Some(1));
    let denied = client.ok(&["ACL", "LOG"]).to_string();
    assert!(!denied.contains("flash") && !denied.contains("state"), "{denied}");

    let without = proxy().start();
    assert_eq!(send(&http, &without, "holds", "ann", "h2").problem(), "redis-down");
    let stranger = proxy().set("redis.tls_ca_file", &format!("{:?}", path("server.pem"))).start();
    assert_eq!(send(&http, &stranger, "holds", "ann", "h2").problem(), "redis-down");
}

#[test]
fn a_breaker_opens_when_a_server_hangs_and_closes_when_it_answers() {
    let redis = &mut RedisServer::with_sale("FLASH.CREATE sale:s ITEMS shirt 1000");
    let proxy = Proxy::builder()
        .redis(redis)
        .set("redis.timeout_ms", "100")
        .set("redis.breaker_failures", "5")
        .set("known.refresh_ms", "600000")
        .start();
    let http = Http::new();
    assert_eq!(send(&http, &proxy, "holds", "ann", "h0").status, 201);
    redis.signal(libc::SIGSTOP);
    let mut number = 0;
    wait_until("it is known that nobody answers", PATIENCE, || {
        number += 1;
        let status = send(&http, &proxy, "holds", "ann", &format!("h{number}")).status;
        assert!(matches!(status, 202 | 503), "{status}");
        status == 503 && proxy.metric("flashsale_redis_breakers_open", &[]) == 1.0
    });
    redis.signal(libc::SIGCONT);
    wait_until("it sells", PATIENCE, || send(&http, &proxy, "holds", "bob", "again").status < 202);
    assert!(proxy.metric("flashsale_redis_breakers_open", &[]) == 0.0);
    // None of those that were refused or left open has happened twice.
    let held = stock(&mut redis.client(), "sale:s", "shirt").held;
    assert!(held <= i64::from(number) + 2, "{held} of {number}");
}

#[test]
fn reservations_that_come_while_one_is_under_way_go_together() {
    let redis = RedisServer::with_sale("FLASH.CREATE sale:s ITEMS shirt 1000");
    let proxy = Proxy::builder()
        .redis(&redis)
        .set("redis.timeout_ms", "20000")
        .set("listen.threads", "1")
        .set("known.refresh_ms", "600000")
        .start();
    assert_eq!(send(&Http::new(), &proxy, "holds", "ann", "h").status, 201);
    // The server is busy for a moment: the first one waits for it, and the others for the first.
    let mut sleeper = redis.client();
    sleeper.send(&["DEBUG", "SLEEP", "1"]).expect("sent");
    std::thread::scope(|scope| {
        for buyer in 0..40 {
            let proxy = &proxy;
            scope.spawn(move || {
                let (buyer, id) = (format!("b{buyer}"), format!("h{buyer}"));
                let held = send(&Http::new(), proxy, "holds", &buyer, &id);
                assert_eq!((held.status, held.json()["hold"].as_str()), (201, Some(&*id)), "{}", held.text());
                assert_eq!(send(&Http::new(), proxy, "holds", &buyer, &id).status, 200, "the same again");
            });
        }
    });
    let mut client = redis.client();
    assert_eq!(stock(&mut client, "sale:s", "shirt").held, 41);
    assert_audit_is_clean(&mut client, "sale:s");
    let stats = client.ok(&["INFO", "commandstats"]).text();
    assert!(stats.to_lowercase().contains("cmdstat_flash.mreserve:calls="), "{stats}");
    let metrics = Http::new().get(&proxy.admin_url("/metrics")).text();
    let number = |name: &str| -> f64 {
        let line = metrics.lines().find_map(|line| line.strip_prefix(name)).expect("the metric");
        line.trim().parse().expect("a number")
    };
    let (commands, holds) = (number("flashsale_redis_batch_holds_count"), number("flashsale_redis_batch_holds_sum"));
    assert!(holds >= 81.0 && commands < holds, "{commands} commands for {holds} reservations");
}

#[test]
fn the_relay_follows_a_cluster_to_the_new_primary() {
    let mut cluster = Cluster::with_module(Server::Redis70).replicas_each(1).start();
    let keys = make_shards(&cluster, 3, 100);
    let shop = Shop::start();
    let urls: Vec<_> = cluster.nodes().map(RedisServer::url).collect();
    let proxy = Proxy::builder()
        .redis_urls(&urls)
        .webhook(&shop.url("/orders"), "whsec_BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=")
        .set("relay.webhook.backoff_first_ms", "20")
        .set("relay.lease_ms", "10000")
        .start();
    let http = Http::new();
    let told = |shop: &Shop| {
        let requests = shop.requests_to("/orders").into_iter();
        requests.map(|request| request.headers["webhook-id"].clone()).collect::<BTreeSet<_>>().len()
    };
    let order = |number: usize| {
        wait_until("it is ordered", PATIENCE, || {
            send(&http, &proxy, "orders", &format!("b{number}"), &format!("o{number}")).status == 200
        });
    };
    (0..12).for_each(order);
    wait_until("the shop has the orders of all shards", PATIENCE, || told(&shop) == 12);
    let victim = (0..3).find(|index| {
        let mut client = cluster.nodes().nth(*index).expect("a primary").client();
        !client.call(&["FLASH.INFO", &keys[0]]).is_error()
    });
    let victim = victim.expect("one has the first shard");
    // An order that dies with its primary leaves its number, and so its id at the shop, to a later one.
    let node = |index: usize| cluster.nodes().nth(index).expect("three primaries, then a replica of each");
    node(3 + victim).wait_for_primary(node(victim));
    cluster.primaries()[victim].kill_9();
    (12..24).for_each(order);
    wait_until("the shop has the later orders too", PATIENCE, || told(&shop) >= 24);
}
