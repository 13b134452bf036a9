//! What can be wrong with the words of a command.

use std::fmt;

/// Why words are no command. The text says what was wrong, with the value, and what is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParseError {
    /// Too few or too many words.
    Arity,
    /// A word that is no option of the command.
    UnknownOption(Box<[u8]>),
    /// An option that was given before.
    Twice(&'static str),
    /// An option without its value.
    NoValue(&'static str),
    /// Neither a decimal integer nor within the bounds.
    Number {
        /// Which argument.
        what: &'static str,
        /// The words given.
        given: Box<[u8]>,
        /// Least allowed.
        min: i64,
        /// Most allowed.
        max: i64,
    },
    /// A name that is empty or too long.
    Name {
        /// Which argument.
        what: &'static str,
        /// Its length in bytes.
        len: usize,
    },
    /// A text that is too long.
    Text {
        /// Which argument.
        what: &'static str,
        /// Its length in bytes.
        len: usize,
        /// Most allowed.
        max: usize,
    },
    /// A word that is not one of a few.
    Choice {
        /// Which argument.
        what: &'static str,
        /// The word given.
        given: Box<[u8]>,
        /// The words allowed.
        allowed: &'static str,
    },
    /// ITEMS or HOLDS without anything, or not in whole groups.
    Groups {
        /// `ITEMS` or `HOLDS`.
        what: &'static str,
        /// The form of a group.
        form: &'static str,
        /// How many words were left.
        words: usize,
    },
    /// PACKED that is not the MessagePack it should be.
    Packed {
        /// What should stand there.
        expected: &'static str,
        /// After how many bytes.
        at: usize,
    },
    /// More SKUs than a hold may have.
    TooManyItems,
    /// Equal SKUs add up to more than a quantity may be.
    Sum(Box<[u8]>),
    /// SHARD i n with i not below n.
    Shard {
        /// i.
        index: u32,
        /// n.
        count: u32,
    },
    /// A sharded sale's name with braces, or a key that is none of its shards.
    ShardKey,
    /// A key whose order stream could not lie in its cluster slot.
    KeyBraces,
    /// The value contradicts the settings of the command.
    Misuse(crate::outcome::Misuse),
}

/// A stranger's bytes, readable and short.
fn shown(bytes: &[u8]) -> String {
    const MOST: usize = 64;
    let shown = bytes[..bytes.len().min(MOST)].escape_ascii();
    if bytes.len() > MOST { format!("'{shown}...'") } else { format!("'{shown}'") }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Arity => write!(f, "wrong number of arguments"),
            Self::UnknownOption(word) => write!(f, "unknown option {}", shown(word)),
            Self::Twice(what) => write!(f, "{what} is given twice"),
            Self::NoValue(what) => write!(f, "{what} needs a value after it"),
            Self::Number { what, given, min, max } => {
                write!(f, "{what} {} is not an integer in {min}..{max}", shown(given))
            }
            Self::Name { what, len } => {
                write!(f, "{what} is {len} bytes long: give 1..{} bytes", crate::bounds::MAX_NAME_BYTES)
            }
            Self::Text { what, len, max } => write!(f, "{what} is {len} bytes long: give at most {max}"),
            Self::Choice { what, given, allowed } => write!(f, "{what} {} is none of {allowed}", shown(given)),
            Self::Groups { what, form, words: 0 } => write!(f, "{what} needs at least one '{form}'"),
            Self::Groups { what, form, words } => {
                write!(f, "{what} takes groups of '{form}' up to the end: {words} words are no whole groups")
            }
            Self::Packed { expected, at } => write!(
                f,
                "PACKED: {expected} is expected at byte {at}: give one MessagePack array of id, buyer, sku, qty and so on"
            ),
            Self::TooManyItems => write!(f, "ITEMS has more than {} SKUs", crate::bounds::MAX_ITEMS),
            Self::Sum(sku) => {
                write!(f, "the quantities of SKU {} add up to more than {}", shown(sku), crate::bounds::MAX_QUANTITY)
            }
            Self::Shard { index, count } => {
                write!(f, "SHARD {index} {count}: the shards of a sale of {count} are 0..{}", count.saturating_sub(1))
            }
            Self::ShardKey => write!(
                f,
                "the key is not that of this shard: a sale of several shards has the keys that FLASH.SHARDS name n gives"
            ),
            Self::KeyBraces => write!(
                f,
                "the key has a '}}' but no hash tag, so its order stream would lie in another cluster slot: leave the '}}' out, or put a part of the name in braces"
            ),
            Self::Misuse(misuse) => misuse.fmt(f),
        }
    }
}

impl std::error::Error for ParseError {}

impl From<crate::outcome::Misuse> for ParseError {
    fn from(misuse: crate::outcome::Misuse) -> Self {
        Self::Misuse(misuse)
    }
}
