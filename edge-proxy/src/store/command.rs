//! The commands of the contract's section 4 that the edge sends.

use bytes::Bytes;
use redis::Cmd;

use super::nodes::Dialect;
use crate::http::input::Item;

/// One command on a sale.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Reserve {
        /// `None` has the server make one.
        id: Option<Bytes>,
        buyer: Bytes,
        items: Vec<Item>,
        meta: Option<String>,
        /// Unix milliseconds by the server's clock after which nobody waits for the answer any more.
        not_after_ms: u64,
    },
    Order {
        id: Bytes,
        buyer: Bytes,
        items: Vec<Item>,
        reference: Option<String>,
        meta: Option<String>,
    },
    Confirm {
        id: Bytes,
        /// Whose hold it is, which tells the shard; `None` if the caller does not know.
        buyer: Option<Bytes>,
        reference: Option<String>,
        meta: Option<String>,
    },
    Release {
        id: Bytes,
        /// As in `Confirm`.
        buyer: Option<Bytes>,
    },
    Extend {
        id: Bytes,
        /// As in `Confirm`.
        buyer: Option<Bytes>,
        by_ms: u64,
    },
}

impl Command {
    /// Name of the command in metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Command::Reserve { .. } => "reserve",
            Command::Order { .. } => "order",
            Command::Confirm { .. } => "confirm",
            Command::Release { .. } => "release",
            Command::Extend { .. } => "extend",
        }
    }

    /// The client's hold id; `None` if the server makes one.
    pub fn id(&self) -> Option<&Bytes> {
        match self {
            Command::Reserve { id, .. } => id.as_ref(),
            Command::Order { id, .. }
            | Command::Confirm { id, .. }
            | Command::Release { id, .. }
            | Command::Extend { id, .. } => Some(id),
        }
    }

    /// The units that it takes.
    pub fn items(&self) -> &[Item] {
        match self {
            Command::Reserve { items, .. } | Command::Order { items, .. } => items,
            Command::Confirm { .. } | Command::Release { .. } | Command::Extend { .. } => &[],
        }
    }

    /// Whose hold it is about, if the caller knows.
    pub fn buyer(&self) -> Option<&Bytes> {
        match self {
            Command::Reserve { buyer, .. } | Command::Order { buyer, .. } => Some(buyer),
            Command::Confirm { buyer, .. } | Command::Release { buyer, .. } | Command::Extend { buyer, .. } => {
                buyer.as_ref()
            }
        }
    }

    /// Whether somebody outside acts on the answer, so that replicas must have it first.
    pub fn is_a_promise(&self) -> bool {
        matches!(self, Command::Order { .. } | Command::Confirm { .. })
    }

    /// Whether sending it twice does what sending it once does.
    pub fn may_be_repeated(&self) -> bool {
        self.id().is_some()
    }

    /// The command as it goes over the wire.
    pub fn encode(&self, dialect: Dialect, key: &[u8]) -> Cmd {
        match self {
            Command::Reserve { id, buyer, items, meta, not_after_ms } => {
                let mut cmd = dialect.command("RESERVE", key);
                cmd.arg(id_or_star(id)).arg(&buyer[..]);
                push_terms(&mut cmd, id.is_some(), *not_after_ms);
                text(&mut cmd, "META", meta);
                push_items(&mut cmd, items);
                cmd
            }
            Command::Order { id, buyer, items, reference, meta } => {
                let mut cmd = dialect.command("ORDER", key);
                cmd.arg(&id[..]).arg(&buyer[..]);
                text(&mut cmd, "REF", reference);
                text(&mut cmd, "META", meta);
                push_items(&mut cmd, items);
                cmd
            }
            Command::Confirm { id, reference, meta, .. } => {
                let mut cmd = dialect.command("CONFIRM", key);
                cmd.arg(&id[..]);
                text(&mut cmd, "REF", reference);
                text(&mut cmd, "META", meta);
                cmd
            }
            Command::Release { id, .. } => dialect.command("RELEASE", key).arg(&id[..]).to_owned(),
            Command::Extend { id, by_ms, .. } => dialect.command("EXTEND", key).arg(&id[..]).arg(*by_ms).to_owned(),
        }
    }
}

/// Ends of the library's other hashes of a sale (the head of `lua/flashsale.lua`).
const SIDE_HASHES: &[&[u8]] = &[b":holds", b":slots", b":buyers"];

/// Commands that change nothing.
const READERS: &[&str] = &["INFO", "HOLD", "BUYER", "HOLDS", "AUDIT"];

