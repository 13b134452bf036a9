//! No request reaches the shop differently than the proxy has parsed it.
//!
//! The shop writes down every byte. A reader that takes nothing ambiguous must find in them exactly the requests
//! that stand in the proxy's log, each with a body that the client sent as its body.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flashsale_tests::{Proxy, wait_until};

mod corpus;
mod strict;

use strict::{Next, Seen};

const PATIENCE: Duration = Duration::from_secs(30);
/// How long nothing must come before a connection counts as done.
const SILENCE: Duration = Duration::from_millis(500);
/// Tricks tried at the same time.
const CLIENTS: usize = 16;

/// The bytes of one connection.
type Record = Arc<Mutex<Vec<u8>>>;

/// A shop that answers 200 to whatever is unmistakable and writes all down.
struct RecordingShop {
    address: String,
    connections: Arc<Mutex<Vec<Record>>>,
}

impl RecordingShop {
    fn start() -> RecordingShop {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let connections = Arc::new(Mutex::new(Vec::new()));
        std::thread::spawn({
            let connections = Arc::clone(&connections);
            move || {
                for stream in listener.incoming().flatten() {
                    let record = Record::default();
                    connections.lock().expect("no panic").push(Arc::clone(&record));
                    std::thread::spawn(move || answer_all(stream, &record));
                }
            }
        });
        RecordingShop { address, connections }
    }

    /// All that has come, by connection.
    fn records(&self) -> Vec<Vec<u8>> {
        let connections = self.connections.lock().expect("no panic");
        connections.iter().map(|record| record.lock().expect("no panic").clone()).collect()
    }
}

fn answer_all(mut stream: TcpStream, record: &Mutex<Vec<u8>>) {
    let mut answered = 0;
    let mut chunk = [0; 4096];
    loop {
        let unanswered = record.lock().expect("no panic")[answered..].to_vec();
        match strict::next(&unanswered) {
            Next::Request(_, length) => {
                answered += length;
                if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").is_err() {
                    return;
                }
                continue;
            }
            Next::Incomplete(_) => {}
            Next::Ambiguous(_) => return,
        }
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => return,
            Ok(length) => record.lock().expect("no panic").extend_from_slice(&chunk[..length]),
        }
    }
}

/// Sends the bytes and reads until the proxy closes or falls silent.
fn send(address: &str, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).expect("the proxy listens");
    stream.set_read_timeout(Some(SILENCE)).expect("a timeout");
    // The proxy may close before all is sent.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// The requests in the shop's records, and those of which only a part came.
///
/// # Panics
/// If anything else is there.
fn seen_by(shop: &RecordingShop) -> (Vec<Seen>, Vec<Seen>) {
    let (mut whole, mut parts, mut unclear) = (Vec::new(), Vec::new(), Vec::new());
    for record in shop.records() {
        let mut rest = &record[..];
        while !rest.is_empty() {
            match strict::next(rest) {
                Next::Request(seen, length) => {
                    whole.push(seen);
                    rest = &rest[length..];
                }
                Next::Incomplete(Some(seen)) => {
                    parts.push(seen);
                    break;
                }
                Next::Incomplete(None) => {
                    unclear.push(format!("a piece of a head: {}", rest.escape_ascii()));
                    break;
                }
                Next::Ambiguous(what) => {
                    unclear.push(format!("{what}\nin: {}", rest.escape_ascii()));
                    break;
                }
            }
        }
    }
    assert!(unclear.is_empty(), "{}", unclear.join("\n"));
    (whole, parts)
}

type Counts = BTreeMap<(String, String), usize>;

/// How often each method and path stands in `requests`.
fn counted<'a>(requests: impl Iterator<Item = &'a Seen>) -> Counts {
    let mut counts = Counts::new();
    for seen in requests {
        let path = seen.target.split('?').next().unwrap_or_default();
        *counts.entry((seen.method.clone(), path.to_owned())).or_insert(0) += 1;
    }
    counts
}

