//! HTTPS and HTTP/2 in front, and TLS to the shop.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use flashsale_tests::http::Http;
use flashsale_tests::shop::Shop;
use flashsale_tests::tls::{Certificate, TlsClient};
use flashsale_tests::{Proxy, ProxyBuilder, free_port, wait_until};

const PATIENCE: Duration = Duration::from_secs(30);

/// A proxy with TLS, and where that listens.
fn proxy(certificate: &Certificate, shop: &Shop) -> (ProxyBuilder, String) {
    let address = format!("127.0.0.1:{}", free_port());
    let builder = Proxy::builder()
        .set("redis.url", "\"redis://127.0.0.1:1\"")
        .upstream(&shop.address())
        .file("tls.crt", &certificate.pem)
        .file("tls.key", &certificate.key_pem)
        .set("listen.tls.address", &format!("{address:?}"))
        .set("listen.tls.certificate_file", "\"tls.crt\"")
        .set("listen.tls.key_file", "\"tls.key\"");
    (builder, address)
}

const GET: &[u8] = b"GET /page HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n";

fn ask(stream: &mut TlsClient) -> String {
    stream.write_all(GET).expect("written");
    let mut answer = Vec::new();
    // The end may come without TLS' own farewell.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn https_is_served_beside_http_and_the_shop_is_told() {
    let certificate = Certificate::new("shop.example");
    let shop = Shop::start();
    let (builder, address) = proxy(&certificate, &shop);
    let proxy = builder.set("listen.header_timeout_ms", "1000").start();
    let mut stream = certificate.connect(&address, "shop.example", &[b"http/1.1"]).expect("a handshake");
    assert!(ask(&mut stream).starts_with("HTTP/1.1 200"));
    assert_eq!(shop.requests_to("/page")[0].headers["x-forwarded-proto"], "https");
    assert_eq!(Http::new().get(&proxy.url("/plain")).status, 200);
    assert_eq!(shop.requests_to("/plain")[0].headers["x-forwarded-proto"], "http");

    // Who does not even shake hands is cut like who dribbles a header.
    let mut silent = TcpStream::connect(&address).expect("it listens");
    silent.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let began = Instant::now();
    let _ = silent.read(&mut [0]);
    assert!(began.elapsed() < PATIENCE);
    let mut plain = TcpStream::connect(&address).expect("it listens");
    plain.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    plain.write_all(GET).expect("written");
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP/1.1 2"), "plain HTTP on the TLS port");
}

/// A frame of HTTP/2 (RFC 9113, section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = payload.len() as u32;
    let mut bytes = length.to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END: u8 = 0x1 | 0x4;

/// A client's first words, and the header block of `GET /`.
fn hello() -> Vec<u8> {
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(SETTINGS, 0, 0, &[])].concat()
}

fn get_root() -> Vec<u8> {
    // :method GET, :scheme https, :path /, :authority shop.example
    [&[0x82, 0x87, 0x84, 0x41, 12][..], b"shop.example"].concat()
}

/// The next frame: kind, stream, payload.
fn read_frame(stream: &mut TlsClient) -> Option<(u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).ok()?;
    let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
    stream.read_exact(&mut payload).ok()?;
    Some((head[3], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload))
}

#[test]
fn http_2_is_spoken_with_those_who_ask_for_it() {
    let certificate = Certificate::new("shop.example");
    let shop = Shop::start();
    let (builder, address) = proxy(&certificate, &shop);
    let _proxy = builder.start();
    let mut stream = certificate.connect(&address, "shop.example", &[b"h2", b"http/1.1"]).expect("a handshake");
    assert_eq!(stream.conn.alpn_protocol(), Some(&b"h2"[..]));
    let ask = [hello(), frame(HEADERS, END, 1, &get_root()), frame(HEADERS, END, 3, &get_root())].concat();
    stream.write_all(&ask).expect("written");
    let (mut statuses, mut body) = (Vec::new(), Vec::new());
    while statuses.len() < 2 || body.len() < 2 * "the shop says 200\n".len() {
        match read_frame(&mut stream).expect("answers") {
            // 0x88 is `:status 200` in HPACK's static table.
            (HEADERS, id, payload) => statuses.push((id, payload[0])),
            (DATA, _, payload) => body.extend(payload),
            _ => {}
        }
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [(1, 0x88), (3, 0x88)]);
    let seen = shop.requests_to("/");
    assert_eq!((seen.len(), seen[0].headers["host"].as_str()), (2, "shop.example"));
    assert_eq!(seen[0].headers["x-forwarded-proto"], "https");
}

