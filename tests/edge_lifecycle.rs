//! Starting, stopping, and what an operator sees.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use flashsale_tests::http::Http;
use flashsale_tests::shop::Shop;
use flashsale_tests::{Proxy, RedisServer, Server, artifacts, wait_until};

const PATIENCE: Duration = Duration::from_secs(15);

fn serve(config: &str) -> (bool, String) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = dir.path().join("edge.toml");
    std::fs::write(&file, config).expect("written");
    let output =
        Command::new(artifacts::flashsale()).arg("serve").arg("--config").arg(&file).output().expect("it runs");
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn mistakes_in_the_config_are_named() {
    for (config, word) in [
        ("[listen]\npublik = \"127.0.0.1:1\"", "publik"),
        ("[rates]\naddress_per_second = \"many\"", "address_per_second"),
        ("[[tokens.keys]]\nalgorithm = \"none\"", "none"),
        ("[[tokens.keys]]\nalgorithm = \"HS256\"", "secret_file"),
        ("[shop]\nupstreams = [\"no-such-host.invalid:80\"]", "no-such-host.invalid"),
        ("nonsense", "TOML"),
    ] {
        let (success, said) = serve(config);
        assert!(!success && said.contains(word), "{config:?}: {said}");
        assert!(said.lines().count() < 20 && !said.contains("panicked"), "{said}");
    }
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound");
    let (success, said) = serve(&format!("[listen]\npublic = \"{address}\"\nadmin = \"127.0.0.1:0\""));
    assert!(!success && said.contains("Address already in use") && said.contains("public"), "{said}");
}

#[test]
fn the_printed_config_is_one_that_is_taken() {
    let printed = Command::new(artifacts::flashsale()).args(["serve", "--print-config"]).output().expect("it runs");
    assert!(printed.status.success());
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = dir.path().join("edge.toml");
    std::fs::write(&file, &printed.stdout).expect("written");
    let check = Command::new(artifacts::flashsale()).args(["serve", "--check", "--config"]).arg(&file).status();
    assert!(check.expect("it runs").success());
}

#[test]
fn a_signal_ends_it_when_the_last_request_is_answered() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let shop = listener.local_addr().expect("bound").to_string();
        let slow = std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut request = [0; 1024];
                if stream.read(&mut request).is_ok_and(|length| length > 0) {
                    std::thread::sleep(Duration::from_millis(1000));
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone").expect("written");
                    return;
                }
            }
        });
        let mut proxy = Proxy::builder()
            .set("redis.url", "\"redis://127.0.0.1:1\"")
            .set("shop.upstreams", &format!("[{shop:?}]"))
            .start();
        let idle = TcpStream::connect(&proxy.addresses().public).expect("the proxy listens");
        let url = proxy.url("/slow");
        let asking = std::thread::spawn(move || Http::new().get(&url).text());
        std::thread::sleep(Duration::from_millis(300));
        proxy.signal(signal);
        let signalled = Instant::now();
        assert_eq!(asking.join().expect("an answer"), "done");
        slow.join().expect("the shop ends well");
        wait_until("it ends", PATIENCE, || !proxy.is_alive());
        assert!(signalled.elapsed() < Duration::from_secs(3), "{:?}", signalled.elapsed());
        drop(idle);
    }
}

#[test]
fn a_request_that_never_ends_does_not_keep_it_alive() {
    let shop = Shop::start();
    shop.behave(flashsale_tests::shop::Manner::Hang);
    let mut proxy = Proxy::builder()
        .set("redis.url", "\"redis://127.0.0.1:1\"")
        .set("listen.drain_s", "1")
        .upstream(&shop.address())
        .start();
    let mut client = TcpStream::connect(&proxy.addresses().public).expect("the proxy listens");
    client.write_all(b"GET /hang HTTP/1.1\r\nHost: x\r\n\r\n").expect("written");
    wait_until("the shop has it", PATIENCE, || !shop.requests_to("/hang").is_empty());
    proxy.signal(libc::SIGTERM);
    let signalled = Instant::now();
    wait_until("it ends", PATIENCE, || !proxy.is_alive());
    assert!(signalled.elapsed() < Duration::from_secs(4), "{:?}", signalled.elapsed());
}

#[test]
fn an_operator_sees_sales_metrics_and_a_log_without_tokens() {
    let redis = RedisServer::builder(Server::Redis70).module().start();
    let mut client = redis.client();
    client.ok(&["FLASH.CREATE", "sale:a", "ITEMS", "shirt", "5"]);
    client.ok(&["FLASH.CREATE", "sale:b", "LIMIT", "2", "ITEMS", "mug", "7"]);
    client.ok(&["SET", "sale:text", "no sale"]);
    client.ok(&["FLASH.CREATE", "elsewhere", "ITEMS", "cap", "1"]);
    let proxy = Proxy::builder().redis(&redis).set("access_log.sample", "1.0").start();
    let http = Http::new();
    let bearer = proxy.bearer("buyer-zoe");
    let held = http.request(
        "POST",
        &proxy.url("/flash/a/holds?sku=shirt"),
        &[("authorization", bearer.as_str()), ("cookie", "session=hush")],
        b"",
    );
    assert_eq!(held.status, 201);

    let list = http.get(&proxy.admin_url("/api/sales")).json();
    let names: Vec<_> = list["sales"].as_array().expect("a list").iter().map(|sale| sale["name"].clone()).collect();
    assert_eq!(names, ["a", "b"]);
    let sale = http.get(&proxy.admin_url("/api/sales/a")).json();
    assert_eq!((&sale["skus"]["shirt"]["held"], &sale["holds"]), (&1.into(), &1.into()), "{sale}");
    let missing = http.get(&proxy.admin_url("/api/sales/none"));
    assert_eq!((missing.status, missing.problem().as_str()), (404, "no-sale"));
    assert_eq!(http.get(&proxy.admin_url("/readyz")).status, 200);

    let metrics = http.get(&proxy.admin_url("/metrics"));
    assert!(metrics.header("content-type").is_some_and(|kind| kind.starts_with("text/plain")));
    let metrics = metrics.text();
    for line in [
        "flashsale_stage_total{outcome=\"pass\",stage=\"token\"} 1",
        "flashsale_responses_total{route=\"reserve\",status=\"201\"} 1",
        "flashsale_redis_calls_total{command=\"reserve\",outcome=\"ok\"} 1",
        "flashsale_request_seconds_count{route=\"reserve\"} 1",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    assert!(!metrics.contains("buyer-zoe"), "a buyer stands in the metrics");

    let log = proxy.log();
    let line = log.lines().find(|line| line.contains("\"route\":\"reserve\"")).expect("a line");
    let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
    assert_eq!((line["status"].as_u64(), line["path"].as_str()), (Some(201), Some("/flash/a/holds")));
    let token = bearer.trim_start_matches("Bearer ");
    assert!(!log.contains(token) && !log.contains("hush"), "{log}");
    assert_eq!(http.get(&proxy.url("/metrics")).status, 404, "operators' pages are not the public's");
}
