//! Clients that leave, names of any bytes, and what stands behind the proxy talking nonsense.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flashsale_tests::http::Http;
use flashsale_tests::sale::{assert_audit_is_clean, stock};
use flashsale_tests::shop::Shop;
use flashsale_tests::{Proxy, ProxyBuilder, RedisServer, wait_until};

const PATIENCE: Duration = Duration::from_secs(20);

fn redis_with_sale() -> RedisServer {
    RedisServer::with_sale("FLASH.CREATE sale:s ITEMS shirt 1000")
}

/// A proxy that waits long enough for its Redis on the busiest machine.
fn patient(redis: &RedisServer) -> ProxyBuilder {
    Proxy::builder().redis(redis).set("redis.timeout_ms", "15000")
}

/// Every byte as `%XX`.
fn encoded(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("%{byte:02X}")).collect()
}

#[test]
fn names_of_any_bytes_mean_what_they_say() {
    let redis = redis_with_sale();
    let mut client = redis.client();
    let proxy = patient(&redis).start();
    let http = Http::new();
    let bearer = proxy.bearer("ann");
    let headers = [("authorization", bearer.as_str())];
    for name in [&b"a/b"[..], b"\0", b"\xff\xfe", b"..", b"%2F", b" ", b"?x=y#z", b"\r\nX: y", b"{tag}", &[b'n'; 120]] {
        let key = [b"sale:", name].concat();
        let sku = [name, b"+sku"].concat();
        let made = client.call(&[b"FLASH.CREATE", &key[..], b"ITEMS", &sku[..], b"5"]);
        assert_eq!(made.status(), "OK", "{}", name.escape_ascii());
        // The id is made by the proxy: what counts here is the way there.
        let path = format!("/flash/{}/holds?sku={}", encoded(name), encoded(&sku));
        let held = http.request("POST", &proxy.url(&path), &headers, b"");
        assert_eq!(held.status, 201, "{}: {}", name.escape_ascii(), held.text());
        let info = client.call(&[b"FLASH.INFO", &key[..]]);
        assert_eq!(info.get("holds").integer(), 1, "{}", name.escape_ascii());

        let id = [b"id:", name].concat();
        let reserve = [&b"FLASH.RESERVE"[..], &key, &id, b"ann", b"ITEMS", &sku, b"1"];
        assert_eq!(client.call(&reserve).status(), "RESERVED");
        let hold = proxy.url(&format!("/flash/{}/holds/{}", encoded(name), encoded(&id)));
        let shown = http.request("GET", &hold, &headers, b"");
        assert_eq!((shown.status, shown.json()["state"].as_str()), (200, Some("held")), "{}", shown.text());
        assert_eq!(http.request("DELETE", &hold, &headers, b"").status, 204);
        assert_eq!(http.request("GET", &hold, &headers, b"").json()["state"], "released");
    }
    let long = format!("/flash/s/holds/{}", encoded(&[b'x'; 129]));
    assert!(matches!(http.request("GET", &proxy.url(&long), &headers, b"").status, 400 | 404));
}

#[test]
fn bodies_that_try_the_parser() {
    let redis = redis_with_sale();
    let mut proxy = patient(&redis).start();
    let http = Http::new();
    let bearer = proxy.bearer("ann");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let deep = |open: &str, close: &str| format!("{}{}", open.repeat(1000), close.repeat(1000)).into_bytes();
    for body in [
        deep("[", "]"),
        deep("{\"items\":", "}"),
        deep("{\"items\":[", "]}"),
        br#"{"items":[{"sku":"shirt","qty":1}],"items":[]}"#.to_vec(),
        br#"{"items":[{"sku":"shirt","qty":1,"qty":2}]}"#.to_vec(),
        b"{\"items\":[{\"sku\":\"\xff\xfe\",\"qty\":1}]}".to_vec(),
        br#"{"items":[{"sku":"\ud800","qty":1}]}"#.to_vec(),
        br#"{"items":[{"sku":"shirt","qty":1e400}]}"#.to_vec(),
        br#"{"items":[{"sku":"shirt","qty":1}]} trailing"#.to_vec(),
        format!("{{\"items\":[{}]}}", vec!["{\"sku\":\"shirt\",\"qty\":1}"; 65].join(",")).into_bytes(),
        format!("{{\"items\":[{{\"sku\":\"{}\",\"qty\":1}}]}}", "s".repeat(129)).into_bytes(),
        vec![0; 1000],
    ] {
        let answer = http.request("POST", &proxy.url("/flash/s/holds"), &headers, &body);
        let shown = body[..body.len().min(60)].escape_ascii().to_string();
        assert_eq!((answer.status, answer.problem().as_str()), (400, "bad-request"), "{shown}: {}", answer.text());
    }
    assert!(proxy.is_alive());
    assert_eq!(stock(&mut redis.client(), "sale:s", "shirt").available, 1000);
}

