//! What a reply should look like.

use super::words::{self, Word};
use flashsale_tests::Reply;
use std::collections::BTreeMap;

/// An expected reply, or a part of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// `*`
    Any,
    /// `nil`
    Nil,
    /// `OK`, `+WORD`: a simple string.
    Simple(String),
    /// A word or `"..."`: a bulk string.
    Bytes(Vec<u8>),
    /// `17`
    Integer(i64),
    /// `now+300000`: that many milliseconds from the server's time of the step.
    Now(i64),
    /// `past`: a time since the case began.
    Past,
    /// `made-id`: an id of the implementation's own making.
    MadeId,
    /// `!CODE`: an error that begins with this word.
    Error(String),
    /// `$name`: what was captured before, or what matches and is captured now.
    Variable(String, Option<Box<Pattern>>),
    /// `[a b]`; with `...` at its end more may follow.
    Array(Vec<Pattern>, bool),
    /// `{key value}` in any order; with `...` there may be other keys.
    Map(Vec<(Vec<u8>, Pattern)>, bool),
}

/// What a pattern is compared with beside the reply.
pub struct Context<'c> {
    /// The server's time before the step was sent and after it was answered, unix ms.
    pub window: (i64, i64),
    /// When the case began.
    pub began: i64,
    /// What was captured.
    pub variables: &'c mut BTreeMap<String, Reply>,
    /// Whether maps must come as maps, as RESP3 has them.
    pub resp3: bool,
}

/// Reads an expected reply.
pub fn parse(text: &str) -> Result<Pattern, String> {
    let words = words::split(text, "[]{}")?;
    let mut rest = words.as_slice();
    let pattern = one(&mut rest)?;
    if rest.is_empty() { Ok(pattern) } else { Err(format!("more than one reply: {text}")) }
}

fn one(rest: &mut &[Word]) -> Result<Pattern, String> {
    let (word, after) = rest.split_first().ok_or("an expected reply ends too early")?;
    *rest = after;
    match word.bare() {
        Some("[") => array(rest),
        Some("{") => map(rest),
        Some(bare) => atom(bare),
        None => Ok(Pattern::Bytes(word.bytes.clone())),
    }
}

fn closes(rest: &mut &[Word], bracket: &str) -> bool {
    let closes = rest.first().is_some_and(|word| word.bare() == Some(bracket));
    if closes {
        *rest = &rest[1..];
    }
    closes
}

fn array(rest: &mut &[Word]) -> Result<Pattern, String> {
    let mut items = Vec::new();
    loop {
        if closes(rest, "]") {
            return Ok(Pattern::Array(items, false));
        }
        if closes(rest, "...") {
            return if closes(rest, "]") { Ok(Pattern::Array(items, true)) } else { Err("'...' ends an array".into()) };
        }
        items.push(one(rest)?);
    }
}

fn map(rest: &mut &[Word]) -> Result<Pattern, String> {
    let mut pairs = Vec::new();
    loop {
        if closes(rest, "}") {
            return Ok(Pattern::Map(pairs, false));
        }
        if closes(rest, "...") {
            return if closes(rest, "}") { Ok(Pattern::Map(pairs, true)) } else { Err("'...' ends a map".into()) };
        }
        let (key, after) = rest.split_first().ok_or("a map without its end")?;
        *rest = after;
        pairs.push((key.bytes.clone(), one(rest)?));
    }
}

fn atom(word: &str) -> Result<Pattern, String> {
    if let Some(variable) = word.strip_prefix('$') {
        return Ok(match variable.split_once('=') {
            Some((name, pattern)) => Pattern::Variable(name.into(), Some(Box::new(atom(pattern)?))),
            None => Pattern::Variable(variable.into(), None),
        });
    }
    Ok(match word {
        "*" => Pattern::Any,
        "nil" => Pattern::Nil,
        "OK" => Pattern::Simple(word.into()),
        "made-id" => Pattern::MadeId,
        "past" => Pattern::Past,
        _ => match (word.split_at(1), relative_time(word)) {
            (("+", simple), _) => Pattern::Simple(simple.into()),
            (("!", code), _) => Pattern::Error(code.into()),
            (_, Some(offset)) => Pattern::Now(offset?),
            _ => word.parse().map_or_else(|_| Pattern::Bytes(word.into()), Pattern::Integer),
        },
    })
}

/// `now`, `now+5`, `now-5`: the milliseconds after now.
pub fn relative_time(word: &str) -> Option<Result<i64, String>> {
    let offset = word.strip_prefix("now")?;
    match offset.chars().next() {
        None => Some(Ok(0)),
        Some('+' | '-') => Some(offset.parse().map_err(|_| format!("no time: {word}"))),
        Some(_) => None,
    }
}

