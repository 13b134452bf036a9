//! Sends what is written to other nodes at once.
//!
//! Servers leave Nagle's algorithm on for the cluster bus, where a few milliseconds never mattered: a second small
//! message to the same node waits until the first one is acknowledged, which the other side's kernel puts off for 40 ms.
//! Every other connection of a server has TCP_NODELAY already (clients get it when they are accepted), so it is enough
//! to give it to whatever TCP socket of the process lacks it. Links come and go: all descriptors are looked at in turn.

use std::ffi::{c_int, c_void};

/// Descriptors that are looked at in one tick: about 20 us. Links have low numbers, and so are found by the first.
const PER_TICK: c_int = 200;

#[derive(Default)]
pub(super) struct Links {
    next: c_int,
}

impl Links {
    /// Looks at some more descriptors.
    pub fn hurry(&mut self) {
        for fd in self.next..self.next + PER_TICK {
            // A descriptor that is closed, or no TCP socket, answers an error.
            if option(fd) == Some(0) {
                set_option(fd);
            }
        }
        self.next += PER_TICK;
        if self.next >= most_descriptors() {
            self.next = 0;
        }
    }
}

fn option(fd: c_int) -> Option<c_int> {
    let (mut value, mut len) = (0_i32, size_of::<c_int>() as libc::socklen_t);
    let place = std::ptr::from_mut(&mut value).cast::<c_void>();
    // SAFETY: the kernel writes one integer to a place for one, and refuses what is no TCP socket.
    let status = unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, place, &mut len) };
    (status == 0).then_some(value)
}

fn set_option(fd: c_int) {
    let (value, len) = (1_i32, size_of::<c_int>() as libc::socklen_t);
    // SAFETY: the kernel reads one integer. The option changes when bytes are sent, never what is sent.
    unsafe { libc::setsockopt(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, std::ptr::from_ref(&value).cast(), len) };
}

fn most_descriptors() -> c_int {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes one such structure.
    let status = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    if status == 0 { c_int::try_from(limit.rlim_cur).unwrap_or(1_000_000).min(1_000_000) } else { 1_024 }
}
