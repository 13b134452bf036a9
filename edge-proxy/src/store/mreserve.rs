//! Plain reservations of one shard in one command, and what it answers.

use bytes::Bytes;
use flashsale_core::protocol::packed;
use flashsale_core::protocol::reply::Reply as _;
use redis::{Cmd, Value};

use super::answer::{self, Answer, Words};
use super::merge::{Plain, Told};
use super::nodes::Dialect;
use super::{StoreError, command};
use crate::packed::Packed;

/// The command; of holds under their own ids it tells which were there already.
pub fn command(dialect: Dialect, key: &[u8], plains: &[Plain]) -> Cmd {
    let is_named = plains.iter().any(|plain| plain.id.is_some());
    // They all came while the last command was under way: the first to be too late stands for them.
    let not_after_ms = plains.iter().map(|plain| plain.not_after_ms).min().unwrap_or(0);
    let mut cmd = dialect.command("MRESERVE", key);
    command::push_terms(&mut cmd, is_named, not_after_ms);
    match dialect {
        // Server and client read and write one word instead of four for each hold.
        Dialect::Module => cmd.arg("PACKED").arg(packed(plains).as_bytes()),
        // The library would take the packed form apart byte by byte, in Lua.
        Dialect::Functions => spell_out(&mut cmd, plains),
    };
    cmd
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

/// What each of the reservations is told by the reply to [`command`].
///
/// # Errors
/// The server's error, or [`StoreError::Nonsense`]: about all of them.
pub fn read(reply: Value, plains: &[Plain]) -> Result<Vec<Told>, StoreError> {
    let answers: Vec<_> = match answer::checked(reply)? {
        Value::Array(outcomes) => outcomes.into_iter().map(answer::answer).collect(),
        Value::BulkString(packed) => unpack(&packed.into()).map_err(|error| StoreError::Nonsense(error.to_string()))?,
        _ => Vec::new(),
    };
    if answers.len() != plains.len() {
        return Err(StoreError::Nonsense("MRESERVE answered for other holds than were asked for".to_owned()));
    }
    Ok(answers)
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

    fn spelled(command: &Cmd) -> String {
        let word = |word: redis::Arg<&[u8]>| match word {
            redis::Arg::Simple(bytes) => bytes.escape_ascii().to_string(),
            _ => String::new(),
        };
        command.args_iter().map(word).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn one_or_several_go_in_one_command() {
        let (one, two) = (plain(Some("h"), "ann", 9), plain(None, "bob", 7));
        let command = |dialect, plains: &[Plain]| spelled(&command(dialect, b"k", plains));
        assert_eq!(
            command(Dialect::Module, std::slice::from_ref(&one)),
            r"FLASH.MRESERVE k REPEATED NOTAFTER 9 PACKED \x94\xa1h\xa3ann\xa1S\x01"
        );
        assert_eq!(
            command(Dialect::Functions, std::slice::from_ref(&two)),
            "FCALL flash_mreserve 1 k NOTAFTER 7 HOLDS * bob S 1"
        );
        let both = [one, two];
        assert_eq!(
            command(Dialect::Functions, &both),
            "FCALL flash_mreserve 1 k REPEATED NOTAFTER 7 HOLDS h ann S 1 * bob S 1"
        );
        assert_eq!(
            command(Dialect::Module, &both),
            r"FLASH.MRESERVE k REPEATED NOTAFTER 7 PACKED \x98\xa1h\xa3ann\xa1S\x01\xa1*\xa3bob\xa1S\x01"
        );
    }

    fn reserved(id: &'static str, repeated: bool) -> Answer {
        Answer::Reserved { id: Bytes::from_static(id.as_bytes()), deadline_ms: 300, repeated }
    }

    #[test]
    fn each_is_told_its_own() {
        let plains = [plain(Some("h"), "ann", 9), plain(None, "bob", 9), plain(Some("h"), "ann", 9)];
        let words = |status: &str, id: &str| {
            let word = |word: &str| Value::BulkString(word.as_bytes().to_vec());
            Value::Array(vec![word(status), word(id), Value::Int(300)])
        };
        let in_words = Value::Array(vec![words("RESERVED", "h"), words("RESERVED", "1"), words("REPEATED", "h")]);
        let packed = b"\x93\x93\xa8RESERVED\xa1h\xcd\x01\x2c\x93\xa8RESERVED\xa11\xcd\x01\x2c\
                       \x93\xa8REPEATED\xa1h\xcd\x01\x2c";
        for reply in [in_words, Value::BulkString(packed.to_vec())] {
            let told = read(reply, &plains).unwrap();
            assert_eq!(told, [Ok(reserved("h", false)), Ok(reserved("1", false)), Ok(reserved("h", true))]);
        }
    }

    #[test]
    fn an_error_is_of_one_hold_and_nonsense_of_all() {
        let plains = [plain(None, "ann", 9), plain(None, "bob", 9)];
        let read = |packed: &[u8]| read(Value::BulkString(packed.to_vec()), &plains);
        let told = read(b"\x92\x92\xa3ERR\xa2no\x93\xa7ALLHELD\xa1S\xff").unwrap();
        let held = Answer::AllHeld { sku: Bytes::from_static(b"S"), next_ms: 0 };
        assert_eq!(told, [Err(StoreError::Misuse("no".to_owned())), Ok(held)]);
        let told = read(b"\x92\x91\xa6PAUSED\x92\xa8RESERVED\xa1h").unwrap();
        assert_eq!(told[0], Ok(Answer::Paused));
        assert!(matches!(told[1], Err(StoreError::Nonsense(_))), "a deadline is missing");
        for nonsense in
            [&b""[..], b"\x91\x91\xa6PAUSED", b"\x92\x91\xa6PAUSED", b"\x92\x91\xa6PAUSED\x07", b"\xdd\xff\xff\xff\xff"]
        {
            assert!(matches!(read(nonsense), Err(StoreError::Nonsense(_))), "{nonsense:?}");
        }
    }
}
