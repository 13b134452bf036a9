//! Whatever is sent to a sale route, the answer is a clear refusal, nothing changes, and the proxy lives.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use flashsale_tests::http::{Answer, Http, read_to_end};
use flashsale_tests::sale::stock;
use flashsale_tests::token::{claims, hs256, unix_seconds};
use flashsale_tests::{Proxy, RedisServer, TOKEN_SECRET};
use serde_json::json;

fn scene() -> (RedisServer, Proxy, Http) {
    let redis = RedisServer::with_sale("FLASH.CREATE sale:s ITEMS shirt 100");
    let proxy = Proxy::builder().redis(&redis).set("tokens.audience", "[\"shop\"]").start();
    (redis, proxy, Http::new())
}

fn token(buyer: &str) -> String {
    let mut claims = claims(buyer);
    claims["aud"] = json!("shop");
    format!("Bearer {}", hs256(&claims, TOKEN_SECRET.as_bytes()))
}

#[track_caller]
fn assert_says(answer: &Answer, status: u16, word: &str, detail: &str) {
    assert_eq!((answer.status, answer.problem().as_str()), (status, word), "{}", answer.text());
    assert!(answer.json()["detail"].as_str().unwrap_or_default().contains(detail), "{}", answer.text());
}

#[test]
fn bodies_that_say_nothing_sensible() {
    let (redis, proxy, http) = scene();
    let bearer = token("ann");
    let post = |body: &[u8]| {
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        http.request("POST", &proxy.url("/flash/s/holds"), &headers, body)
    };
    for (body, detail) in [
        (&b"{"[..], "EOF"),
        (b"not json", "expected"),
        (b"\xff\xfe", "expected"),
        (b"null", "wrong"),
        (br#"{"items":[]}"#, "empty"),
        (br#"{"items":[{"sku":"shirt"}]}"#, "qty"),
        (br#"{"items":[{"sku":"shirt","qty":"1"}]}"#, "whole number"),
        (br#"{"items":[{"sku":"shirt","qty":-1}]}"#, "whole number"),
        (br#"{"items":[{"sku":"shirt","qty":0.5}]}"#, "whole number"),
        (br#"{"items":[{"sku":"shirt","qty":99999999999999999999999}]}"#, "whole number"),
        (br#"{"items":[{"sku":"shirt","qty":2147483648}]}"#, "2147483647"),
        (br#"{"items":[{"sku":"shirt","qty":1}],"buyer":"eve"}"#, "unknown field"),
    ] {
        assert_says(&post(body), 400, "bad-request", detail);
    }
    assert_says(&post("[".repeat(16_000).as_bytes()), 400, "bad-request", "wrong");
    let exact = format!(r#"{{"items":[{{"sku":"shirt","qty":1}}],"meta":"{}"}}"#, "x".repeat(16_384 - 49));
    assert!(exact.len() <= 16_384);
    assert_says(&post(&vec![b' '; 16_385]), 413, "too-large", "16384");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let both = http.request("POST", &proxy.url("/flash/s/holds?sku=shirt"), &headers, br#"{"items":[]}"#);
    assert_says(&both, 400, "bad-request", "not in both");
    let neither = http.request("POST", &proxy.url("/flash/s/holds"), &headers[..1], b"");
    assert_says(&neither, 400, "bad-request", "what is wanted");
    for query in ["sku=shirt&qty=0", "sku=shirt&qty=1e3", "sku=shirt&qty=99999999999", "sku=", "qty=1", "sku=a&sku=b"] {
        let answer = http.request("POST", &proxy.url(&format!("/flash/s/holds?{query}")), &headers[..1], b"");
        assert_says(&answer, 400, "bad-request", "`");
    }
    assert_eq!(stock(&mut redis.client(), "sale:s", "shirt").available, 100);
}

#[test]
fn tokens_of_every_broken_kind() {
    let (redis, proxy, http) = scene();
    let now = unix_seconds();
    let good = json!({"sub": "ann", "aud": "shop", "exp": now + 600});
    let with = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut claims = good.clone();
        change(&mut claims);
        hs256(&claims, TOKEN_SECRET.as_bytes())
    };
    let whole = with(&|_| {});
    let parts: Vec<&str> = whole.split('.').collect();
    // {"alg":"none","typ":"JWT"}
    let none = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0";
    for token in [
        with(&|claims| claims["exp"] = json!(now - 3600)),
        with(&|claims| claims["nbf"] = json!(now + 3600)),
        with(&|claims| claims["aud"] = json!("other")),
        with(&|claims| claims["aud"] = json!(null)),
        with(&|claims| claims["sub"] = json!("")),
        with(&|claims| claims["sub"] = json!({"a": 1})),
        with(&|claims| claims["exp"] = json!(null)),
        hs256(&good, b"another secret, which is long too"),
        format!("{none}.{}.", parts[1]),
        format!("{none}.{}.{}", parts[1], parts[2]),
        format!("{}.{}", parts[0], parts[1]),
        format!("{whole}x"),
        "x".to_owned(),
        "a.b.c".to_owned(),
        "x".repeat(9_000),
    ] {
        let header = format!("Bearer {token}");
        let headers = [("authorization", header.as_str())];
        let answer = http.request("POST", &proxy.url("/flash/s/holds?sku=shirt"), &headers, b"");
        assert_says(&answer, 401, "token", "token");
        assert!(!answer.text().contains(&token) || token.len() < 10, "the token is repeated");
    }
    assert_eq!(stock(&mut redis.client(), "sale:s", "shirt").available, 100);
    assert!(!proxy.log().contains(parts[2]), "a token stands in the log");
}

/// Sends bytes as they are and gives what comes back before the connection falls silent or closes.
fn raw(proxy: &Proxy, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(&proxy.addresses().public).expect("the proxy listens");
    stream.set_read_timeout(Some(Duration::from_millis(700))).expect("a timeout");
    stream.write_all(request).expect("it is taken");
    read_to_end(&mut stream)
}

#[test]
fn a_body_without_an_announced_length_is_cut_at_the_limit() {
    let (_redis, proxy, _) = scene();
    let bearer = token("ann");
    let head = format!(
        "POST /flash/s/holds HTTP/1.1\r\nHost: x\r\nAuthorization: {bearer}\r\nContent-Type: application/json\r\n\
         Transfer-Encoding: chunked\r\n\r\n"
    );
    let mut long = head.clone().into_bytes();
    for _ in 0..40 {
        long.extend_from_slice(format!("400\r\n{}\r\n", " ".repeat(0x400)).as_bytes());
    }
    assert!(raw(&proxy, &long).starts_with("HTTP/1.1 413"));
    let body = r#"{"items":[{"sku":"shirt","qty":1}]}"#;
    let short = format!("{head}{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    assert!(raw(&proxy, short.as_bytes()).starts_with("HTTP/1.1 201"));
}

#[test]
fn a_client_that_waits_to_be_asked_for_its_body_is_asked() {
    let (_redis, proxy, _) = scene();
    let body = r#"{"items":[{"sku":"shirt","qty":1}]}"#;
    let request = format!(
        "POST /flash/s/holds HTTP/1.1\r\nHost: x\r\nAuthorization: {}\r\nExpect: 100-continue\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        token("ann"),
        body.len()
    );
    let answer = raw(&proxy, request.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 100"), "{answer}");
    assert!(answer.contains("HTTP/1.1 201"), "{answer}");
}

#[test]
fn a_refused_request_leaves_the_connection_in_order() {
    let (_redis, proxy, _) = scene();
    // The body looks like a request: it must never be taken for one.
    let inner = "GET /flash/s HTTP/1.1\r\nHost: x\r\n\r\n";
    let refused = format!("POST /flash/s/holds HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{inner}", inner.len());
    let answer = raw(&proxy, refused.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    let mut stream = TcpStream::connect(&proxy.addresses().public).expect("the proxy listens");
    for _ in 0..3 {
        stream.write_all(refused.as_bytes()).expect("the connection is kept");
        let mut answer = [0; 2048];
        let length = stream.read(&mut answer).expect("an answer");
        assert!(answer[..length].starts_with(b"HTTP/1.1 401"));
    }
}

#[test]
fn requests_that_are_no_http_do_no_harm() {
    let (_redis, mut proxy, http) = scene();
    for request in [
        &b"\0\0\0\0\r\n\r\n"[..],
        b"GET\r\n\r\n",
        b"GET /flash/s HTTP/9.9\r\n\r\n",
        b"GET /flash/s HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"POST /flash/s/holds HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST /flash/s/holds HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"POST /flash/s/holds HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /flash/%zz%/holds/%f HTTP/1.1\r\nHost: x\r\n\r\n",
    ] {
        let answer = raw(&proxy, request);
        assert!(!answer.starts_with("HTTP/1.1 2"), "{}: {answer}", request.escape_ascii());
    }
    assert!(proxy.is_alive());
    assert_eq!(http.get(&proxy.url("/flash/s")).status, 200);
}

#[test]
fn addresses_and_methods_that_are_not_there() {
    let (_redis, proxy, http) = scene();
    for (method, path, status, word) in [
        ("GET", "/flash/s/", 404, "no-route"),
        ("GET", "/flash/s/tickets", 404, "no-route"),
        ("PUT", "/flash/s", 405, "method"),
        ("GET", "/flash/s/orders", 405, "method"),
        ("GET", "/a-page", 404, "no-route"),
    ] {
        let answer = http.request(method, &proxy.url(path), &[], b"");
        assert_says(&answer, status, word, "");
    }
    let answer = http.request("PUT", &proxy.url("/flash/s/holds/h"), &[], b"");
    assert_eq!(answer.header("allow"), Some("GET, DELETE"));
}

#[test]
fn a_body_that_dribbles_in_is_cut_as_a_whole() {
    let redis = RedisServer::with_sale("FLASH.CREATE sale:s ITEMS shirt 10");
    let proxy = Proxy::builder().redis(&redis).set("listen.body_timeout_ms", "700").start();
    let mut stream = TcpStream::connect(&proxy.addresses().public).expect("the proxy listens");
    stream.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
    write!(
        stream,
        "POST /flash/s/holds HTTP/1.1\r\nHost: x\r\nAuthorization: {}\r\nContent-Type: application/json\r\n\
         Content-Length: 1000\r\n\r\n",
        token("ann")
    )
    .expect("it is taken");
    let began = Instant::now();
    let mut answer = String::new();
    while answer.is_empty() && began.elapsed() < Duration::from_secs(30) {
        let _gone = stream.write_all(b" ");
        answer = read_to_end(&mut stream);
    }
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("urn:flashsale:problem:slow-body"), "{answer}");
    assert_eq!(redis.client().line("FLASH.INFO sale:s").get("holds").integer(), 0);
}