impl Pattern {
    /// Whether the reply is as expected; else what is not.
    pub fn check(&self, reply: &Reply, context: &mut Context<'_>) -> Result<(), String> {
        let as_expected = match (self, reply) {
            (Self::Any, _) | (Self::Nil, Reply::Nil) => true,
            (Self::Simple(text), Reply::Status(given)) => text == given,
            (Self::Bytes(bytes), Reply::Bytes(given)) => bytes == given,
            (Self::Integer(number), Reply::Integer(given)) => number == given,
            (Self::Now(offset), Reply::Integer(given)) => {
                (context.window.0 + offset..=context.window.1 + offset).contains(given)
            }
            (Self::Past, Reply::Integer(given)) => (context.began..=context.window.1).contains(given),
            (Self::MadeId, Reply::Bytes(given)) => is_made_id(given),
            (Self::Error(code), Reply::Error(line)) => line.split(' ').next() == Some(code),
            (Self::Variable(name, pattern), _) => return check_variable(name, pattern.as_deref(), reply, context),
            (Self::Array(patterns, open), Reply::Array(items)) => {
                return check_array(patterns, *open, items, reply, context);
            }
            (Self::Map(patterns, open), Reply::Map(_)) => return check_map(patterns, *open, reply, context),
            (Self::Map(patterns, open), Reply::Array(items)) if !context.resp3 && items.len().is_multiple_of(2) => {
                return check_map(patterns, *open, reply, context);
            }
            _ => false,
        };
        if as_expected {
            return Ok(());
        }
        match self {
            Self::Now(_) | Self::Past => Err(format!("{reply} is not {self:?} with now {:?}", context.window)),
            _ => Err(format!("{reply:?} is not {self:?}")),
        }
    }
}

fn check_variable(
    name: &str,
    pattern: Option<&Pattern>,
    reply: &Reply,
    context: &mut Context<'_>,
) -> Result<(), String> {
    match pattern {
        Some(pattern) => {
            pattern.check(reply, context)?;
            context.variables.insert(name.into(), reply.clone());
            Ok(())
        }
        None => match context.variables.get(name) {
            Some(known) if known == reply => Ok(()),
            Some(known) => Err(format!("{reply:?} is not ${name}, which is {known:?}")),
            None => Err(format!("${name} was never captured: write ${name}=*")),
        },
    }
}

fn check_array(
    patterns: &[Pattern],
    open: bool,
    items: &[Reply],
    reply: &Reply,
    context: &mut Context<'_>,
) -> Result<(), String> {
    if items.len() < patterns.len() || items.len() > patterns.len() && !open {
        return Err(format!("{} elements and not {} in {reply}", items.len(), patterns.len()));
    }
    patterns.iter().zip(items).try_for_each(|(pattern, item)| pattern.check(item, context))
}

fn check_map(
    patterns: &[(Vec<u8>, Pattern)],
    open: bool,
    reply: &Reply,
    context: &mut Context<'_>,
) -> Result<(), String> {
    let mut pairs = reply.pairs();
    for (key, pattern) in patterns {
        let named = |(name, _): &(&Reply, &Reply)| matches!(name, Reply::Bytes(bytes) if bytes == key);
        let shown = key.escape_ascii();
        let at = pairs.iter().position(named).ok_or_else(|| format!("no {shown} in {reply}"))?;
        let (_, value) = pairs.swap_remove(at);
        pattern.check(value, context).map_err(|problem| format!("{shown}: {problem}"))?;
    }
    match pairs.first() {
        Some((name, _)) if !open => Err(format!("{name} is more than was expected in {reply}")),
        _ => Ok(()),
    }
}

/// `INC-SEQ`: 8 hex digits, a dash, a number.
fn is_made_id(id: &[u8]) -> bool {
    let Ok(id) = std::str::from_utf8(id) else { return false };
    let Some((incarnation, sequence)) = id.split_once('-') else { return false };
    let hex = incarnation.len() == 8 && incarnation.bytes().all(|digit| digit.is_ascii_hexdigit());
    hex && sequence.parse::<u64>().is_ok_and(|number| number > 0)
}

#[test]
fn patterns_tell_replies_apart() {
    let check = |pattern: &str, reply: &Reply| {
        let mut variables = BTreeMap::new();
        let mut context = Context { window: (100, 110), began: 50, variables: &mut variables, resp3: false };
        parse(pattern).expect("a pattern").check(reply, &mut context).is_ok()
    };
    let bytes = |text: &str| Reply::Bytes(text.into());
    let reserved = Reply::Array(vec![bytes("RESERVED"), bytes("h1"), Reply::Integer(405)]);
    for good in ["[RESERVED h1 now+300]", "[RESERVED $id=* 405]", "[RESERVED ...]", "*"] {
        assert!(check(good, &reserved), "{good}");
    }
    for bad in ["[RESERVED h1 now+290]", "[RESERVED h1 now+306]", "[RESERVED h1]", "[RESERVED h2 405]", "nil", "$x"] {
        assert!(!check(bad, &reserved), "{bad}");
    }
    assert!(check("past", &Reply::Integer(50)) && !check("past", &Reply::Integer(111)));
    let map = Reply::Array(vec![bytes("a"), Reply::Integer(1), bytes("b"), Reply::Nil]);
    assert!(check("{b nil a 1}", &map) && check("{a 1 ...}", &map) && !check("{a 1}", &map));
    assert!(check("!ERR", &Reply::Error("ERR no".into())) && !check("!ERR", &Reply::Error("ERROR no".into())));
    assert!(check("OK", &Reply::Status("OK".into())) && !check("OK", &bytes("OK")));
    assert!(check("made-id", &bytes("00ff00ff-1")) && !check("made-id", &bytes("00ff00ff")));
}
