//! A crowd that rushes a sale: bounded in number, random in what it does, exact in what it remembers.

use std::collections::BTreeMap;
use std::io;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::{Client, Reply};

/// A rush on one sale. Each thread is a connection that sends `steps` random steps, each of one to
/// three commands: reserve, and perhaps extend, confirm (all or in part), release, return, send again.
#[derive(Debug, Clone)]
pub struct Rush {
    pub key: String,
    pub skus: Vec<String>,
    /// Buyers are `b0`, `b1` and so on; few of them meet their limits, many do not.
    pub buyers: usize,
    pub threads: usize,
    pub steps: usize,
    /// Told apart in hold ids, so that several rushes on one sale can follow each other.
    pub seed: u64,
}

/// What the crowd was told, and may rely on.
#[derive(Debug, Default)]
pub struct Tally {
    /// Order number by hold id, for each `CONFIRMED` that was received.
    pub confirmed: BTreeMap<String, i64>,
    /// Holds that were reserved and then left alone.
    pub left_held: Vec<String>,
    /// How often each outcome was received.
    pub outcomes: BTreeMap<String, u64>,
    /// Threads that the server left without an answer.
    pub cut_off: usize,
}

impl Rush {
    pub fn new(key: &str, skus: &[&str]) -> Rush {
        Rush {
            key: key.to_owned(),
            skus: skus.iter().map(|&sku| sku.to_owned()).collect(),
            buyers: 50,
            threads: 4,
            steps: 500,
            seed: 1,
        }
    }

    /// Runs until every thread has done its steps, or has lost its server.
    ///
    /// # Panics
    /// If a command is answered by an error: a rush sends only valid commands.
    #[track_caller]
    pub fn run(&self, port: u16) -> Tally {
        let tallies: Vec<Tally> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..self.threads).map(|number| scope.spawn(move || Buyers::new(self, number).run(port))).collect();
            let results = threads.into_iter().map(|thread| thread.join());
            results.map(|result| result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        });
        let mut total = Tally::default();
        for tally in tallies {
            total.add(tally);
        }
        total
    }
}

impl Tally {
    /// How often `outcome` was received.
    pub fn count(&self, outcome: &str) -> u64 {
        self.outcomes.get(outcome).copied().unwrap_or(0)
    }

    /// Adds what another rush was told.
    pub fn add(&mut self, other: Tally) {
        self.confirmed.extend(other.confirmed);
        self.left_held.extend(other.left_held);
        for (outcome, count) in other.outcomes {
            *self.outcomes.entry(outcome).or_default() += count;
        }
        self.cut_off += other.cut_off;
    }
}

/// One thread of the crowd.
struct Buyers<'a> {
    rush: &'a Rush,
    random: StdRng,
    name: String,
    tally: Tally,
}

impl<'a> Buyers<'a> {
    fn new(rush: &'a Rush, number: usize) -> Buyers<'a> {
        Buyers {
            rush,
            random: StdRng::seed_from_u64(rush.seed * 1000 + number as u64),
            name: format!("r{}t{number}", rush.seed),
            tally: Tally::default(),
        }
    }

    fn run(mut self, port: u16) -> Tally {
        let cut_off = match Client::connect(port) {
            Ok(mut client) => (0..self.rush.steps).any(|step| self.step(&mut client, step).is_err()),
            Err(_) => true,
        };
        self.tally.cut_off = usize::from(cut_off);
        self.tally
    }

    fn step(&mut self, client: &mut Client, step: usize) -> io::Result<()> {
        let id = format!("{}-{step}", self.name);
        let buyer = format!("b{}", self.random.random_range(0..self.rush.buyers));
        let items = self.some_items();
        if self.random.random_ratio(1, 5) {
            let mut order = self.words(&["FLASH.ORDER", &self.rush.key, &id, &buyer, "REF", &id, "ITEMS"]);
            order.extend(items);
            return self.send(client, &order, &id).map(drop);
        }

        let mut reserve = self.words(&["FLASH.RESERVE", &self.rush.key, &id, &buyer]);
        if self.random.random_ratio(1, 4) {
            reserve.push("UPTO".into());
        }
        if self.random.random_ratio(1, 4) {
            // Some are due before the rush is over.
            let life_ms = self.random.random_range(1..100).to_string();
            reserve.extend(self.words(&["TTL", &life_ms, "META", "a note"]));
        }
        reserve.push("ITEMS".into());
        reserve.extend(items);
        let hold = self.send(client, &reserve, &id)?;
        if hold.status() != "RESERVED" {
            return Ok(());
        }

        let key = self.rush.key.clone();
        match self.random.random_range(0..10) {
            0..=3 => {
                let confirm = self.words(&["FLASH.CONFIRM", &key, &id, "REF", &id]);
                self.send(client, &confirm, &id)?;
                if self.random.random_ratio(1, 5) {
                    let give_back = self.words(&["FLASH.RETURN", &key, &id, "return-1"]);
                    self.send(client, &give_back, &id)?;
                }
            }
            4 => {
                let late = self.words(&["FLASH.CONFIRM", &key, &id, "LATE"]);
                self.send(client, &late, &id)?;
            }
            5..=6 => {
                let release = self.words(&["FLASH.RELEASE", &key, &id, "REASON", "changed my mind"]);
                self.send(client, &release, &id)?;
            }
            7 => {
                let extend = self.words(&["FLASH.EXTEND", &key, &id, "60000"]);
                self.send(client, &extend, &id)?;
                self.tally.left_held.push(id);
            }
            8 => {
                self.send(client, &reserve, &id)?;
                self.tally.left_held.push(id);
            }
            _ => self.tally.left_held.push(id),
        }
        Ok(())
    }

    /// Sends a command, twice now and then as clients do, and remembers what it was told.
    fn send(&mut self, client: &mut Client, command: &[String], id: &str) -> io::Result<Reply> {
        let mut reply = client.try_call(command)?;
        if self.random.random_ratio(1, 10) {
            reply = client.try_call(command)?;
        }
        assert!(!reply.is_error(), "{}: {reply}", command.join(" "));
        let outcome = reply.status();
        if outcome == "CONFIRMED" {
            let number = reply.at(2).integer();
            let earlier = self.tally.confirmed.insert(id.to_owned(), number);
            assert!(earlier.is_none_or(|earlier| earlier == number), "{id} was given two numbers");
        }
        *self.tally.outcomes.entry(outcome).or_default() += 1;
        Ok(reply)
    }

    fn some_items(&mut self) -> Vec<String> {
        let count = if self.random.random_ratio(1, 4) { 2 } else { 1 };
        let mut items = Vec::new();
        for _ in 0..count {
            let sku = self.random.random_range(0..self.rush.skus.len());
            items.push(self.rush.skus[sku].clone());
            items.push(self.random.random_range(1..=3).to_string());
        }
        items
    }

    fn words(&self, words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }
}
