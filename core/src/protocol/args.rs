//! Words into commands. Every function takes the words after the key.

use super::words::{Args, Parsed, Words, flag, integer, is, once, unknown};
use super::{ParseError, packed};
use crate::bounds;
use crate::command::{Accept, Change, Command, Confirm, Grant, Items, Order, Release, Reserve, Return, Stock};
use crate::sale::{Events, Shard};

/// A hold's id: `*` asks for one to be made.
fn hold_id<'a>(args: &mut Args<'_, 'a>) -> Parsed<Option<&'a [u8]>> {
    let id = args.name("id")?;
    Ok((id != b"*").then_some(id))
}

/// What CREATE asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Create<'a> {
    /// Settings.
    pub change: Change,
    /// Which part of the sale; a sale in one key if it is not given.
    pub shard: Option<Shard>,
    /// Which sale of its name this is.
    pub edition: Option<u64>,
    /// First stock; a quantity may be 0.
    pub items: Items<'a>,
}

/// `[LIMIT n] [HOLD ms] ... [SHARD i n] [EDITION n] [ITEMS sku qty [sku qty ...]]`
pub fn create<'a>(words: Words<'_, 'a>) -> Parsed<Create<'a>> {
    let mut args = Args { words };
    let mut create = Create::default();
    while let Some(word) = args.next() {
        if is(word, "ITEMS") {
            create.items = args.items(0)?;
        } else if is(word, "SHARD") {
            let index = integer(args.value_of("SHARD")?, "SHARD i", 0, bounds::MAX_SHARDS.into())? as u32;
            let count = integer(args.value_of("SHARD")?, "SHARD n", 1, bounds::MAX_SHARDS.into())? as u32;
            if index >= count {
                return Err(ParseError::Shard { index, count }.into());
            }
            once("SHARD", &mut create.shard, Shard { index, count })?;
        } else if is(word, "EDITION") {
            let most = bounds::MAX_TIME_MS as i64;
            let edition = integer(args.value_of("EDITION")?, "EDITION", 1, most)?;
            once("EDITION", &mut create.edition, edition as u64)?;
        } else {
            setting(word, &mut args, &mut create.change)?;
        }
    }
    Ok(create)
}

/// The options of CREATE but SHARD, EDITION and ITEMS.
pub fn alter(words: Words<'_, '_>) -> Parsed<Change> {
    let mut args = Args { words };
    let mut change = Change::default();
    while let Some(word) = args.next() {
        setting(word, &mut args, &mut change)?;
    }
    Ok(change)
}

fn setting(word: &[u8], args: &mut Args<'_, '_>, change: &mut Change) -> Parsed<()> {
    if is(word, "LIMIT") {
        args.small_of("LIMIT", 0, &mut change.limit)
    } else if is(word, "HOLD") {
        args.number_of("HOLD", 1, bounds::MAX_HOLD_MS, &mut change.hold_ms)
    } else if is(word, "MAXHOLD") {
        args.number_of("MAXHOLD", 1, bounds::MAX_HOLD_MS, &mut change.maxhold_ms)
    } else if is(word, "OPENS") {
        args.number_of("OPENS", 0, bounds::MAX_TIME_MS, &mut change.opens_at)
    } else if is(word, "CLOSES") {
        args.number_of("CLOSES", 0, bounds::MAX_TIME_MS, &mut change.closes_at)
    } else if is(word, "RETAIN") {
        args.number_of("RETAIN", 0, bounds::MAX_RETAIN_MS, &mut change.retain_ms)
    } else if is(word, "BACKLOG") {
        args.number_of("BACKLOG", 1, bounds::MAX_QUANTITY.into(), &mut change.backlog)
    } else if is(word, "EVENTS") {
        let given = args.value_of("EVENTS")?;
        let choices = [("ORDERS", Events::Orders), ("ALL", Events::All), ("NONE", Events::None)];
        match choices.iter().find(|(name, _)| is(given, name)) {
            Some(&(_, events)) => once("EVENTS", &mut change.events, events),
            None => {
                Err(ParseError::Choice { what: "EVENTS", given: given.into(), allowed: "ORDERS, ALL, NONE" }.into())
            }
        }
    } else {
        unknown(word)
    }
}

/// `sku delta [ID alloc-id] [LIMIT n]`
pub fn stock<'a>(words: Words<'_, 'a>) -> Parsed<Stock<'a>> {
    let mut args = Args { words };
    let most = i64::from(bounds::MAX_QUANTITY);
    let mut stock =
        Stock { sku: args.name("SKU")?, delta: args.number("delta", -most, most)?, alloc_id: None, limit: None };
    while let Some(word) = args.next() {
        if is(word, "ID") {
            args.name_of("ID", &mut stock.alloc_id)?;
        } else if is(word, "LIMIT") {
            args.small_of("LIMIT", 0, &mut stock.limit)?;
        } else {
            return unknown(word);
        }
    }
    Ok(stock)
}

