//! Plain reservations of one shard in one command, and what it answers.

use std::collections::HashSet;

use bytes::Bytes;
use flashsale_core::protocol::packed;
use flashsale_core::protocol::reply::Reply as _;
use redis::{Cmd, Value};

use super::answer::{self, Answer, Words};
use super::merge::{Plain, Told};
use super::nodes::Dialect;
use super::{StoreError, command};
use crate::packed::Packed;

/// The holds that may be there already are looked at in the same write, which tells a repeat from the first time.
pub fn commands(dialect: Dialect, key: &[u8], plains: &[Plain]) -> Vec<Cmd> {
    let ids = plains.iter().filter_map(|plain| plain.id.as_deref());
    let mut commands: Vec<Cmd> = ids.map(|id| dialect.command("HOLD", key).arg(id).to_owned()).collect();
    // They all came while the last command was under way: the first to be too late stands for them.
    let not_after_ms = plains.iter().map(|plain| plain.not_after_ms).min().unwrap_or(0);
    commands.push(match plains {
        [plain] => {
            let mut cmd = dialect.command("RESERVE", key);
            cmd.arg(command::id_or_star(&plain.id)).arg(&plain.buyer[..]);
            cmd.arg("NOTAFTER").arg(not_after_ms).arg("ITEMS");
            cmd.arg(&plain.item.sku[..]).arg(plain.item.quantity);
            cmd
        }
        _ => {
            let mut cmd = dialect.command("MRESERVE", key);
            cmd.arg("NOTAFTER").arg(not_after_ms);
            match dialect {
                // Server and client read and write one word instead of seven for each hold.
                Dialect::Module => cmd.arg("PACKED").arg(packed(plains).as_bytes()),
                // The library would take the packed form apart byte by byte, in Lua.
                Dialect::Functions => spell_out(&mut cmd, plains),
            };
            cmd
        }
    });
    commands
}

fn spell_out<'a>(cmd: &'a mut Cmd, plains: &[Plain]) -> &'a mut Cmd {
    cmd.arg("HOLDS");
    for plain in plains {
        cmd.arg(command::id_or_star(&plain.id)).arg(&plain.buyer[..]);
        cmd.arg(&plain.item.sku[..]).arg(plain.item.quantity);
    }
    cmd
}

fn packed(plains: &[Plain]) -> packed::Packed {
    let mut holds = packed::Packed::default();
    holds.array(plains.len() * 4);
    for plain in plains {
        holds.bytes(command::id_or_star(&plain.id));
        holds.bytes(&plain.buyer);
        holds.bytes(&plain.item.sku);
        holds.integer(plain.item.quantity.into());
    }
    holds
}

/// What each of the reservations is told by the replies to [`commands`].
///
/// # Errors
/// The server's error, or [`StoreError::Nonsense`]: about all of them.
pub fn read(mut replies: Vec<Value>, plains: &[Plain]) -> Result<Vec<Told>, StoreError> {
    let last = answer::checked(replies.pop().unwrap_or(Value::Nil))?;
    let answers: Vec<_> = match last {
        reply if plains.len() == 1 => vec![answer::answer(reply)],
        Value::Array(outcomes) => outcomes.into_iter().map(answer::answer).collect(),
        Value::BulkString(packed) => unpack(&packed.into()).map_err(|error| StoreError::Nonsense(error.to_string()))?,
        _ => Vec::new(),
    };
    if answers.len() != plains.len() {
        return Err(StoreError::Nonsense("MRESERVE answered for other holds than were asked for".to_owned()));
    }
    let mut before = replies.into_iter();
    let mut seen = HashSet::new();
    let told = plains.iter().zip(answers).map(|(plain, answer)| {
        let repeated = match &plain.id {
            None => false,
            Some(id) => {
                let known = answer::hold(before.next().unwrap_or(Value::Nil))?.is_some();
                !seen.insert(id) || known
            }
        };
        Ok((answer?, repeated))
    });
    Ok(told.collect())
}

/// Words of an outcome that mean something.
const WORDS_MAX: usize = 4;

/// An outcome in a packed reply.
struct Outcome<'a> {
    reply: &'a Bytes,
    words: [Packed<'a>; WORDS_MAX],
    count: usize,
}

impl Outcome<'_> {
    fn word(&self, index: usize) -> Option<&Packed<'_>> {
        self.words[..self.count].get(index)
    }

    fn answer(&self) -> Result<Answer, StoreError> {
        match self.word(0) {
            Some(Packed::Bytes(b"ERR")) => {
                let detail = self.bytes(1).unwrap_or_default();
                Err(answer::server_error("ERR", &String::from_utf8_lossy(&detail)))
            }
            Some(Packed::Bytes(status)) => answer::outcome(status, self),
            _ => Err(StoreError::Nonsense("an outcome without a word".to_owned())),
        }
    }
}

impl Words for Outcome<'_> {
    fn bytes(&self, index: usize) -> Option<Bytes> {
        match self.word(index)? {
            Packed::Bytes(bytes) => Some(self.reply.slice_ref(bytes)),
            Packed::Nothing => Some(Bytes::new()),
            Packed::Number(number) => Some(Bytes::from(number.to_string())),
            Packed::True | Packed::List(_) => None,
        }
    }

    fn count(&self, index: usize) -> Option<u64> {
        self.word(index)?.signed().ok().map(|number| u64::try_from(number).unwrap_or(0))
    }
}

