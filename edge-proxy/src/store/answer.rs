//! Reads the replies of the contract's section 4. Both RESP3 maps and flat RESP2 arrays are understood.

use bytes::Bytes;
use redis::Value;

use super::{StoreError, Throttled};
use crate::http::input::Item;

/// How a command on a sale ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Reserved {
        id: Bytes,
        deadline_ms: u64,
        /// The hold was there already.
        repeated: bool,
    },
    Confirmed {
        id: Bytes,
        order_no: u64,
    },
    Extended {
        id: Bytes,
        deadline_ms: u64,
    },
    Released,
    Expired,
    NotFound,
    Mismatch {
        field: String,
    },
    WrongShard {
        key: Bytes,
    },
    NotOpen {
        opens_at_ms: u64,
    },
    Paused,
    Closed,
    TooLate,
    Backlog,
    NoSku {
        sku: Bytes,
    },
    /// `sku` is empty for the limit of the whole sale.
    Limit {
        sku: Bytes,
        left: u64,
    },
    SoldOut {
        sku: Bytes,
    },
    AllHeld {
        sku: Bytes,
        next_ms: u64,
    },
    Empty {
        sku: Bytes,
    },
}

/// A hold as `FLASH.HOLD` shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HoldView {
    pub id: Bytes,
    pub buyer: Bytes,
    /// `held`, `confirmed`, `released` or `expired`.
    pub state: String,
    pub items: Vec<Item>,
    pub began_ms: u64,
    pub deadline_ms: u64,
    pub order_no: u64,
    pub reference: Option<String>,
    pub meta: Option<String>,
}

/// A sale as the proxy needs it: what [`ShardInfo`](super::info::ShardInfo) tells, of several shards together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SaleView {
    /// `pending`, `open`, `paused` or `closed`.
    pub state: String,
    pub limit: u64,
    pub hold_ms: u64,
    pub maxhold_ms: u64,
    /// 0: at once.
    pub opens_at_ms: u64,
    /// 0: never.
    pub closes_at_ms: u64,
    pub shard: u64,
    /// 1 for a sale in one key.
    pub shards: u64,
    pub holds: u64,
    pub orders: u64,
    pub buyers: u64,
    /// The earliest deadline of a hold; 0: there is none.
    pub next_deadline_ms: u64,
    pub expiry_lag_ms: u64,
    /// Shards that could not be asked: what is here is not all there is.
    pub shards_missing: u64,
    /// Commands that asked the key, of several the one that was asked most; 0 if the server does not count.
    pub commands: u64,
    pub skus: Vec<(Bytes, SkuView)>,
}

/// The counters of one SKU.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SkuView {
    pub stocked: u64,
    pub available: u64,
    pub held: u64,
    pub sold: u64,
    pub granted: u64,
    pub accepted: u64,
    pub limit: u64,
    /// Of the last message of the state channel about this SKU; 0 if the server does not tell.
    pub version: u64,
}

/// Reads the reply of `FLASH.THROTTLE`: limited, limit, remaining, seconds to retry, seconds to full.
///
/// # Errors
/// The server's error, or [`StoreError::Nonsense`].
pub fn throttled(reply: Value) -> Result<Throttled, StoreError> {
    match checked(reply)? {
        Value::Array(words) if words.len() == 5 => {
            let count = |index: usize| words.get(index).and_then(number).ok_or_else(|| short("THROTTLE"));
            Ok(Throttled { limited: count(0)? == 1, remaining: count(2)? })
        }
        other => Err(nonsense("five numbers", &other)),
    }
}

/// Reads the reply of a [`Command`](super::Command).
///
/// # Errors
/// The server's error, or [`StoreError::Nonsense`].
pub fn answer(reply: Value) -> Result<Answer, StoreError> {
    match checked(reply)? {
        Value::Array(words) => outcome(words.first().and_then(bare).unwrap_or_default(), words.as_slice()),
        // A single word may come bare.
        word @ (Value::SimpleString(_) | Value::BulkString(_)) => {
            outcome(bare(&word).unwrap_or_default(), std::slice::from_ref(&word))
        }
        other => Err(nonsense("an outcome", &other)),
    }
}

/// The words of an outcome, the status at 0.
pub(super) trait Words {
    fn bytes(&self, index: usize) -> Option<Bytes>;

    /// A number that counts something; below zero stands for "none".
    fn count(&self, index: usize) -> Option<u64>;
}