impl Dialect {
    /// What `TYPE` says of a sale's key.
    pub fn key_type(self) -> &'static str {
        match self {
            Dialect::Module => "flashsale",
            Dialect::Functions => "hash",
        }
    }

    /// Whether a key of [`Dialect::key_type`] may be that of a sale.
    pub fn may_be_sale(self, key: &[u8]) -> bool {
        self == Dialect::Module || !SIDE_HASHES.iter().any(|end| key.ends_with(end))
    }

    /// The command `FLASH.{name}` on the sale (shard) `key`, to be followed by its other words.
    pub fn command(self, name: &str, key: &[u8]) -> Cmd {
        match self {
            Dialect::Module => redis::cmd(&format!("FLASH.{name}")).arg(key).to_owned(),
            Dialect::Functions => {
                let call = if READERS.contains(&name) { "FCALL_RO" } else { "FCALL" };
                let function = format!("flash_{}", name.to_ascii_lowercase());
                redis::cmd(call).arg(function).arg(1).arg(key).to_owned()
            }
        }
    }
}

/// What every reservation asks for. One under the client's own id must tell whether it is the first.
pub(super) fn push_terms(cmd: &mut Cmd, is_named: bool, not_after_ms: u64) {
    if is_named {
        cmd.arg("REPEATED");
    }
    cmd.arg("NOTAFTER").arg(not_after_ms);
}

/// What a reservation says where its id stands.
pub(super) fn id_or_star(id: &Option<Bytes>) -> &[u8] {
    id.as_deref().unwrap_or(b"*")
}

fn text(cmd: &mut Cmd, name: &str, value: &Option<String>) {
    if let Some(value) = value {
        cmd.arg(name).arg(value);
    }
}

fn push_items(cmd: &mut Cmd, items: &[Item]) {
    cmd.arg("ITEMS");
    for item in items {
        cmd.arg(&item.sku[..]).arg(item.quantity);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(command: &Command) -> String {
        spelled(&command.encode(Dialect::Module, b"sale:1"))
    }

    fn spelled(cmd: &Cmd) -> String {
        let words: Vec<String> = cmd
            .args_iter()
            .map(|word| match word {
                redis::Arg::Simple(bytes) => String::from_utf8_lossy(bytes).into_owned(),
                _ => String::new(),
            })
            .collect();
        words.join(" ")
    }

    fn items() -> Vec<Item> {
        vec![Item { sku: Bytes::from_static(b"S"), quantity: 2 }]
    }

    #[test]
    fn commands_are_those_of_the_contract() {
        let reserve =
            |id| Command::Reserve { id, buyer: Bytes::from_static(b"b"), items: items(), meta: None, not_after_ms: 99 };
        assert_eq!(words(&reserve(None)), "FLASH.RESERVE sale:1 * b NOTAFTER 99 ITEMS S 2");
        let named = reserve(Some(Bytes::from_static(b"h")));
        assert_eq!(words(&named), "FLASH.RESERVE sale:1 h b REPEATED NOTAFTER 99 ITEMS S 2");
        assert!(named.may_be_repeated() && !reserve(None).may_be_repeated());

        let order = Command::Order {
            id: Bytes::from_static(b"h"),
            buyer: Bytes::from_static(b"b"),
            items: items(),
            reference: Some("R 1".to_owned()),
            meta: Some("M".to_owned()),
        };
        assert_eq!(words(&order), "FLASH.ORDER sale:1 h b REF R 1 META M ITEMS S 2");
        let confirm =
            Command::Confirm { id: Bytes::from_static(b"h"), buyer: None, reference: Some("R".to_owned()), meta: None };
        assert_eq!(words(&confirm), "FLASH.CONFIRM sale:1 h REF R");
        let id = Bytes::from_static(b"h");
        assert_eq!(words(&Command::Release { id: id.clone(), buyer: None }), "FLASH.RELEASE sale:1 h");
        assert_eq!(words(&Command::Extend { id, buyer: None, by_ms: 5 }), "FLASH.EXTEND sale:1 h 5");
    }
    #[test]
    fn functions_are_called_by_their_names() {
        let release = Command::Release { id: Bytes::from_static(b"h"), buyer: None };
        assert_eq!(spelled(&release.encode(Dialect::Functions, b"k")), "FCALL flash_release 1 k h");
        assert_eq!(spelled(&Dialect::Functions.command("INFO", b"k")), "FCALL_RO flash_info 1 k");
        assert_eq!(spelled(&Dialect::Module.command("INFO", b"k")), "FLASH.INFO k");
    }
}
