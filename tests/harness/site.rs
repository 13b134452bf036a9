//! A small HTTP server whose answers a test decides: key sets, verifiers of challenges.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Answers a path and a body with a status and a JSON text.
type Respond = dyn FnMut(&str, &[u8]) -> (u16, String) + Send;

/// Listens on a port of its own until dropped.
pub struct Site {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    respond: Mutex<Box<Respond>>,
    requests: AtomicUsize,
    closing: AtomicBool,
}

impl Site {
    pub fn start(mut respond: impl FnMut(&str, &str) -> (u16, String) + Send + 'static) -> Site {
        Site::start_for_bytes(move |path, body| respond(path, &String::from_utf8_lossy(body)))
    }

    /// The same for bodies that are no text.
    pub fn start_for_bytes(respond: impl FnMut(&str, &[u8]) -> (u16, String) + Send + 'static) -> Site {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared {
            respond: Mutex::new(Box::new(respond)),
            requests: AtomicUsize::new(0),
            closing: AtomicBool::new(false),
        });
        let served = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if served.closing.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(stream), shared) = (stream, Arc::clone(&served)) else { continue };
                // A client that goes away in mid-request is nothing to the site.
                std::thread::spawn(move || serve(stream, &shared));
            }
        });
        Site { address, shared }
    }

    /// `http://127.0.0.1:PORT/path`
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// How many requests have been answered.
    pub fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::SeqCst)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        // Wakes the acceptor; if that fails it is awake already.
        let _ = TcpStream::connect(self.address);
    }
}

/// Answers one request and closes the connection.
fn serve(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut length = 0;
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let (status, answer) = {
        let mut respond = shared.respond.lock().unwrap_or_else(PoisonError::into_inner);
        respond(&path, &body)
    };
    shared.requests.fetch_add(1, Ordering::SeqCst);
    write!(
        stream,
        "HTTP/1.1 {status} So\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{answer}",
        answer.len()
    )
}
