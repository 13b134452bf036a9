//! The naive model as a third implementation: the rules written once more from the contract, with no server around them.

use flashsale_core::command::Command;
use flashsale_core::model::Model;
use flashsale_core::protocol::packed::Packed;
use flashsale_core::protocol::reply;
use flashsale_core::protocol::{ParseError, args};
use flashsale_core::{Events, Settings, Situation};
use flashsale_tests::Reply;

/// The model's error for words that are no command: the texts are the business of the other two.
pub const MALFORMED: &str = "malformed words";

/// A sale of the model, asked in the words of the contract.
pub struct Naive {
    model: Model,
    /// Entries in the order stream, which nobody shortens here.
    stream_len: u64,
    /// Ids made up so far.
    made_up: u64,
}

impl Naive {
    /// No sale yet: the first command must be a CREATE.
    pub fn new() -> Naive {
        Naive { model: Model::new(Settings::default(), Default::default()), stream_len: 0, made_up: 0 }
    }

    /// Ends what is due.
    pub fn sweep(&mut self, now_ms: u64) {
        // The model does so before any command; this one finds nothing.
        let _ = self.run(&Command::Extend { id: b"no such hold", ms: 1 }, now_ms);
    }

    /// Its answer, of INFO a part; `None` where it is not asked.
    pub fn answer(&mut self, words: &[Vec<u8>], now_ms: u64) -> Option<Reply> {
        let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        let [name, key, rest @ ..] = &words[..] else { return None };
        let parsed = match *name {
            b"SHARDS" | b"ROUTE" | b"THROTTLE" | b"HOLDS" | b"AUDIT" => return None,
            b"CREATE" => self.create(rest, now_ms).map(|()| Reply::Status("OK".into())),
            b"EXPIRE" => args::expire(rest).map(|_| {
                self.sweep(now_ms);
                Reply::Integer(0)
            }),
            b"INFO" => args::nothing(rest).map(|()| self.info(now_ms)),
            b"HOLD" => args::single_name(rest, "id").map(|id| self.hold(id, now_ms)),
            b"BUYER" => args::single_name(rest, "buyer")
                .map(|buyer| collected(|collector| reply::buyer(collector, &self.model.at(now_ms).buyer(buyer)))),
            b"MRESERVE" => args::mreserve(rest).map(|call| self.reserve_many(&call, key, now_ms)),
            name => command(name, rest)
                .map(|command| collected(|collector| self.run_and_answer(&command, key, now_ms, collector))),
        };
        Some(parsed.unwrap_or_else(|_| Reply::Error(MALFORMED.into())))
    }

    fn create(&mut self, words: &[&[u8]], now_ms: u64) -> Result<(), Box<ParseError>> {
        let create = args::create(words)?;
        let settings = create.change.onto(&Settings::default()).unwrap_or_else(|misuse| panic!("{misuse}"));
        (self.model, self.stream_len) = (Model::new(settings, create.shard.unwrap_or_default()), 0);
        for item in create.items.iter() {
            let stock =
                flashsale_core::command::Stock { sku: item.sku, delta: item.qty.into(), alloc_id: None, limit: None };
            let _ = self.run(&Command::Stock(stock), now_ms);
        }
        Ok(())
    }

    fn run(
        &mut self,
        command: &Command<'_>,
        now_ms: u64,
    ) -> Result<flashsale_core::Outcome<'static>, flashsale_core::outcome::Misuse> {
        self.made_up += 1;
        let fresh_id = format!("0000beef-{}", self.made_up);
        let (entries, written) = (self.model.entries(), self.model.settings().events != Events::None);
        let situation = Situation { now_ms, fresh_id: fresh_id.as_bytes(), backlog: self.stream_len, elsewhere: true };
        let outcome = self.model.run(command, &situation);
        self.stream_len += if written { self.model.entries() - entries } else { 0 };
        outcome
    }

    fn run_and_answer(&mut self, command: &Command<'_>, key: &[u8], now_ms: u64, to: &mut impl reply::Reply) {
        match self.run(command, now_ms) {
            Ok(outcome) => reply::outcome(to, &outcome, key),
            Err(misuse) => to.error(&format!("ERR {misuse}")),
        }
    }

    fn reserve_many(&mut self, call: &args::MreserveCall<'_>, key: &[u8], now_ms: u64) -> Reply {
        if call.packed {
            let mut packed = Packed::default();
            self.reserve_each(call, key, now_ms, &mut packed);
            return Reply::Bytes(packed.as_bytes().to_vec());
        }
        collected(|collector| self.reserve_each(call, key, now_ms, collector))
    }

    fn reserve_each(&mut self, call: &args::MreserveCall<'_>, key: &[u8], now_ms: u64, to: &mut impl reply::Reply) {
        to.array(call.holds.len());
        call.holds.iter().for_each(|hold| self.run_and_answer(hold, key, now_ms, to));
    }

    fn hold(&self, id: &[u8], now_ms: u64) -> Reply {
        let seen = self.model.at(now_ms);
        match seen.hold(id, now_ms) {
            Some(hold) => collected(|collector| reply::hold(collector, &hold)),
            None => Reply::Nil,
        }
    }

    fn info(&self, now_ms: u64) -> Reply {
        let seen = self.model.at(now_ms);
        let number = |number: u64| Reply::Integer(number as i64);
        let skus = seen.skus().map(|name| {
            let levels = seen.levels(name);
            let fields = [
                ("stocked", levels.stocked),
                ("available", levels.available),
                ("held", levels.held),
                ("sold", levels.sold),
                ("granted", levels.granted),
                ("accepted", levels.accepted),
                ("limit", levels.limit.into()),
            ];
            (Reply::Bytes(name.to_vec()), map(fields.map(|(name, level)| (name, number(level)))))
        });
        map([
            ("state", Reply::Bytes(seen.state(now_ms).into())),
            ("holds", number(seen.live_holds())),
            ("orders", number(seen.orders())),
            ("buyers", number(seen.buyers())),
            ("entries", number(self.model.entries())),
            ("next_deadline", number(seen.next_deadline(None))),
            ("skus", Reply::Map(skus.collect())),
        ])
    }
}

