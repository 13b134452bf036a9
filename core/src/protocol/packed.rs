//! The packed form of MRESERVE: one [MessagePack] array in, one out.
//!
//! A server reads and writes every word of a command and every part of an answer one by one, at a few hundred
//! instructions each. A batch in one word and one part is many times cheaper, and every language has the format.
//!
//! [MessagePack]: https://github.com/msgpack/msgpack/blob/master/spec.md

use super::ParseError;
use super::reply::Reply;
use super::words::checked_name;
use crate::bounds;
use crate::command::{Command, Item, Items, Reserve};
use rmp::Marker;
use rmp::decode::{self, Bytes, RmpRead};
use rmp::encode;

/// How many elements of the array are one hold: id, buyer, SKU, quantity.
const ELEMENTS: usize = 4;
/// A hold takes no fewer bytes: an array that claims more holds than it has bytes for gets no memory for them.
const LEAST_BYTES: usize = 7;

/// What all holds of a batch share.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Common {
    pub ttl_ms: Option<u64>,
    pub not_after: Option<u64>,
    pub tell_repeated: bool,
}

/// Reads holds: an array `[id, buyer, sku, qty, id, buyer, sku, qty, ...]` of strings (str or bin) and integers.
pub(super) fn holds<'a>(bytes: &'a [u8], common: Common) -> Result<Vec<Command<'a>>, Box<ParseError>> {
    let mut reader = Reader { bytes: Bytes::new(bytes), len: bytes.len() };
    let elements = reader.array_len()?;
    if elements == 0 || !elements.is_multiple_of(ELEMENTS) {
        return Err(ParseError::Groups { what: "PACKED", form: "id buyer sku qty", words: elements }.into());
    }
    let count = elements / ELEMENTS;
    let mut holds = Vec::with_capacity(count.min(bytes.len() / LEAST_BYTES));
    for _ in 0..count {
        let id = reader.name("id")?;
        let buyer = reader.name("buyer")?;
        let sku = reader.name("SKU")?;
        let mut items = Items::new();
        items.push(Item { sku, qty: reader.quantity()? });
        holds.push(Command::Reserve(Reserve {
            id: (id != b"*").then_some(id),
            buyer,
            items,
            ttl_ms: common.ttl_ms,
            not_after: common.not_after,
            up_to: false,
            tell_repeated: common.tell_repeated,
            replace: None,
            meta: None,
        }));
    }
    match reader.bytes.remaining_slice() {
        [] => Ok(holds),
        _ => Err(reader.expected("the end")),
    }
}

struct Reader<'a> {
    bytes: Bytes<'a>,
    len: usize,
}

impl<'a> Reader<'a> {
    #[cold]
    fn expected(&self, what: &'static str) -> Box<ParseError> {
        Box::new(ParseError::Packed { expected: what, at: self.len - self.bytes.remaining_slice().len() })
    }

    fn array_len(&mut self) -> Result<usize, Box<ParseError>> {
        decode::read_array_len(&mut self.bytes).map(|len| len as usize).map_err(|_| self.expected("an array"))
    }

    fn name(&mut self, what: &'static str) -> Result<&'a [u8], Box<ParseError>> {
        const STRING: &str = "a string";
        let marker = decode::read_marker(&mut self.bytes).map_err(|_| self.expected(STRING))?;
        let len = match marker {
            Marker::FixStr(len) => Ok(u64::from(len)),
            Marker::Str8 | Marker::Bin8 => self.bytes.read_data_u8().map(u64::from),
            Marker::Str16 | Marker::Bin16 => self.bytes.read_data_u16().map(u64::from),
            Marker::Str32 | Marker::Bin32 => self.bytes.read_data_u32().map(u64::from),
            _ => return Err(self.expected(STRING)),
        };
        let len = len.map_err(|_| self.expected("the length of a string"))? as usize;
        let rest = self.bytes.remaining_slice();
        let (name, rest) = rest.split_at_checked(len).ok_or_else(|| self.expected("all bytes of a string"))?;
        self.bytes = Bytes::new(rest);
        checked_name(name, what)
    }

    fn quantity(&mut self) -> Result<u32, Box<ParseError>> {
        let qty: i64 = decode::read_int(&mut self.bytes).map_err(|_| self.expected("an integer"))?;
        let allowed = 1..=i64::from(bounds::MAX_QUANTITY);
        if !allowed.contains(&qty) {
            let given = qty.to_string().into_bytes().into();
            return Err(ParseError::Number { what: "qty", given, min: *allowed.start(), max: *allowed.end() }.into());
        }
        Ok(qty as u32)
    }
}

/// Takes replies and packs them: arrays, strings (str, whatever their bytes), integers, nil. An error is the array
/// `["ERR", text]`.
#[derive(Debug, Default)]
pub struct Packed {
    bytes: Vec<u8>,
}

/// A reply that was longer than this gives its memory back.
const MOST_KEPT_BYTES: usize = 64 * 1024;

impl Packed {
    /// Forgets everything but a moderate buffer.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(MOST_KEPT_BYTES);
    }

