//! A shop for tests: ordinary pages, and a webhook that can be told to misbehave.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;

/// One request as it reached the shop.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Names in lower case; of a repeated header the last value.
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
    /// What the shop answered; `None` if it hung.
    pub answered: Option<u16>,
}

impl Request {
    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("no JSON ({error}) came to {}", self.target))
    }
}

/// How the shop answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// With this status.
    Status(u16),
    /// Not at all: it reads the request and stays silent until it behaves otherwise.
    Hang,
}

/// Listens on a port of its own until dropped. Every request is remembered.
#[derive(Debug)]
pub struct Shop {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    requests: Mutex<Vec<Request>>,
    manner: Mutex<Manner>,
    closing: AtomicBool,
}

impl Shop {
    /// A shop that answers 200 to everything.
    pub fn start() -> Shop {
        Shop::start_on(0)
    }

    /// The same on a given port, as after [`Shop::stop`].
    pub fn start_on(port: u16) -> Shop {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared {
            requests: Mutex::default(),
            manner: Mutex::new(Manner::Status(200)),
            closing: AtomicBool::new(false),
        });
        let acceptor = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || accept(&listener, &shared)
        });
        Shop { address, shared, acceptor: Some(acceptor) }
    }

    /// `127.0.0.1:PORT`
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// `http://127.0.0.1:PORT/path`
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// From now on the shop answers so.
    pub fn behave(&self, manner: Manner) {
        *lock(&self.shared.manner) = manner;
    }

    /// Everything that has come so far, oldest first.
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.shared.requests).clone()
    }

    /// What came to this path, ignoring the query.
    pub fn requests_to(&self, path: &str) -> Vec<Request> {
        let mut requests = self.requests();
        requests.retain(|request| request.target.split('?').next() == Some(path));
        requests
    }

    /// Stops listening; the port is free for another [`Shop::start_on`].
    pub fn stop(mut self) -> u16 {
        self.close();
        self.address.port()
    }

    fn close(&mut self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        // Wakes the acceptor; if that fails it is awake already.
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _its_panic_is_shown = acceptor.join();
        }
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        self.close();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no lock of the shop is held over a panic")
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.closing.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let shared = Arc::clone(shared);
        std::thread::spawn(move || {
            // A client that goes away in mid-request is nothing to the shop.
            let _gone = serve(stream, &shared);
        });
    }
}

/// Answers the requests of one connection.
fn serve(stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_millis(100)))?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    while let Some(mut request) = read_request(&mut reader, shared)? {
        if shared.closing.load(Ordering::SeqCst) {
            return Ok(());
        }
        let manner = *lock(&shared.manner);
        if let Manner::Status(status) = manner {
            request.answered = Some(status);
        }
        let answer = request.answered;
        lock(&shared.requests).push(request);
        let Some(status) = answer else {
            while *lock(&shared.manner) == Manner::Hang && !shared.closing.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(5));
            }
            return Ok(());
        };
        let body = format!("the shop says {status}\n");
        write!(writer, "HTTP/1.1 {status} So\r\ncontent-length: {}\r\n\r\n{body}", body.len())?;
    }
    Ok(())
}

fn read_request(reader: &mut BufReader<TcpStream>, shared: &Shared) -> io::Result<Option<Request>> {
    let Some(line) = read_line(reader, shared)? else {
        return Ok(None);
    };
    let mut words = line.split(' ');
    let (Some(method), Some(target)) = (words.next(), words.next()) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let (method, target) = (method.to_owned(), target.to_owned());
    let mut headers = BTreeMap::new();
    while let Some(line) = read_line(reader, shared)?.filter(|line| !line.is_empty()) {
        if let Some((name, value)) = line.split_once(':') {
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    let length = headers.get("content-length").and_then(|length| length.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    read_whole(reader, &mut body, shared)?;
    Ok(Some(Request { method, target, headers, body, answered: None }))
}

/// A line without its end; `None` if the client has closed the connection, or the shop does.
fn read_line(reader: &mut BufReader<TcpStream>, shared: &Shared) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    loop {
        match reader.read_until(b'\n', &mut line) {
            Ok(_) if line.ends_with(b"\n") => {
                let text = String::from_utf8_lossy(&line);
                return Ok(Some(text.trim_end().to_owned()));
            }
            Ok(_) => return Ok(None),
            Err(error) => keep_waiting(error, shared)?,
        }
        if shared.closing.load(Ordering::SeqCst) {
            return Ok(None);
        }
    }
}

fn read_whole(reader: &mut impl Read, body: &mut [u8], shared: &Shared) -> io::Result<()> {
    let mut read = 0;
    while read < body.len() {
        match reader.read(&mut body[read..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => read += count,
            Err(error) => keep_waiting(error, shared)?,
        }
    }
    Ok(())
}

/// Reads have a short timeout so that a closing shop is noticed; else it means nothing.
fn keep_waiting(error: io::Error, shared: &Shared) -> io::Result<()> {
    let timeout = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
    if timeout && !shared.closing.load(Ordering::SeqCst) { Ok(()) } else { Err(error) }
}
