//! Free ports on the loopback address.

use std::net::{Ipv4Addr, TcpListener};

use rand::RngExt;

/// A port that nobody listens on just now.
///
/// It is taken from below the range that the kernel gives to outgoing connections, at random, so that
/// tests running at the same time, and a server that is started again on its port, keep out of each
/// other's way. Still only a guess: whoever starts a server tries again with another port.
pub fn free_port() -> u16 {
    let [port] = free_ports();
    port
}

/// So many ports, each another: they are taken while the rest is looked for.
pub fn free_ports<const N: usize>() -> [u16; N] {
    let taken: [TcpListener; N] = std::array::from_fn(|_| listen_somewhere());
    taken.map(|listener| listener.local_addr().expect("a listener has an address").port())
}

fn listen_somewhere() -> TcpListener {
    let mut random = rand::rng();
    (0..1000)
        .find_map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, random.random_range(12_000..32_000))).ok())
        .expect("no free port among 1000 tried on 127.0.0.1")
}
