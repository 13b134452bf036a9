//! The module, the library and the naive model are asked the same, at the same time, and must answer the same.
//!
//! Module and library have a server each; both servers take their time of day from one clock that stands still while a
//! batch of commands is sent, and so does the model, which needs no server. So replies are compared as they are,
//! deadlines too. Left out is only what tells how far the module's timer has swept, or what is made up: see
//! [`Names::comparable`].
//!
//! A second test moves the library's sale to a module of its own in the middle (`flashsale sale migrate`): it must go on
//! answering as the one that has been the module's from the beginning.

use super::functions_server;
use super::naive::{MALFORMED, Naive, told_by_both};
use super::steps::{Episode, Words};
use flashsale_core::protocol::reply::Status;
use flashsale_tests::cli::flashsale;
use flashsale_tests::sale::orders_key;
use flashsale_tests::{Client, Clock, RedisServer, Reply, Server, on_every_server};
use std::collections::BTreeSet;

on_every_server!(module_library_and_model_answer_alike, a_sale_that_has_moved_answers_as_one_that_stayed);

/// A comparison that never met one of these would say nothing of it.
fn outcomes() -> impl Iterator<Item = &'static str> {
    std::iter::once("OK").chain(Status::WORDS)
}

/// How many commands are compared in a usual test run, and in each episode.
const USUAL_STEPS: u64 = 12_000;
const EPISODE_STEPS: u64 = 400;
/// Of how many episodes one is played with a move in its middle: it costs a start of the program.
const ONE_MOVES_OF: u64 = 5;
const BATCH: usize = 16;

/// `FLASHSALE_DIFFERENTIAL_STEPS=1000000` compares that many, on each server.
fn wanted_steps() -> u64 {
    let wanted = std::env::var("FLASHSALE_DIFFERENTIAL_STEPS").ok();
    wanted.map_or(USUAL_STEPS, |steps| steps.parse().expect("FLASHSALE_DIFFERENTIAL_STEPS is a number"))
}

fn first_seed() -> u64 {
    let seed = std::env::var("FLASHSALE_DIFFERENTIAL_SEED").ok();
    seed.map_or(1, |seed| seed.parse().expect("FLASHSALE_DIFFERENTIAL_SEED is a number"))
}

fn module_library_and_model_answer_alike(server: Server) {
    let clock = Clock::new();
    let module = RedisServer::builder(server).module().clock(&clock).start();
    let library = functions_server(RedisServer::builder(server).clock(&clock));
    let sides = [Side::new(&module), Side::new(&library)];
    let mut table =
        Table { sides, naive: Some(Naive::new()), names: Names::default(), clock, outcomes: BTreeSet::new() };
    for seed in first_seed()..first_seed() + wanted_steps().div_ceil(EPISODE_STEPS) {
        table.play(seed, server, |_, _| {});
    }
    let missing: Vec<_> = outcomes().filter(|&word| !table.outcomes.contains(word)).collect();
    assert!(missing.is_empty(), "never met: {missing:?}");
}

fn a_sale_that_has_moved_answers_as_one_that_stayed(server: Server) {
    let clock = Clock::new();
    let [module, target] = [(); 2].map(|()| RedisServer::builder(server).module().clock(&clock).start());
    let library = functions_server(RedisServer::builder(server).clock(&clock));
    let sides = [Side::new(&module), Side::new(&library)];
    let mut table = Table { sides, naive: None, names: Names::default(), clock, outcomes: BTreeSet::new() };
    let mut moves = 0;
    for seed in first_seed()..first_seed() + wanted_steps().div_ceil(EPISODE_STEPS * ONE_MOVES_OF) {
        target.client().ok(&["FLUSHALL"]);
        table.sides[1] = Side::new(&library);
        table.play(seed, server, |episode, side| {
            // A shard whose siblings are nowhere is not moved.
            if episode.key == "sale{21418}" {
                return;
            }
            let (from, to) = (library.url(), target.url());
            flashsale(&["sale", "migrate", &episode.key, "--prefix", "", "--redis", &from, "--to", &to]).ok();
            let names = std::mem::take(&mut side.names);
            *side = Side { names, ..Side::new(&target) };
            episode.has_moved();
            moves += 1;
        });
    }
    assert!(moves > 0, "no sale has moved");
}

/// Who is asked, and when.
struct Table {
    sides: [Side; 2],
    naive: Option<Naive>,
    /// Those that the model has made up.
    names: Names,
    clock: Clock,
    /// Every outcome that was met.
    outcomes: BTreeSet<String>,
}

impl Table {
    /// One sale from its beginning; what differs first, and what led to it. In the middle `meanwhile` may do anything to
    /// the second side.
    #[track_caller]
    fn play(&mut self, seed: u64, server: Server, meanwhile: impl FnMut(&mut Episode, &mut Side)) {
        if let Err(difference) = self.try_play(seed, meanwhile) {
            panic!("episode {seed} (FLASHSALE_DIFFERENTIAL_SEED={seed}) on {}:\n{difference}", server.name());
        }
    }

