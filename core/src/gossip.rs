//! What the shards of a sale tell each other: small messages that may be lost, doubled, late or garbage.
//!
//! A message is a version byte, the sender's clock, and letters. A letter is about one SKU of one sale. Nothing
//! that is written here is trusted for correctness: what counts are the two counters of the contract's section 6.

use crate::balance::{Counters, Need, Shelf};
use crate::bounds;
use crate::wire::{Malformed, Reader, Sink, put_bytes, put_varint};

/// No message is longer.
pub const MAX_MESSAGE_BYTES: usize = 1_024;
/// A sale with a longer name does not gossip: a letter of it would not fit.
pub const MAX_SALE_NAME_BYTES: usize = 512;

const VERSION: u8 = 1;
/// Set in a letter's tag if it is about the same sale as the letter before.
const SAME_SALE: u8 = 0x80;
/// Set in the tag of a letter that names its sale, if an edition follows.
const WITH_EDITION: u8 = 0x40;

/// What one shard says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Letter<'a> {
    /// The sale's name, without a shard's tag.
    pub sale: &'a [u8],
    /// How many shards the sale has.
    pub shards: u32,
    /// Which sale of the name it is, see [`Sale::edition`](crate::Sale::edition).
    pub edition: u64,
    /// What it is about.
    pub word: Word<'a>,
}

/// The kinds of letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word<'a> {
    /// "I have so much of this SKU."
    News {
        /// Who says so.
        shard: u32,
        /// Which SKU.
        sku: &'a [u8],
        /// What it has.
        counters: Counters,
        /// What its buyers want.
        need: Need,
    },
    /// "Give me units", see [`crate::balance::ask`].
    Ask {
        /// Who is asked.
        donor: u32,
        /// Which SKU.
        sku: &'a [u8],
        /// Who asks, with what it has itself.
        asker: Shelf,
        /// Units asked for.
        qty: u64,
        /// The donor's total that the asker has accepted: if the donor has granted more already, it gives no more.
        after: u64,
    },
    /// "I have granted you so much in all, and my replicas know."
    Total {
        /// Who has granted.
        donor: u32,
        /// To whom.
        receiver: u32,
        /// Which SKU.
        sku: &'a [u8],
        /// All units ever granted to it.
        total: u64,
    },
    /// "I give you nothing."
    Nothing {
        /// Who was asked.
        donor: u32,
        /// Who asked.
        receiver: u32,
        /// Which SKU.
        sku: &'a [u8],
    },
    /// "I have accepted your total": it need not be told again.
    Accepted {
        /// Who has granted.
        donor: u32,
        /// Who has accepted.
        receiver: u32,
        /// Which SKU.
        sku: &'a [u8],
        /// The total accepted.
        total: u64,
    },
    /// "I have just come here: tell me all you know."
    Inquiry {
        /// Who asks.
        shard: u32,
    },
}

impl Word<'_> {
    fn tag(&self) -> u8 {
        match self {
            Self::News { .. } => 1,
            Self::Ask { .. } => 2,
            Self::Total { .. } => 3,
            Self::Nothing { .. } => 4,
            Self::Accepted { .. } => 5,
            Self::Inquiry { .. } => 6,
        }
    }

    fn put(&self, out: &mut Vec<u8>) {
        let numbers = |out: &mut Vec<u8>, numbers: &[u64]| numbers.iter().for_each(|&number| put_varint(out, number));
        match *self {
            Self::News { shard, sku, counters, need } => {
                let Counters { available, held, granted, accepted } = counters;
                put_bytes(out, sku);
                numbers(out, &[shard.into(), available, held, granted, accepted, need.pace, need.wanting]);
            }
            Self::Ask { donor, sku, asker, qty, after } => {
                let Shelf { shard, available, need } = asker;
                put_bytes(out, sku);
                numbers(out, &[donor.into(), shard.into(), available, need.pace, need.wanting, qty, after]);
            }
            Self::Total { donor, receiver, sku, total } | Self::Accepted { donor, receiver, sku, total } => {
                put_bytes(out, sku);
                numbers(out, &[donor.into(), receiver.into(), total]);
            }
            Self::Nothing { donor, receiver, sku } => {
                put_bytes(out, sku);
                numbers(out, &[donor.into(), receiver.into()]);
            }
            Self::Inquiry { shard } => numbers(out, &[shard.into()]),
        }
    }
}

