//! The routes of a sale, in one table. All else belongs to the shop.

use std::borrow::Cow;

use bytes::Bytes;
use http::Method;
use percent_encoding::percent_decode_str;

use super::problem::{Problem, Refusal};

/// What a client can ask of a sale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Call {
    Status,
    Ticket,
    Reserve,
    Show,
    Release,
    Extend,
    Confirm,
    Order,
}

impl Call {
    /// Name of the call in metrics and the access log.
    pub fn name(self) -> &'static str {
        match self {
            Call::Status => "status",
            Call::Ticket => "ticket",
            Call::Reserve => "reserve",
            Call::Show => "show",
            Call::Release => "release",
            Call::Extend => "extend",
            Call::Confirm => "confirm",
            Call::Order => "order",
        }
    }

    /// The path of the call, with names in braces.
    pub fn template(self) -> &'static str {
        match self {
            Call::Status => "/flash/{sale}",
            Call::Ticket => "/flash/{sale}/ticket",
            Call::Reserve => "/flash/{sale}/holds",
            Call::Show | Call::Release => "/flash/{sale}/holds/{id}",
            Call::Extend => "/flash/{sale}/holds/{id}/extend",
            Call::Confirm => "/flash/{sale}/holds/{id}/confirm",
            Call::Order => "/flash/{sale}/orders",
        }
    }

    /// Whether it comes from somebody who wants in and holds nothing yet.
    pub fn arrives(self) -> bool {
        matches!(self, Call::Ticket | Call::Reserve | Call::Order)
    }

    /// Whether the call takes new units from the stock.
    pub fn takes_stock(self) -> bool {
        matches!(self, Call::Reserve | Call::Order)
    }

    /// Whether the call is about one hold, named in the path.
    pub fn names_a_hold(self) -> bool {
        matches!(self, Call::Show | Call::Release | Call::Extend | Call::Confirm)
    }

    /// Whether a request body means anything to the call.
    pub fn reads_body(self) -> bool {
        matches!(self, Call::Ticket | Call::Reserve | Call::Order | Call::Extend | Call::Confirm)
    }
}

/// One segment of a route's path, after `/flash/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Segment {
    Sale,
    Hold,
    Word(&'static str),
}

use Segment::{Hold, Sale, Word};

/// What all sale routes begin with.
const PREFIX: &str = "/flash/";

/// The table: method, path after `/flash/`, call.
const ROUTES: &[(Method, &[Segment], Call)] = &[
    (Method::GET, &[Sale], Call::Status),
    (Method::POST, &[Sale, Word("ticket")], Call::Ticket),
    (Method::POST, &[Sale, Word("holds")], Call::Reserve),
    (Method::GET, &[Sale, Word("holds"), Hold], Call::Show),
    (Method::DELETE, &[Sale, Word("holds"), Hold], Call::Release),
    (Method::POST, &[Sale, Word("holds"), Hold, Word("extend")], Call::Extend),
    (Method::POST, &[Sale, Word("holds"), Hold, Word("confirm")], Call::Confirm),
    (Method::POST, &[Sale, Word("orders")], Call::Order),
];

/// Longest sale name, hold id and SKU in bytes (the contract's section 4).
pub const NAME_BYTES_MAX: usize = 128;

/// A request to a sale route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub call: Call,
    /// Name of the sale, any bytes.
    pub sale: Bytes,
    /// Id of the hold, any bytes; empty if the call names none.
    pub hold: Bytes,
}

/// Where a request goes.
#[derive(Debug)]
pub enum Destination {
    Shop,
    Sale(Route),
    Refused(Refusal),
}

/// Finds the route of a request. Only the raw path is split, so an encoded slash is part of a name.
pub fn find(method: &Method, path: &str) -> Destination {
    let Some(rest) = path.strip_prefix(PREFIX) else {
        return Destination::Shop;
    };
    let segments: Vec<&str> = rest.split('/').collect();
    // HEAD asks for the headers of what GET gives.
    let wanted = if method == Method::HEAD { &Method::GET } else { method };

    let mut allowed = Vec::new();
    for (method, pattern, call) in ROUTES {
        if !matches_pattern(pattern, &segments) {
            continue;
        }
        if method == wanted {
            return match route(*call, pattern, &segments) {
                Ok(route) => Destination::Sale(route),
                Err(refusal) => Destination::Refused(refusal),
            };
        }
        allowed.push(method.as_str());
    }
    Destination::Refused(if allowed.is_empty() {
        Problem::NoRoute
            .because("The routes of a sale are /flash/{sale}, .../ticket, .../holds, .../holds/{id} and .../orders.")
    } else {
        let allowed = allowed.join(", ");
        let refusal = Problem::Method.because(format!("Use {allowed}."));
        match allowed.try_into() {
            Ok(allowed) => refusal.header(http::header::ALLOW, allowed),
            Err(_) => refusal,
        }
    })
}

/// Whether a path is that of a sale's route, or would be if there were such a route.
pub fn is_sale(path: &str) -> bool {
    path.starts_with(PREFIX)
}

/// Whether a request of HTTP/1 that begins with these bytes is one to a sale; `None` if they are too few to say.
/// Odd ones, with a whole URL say, may be taken for others.
pub fn begins_sale(bytes: &[u8]) -> Option<bool> {
    let space = bytes.iter().position(|byte| *byte == b' ')?;
    let method = &bytes[..space];
    if method.is_empty() || !method.iter().all(u8::is_ascii_uppercase) || method == b"CONNECT" {
        return Some(false);
    }
    let path = &bytes[space + 1..];
    let compared = path.len().min(PREFIX.len());
    match path[..compared] == PREFIX.as_bytes()[..compared] {
        false => Some(false),
        true => (compared == PREFIX.len()).then_some(true),
    }
}

