//! The stages that keep a rush from the stock: lists, rates, leases, levels, admission, lanes.

use std::time::{Duration, Instant};

use flashsale_tests::http::{Answer, Http, assert_refused};
use flashsale_tests::sale::{assert_audit_is_clean, stock};
use flashsale_tests::{Client, Proxy, ProxyBuilder, RedisServer, wait_until};
use serde_json::json;

const SOON: Duration = Duration::from_secs(30);

struct Scene {
    redis: RedisServer,
    proxy: Proxy,
    http: Http,
}

impl Scene {
    fn with(create: &str, settings: impl FnOnce(ProxyBuilder) -> ProxyBuilder) -> Scene {
        let redis = RedisServer::with_sale(create);
        let proxy = Proxy::builder().redis(&redis).set("listen.trusted_proxies", "[\"127.0.0.1/32\"]");
        let proxy = settings(proxy).start();
        Scene { redis, proxy, http: Http::new() }
    }

    fn client(&self) -> Client {
        self.redis.client()
    }

    fn send(&self, method: &str, path: &str, buyer: &str, address: &str) -> Answer {
        send(&self.http, &self.proxy, method, path, buyer, address)
    }

    fn reserve(&self, buyer: &str) -> Answer {
        self.send("POST", "/flash/s/holds?sku=shirt", buyer, "203.0.113.1")
    }

    fn level(&self) -> u64 {
        self.http.get(&self.proxy.admin_url("/api/level")).json()["level"].as_u64().expect("a level")
    }

    fn set_level(&self, body: &str) -> Answer {
        let headers = [("content-type", "application/json")];
        self.http.request("PUT", &self.proxy.admin_url("/api/level"), &headers, body.as_bytes())
    }
}

fn send(http: &Http, proxy: &Proxy, method: &str, path: &str, buyer: &str, address: &str) -> Answer {
    let bearer = proxy.bearer(buyer);
    let headers = [("authorization", bearer.as_str()), ("x-forwarded-for", address)];
    http.request(method, &proxy.url(path), &headers, b"")
}

#[test]
fn lists_keep_out_and_let_in_and_are_read_again() {
    let scene = Scene::with("FLASH.CREATE sale:s ITEMS shirt 1000", |proxy| {
        proxy
            .file("deny.txt", "203.0.113.0/24 # a botnet\n2001:db8::/32\nbuyer:eve\n")
            .file("allow.txt", "203.0.113.77\nbuyer:vip\n")
            .set("lists.deny_file", "\"deny.txt\"")
            .set("lists.allow_file", "\"allow.txt\"")
            .set("lists.refresh_s", "1")
            .set("rates.mode", "\"enforce\"")
            .set("rates.buyer_per_second", "1")
            .set("rates.buyer_burst", "1")
            .set("rates.address_per_second", "0")
    });
    let reserve = |buyer: &str, address: &str| scene.send("POST", "/flash/s/holds?sku=shirt", buyer, address);
    assert_refused(&reserve("ann", "203.0.113.5"), 403, "denied");
    assert_refused(&reserve("ann", "2001:db8:1::5"), 403, "denied");
    assert_refused(&scene.send("GET", "/flash/s", "ann", "203.0.113.5"), 403, "denied");
    assert_refused(&reserve("eve", "198.51.100.1"), 403, "denied");
    assert_eq!(reserve("ann", "198.51.100.1").status, 201);
    // Whoever is on the allow list is denied by no network and held up by no limit.
    for _ in 0..10 {
        assert_eq!(reserve("bob", "203.0.113.77").status, 201);
        assert_eq!(reserve("vip", "198.51.100.1").status, 201);
    }
    let folder = scene.proxy.addresses().dir.clone();
    std::fs::write(folder.join("deny.txt"), "198.51.100.0/24\n").expect("the folder can be written");
    wait_until("the new list is in force", SOON, || reserve("cas", "198.51.100.1").status == 403);
    assert_eq!(reserve("dan", "203.0.113.5").status, 201);
    // A list that cannot be read leaves the last one in force.
    std::fs::write(folder.join("deny.txt"), "198.51.100.0/24\nnonsense here\n").expect("the folder can be written");
    wait_until("it is looked at", SOON, || scene.proxy.metric("flashsale_list_refreshes_total", &["error"]) > 0.0);
    assert_refused(&reserve("eli", "198.51.100.1"), 403, "denied");
    assert!(scene.proxy.metric("flashsale_stage_total", &["stage=\"list\"", "denied"]) >= 4.0);
    assert!(scene.proxy.metric("flashsale_stage_total", &["stage=\"buyer-list\"", "denied"]) >= 1.0);
}

