//! Tells the shop who is really there: `X-Forwarded-For`, `-Proto` and `-Host`.

use std::cell::RefCell;
use std::net::IpAddr;

use http::{HeaderName, HeaderValue, Method, header};
use ipnet::IpNet;
use pingora::http::RequestHeader;

use super::shop::is_url;
use crate::http::address::is_trusted;

/// What tells who is there and what was asked for, as written by whoever stands before.
const TOLD: [HeaderName; 6] = [
    FORWARDED_FOR,
    FORWARDED_PROTO,
    FORWARDED_HOST,
    HeaderName::from_static("x-forwarded-port"),
    header::FORWARDED,
    HeaderName::from_static("x-real-ip"),
];
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Writes the headers into a request to the shop. What a stranger wrote into them is thrown away; what a trusted proxy
/// wrote is kept and extended.
///
/// # Errors
/// A value that no header can carry.
pub fn forward(request: &mut RequestHeader, peer: IpAddr, tls: bool, trusted: &[IpNet]) -> pingora::Result<()> {
    let peer = peer.to_canonical();
    let mut is_told = is_told(request);
    if is_told && !is_trusted(peer, trusted) {
        for name in &TOLD {
            request.remove_header(name);
        }
        is_told = false;
    }
    if !is_told && let Some(written) = write_small(request, peer, tls) {
        *request = written;
        return Ok(());
    }
    let mut hops = String::new();
    if is_told {
        let before = request.headers.get_all(FORWARDED_FOR).iter();
        before.filter_map(|value| value.to_str().ok()).for_each(|hop| hops.extend([hop, ", "]));
    }
    hops.push_str(&text(peer));
    request.insert_header("X-Forwarded-For", hops)?;
    if !is_told || !request.headers.contains_key(FORWARDED_PROTO) {
        request.insert_header("X-Forwarded-Proto", protocol(tls))?;
    }
    let host = request.headers.get(header::HOST).cloned();
    if (!is_told || !request.headers.contains_key(FORWARDED_HOST))
        && let Some(host) = &host
    {
        request.insert_header("X-Forwarded-Host", host)?;
    }
    if is_url(request.raw_path()) {
        // Servers see paths, proxies see URLs (RFC 9112, section 3.2.1); the host has been compared already.
        let path = request.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        request.set_raw_path(path.as_bytes())?;
    }
    if host.is_none() {
        // HTTP/1.0 needs none, but to the shop goes HTTP/1.1 (RFC 9112, section 3.2).
        request.insert_header("Host", "")?;
    }
    Ok(())
}

fn protocol(tls: bool) -> HeaderValue {
    HeaderValue::from_static(if tls { "https" } else { "http" })
}

/// Fields of a request that is small. The maps of such a one are small too and would grow three times for three more
/// fields, so that it is cheaper to put it into one where they stand already.
const FIELDS_SMALL: usize = 3;

/// Hosts for which each thread keeps prepared fields, and bytes that a name of one may have (RFC 1035, with a port).
const HOSTS_MAX: usize = 8;
const HOST_BYTES_MAX: usize = 261;

thread_local! {
    static PREPARED: RefCell<Vec<Prepared>> = const { RefCell::new(Vec::new()) };
}

/// The fields that all requests to a host have in common.
struct Prepared {
    tls: bool,
    header: RequestHeader,
}

impl Prepared {
    fn new(host: &HeaderValue, tls: bool) -> pingora::Result<Self> {
        // What the client has sent is a part of all it has sent, and not to be held on to.
        let mut header = RequestHeader::build(Method::GET, b"/", Some(2 * FIELDS_SMALL))?;
        header.insert_header("Host", host.as_bytes())?;
        header.insert_header("X-Forwarded-For", "")?;
        header.insert_header("X-Forwarded-Proto", protocol(tls))?;
        header.insert_header("X-Forwarded-Host", host.as_bytes())?;
        Ok(Self { tls, header })
    }

