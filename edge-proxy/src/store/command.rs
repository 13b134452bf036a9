//! The commands of the contract's section 4 that the edge sends.

use bytes::Bytes;
use redis::Cmd;

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
        reference: Option<String>,
        meta: Option<String>,
    },
    Release {
        id: Bytes,
    },
    Extend {
        id: Bytes,
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
            | Command::Release { id }
            | Command::Extend { id, .. } => Some(id),
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
    pub fn encode(&self, key: &[u8]) -> Cmd {
        let mut cmd = Cmd::new();
        match self {
            Command::Reserve { id, buyer, items, meta, not_after_ms } => {
                cmd.arg("FLASH.RESERVE").arg(key);
                cmd.arg(id.as_deref().unwrap_or(b"*")).arg(&buyer[..]);
                cmd.arg("NOTAFTER").arg(*not_after_ms);
                text(&mut cmd, "META", meta);
                push_items(&mut cmd, items);
            }
            Command::Order { id, buyer, items, reference, meta } => {
                cmd.arg("FLASH.ORDER").arg(key).arg(&id[..]).arg(&buyer[..]);
                text(&mut cmd, "REF", reference);
                text(&mut cmd, "META", meta);
                push_items(&mut cmd, items);
            }
            Command::Confirm { id, reference, meta } => {
                cmd.arg("FLASH.CONFIRM").arg(key).arg(&id[..]);
                text(&mut cmd, "REF", reference);
                text(&mut cmd, "META", meta);
            }
            Command::Release { id } => {
                cmd.arg("FLASH.RELEASE").arg(key).arg(&id[..]);
            }
            Command::Extend { id, by_ms } => {
                cmd.arg("FLASH.EXTEND").arg(key).arg(&id[..]).arg(*by_ms);
            }
        }
        cmd
    }
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
        let cmd = command.encode(b"sale:1");
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
        assert_eq!(words(&named), "FLASH.RESERVE sale:1 h b NOTAFTER 99 ITEMS S 2");
        assert!(named.may_be_repeated() && !reserve(None).may_be_repeated());

        let order = Command::Order {
            id: Bytes::from_static(b"h"),
            buyer: Bytes::from_static(b"b"),
            items: items(),
            reference: Some("R 1".to_owned()),
            meta: Some("M".to_owned()),
        };
        assert_eq!(words(&order), "FLASH.ORDER sale:1 h b REF R 1 META M ITEMS S 2");
        let confirm = Command::Confirm { id: Bytes::from_static(b"h"), reference: Some("R".to_owned()), meta: None };
        assert_eq!(words(&confirm), "FLASH.CONFIRM sale:1 h REF R");
        let id = Bytes::from_static(b"h");
        assert_eq!(words(&Command::Release { id: id.clone() }), "FLASH.RELEASE sale:1 h");
        assert_eq!(words(&Command::Extend { id, by_ms: 5 }), "FLASH.EXTEND sale:1 h 5");
    }
}
