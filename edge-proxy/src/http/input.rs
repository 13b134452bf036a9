//! What a request may say: items, references and times, from the query or a JSON body.
//!
//! Everything here is pure, and everything a client can get wrong is answered with what was wrong.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};

use super::problem::{Problem, Refusal};
use super::routes::{Call, NAME_BYTES_MAX};

/// Longest body of a sale route.
pub const BODY_BYTES_MAX: usize = 16 * 1024;

/// Most different items in one request.
pub const ITEMS_MAX: usize = 64;

/// Largest quantity (the contract's section 4).
const QUANTITY_MAX: u64 = i32::MAX as u64;

/// Units of one SKU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    pub sku: Bytes,
    pub quantity: u32,
}

/// What the body or the query of a request says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Input {
    pub items: Vec<Item>,
    /// The shop's own name for the order.
    pub reference: Option<String>,
    /// Any text that goes with the order.
    pub meta: Option<String>,
    /// New life of a hold in milliseconds.
    pub extend_ms: Option<u64>,
    /// The solution of the challenge that a ticket may need.
    pub challenge: Option<String>,
}

/// Reads the query of a call. An empty query gives an empty input.
///
/// # Errors
/// An unknown or repeated parameter, or a value out of range.
pub fn from_query(call: Call, query: &str) -> Result<Input, Refusal> {
    let mut input = Input::default();
    if !call.reads_body() || query.is_empty() {
        return Ok(input);
    }
    let mut sku = None;
    let mut quantity = None;
    for (name, value) in pairs(query) {
        match (&*name, call.takes_stock()) {
            (b"sku", true) => once("sku", &mut sku, name_in_range("sku", Bytes::copy_from_slice(&value))?)?,
            (b"qty", true) => once("qty", &mut quantity, quantity_of(&value)?)?,
            (b"ref", _) if matches!(call, Call::Order | Call::Confirm) => {
                once("ref", &mut input.reference, text("ref", value.into_owned())?)?;
            }
            (b"ms", _) if call == Call::Extend => {
                once("ms", &mut input.extend_ms, number("ms", &value)?)?;
            }
            _ => return Err(unknown_parameter(call, &name)),
        }
    }
    match (sku, quantity) {
        (Some(sku), quantity) => input.items.push(Item { sku, quantity: quantity.unwrap_or(1) }),
        (None, Some(_)) => return Err(Problem::BadRequest.because("`qty` needs a `sku` beside it.")),
        (None, None) => {}
    }
    Ok(input)
}

/// The decoded pairs of a query, as bytes: an SKU need not be UTF-8.
fn pairs(query: &str) -> impl Iterator<Item = (Cow<'_, [u8]>, Cow<'_, [u8]>)> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(name), decoded(value))
    })
}

/// Most have nothing to decode.
fn decoded(text: &str) -> Cow<'_, [u8]> {
    if text.contains('+') {
        return percent_decode_str(&text.replace('+', " ")).collect::<Vec<_>>().into();
    }
    percent_decode_str(text).into()
}

fn once<T>(name: &str, place: &mut Option<T>, value: T) -> Result<(), Refusal> {
    if place.replace(value).is_some() {
        return Err(Problem::BadRequest
            .because(format!("`{name}` stands twice in the query. Several items go into a JSON body: {EXAMPLE}")));
    }
    Ok(())
}

fn unknown_parameter(call: Call, name: &[u8]) -> Refusal {
    let known = match call {
        Call::Reserve => "`sku` and `qty`",
        Call::Order => "`sku`, `qty` and `ref`",
        Call::Confirm => "`ref`",
        Call::Ticket => "none",
        _ => "`ms`",
    };
    Problem::BadRequest
        .because(format!("The query has an unknown parameter `{}`; known here: {known}.", printable(name)))
}

const EXAMPLE: &str = r#"{"items":[{"sku":"S","qty":1}]}"#;

/// A body as the call takes it.
fn example(call: Call) -> &'static str {
    match call {
        Call::Confirm => r#"{"ref":"R"}"#,
        Call::Extend => r#"{"ms":60000}"#,
        Call::Ticket => r#"{"challenge":"..."}"#,
        _ => EXAMPLE,
    }
}

/// Reads the JSON body of a call.
///
/// # Errors
/// Not JSON, unknown fields, wrong types, values out of range.
pub fn from_body(call: Call, headers: &HeaderMap, body: &[u8]) -> Result<Input, Refusal> {
    if let Some(kind) = headers.get(http::header::CONTENT_TYPE)
        && !is_json(kind.as_bytes())
    {
        return Err(Problem::BadRequest.because(format!(
            "The body is `{}`; send `application/json`, such as {}",
            printable(kind.as_bytes()),
            example(call)
        )));
    }
    match call {
        Call::Reserve => parse::<ReserveBody>(body)?.into_input(),
        Call::Order => parse::<OrderBody>(body)?.into_input(),
        Call::Confirm => parse::<ConfirmBody>(body)?.into_input(),
        Call::Extend => parse::<ExtendBody>(body)?.into_input(),
        Call::Ticket => {
            let TicketBody { challenge } = parse(body)?;
            Ok(Input { challenge, ..Input::default() })
        }
        Call::Status | Call::Show | Call::Release => Ok(Input::default()),
    }
}