impl Words for [Value] {
    fn bytes(&self, index: usize) -> Option<Bytes> {
        self.get(index).and_then(bytes_of)
    }

    fn count(&self, index: usize) -> Option<u64> {
        self.get(index).and_then(number)
    }
}

/// Reads an outcome by its status, in whatever form the others of its words came.
///
/// # Errors
/// [`StoreError::Nonsense`]
pub(super) fn outcome(status: &[u8], words: &(impl Words + ?Sized)) -> Result<Answer, StoreError> {
    let shown = || String::from_utf8_lossy(status);
    let bytes = |index: usize| words.bytes(index).ok_or_else(|| short(&shown()));
    let count = |index: usize| words.count(index).ok_or_else(|| short(&shown()));
    Ok(match status {
        b"RESERVED" | b"REPEATED" => {
            Answer::Reserved { id: bytes(1)?, deadline_ms: count(2)?, repeated: status == b"REPEATED" }
        }
        b"CONFIRMED" => Answer::Confirmed { id: bytes(1)?, order_no: count(2)? },
        b"EXTENDED" => Answer::Extended { id: bytes(1)?, deadline_ms: count(2)? },
        b"RELEASED" => Answer::Released,
        b"EXPIRED" => Answer::Expired,
        b"NOTFOUND" => Answer::NotFound,
        b"MISMATCH" => {
            let field = words.bytes(1).unwrap_or_default();
            Answer::Mismatch { field: String::from_utf8_lossy(&field).into_owned() }
        }
        b"WRONGSHARD" => Answer::WrongShard { key: bytes(1)? },
        b"NOTOPEN" => Answer::NotOpen { opens_at_ms: count(1)? },
        b"PAUSED" => Answer::Paused,
        b"CLOSED" => Answer::Closed,
        b"TOOLATE" => Answer::TooLate,
        b"BACKLOG" => Answer::Backlog,
        b"NOSKU" => Answer::NoSku { sku: bytes(1)? },
        b"LIMIT" => Answer::Limit { sku: bytes(1)?, left: count(2)? },
        b"SOLDOUT" => Answer::SoldOut { sku: bytes(1)? },
        b"ALLHELD" => Answer::AllHeld { sku: bytes(1)?, next_ms: count(2)? },
        b"EMPTY" => Answer::Empty { sku: bytes(1)? },
        _ => return Err(StoreError::Nonsense(format!("an outcome called {:?}", shown()))),
    })
}

/// Reads the reply of `FLASH.HOLD`; `None` if there is no such hold.
///
/// # Errors
/// As [`answer`].
pub fn hold(reply: Value) -> Result<Option<HoldView>, StoreError> {
    let reply = checked(reply)?;
    if is_not_found(&reply) {
        return Ok(None);
    }
    let mut hold = HoldView::default();
    for (name, value) in fields(reply)? {
        match name.as_str() {
            "id" => hold.id = bytes_of(&value).unwrap_or_default(),
            "buyer" => hold.buyer = bytes_of(&value).unwrap_or_default(),
            "state" => hold.state = text(&value).unwrap_or_default().to_ascii_lowercase(),
            "items" => hold.items = items(value)?,
            "began" => hold.began_ms = number(&value).unwrap_or(0),
            "deadline" => hold.deadline_ms = number(&value).unwrap_or(0),
            "order_no" => hold.order_no = number(&value).unwrap_or(0),
            "ref" => hold.reference = text(&value).filter(|text| !text.is_empty()),
            "meta" => hold.meta = text(&value).filter(|text| !text.is_empty()),
            _ => {}
        }
    }
    Ok((!hold.state.is_empty()).then_some(hold))
}

fn is_not_found(reply: &Value) -> bool {
    match reply {
        Value::Nil => true,
        Value::Array(words) => match words.as_slice() {
            [] => true,
            [only] => bare(only) == Some(b"NOTFOUND"),
            _ => false,
        },
        Value::Map(fields) => fields.is_empty(),
        other => bare(other) == Some(b"NOTFOUND"),
    }
}

