//! Plays cases on a server.
//!
//! Beside what a case says, three things are checked always: a refusal or an error changes nothing
//! (`DEBUG DIGEST`, in cases where no time passes), the audit of every sale is clean at the end of a case, and
//! the entries of an order stream are numbered without gaps.

use super::implementation::{Implementation, connect};
use super::pattern::{Context, Pattern, relative_time};
use super::script::{Action, Case, Expected, Script, Step};
use super::words::Word;
use flashsale_tests::sale::orders_key;
use flashsale_tests::{Client, RedisServer, Reply, Server, wait_until};
use std::collections::BTreeMap;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);

/// How often a case in which time passes is played until it succeeds: on a busy machine a hold of a few
/// milliseconds may be over before the step that should find it live.
const TRIES: usize = 3;

/// Answers that leave everything as it was.
const REFUSALS: [&str; 17] = [
    "MISMATCH",
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
    "NOTFOUND",
    "BELOWHELD",
    "EXPIRED",
    "EXISTS",
    "NOSALE",
];

/// Plays all cases of a file, and panics with all that went wrong.
#[track_caller]
pub fn play(implementation: &Implementation, script: &Script, server: Server) {
    if let Some(need) = implementation.lacks(&script.needs) {
        eprintln!("SKIPPED: {}: {} has no {need}", script.name, implementation.name);
        return;
    }
    let Some(mut redis) = implementation.start(server) else { return };
    let mut failures = Vec::new();
    for case in &script.cases {
        if let Some(need) = implementation.lacks(&case.needs) {
            eprintln!("SKIPPED: {}: {}: {} has no {need}", script.name, case.title, implementation.name);
            continue;
        }
        let tries = if is_timeless(case) { 1 } else { TRIES };
        let mut played = Play::new(implementation, script, case, &redis).run();
        for _ in 1..tries {
            played = played.or_else(|_| Play::new(implementation, script, case, &redis).run());
        }
        if let Err(problem) = played {
            failures.push(format!("{}:{problem}\n    in: {}", script.name, case.title));
        }
        assert!(redis.is_alive(), "{}: {}: the server died", script.name, case.title);
    }
    let (name, count) = (implementation.name, failures.len());
    assert!(failures.is_empty(), "{count} cases fail on {name}, {}:\n{}", server.name(), failures.join("\n"));
}

/// Whether nothing in the case depends on time that passes.
fn is_timeless(case: &Case) -> bool {
    case.steps.iter().all(|step| !matches!(step.action, Action::Wait { .. } | Action::WaitUntil { .. }))
}

/// One case on its way.
struct Play<'p> {
    implementation: &'p Implementation,
    case: &'p Case,
    redis: &'p RedisServer,
    resp3: bool,
    client: Client,
    /// Connections that a case names, and the time when each sent its last command.
    others: BTreeMap<String, (Client, i64)>,
    waiting: usize,
    began: i64,
    listener: Option<Client>,
    variables: BTreeMap<String, Reply>,
    sales: Vec<Vec<u8>>,
}

impl<'p> Play<'p> {
    fn new(implementation: &'p Implementation, script: &Script, case: &'p Case, redis: &'p RedisServer) -> Self {
        let resp3 = script.resp3;
        Self {
            implementation,
            case,
            redis,
            resp3,
            client: connect(redis, resp3),
            others: BTreeMap::new(),
            waiting: 0,
            began: 0,
            listener: None,
            variables: BTreeMap::new(),
            sales: Vec::new(),
        }
    }

    fn run(mut self) -> Result<(), String> {
        self.client.ok(&["FLUSHALL"]);
        self.began = self.now() - 1;
        for step in &self.case.steps {
            self.step(step).map_err(|problem| format!("{}: {problem}", step.line))?;
        }
        let last = self.case.steps.last().map_or(0, |step| step.line);
        self.sales.clone().iter().try_for_each(|key| self.audit(key)).map_err(|problem| format!("{last}: {problem}"))
    }