#[test]
fn what_a_limit_says_is_true() {
    let scene = Scene::with("FLASH.CREATE sale:s ITEMS shirt 1000", |proxy| {
        proxy.set("rates.mode", "\"enforce\"").set("rates.buyer_per_second", "2").set("rates.buyer_burst", "4")
    });
    let refusal = (0..50).map(|_| scene.reserve("ann")).find(|answer| answer.status == 429).expect("a refusal");
    assert_eq!(refusal.problem(), "rate-limited");
    assert_eq!(refusal.header("ratelimit-policy"), Some("\"buyer\";q=4;w=2"));
    assert_eq!(refusal.header("ratelimit"), Some("\"buyer\";r=0;t=1"));
    let wait: u64 = refusal.header("retry-after").and_then(|seconds| seconds.parse().ok()).expect("seconds");
    assert!((1..=3).contains(&wait), "{wait}");
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(scene.reserve("ann").status, 201, "who waits as long as the header says gets in");
}

#[test]
fn a_sale_and_the_server_have_limits_that_spare_those_who_hold() {
    let scene = Scene::with("FLASH.CREATE sale:s ITEMS shirt 1000", |proxy| {
        proxy
            .set("rates.mode", "\"enforce\"")
            .set("rates.address_per_second", "0")
            .set("rates.buyer_per_second", "0")
            .set("rates.sale_per_second", "5")
            .set("rates.server_per_second", "20")
    });
    scene.client().ok(&["FLASH.CREATE", "sale:t", "ITEMS", "shirt", "1000"]);
    let hold = scene.reserve("ann").json()["hold"].as_str().expect("a hold").to_owned();
    let mut words = std::collections::BTreeMap::new();
    for number in 0..200 {
        let answer = scene.reserve(&format!("buyer {number}"));
        if answer.status == 429 {
            let policy = answer.header("ratelimit-policy").expect("a policy").to_owned();
            *words.entry(policy).or_insert(0) += 1;
        }
        let extended = scene.send("POST", &format!("/flash/s/holds/{hold}/extend"), "ann", "203.0.113.1");
        assert_eq!(extended.status, 200);
    }
    assert!(words.contains_key("\"sale\";q=5;w=1"), "{words:?}");
    // The other sale has a limit of its own, but the server's is shared by both.
    wait_until("the other sale gives", SOON, || {
        scene.send("POST", "/flash/t/holds?sku=shirt", "ann", "203.0.113.1").status == 201
    });
    let seen =
        |stage: &str| scene.proxy.metric("flashsale_stage_total", &[&format!("stage=\"{stage}\""), "rate-limited"]);
    for _ in 0..100 {
        scene.send("GET", "/flash/s", "ann", "203.0.113.1");
    }
    assert!(seen("sale") > 0.0 && seen("server") > 0.0);
}

#[test]
fn levels_turn_arrivals_away_and_nobody_who_holds() {
    let scene = Scene::with("FLASH.CREATE sale:s ITEMS shirt 1000", |proxy| proxy);
    let holds: Vec<String> = (0..20)
        .map(|number| scene.reserve(&format!("early {number}")).json()["hold"].as_str().expect("a hold").to_owned())
        .collect();
    for wrong in ["{\"level\":4}", "{\"level\":-1}", "{}", "{\"level\":\"high\"}"] {
        assert_eq!(scene.set_level(wrong).status, 400, "{wrong}");
    }
    let set = scene.set_level("{\"level\":3}");
    assert_eq!(set.json(), json!({"level": 3, "by_hand": true, "auto": false, "drop": 0.99}));
    let answers: Vec<Answer> = (0..200).map(|number| scene.reserve(&format!("late {number}"))).collect();
    let away: Vec<&Answer> = answers.iter().filter(|answer| answer.status == 503).collect();
    // 198 are expected; 180 would be twelve standard deviations off.
    assert!(away.len() > 180, "{}", away.len());
    assert_refused(away[0], 503, "overloaded");
    assert!(away[0].header("retry-after").is_some());
    for (number, hold) in holds.iter().enumerate() {
        let path = format!("/flash/s/holds/{hold}/confirm");
        assert_eq!(scene.send("POST", &path, &format!("early {number}"), "203.0.113.1").status, 200);
    }
    assert_eq!(scene.http.get(&scene.proxy.url("/flash/s")).status, 200);
    assert_eq!(scene.proxy.metric("flashsale_level", &[]), 3.0);
    assert_eq!(scene.set_level("{\"level\":null}").json()["level"], 0);
    assert_eq!(scene.reserve("last").status, 201);
}