fn matches_pattern(pattern: &[Segment], segments: &[&str]) -> bool {
    pattern.len() == segments.len()
        && pattern.iter().zip(segments).all(|(segment, text)| match segment {
            Sale | Hold => !text.is_empty(),
            Word(word) => word == text,
        })
}

fn route(call: Call, pattern: &[Segment], segments: &[&str]) -> Result<Route, Refusal> {
    let mut route = Route { call, sale: Bytes::new(), hold: Bytes::new() };
    for (segment, text) in pattern.iter().zip(segments) {
        match segment {
            Sale => route.sale = name("sale's name", text)?,
            Hold => route.hold = name("hold's id", text)?,
            Word(_) => {}
        }
    }
    Ok(route)
}

fn name(what: &str, text: &str) -> Result<Bytes, Refusal> {
    let decoded: Cow<'_, [u8]> = percent_decode_str(text).into();
    if decoded.len() > NAME_BYTES_MAX {
        return Err(Problem::BadRequest
            .because(format!("The {what} has {} bytes; it may have {NAME_BYTES_MAX}.", decoded.len())));
    }
    Ok(Bytes::from(decoded.into_owned()))
}

/// `METHOD /flash/...` of every route, with names in braces.
#[cfg(test)]
pub fn templates() -> Vec<String> {
    let segment = |segment: &Segment| match segment {
        Sale => "{sale}",
        Hold => "{id}",
        Word(word) => word,
    };
    let path = |pattern: &[Segment]| pattern.iter().map(segment).collect::<Vec<_>>().join("/");
    ROUTES.iter().map(|(method, pattern, _)| format!("{method} {PREFIX}{}", path(pattern))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sale(method: &str, path: &str) -> Route {
        match find(&method.parse().unwrap(), path) {
            Destination::Sale(route) => route,
            other => panic!("{method} {path} is {other:?}"),
        }
    }

    fn refused(method: &str, path: &str) -> Refusal {
        match find(&method.parse().unwrap(), path) {
            Destination::Refused(refusal) => refusal,
            other => panic!("{method} {path} is {other:?}"),
        }
    }

    #[test]
    fn templates_are_those_of_the_table() {
        let named: Vec<String> =
            ROUTES.iter().map(|(method, _, call)| format!("{method} {}", call.template())).collect();
        assert_eq!(named, templates());
    }

    #[test]
    fn every_call_has_its_route() {
        for (method, path, call) in [
            ("GET", "/flash/s", Call::Status),
            ("HEAD", "/flash/s", Call::Status),
            ("POST", "/flash/s/ticket", Call::Ticket),
            ("POST", "/flash/s/holds", Call::Reserve),
            ("GET", "/flash/s/holds/h", Call::Show),
            ("DELETE", "/flash/s/holds/h", Call::Release),
            ("POST", "/flash/s/holds/h/extend", Call::Extend),
            ("POST", "/flash/s/holds/h/confirm", Call::Confirm),
            ("POST", "/flash/s/orders", Call::Order),
        ] {
            assert_eq!(sale(method, path).call, call, "{method} {path}");
        }
    }

    #[test]
    fn names_may_hold_any_bytes() {
        let route = sale("GET", "/flash/a%2Fb/holds/%00%ff..%20");
        assert_eq!(&route.sale[..], b"a/b");
        assert_eq!(&route.hold[..], b"\0\xff.. ");
    }

    #[test]
    fn the_first_bytes_tell() {
        for (bytes, expected) in [
            ("", None),
            ("POS", None),
            ("POST ", None),
            ("POST /flas", None),
            ("POST /flash/", Some(true)),
            ("GET /flash/s HTTP/1.1", Some(true)),
            ("GET /", None),
            ("GET / HTTP", Some(false)),
            ("GET /flashy", Some(false)),
            ("GET http://x/flash/s", Some(false)),
            ("CONNECT /flash/s", Some(false)),
            ("G\0T /flash/s", Some(false)),
            (" /flash/s", Some(false)),
            ("\r\nGET /flash/s", Some(false)),
        ] {
            assert_eq!(begins_sale(bytes.as_bytes()), expected, "{bytes:?}");
        }
    }

    #[test]
    fn all_else_is_the_shop() {
        for path in ["/", "/flash", "/flashy/s", "//flash/s", "/Flash/s", "/shop/flash/s", "*"] {
            assert!(matches!(find(&Method::GET, path), Destination::Shop), "{path}");
        }
    }

    #[test]
    fn a_wrong_method_names_the_right_ones() {
        let refusal = refused("PUT", "/flash/s/holds/h");
        assert_eq!(refusal.problem, Problem::Method);
        assert_eq!(refusal.headers, [(http::header::ALLOW, http::HeaderValue::from_static("GET, DELETE"))]);
    }

    #[test]
    fn what_is_not_in_the_table_is_not_found() {
        for path in ["/flash/", "/flash//holds", "/flash/s/", "/flash/s/holds/", "/flash/s/x", "/flash/s/holds/h/x"] {
            assert_eq!(refused("GET", path).problem, Problem::NoRoute, "{path}");
        }
    }

    #[test]
    fn a_name_has_a_length() {
        let path = format!("/flash/{}", "x".repeat(NAME_BYTES_MAX));
        sale("GET", &path);
        assert_eq!(refused("GET", &format!("{path}y")).problem, Problem::BadRequest);
    }
}