impl<'a> Word<'a> {
    fn read(tag: u8, shards: u32, reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        let shard = |reader: &mut Reader<'a>| {
            reader.number(u64::from(shards) - 1, "a shard is not one of the sale's").map(|shard| shard as u32)
        };
        let need = |reader: &mut Reader<'a>| Ok(Need { pace: reader.varint()?, wanting: reader.varint()? });
        let word = match tag {
            1 => {
                let sku = reader.name()?;
                let shard = shard(reader)?;
                let (available, held) = (reader.varint()?, reader.varint()?);
                let (granted, accepted) = (reader.varint()?, reader.varint()?);
                Self::News {
                    sku,
                    shard,
                    counters: Counters { available, held, granted, accepted },
                    need: need(reader)?,
                }
            }
            2 => {
                let (sku, donor) = (reader.name()?, shard(reader)?);
                let asker = Shelf { shard: shard(reader)?, available: reader.varint()?, need: need(reader)? };
                Self::Ask { sku, donor, asker, qty: reader.varint()?, after: reader.varint()? }
            }
            3 | 5 => {
                let (sku, donor, receiver) = (reader.name()?, shard(reader)?, shard(reader)?);
                let total = reader.varint()?;
                if tag == 3 {
                    Self::Total { donor, receiver, sku, total }
                } else {
                    Self::Accepted { donor, receiver, sku, total }
                }
            }
            4 => Self::Nothing { sku: reader.name()?, donor: shard(reader)?, receiver: shard(reader)? },
            6 => Self::Inquiry { shard: shard(reader)? },
            _ => return Err(Malformed("the kind of a letter is unknown")),
        };
        Ok(word)
    }
}

/// Puts letters into as few messages as they need.
#[derive(Clone, Debug)]
pub struct Packer {
    now_ms: u64,
    full: Vec<Vec<u8>>,
    /// The message that is being filled, and the sale of its latest letter.
    message: Vec<u8>,
    sale: Option<(Box<[u8]>, u32, u64)>,
}

impl Packer {
    /// Messages of this moment, unix ms by the sender's clock.
    pub fn new(now_ms: u64) -> Self {
        Self { now_ms, full: Vec::new(), message: Vec::new(), sale: None }
    }

    /// Adds a letter. One whose names are too long is left out.
    pub fn push(&mut self, letter: &Letter<'_>) {
        if letter.sale.len() > MAX_SALE_NAME_BYTES || letter.shards < 2 {
            return;
        }
        let before = self.message.len();
        self.put(letter);
        if self.message.len() > MAX_MESSAGE_BYTES && before > 0 {
            self.message.truncate(before);
            self.end_message();
            self.put(letter);
        }
        if self.message.len() > MAX_MESSAGE_BYTES {
            // Only a SKU's name can be too long: the server refuses such names long before.
            self.message.clear();
            self.sale = None;
        }
    }

    fn put(&mut self, letter: &Letter<'_>) {
        if self.message.is_empty() {
            self.message.put_byte(VERSION);
            put_varint(&mut self.message, self.now_ms);
        }
        let is_same = |(sale, shards, edition): &(Box<[u8]>, u32, u64)| {
            **sale == *letter.sale && *shards == letter.shards && *edition == letter.edition
        };
        let known = self.sale.as_ref().is_some_and(is_same);
        let tag = letter.word.tag();
        if known {
            self.message.put_byte(tag | SAME_SALE);
        } else {
            let has_edition = letter.edition != 0;
            self.message.put_byte(if has_edition { tag | WITH_EDITION } else { tag });
            put_bytes(&mut self.message, letter.sale);
            put_varint(&mut self.message, letter.shards.into());
            if has_edition {
                put_varint(&mut self.message, letter.edition);
            }
            self.sale = Some((letter.sale.into(), letter.shards, letter.edition));
        }
        letter.word.put(&mut self.message);
    }

    fn end_message(&mut self) {
        if !self.message.is_empty() {
            self.full.push(std::mem::take(&mut self.message));
        }
        self.sale = None;
    }

    /// The messages, none of them empty.
    pub fn finish(mut self) -> Vec<Vec<u8>> {
        self.end_message();
        self.full
    }
}

/// Reads a message: the sender's clock, unix ms, and its letters. A message with anything wrong in it is refused
/// whole.
pub fn read(message: &[u8]) -> Result<(u64, Vec<Letter<'_>>), Malformed> {
    if message.len() > MAX_MESSAGE_BYTES {
        return Err(Malformed("the message is too long"));
    }
    let mut reader = Reader::new(message);
    if reader.byte()? != VERSION {
        return Err(Malformed("the version of the message is unknown"));
    }
    let now_ms = reader.number(bounds::MAX_TIME_MS, "the time is out of range")?;
    let mut letters: Vec<Letter<'_>> = Vec::new();
    while !reader.is_empty() {
        let tag = reader.byte()?;
        let (sale, shards, edition) = match letters.last() {
            Some(letter) if tag & SAME_SALE != 0 => (letter.sale, letter.shards, letter.edition),
            None if tag & SAME_SALE != 0 => return Err(Malformed("the first letter names no sale")),
            _ => {
                let sale = reader.bytes()?;
                if sale.len() > MAX_SALE_NAME_BYTES {
                    return Err(Malformed("the sale's name is too long"));
                }
                let shards = reader.number(bounds::MAX_SHARDS.into(), "the number of shards is out of range")? as u32;
                if shards < 2 {
                    return Err(Malformed("the sale has one shard alone"));
                }
                let edition = if tag & WITH_EDITION == 0 {
                    0
                } else {
                    reader.number(bounds::MAX_TIME_MS, "the edition is out of range")?
                };
                (sale, shards, edition)
            }
        };
        let kind = if tag & SAME_SALE == 0 { tag & !WITH_EDITION } else { tag & !SAME_SALE };
        letters.push(Letter { sale, shards, edition, word: Word::read(kind, shards, &mut reader)? });
    }
    Ok((now_ms, letters))
}