fn unpack(reply: &Bytes) -> anyhow::Result<Vec<Result<Answer, StoreError>>> {
    let mut rest = &reply[..];
    let outcomes = Packed::take_head(&mut rest)?;
    // An outcome takes more bytes than one: no length makes more room than there are bytes.
    let mut answers = Vec::with_capacity(outcomes.min(rest.len()));
    for _ in 0..outcomes {
        let words = Packed::take_head(&mut rest)?;
        let count = words.min(WORDS_MAX);
        let mut outcome = Outcome { reply, words: [const { Packed::Nothing }; WORDS_MAX], count };
        for index in 0..words {
            let word = Packed::take(&mut rest)?;
            if let Some(place) = outcome.words.get_mut(index) {
                *place = word;
            }
        }
        answers.push(outcome.answer());
    }
    anyhow::ensure!(rest.is_empty(), "{} bytes too many", rest.len());
    Ok(answers)
}

#[cfg(test)]
mod tests {
    use super::super::merge::tests::plain;
    use super::*;

    fn spelled(commands: &[Cmd]) -> Vec<String> {
        let word = |word: redis::Arg<&[u8]>| match word {
            redis::Arg::Simple(bytes) => bytes.escape_ascii().to_string(),
            _ => String::new(),
        };
        commands.iter().map(|cmd| cmd.args_iter().map(word).collect::<Vec<_>>().join(" ")).collect()
    }

    #[test]
    fn one_goes_by_itself_and_several_go_together() {
        let (one, two) = (plain(Some("h"), "ann", 9), plain(None, "bob", 7));
        let commands = |dialect, plains: &[Plain]| spelled(&commands(dialect, b"k", plains));
        assert_eq!(
            commands(Dialect::Module, std::slice::from_ref(&one)),
            ["FLASH.HOLD k h", "FLASH.RESERVE k h ann NOTAFTER 9 ITEMS S 1"]
        );
        let both = [one, two];
        assert_eq!(
            commands(Dialect::Functions, &both),
            ["FCALL_RO flash_hold 1 k h", "FCALL flash_mreserve 1 k NOTAFTER 7 HOLDS h ann S 1 * bob S 1"]
        );
        assert_eq!(
            commands(Dialect::Module, &both),
            ["FLASH.HOLD k h", r"FLASH.MRESERVE k NOTAFTER 7 PACKED \x98\xa1h\xa3ann\xa1S\x01\xa1*\xa3bob\xa1S\x01"]
        );
    }

    fn reserved(id: &'static str) -> Answer {
        Answer::Reserved { id: Bytes::from_static(id.as_bytes()), deadline_ms: 300 }
    }

    #[test]
    fn each_is_told_its_own() {
        let plains = [plain(Some("h"), "ann", 9), plain(None, "bob", 9), plain(Some("h"), "ann", 9)];
        let nobody = Value::Array(Vec::new());
        let words = |id: &str| {
            let word = |word: &str| Value::BulkString(word.as_bytes().to_vec());
            Value::Array(vec![word("RESERVED"), word(id), Value::Int(300)])
        };
        let in_words = Value::Array(vec![words("h"), words("1"), words("h")]);
        let one = b"\x93\xa8RESERVED\xa1h\xcd\x01\x2c";
        let packed = [b"\x93", &one[..], b"\x93\xa8RESERVED\xa11\xcd\x01\x2c", one].concat();
        for last in [in_words, Value::BulkString(packed)] {
            let told = read(vec![nobody.clone(), nobody.clone(), last], &plains).unwrap();
            assert_eq!(told, [Ok((reserved("h"), false)), Ok((reserved("1"), false)), Ok((reserved("h"), true))]);
        }
    }

    #[test]
    fn an_error_is_of_one_hold_and_nonsense_of_all() {
        let plains = [plain(None, "ann", 9), plain(None, "bob", 9)];
        let read = |packed: &[u8]| read(vec![Value::BulkString(packed.to_vec())], &plains);
        let told = read(b"\x92\x92\xa3ERR\xa2no\x93\xa7ALLHELD\xa1S\xff").unwrap();
        let held = Answer::AllHeld { sku: Bytes::from_static(b"S"), next_ms: 0 };
        assert_eq!(told, [Err(StoreError::Misuse("no".to_owned())), Ok((held, false))]);
        let told = read(b"\x92\x91\xa6PAUSED\x92\xa8RESERVED\xa1h").unwrap();
        assert_eq!(told[0], Ok((Answer::Paused, false)));
        assert!(matches!(told[1], Err(StoreError::Nonsense(_))), "a deadline is missing");
        for nonsense in
            [&b""[..], b"\x91\x91\xa6PAUSED", b"\x92\x91\xa6PAUSED", b"\x92\x91\xa6PAUSED\x07", b"\xdd\xff\xff\xff\xff"]
        {
            assert!(matches!(read(nonsense), Err(StoreError::Nonsense(_))), "{nonsense:?}");
        }
    }
}