    fn try_play(&mut self, seed: u64, mut meanwhile: impl FnMut(&mut Episode, &mut Side)) -> Result<(), String> {
        const BATCHES: u64 = EPISODE_STEPS / BATCH as u64;
        let mut episode = Episode::new(seed);
        let mut lines = String::new();
        for side in &mut self.sides {
            side.client.ok(&["FLUSHALL"]);
            side.names = Names::default();
        }
        self.names = Names::default();
        let create = episode.create(self.clock.now_ms());
        self.compare(&[create], &episode, &mut lines)?;
        for batch in 0..BATCHES {
            if batch == BATCHES / 2 {
                meanwhile(&mut episode, &mut self.sides[1]);
            }
            self.clock.advance(episode.pause_ms());
            if episode.swept {
                self.sweep(&episode);
            }
            let batch: Vec<Words> = (0..BATCH).map(|_| episode.step(self.clock.now_ms())).collect();
            self.compare(&batch, &episode, &mut lines)?;
        }
        self.sweep(&episode);
        self.compare(&episode.inspection(), &episode, &mut lines)?;
        compare_streams(&episode, &mut self.sides).map_err(|problem| format!("{lines}{problem}"))
    }

    fn sweep(&mut self, episode: &Episode) {
        for side in &mut self.sides {
            side.client.ok(&["FLASH.EXPIRE", &episode.key, "COUNT", "10000"]);
        }
        if let Some(naive) = &mut self.naive {
            naive.sweep(self.clock.now_ms());
        }
    }

    /// Asks all the same; `lines` are what has been sent and answered so far.
    fn compare(&mut self, batch: &[Words], episode: &Episode, lines: &mut String) -> Result<(), String> {
        for side in &mut self.sides {
            let calls: Vec<_> = batch.iter().map(|words| packed(of_module(words))).collect();
            side.client.send_all(&calls).map_err(|error| error.to_string())?;
        }
        let now_ms = self.clock.now_ms();
        let mut difference = None;
        for words in batch {
            let [module, library] = &mut self.sides;
            let (one, other) = (module.reply(words)?, library.reply(words)?);
            if difference.is_some() {
                continue;
            }
            let naive = self.naive.as_mut().and_then(|naive| naive.answer(&packed(words.clone()), now_ms));
            let naive = naive.filter(|naive| *naive != Reply::Error(MALFORMED.into()) || !one.is_error());
            // In this order: made-up ids are numbered as they come.
            let third = naive.map(|naive| {
                let told = self.sides[0].names.as_told(words, &told_by_both(&one, &naive), episode);
                (told, self.names.as_told(words, &naive, episode))
            });
            let one = self.sides[0].names.as_told(words, &one, episode);
            let other = self.sides[1].names.as_told(words, &other, episode);
            self.note(words, &one, lines);
            if one != other {
                difference = Some(format!("{lines}the other side answered\n    {other}"));
            } else if let Some((told, third)) = third.filter(|(told, third)| told != third) {
                difference = Some(format!("{lines}of which the model knows\n    {told}\nand answered\n    {third}"));
            }
        }
        difference.map_or(Ok(()), Err)
    }

    fn note(&mut self, words: &Words, reply: &str, lines: &mut String) {
        let shown: Vec<_> = words.iter().map(|word| word.escape_debug().to_string()).collect();
        let outcome = reply.trim_start_matches(['[', '"']).split([' ', ']', '"']).next().unwrap_or_default();
        self.outcomes.insert(outcome.to_owned());
        *lines += &format!("{} {}\n    {reply}\n", self.clock.now_ms() % 1_000_000, shown.join(" "));
    }
}

/// The words as bytes; those after PACKED as one MessagePack array: texts, every fourth a number.
fn packed(words: Words) -> Vec<Vec<u8>> {
    let mut bytes: Vec<Vec<u8>> = words.into_iter().map(String::into_bytes).collect();
    let Some(at) = bytes.iter().position(|word| word == b"PACKED") else { return bytes };
    let holds = bytes.split_off(at + 1);
    let mut array = vec![0xdc];
    array.extend_from_slice(&(holds.len() as u16).to_be_bytes());
    for (at, word) in holds.iter().enumerate() {
        match std::str::from_utf8(word).ok().and_then(|word| word.parse::<i32>().ok()) {
            Some(number) if at % 4 == 3 => {
                array.push(0xd2);
                array.extend_from_slice(&number.to_be_bytes());
            }
            _ => {
                array.push(0xda);
                array.extend_from_slice(&(word.len() as u16).to_be_bytes());
                array.extend_from_slice(word);
            }
        }
    }
    bytes.push(array);
    bytes
}

/// One implementation.
struct Side {
    client: Client,
    names: Names,
}

/// Ids of an implementation's own making, in the order of their first appearance.
#[derive(Default)]
struct Names {
    made_up: Vec<Vec<u8>>,
}

/// As the module calls the command; the client of a server with the library says it in the library's words.
fn of_module(words: &[String]) -> Words {
    let mut words = words.to_vec();
    words[0] = format!("FLASH.{}", words[0]);
    words
}

