//! MessagePack as the library of functions stores it, and as MRESERVE answers in it: arrays, strings of any bytes,
//! integers, `false` or nil for nothing.

use anyhow::{Context, bail, ensure};

/// Arrays in arrays, at most: a hold's refunds are three deep.
const DEEPEST: u32 = 8;

/// One value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packed<'a> {
    Nothing,
    True,
    Number(i64),
    Bytes(&'a [u8]),
    List(Vec<Packed<'a>>),
}

impl<'a> Packed<'a> {
    /// Reads one value, and nothing after it.
    ///
    /// # Errors
    /// The bytes are something else.
    pub fn read(mut bytes: &'a [u8]) -> anyhow::Result<Self> {
        let value = Self::take(&mut bytes)?;
        ensure!(bytes.is_empty(), "{} bytes too many", bytes.len());
        Ok(value)
    }

    /// Takes one value off the front.
    ///
    /// # Errors
    /// They begin with something else.
    pub fn take(bytes: &mut &'a [u8]) -> anyhow::Result<Self> {
        read(bytes, DEEPEST)
    }

    /// Takes the head of an array off the front: so many values follow.
    ///
    /// # Errors
    /// They do not begin with an array.
    pub fn take_head(bytes: &mut &'a [u8]) -> anyhow::Result<usize> {
        match take(bytes, 1)?[0] {
            first @ 0x90..=0x9f => Ok(usize::from(first & 0x0f)),
            0xdc => Ok(unsigned(bytes, 2)? as usize),
            0xdd => Ok(unsigned(bytes, 4)? as usize),
            other => bail!("byte {other:#04x} begins no array"),
        }
    }

    /// # Errors
    /// It is no number, or a negative one.
    pub fn number(&self) -> anyhow::Result<u64> {
        u64::try_from(self.signed()?).context("a number below zero")
    }

    /// # Errors
    /// It is no number.
    pub fn signed(&self) -> anyhow::Result<i64> {
        match self {
            Self::Number(number) => Ok(*number),
            other => bail!("a number is expected and not {other:?}"),
        }
    }

    /// # Errors
    /// It is no string.
    pub fn bytes(&self) -> anyhow::Result<&'a [u8]> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            other => bail!("a string is expected and not {other:?}"),
        }
    }

    /// # Errors
    /// It is no array.
    pub fn list(&self) -> anyhow::Result<&[Packed<'a>]> {
        match self {
            Self::List(list) => Ok(list),
            other => bail!("an array is expected and not {other:?}"),
        }
    }

    /// `None` for `false` and nil.
    pub fn present(&self) -> Option<&Self> {
        (*self != Self::Nothing).then_some(self)
    }
}

fn take<'a>(bytes: &mut &'a [u8], len: usize) -> anyhow::Result<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(len).context("it is cut short")?;
    *bytes = rest;
    Ok(taken)
}

/// An unsigned number of `len` bytes.
fn unsigned(bytes: &mut &[u8], len: usize) -> anyhow::Result<u64> {
    Ok(take(bytes, len)?.iter().fold(0, |number, &byte| number << 8 | u64::from(byte)))
}

/// A number of `len` bytes in two's complement.
fn signed(bytes: &mut &[u8], len: usize) -> anyhow::Result<i64> {
    let shift = 64 - 8 * len as u32;
    Ok(((unsigned(bytes, len)? << shift) as i64) >> shift)
}

fn read<'a>(bytes: &mut &'a [u8], deeper: u32) -> anyhow::Result<Packed<'a>> {
    let first = take(bytes, 1)?[0];
    let length = |bytes: &mut &'a [u8], len| unsigned(bytes, len).map(|length| length as usize);
    Ok(match first {
        0x00..=0x7f => Packed::Number(first.into()),
        0xe0..=0xff => Packed::Number((first as i8).into()),
        0xcc => Packed::Number(unsigned(bytes, 1)? as i64),
        0xcd => Packed::Number(unsigned(bytes, 2)? as i64),
        0xce => Packed::Number(unsigned(bytes, 4)? as i64),
        0xcf => Packed::Number(i64::try_from(unsigned(bytes, 8)?).context("a number beyond 2^63")?),
        0xd0 => Packed::Number(signed(bytes, 1)?),
        0xd1 => Packed::Number(signed(bytes, 2)?),
        0xd2 => Packed::Number(signed(bytes, 4)?),
        0xd3 => Packed::Number(signed(bytes, 8)?),
        0xc0 | 0xc2 => Packed::Nothing,
        0xc3 => Packed::True,
        0xa0..=0xbf => Packed::Bytes(take(bytes, usize::from(first & 0x1f))?),
        0xd9 => length(bytes, 1).and_then(|length| Ok(Packed::Bytes(take(bytes, length)?)))?,
        0xda => length(bytes, 2).and_then(|length| Ok(Packed::Bytes(take(bytes, length)?)))?,
        0xdb => length(bytes, 4).and_then(|length| Ok(Packed::Bytes(take(bytes, length)?)))?,
        0x90..=0x9f => list(bytes, usize::from(first & 0x0f), deeper)?,
        0xdc => length(bytes, 2).and_then(|length| list(bytes, length, deeper))?,
        0xdd => length(bytes, 4).and_then(|length| list(bytes, length, deeper))?,
        other => bail!("byte {other:#04x} begins nothing that is stored or answered here"),
    })
}

fn list<'a>(bytes: &mut &'a [u8], length: usize, deeper: u32) -> anyhow::Result<Packed<'a>> {
    let deeper = deeper.checked_sub(1).context("arrays too deep in each other")?;
    // Each value takes a byte at least: no length makes more room than there are bytes.
    let mut list = Vec::with_capacity(length.min(bytes.len()));
    for _ in 0..length {
        list.push(read(bytes, deeper)?);
    }
    Ok(Packed::List(list))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read() {
        let bytes = b"\x9a\x07\xff\xcd\x01\x00\xd3\xff\xff\xff\xff\xff\xff\xff\xfe\xa2hi\xda\x00\x01x\xc2\xc0\xc3\x90";
        let list = Packed::read(bytes).unwrap();
        let expected = [
            Packed::Number(7),
            Packed::Number(-1),
            Packed::Number(256),
            Packed::Number(-2),
            Packed::Bytes(b"hi"),
            Packed::Bytes(b"x"),
            Packed::Nothing,
            Packed::Nothing,
            Packed::True,
            Packed::List(Vec::new()),
        ];
        assert_eq!(list.list().unwrap(), expected);
    }

    #[test]
    fn arrays_are_read_value_by_value() {
        let mut bytes = &b"\x92\x07\xdc\x00\x01\xa2hi"[..];
        assert_eq!(Packed::take_head(&mut bytes).unwrap(), 2);
        assert_eq!(Packed::take(&mut bytes).unwrap(), Packed::Number(7));
        assert_eq!(Packed::take_head(&mut bytes).unwrap(), 1);
        assert!(Packed::take_head(&mut { bytes }).is_err());
        assert_eq!(Packed::take(&mut bytes).unwrap(), Packed::Bytes(b"hi"));
        assert!(bytes.is_empty() && Packed::take(&mut bytes).is_err());
    }

    #[test]
    fn garbage_is_refused() {
        for garbage in [&b""[..], b"\x91", b"\xa5ab", b"\x07\x07", b"\x80", b"\xdd\xff\xff\xff\xff", &[0x91; 20]] {
            assert!(Packed::read(garbage).is_err(), "{garbage:?}");
        }
    }
}
