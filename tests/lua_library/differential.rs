//! The module and the library are asked the same, at the same time, and must answer the same.
//!
//! Each implementation has a server of its own; both servers take their time of day from one clock that stands
//! still while a batch of commands is sent. So replies are compared as they are, deadlines too. Left out is only
//! what tells how far the module's timer has swept, or what is made up: see [`Side::comparable`].

use super::steps::{Episode, Words};
use super::{functions_server, in_functions};
use flashsale_tests::sale::orders_key;
use flashsale_tests::{Client, Clock, RedisServer, Reply, Server, on_every_server};
use std::collections::BTreeSet;

on_every_server!(module_and_library_answer_alike);

/// A comparison that never met one of these would say nothing of it.
const OUTCOMES: [&str; 24] = [
    "OK",
    "STOCKED",
    "BELOWHELD",
    "RESERVED",
    "CONFIRMED",
    "RELEASED",
    "EXPIRED",
    "EXTENDED",
    "RETURNED",
    "NOTFOUND",
    "MISMATCH",
    "GRANTED",
    "ACCEPTED",
    "WRONGSHARD",
    "NOTOPEN",
    "PAUSED",
    "CLOSED",
    "TOOLATE",
    "BACKLOG",
    "NOSKU",
    "LIMIT",
    "SOLDOUT",
    "ALLHELD",
    "EMPTY",
];

/// How many commands are compared in a usual test run, and in each episode.
const USUAL_STEPS: u64 = 12_000;
const EPISODE_STEPS: u64 = 400;
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

fn module_and_library_answer_alike(server: Server) {
    let mut clock = Clock::new();
    let module = RedisServer::builder(server).module().clock(&clock).start();
    let library = functions_server(RedisServer::builder(server).clock(&clock));
    let mut sides = [Side::new(&module, words_of_module), Side::new(&library, in_functions)];
    let mut outcomes = BTreeSet::new();
    for seed in first_seed()..first_seed() + wanted_steps().div_ceil(EPISODE_STEPS) {
        if let Err(difference) = play(seed, &mut sides, &mut clock, &mut outcomes) {
            panic!("episode {seed} (FLASHSALE_DIFFERENTIAL_SEED={seed}) on {}:\n{difference}", server.name());
        }
    }
    let missing: Vec<_> = OUTCOMES.iter().filter(|&&word| !outcomes.contains(word)).collect();
    assert!(missing.is_empty(), "never met: {missing:?}");
}

/// One sale from its beginning; what differs first, and what led to it.
fn play(seed: u64, sides: &mut [Side; 2], clock: &mut Clock, outcomes: &mut BTreeSet<String>) -> Result<(), String> {
    let mut episode = Episode::new(seed);
    let mut history = History { lines: String::new(), outcomes };
    for side in sides.iter_mut() {
        side.client.ok(&["FLUSHALL"]);
        side.made_up.clear();
    }
    let create = episode.create(clock.now_ms());
    compare(&[create], &episode, sides, &mut history, clock)?;
    for _ in 0..EPISODE_STEPS / BATCH as u64 {
        clock.advance(episode.pause_ms());
        if episode.swept {
            sweep(&episode, sides);
        }
        let batch: Vec<Words> = (0..BATCH).map(|_| episode.step(clock.now_ms())).collect();
        compare(&batch, &episode, sides, &mut history, clock)?;
    }
    sweep(&episode, sides);
    compare(&episode.inspection(), &episode, sides, &mut history, clock)?;
    compare_streams(&episode, sides).map_err(|problem| format!("{}{problem}", history.lines))
}

fn sweep(episode: &Episode, sides: &mut [Side; 2]) {
    for side in sides {
        let expire = ["EXPIRE".to_owned(), episode.key.clone(), "COUNT".to_owned(), "10000".to_owned()];
        side.client.ok(&(side.form)(&expire));
    }
}

/// What has been sent and answered so far.
struct History<'o> {
    lines: String,
    outcomes: &'o mut BTreeSet<String>,
}

impl History<'_> {
    fn add(&mut self, at_ms: u64, words: &Words, reply: &str) {
        let shown: Vec<_> = words.iter().map(|word| word.escape_debug().to_string()).collect();
        let outcome = reply.trim_start_matches(['[', '"']).split([' ', ']', '"']).next().unwrap_or_default();
        self.outcomes.insert(outcome.to_owned());
        self.lines += &format!("{} {}\n    {reply}\n", at_ms % 1_000_000, shown.join(" "));
    }
}

fn compare(
    batch: &[Words],
    episode: &Episode,
    sides: &mut [Side; 2],
    history: &mut History<'_>,
    clock: &Clock,
) -> Result<(), String> {
    for side in sides.iter_mut() {
        let calls: Vec<_> = batch.iter().map(|words| packed((side.form)(words))).collect();
        side.client.send_all(&calls).map_err(|error| error.to_string())?;
    }
    let [module, library] = sides;
    let mut difference = None;
    for words in batch {
        let (one, other) = (module.reply(words, episode)?, library.reply(words, episode)?);
        if difference.is_some() {
            continue;
        }
        history.add(clock.now_ms(), words, &one);
        if one != other {
            difference = Some(format!("{}the library answered\n    {other}", history.lines));
        }
    }
    difference.map_or(Ok(()), Err)
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
    form: fn(&[String]) -> Words,
    /// Ids of its own making, in the order of their first appearance.
    made_up: Vec<Vec<u8>>,
}

fn words_of_module(words: &[String]) -> Words {
    let mut words = words.to_vec();
    words[0] = format!("FLASH.{}", words[0]);
    words
}

impl Side {
    fn new(redis: &RedisServer, form: fn(&[String]) -> Words) -> Side {
        Side { client: redis.client().resp3(), form, made_up: Vec::new() }
    }

    fn reply(&mut self, words: &Words, episode: &Episode) -> Result<String, String> {
        let reply = self.client.receive().map_err(|error| format!("{}: {error}", words.join(" ")))?;
        Ok(match words[0].as_str() {
            // The module's timer may have been there before.
            "EXPIRE" if !reply.is_error() => "a number".to_owned(),
            "HOLDS" if !reply.is_error() && !episode.remembering => self.sorted(&reply, episode),
            _ => self.comparable(&reply, episode),
        })
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
                    // The library cannot count.
                    let is_count = ["commands", "missed", "missed_last"].contains(&key.as_str());
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
            let shown: Vec<_> = pairs.map(|(name, value)| (name.text(), self.comparable(value, episode))).collect();
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
