//! What an entry of an order stream says.

use std::fmt;

use percent_encoding::percent_decode;

/// The id of a stream entry: milliseconds and a sequence number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    pub ms: u64,
    pub seq: u64,
}

impl EntryId {
    /// Reads `ms-seq`.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let (ms, seq) = std::str::from_utf8(text).ok()?.split_once('-')?;
        Some(Self { ms: ms.parse().ok()?, seq: seq.parse().ok()? })
    }

    /// The id right after this one, if there is one.
    pub fn next(self) -> Option<Self> {
        match self.seq.checked_add(1) {
            Some(seq) => Some(Self { seq, ..self }),
            None => Some(Self { ms: self.ms.checked_add(1)?, seq: 0 }),
        }
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}-{}", self.ms, self.seq)
    }
}

/// Field names and values, as they stand in the stream.
pub type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// One entry as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub id: EntryId,
    pub fields: Fields,
}

/// What happened to the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Confirmed,
    Returned,
}

impl Kind {
    /// The `type` of the webhook's body.
    pub fn event(self) -> &'static str {
        match self {
            Self::Confirmed => "order.confirmed",
            Self::Returned => "order.returned",
        }
    }
}

/// An entry that goes downstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    pub kind: Kind,
    /// The number of the entry in its shard's stream.
    pub no: u64,
    pub hold: Vec<u8>,
    pub buyer: Vec<u8>,
    /// SKU and quantity.
    pub items: Vec<(Vec<u8>, u64)>,
    pub reference: Option<Vec<u8>>,
    pub meta: Option<Vec<u8>>,
    /// When it happened, unix milliseconds of the Redis server.
    pub at_ms: u64,
}

/// What is to be done with an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed {
    Deliver(Order),
    /// An event that is no order (streams with `EVENTS ALL`): nothing goes downstream.
    Skip,
}

/// Why an entry cannot be read; such an entry goes to the dead letters at once.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("field `{0}` is missing")]
    Missing(&'static str),
    #[error("field `{0}` is not a number")]
    Number(&'static str),
    #[error("field `items` is not a list of sku=quantity")]
    Items,
}

/// Reads the fields of an entry.
pub fn parse(fields: &Fields) -> Result<Parsed, Malformed> {
    let kind = match field(fields, "type").ok_or(Malformed::Missing("type"))? {
        b"confirmed" => Kind::Confirmed,
        b"returned" => Kind::Returned,
        _ => return Ok(Parsed::Skip),
    };
    let text = |name| field(fields, name).ok_or(Malformed::Missing(name));
    let number = |name| text(name).and_then(|value| decimal(value).ok_or(Malformed::Number(name)));
    let optional = |name| field(fields, name).filter(|value| !value.is_empty());
    Ok(Parsed::Deliver(Order {
        kind,
        no: number("no")?,
        hold: text("hold")?.to_vec(),
        buyer: text("buyer")?.to_vec(),
        items: quantities(text("items")?).ok_or(Malformed::Items)?,
        reference: optional("ref").map(<[u8]>::to_vec),
        meta: optional("meta").map(<[u8]>::to_vec),
        at_ms: number("at")?,
    }))
}

/// The value of a field, if the entry has it.
pub fn field<'a>(fields: &'a Fields, name: &str) -> Option<&'a [u8]> {
    let found = fields.iter().find(|(key, _)| key == name.as_bytes());
    found.map(|(_, value)| &value[..])
}

/// Reads a form-urlencoded list `sku=number&sku=number`; SKUs may hold any bytes.
pub fn quantities(form: &[u8]) -> Option<Vec<(Vec<u8>, u64)>> {
    let pairs = form.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let equals = pair.iter().position(|byte| *byte == b'=')?;
            Some((form_text(&pair[..equals]), decimal(&pair[equals + 1..])?))
        })
        .collect()
}

fn form_text(text: &[u8]) -> Vec<u8> {
    let spaced = text.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte });
    percent_decode(&spaced.collect::<Vec<_>>()).collect()
}

fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(pairs: &[(&str, &[u8])]) -> Fields {
        let owned = pairs.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.to_vec()));
        owned.collect()
    }

    #[test]
    fn reads_an_order() {
        let entry = fields(&[
            ("type", b"confirmed"),
            ("no", b"7"),
            ("hold", b"h-1"),
            ("buyer", b"\xff"),
            ("items", b"shoe+red=2&a%26b%3D%2B%ff=1"),
            ("ref", b""),
            ("meta", b"gift"),
            ("at", b"1700000000123"),
            ("available", b"shoe+red=5&a%26b=0"),
        ]);
        let expected = Order {
            kind: Kind::Confirmed,
            no: 7,
            hold: b"h-1".to_vec(),
            buyer: b"\xff".to_vec(),
            items: vec![(b"shoe red".to_vec(), 2), (b"a&b=+\xff".to_vec(), 1)],
            reference: None,
            meta: Some(b"gift".to_vec()),
            at_ms: 1_700_000_000_123,
        };
        assert_eq!(parse(&entry), Ok(Parsed::Deliver(expected)));
    }

    #[test]
    fn other_events_are_skipped() {
        assert_eq!(parse(&fields(&[("type", b"held")])), Ok(Parsed::Skip));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let entry = fields(&[("type", b"confirmed"), ("no", b"-7")]);
        assert_eq!(parse(&fields(&[])), Err(Malformed::Missing("type")));
        assert_eq!(parse(&entry), Err(Malformed::Number("no")));
        for broken in ["sku", "sku=", "sku=+1", "sku=1x", "sku=99999999999999999999"] {
            assert_eq!(quantities(broken.as_bytes()), None, "{broken}");
        }
        assert_eq!(quantities(b""), Some(vec![]));
    }

    #[test]
    fn entry_ids_are_ordered_and_have_a_successor() {
        let id = |text: &str| EntryId::parse(text.as_bytes()).expect(text);
        assert!(id("9-5") < id("10-0"));
        assert_eq!(id("10-3").next(), Some(id("10-4")));
        assert_eq!(id("10-18446744073709551615").next(), Some(id("11-0")));
        assert_eq!(id("10-3").to_string(), "10-3");
        assert_eq!(EntryId::parse(b"10"), None);
        assert_eq!(EntryId::parse(b"x-1"), None);
    }
}
