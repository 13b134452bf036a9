//! The words of a command, read from the left: names, numbers, options, items.

use super::ParseError;
use crate::bounds;
use crate::command::{Item, Items};

pub(super) type Words<'s, 'a> = &'s [&'a [u8]];
/// Errors are boxed: they are rare, and what is parsed should not be moved about in the room that they would take.
pub(super) type Parsed<T> = Result<T, Box<ParseError>>;

/// The words of one command, read from the left.
pub(super) struct Args<'s, 'a> {
    pub words: Words<'s, 'a>,
}

impl<'s, 'a> Args<'s, 'a> {
    pub fn next(&mut self) -> Option<&'a [u8]> {
        let (&first, rest) = self.words.split_first()?;
        self.words = rest;
        Some(first)
    }

    pub fn required(&mut self) -> Parsed<&'a [u8]> {
        self.next().ok_or_else(|| ParseError::Arity.into())
    }

    pub fn name(&mut self, what: &'static str) -> Parsed<&'a [u8]> {
        checked_name(self.required()?, what)
    }

    pub fn number(&mut self, what: &'static str, min: i64, max: i64) -> Parsed<i64> {
        integer(self.required()?, what, min, max)
    }

    pub fn end(&self) -> Parsed<()> {
        match self.words.first() {
            None => Ok(()),
            Some(word) => Err(ParseError::UnknownOption((*word).into()).into()),
        }
    }

    pub fn value_of(&mut self, what: &'static str) -> Parsed<&'a [u8]> {
        self.next().ok_or_else(|| ParseError::NoValue(what).into())
    }

    pub fn number_of(&mut self, what: &'static str, min: u64, max: u64, into: &mut Option<u64>) -> Parsed<()> {
        let value = integer(self.value_of(what)?, what, min as i64, max as i64)?;
        once(what, into, value as u64)
    }

    pub fn small_of(&mut self, what: &'static str, min: u32, into: &mut Option<u32>) -> Parsed<()> {
        let max = i64::from(bounds::MAX_QUANTITY);
        let value = integer(self.value_of(what)?, what, min.into(), max)?;
        once(what, into, value as u32)
    }

    pub fn name_of(&mut self, what: &'static str, into: &mut Option<&'a [u8]>) -> Parsed<()> {
        let value = checked_name(self.value_of(what)?, what)?;
        once(what, into, value)
    }

    pub fn text_of(&mut self, what: &'static str, max: usize, into: &mut Option<&'a [u8]>) -> Parsed<()> {
        let value = self.value_of(what)?;
        if value.len() > max {
            return Err(ParseError::Text { what, len: value.len(), max }.into());
        }
        once(what, into, value)
    }

    pub fn meta(&mut self, into: &mut Option<&'a [u8]>) -> Parsed<()> {
        self.text_of("META", bounds::MAX_META_BYTES, into)
    }

    pub fn reference(&mut self, into: &mut Option<&'a [u8]>) -> Parsed<()> {
        self.text_of("REF", bounds::MAX_REF_BYTES, into)
    }

    /// All that is left: `sku qty` pairs, equal SKUs added up.
    #[inline(always)] // on the way of every request
    pub fn items(&mut self, min: u32) -> Parsed<Items<'a>> {
        let words = std::mem::take(&mut self.words);
        let ([first, more @ ..], []) = words.as_chunks() else {
            return Err(ParseError::Groups { what: "ITEMS", form: "sku qty", words: words.len() }.into());
        };
        let item = |&[sku, qty]: &[&'a [u8]; 2]| -> Parsed<Item<'a>> {
            let sku = checked_name(sku, "SKU")?;
            Ok(Item { sku, qty: integer(qty, "qty", min.into(), bounds::MAX_QUANTITY.into())? as u32 })
        };
        let mut items = Items::One([item(first)?]);
        for pair in more {
            let Item { sku, qty } = item(pair)?;
            match items.iter().position(|item: &Item<'_>| item.sku == sku) {
                Some(at) => {
                    let known = &mut items[at];
                    let sum = known.qty.checked_add(qty).filter(|&sum| sum <= bounds::MAX_QUANTITY);
                    known.qty = sum.ok_or_else(|| ParseError::Sum(sku.into()))?;
                }
                None if items.len() == bounds::MAX_ITEMS => return Err(ParseError::TooManyItems.into()),
                None => items.push(Item { sku, qty }),
            }
        }
        Ok(items)
    }
}

pub(super) fn once<T>(what: &'static str, into: &mut Option<T>, value: T) -> Parsed<()> {
    match into.replace(value) {
        None => Ok(()),
        Some(_) => Err(ParseError::Twice(what).into()),
    }
}

pub(super) fn flag(what: &'static str, into: &mut bool) -> Parsed<()> {
    if std::mem::replace(into, true) { Err(ParseError::Twice(what).into()) } else { Ok(()) }
}

pub(super) fn is(word: &[u8], option: &str) -> bool {
    // Nearly always they are written in capitals, and equal bytes are compared at once.
    word == option.as_bytes() || word.eq_ignore_ascii_case(option.as_bytes())
}

pub(super) fn unknown<T>(word: &[u8]) -> Parsed<T> {
    Err(ParseError::UnknownOption(word.into()).into())
}

pub(super) fn checked_name<'a>(word: &'a [u8], what: &'static str) -> Parsed<&'a [u8]> {
    if word.is_empty() || word.len() > bounds::MAX_NAME_BYTES {
        return Err(ParseError::Name { what, len: word.len() }.into());
    }
    Ok(word)
}

/// A decimal integer within bounds.
pub(super) fn integer(word: &[u8], what: &'static str, min: i64, max: i64) -> Parsed<i64> {
    match decimal(word) {
        Some(value) if (min..=max).contains(&value) => Ok(value),
        _ => Err(ParseError::Number { what, given: word.into(), min, max }.into()),
    }
}

/// An integer as Redis takes it: an optional minus, digits, no leading zero, nothing else.
pub(super) fn decimal(word: &[u8]) -> Option<i64> {
    let digits = word.strip_prefix(b"-").unwrap_or(word);
    if digits.is_empty() || digits.len() > 19 || digits[0] == b'0' && word.len() > 1 {
        return None;
    }
    let mut value: i64 = 0;
    for &digit in digits {
        let units = digit.wrapping_sub(b'0');
        if units > 9 {
            return None;
        }
        value = value.checked_mul(10)?.checked_add(units.into())?;
    }
    Some(if digits.len() < word.len() { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_those_of_redis() {
        for good in ["0", "7", "-7", "9223372036854775807"] {
            assert!(integer(good.as_bytes(), "n", i64::MIN, i64::MAX).is_ok(), "{good}");
        }
        for bad in ["", "-", "+1", "01", "-0", "1 ", "1.0", "0x1", "9223372036854775808", "१"] {
            assert!(integer(bad.as_bytes(), "n", i64::MIN, i64::MAX).is_err(), "{bad}");
        }
    }
}