#[test]
fn levels_rise_and_fall_with_the_stock() {
    let scene = Scene::with("FLASH.CREATE sale:s ITEMS shirt 100000", |proxy| {
        proxy
            .set("levels.auto", "true")
            .set("levels.redis_high_ms", "40")
            .set("levels.cpu_high", "1000.0")
            .set("levels.cpu_low", "1000.0")
            .set("levels.rise_ms", "300")
            .set("levels.fall_ms", "300")
            .set("redis.timeout_ms", "5000")
    });
    assert_eq!(scene.level(), 0);
    let mut client = scene.client();
    let mut number = 0;
    wait_until("a slow stock makes the level rise", SOON, || {
        client.ok(&["CLIENT", "PAUSE", "150", "WRITE"]);
        for _ in 0..4 {
            number += 1;
            scene.reserve(&format!("buyer {number}"));
        }
        scene.level() > 0
    });
    wait_until("it falls when the stock is quick again", SOON, || {
        scene.reserve("somebody");
        scene.level() == 0
    });
}

#[test]
fn no_more_buyers_are_inside_than_there_may_be_units_for() {
    let scene = Scene::with("FLASH.CREATE sale:s LIMIT 1 ITEMS shirt 10", |proxy| {
        proxy
            .set("admission.mode", "\"enforce\"")
            .set("admission.factor", "2.0")
            .set("admission.returns", "0.0")
            // Longer than the test: nothing changes the picture but us.
            .set("known.refresh_ms", "600000")
            .set("admission.stay_ms", "600000")
            // A quick proxy would know of the last hold before the twenty-first buyer is here, and say so instead.
            .set("known.refuse_all_held", "false")
    });
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let crowd: Vec<_> = (0..200)
            .map(|number| {
                scope.spawn({
                    let scene = &scene;
                    move || scene.reserve(&format!("buyer {number}"))
                })
            })
            .collect();
        crowd.into_iter().map(|buyer| buyer.join().expect("no panic")).collect()
    });
    assert_eq!(answers.iter().filter(|answer| answer.status == 201).count(), 10);
    let outside = answers.iter().filter(|answer| answer.status == 503).count();
    let waits =
        answers.iter().filter(|answer| answer.status == 503).all(|answer| answer.header("retry-after").is_some());
    // Twice as many as there are units are let in, fewer once all are known to be held.
    assert!((180..=190).contains(&outside) && waits, "{outside}");
    let asked = scene.proxy.metric("flashsale_redis_calls_total", &["command=\"reserve\""]);
    assert!((10.0..=20.0).contains(&asked), "{asked}");
    let turned_away = scene.proxy.metric("flashsale_stage_total", &["stage=\"admission\"", "overloaded"]);
    assert_eq!(turned_away, outside as f64);
    assert_eq!(stock(&mut scene.client(), "sale:s", "shirt").held, 10);
    assert_audit_is_clean(&mut scene.client(), "sale:s");
}

#[test]
fn the_door_opens_with_the_stock() {
    let scene = Scene::with("FLASH.CREATE sale:s ITEMS shirt 1 mug 50", |proxy| {
        proxy
            .set("admission.mode", "\"enforce\"")
            .set("admission.factor", "1.0")
            .set("admission.returns", "0.0")
            .set("admission.stay_ms", "600000")
            .set("known.refresh_ms", "200")
    });
    let order = |buyer: &str, sku: &str, quantity: u32| {
        let path = format!("/flash/s/holds?sku={sku}&qty={quantity}");
        scene.send("POST", &path, buyer, "203.0.113.1")
    };
    // Wants more than there is: is inside, and stays there.
    assert_eq!(order("greedy", "shirt", 2).status, 409);
    let answer = order("ann", "shirt", 1);
    assert!(matches!(answer.status, 201 | 503), "{}", answer.text());
    // Another article has its own door.
    for number in 0..20 {
        assert_eq!(order(&format!("buyer {number}"), "mug", 1).status, 201);
    }
    scene.client().ok(&["FLASH.STOCK", "sale:s", "shirt", "5"]);
    wait_until("there is room for others", SOON, || order("bob", "shirt", 1).status == 201);
}