#[test]
fn who_leaves_in_mid_request_is_told_when_it_asks_again() {
    let redis = redis_with_sale();
    let mut proxy = patient(&redis).start();
    let http = Http::new();
    let bearer = proxy.bearer("ann");
    let body = r#"{"items":[{"sku":"shirt","qty":1}]}"#;
    for number in 0..40 {
        let mut stream = TcpStream::connect(&proxy.addresses().public).expect("the proxy listens");
        let head = format!(
            "POST /flash/s/holds HTTP/1.1\r\nHost: x\r\nAuthorization: {bearer}\r\nIdempotency-Key: h{number}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        // Some say all and go, some half, some shut only their half of the connection.
        let said = if number % 4 == 0 { &body[..10] } else { body };
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(said.as_bytes())).expect("written");
        if number % 4 == 1 {
            stream.shutdown(Shutdown::Write).expect("half closed");
        }
        drop(stream);
    }
    for number in 0..40 {
        let id = format!("h{number}");
        let headers =
            [("authorization", bearer.as_str()), ("idempotency-key", &id), ("content-type", "application/json")];
        let answer = http.request("POST", &proxy.url("/flash/s/holds"), &headers, body.as_bytes());
        assert!(matches!(answer.status, 200 | 201), "{number}: {} {}", answer.status, answer.text());
        assert_eq!(answer.json()["hold"], id.as_str());
    }
    assert!(proxy.is_alive());
    assert_eq!(stock(&mut redis.client(), "sale:s", "shirt").held, 40, "each was carried out once");
    assert_audit_is_clean(&mut redis.client(), "sale:s");
    wait_until("nothing of them is left", PATIENCE, || proxy.metrics().contains("flashsale_requests_in_flight 0"));
}

/// A server that does `talk` with every connection.
fn server(talk: impl Fn(TcpStream) + Send + Clone + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let talk = talk.clone();
            std::thread::spawn(move || talk(stream));
        }
    });
    address
}

#[test]
fn a_redis_that_talks_nonsense_is_no_harm() {
    let deep = b"*1\r\n".repeat(20_000);
    let many = b"*1000000000\r\n".to_vec();
    let says = Arc::new(Mutex::new(Vec::new()));
    let redis = server({
        let says = Arc::clone(&says);
        move |mut stream| {
            let mut chunk = [0; 4096];
            while stream.read(&mut chunk).is_ok_and(|length| length > 0) {
                let said = says.lock().expect("no panic").clone();
                if stream.write_all(&said).is_err() {
                    return;
                }
            }
        }
    });
    let shop = Shop::start();
    let mut proxy = Proxy::builder()
        .set("redis.url", &format!("\"redis://{redis}\""))
        .set("redis.timeout_ms", "200")
        .upstream(&shop.address())
        .start();
    let http = Http::new();
    for nonsense in [
        &b"+OK\r\n"[..],
        b":1\r\n",
        b"$-1\r\n",
        b"*0\r\n",
        b"*2\r\n$8\r\nRESERVED\r\n:1\r\n",
        b"-ERR no\r\n",
        b"-LOADING Redis is loading\r\n",
        b"-MOVED 1 127.0.0.1:1\r\n",
        b"$99999999999\r\nx",
        b"$5\r\nhel",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\xff\xfe\0\0\r\n",
        &deep,
        &many,
    ] {
        *says.lock().expect("no panic") = nonsense.to_vec();
        let shown = nonsense[..nonsense.len().min(40)].escape_ascii().to_string();
        for path in ["/flash/s/holds?sku=shirt", "/flash/s/orders?sku=shirt"] {
            let headers = [("authorization", &*proxy.bearer("ann")), ("idempotency-key", "h1")];
            let answer = http.request("POST", &proxy.url(path), &headers, b"");
            let refused = answer.status >= 500 || matches!(answer.status, 202 | 404);
            assert!(refused, "{shown}: {} {}", answer.status, answer.text());
        }
        assert_eq!(http.get(&proxy.url("/page")).status, 200, "{shown}: the shop needs no Redis");
        assert!(proxy.is_alive(), "{shown}");
    }
}

#[test]
fn a_shop_that_talks_nonsense_is_said_to_be_down() {
    for nonsense in [
        &b"\0\0\0\0"[..],
        b"SSH-2.0-OpenSSH_9\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX\r\n\r\n",
        b"HTTP/9.9 200 OK\r\n\r\n",
        b"HTTP/1.1 99999 OK\r\n\r\n",
        b"",
    ] {
        let said = nonsense.to_vec();
        let shop = server(move |mut stream| {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(&said);
        });
        let mut proxy = Proxy::builder().set("redis.url", "\"redis://127.0.0.1:1\"").upstream(&shop).start();
        let answer = Http::new().get(&proxy.url("/page"));
        let shown = nonsense.escape_ascii().to_string();
        assert!(matches!(answer.status, 500..=504), "{shown}: {} {}", answer.status, answer.text());
        assert!(proxy.is_alive(), "{shown}");
    }
}

#[test]
fn an_answer_that_breaks_off_is_broken_for_the_client_too() {
    for said in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this"[..],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nonly this",
    ] {
        let said = said.to_vec();
        let shop = server(move |mut stream| {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(&said);
        });
        let proxy = Proxy::builder().set("redis.url", "\"redis://127.0.0.1:1\"").upstream(&shop).start();
        let whole = Http::new().try_request("GET", &proxy.url("/page"), &[], b"");
        assert!(whole.is_err(), "half an answer was passed off as a whole one: {whole:?}");
    }
}