#[test]
fn a_client_that_resets_all_it_asks_for_is_sent_away() {
    let certificate = Certificate::new("shop.example");
    let shop = Shop::start();
    let (builder, address) = proxy(&certificate, &shop);
    let mut proxy = builder.start();
    let mut stream = certificate.connect(&address, "shop.example", &[b"h2"]).expect("a handshake");
    stream.write_all(&hello()).expect("written");
    let began = Instant::now();
    let mut id = 1;
    while began.elapsed() < PATIENCE {
        let mut burst = Vec::new();
        for _ in 0..100 {
            burst.extend(frame(HEADERS, END, id, &get_root()));
            burst.extend(frame(RST_STREAM, 0, id, &8u32.to_be_bytes()));
            id += 2;
        }
        if stream.write_all(&burst).is_err() {
            break;
        }
    }
    assert!(began.elapsed() < PATIENCE, "{id} streams were opened and reset, and the connection is still there");
    let mut last = None;
    while let Some((kind, _, payload)) = read_frame(&mut stream) {
        last = (kind == GOAWAY).then_some(payload).or(last);
    }
    // The farewell may be lost with the connection; if it came, it says ENHANCE_YOUR_CALM.
    assert!(last.is_none_or(|payload| payload[4..8] == 11u32.to_be_bytes()));
    assert!(proxy.is_alive());
    assert_eq!(Http::new().get(&proxy.url("/page")).status, 200);
}

#[test]
fn a_certificate_that_does_not_fit_is_said_before_the_start() {
    let certificate = Certificate::new("shop.example");
    let dir = tempfile::tempdir().expect("a temporary folder");
    for (name, content) in [("tls.crt", &certificate.pem), ("tls.key", &Certificate::new("other.example").key_pem)] {
        std::fs::write(dir.path().join(name), content).expect("written");
    }
    let config = "[listen]\npublic = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n[listen.tls]\naddress = \"127.0.0.1:0\"\n\
                  certificate_file = \"tls.crt\"\nkey_file = \"tls.key\"\n";
    std::fs::write(dir.path().join("edge.toml"), config).expect("written");
    let output = std::process::Command::new(flashsale_tests::artifacts::flashsale())
        .current_dir(dir.path())
        .args(["serve", "--config", "edge.toml"])
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("key does not belong"), "{said}");
}

#[test]
fn connections_are_given_back_when_they_end() {
    let certificate = Certificate::new("shop.example");
    let shop = Shop::start();
    let (builder, address) = proxy(&certificate, &shop);
    let proxy = builder.set("listen.connections_per_address", "3").start();
    for _ in 0..20 {
        wait_until("a handshake", PATIENCE, || {
            certificate
                .connect(&address, "shop.example", &[b"http/1.1"])
                .is_ok_and(|mut stream| ask(&mut stream).starts_with("HTTP/1.1 200"))
        });
    }
    assert_eq!(Http::new().get(&proxy.url("/page")).status, 200);
}

/// A shop that answers by TLS with the given certificate.
fn tls_shop(certificate: &Certificate) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    let certificate = certificate.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let certificate = certificate.clone();
            std::thread::spawn(move || {
                let mut stream = certificate.accept(stream);
                let mut chunk = [0; 4096];
                while stream.read(&mut chunk).is_ok_and(|length| length > 0) {
                    let named = stream.conn.server_name().unwrap_or_default().to_owned();
                    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{named}", named.len());
                    if stream.write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[test]
fn the_shops_own_certificate_is_asked_for_and_checked() {
    let certificate = Certificate::new("inner.example");
    let shop = tls_shop(&certificate);
    let to_shop = |name: &str| {
        Proxy::builder()
            .set("redis.url", "\"redis://127.0.0.1:1\"")
            .upstream(&shop)
            .set("shop.tls", "true")
            .set("shop.sni", &format!("{name:?}"))
    };
    let with_ca = |builder: ProxyBuilder| builder.file("ca.pem", &certificate.pem).set("shop.ca_file", "\"ca.pem\"");
    let http = Http::new();
    let trusted = with_ca(to_shop("inner.example")).start();
    assert_eq!(http.get(&trusted.url("/page")).text(), "inner.example");
    let unknown = to_shop("inner.example").start();
    assert_eq!(http.get(&unknown.url("/page")).problem(), "shop-down", "nobody vouches for it");
    let other = with_ca(to_shop("other.example")).start();
    assert_eq!(http.get(&other.url("/page")).problem(), "shop-down", "it is another's");
}