    fn step(&mut self, step: &Step) -> Result<(), String> {
        let before = self.now();
        match &step.action {
            Action::Wait { ms } => self.wait_until(before + *ms as i64),
            Action::WaitUntil { variable } => {
                let time = self.variables.get(variable).ok_or_else(|| format!("${variable} was never captured"))?;
                self.wait_until(time.integer());
            }
            Action::Listen => self.listen(),
            Action::Call { client: Some(name), words } => return self.call_as(name, words, step, before),
            Action::Receive { client } => {
                let (client, sent) = self.others.get_mut(client).ok_or("nothing was sent on this connection")?;
                let (reply, sent) = (client.receive().map_err(|error| error.to_string())?, *sent);
                self.waiting -= 1;
                return self.check(step, &reply, sent);
            }
            Action::Call { client: None, words } => {
                let words = self.words(words, before)?;
                let digest = self.digest();
                let reply = self.client.call(&self.implementation.call(&words));
                self.check(step, &reply, before)?;
                self.check_trace(&words, &reply, digest)?;
            }
            Action::Server { words } => {
                let words = self.words(words, before)?;
                let reply = self.client.call(&words);
                self.check(step, &reply, before)?;
            }
            Action::Stream { key } => {
                let reply = self.stream(&key.bytes)?;
                self.check(step, &reply, before)?;
            }
            Action::Heard => {
                let reply = self.heard()?;
                self.check(step, &reply, before)?;
            }
        }
        Ok(())
    }

    /// Sends on a connection of its own, and expects an answer or that there is none yet.
    fn call_as(&mut self, name: &str, words: &[Word], step: &Step, before: i64) -> Result<(), String> {
        let words = self.implementation.call(&self.words(words, before)?);
        let (redis, resp3) = (self.redis, self.resp3);
        let other = self.others.entry(name.into()).or_insert_with(|| (connect(redis, resp3), before));
        other.1 = before;
        other.0.send(&words).map_err(|error| error.to_string())?;
        if step.expected == Some(Expected::Waits) {
            self.waiting += 1;
            let waiting = self.waiting.to_string();
            wait_until(&format!("{name} waits"), PATIENCE, || {
                redis.info("blocked_clients").as_deref() == Some(waiting.as_str())
            });
            return Ok(());
        }
        let reply = other.0.receive().map_err(|error| error.to_string())?;
        self.check(step, &reply, before)
    }

    /// The server's time, unix ms.
    fn now(&mut self) -> i64 {
        let time = self.client.ok(&["TIME"]);
        time.at(0).integer() * 1000 + time.at(1).integer() / 1000
    }

    fn wait_until(&mut self, time: i64) {
        wait_until("the time has come", PATIENCE, || self.now() > time);
    }

    /// Words of a command with times and variables put in.
    fn words(&mut self, words: &[Word], now: i64) -> Result<Vec<Vec<u8>>, String> {
        let words = words.iter().map(|word| match word.bare() {
            Some(bare) => self.word(bare, now),
            None => Ok(word.bytes.clone()),
        });
        words.collect()
    }

    fn word(&mut self, word: &str, now: i64) -> Result<Vec<u8>, String> {
        if let Some(offset) = relative_time(word) {
            return Ok((now + offset?).to_string().into_bytes());
        }
        let Some(variable) = word.strip_prefix('$') else { return Ok(word.as_bytes().to_vec()) };
        let (name, value) = variable.split_once('=').map_or((variable, None), |(name, value)| (name, Some(value)));
        if let Some(offset) = value.and_then(relative_time) {
            self.variables.insert(name.into(), Reply::Integer(now + offset?));
        }
        match self.variables.get(name) {
            Some(Reply::Bytes(bytes)) => Ok(bytes.clone()),
            Some(other) => Ok(other.text().into_bytes()),
            None => Err(format!("${name} was never captured")),
        }
    }