/// What RESERVE asks for: a request, and how long the client would wait for it.
#[derive(Clone, Debug)]
pub struct ReserveCall<'a> {
    /// The request.
    pub reserve: Reserve<'a>,
    /// BLOCK in ms; 0 waits for ever.
    pub block_ms: Option<u64>,
}

/// `id buyer [TTL ms] [UPTO] [REPEATED] [REPLACE hold-id] [NOTAFTER unix-ms] [BLOCK ms] [META text] ITEMS sku qty ...`
pub fn reserve<'a>(words: Words<'_, 'a>) -> Parsed<ReserveCall<'a>> {
    let mut args = Args { words };
    let mut reserve = Reserve {
        id: hold_id(&mut args)?,
        buyer: args.name("buyer")?,
        ttl_ms: None,
        up_to: false,
        tell_repeated: false,
        replace: None,
        not_after: None,
        meta: None,
        items: Items::new(),
    };
    let mut block_ms = None;
    while let Some(word) = args.next() {
        if is(word, "ITEMS") {
            reserve.items = args.items(1)?;
        } else if is(word, "TTL") {
            args.number_of("TTL", 1, bounds::MAX_HOLD_MS, &mut reserve.ttl_ms)?;
        } else if is(word, "UPTO") {
            flag("UPTO", &mut reserve.up_to)?;
        } else if is(word, "REPEATED") {
            flag("REPEATED", &mut reserve.tell_repeated)?;
        } else if is(word, "REPLACE") {
            args.name_of("REPLACE", &mut reserve.replace)?;
        } else if is(word, "NOTAFTER") {
            args.number_of("NOTAFTER", 0, bounds::MAX_TIME_MS, &mut reserve.not_after)?;
        } else if is(word, "BLOCK") {
            args.number_of("BLOCK", 0, bounds::MAX_HOLD_MS, &mut block_ms)?;
        } else if is(word, "META") {
            args.meta(&mut reserve.meta)?;
        } else {
            return unknown(word);
        }
    }
    if reserve.items.is_empty() {
        return Err(ParseError::Groups { what: "ITEMS", form: "sku qty", words: 0 }.into());
    }
    Ok(ReserveCall { reserve, block_ms })
}

/// What MRESERVE asks for.
#[derive(Clone, Debug)]
pub struct MreserveCall<'a> {
    /// The requests, each a [`Command::Reserve`].
    pub holds: Vec<Command<'a>>,
    /// They came packed, and so should the answers.
    pub packed: bool,
}

/// `[TTL ms] [REPEATED] [NOTAFTER unix-ms] HOLDS id buyer sku qty [id buyer sku qty ...]`, or `PACKED msgpack` for HOLDS
pub fn mreserve<'a>(words: Words<'_, 'a>) -> Parsed<MreserveCall<'a>> {
    let mut args = Args { words };
    let mut common = packed::Common::default();
    while let Some(word) = args.next() {
        if is(word, "HOLDS") {
            return Ok(MreserveCall { holds: holds_in_words(args.words, common)?, packed: false });
        } else if is(word, "PACKED") {
            let holds = packed::holds(args.value_of("PACKED")?, common)?;
            args.end()?;
            return Ok(MreserveCall { holds, packed: true });
        } else if is(word, "TTL") {
            args.number_of("TTL", 1, bounds::MAX_HOLD_MS, &mut common.ttl_ms)?;
        } else if is(word, "REPEATED") {
            flag("REPEATED", &mut common.tell_repeated)?;
        } else if is(word, "NOTAFTER") {
            args.number_of("NOTAFTER", 0, bounds::MAX_TIME_MS, &mut common.not_after)?;
        } else {
            return unknown(word);
        }
    }
    holds_in_words(&[], common).map(|holds| MreserveCall { holds, packed: false })
}

fn holds_in_words<'a>(words: Words<'_, 'a>, common: packed::Common) -> Parsed<Vec<Command<'a>>> {
    const FORM: &str = "id buyer sku qty";
    if words.is_empty() || !words.len().is_multiple_of(4) {
        return Err(ParseError::Groups { what: "HOLDS", form: FORM, words: words.len() }.into());
    }
    let mut holds = Vec::with_capacity(words.len() / 4);
    for group in words.chunks_exact(4) {
        let mut args = Args { words: group };
        holds.push(Command::Reserve(Reserve {
            id: hold_id(&mut args)?,
            buyer: args.name("buyer")?,
            items: args.items(1)?,
            ttl_ms: common.ttl_ms,
            not_after: common.not_after,
            up_to: false,
            tell_repeated: common.tell_repeated,
            replace: None,
            meta: None,
        }));
    }
    Ok(holds)
}

