//! Plain requests to the shop go a shorter way than others, and nobody can tell: not the client by the answer, not the
//! shop by the request, whatever it says.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flashsale_tests::http::read_head;
use flashsale_tests::{Proxy, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

/// A field that is between the client and the proxy only: with it a request goes the long way, and the shop does not
/// see it.
const THE_LONG_WAY: &str = "TE: trailers\r\n";

/// Stands for the end of the connection.
const END: &str = "<end>";

/// A shop that reads a header and says what `answer` has for it, piece by piece; then it waits for the next request, or
/// hangs up.
struct Shop {
    address: String,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Shop {
    fn saying(answer: &'static [&'static str], hangs_up: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let heads: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = heads.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let seen = seen.clone();
                std::thread::spawn(move || talk(stream, answer, hangs_up, &seen));
            }
        });
        Self { address, heads }
    }

    /// A proxy before it, which waits so long for the next word of it.
    fn proxy(&self, read_timeout_ms: u32) -> Proxy {
        Proxy::builder()
            .set("redis.url", "\"redis://127.0.0.1:1\"")
            .set("shop.upstreams", &format!("[{:?}]", self.address))
            .set("shop.read_timeout_ms", &read_timeout_ms.to_string())
            .start()
    }

    /// Headers seen since the last look.
    fn seen(&self) -> Vec<String> {
        std::mem::take(&mut self.heads.lock().expect("no panic"))
    }
}

