//! The first stage of the funnel: no client holds more of the proxy than its share, however slowly it speaks.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use flashsale_tests::http::{Http, read_to_end};
use flashsale_tests::shop::Shop;
use flashsale_tests::{Proxy, ProxyBuilder, RedisServer, Server, TOKEN_SECRET, token, wait_until};

const PATIENCE: Duration = Duration::from_secs(30);

fn proxy(shop: &Shop) -> ProxyBuilder {
    Proxy::builder().set("redis.url", "\"redis://127.0.0.1:1\"").upstream(&shop.address())
}

fn connect(proxy: &Proxy) -> TcpStream {
    let stream = TcpStream::connect(&proxy.addresses().public).expect("the proxy listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream
}

/// One answer with a `Content-Length`.
fn read_answer(stream: &mut TcpStream) -> String {
    let mut answer = String::new();
    let mut byte = [0];
    while !answer.ends_with("\r\n\r\n") {
        if stream.read(&mut byte).expect("an answer") == 0 {
            return answer;
        }
        answer.push(char::from(byte[0]));
    }
    let length = answer
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ").map(str::to_owned))
        .map_or(0, |length| length.parse().expect("a number"));
    let mut body = vec![0; length];
    stream.read_exact(&mut body).expect("the body");
    answer + &String::from_utf8_lossy(&body)
}

fn refused(proxy: &Proxy, reason: &str) -> u64 {
    proxy.metric("flashsale_connections_refused_total", &[reason]) as u64
}

/// Sends a byte at a time until the other side has had enough; how long that took.
fn dribble(stream: &mut TcpStream) -> Duration {
    let began = Instant::now();
    stream.set_nonblocking(true).expect("a mode");
    let mut byte = [0];
    while began.elapsed() < PATIENCE {
        let gone = match stream.peek(&mut byte) {
            Ok(_) => true,
            Err(error) => error.kind() != ErrorKind::WouldBlock,
        };
        if gone || stream.write(b"x").is_err_and(|error| error.kind() != ErrorKind::WouldBlock) {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    stream.set_nonblocking(false).expect("a mode");
    began.elapsed()
}

#[test]
fn a_header_that_dribbles_in_is_cut_as_a_whole() {
    let shop = Shop::start();
    let proxy = proxy(&shop).set("listen.header_timeout_ms", "1000").start();

    let mut first = connect(&proxy);
    first.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ").expect("written");
    assert!(dribble(&mut first) < PATIENCE, "each byte bought more time");
    let answer = read_to_end(&mut first);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");

    let mut kept = connect(&proxy);
    kept.write_all(b"GET /kept HTTP/1.1\r\nHost: x\r\n\r\n").expect("written");
    assert!(read_answer(&mut kept).starts_with("HTTP/1.1 200"));
    kept.write_all(b"GET /kept HTTP/1.1\r\nX-Slow: ").expect("written");
    assert!(dribble(&mut kept) < PATIENCE, "a second request has no more time than the first");

    let mut silent = connect(&proxy);
    let began = Instant::now();
    read_to_end(&mut silent);
    assert!(began.elapsed() < PATIENCE, "silence counts too");
    assert_eq!(refused(&proxy, "slow-header"), 3);
    assert_eq!(shop.requests_to("/kept").len(), 1);
}

#[test]
fn who_is_idle_between_requests_is_not_slow() {
    let shop = Shop::start();
    let proxy = proxy(&shop).set("listen.header_timeout_ms", "300").start();
    let mut stream = connect(&proxy);
    for _ in 0..3 {
        stream.write_all(b"GET /page HTTP/1.1\r\nHost: x\r\n\r\n").expect("the connection is kept");
        assert!(read_answer(&mut stream).starts_with("HTTP/1.1 200"));
        std::thread::sleep(Duration::from_millis(700));
    }
    // A body has its own limits: the header's time does not end it.
    stream.write_all(b"POST /page HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n").expect("written");
    for byte in b"body" {
        std::thread::sleep(Duration::from_millis(200));
        stream.write_all(&[*byte]).expect("written");
    }
    assert!(read_answer(&mut stream).starts_with("HTTP/1.1 200"));
}

#[test]
fn who_stays_idle_is_let_go_without_a_word() {
    let shop = Shop::start();
    let proxy = proxy(&shop).set("listen.keepalive_s", "1").start();
    for path in ["/", "/flash/s"] {
        let mut stream = connect(&proxy);
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").expect("written");
        let answer = read_answer(&mut stream);
        assert!(answer.to_ascii_lowercase().contains("connection: keep-alive"), "{answer}");
        let began = Instant::now();
        assert_eq!(stream.read(&mut [0]).expect("an end, no reset"), 0);
        assert!(began.elapsed() > Duration::from_millis(500), "not at once");
    }
    assert_eq!(refused(&proxy, "slow-header"), 0);
}

#[test]
fn a_request_may_come_a_byte_at_a_time() {
    let shop = Shop::start();
    let proxy = proxy(&shop).start();
    let mut stream = connect(&proxy);
    stream.set_nodelay(true).expect("a mode");
    // Twice each: the first request of a connection is awaited in another way than the next.
    for (path, status) in [("/", 200), ("/flash/s", 503), ("/flashy", 200), ("/flash/s", 503)] {
        for byte in format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").bytes() {
            stream.write_all(&[byte]).expect("written");
        }
        let answer = read_answer(&mut stream);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {answer}");
    }
}

#[test]
fn requests_to_sales_that_come_at_once_are_answered_in_turn() {
    let shop = Shop::start();
    let proxy = proxy(&shop).start();
    let mut stream = connect(&proxy);
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    // What is read behind a request to a sale may be one to the shop.
    let all = [get("/flash/s"), get("/flash/s/holds/h"), get("/flash/no/such/route"), get("/")].concat();
    stream.write_all(all.as_bytes()).expect("written");
    for status in [503, 401, 404, 200] {
        let answer = read_answer(&mut stream);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
}

/// What an answer says, but for the time it says it at and a wait that is drawn by lot.
fn told(answer: &str) -> (String, BTreeSet<String>, String) {
    let (head, body) = answer.split_once("\r\n\r\n").expect("a whole head");
    let (status, fields) = head.split_once("\r\n").expect("fields");
    let fields = fields.lines().map(|field| {
        let (name, value) = field.split_once(": ").expect("a field");
        let name = name.to_ascii_lowercase();
        let varies = matches!(name.as_str(), "date" | "retry-after");
        if varies { name } else { format!("{name}: {value}") }
    });
    let body = match body.split_once(r#""server_time":"#) {
        Some((before, after)) => format!("{before}{}", after.trim_start_matches(|digit: char| digit.is_ascii_digit())),
        None => body.to_owned(),
    };
    (status.to_owned(), fields.collect(), body)
}

/// A part of a request that came with the one before is a part of it, also where what came since is as long as it is.
#[test]
fn a_request_that_came_in_parts_takes_nothing_of_the_next() {
    let shop = Shop::start();
    let proxy = proxy(&shop).start();
    let mut stream = connect(&proxy);
    let request = "GET /flash/s HTTP/1.1\r\nHost: x\r\n\r\n";
    let (first, rest) = request.split_at(30);
    for part in [[request, first], [rest, first], [rest, first], [rest, ""]] {
        stream.write_all(part.concat().as_bytes()).expect("written");
        let answer = read_answer(&mut stream);
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    }
}

/// The edge reads 4096 bytes at first, which may end anywhere in a header, in a body or in the next request.
#[test]
fn a_request_may_be_as_long_as_what_is_read_at_once() {
    let shop = Shop::start();
    let proxy = proxy(&shop).start();
    let mut stream = connect(&proxy);
    let request = |method: &str, path: &str, body: &str, head: usize| {
        let start = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\nX-Long: ", body.len());
        let filler = "x".repeat(head - start.len() - 4);
        format!("{start}{filler}\r\n\r\n{body}")
    };
    for head in (4000..4200).step_by(50).chain([4095, 4096, 4097, 8000, 8192, 9000]) {
        let (body, form) = ("y".repeat(150), r#"{"items":[{"sku":"S"}]}"#);
        for (method, path, body, status) in [
            ("GET", "/flash/s", "", 503),
            ("GET", "/page", "", 200),
            ("POST", "/flash/s/holds", form, 503),
            ("POST", "/cart", &body, 200),
        ] {
            stream.write_all(request(method, path, body, head).as_bytes()).expect("written");
            let answer = read_answer(&mut stream);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{method} {path} {head}: {answer}");
        }
        let cart = shop.requests_to("/cart").pop().expect("the shop has got it");
        assert_eq!(cart.body, body.as_bytes(), "{head}");
        // The first of two may end, and the second begin, on either side.
        let two = [request("GET", "/flash/s", "", head), request("GET", "/flash/s/holds", "", 100)].concat();
        stream.write_all(two.as_bytes()).expect("written");
        for status in [503, 405] {
            let answer = read_answer(&mut stream);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "two, {head}: {answer}");
        }
    }
}

#[test]
fn answers_are_the_same_whichever_way_they_are_written() {
    let redis = RedisServer::builder(Server::Redis70).module().start();
    let mut client = redis.client();
    client.ok(&["FLASH.CREATE", "sale:s", "HOLD", "600000", "ITEMS", "shirt", "5"]);
    client.ok(&["FLASH.RESERVE", "sale:s", "h1", "ann", "ITEMS", "shirt", "1"]);
    client.ok(&["FLASH.CREATE", "sale:gone", "ITEMS", "shirt", "0"]);
    let proxy = Proxy::builder().redis(&redis).set("rates.mode", "\"off\"").start();
    let bearer = format!("Authorization: {}\r\n", token::bearer("ann", TOKEN_SECRET.as_bytes()));
    let id = "Idempotency-Key: h1\r\n";
    wait_until("both sales are known", PATIENCE, || {
        let http = Http::new();
        ["s", "gone"].iter().all(|sale| http.get(&proxy.url(&format!("/flash/{sale}"))).status == 200)
    });
    for (request, fields, status) in [
        ("GET /flash/s", String::new(), 200),
        ("GET /flash/nosuch", String::new(), 404),
        ("PUT /flash/s", String::new(), 405),
        ("POST /flash/gone/holds?sku=shirt", String::new(), 409),
        ("POST /flash/s/holds?sku=shirt", String::new(), 401),
        ("POST /flash/s/holds?sku=hat", bearer.clone(), 404),
        ("POST /flash/s/holds?sku=shirt", format!("{bearer}{id}"), 200),
        ("GET /flash/s/holds/h1", bearer.clone(), 200),
        ("DELETE /flash/s/holds/h1", bearer.clone(), 204),
    ] {
        let request = format!("{request} HTTP/1.1\r\nHost: x\r\n{fields}\r\n");
        let mut stream = connect(&proxy);
        stream.write_all(request.as_bytes()).expect("written");
        let alone = read_answer(&mut stream);
        assert!(alone.starts_with(&format!("HTTP/1.1 {status} ")), "{request}{alone}");
        // With another request behind it in the same packet, the HTTP library writes the answer.
        stream.write_all(request.repeat(2).as_bytes()).expect("written");
        for _ in 0..2 {
            assert_eq!(told(&read_answer(&mut stream)), told(&alone), "{request}");
        }
        // The connection is as good as before.
        stream.write_all(request.as_bytes()).expect("written");
        assert_eq!(told(&read_answer(&mut stream)), told(&alone), "{request}");
    }
    let mut stream = connect(&proxy);
    stream.write_all(b"HEAD /flash/s HTTP/1.1\r\nHost: x\r\n\r\n").expect("written");
    let mut answer = [0; 9];
    stream.read_exact(&mut answer).expect("an answer");
    stream.write_all(b"GET /flash/s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("written");
    let rest = read_to_end(&mut stream);
    assert!(rest.contains("\r\n\r\nHTTP/1.1 200"), "a body after the HEAD, or no second answer: {rest}");
    assert!(rest.to_ascii_lowercase().contains("connection: close"), "{rest}");
}

#[test]
fn header_floods_are_refused() {
    let shop = Shop::start();
    let proxy = proxy(&shop).set("listen.header_bytes_max", "8192").set("listen.headers_max", "20").start();

    let head = "GET /exact HTTP/1.1\r\nHost: x\r\nX-Long: ";
    let padding = |total: usize| "a".repeat(total - head.len() - 4);
    let mut stream = connect(&proxy);
    stream.write_all(format!("{head}{}\r\n\r\n", padding(8192)).as_bytes()).expect("written");
    assert!(read_answer(&mut stream).starts_with("HTTP/1.1 200"), "exactly as long as it may be");
    stream.write_all(format!("{head}{}\r\n\r\n", padding(8193)).as_bytes()).expect("written");
    let answer = read_to_end(&mut stream);
    assert!(answer.starts_with("HTTP/1.1 431") && answer.contains("header-too-large"), "{answer}");

    let mut endless = connect(&proxy);
    let began = Instant::now();
    while endless.write_all(&[b'a'; 1024]).is_ok() && began.elapsed() < PATIENCE {}
    assert!(began.elapsed() < PATIENCE, "a request line without an end is read on and on");

    let fields: String = (0..20).map(|field| format!("X-{field}: y\r\n")).collect();
    let mut many = connect(&proxy);
    many.write_all(format!("GET /many HTTP/1.1\r\nHost: x\r\n{fields}\r\n").as_bytes()).expect("written");
    let answer = read_answer(&mut many);
    assert!(answer.starts_with("HTTP/1.1 431") && answer.contains("21 fields"), "{answer}");
    let mut more = connect(&proxy);
    let fields: String = (0..400).map(|field| format!("X-{field}: y\r\n")).collect();
    more.write_all(format!("GET /many HTTP/1.1\r\nHost: x\r\n{fields}\r\n").as_bytes()).expect("written");
    assert!(read_to_end(&mut more).starts_with("HTTP/1.1 4"));
    assert!(shop.requests_to("/many").is_empty());
    assert_eq!(refused(&proxy, "header-too-large"), 2);
}

#[test]
fn bodies_for_the_shop_have_a_limit() {
    let shop = Shop::start();
    let proxy = proxy(&shop).set("listen.body_bytes_max", "1000").start();
    let http = Http::new();
    assert_eq!(http.request("POST", &proxy.url("/upload"), &[], &[b'x'; 1000]).status, 200);
    let refusal = http.request("POST", &proxy.url("/large"), &[], &[b'x'; 1001]);
    assert_eq!((refusal.status, refusal.problem().as_str()), (413, "too-large"), "{}", refusal.text());
    assert!(shop.requests_to("/large").is_empty());
}

/// A shop that takes all that comes and never answers: an answer would end the request before its body does.
#[test]
fn a_body_that_does_not_tell_its_length_is_cut_at_the_limit() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address").to_string();
    let heard = std::thread::spawn(move || {
        // Checks of its health come, too, and say nothing.
        loop {
            let (mut stream, _) = listener.accept().expect("the proxy comes");
            stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            let heard = read_to_end(&mut stream);
            if !heard.is_empty() {
                return heard;
            }
        }
    });
    let proxy = Proxy::builder().set("redis.url", "\"redis://127.0.0.1:1\"").upstream(&address);
    let proxy = proxy.set("listen.body_bytes_max", "1000").start();
    let mut chunked = connect(&proxy);
    chunked.write_all(b"POST /chunks HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n").expect("written");
    for _ in 0..20 {
        let chunk = format!("64\r\n{}\r\n", "x".repeat(100));
        if chunked.write_all(chunk.as_bytes()).is_err() {
            break;
        }
    }
    let answer = read_to_end(&mut chunked);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 413"), "{answer}");
    let body = heard.join().expect("the shop has heard it").matches('x').count();
    // Names of headers have an x here and there.
    assert!(body < 1_100, "{body} bytes of the body have come to the shop");
}

#[test]
fn an_address_has_so_many_connections_and_then_none() {
    let shop = Shop::start();
    let proxy = proxy(&shop).set("listen.connections_per_address", "5").start();
    let page = b"GET /page HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut held: Vec<TcpStream> = (0..5).map(|_| connect(&proxy)).collect();
    for stream in &mut held {
        stream.write_all(page).expect("written");
        assert!(read_answer(stream).starts_with("HTTP/1.1 200"));
    }
    let mut sixth = connect(&proxy);
    // It may be closed before or after this is sent.
    let _ = sixth.write_all(page);
    assert_eq!(read_to_end(&mut sixth), "");
    wait_until("it is counted", PATIENCE, || refused(&proxy, "address") == 1);
    held.pop();
    wait_until("the place is free", PATIENCE, || {
        let mut stream = connect(&proxy);
        stream.write_all(page).is_ok() && {
            let mut byte = [0];
            stream.read(&mut byte).is_ok_and(|length| length == 1)
        }
    });
    for stream in &mut held {
        stream.write_all(page).expect("those who are in stay in");
        assert!(read_answer(stream).starts_with("HTTP/1.1 200"));
    }
}

#[test]
fn a_load_balancer_says_whose_connection_it_is() {
    let shop = Shop::start();
    let proxy = proxy(&shop)
        .set("listen.trusted_proxies", "[\"127.0.0.0/8\"]")
        .set("listen.proxy_protocol", "true")
        .set("listen.connections_per_address", "1")
        .start();
    let talk = |bytes: &[u8]| {
        let mut stream = connect(&proxy);
        let _ = stream.write_all(bytes);
        let _ = stream.write_all(b"GET /page HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n");
        stream
    };
    let mut first = talk(b"PROXY TCP4 198.51.100.7 192.0.2.2 5678 443\r\n");
    assert!(read_answer(&mut first).starts_with("HTTP/1.1 200"));
    assert_eq!(shop.requests_to("/page")[0].headers["x-forwarded-for"], "198.51.100.7", "the header was a stranger's");
    let mut second = talk(b"PROXY TCP4 198.51.100.7 192.0.2.2 5679 443\r\n");
    assert_eq!(read_to_end(&mut second), "", "the limit is the client's");
    // Version 2, IPv4 over TCP, from 198.51.100.8:5678.
    let version_2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xc6\x33\x64\x08\xc0\x00\x02\x02\x16\x2e\x01\xbb";
    let mut other = talk(version_2);
    assert!(read_answer(&mut other).starts_with("HTTP/1.1 200"));
    assert_eq!(shop.requests_to("/page")[1].headers["x-forwarded-for"], "198.51.100.8");
    assert_eq!(read_to_end(&mut talk(b"")), "", "a trusted proxy without the header is cut off");
    // The counters move when the connection has been closed already.
    wait_until("both are counted", PATIENCE, || {
        (refused(&proxy, "address"), refused(&proxy, "proxy-header")) == (1, 1)
    });
}

#[test]
fn a_stranger_cannot_speak_the_proxy_protocol() {
    let shop = Shop::start();
    let proxy =
        proxy(&shop).set("listen.trusted_proxies", "[\"192.0.2.0/24\"]").set("listen.proxy_protocol", "true").start();
    let mut stream = connect(&proxy);
    stream
        .write_all(b"PROXY TCP4 198.51.100.7 192.0.2.2 5678 443\r\nGET /page HTTP/1.1\r\nHost: x\r\n\r\n")
        .expect("written");
    assert!(read_to_end(&mut stream).starts_with("HTTP/1.1 400"));
    assert!(shop.requests_to("/page").is_empty());
    assert_eq!(Http::new().get(&proxy.url("/page")).status, 200, "it needs none");
}

/// How many slow connections: 10,000, or what the files this process may have open allow.
fn slow_connections() -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls only read or fill the struct they are given.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        let raised = libc::rlimit { rlim_cur: limit.rlim_max, ..limit };
        libc::setrlimit(libc::RLIMIT_NOFILE, &raised);
    }
    10_000.min((limit.rlim_max as usize).saturating_sub(2_000) / 4 * 3)
}

#[test]
fn ten_thousand_slow_connections_do_not_shut_out_the_others() {
    let shop = Shop::start();
    let count = slow_connections();
    let proxy = proxy(&shop)
        .set("listen.connections_per_address", "0")
        .set("listen.connections_max", "15000")
        .set("listen.header_timeout_ms", "8000")
        .start();
    let mut slow = Vec::new();
    for _ in 0..count {
        let mut stream = connect(&proxy);
        stream.write_all(b"GET / HTTP/1.1\r\nX-Slow: ").expect("written");
        stream.set_nonblocking(true).expect("a mode");
        slow.push(stream);
    }
    let http = Http::new();
    for number in 0..200 {
        assert_eq!(http.get(&proxy.url("/page")).status, 200, "request {number} among {count} slow ones");
        for stream in slow.iter_mut().skip(number % 10).step_by(10) {
            // Those that were cut refuse it.
            let _ = stream.write(b"x");
        }
    }
    assert_eq!(shop.requests_to("/page").len(), 200);
    wait_until("the slow ones are gone", Duration::from_secs(60), || {
        proxy.metric("flashsale_connections", &[]) < 100.0
    });
    assert!(refused(&proxy, "slow-header") >= count as u64 * 9 / 10, "{} cut", refused(&proxy, "slow-header"));
}

/// Begins a request with a body of `length` bytes.
fn begin_body(proxy: &Proxy, path: &str, length: usize) -> TcpStream {
    let mut stream = connect(proxy);
    write!(stream, "POST {path} HTTP/1.1\r\nHost: shop\r\nContent-Length: {length}\r\n\r\n").expect("it is taken");
    stream
}

#[test]
fn a_body_that_dribbles_in_is_cut_as_a_whole() {
    let shop = Shop::start();
    let proxy = proxy(&shop).set("listen.body_timeout_ms", "1000").set("listen.body_rate_min", "1000").start();
    let mut stream = begin_body(&proxy, "/upload", 100_000);
    assert!(dribble(&mut stream) < PATIENCE, "each byte bought more time");
    let answer = read_to_end(&mut stream);
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("urn:flashsale:problem:slow-body"), "{answer}");
    assert!(answer.to_ascii_lowercase().contains("connection: close"), "{answer}");
}

#[test]
fn a_long_upload_earns_its_time() {
    let shop = Shop::start();
    let proxy = proxy(&shop).set("listen.body_timeout_ms", "500").set("listen.body_rate_min", "10").start();
    let unlimited = Proxy::builder()
        .set("redis.url", "\"redis://127.0.0.1:1\"")
        .upstream(&shop.address())
        .set("listen.body_timeout_ms", "500")
        .set("listen.body_rate_min", "0")
        .start();
    for proxy in [&proxy, &unlimited] {
        let mut stream = begin_body(proxy, "/upload", 100);
        for _ in 0..20 {
            std::thread::sleep(Duration::from_millis(50));
            stream.write_all(b"12345").expect("it is taken");
        }
        assert!(read_answer(&mut stream).starts_with("HTTP/1.1 200"));
    }
}