fn map<const N: usize>(fields: [(&str, Reply); N]) -> Reply {
    Reply::Map(fields.map(|(name, value)| (Reply::Bytes(name.into()), value)).into())
}

fn command<'a>(name: &[u8], words: &[&'a [u8]]) -> Result<Command<'a>, Box<ParseError>> {
    Ok(match name {
        b"ALTER" => Command::Alter(args::alter(words)?),
        b"STOCK" => Command::Stock(args::stock(words)?),
        b"RESERVE" => Command::Reserve(args::reserve(words)?.reserve),
        b"ORDER" => Command::Order(args::order(words)?),
        b"CONFIRM" => Command::Confirm(args::confirm(words)?),
        b"RELEASE" => Command::Release(args::release(words)?),
        b"EXTEND" => args::extend(words).map(|(id, ms)| Command::Extend { id, ms })?,
        b"RETURN" => Command::Return(args::returned(words)?),
        b"GRANT" => Command::Grant(args::grant(words)?),
        b"ACCEPT" => Command::Accept(args::accept(words)?),
        b"PAUSE" => args::nothing(words).map(|()| Command::Pause)?,
        b"RESUME" => args::nothing(words).map(|()| Command::Resume)?,
        b"CLOSE" => args::nothing(words).map(|()| Command::Close)?,
        other => panic!("{} is no command of a sale", other.escape_ascii()),
    })
}

/// What of a reply the model tells, too: maps are held against the fields that it has.
pub fn told_by_both(reply: &Reply, naive: &Reply) -> Reply {
    match (reply, naive) {
        (Reply::Map(pairs), Reply::Map(told)) => {
            let told =
                |name: &Reply| told.iter().find(|(other, _)| other.text() == name.text()).map(|(_, value)| value);
            let kept = pairs.iter().filter_map(|(name, value)| {
                let naive = told(name)?;
                Some((name.clone(), told_by_both(value, naive)))
            });
            Reply::Map(kept.collect())
        }
        _ => reply.clone(),
    }
}

/// Takes a reply of the core's and gives it as a client would read it.
#[derive(Default)]
struct Collector {
    open: Vec<Open>,
    whole: Option<Reply>,
}

struct Open {
    pieces: Vec<Reply>,
    wanted: usize,
    is_map: bool,
}

fn collected(write: impl FnOnce(&mut Collector)) -> Reply {
    let mut collector = Collector::default();
    write(&mut collector);
    collector.whole.expect("a whole reply")
}

impl Collector {
    fn begin(&mut self, wanted: usize, is_map: bool) {
        self.open.push(Open { pieces: Vec::with_capacity(wanted), wanted, is_map });
        self.close_full();
    }

    fn put(&mut self, piece: Reply) {
        match self.open.last_mut() {
            Some(open) => open.pieces.push(piece),
            None => self.whole = Some(piece),
        }
        self.close_full();
    }

    fn close_full(&mut self) {
        while let Some(open) = self.open.pop_if(|open| open.pieces.len() == open.wanted) {
            let mut pieces = open.pieces.into_iter();
            let piece = if open.is_map {
                Reply::Map(std::iter::from_fn(|| pieces.next().zip(pieces.next())).collect())
            } else {
                Reply::Array(pieces.collect())
            };
            match self.open.last_mut() {
                Some(outer) => outer.pieces.push(piece),
                None => self.whole = Some(piece),
            }
        }
    }
}

impl reply::Reply for Collector {
    fn array(&mut self, len: usize) {
        self.begin(len, false);
    }

    fn map(&mut self, len: usize) {
        self.begin(2 * len, true);
    }

    fn ok(&mut self) {
        self.put(Reply::Status("OK".into()));
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.put(Reply::Bytes(bytes.to_vec()));
    }

    fn integer(&mut self, number: i64) {
        self.put(Reply::Integer(number));
    }

    fn null(&mut self) {
        self.put(Reply::Nil);
    }

    fn error(&mut self, text: &str) {
        self.put(Reply::Error(text.to_owned()));
    }
}