fn talk(mut stream: TcpStream, answer: &[&str], hangs_up: bool, seen: &Mutex<Vec<String>>) {
    stream.set_nodelay(true).expect("an option");
    loop {
        let head = read_head(&mut stream);
        if !head.ends_with("\r\n\r\n") {
            return;
        }
        let pieces = if head.starts_with("HEAD") { without_body(answer) } else { owned(answer) };
        seen.lock().expect("no panic").push(head);
        for piece in pieces {
            if stream.write_all(piece.as_bytes()).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        if hangs_up {
            return;
        }
    }
}

fn owned(answer: &[&str]) -> Vec<String> {
    answer.iter().map(|piece| (*piece).to_owned()).collect()
}

/// All headers of an answer, at once.
fn without_body(answer: &[&str]) -> Vec<String> {
    let answer = answer.concat();
    let heads = answer.split_inclusive("\r\n\r\n").take_while(|part| part.starts_with("HTTP/"));
    vec![heads.collect()]
}

fn connect(proxy: &Proxy) -> TcpStream {
    let stream = TcpStream::connect(&proxy.addresses().public).expect("the proxy listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream
}

/// An answer to its end, as its header or the end of the connection tells; without what differs each time.
fn read_answer(stream: &mut TcpStream, method: &str) -> String {
    let mut said = String::new();
    loop {
        let head = read_head(stream);
        let differs = |line: &str| line.starts_with("Date:") || line.starts_with("retry-after:");
        said.extend(head.split_inclusive("\r\n").filter(|line| !differs(line)));
        if head.starts_with("HTTP/1.1 1") && !head.starts_with("HTTP/1.1 101") {
            continue;
        }
        let lower = head.to_ascii_lowercase();
        let is_without = method == "HEAD" || head.starts_with("HTTP/1.1 204") || head.starts_with("HTTP/1.1 304");
        let length = lower.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next()?.parse().ok());
        let wanted = if is_without { Some(0) } else { length };
        let mut body = Vec::new();
        let mut byte = [0];
        while wanted.is_none_or(|wanted: usize| body.len() < wanted) && !body.ends_with(b"0\r\n\r\n") {
            match stream.read(&mut byte) {
                Ok(0) => return said + &String::from_utf8_lossy(&body) + END,
                Ok(_) => body.push(byte[0]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                    return said + &String::from_utf8_lossy(&body) + END;
                }
                Err(error) => panic!("after {said}{}: {error}", String::from_utf8_lossy(&body)),
            }
        }
        said.push_str(&String::from_utf8_lossy(&body));
        return said;
    }
}

/// What is answered, and what the shop has seen.
fn ask(proxy: &Proxy, shop: &Shop, method: &str, fields: &str) -> (Vec<String>, Vec<String>) {
    let mut stream = connect(proxy);
    let mut answers = Vec::new();
    // The second one goes into a kept connection, if there is one.
    for _ in 0..2 {
        let request = format!("{method} /page?a=b%2Fc HTTP/1.1\r\nHost: shop.example\r\n{fields}\r\n");
        if stream.write_all(request.as_bytes()).is_err() {
            break;
        }
        let answer = read_answer(&mut stream, method);
        let is_last = answer.to_ascii_lowercase().contains("connection: close") || answer.ends_with(END);
        answers.push(answer);
        if is_last {
            break;
        }
    }
    (answers, shop.seen())
}

#[test]
fn both_ways_lead_to_the_same() {
    const SMALL: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Of-The-Shop: Yes\r\n\r\nsmall";
    const ANSWERS: [(&[&str], bool); 18] = [
        (&[SMALL], false),
        (&["HTTP/1.1 200 OK\r\nContent-Le", "ngth: 5\r\n\r\nsm", "al", "l"], false),
        (&["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "3\r\nabc\r\n", "2\r\nde\r\n0\r\n\r\n"], false),
        (&["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Trailer: 1\r\n\r\n"], false),
        (&["HTTP/1.1 200 OK\r\n\r\nuntil ", "the end"], true),
        (&["HTTP/1.0 200 OK\r\n\r\nuntil the end"], true),
        (&["HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nold"], true),
        (&["HTTP/1.1 204 No Content\r\n\r\n"], false),
        (&["HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\n\r\n"], false),
        (&["HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", SMALL], false),
        (&["HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 Gone\r\nContent-Length: 0\r\n\r\n"], false),
        (&["HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"], false),
        (&["HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nsmall"], false),
        (&["HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"], false),
        (&["HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nsmall and more"], true),
        (&["HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nbreaks off"], true),
        (&["nonsense\r\n\r\n"], true),
        // Nothing at all, for longer than the proxy waits; so it is after the 101 above.
        (&[], false),
    ];
    for (answer, hangs_up) in ANSWERS {
        for method in ["GET", "HEAD"] {
            let shop = Shop::saying(answer, hangs_up);
            let says_all = answer.iter().any(|piece| piece.starts_with("HTTP/") && !piece.starts_with("HTTP/1.1 101"));
            let proxy = shop.proxy(if says_all || hangs_up { 20_000 } else { 1000 });
            let long = ask(&proxy, &shop, method, &format!("Accept: */*\r\n{THE_LONG_WAY}"));
            for fields in ["Accept: */*\r\n", "Accept: */*\r\nConnection: Keep-Alive\r\n"] {
                let short = ask(&proxy, &shop, method, fields);
                assert_eq!(short.0, long.0, "{method} {answer:?}");
                assert_eq!(sorted(&short.1), sorted(&long.1), "{method} {answer:?}");
            }
        }
    }
}

/// Headers with their fields in a fixed order: theirs means nothing.
fn sorted(heads: &[String]) -> Vec<Vec<&str>> {
    let mut heads: Vec<Vec<&str>> = heads.iter().map(|head| head.lines().collect()).collect();
    heads.iter_mut().for_each(|lines| lines[1..].sort_unstable());
    heads
}

#[test]
fn who_leaves_takes_its_request_along() {
    for fields in ["", THE_LONG_WAY] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let left = Arc::new(Mutex::new(None));
        let noted = left.clone();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let noted = noted.clone();
                std::thread::spawn(move || {
                    if read_head(&mut stream).starts_with("GET /long") {
                        *noted.lock().expect("no panic") = Some(false);
                        let end = stream.read(&mut [0]);
                        *noted.lock().expect("no panic") = Some(!matches!(end, Ok(1)));
                    }
                });
            }
        });
        let proxy = Proxy::builder()
            .set("redis.url", "\"redis://127.0.0.1:1\"")
            .set("shop.upstreams", &format!("[{address:?}]"))
            .set("shop.read_timeout_ms", "600000")
            .start();
        let mut client = connect(&proxy);
        client.write_all(format!("GET /long HTTP/1.1\r\nHost: x\r\n{fields}\r\n").as_bytes()).expect("written");
        wait_until("the shop has it", PATIENCE, || left.lock().expect("no panic").is_some());
        drop(client);
        wait_until("the shop is let go", PATIENCE, || *left.lock().expect("no panic") == Some(true));
    }
}
