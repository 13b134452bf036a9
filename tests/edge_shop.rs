//! Ordinary traffic passes to the shop, whatever the shop does.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use flashsale_tests::http::{Http, read_head};
use flashsale_tests::shop::{Manner, Shop};
use flashsale_tests::{Proxy, ProxyBuilder, wait_until};

const PATIENCE: Duration = Duration::from_secs(10);

/// A proxy without Redis: the shop does not need it.
fn proxy(shops: &[&str]) -> ProxyBuilder {
    let shops: Vec<String> = shops.iter().map(|shop| format!("{shop:?}")).collect();
    Proxy::builder()
        .set("redis.url", "\"redis://127.0.0.1:1\"")
        .set("shop.upstreams", &format!("[{}]", shops.join(",")))
        .set("shop.health_interval_ms", "100")
}

#[test]
fn requests_go_to_the_servers_in_turn_and_around_a_dead_one() {
    let (first, second) = (Shop::start(), Shop::start());
    let proxy = proxy(&[&first.address(), &second.address()]).start();
    let http = Http::new();
    for _ in 0..20 {
        assert_eq!(http.get(&proxy.url("/page")).status, 200);
    }
    assert!(first.requests_to("/page").len() >= 8 && second.requests_to("/page").len() >= 8);
    let port = first.stop();
    // From the first moment on. A GET is also repeated if it went into a kept connection that was dead.
    for _ in 0..10 {
        assert_eq!(http.get(&proxy.url("/other")).status, 200);
    }
    // What could not be delivered at all goes to the other, whatever the method.
    for _ in 0..10 {
        let answer = http.request("POST", &proxy.url("/cart"), &[], b"one");
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    assert_eq!(second.requests_to("/cart").len(), 10);
    assert_eq!(second.requests_to("/cart")[0].body, b"one");
    let first = Shop::start_on(port);
    wait_until("the first is back in turn", PATIENCE, || {
        http.get(&proxy.url("/page"));
        !first.requests_to("/page").is_empty()
    });
}

#[test]
fn the_shop_learns_who_is_there_and_strangers_cannot_lie() {
    let shop = Shop::start();
    let http = Http::new();
    let lies = [
        ("x-forwarded-for", "6.6.6.6"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "evil.example"),
        ("forwarded", "for=6.6.6.6"),
        ("x-real-ip", "6.6.6.6"),
        ("cookie", "a=b"),
    ];
    let plain = proxy(&[&shop.address()]).start();
    http.request("GET", &plain.url("/a?b=c%2Fd"), &lies, b"");
    let seen = &shop.requests()[0];
    assert_eq!(seen.target, "/a?b=c%2Fd");
    assert_eq!(seen.headers["x-forwarded-for"], "127.0.0.1");
    assert_eq!(seen.headers["x-forwarded-proto"], "http");
    assert_eq!(seen.headers["x-forwarded-host"], plain.addresses().public);
    assert_eq!(seen.headers["host"], plain.addresses().public);
    assert_eq!(seen.headers["cookie"], "a=b");
    assert!(!seen.headers.contains_key("forwarded") && !seen.headers.contains_key("x-real-ip"));

    let behind = proxy(&[&shop.address()]).set("listen.trusted_proxies", "[\"127.0.0.0/8\"]").start();
    http.request("GET", &behind.url("/trusted"), &lies, b"");
    let seen = &shop.requests_to("/trusted")[0];
    assert_eq!(seen.headers["x-forwarded-for"], "6.6.6.6, 127.0.0.1");
    assert_eq!(seen.headers["x-forwarded-proto"], "https");
}

#[test]
fn a_shop_that_hangs_or_is_gone_is_said_to_be() {
    let shop = Shop::start();
    let proxy = proxy(&[&shop.address()]).set("shop.read_timeout_ms", "300").start();
    let http = Http::new();
    shop.behave(Manner::Hang);
    let started = Instant::now();
    let answer = http.get(&proxy.url("/page"));
    assert_eq!((answer.status, answer.problem().as_str()), (504, "shop-timeout"));
    assert!(started.elapsed() < Duration::from_secs(2));
    let post = http.request("POST", &proxy.url("/cart"), &[], b"one");
    assert_eq!(post.status, 504);
    assert_eq!(shop.requests_to("/cart").len(), 1, "what was delivered is never sent twice");
    shop.behave(Manner::Status(503));
    assert_eq!(http.get(&proxy.url("/page")).status, 503, "the shop's own refusals are the shop's");
    shop.stop();
    let answer = http.get(&proxy.url("/page"));
    assert_eq!((answer.status, answer.problem().as_str()), (502, "shop-down"));
    wait_until("the admin knows", PATIENCE, || {
        http.get(&proxy.admin_url("/readyz")).json()["shop"] == "no server is well"
    });
}

/// A server that does what `talk` says with its first connection that speaks.
fn server(talk: impl FnOnce(TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    std::thread::spawn(move || {
        let mut talk = Some(talk);
        for stream in listener.incoming().flatten() {
            // Health checks only connect.
            let mut byte = [0];
            if stream.peek(&mut byte).is_ok_and(|length| length > 0)
                && let Some(talk) = talk.take()
            {
                talk(stream);
            }
        }
    });
    address
}

#[test]
fn a_websocket_passes_and_may_be_silent() {
    let shop = server(|mut stream| {
        let head = read_head(&mut stream);
        assert!(head.to_ascii_lowercase().contains("upgrade: websocket"), "{head}");
        let answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                      Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        stream.write_all(answer.as_bytes()).expect("written");
        let mut bytes = [0; 64];
        while let Ok(length) = stream.read(&mut bytes) {
            if length == 0 || stream.write_all(&bytes[..length]).is_err() {
                return;
            }
        }
    });
    let proxy = proxy(&[&shop]).set("shop.read_timeout_ms", "300").set("listen.read_timeout_ms", "300").start();
    let mut stream = TcpStream::connect(&proxy.addresses().public).expect("the proxy listens");
    stream
        .write_all(
            b"GET /chat HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
              Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        )
        .expect("written");
    let head = read_head(&mut stream);
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    for message in [b"one", b"two"] {
        std::thread::sleep(Duration::from_millis(700));
        stream.write_all(message).expect("the socket is open");
        let mut echo = [0; 3];
        stream.read_exact(&mut echo).expect("an echo");
        assert_eq!(&echo, message);
    }
}

#[test]
fn bodies_stream_in_both_directions() {
    let shop = server(|mut stream| {
        read_head(&mut stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").expect("written");
        // Each part is answered before the next is sent: nothing waits for the whole.
        for _ in 0..3 {
            let mut part = [0; 4];
            stream.read_exact(&mut part).expect("a part");
            stream.write_all(b"4\r\n").expect("written");
            stream.write_all(&part).expect("written");
            stream.write_all(b"\r\n").expect("written");
        }
        stream.write_all(b"0\r\n\r\n").expect("written");
    });
    let proxy = proxy(&[&shop]).start();
    let mut stream = TcpStream::connect(&proxy.addresses().public).expect("the proxy listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.write_all(b"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 12\r\n\r\n").expect("written");
    let mut head = String::new();
    for part in [b"aaaa", b"bbbb", b"cccc"] {
        stream.write_all(part).expect("written");
        if head.is_empty() {
            head = read_head(&mut stream);
            assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        }
        let mut chunk = [0; 9];
        stream.read_exact(&mut chunk).expect("its echo, before the next part");
        assert_eq!(&chunk[3..7], part);
    }
}

#[test]
fn a_slow_shop_is_waited_for_though_the_client_says_nothing() {
    let shop = server(|mut stream| {
        read_head(&mut stream);
        std::thread::sleep(Duration::from_millis(1200));
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow");
    });
    let proxy = proxy(&[&shop]).set("listen.read_timeout_ms", "300").start();
    assert_eq!(Http::new().get(&proxy.url("/report")).text(), "slow");
}

#[test]
fn the_least_busy_server_is_asked_next() {
    let (busy, free) = (Shop::start(), Shop::start());
    let proxy = proxy(&[&busy.address(), &free.address()]).set("shop.balance", "\"least_connections\"").start();
    busy.behave(Manner::Hang);
    let url = proxy.url("/page");
    std::thread::scope(|scope| {
        // One after the other, until one hangs.
        while busy.requests_to("/page").is_empty() {
            let asking = scope.spawn(|| Http::new().get(&url));
            wait_until("it is answered, or hangs", PATIENCE, || {
                asking.is_finished() || !busy.requests_to("/page").is_empty()
            });
        }
        let http = Http::new();
        for _ in 0..20 {
            assert_eq!(http.get(&url).status, 200);
        }
        busy.behave(Manner::Status(200));
    });
    assert_eq!(busy.requests_to("/page").len(), 1, "the busy one was asked on and on");
    assert!(free.requests_to("/page").len() >= 20);
}

#[test]
fn product_pages_are_kept_by_rule_and_nothing_else_is() {
    let shop = Shop::start();
    let proxy = proxy(&[&shop.address()])
        .set(
            "cache.rules",
            r#"[{ path = "/p/", seconds = 600 }, { path = "/all/", seconds = 600, ignore_cookies = true }]"#,
        )
        .start();
    let http = Http::new();
    let get = |path: &str, headers: &[(&str, &str)]| http.request("GET", &proxy.url(path), headers, b"");
    for _ in 0..10 {
        let answer = get("/p/shirt", &[]);
        assert_eq!((answer.status, answer.text().as_str()), (200, "the shop says 200\n"));
    }
    assert_eq!(shop.requests_to("/p/shirt").len(), 1);
    assert!(get("/p/shirt", &[]).header("age").is_some());
    for _ in 0..3 {
        get("/p/shirt", &[("cookie", "session=1")]);
        get("/p/shirt", &[("authorization", "Bearer x")]);
        http.request("POST", &proxy.url("/p/shirt"), &[], b"x");
        get("/cart", &[]);
    }
    assert_eq!((shop.requests_to("/p/shirt").len(), shop.requests_to("/cart").len()), (10, 3));
    for cookie in ["session=1", "session=2"] {
        get("/all/shirt", &[("cookie", cookie)]);
    }
    let seen = shop.requests_to("/all/shirt");
    assert!(seen.len() == 1 && !seen[0].headers.contains_key("cookie"), "{seen:?}");
    shop.behave(Manner::Status(500));
    for _ in 0..2 {
        assert_eq!(get("/p/broken", &[]).status, 500);
    }
    assert_eq!(shop.requests_to("/p/broken").len(), 2, "errors are not kept");
    assert_eq!(get("/p/shirt", &[]).status, 200, "what was kept is there while the shop is not well");
    let metrics = proxy.metrics();
    assert!(metrics.contains("flashsale_cache_total{outcome=\"miss\"} 4"), "{metrics}");
}

#[test]
fn a_page_that_breaks_off_is_not_kept() {
    let shop = Shop::start();
    let broken = server(|mut stream| {
        read_head(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this");
    });
    let mut proxy = proxy(&[&broken]).set("cache.rules", r#"[{ path = "/", seconds = 600 }]"#).start();
    assert!(Http::new().try_request("GET", &proxy.url("/page"), &[], b"").is_err());
    proxy.rewrite(|builder| builder.upstream(&shop.address()));
    assert_eq!(Http::new().request("POST", &proxy.admin_url("/api/reload"), &[], b"").status, 200);
    assert_eq!(Http::new().get(&proxy.url("/page")).text(), "the shop says 200\n");
}

/// Takes connections and answers each request after `delay`; how many connections there were.
fn counting_shop(delay: Duration) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address").to_string();
    let taken = Arc::new(AtomicUsize::new(0));
    let count = taken.clone();
    // Ends with the test's process: nothing tells it to.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            count.fetch_add(1, Ordering::Relaxed);
            std::thread::spawn(move || {
                while !read_head(&mut stream).is_empty() {
                    std::thread::sleep(delay);
                    if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, taken)
}

/// More requests at a time than the HTTP library by itself keeps connections for.
#[test]
fn a_crowd_at_the_shop_opens_its_connections_once() {
    const CROWD: usize = 400;
    let (shop, taken) = counting_shop(Duration::from_millis(300));
    let proxy =
        proxy(&[&shop]).set("shop.health_interval_ms", "600000").set("listen.connections_per_address", "0").start();
    let mut clients: Vec<TcpStream> =
        (0..CROWD).map(|_| TcpStream::connect(&proxy.addresses().public).expect("the proxy listens")).collect();
    let mut round = || {
        for client in &mut clients {
            client.write_all(b"GET /page HTTP/1.1\r\nHost: x\r\n\r\n").expect("written");
        }
        for client in &mut clients {
            let answer = read_head(client);
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        }
        taken.load(Ordering::Relaxed)
    };
    let rounds = [round(), round(), round()];
    assert!(rounds[0] > CROWD / 2, "not many at a time: {rounds:?}");
    assert!(rounds[2] < CROWD + 40, "more connections than requests at a time: {rounds:?}");
}
