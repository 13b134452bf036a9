//! The command reference does not lie: every session in `docs/commands.md` is played against the module, and
//! what stands there of syntax, complexity, flags and categories is what the server says.
//!
//! Times and made-up ids differ from day to day: where the reference shows one, any will do, but the same one
//! where it shows the same. With `FLASHSALE_UPDATE_DOCS=1` the replies in the file are written anew.

mod page;
mod redis_cli;

use crate::conformance::words;
use flashsale_tests::{Client, RedisServer, Reply, Server, artifacts, on_every_server, wait_until};
use page::{Page, Section, Step};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

on_every_server!(every_session_is_true, every_command_is_described_as_the_server_does);

const PATIENCE: Duration = Duration::from_secs(20);

fn path() -> PathBuf {
    artifacts::project().join("docs/commands.md")
}

fn page() -> Page {
    Page::read(&std::fs::read_to_string(path()).expect("docs/commands.md"))
}

fn every_session_is_true(server: Server) {
    let update = std::env::var_os("FLASHSALE_UPDATE_DOCS").is_some() && server == Server::Redis70;
    let redis = RedisServer::builder(server).module().start();
    let (mut page, mut lies) = (page(), Vec::new());
    for section in &mut page.sections {
        play(&redis, section, update, &mut lies);
    }
    if update {
        std::fs::write(path(), page.text()).expect("docs/commands.md can be written");
    }
    assert!(lies.is_empty(), "{} replies differ on {}:\n{}", lies.len(), server.name(), lies.join("\n"));
}

/// Plays the sessions of a section, one after the other, on an empty server.
fn play(redis: &RedisServer, section: &mut Section, update: bool, lies: &mut Vec<String>) {
    let mut clients: BTreeMap<String, Client> = BTreeMap::new();
    let mut differing = BTreeMap::new();
    redis.client().ok(&["FLUSHALL"]);
    for step in section.steps_mut() {
        if let Some(ms) = step.pause_ms() {
            std::thread::sleep(Duration::from_millis(ms));
            continue;
        }
        if update {
            // Times that are not the same shall not look the same.
            std::thread::sleep(Duration::from_millis(3));
        }
        let client = clients.entry(step.prompt.clone()).or_insert_with(|| redis.client().resp3());
        let came = perform(redis, client, step, &differing);
        if !same(&step.reply, &came, &mut differing) {
            if update {
                step.reply = came;
            } else {
                let (line, command) = (step.line, &step.command);
                lies.push(format!("docs/commands.md:{line}: {command}\n{came}-- and not --\n{}", step.reply));
            }
        }
    }
}

/// Sends the step's command, and shows the reply as `redis-cli -3` would.
fn perform(redis: &RedisServer, client: &mut Client, step: &Step, differing: &BTreeMap<String, String>) -> String {
    if !step.command.is_empty() {
        let words = words::split(&step.command, "").unwrap_or_else(|error| panic!("{}: {error}", step.command));
        let words: Vec<Vec<u8>> = words
            .into_iter()
            .map(|word| match word.bare().and_then(|bare| differing.get(bare)) {
                Some(today) => today.clone().into_bytes(),
                None => word.bytes,
            })
            .collect();
        client.send(&words).expect("the server takes commands");
    }
    if step.reply == page::WAITS {
        wait_until("the client waits", PATIENCE, || redis.info("blocked_clients").as_deref() != Some("0"));
        return step.reply.clone();
    }
    redis_cli::show(&client.receive().expect("an answer"))
}

/// Whether a reply is as shown, but for times and made-up ids.
fn same(shown: &str, came: &str, differing: &mut BTreeMap<String, String>) -> bool {
    let (shown, came) = (tokens(shown), tokens(came));
    let mut known = differing.clone();
    let alike = shown.len() == came.len()
        && shown.iter().zip(&came).all(|(shown, came)| {
            let today = known.entry(shown.clone()).or_insert_with(|| came.clone());
            match (changes(shown), changes(came)) {
                (true, true) => today == came,
                _ => shown == came,
            }
        });
    if alike {
        known.retain(|shown, _| changes(shown));
        *differing = known;
    }
    alike
}