#[test]
fn who_pays_finds_room_in_a_rush_of_arrivals() {
    let scene = Scene::with("FLASH.CREATE sale:s ITEMS shirt 1000", |proxy| {
        proxy
            .set("lanes.limit", "10")
            .set("lanes.min", "10")
            .set("lanes.max", "100")
            .set("redis.timeout_ms", "20000")
            .set("known.refresh_ms", "600000")
    });
    let holds: Vec<String> = (0..15)
        .map(|number| scene.reserve(&format!("early {number}")).json()["hold"].as_str().expect("a hold").to_owned())
        .collect();
    // The stock takes no writes, so that all who get in are inside together.
    scene.client().ok(&["CLIENT", "PAUSE", "4000", "WRITE"]);
    let paused = Instant::now();
    let (arrivals, payments) = std::thread::scope(|scope| {
        let scene = &scene;
        let arrivals: Vec<_> = (0..40)
            .map(|number| scope.spawn(move || (scene.reserve(&format!("late {number}")), paused.elapsed())))
            .collect();
        wait_until("the lane of arrivals is full", SOON, || {
            scene.proxy.metric("flashsale_stage_total", &["stage=\"lane\"", "overloaded"]) > 0.0
        });
        let payments: Vec<_> = holds
            .iter()
            .enumerate()
            .map(|(number, hold)| {
                let path = format!("/flash/s/holds/{hold}/confirm");
                scope.spawn(move || scene.send("POST", &path, &format!("early {number}"), "203.0.113.1"))
            })
            .collect();
        let arrivals: Vec<_> = arrivals.into_iter().map(|arrival| arrival.join().expect("no panic")).collect();
        (arrivals, payments.into_iter().map(|payment| payment.join().expect("no panic")).collect::<Vec<_>>())
    });
    for payment in payments {
        assert_eq!(payment.status, 200, "nobody who pays is turned away: {}", payment.text());
    }
    let got_in = arrivals.iter().filter(|(answer, _)| answer.status == 201).count();
    assert!((1..=7).contains(&got_in), "{got_in}");
    assert!(arrivals.iter().all(|(answer, _)| matches!(answer.status, 201 | 503)));
    assert_audit_is_clean(&mut scene.client(), "sale:s");
}

#[test]
fn proxies_share_a_limit_without_asking_for_each_request() {
    const PER_SECOND: f64 = 40.0;
    let settings = |proxy: ProxyBuilder| {
        proxy
            .set("shared_rates.sale_per_second", "40")
            .set("shared_rates.half_life_ms", "300")
            .set("known.refresh_ms", "600000")
    };
    let mut scene = Scene::with("FLASH.CREATE sale:s ITEMS shirt 1000000", settings);
    let other = settings(Proxy::builder().redis(&scene.redis)).start();
    let passed = |proxy: &Proxy| proxy.metric("flashsale_stage_total", &["stage=\"shared\"", "outcome=\"pass\""]);
    let hammer = |lasts: Duration| {
        let began = Instant::now();
        std::thread::scope(|scope| {
            for (proxy, name) in [(&scene.proxy, "a"), (&other, "b"), (&scene.proxy, "c"), (&other, "d")] {
                let http = scene.http.clone();
                scope.spawn(move || {
                    let mut number = 0;
                    while began.elapsed() < lasts {
                        number += 1;
                        let buyer = format!("{name} {number}");
                        send(&http, proxy, "POST", "/flash/s/holds?sku=shirt", &buyer, "203.0.113.1");
                        std::thread::sleep(Duration::from_millis(3));
                    }
                });
            }
        });
        began.elapsed().as_secs_f64()
    };
    let began = Instant::now();
    let lasted = hammer(Duration::from_secs(4));
    let through = passed(&scene.proxy) + passed(&other);
    // The bucket's own burst, the first lease of each proxy, and what the last lease leaves over.
    let most = PER_SECOND * (lasted + 1.0) + PER_SECOND + 1.0 + 2.0 * 2.0 * PER_SECOND / 10.0;
    assert!(through <= most, "{through} passed, {most} at most");
    assert!(through >= PER_SECOND * 1.5, "{through} passed");
    let asked: f64 = [&scene.proxy, &other]
        .map(|proxy| proxy.metric("flashsale_redis_calls_total", &["command=\"throttle\""]))
        .iter()
        .sum();
    let ticks = began.elapsed().as_secs_f64() * 10.0 + 2.0;
    assert!(asked <= 2.0 * 2.0 * ticks, "{asked} questions in {ticks} leases of two proxies");
    let refused = other.metric("flashsale_stage_total", &["stage=\"shared\"", "rate-limited"]);
    assert!(refused > 0.0);

    // Without Redis the lease shrinks to nothing, and the gates stay as good as shut.
    scene.redis.kill_9();
    hammer(Duration::from_secs(4));
    let before = passed(&scene.proxy) + passed(&other);
    hammer(Duration::from_secs(2));
    let after = passed(&scene.proxy) + passed(&other);
    assert!(after - before <= 4.0, "{} passed in two seconds without Redis", after - before);
    assert!(other.metric("flashsale_leases_total", &["alone"]) > 0.0);
}
