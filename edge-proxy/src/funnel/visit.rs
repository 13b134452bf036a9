//! A request to a sale on its way through the funnel, and what the stages have learnt about it.

use std::net::IpAddr;

use bytes::Bytes;
use http::HeaderMap;

use super::admission::Stay;
use super::standing::Standings;
use crate::http::input::Input;
use crate::http::routes::Route;

/// Who is calling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// No token has been looked at.
    Unknown,
    /// A buyer, by the id in the token.
    Buyer(Bytes),
    /// The shop's own server.
    Shop,
}

impl Caller {
    /// The buyer's id, if it is one.
    pub fn buyer(&self) -> Option<&Bytes> {
        match self {
            Caller::Buyer(buyer) => Some(buyer),
            Caller::Unknown | Caller::Shop => None,
        }
    }
}

/// One request.
pub struct Visit<'a> {
    pub route: &'a Route,
    /// The Redis key of the sale, or what the keys of its shards begin with.
    pub key: &'a [u8],
    pub headers: &'a HeaderMap,
    /// What the query says; a body is read only after the funnel.
    pub input: &'a Input,
    /// The client's address.
    pub address: IpAddr,
    /// Unix milliseconds by this machine's clock.
    pub now_ms: u64,
    /// Learnt by the ticket stage or the token stage.
    pub caller: Caller,
    /// The hold that a ticket is good for, learnt by the ticket stage.
    pub ticket: Option<Bytes>,
    /// On an allow list: no limit or queue holds it up.
    pub favoured: bool,
    /// Being inside, where admission is limited.
    pub stay: Option<Stay>,
    /// What is left of the limits that the client can keep to.
    pub standings: Standings,
}

#[cfg(test)]
pub mod tests {
    use http::Method;

    use super::*;
    use crate::http::input;
    use crate::http::routes::{Destination, find};

    /// The parts of a request, for tests of stages.
    pub struct Request {
        pub route: Route,
        pub key: Vec<u8>,
        pub headers: HeaderMap,
        pub input: Input,
    }

    pub fn request(method: &str, target: &str, headers: &[(&'static str, &str)]) -> Request {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let method: Method = method.parse().unwrap();
        let Destination::Sale(route) = find(&method, path) else {
            panic!("{target} is no sale route");
        };
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        Request {
            key: [b"sale:", &route.sale[..]].concat(),
            input: input::from_query(route.call, query).unwrap(),
            route,
            headers: map,
        }
    }

    pub fn visit(request: &Request) -> Visit<'_> {
        Visit {
            route: &request.route,
            key: &request.key,
            headers: &request.headers,
            input: &request.input,
            address: IpAddr::from([192, 0, 2, 1]),
            now_ms: 1_700_000_000_000,
            caller: Caller::Unknown,
            ticket: None,
            favoured: false,
            stay: None,
            standings: Standings::default(),
        }
    }
}