/// Runs of letters, digits and dashes, and everything between them.
fn tokens(text: &str) -> Vec<String> {
    let mut tokens: Vec<String> = Vec::new();
    let (mut was_word, mut quoted) = (false, String::new());
    for c in text.chars() {
        let is_word = c.is_ascii_alphanumeric() || c == '-';
        if is_word != was_word && !quoted.is_empty() {
            tokens.push(std::mem::take(&mut quoted));
        }
        quoted.push(c);
        was_word = is_word;
    }
    tokens.push(quoted);
    tokens
}

/// A time of these years in unix ms, a stream id, or a made-up id.
fn changes(token: &str) -> bool {
    let is_time = |text: &str| text.len() == 13 && text.starts_with("17") && text.bytes().all(|c| c.is_ascii_digit());
    match token.split_once('-') {
        None => is_time(token),
        Some((first, last)) => {
            let number = !last.is_empty() && last.bytes().all(|c| c.is_ascii_digit());
            let made = first.len() == 8 && first.bytes().all(|c| c.is_ascii_hexdigit());
            number && (is_time(first) || made)
        }
    }
}

fn every_command_is_described_as_the_server_does(server: Server) {
    let redis = RedisServer::builder(server).module().start();
    let mut client = redis.client();
    let page = page();
    let listed = client.ok(&["COMMAND", "LIST", "FILTERBY", "MODULE", "flashsale"]);
    let listed = listed.items().iter().map(|name| name.text().to_uppercase());
    let known: BTreeSet<String> = listed.filter(|name| !name.contains("._")).collect();
    let described: BTreeSet<String> = page.commands().map(|section| section.title.clone()).collect();
    assert_eq!(described, known, "the sections of docs/commands.md, and the commands of the module");
    for section in page.commands() {
        let name = section.title.as_str();
        let docs = client.ok(&["COMMAND", "DOCS", name]);
        let docs = docs.pairs()[0].1;
        let info = client.ok(&["COMMAND", "INFO", name]);
        let info = info.at(0);
        let (since, complexity) = (docs.get("since").text(), docs.get("complexity").text());
        let facts = format!("Since {since} · {complexity} · {} · ", words_of(info.at(2), &["module"]));
        let categories = words_of(info.at(6), &["@flashsale"]);
        let described = section.facts.strip_prefix(&facts);
        assert!(described.is_some(), "{name}: {facts} and not {} on {}", section.facts, server.name());
        // Redis 7.0 gives the commands of modules no categories.
        if !categories.is_empty() {
            assert_eq!(described, Some(categories.as_str()), "{name} on {}", server.name());
        }
        let arguments = docs.find("arguments").map_or_else(String::new, redis_cli::syntax);
        let syntax = section.syntax.replace("ORDERS|ALL|NONE", "events");
        let syntax = syntax.replace("held|confirmed|released|expired", "state");
        assert_eq!(syntax, format!("{name}{arguments}"), "on {}", server.name());
    }
}

/// Flags or categories in their order, but for those that not every server has.
fn words_of(list: &Reply, leave_out: &[&str]) -> String {
    let words = list.items().iter().map(Reply::text).filter(|word| !leave_out.contains(&word.as_str()));
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn what_differs_from_day_to_day_is_told_from_what_must_not() {
    let mut differing = BTreeMap::new();
    assert!(same("1) \"1790000000000-3\"\n", "1) \"1790000000007-3\"\n", &mut differing));
    assert!(same("(integer) 1795000000000\n", "(integer) 1795000000001\n", &mut differing));
    assert!(same("(integer) 1795000000000\n", "(integer) 1795000000001\n", &mut differing));
    assert!(!same("(integer) 1795000000000\n", "(integer) 1795000000002\n", &mut differing));
    assert!(same("\"0123abcd-1\"\n", "\"ffffffff-7\"\n", &mut differing));
    assert!(!same("\"h1\"\n", "\"h2\"\n", &mut differing));
    assert!(!same("(integer) 4102444800000\n", "(integer) 4102444800001\n", &mut differing));
}
