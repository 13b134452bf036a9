//! Why a command is answered with an error: what is misuse, and what the server does not allow just now. Refusals of a
//! sale are no errors.

use flashsale_core::outcome::Misuse;
use flashsale_core::protocol::ParseError;

/// Why a command is answered with an error.
pub(crate) enum Fault {
    WrongType,
    StreamWrongType,
    /// The slot is being moved, and the order stream is on another node than the sale.
    StreamAway,
    NoSale,
    Exists,
    /// A rewritten append-only file is being loaded into the key and is not complete.
    HalfLoaded,
    Words(Box<ParseError>),
    ForReplication,
    Damaged(Box<str>),
    /// A panic was caught.
    Bug,
    /// The server must write nothing, and the time of waiting is over.
    Quiet,
}

impl From<Box<ParseError>> for Fault {
    fn from(error: Box<ParseError>) -> Self {
        Self::Words(error)
    }
}

impl From<ParseError> for Fault {
    fn from(error: ParseError) -> Self {
        Box::new(error).into()
    }
}

impl From<Misuse> for Fault {
    fn from(misuse: Misuse) -> Self {
        ParseError::from(misuse).into()
    }
}

impl Fault {
    /// The text of the error reply.
    pub fn text(&self) -> String {
        match self {
            Self::WrongType => "WRONGTYPE Operation against a key holding the wrong kind of value".into(),
            Self::StreamWrongType => {
                "WRONGTYPE the key of the sale's order stream (KEY:orders, or {KEY}:orders) holds something that is no stream: move it away".into()
            }
            Self::StreamAway => {
                "TRYAGAIN the sale's slot is being moved to another node, and its order stream is not where the sale \
                 is: send the same request again"
                    .into()
            }
            Self::NoSale => "NOSALE no sale at that key: FLASH.CREATE makes one".into(),
            Self::Exists => "EXISTS there is a sale at that key: FLASH.ALTER changes it, DEL removes it".into(),
            Self::HalfLoaded => "LOADING the sale at that key is being loaded".into(),
            Self::Words(error) => format!("ERR {error}"),
            Self::ForReplication => "ERR this command is sent by primaries to replicas and append-only files alone".into(),
            Self::Damaged(what) => format!("ERR {what}"),
            Self::Quiet => {
                "TRYAGAIN the server writes nothing just now (a pause or a failover): send the same request again"
                    .into()
            }
            Self::Bug => {
                "ERR a bug in the flashsale module stopped the command: please report it with the server's log".into()
            }
        }
    }
}
