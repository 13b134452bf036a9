//! What the keys around a sale are called, and what a sale is called downstream.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

/// What stands for itself in a webhook id. The full stop does not: the signature of the Standard
/// Webhooks spec joins its parts with full stops.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b':').remove(b'~');

/// The names that belong to one shard's order stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamNames {
    /// The key of the shard itself.
    pub key: Vec<u8>,
    /// Its order stream.
    pub orders: Vec<u8>,
    /// Entries that could not be delivered.
    pub dead: Vec<u8>,
    /// Which relay reads the stream now.
    pub lease: Vec<u8>,
    /// The sale's name: the key without the shard's hash tag.
    pub sale: Vec<u8>,
    /// The number in the shard's hash tag, 0 for a sale of one key.
    pub shard: u64,
}

impl StreamNames {
    /// All names of the shard that lives in `key`; they share its cluster slot.
    pub fn of_key(key: &[u8]) -> Self {
        let orders = if has_hash_tag(key) { [key, b":orders"].concat() } else { [b"{", key, b"}:orders"].concat() };
        let (sale, shard) = sale_and_shard(key);
        Self {
            key: key.to_vec(),
            dead: [&orders[..], b":dead"].concat(),
            lease: [&orders[..], b":relay"].concat(),
            sale: sale.to_vec(),
            shard,
            orders,
        }
    }

    /// The `webhook-id` of entry `no`: the same on every try, whichever relay delivers it.
    pub fn webhook_id(&self, no: u64) -> String {
        format!("{}/{}/{no}", percent_encode(&self.sale, PLAIN), self.shard)
    }

    /// The key as it is written in logs and metrics.
    pub fn label(&self) -> String {
        String::from_utf8_lossy(&self.key).into_owned()
    }
}

/// Whether Redis Cluster hashes only a part of the key: the first `{`, and a `}` after at least one byte.
fn has_hash_tag(key: &[u8]) -> bool {
    let Some(open) = key.iter().position(|byte| *byte == b'{') else {
        return false;
    };
    matches!(key[open + 1..].iter().position(|byte| *byte == b'}'), Some(length) if length > 0)
}

/// A shard's key is `NAME{TAG}` with a decimal tag; any other key is a whole sale.
fn sale_and_shard(key: &[u8]) -> (&[u8], u64) {
    let parts = || {
        let inner = key.strip_suffix(b"}")?;
        let open = inner.iter().position(|byte| *byte == b'{')?;
        let (name, tag) = (&inner[..open], &inner[open + 1..]);
        let canonical = tag == b"0" || !tag.starts_with(b"0");
        let decimal = !tag.is_empty() && tag.len() <= 10 && tag.iter().all(u8::is_ascii_digit);
        let shard = std::str::from_utf8(tag).ok()?.parse().ok()?;
        (!name.is_empty() && canonical && decimal).then_some((name, shard))
    };
    parts().unwrap_or((key, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn orders(key: &[u8]) -> String {
        String::from_utf8_lossy(&StreamNames::of_key(key).orders).into_owned()
    }

    #[test]
    fn the_stream_shares_the_slot_of_its_key() {
        assert_eq!(orders(b"sale:42"), "{sale:42}:orders");
        assert_eq!(orders(b"sale:42{17}"), "sale:42{17}:orders");
        assert_eq!(orders(b"{eu}sale"), "{eu}sale:orders");
        assert_eq!(orders(b"odd{"), "{odd{}:orders");
        assert_eq!(orders(b"odd{}"), "{odd{}}:orders");
    }

    #[test]
    fn a_shard_is_told_by_its_decimal_tag() {
        let shard = StreamNames::of_key(b"sale:42{17}");
        assert_eq!((&shard.sale[..], shard.shard), (&b"sale:42"[..], 17));
        for whole in ["sale:42", "{17}", "sale{eu}", "sale{017}", "sale{1}x", "a{}"] {
            let names = StreamNames::of_key(whole.as_bytes());
            assert_eq!((&names.sale[..], names.shard), (whole.as_bytes(), 0));
        }
    }

    #[test]
    fn a_webhook_id_is_safe_in_a_header_and_in_the_signature() {
        assert_eq!(StreamNames::of_key(b"sale:42").webhook_id(7), "sale:42/0/7");
        assert_eq!(StreamNames::of_key(b"sale:42{17}").webhook_id(7), "sale:42/17/7");
        assert_eq!(StreamNames::of_key(b"a.b/c\r\n\xff").webhook_id(1), "a%2Eb%2Fc%0D%0A%FF/0/1");
    }
}
