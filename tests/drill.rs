//! `flashsale drill` rehearses on a real deployment, and leaves nothing behind.

use flashsale_tests::cli::flashsale;
use flashsale_tests::{Proxy, RedisServer, Server, TOKEN_SECRET};

/// The config of the proxy as the drill must see it: the same secret, the same servers.
fn config(redis: &str, public: &str, admin: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("jwt"), TOKEN_SECRET).expect("written");
    let text = format!(
        "[listen]\npublic = \"{public}\"\nadmin = \"{admin}\"\n[redis]\n{redis}\n[[tokens.keys]]\nalgorithm = \
         \"HS256\"\nsecret_file = \"{}\"\n",
        folder.path().join("jwt").display()
    );
    std::fs::write(folder.path().join("edge.toml"), text).expect("written");
    folder
}

#[test]
fn a_rush_on_two_servers_sells_each_unit_once_and_is_removed() {
    let servers = [0, 1].map(|_| RedisServer::builder(Server::Redis70).module().start());
    let urls: Vec<String> = servers.iter().map(|redis| format!("{:?}", redis.url())).collect();
    let redis = format!("[{}]", urls.join(", "));
    let proxy = Proxy::builder().set("redis.urls", &redis).set("listen.trusted_proxies", "[\"127.0.0.0/8\"]").start();
    let addresses = proxy.addresses();
    let folder = config(&format!("urls = {redis}"), &addresses.public.to_string(), &addresses.admin.to_string());
    let config = folder.path().join("edge.toml");
    let words = ["drill", "--buyers", "1500", "--units", "60", "--over", "3s", "--shards", "4", "--json", "--config"];
    let outcome = flashsale(&[&words[..], &[&config.to_string_lossy()]].concat()).json();
    let count = |name: &str| outcome[name].as_u64().unwrap_or_else(|| panic!("no {name} in {outcome}"));
    assert_eq!((count("stocked"), count("oversold"), count("shards")), (60, 0, 4), "{outcome}");
    // Who gives back or never pays leaves units behind; most of the crowd pays.
    assert!(count("sold") >= 30 && count("sold") + count("left") == 60, "{outcome}");
    assert_eq!(outcome["reserve"]["count"].as_u64(), Some(1_500), "{outcome}");
    assert!(outcome["reserve"]["p99"].as_f64() >= outcome["reserve"]["p50"].as_f64(), "{outcome}");
    let endings = outcome["endings"].as_array().expect("endings");
    let buyers: u64 = endings.iter().filter_map(|ending| ending[1].as_u64()).sum();
    assert_eq!(buyers, 1_500, "{outcome}");
    assert!(outcome["funnel"].as_array().is_some_and(|funnel| !funnel.is_empty()), "{outcome}");
    for redis in &servers {
        assert_eq!(redis.client().ok(&["DBSIZE"]).integer(), 0);
    }
}

#[test]
fn a_proxy_that_is_not_there_is_named() {
    let redis = RedisServer::builder(Server::Redis70).module().start();
    let nobody = format!("127.0.0.1:{}", flashsale_tests::free_port());
    let folder = config(&format!("url = {:?}", redis.url()), &nobody, "127.0.0.1:1");
    let config = folder.path().join("edge.toml");
    let error = flashsale(&["drill", "--config", &config.to_string_lossy()]).failed();
    assert!(error.contains(&format!("no proxy answers at http://{nobody}")), "{error}");
    let error = flashsale(&["drill", "--redis", &redis.url()]).failed();
    assert!(error.contains("which proxy?"), "{error}");
}

#[test]
fn of_a_thousand_requests_for_each_unit_nearly_none_reaches_redis() {
    const UNITS: u64 = 12;
    let redis = RedisServer::builder(Server::Redis70).module().start();
    let proxy = Proxy::builder()
        .redis(&redis)
        .set("listen.trusted_proxies", "[\"127.0.0.0/8\"]")
        .set("admission.mode", "\"enforce\"")
        .set("admission.factor", "1.0")
        .set("admission.returns", "0.0")
        .start();
    let addresses = proxy.addresses();
    let folder = config(&format!("url = {:?}", redis.url()), &addresses.public, &addresses.admin);
    let config = folder.path().join("edge.toml");
    let config = config.to_string_lossy();
    let words = ["drill", "--buyers", "12000", "--units", "12", "--over", "4s", "--payers", "20", "--json", "--config"];
    let outcome = flashsale(&[&words[..], &[&config]].concat()).json();
    let count = |name: &str| outcome[name].as_u64().unwrap_or_else(|| panic!("no {name} in {outcome}"));
    assert!(count("asked") >= 1_000 * UNITS, "{outcome}");
    // Each unit, those that came back, and few who came too late.
    assert!((UNITS..=2 * UNITS).contains(&count("sent")), "{outcome}");
    assert!(outcome["answered_before_redis_percent"].as_f64() > Some(99.8), "{outcome}");
    // By the server's own count: those in the rush reserved, and 20 paid; each of them was looked at once before.
    let calls = |name: &str| {
        let mut commands = outcome["commands"].as_array().expect("commands").iter();
        commands.find(|command| command[0] == name).and_then(|command| command[1].as_u64()).unwrap_or(0)
    };
    let reserving = calls("flash.reserve") + calls("flash.mreserve");
    assert!((1..=count("sent")).contains(&reserving), "{outcome}");
    assert!(calls("flash.hold") <= count("sent") + 20 + 2 * UNITS, "{outcome}");
    assert!((20..=20 + 2 * UNITS).contains(&calls("flash.confirm")), "{outcome}");
    for name in ["paying_alone", "paying_in_rush"] {
        assert_eq!(outcome[name]["count"], 20, "{outcome}");
    }
}