/// The requests that the proxy meant for the shop: all, and those the shop answered.
fn logged(proxy: &Proxy) -> (Counts, Counts) {
    let (mut meant, mut answered) = (Counts::new(), Counts::new());
    for line in proxy.log().lines() {
        let Ok(line) = serde_json::from_str::<serde_json::Value>(line) else { continue };
        if line.get("upstream").is_none() {
            continue;
        }
        let word = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
        let request = (word("method"), word("path"));
        *meant.entry(request.clone()).or_insert(0) += 1;
        if line["status"] == 200 {
            *answered.entry(request).or_insert(0) += 1;
        }
    }
    (meant, answered)
}

/// Whether every request of `few` stands in `many` as often, or more often.
fn within(few: &Counts, many: &Counts) -> bool {
    few.iter().all(|(request, count)| many.get(request).is_some_and(|other| other >= count))
}

#[test]
fn no_trick_reaches_the_shop_differently_than_parsed() {
    let shop = RecordingShop::start();
    let mut proxy = Proxy::builder()
        .set("redis.url", "\"redis://127.0.0.1:1\"")
        .set("access_log.sample", "1.0")
        // Health checks only connect; one at the start is enough here.
        .set("shop.health_interval_ms", "600000")
        .upstream(&shop.address)
        .start();
    let requests: Vec<(usize, Vec<u8>)> = corpus::requests().into_iter().enumerate().collect();
    assert!(requests.len() > 500, "{} tricks", requests.len());
    let address = proxy.addresses().public.clone();
    std::thread::scope(|scope| {
        for share in requests.chunks(requests.len().div_ceil(CLIENTS)) {
            let address = &address;
            scope.spawn(move || {
                for (number, request) in share {
                    let path = format!("/c{number}");
                    let request = replace(request, path.as_bytes());
                    let answer = send(address, &request);
                    let answers = answer.matches("HTTP/1.1 ").count() - answer.matches("HTTP/1.1 100").count();
                    assert!(answers <= 1, "two answers to {}: {answer}", request.escape_ascii());
                }
            });
        }
    });
    assert!(proxy.is_alive());

    // Some are refused with a server already chosen, or broken off: they need not have reached it.
    wait_until("what the shop has seen is what the log says", PATIENCE, || {
        let (whole, parts) = seen_by(&shop);
        let (meant, answered) = logged(&proxy);
        within(&counted(whole.iter().chain(&parts)), &meant) && within(&answered, &counted(whole.iter()))
    });
    let (whole, parts) = seen_by(&shop);
    assert!(whole.len() > 50, "{} requests came through: the corpus has some that are right", whole.len());
    for request in whole.iter().chain(&parts) {
        let text = format!("{request:?}");
        assert!(!request.target.contains("smuggled"), "{text}");
        let hosts: Vec<_> = request.headers.iter().filter(|(name, _)| name == "host").collect();
        assert!(hosts.len() == 1 && hosts[0].1 != "evil", "{text}");
        let forwarded: Vec<_> = request.headers.iter().filter(|(name, _)| name == "x-forwarded-for").collect();
        assert!(forwarded.len() == 1 && forwarded[0].1 == "127.0.0.1", "{text}");
    }
}

/// `@` becomes the path of this trick.
fn replace(request: &[u8], path: &[u8]) -> Vec<u8> {
    let parts: Vec<&[u8]> = request.split(|byte| *byte == b'@').collect();
    parts.join(path)
}

#[test]
fn a_body_that_lies_about_its_length_is_never_taken_for_whole() {
    let shop = RecordingShop::start();
    let proxy = Proxy::builder().set("redis.url", "\"redis://127.0.0.1:1\"").upstream(&shop.address).start();
    for _ in 0..5 {
        let mut stream = TcpStream::connect(&proxy.addresses().public).expect("the proxy listens");
        stream.write_all(b"POST /short HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nonly this").expect("written");
        wait_until("the shop has the head", PATIENCE, || !seen_by(&shop).1.is_empty());
        drop(stream);
    }
    let answer =
        send(&proxy.addresses().public, b"POST /long HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhim and more");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let (whole, _) = seen_by(&shop);
    let bodies: Vec<_> = whole.iter().map(|seen| (seen.target.as_str(), &seen.body[..])).collect();
    assert_eq!(bodies, [("/long", &b"hi"[..])]);
}