/// Items as a map, a flat array, or an array of pairs.
fn items(value: Value) -> Result<Vec<Item>, StoreError> {
    let pairs = match value {
        Value::Array(rows) if matches!(rows.first(), Some(Value::Array(_))) => rows
            .into_iter()
            .map(|row| match row {
                Value::Array(pair) => <[Value; 2]>::try_from(pair).map(|[sku, quantity]| (sku, quantity)).ok(),
                _ => None,
            })
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| StoreError::Nonsense("items that are not pairs".to_owned()))?,
        other => pairs(other)?,
    };
    pairs
        .into_iter()
        .map(|(sku, quantity)| {
            Ok(Item {
                sku: bytes_of(&sku).ok_or_else(|| nonsense("a SKU", &sku))?,
                quantity: number(&quantity)
                    .and_then(|quantity| u32::try_from(quantity).ok())
                    .ok_or_else(|| nonsense("a quantity", &quantity))?,
            })
        })
        .collect()
}

pub(crate) fn fields(value: Value) -> Result<Vec<(String, Value)>, StoreError> {
    pairs(value)?
        .into_iter()
        .map(|(name, value)| {
            let name = text(&name).ok_or_else(|| nonsense("a field's name", &name))?;
            Ok((name, value))
        })
        .collect()
}

pub(crate) fn pairs(value: Value) -> Result<Vec<(Value, Value)>, StoreError> {
    match value {
        Value::Map(pairs) => Ok(pairs),
        Value::Array(flat) if flat.len() % 2 == 0 => {
            let mut pairs = Vec::with_capacity(flat.len() / 2);
            let mut flat = flat.into_iter();
            while let (Some(name), Some(value)) = (flat.next(), flat.next()) {
                pairs.push((name, value));
            }
            Ok(pairs)
        }
        other => Err(nonsense("a map", &other)),
    }
}

/// The reply itself, or the server's error.
///
/// # Errors
/// As [`server_error`].
pub fn checked(reply: Value) -> Result<Value, StoreError> {
    match reply {
        Value::ServerError(error) => Err(server_error(error.code(), error.details().unwrap_or_default())),
        reply => Ok(reply),
    }
}

/// What an error of the server means for the one who asked.
pub fn server_error(code: &str, detail: &str) -> StoreError {
    let said = if detail.is_empty() { code.to_owned() } else { format!("{code} {detail}") };
    match code {
        "NOSALE" | "WRONGTYPE" => StoreError::NoSale,
        "OOM" => StoreError::Full(said),
        "LOADING" | "READONLY" | "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" | "NOREPLICAS" | "MISCONF" | "BUSY"
        | "NOAUTH" | "NOPERM" | "WRONGPASS" | "MOVED" | "ASK" | "UNBLOCKED" => StoreError::Down(said),
        "ERR" if detail.starts_with("unknown command") => StoreError::Down(format!("{said} (is the module loaded?)")),
        "ERR" if detail.starts_with("Function not found") => {
            StoreError::Down(format!("{said} (is the library loaded?)"))
        }
        "ERR" | "EXISTS" => StoreError::Misuse(detail.to_owned()),
        _ => StoreError::Down(said),
    }
}

/// A text as it came.
fn bare(value: &Value) -> Option<&[u8]> {
    match value {
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => Some(text.as_bytes()),
        Value::BulkString(bytes) => Some(bytes),
        Value::Okay => Some(b"OK"),
        _ => None,
    }
}

pub(crate) fn text(value: &Value) -> Option<String> {
    bare(value).map(|bytes| String::from_utf8_lossy(bytes).into_owned())
}

pub(crate) fn bytes_of(value: &Value) -> Option<Bytes> {
    match value {
        Value::BulkString(bytes) => Some(Bytes::copy_from_slice(bytes)),
        Value::SimpleString(text) => Some(Bytes::copy_from_slice(text.as_bytes())),
        Value::Okay => Some(Bytes::from_static(b"OK")),
        // A field that is empty may come as nil.
        Value::Nil => Some(Bytes::new()),
        Value::Int(number) => Some(Bytes::from(number.to_string())),
        _ => None,
    }
}

/// A number that counts something; below zero stands for "none".
pub(crate) fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Int(number) => Some(u64::try_from(*number).unwrap_or(0)),
        Value::BulkString(_) | Value::SimpleString(_) => text(value)?.parse::<i64>().ok().map(|n| n.max(0) as u64),
        Value::Boolean(yes) => Some(u64::from(*yes)),
        _ => None,
    }
}

fn short(status: &str) -> StoreError {
    StoreError::Nonsense(format!("{status} with too few values"))
}

fn nonsense(wanted: &str, got: &Value) -> StoreError {
    let mut shown = format!("{got:?}");
    shown.truncate(shown.floor_char_boundary(100));
    StoreError::Nonsense(format!("{shown} where {wanted} was due"))
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