    /// What was packed.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

// Writing into memory cannot fail: the results below say nothing.
impl Reply for Packed {
    fn array(&mut self, len: usize) {
        let _ = encode::write_array_len(&mut self.bytes, len as u32);
    }

    fn map(&mut self, len: usize) {
        let _ = encode::write_map_len(&mut self.bytes, len as u32);
    }

    fn ok(&mut self) {
        self.bytes(b"OK");
    }

    fn bytes(&mut self, bytes: &[u8]) {
        let _ = encode::write_str_len(&mut self.bytes, bytes.len() as u32);
        self.bytes.extend_from_slice(bytes);
    }

    fn integer(&mut self, number: i64) {
        let _ = encode::write_sint(&mut self.bytes, number);
    }

    fn null(&mut self) {
        let _ = encode::write_nil(&mut self.bytes);
    }

    fn error(&mut self, text: &str) {
        self.array(2);
        self.bytes(b"ERR");
        self.bytes(text.strip_prefix("ERR ").unwrap_or(text).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Hold<'a> = (&'a [u8], &'a [u8], &'a [u8], i64);

    fn packed(holds: &[Hold<'_>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode::write_array_len(&mut bytes, (holds.len() * ELEMENTS) as u32).unwrap();
        for (id, buyer, sku, qty) in holds {
            encode::write_bin(&mut bytes, id).unwrap();
            encode::write_str_len(&mut bytes, buyer.len() as u32).unwrap();
            bytes.extend_from_slice(buyer);
            encode::write_bin(&mut bytes, sku).unwrap();
            encode::write_sint(&mut bytes, *qty).unwrap();
        }
        bytes
    }

    fn parse(bytes: &[u8]) -> Result<Vec<Command<'_>>, Box<ParseError>> {
        holds(bytes, Common::default())
    }

    #[test]
    fn holds_are_read() {
        let long = [7; 128];
        let bytes = packed(&[(b"h1", b"ann", b"tee", 1), (b"*", &long, b"\xff\0", 2_147_483_647)]);
        let holds = parse(&bytes).unwrap();
        let [Command::Reserve(one), Command::Reserve(other)] = &holds[..] else { panic!("{holds:?}") };
        assert_eq!(
            (one.id, one.buyer, one.items[0].sku, one.items[0].qty),
            (Some(&b"h1"[..]), &b"ann"[..], &b"tee"[..], 1)
        );
        assert_eq!((other.id, other.buyer, other.items[0].sku), (None, &long[..], &b"\xff\0"[..]));
        assert_eq!(other.items[0].qty, 2_147_483_647);
    }

    #[test]
    fn whatever_is_cut_off_or_added_is_refused_with_its_place() {
        let bytes = packed(&[(b"h1", b"ann", b"tee", 300)]);
        for cut in 0..bytes.len() {
            let error = parse(&bytes[..cut]).unwrap_err();
            assert!(matches!(*error, ParseError::Packed { at, .. } if at <= cut), "{cut}: {error}");
        }
        let error = parse(&[&bytes[..], b"x"].concat()).unwrap_err();
        assert_eq!(*error, ParseError::Packed { expected: "the end", at: bytes.len() });
    }

    #[test]
    fn wrong_values_are_named() {
        for (bytes, said) in [
            (packed(&[]), "PACKED needs at least one"),
            (packed(&[(b"", b"ann", b"tee", 1)]), "id is 0 bytes long"),
            (packed(&[(b"h", &[0; 129], b"tee", 1)]), "buyer is 129 bytes long"),
            (packed(&[(b"h", b"ann", b"tee", 0)]), "qty '0' is not an integer in 1..2147483647"),
            (packed(&[(b"h", b"ann", b"tee", -5)]), "qty '-5'"),
            (packed(&[(b"h", b"ann", b"tee", 1 << 31)]), "qty '2147483648'"),
            (vec![0x91, 0xa1, b'h'], "1 words are no whole groups"),
            (vec![0xc0], "an array is expected"),
            // An array of four thousand million elements in five bytes.
            (vec![0xdd, 0xff, 0xff, 0xff, 0xfc], "a string is expected"),
            (vec![0x94, 0xc2], "a string is expected"),
        ] {
            let error = parse(&bytes).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn replies_are_packed() {
        let mut reply = Packed::default();
        reply.array(2);
        reply.array(3);
        reply.bytes(b"RESERVED");
        reply.bytes(b"h1");
        reply.integer(1_795_178_040_203);
        reply.error("ERR no");
        let expected = b"\x92\x93\xa8RESERVED\xa2h1\xcf\x00\x00\x01\xa1\xf8\xf3\x0b\x8b\x92\xa3ERR\xa2no";
        assert_eq!(reply.as_bytes(), expected);
        reply.clear();
        assert_eq!(reply.as_bytes(), b"");
    }
}
