//! Free ports on the loopback address.

use std::net::{Ipv4Addr, TcpListener};

use rand::RngExt;

/// A port that nobody listens on just now.
///
/// It is taken from below the range that the kernel gives to outgoing connections, at random, so that
/// tests running at the same time, and a server that is started again on its port, keep out of each
/// other's way. Still only a guess: whoever starts a server tries again with another port.
pub fn free_port() -> u16 {
    let mut random = rand::rng();
    for _ in 0..1000 {
        let port = random.random_range(12_000..32_000);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no free port among 1000 tried on 127.0.0.1");
}