impl Side {
    fn new(redis: &RedisServer) -> Side {
        Side { client: redis.client().resp3(), names: Names::default() }
    }

    fn reply(&mut self, words: &Words) -> Result<Reply, String> {
        self.client.receive().map_err(|error| format!("{}: {error}", words.join(" ")))
    }
}

impl Names {
    /// What of the answer to a command must be equal.
    fn as_told(&mut self, words: &Words, reply: &Reply, episode: &Episode) -> String {
        match words[0].as_str() {
            // The module's timer may have been there before.
            "EXPIRE" if !reply.is_error() => "a number".to_owned(),
            "HOLDS" if !reply.is_error() && !episode.remembering => self.sorted(reply, episode),
            _ => self.comparable(reply, episode),
        }
    }

    /// Holds in one order on either side, without the cursor.
    fn sorted(&mut self, holds: &Reply, episode: &Episode) -> String {
        let holds = holds.at(1).items();
        let mut holds: Vec<_> = holds.iter().map(|hold| self.comparable(hold, episode)).collect();
        holds.sort();
        holds.join(" ")
    }

    /// A reply as text, with maps in order, without what may differ.
    fn comparable(&mut self, reply: &Reply, episode: &Episode) -> String {
        match reply {
            Reply::Bytes(bytes) => self.name(bytes),
            Reply::Array(items) => {
                let items: Vec<_> = items.iter().map(|item| self.comparable(item, episode)).collect();
                format!("[{}]", items.join(" "))
            }
            Reply::Map(pairs) => {
                let mut shown = Vec::new();
                for (key, value) in pairs {
                    let key = key.text();
                    let is_swept = ["next_deadline", "expiry_lag_ms"].contains(&key.as_str()) && !episode.swept;
                    let is_forgotten = key == "remembered" && !(episode.swept && episode.remembering);
                    // The library cannot count what it only reads; what is missed is counted by each server for itself.
                    let is_count =
                        key == "commands" || episode.moved && ["missed", "missed_last"].contains(&key.as_str());
                    if !is_swept && !is_forgotten && !is_count {
                        shown.push(format!("{key}={}", self.comparable(value, episode)));
                    }
                }
                shown.sort();
                format!("{{{}}}", shown.join(" "))
            }
            Reply::Status(word) => word.clone(),
            // The module tells the place of what it cannot read, too.
            Reply::Error(line) if line.starts_with("ERR PACKED:") => "ERR PACKED:".to_owned(),
            other => format!("{other:?}"),
        }
    }

    /// A bulk string; an id of the implementation's own making by its number.
    fn name(&mut self, bytes: &[u8]) -> String {
        if !is_made_up(bytes) {
            return bytes.escape_ascii().to_string();
        }
        let known = self.made_up.iter().position(|id| id == bytes);
        let number = known.unwrap_or_else(|| {
            self.made_up.push(bytes.to_vec());
            self.made_up.len() - 1
        });
        format!("made-up-{number}")
    }
}

impl Side {
    /// The entries of the order stream as lines.
    fn stream(&mut self, episode: &Episode) -> Vec<String> {
        let entries = self.client.ok(&["XRANGE", &orders_key(&episode.key), "-", "+"]);
        let mut lines = Vec::new();
        for entry in entries.items() {
            let fields = entry.at(1);
            let expired = fields.get("type").text() == "expired";
            // Holds that fall due together are ended in no certain order.
            let uncertain: &[&str] = match (expired, episode.swept) {
                (true, _) => &["no", "available", "held"],
                (false, true) => &[],
                (false, false) => &["available", "held"],
            };
            let pairs = fields.pairs().into_iter().filter(|(name, _)| !uncertain.contains(&name.text().as_str()));
            let shown: Vec<_> =
                pairs.map(|(name, value)| (name.text(), self.names.comparable(value, episode))).collect();
            let id = if expired { String::new() } else { entry.at(0).text() };
            lines.push(format!("{} {id} {shown:?}", if expired { "expired" } else { "" }));
        }
        for together in lines.chunk_by_mut(|one, other| one.starts_with("expired") && other.starts_with("expired")) {
            together.sort();
        }
        lines
    }
}

/// `INC-SEQ`
fn is_made_up(bytes: &[u8]) -> bool {
    let Some((incarnation, sequence)) = bytes.split_at_checked(8) else { return false };
    let is_hex = incarnation.iter().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte));
    is_hex && sequence.len() > 1 && sequence[0] == b'-' && sequence[1..].iter().all(u8::is_ascii_digit)
}

fn compare_streams(episode: &Episode, sides: &mut [Side; 2]) -> Result<(), String> {
    let [module, library] = sides;
    let (one, other) = (module.stream(episode), library.stream(episode));
    match (0..one.len().max(other.len())).find(|&at| one.get(at) != other.get(at)) {
        None => Ok(()),
        Some(at) => Err(format!(
            "order stream entry {} of the module and of the library:\n    {}\n    {}",
            at + 1,
            one.get(at).map_or("none", String::as_str),
            other.get(at).map_or("none", String::as_str)
        )),
    }
}
