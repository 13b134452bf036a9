//! Faults on demand, for tests that prove that a bug in a rule stops a command and not the server. Only compiled
//! with the feature `fault-injection`, which nothing that is shipped asks for.

use crate::Command;

/// A command that names this id meets a bug while it is decided.
pub const PANICKING_ID: &[u8] = b"panic-in-decide";

/// Panics if the command asks for it.
pub(crate) fn trip(command: &Command<'_>) {
    let id = match command {
        Command::Reserve(reserve) => reserve.id,
        Command::Order(order) => order.id,
        Command::Confirm(confirm) => Some(confirm.id),
        Command::Release(release) => Some(release.id),
        Command::Extend { id, .. } => Some(*id),
        Command::Return(returned) => Some(returned.id),
        _ => None,
    };
    assert!(id != Some(PANICKING_ID), "a fault was injected");
}
