//! Bytes in and out: varints (LEB128) and strings with their length before them.
//!
//! Effects and snapshots are written by this. Reading trusts nothing: a length is compared with what is
//! there before anything is allocated.

use std::fmt;

/// A place to write to.
pub(crate) trait Sink {
    fn put(&mut self, bytes: &[u8]);
    fn put_byte(&mut self, byte: u8);
}

impl Sink for Vec<u8> {
    #[inline]
    fn put_byte(&mut self, byte: u8) {
        self.push(byte);
    }

    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

#[inline]
pub(crate) fn put_varint(sink: &mut impl Sink, value: u64) {
    if value < 0x80 {
        return sink.put_byte(value as u8);
    }
    put_long_varint(sink, value);
}

fn put_long_varint(sink: &mut impl Sink, mut value: u64) {
    let mut bytes = [0; 10];
    let mut len = 0;
    loop {
        bytes[len] = value as u8 & 0x7f;
        value >>= 7;
        if value == 0 {
            break;
        }
        bytes[len] |= 0x80;
        len += 1;
    }
    sink.put(&bytes[..=len]);
}

/// Zigzag: small negative numbers stay short.
pub(crate) fn put_signed(sink: &mut impl Sink, value: i64) {
    put_varint(sink, (value << 1 ^ value >> 63) as u64);
}

pub(crate) fn put_bytes(sink: &mut impl Sink, bytes: &[u8]) {
    put_varint(sink, bytes.len() as u64);
    sink.put(bytes);
}

/// A present value as itself plus one, an absent one as 0 (lengths and numbers below 2^63).
pub(crate) fn put_optional_bytes(sink: &mut impl Sink, bytes: Option<&[u8]>) {
    match bytes {
        None => put_varint(sink, 0),
        Some(bytes) => {
            put_varint(sink, bytes.len() as u64 + 1);
            sink.put(bytes);
        }
    }
}

/// Why bytes were refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(
    /// What was expected.
    pub &'static str,
);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed data: {}", self.0)
    }
}

impl std::error::Error for Malformed {}

/// A number no larger than `max`.
#[inline]
pub(crate) fn within(number: u64, max: u64, what: &'static str) -> Result<u64, Malformed> {
    if number <= max { Ok(number) } else { Err(Malformed(what)) }
}

/// A name of 1..128 bytes.
pub(crate) fn name(name: &[u8]) -> Result<&[u8], Malformed> {
    let fits = (1..=crate::bounds::MAX_NAME_BYTES).contains(&name.len());
    if fits { Ok(name) } else { Err(Malformed("a name is not 1..128 bytes long")) }
}

/// A text of at most `max` bytes.
pub(crate) fn text(text: Option<&[u8]>, max: usize) -> Result<Option<&[u8]>, Malformed> {
    if text.is_some_and(|text| text.len() > max) { Err(Malformed("a text is too long")) } else { Ok(text) }
}

/// Reads what the `put` functions wrote.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub fn byte(&mut self) -> Result<u8, Malformed> {
        let (&first, rest) = self.rest.split_first().ok_or(Malformed("a byte is missing"))?;
        self.rest = rest;
        Ok(first)
    }

    #[inline]
    pub fn varint(&mut self) -> Result<u64, Malformed> {
        match self.rest {
            [small @ ..0x80, rest @ ..] => {
                self.rest = rest;
                Ok(u64::from(*small))
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed("a number is longer than 64 bits"))
    }

    pub fn signed(&mut self) -> Result<i64, Malformed> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// A number no larger than `max`.
    pub fn number(&mut self, max: u64, what: &'static str) -> Result<u64, Malformed> {
        within(self.varint()?, max, what)
    }

    /// A number of 32 bits.
    pub fn u32(&mut self, what: &'static str) -> Result<u32, Malformed> {
        u32::try_from(self.varint()?).map_err(|_| Malformed(what))
    }

    pub fn exactly(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or(Malformed("a string is cut short"))?;
        self.rest = rest;
        Ok(bytes)
    }

    pub fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let len = self.number(u32::MAX.into(), "a string is too long")?;
        self.exactly(len as usize)
    }

    pub fn optional_bytes(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        match self.number(u32::MAX.into(), "a string is too long")? {
            0 => Ok(None),
            len => self.exactly(len as usize - 1).map(Some),
        }
    }

    /// A text of at most `max` bytes.
    pub fn optional_text(&mut self, max: usize) -> Result<Option<&'a [u8]>, Malformed> {
        text(self.optional_bytes()?, max)
    }

    /// A name of 1..128 bytes, if there is one.
    pub fn optional_name(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        self.optional_bytes()?.map(name).transpose()
    }

    /// A name of 1..128 bytes.
    pub fn name(&mut self) -> Result<&'a [u8], Malformed> {
        name(self.bytes()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_survive() {
        let mut bytes = Vec::new();
        let numbers = [0, 1, 127, 128, 1 << 31, u64::MAX];
        let signed = [0, -1, i64::MIN, i64::MAX];
        numbers.iter().for_each(|&n| put_varint(&mut bytes, n));
        signed.iter().for_each(|&n| put_signed(&mut bytes, n));
        let mut reader = Reader::new(&bytes);
        for number in numbers {
            assert_eq!(reader.varint(), Ok(number));
        }
        for number in signed {
            assert_eq!(reader.signed(), Ok(number));
        }
        assert!(reader.is_empty());
        assert!(Reader::new(&[0xff; 11]).varint().is_err());
        assert!(Reader::new(&[5, 1]).bytes().is_err());
    }
}