    fn is_for(&self, host: &HeaderValue, tls: bool) -> bool {
        self.tls == tls && self.header.headers.get(header::HOST) == Some(host)
    }
}

/// The request with the headers, written anew: see [`forward`].
///
/// # Errors
/// A value that no header can carry.
pub fn written(request: &RequestHeader, peer: IpAddr, tls: bool, trusted: &[IpNet]) -> pingora::Result<RequestHeader> {
    if !is_told(request)
        && let Some(written) = write_small(request, peer.to_canonical(), tls)
    {
        return Ok(written);
    }
    let mut written = request.clone();
    forward(&mut written, peer, tls, trusted)?;
    Ok(written)
}

/// Whether it brings any of the headers. Most bring none, which one look at their names tells.
fn is_told(request: &RequestHeader) -> bool {
    request.headers.keys().any(|name| TOLD.contains(name))
}

/// A plain request with few fields, written anew; `None` if it is another.
fn write_small(request: &RequestHeader, peer: IpAddr, tls: bool) -> Option<RequestHeader> {
    let (name, host) = request.case_header_iter().next()?;
    let is_small = request.headers.len() <= FIELDS_SMALL
        && name.as_slice() == b"Host"
        && host.len() <= HOST_BYTES_MAX
        && request.raw_path_is_utf8()
        && request.raw_path().starts_with(b"/");
    if !is_small {
        return None;
    }
    let mut written = prepared(host, tls)?;
    written.set_method(request.method.clone());
    written.set_version(request.version);
    written.set_uri(request.uri.clone());
    written.insert_header("X-Forwarded-For", text(peer)).ok()?;
    for (name, value) in request.case_header_iter().skip(1) {
        written.append_header(name.clone(), value).ok()?;
    }
    *written.extensions_mut() = request.extensions.clone();
    Some(written)
}

/// A copy of the prepared fields; `None` if the host cannot stand in a header.
fn prepared(host: &HeaderValue, tls: bool) -> Option<RequestHeader> {
    PREPARED.with_borrow_mut(|all| {
        if let Some(prepared) = all.iter().find(|prepared| prepared.is_for(host, tls)) {
            return Some(prepared.header.clone());
        }
        let prepared = Prepared::new(host, tls).ok()?;
        let header = prepared.header.clone();
        if all.len() == HOSTS_MAX {
            all.remove(0);
        }
        all.push(prepared);
        Some(header)
    })
}