    fn check(&mut self, step: &Step, reply: &Reply, before: i64) -> Result<(), String> {
        let Some(Expected::Reply(pattern)) = &step.expected else { return Err("'waits' needs '@name CALL'".into()) };
        // A millisecond either way for what servers round.
        let window = (before - 1, self.now() + 1);
        let mut context = Context { window, began: self.began, variables: &mut self.variables, resp3: self.resp3 };
        pattern.check(reply, &mut context).map_err(|problem| match pattern {
            Pattern::Array(..) | Pattern::Map(..) => format!("{problem}\n    reply: {reply}"),
            _ => problem,
        })
    }

    fn digest(&mut self) -> Option<String> {
        let alone = self.others.is_empty() && is_timeless(self.case);
        alone.then(|| self.client.ok(&["DEBUG", "DIGEST"]).text())
    }

    /// A refused command has changed nothing; a created sale will be audited.
    fn check_trace(&mut self, words: &[Vec<u8>], reply: &Reply, before: Option<String>) -> Result<(), String> {
        let refused = match reply {
            Reply::Error(_) => true,
            Reply::Array(_) => REFUSALS.iter().any(|word| reply.items().first() == Some(&Reply::Bytes((*word).into()))),
            _ => false,
        };
        if refused && before.is_some() && self.digest() != before {
            return Err(format!("answered {reply}, and changed something"));
        }
        if words[0] == b"CREATE" && !refused {
            self.sales.push(words[1].clone());
        }
        Ok(())
    }

    fn audit(&mut self, key: &[u8]) -> Result<(), String> {
        let audit = self.client.call(&self.implementation.call(&[b"AUDIT".to_vec(), key.to_vec()]));
        match &audit {
            // It was deleted, or replaced by something else.
            Reply::Error(line) if line.starts_with("NOSALE") || line.starts_with("WRONGTYPE") => Ok(()),
            Reply::Error(line) => Err(format!("AUDIT: {line}")),
            audit if audit.get("ok").integer() == 1 => Ok(()),
            audit => Err(format!("the audit at the end of the case: {audit}")),
        }
    }

    /// The order stream's entries as maps, `no` and `at` as integers. Ids must be `at-no`.
    fn stream(&mut self, key: &[u8]) -> Result<Reply, String> {
        let key = orders_key(std::str::from_utf8(key).map_err(|_| "a key of other bytes than UTF-8")?);
        let entries = self.client.ok(&["XRANGE", &key, "-", "+"]);
        let mut shown = Vec::new();
        for (index, entry) in entries.items().iter().enumerate() {
            let fields = entry.at(1);
            let names: Vec<_> = fields.items().chunks(2).map(|pair| pair[0].text()).collect();
            let expected = "type no hold buyer items ref meta at available held sold";
            if names.join(" ") != expected {
                return Err(format!("an entry has the fields {names:?} and not {expected}"));
            }
            let (at, no) = (fields.get("at").integer(), fields.get("no").integer());
            if entry.at(0).text() != format!("{at}-{no}") {
                return Err(format!("entry {no} of {at} has the id {}", entry.at(0)));
            }
            if no != index as i64 + 1 {
                return Err(format!("entry {} has the number {no}", index + 1));
            }
            let number = |name: &Reply, value: &Reply| match name.text().as_str() {
                "no" | "at" => Reply::Integer(value.integer()),
                _ => value.clone(),
            };
            let fields = fields.items().chunks(2).map(|pair| (pair[0].clone(), number(&pair[0], &pair[1])));
            shown.push(Reply::Map(fields.collect()));
        }
        Ok(Reply::Array(shown))
    }

    fn listen(&mut self) {
        let mut listener = self.redis.client();
        listener.ok(&["PSUBSCRIBE", "*:state"]);
        self.listener = Some(listener);
    }

    fn heard(&mut self) -> Result<Reply, String> {
        let listener = self.listener.as_mut().ok_or("'heard' needs 'listen' before it")?;
        listener.send(&["PING"]).map_err(|error| error.to_string())?;
        let mut heard = Vec::new();
        loop {
            let message = listener.receive().map_err(|error| error.to_string())?;
            match message.status().as_str() {
                "pmessage" => heard.push(Reply::Array(message.items()[2..].to_vec())),
                _ => return Ok(Reply::Array(heard)),
            }
        }
    }
}