/// `id buyer [REF text] [META text] ITEMS sku qty ...`
pub fn order<'a>(words: Words<'_, 'a>) -> Parsed<Order<'a>> {
    let mut args = Args { words };
    let (id, buyer) = (hold_id(&mut args)?, args.name("buyer")?);
    let mut order = Order { id, buyer, reference: None, meta: None, items: Items::new() };
    while let Some(word) = args.next() {
        if is(word, "ITEMS") {
            order.items = args.items(1)?;
        } else if is(word, "REF") {
            args.reference(&mut order.reference)?;
        } else if is(word, "META") {
            args.meta(&mut order.meta)?;
        } else {
            return unknown(word);
        }
    }
    if order.items.is_empty() {
        return Err(ParseError::Groups { what: "ITEMS", form: "sku qty", words: 0 }.into());
    }
    Ok(order)
}

/// `id [REF text] [META text] [LATE] [ITEMS sku qty ...]`
pub fn confirm<'a>(words: Words<'_, 'a>) -> Parsed<Confirm<'a>> {
    let mut args = Args { words };
    let mut confirm = Confirm { id: args.name("id")?, reference: None, meta: None, late: false, items: Items::new() };
    while let Some(word) = args.next() {
        if is(word, "REF") {
            args.reference(&mut confirm.reference)?;
        } else if is(word, "META") {
            args.meta(&mut confirm.meta)?;
        } else if is(word, "LATE") {
            flag("LATE", &mut confirm.late)?;
        } else if is(word, "ITEMS") {
            confirm.items = args.items(1)?;
        } else {
            return unknown(word);
        }
    }
    Ok(confirm)
}

/// `id [REASON text]`
pub fn release<'a>(words: Words<'_, 'a>) -> Parsed<Release<'a>> {
    let mut args = Args { words };
    let mut release = Release { id: args.name("id")?, reason: None };
    while let Some(word) = args.next() {
        if !is(word, "REASON") {
            return unknown(word);
        }
        args.text_of("REASON", bounds::MAX_REF_BYTES, &mut release.reason)?;
    }
    Ok(release)
}

/// `id ms`
pub fn extend<'a>(words: Words<'_, 'a>) -> Parsed<(&'a [u8], u64)> {
    let mut args = Args { words };
    let id = args.name("id")?;
    let ms = args.number("ms", 1, bounds::MAX_HOLD_MS as i64)? as u64;
    args.end()?;
    Ok((id, ms))
}

/// `id return-id [ITEMS sku qty ...]`
pub fn returned<'a>(words: Words<'_, 'a>) -> Parsed<Return<'a>> {
    let mut args = Args { words };
    let (id, return_id) = (args.name("id")?, args.name("return-id")?);
    let items = match args.next() {
        None => Items::new(),
        Some(word) if is(word, "ITEMS") => args.items(1)?,
        Some(word) => return unknown(word),
    };
    Ok(Return { id, return_id, items })
}

/// How many due holds EXPIRE ends at most if it is not told.
pub const DEFAULT_EXPIRE_COUNT: usize = 1_000;

/// `[COUNT n]`
pub fn expire(words: Words<'_, '_>) -> Parsed<usize> {
    let mut args = Args { words };
    let mut count = None;
    while let Some(word) = args.next() {
        if !is(word, "COUNT") {
            return unknown(word);
        }
        args.small_of("COUNT", 1, &mut count)?;
    }
    Ok(count.map_or(DEFAULT_EXPIRE_COUNT, |count| count as usize))
}

/// `sku qty TO j [AFTER t]`
pub fn grant<'a>(words: Words<'_, 'a>) -> Parsed<Grant<'a>> {
    let mut args = Args { words };
    let sku = args.name("SKU")?;
    let qty = args.number("qty", 1, bounds::MAX_QUANTITY.into())? as u32;
    let (mut to, mut after) = (None, None);
    while let Some(word) = args.next() {
        if is(word, "TO") {
            args.small_of("TO", 0, &mut to)?;
        } else if is(word, "AFTER") {
            args.number_of("AFTER", 0, bounds::MAX_STOCKED, &mut after)?;
        } else {
            return unknown(word);
        }
    }
    Ok(Grant { sku, qty, to: to.ok_or(ParseError::Arity)?, after })
}

/// `sku FROM i TOTAL t`
pub fn accept<'a>(words: Words<'_, 'a>) -> Parsed<Accept<'a>> {
    let mut args = Args { words };
    let sku = args.name("SKU")?;
    let (mut from, mut total) = (None, None);
    while let Some(word) = args.next() {
        if is(word, "FROM") {
            args.small_of("FROM", 0, &mut from)?;
        } else if is(word, "TOTAL") {
            args.number_of("TOTAL", 0, bounds::MAX_STOCKED, &mut total)?;
        } else {
            return unknown(word);
        }
    }
    Ok(Accept { sku, from: from.ok_or(ParseError::Arity)?, total: total.ok_or(ParseError::Arity)? })
}