/// What formatting gives, which for the usual address costs more than to write the field.
fn text(address: IpAddr) -> String {
    let IpAddr::V4(address) = address else {
        return address.to_string();
    };
    let mut text = String::with_capacity("255.255.255.255".len());
    for (place, octet) in address.octets().into_iter().enumerate() {
        if place > 0 {
            text.push('.');
        }
        if octet >= 100 {
            text.push(char::from(b'0' + octet / 100));
        }
        if octet >= 10 {
            text.push(char::from(b'0' + octet / 10 % 10));
        }
        text.push(char::from(b'0' + octet % 10));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forwarded(peer: &str, headers: &[(&'static str, &'static str)]) -> RequestHeader {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        for (name, value) in headers {
            request.append_header(*name, *value).unwrap();
        }
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        forward(&mut request, peer.parse().unwrap(), false, &trusted).unwrap();
        request
    }

    #[test]
    fn a_strangers_claims_are_thrown_away() {
        let request = forwarded(
            "203.0.113.9",
            &[
                ("host", "shop.example"),
                ("x-forwarded-for", "1.2.3.4"),
                ("x-forwarded-proto", "https"),
                ("x-forwarded-host", "evil.example"),
                ("forwarded", "for=1.2.3.4"),
                ("x-real-ip", "1.2.3.4"),
            ],
        );
        assert_eq!(request.headers["x-forwarded-for"], "203.0.113.9");
        assert_eq!(request.headers["x-forwarded-proto"], "http");
        assert_eq!(request.headers["x-forwarded-host"], "shop.example");
        assert!(!request.headers.contains_key("forwarded"));
        assert!(!request.headers.contains_key("x-real-ip"));
    }

    /// A request and what becomes of it, as it goes over the wire.
    fn wire(target: &[u8], headers: &[(&'static str, &'static str)], peer: &str) -> String {
        let mut request = RequestHeader::build("POST", target, Some(headers.len())).unwrap();
        for (name, value) in headers {
            request.append_header(*name, *value).unwrap();
        }
        forward(&mut request, peer.parse().unwrap(), true, &[]).unwrap();
        let mut bytes = Vec::new();
        request.header_to_h1_wire(&mut bytes);
        let path = String::from_utf8_lossy(request.raw_path()).into_owned();
        format!("{} {path}\r\n{}", request.method, String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn small_requests_say_the_same_as_large_ones() {
        let told = "X-Forwarded-For: 203.0.113.90\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: shop.example\r\n";
        let host = ("Host", "shop.example");
        let (agent, accept) = (("User-AGENT", "curl"), ("Accept", "*/*"));
        for target in ["/a%2Fb?c=d", "/"] {
            let start = format!("POST {target}\r\nHost: shop.example\r\n");
            let peer = "203.0.113.90";
            assert_eq!(wire(target.as_bytes(), &[host], peer), format!("{start}{told}"));
            let rest = "User-AGENT: curl\r\nAccept: */*\r\n";
            assert_eq!(wire(target.as_bytes(), &[host, agent, accept], peer), format!("{start}{told}{rest}"));
            let rest = format!("{rest}Accept: */*\r\n");
            assert_eq!(wire(target.as_bytes(), &[host, agent, accept, accept], peer), format!("{start}{rest}{told}"));
        }
        // Twice the same name, a name in small letters, a target that is no text.
        let lower = ("host", "shop.example");
        assert_eq!(wire(b"/", &[lower], "203.0.113.90"), format!("POST /\r\nhost: shop.example\r\n{told}"));
        assert!(wire(b"/", &[host, accept, accept], "203.0.113.90").ends_with("Accept: */*\r\nAccept: */*\r\n"));
        assert!(wire(b"/\xff", &[host], "203.0.113.90").starts_with("POST /\u{fffd}\r\nHost: shop.example\r\nX-F"));
    }

    #[test]
    fn each_host_and_each_peer_has_its_own_fields() {
        for round in 0..3 {
            for host in ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"] {
                let peer = format!("203.0.113.{round}");
                let wire = wire(b"/", &[("Host", host)], &peer);
                assert!(wire.contains(&format!("Host: {host}\r\nX-Forwarded-For: {peer}\r\n")), "{wire}");
                assert!(wire.ends_with(&format!("X-Forwarded-Host: {host}\r\n")), "{wire}");
            }
        }
    }

    #[test]
    fn an_address_is_written_as_everywhere() {
        for address in ["0.0.0.0", "1.20.255.199", "10.100.9.99", "2001:db8::1"] {
            assert_eq!(text(address.parse().unwrap()), address);
        }
    }

    #[test]
    fn a_url_becomes_a_path() {
        let mut request = RequestHeader::build("GET", b"HTTP://shop.example/a?b=c", None).unwrap();
        request.insert_header("Host", "shop.example").unwrap();
        forward(&mut request, "203.0.113.9".parse().unwrap(), false, &[]).unwrap();
        assert_eq!(request.raw_path(), b"/a?b=c");
    }

    #[test]
    fn a_trusted_proxys_word_is_kept_and_extended() {
        let request = forwarded(
            "10.0.0.1",
            &[
                ("host", "inner"),
                ("x-forwarded-for", "1.2.3.4"),
                ("x-forwarded-proto", "https"),
                ("x-forwarded-host", "shop.example"),
            ],
        );
        assert_eq!(request.headers["x-forwarded-for"], "1.2.3.4, 10.0.0.1");
        assert_eq!(request.headers["x-forwarded-proto"], "https");
        assert_eq!(request.headers["x-forwarded-host"], "shop.example");
    }
}
