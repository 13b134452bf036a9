//! A new process takes over from the old one, and nobody notices.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use flashsale_tests::Proxy;
use flashsale_tests::http::Http;
use flashsale_tests::shop::Shop;
use flashsale_tests::wait_until;

const PATIENCE: Duration = Duration::from_secs(60);

/// A client that keeps its connection until the proxy says that it closes it.
struct Kept {
    address: String,
    stream: Option<BufReader<TcpStream>>,
}

impl Kept {
    /// Asks once; what came back if it is not a 200.
    fn ask(&mut self) -> Result<(), String> {
        let stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(&self.address).map_err(|error| format!("connecting: {error}"))?;
                stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
                BufReader::new(stream)
            }
        };
        self.exchange(stream).map_err(|error| format!("asking: {error}"))?
    }

    fn exchange(&mut self, mut stream: BufReader<TcpStream>) -> std::io::Result<Result<(), String>> {
        stream.get_mut().write_all(b"GET /kept HTTP/1.1\r\nHost: x\r\n\r\n")?;
        let (mut head, mut length, mut closes) = (String::new(), 0, false);
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line)? == 0 {
                return Ok(Err(format!("closed after {head:?}")));
            }
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            closes |= line == "connection: close";
            length = line.strip_prefix("content-length: ").map_or(length, |value| value.parse().expect("a number"));
            head.push_str(&line);
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body)?;
        if !closes {
            self.stream = Some(stream);
        }
        Ok(if head.starts_with("http/1.1 200") { Ok(()) } else { Err(head) })
    }
}

#[test]
fn no_client_sees_the_new_process_come_and_the_old_one_go() {
    let shop = Shop::start();
    let mut proxy = Proxy::builder()
        .set("redis.url", "\"redis://127.0.0.1:1\"")
        .set("listen.upgrade_socket", "\"upgrade.sock\"")
        .upstream(&shop.address())
        .start();
    let address = proxy.addresses().public.clone();
    let (done, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for keeps in [false, true, false, true] {
            let (address, done, asked) = (address.clone(), &done, &asked);
            scope.spawn(move || {
                let mut client = Kept { address, stream: None };
                while !done.load(Ordering::Relaxed) {
                    if !keeps {
                        client.stream = None;
                    }
                    client.ask().unwrap_or_else(|error| panic!("keeps: {keeps}: {error}"));
                    asked.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(2));
                }
            });
        }
        for round in 0..2 {
            let marker = format!("/round-{round}");
            proxy.rewrite(|builder| builder.set("access_log.sample", "1.0"));
            let mut old = proxy.upgrade("upgrade.sock");
            wait_until("the old process has ended", PATIENCE, || old.exited().is_some());
            let before = asked.load(Ordering::Relaxed);
            wait_until("requests go on", PATIENCE, || asked.load(Ordering::Relaxed) > before + 50);
            assert_eq!(Http::new().get(&proxy.url(&marker)).status, 200);
            wait_until("the new process has its own config", PATIENCE, || proxy.log().contains(&marker));
            wait_until("operators find it", PATIENCE, || {
                Http::new().try_request("GET", &proxy.admin_url("/healthz"), &[], b"").is_ok_and(|it| it.status == 200)
            });
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(proxy.is_alive());
    assert!(asked.load(Ordering::Relaxed) > 1000, "{asked:?} requests");
}

#[test]
fn a_new_process_with_a_wrong_config_leaves_the_old_one_in_peace() {
    let shop = Shop::start();
    let proxy = Proxy::builder()
        .set("redis.url", "\"redis://127.0.0.1:1\"")
        .set("listen.upgrade_socket", "\"upgrade.sock\"")
        .upstream(&shop.address())
        .start();
    let wrong = proxy.addresses().dir.join("wrong.toml");
    std::fs::write(&wrong, "[listen]\nupgrade_socket = \"upgrade.sock\"\npublik = 1\n").expect("written");
    let output = std::process::Command::new(flashsale_tests::artifacts::flashsale())
        .current_dir(&proxy.addresses().dir)
        .args(["serve", "--upgrade", "--config", "wrong.toml"])
        .output()
        .expect("it runs");
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("did you mean `public`?"));
    assert_eq!(Http::new().get(&proxy.url("/page")).status, 200);
}