/// Which holds HOLDS lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoldsQuery {
    /// Where to go on; 0 at first.
    pub cursor: u64,
    /// Only those in this state.
    pub state: Option<&'static str>,
    /// How many to look at.
    pub count: usize,
}

/// `cursor [STATE s] [COUNT n]`
pub fn holds(words: Words<'_, '_>) -> Parsed<HoldsQuery> {
    const STATES: [&str; 4] = ["held", "confirmed", "released", "expired"];
    let mut args = Args { words };
    let cursor = args.number("cursor", 0, u32::MAX.into())? as u64;
    let (mut state, mut count) = (None, None);
    while let Some(word) = args.next() {
        if is(word, "STATE") {
            let given = args.value_of("STATE")?;
            match STATES.into_iter().find(|name| is(given, name)) {
                Some(name) => once("STATE", &mut state, name)?,
                None => {
                    let allowed = "held, confirmed, released, expired";
                    return Err(ParseError::Choice { what: "STATE", given: given.into(), allowed }.into());
                }
            }
        } else if is(word, "COUNT") {
            args.small_of("COUNT", 1, &mut count)?;
        } else {
            return unknown(word);
        }
    }
    Ok(HoldsQuery { cursor, state, count: count.map_or(100, |count| count as usize) })
}

/// One name and nothing else: HOLD's id, BUYER's buyer.
pub fn single_name<'a>(words: Words<'_, 'a>, what: &'static str) -> Parsed<&'a [u8]> {
    let mut args = Args { words };
    let name = args.name(what)?;
    args.end()?;
    Ok(name)
}

/// Nothing: PAUSE, RESUME, CLOSE, INFO, AUDIT.
pub fn nothing(words: Words<'_, '_>) -> Parsed<()> {
    Args { words }.end()
}

/// `n`: how many shards.
pub fn shard_count(words: Words<'_, '_>) -> Parsed<u32> {
    let mut args = Args { words };
    let count = args.number("n", 1, bounds::MAX_SHARDS.into())? as u32;
    args.end()?;
    Ok(count)
}

/// `n buyer`
pub fn route<'a>(words: Words<'_, 'a>) -> Parsed<(u32, &'a [u8])> {
    let mut args = Args { words };
    let count = args.number("n", 1, bounds::MAX_SHARDS.into())? as u32;
    let buyer = args.name("buyer")?;
    args.end()?;
    Ok((count, buyer))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Item;

    fn words(line: &str) -> Vec<&[u8]> {
        line.split(' ').filter(|word| !word.is_empty()).map(str::as_bytes).collect()
    }

    #[test]
    fn options_come_in_any_order_and_case() {
        let line = words("h1 ada ttl 5 Upto META x notafter 9 replace h0 block 0 items tee 1 mug 2 tee 3");
        let call = reserve(&line).unwrap();
        assert_eq!(call.reserve.items[..], [Item { sku: b"tee", qty: 4 }, Item { sku: b"mug", qty: 2 }]);
        assert_eq!((call.reserve.ttl_ms, call.block_ms), (Some(5), Some(0)));
        assert!(call.reserve.up_to && call.reserve.replace == Some(b"h0"));
        assert_eq!(reserve(&words("* ada ITEMS tee 1")).unwrap().reserve.id, None);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_value() {
        let error = |line: &str| reserve(&words(line)).unwrap_err().to_string();
        assert_eq!(error("h"), "wrong number of arguments");
        assert_eq!(error("h ada TTL 0 ITEMS t 1"), "TTL '0' is not an integer in 1..2147483647");
        assert_eq!(error("h ada TTL 1x ITEMS t 1"), "TTL '1x' is not an integer in 1..2147483647");
        assert_eq!(error("h ada ITEMS t 2147483648"), "qty '2147483648' is not an integer in 1..2147483647");
        assert_eq!(error("h ada ITEMS t 2147483647 t 1"), "the quantities of SKU 't' add up to more than 2147483647");
        assert_eq!(
            error("h ada ITEMS t"),
            "ITEMS takes groups of 'sku qty' up to the end: 1 words are no whole groups"
        );
        assert_eq!(error("h ada UPTO"), "ITEMS needs at least one 'sku qty'");
        assert_eq!(error("h ada UPTO UPTO ITEMS t 1"), "UPTO is given twice");
        assert_eq!(error("h ada TTL"), "TTL needs a value after it");
        assert_eq!(error("h ada NOW ITEMS t 1"), "unknown option 'NOW'");
        let long = "x".repeat(129);
        assert_eq!(error(&format!("{long} ada ITEMS t 1")), "id is 129 bytes long: give 1..128 bytes");
    }
}
