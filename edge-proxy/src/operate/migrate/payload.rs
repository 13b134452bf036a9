//! A sale as `RESTORE` takes it: the module's value in an RDB dump, made here in place of a server.

use crc::{CRC_64_REDIS, Crc};
use flashsale_core::Sale;

/// The type's name and the version of its encoding, as the module registers them.
const TYPE_NAME: &[u8; 9] = b"flashsale";
const ENCODING_VERSION: u64 = 1;
/// A value of a module, with every part of it marked by its kind.
const RDB_TYPE_MODULE_2: u8 = 7;
const OPCODE_STRING: u64 = 5;
const OPCODE_END: u64 = 0;
/// The version of RDB that every supported server reads: that of Redis 7.0.
const RDB_VERSION: u16 = 10;

const CRC64: Crc<u64> = Crc::<u64>::new(&CRC_64_REDIS);

/// The payload.
pub fn payload(sale: &Sale) -> Vec<u8> {
    let mut out = vec![RDB_TYPE_MODULE_2];
    put_length(&mut out, type_id());
    sale.snapshot(|chunk| {
        put_length(&mut out, OPCODE_STRING);
        put_length(&mut out, chunk.len() as u64);
        out.extend_from_slice(chunk);
    });
    put_length(&mut out, OPCODE_END);
    out.extend_from_slice(&RDB_VERSION.to_le_bytes());
    let checksum = CRC64.checksum(&out);
    out.extend_from_slice(&checksum.to_le_bytes());
    out
}

/// Nine characters of six bits each, and ten bits of version.
fn type_id() -> u64 {
    const CHARACTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let code = |sign: &u8| CHARACTERS.iter().position(|other| other == sign).unwrap_or(0) as u64;
    TYPE_NAME.iter().fold(0, |id, sign| id << 6 | code(sign)) << 10 | ENCODING_VERSION
}

/// RDB's own lengths: 6, 14, 32 or 64 bits, the longer ones with their highest byte first.
fn put_length(out: &mut Vec<u8>, length: u64) {
    match length {
        0..0x40 => out.push(length as u8),
        0x40..0x4000 => out.extend_from_slice(&[0x40 | (length >> 8) as u8, length as u8]),
        0x4000..=0xffff_ffff => {
            out.push(0x80);
            out.extend_from_slice(&(length as u32).to_be_bytes());
        }
        _ => {
            out.push(0x81);
            out.extend_from_slice(&length.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_those_of_rdb() {
        let put = |length| {
            let mut out = Vec::new();
            put_length(&mut out, length);
            out
        };
        assert_eq!(put(63), [63]);
        assert_eq!(put(64), [0x40, 64]);
        assert_eq!(put(16_383), [0x7f, 0xff]);
        assert_eq!(put(65_536), [0x80, 0, 1, 0, 0]);
        assert_eq!(put(1 << 40), [0x81, 0, 0, 1, 0, 0, 0, 0, 0]);
    }
}