fn is_json(content_type: &[u8]) -> bool {
    let kind = content_type.split(|byte| *byte == b';').next().unwrap_or_default();
    let kind = kind.trim_ascii().to_ascii_lowercase();
    kind == b"application/json" || (kind.starts_with(b"application/") && kind.ends_with(b"+json"))
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body)
        .map_err(|error| Problem::BadRequest.because(format!("The JSON body is wrong: {error}.")))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReserveBody {
    items: Vec<ItemBody>,
    #[serde(default)]
    meta: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OrderBody {
    items: Vec<ItemBody>,
    #[serde(default, rename = "ref")]
    reference: Option<String>,
    #[serde(default)]
    meta: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfirmBody {
    #[serde(default, rename = "ref")]
    reference: Option<String>,
    #[serde(default)]
    meta: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExtendBody {
    #[serde(default)]
    ms: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TicketBody {
    #[serde(default)]
    challenge: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ItemBody {
    sku: String,
    qty: Quantity,
}

impl ReserveBody {
    fn into_input(self) -> Result<Input, Refusal> {
        Ok(Input { items: items(self.items)?, meta: self.meta, ..Input::default() })
    }
}

impl OrderBody {
    fn into_input(self) -> Result<Input, Refusal> {
        Ok(Input { items: items(self.items)?, reference: self.reference, meta: self.meta, ..Input::default() })
    }
}

impl ConfirmBody {
    fn into_input(self) -> Result<Input, Refusal> {
        Ok(Input { reference: self.reference, meta: self.meta, ..Input::default() })
    }
}

impl ExtendBody {
    fn into_input(self) -> Result<Input, Refusal> {
        if self.ms == Some(0) {
            return Err(Problem::BadRequest.because("`ms` must be at least 1."));
        }
        Ok(Input { extend_ms: self.ms, ..Input::default() })
    }
}

fn items(bodies: Vec<ItemBody>) -> Result<Vec<Item>, Refusal> {
    if bodies.is_empty() {
        return Err(Problem::BadRequest.because(format!("`items` is empty. Say what is wanted: {EXAMPLE}")));
    }
    if bodies.len() > ITEMS_MAX {
        return Err(Problem::BadRequest
            .because(format!("`items` has {} entries; {ITEMS_MAX} may stand in one request.", bodies.len())));
    }
    bodies
        .into_iter()
        .map(|item| Ok(Item { sku: name_in_range("sku", Bytes::from(item.sku))?, quantity: item.qty.0 }))
        .collect()
}

/// A quantity in JSON: a whole number in range. Its own type, so that the error says what is wrong with it.
struct Quantity(u32);

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Numbers;
        impl Visitor<'_> for Numbers {
            type Value = Quantity;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "a whole number from 1 to {QUANTITY_MAX}")
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Quantity, E> {
                in_range(value).ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(value), &self)).map(Quantity)
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Quantity, E> {
                Err(E::invalid_value(de::Unexpected::Signed(value), &self))
            }
        }
        deserializer.deserialize_u64(Numbers)
    }
}

fn in_range(quantity: u64) -> Option<u32> {
    (1..=QUANTITY_MAX).contains(&quantity).then_some(quantity as u32)
}

fn quantity_of(value: &[u8]) -> Result<u32, Refusal> {
    in_range(number("qty", value)?)
        .ok_or_else(|| Problem::BadRequest.because(format!("`qty` must be a whole number from 1 to {QUANTITY_MAX}.")))
}

fn number(name: &str, value: &[u8]) -> Result<u64, Refusal> {
    // `u64::from_str` takes a leading plus; a client that sends one meant something else.
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value)
        .ok()
        .filter(|_| digits)
        .and_then(|text| text.parse().ok())
        .filter(|number| *number > 0)
        .ok_or_else(|| {
            Problem::BadRequest
                .because(format!("`{name}` must be a whole number from 1 up, not `{}`.", printable(value)))
        })
}

fn name_in_range(what: &str, value: Bytes) -> Result<Bytes, Refusal> {
    if value.is_empty() || value.len() > NAME_BYTES_MAX {
        return Err(Problem::BadRequest
            .because(format!("`{what}` has {} bytes; it may have 1 to {NAME_BYTES_MAX}.", value.len())));
    }
    Ok(value)
}

fn text(name: &str, value: Vec<u8>) -> Result<String, Refusal> {
    String::from_utf8(value).map_err(|_| Problem::BadRequest.because(format!("`{name}` is not UTF-8.")))
}

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The hold id that `Idempotency-Key` names. Quotes around it, which the header's draft asks for, are cut off.
///
/// # Errors
/// It is empty, too long, or has bytes that are not visible ASCII.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<Bytes>, Refusal> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(Problem::BadRequest.because("`Idempotency-Key` stands twice."));
    }
    let value = value.as_bytes();
    let bare = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
    if bare == b"*" || bare.is_empty() || bare.len() > NAME_BYTES_MAX || !bare.iter().all(u8::is_ascii_graphic) {
        return Err(Problem::BadRequest.because(format!(
            "`Idempotency-Key` must be 1 to {NAME_BYTES_MAX} visible ASCII characters, such as a UUID."
        )));
    }
    Ok(Some(Bytes::copy_from_slice(bare)))
}

/// Bytes of a client, made fit for an error text.
fn printable(bytes: &[u8]) -> String {
    let shown: String =
        String::from_utf8_lossy(bytes).chars().take(40).map(|c| if c.is_control() { '?' } else { c }).collect();
    shown
}

#[cfg(test)]
#[path = "input_tests.rs"]
mod tests;
