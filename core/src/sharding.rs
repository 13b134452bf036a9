//! Where shards and buyers live (the contract's section 3).

use crc::{CRC_16_XMODEM, Crc};
use std::sync::LazyLock;

/// Slots of a Redis Cluster.
pub const SLOTS: u32 = 16_384;

const CRC16: Crc<u16> = Crc::<u16>::new(&CRC_16_XMODEM);

/// The cluster slot of a key, by the Redis Cluster specification: CRC16 of the hash tag, or of all.
pub fn key_slot(key: &[u8]) -> u32 {
    u32::from(CRC16.checksum(hash_tag(key).unwrap_or(key))) % SLOTS
}

/// What stands between the first `{` and the next `}`, if anything does.
pub fn hash_tag(key: &[u8]) -> Option<&[u8]> {
    let open = key.iter().position(|&byte| byte == b'{')?;
    let rest = &key[open + 1..];
    let close = rest.iter().position(|&byte| byte == b'}')?;
    (close > 0).then(|| &rest[..close])
}

/// The shard where a buyer lives: buyers never move, stock moves to them.
pub fn home_shard(buyer: &[u8], shards: u32) -> u32 {
    if shards <= 1 { 0 } else { key_slot(buyer) % shards }
}

/// The slot that shard `index` of `shards` lies in: shards spread evenly over evenly divided slots.
pub fn shard_slot(index: u32, shards: u32) -> u32 {
    (2 * index + 1) * SLOTS / (2 * shards)
}

/// The smallest decimal number whose slot is the shard's.
pub fn shard_tag(index: u32, shards: u32) -> u32 {
    static SMALLEST: LazyLock<Vec<u32>> = LazyLock::new(|| {
        let mut smallest = vec![u32::MAX; SLOTS as usize];
        let mut missing = SLOTS;
        let mut number = 0_u32;
        while missing > 0 {
            let entry = &mut smallest[key_slot(number.to_string().as_bytes()) as usize];
            if *entry == u32::MAX {
                *entry = number;
                missing -= 1;
            }
            number += 1;
        }
        smallest
    });
    SMALLEST[shard_slot(index, shards) as usize]
}

/// The key of a shard of the sale `name`.
pub fn shard_key(name: &[u8], index: u32, shards: u32) -> Vec<u8> {
    let mut key = name.to_vec();
    key.extend_from_slice(format!("{{{}}}", shard_tag(index, shards)).as_bytes());
    key
}

/// The sale's name, if `key` is where the contract puts this shard of it.
pub fn sale_of_shard(key: &[u8], index: u32, shards: u32) -> Option<&[u8]> {
    let name = &key[..key.iter().position(|&byte| byte == b'{')?];
    (index < shards && shard_key(name, index, shards) == key).then_some(name)
}

/// The key of another shard, from the key of one: `NAME{TAG}` with another tag.
pub fn sibling_key(key: &[u8], index: u32, shards: u32) -> Vec<u8> {
    let name = key.iter().position(|&byte| byte == b'{').map_or(key, |open| &key[..open]);
    shard_key(name, index, shards)
}

/// The key of the order stream that belongs to a key: in the same slot always.
pub fn stream_key(key: &[u8]) -> Vec<u8> {
    match hash_tag(key) {
        Some(_) => [key, b":orders"].concat(),
        None => [b"{", key, b"}:orders"].concat(),
    }
}

/// Whether [`stream_key`] lies in the slot of the key. A key with a `}` but no hash tag has no such stream:
/// in `{a}b}:orders` the tag is `a`.
pub fn has_stream_in_its_slot(key: &[u8]) -> bool {
    hash_tag(key).is_some() || !key.contains(&b'}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(CRC16.checksum(b"123456789"), 0x31c3);
        assert_eq!(key_slot(b"foo{}{bar}"), key_slot(b"foo{}{bar}"));
        assert_eq!(hash_tag(b"foo{}{bar}"), None);
        assert_eq!(hash_tag(b"foo{{bar}}zap"), Some(&b"{bar"[..]));
        assert_eq!(key_slot(b"{user1000}.following"), key_slot(b"{user1000}.followers"));
    }

    #[test]
    fn shards_lie_where_the_contract_says() {
        for shards in [1, 2, 3, 12, 1000, SLOTS] {
            for index in [0, shards / 2, shards - 1] {
                let tag = shard_tag(index, shards);
                assert_eq!(key_slot(tag.to_string().as_bytes()), shard_slot(index, shards));
                let earlier = (0..tag).find(|n| key_slot(n.to_string().as_bytes()) == shard_slot(index, shards));
                assert_eq!(earlier, None);
            }
        }
        assert_eq!(sibling_key(b"sale{3}", 1, 2), shard_key(b"sale", 1, 2));
        assert_eq!(sale_of_shard(&shard_key(b"sale", 1, 3), 1, 3), Some(&b"sale"[..]));
        assert_eq!(sale_of_shard(&shard_key(b"sale", 1, 3), 2, 3), None);
        assert_eq!(sale_of_shard(b"sale", 0, 3), None);
    }

    #[test]
    fn the_stream_shares_the_slot_of_its_key() {
        for key in [&b"sale:42"[..], b"sale{7}", b"a{b", b"\xff{x}\0", b"}{x}"] {
            assert!(has_stream_in_its_slot(key));
            assert_eq!(key_slot(&stream_key(key)), key_slot(key));
        }
        assert!(!has_stream_in_its_slot(b"a{}b") && !has_stream_in_its_slot(b"a}b"));
    }
}
