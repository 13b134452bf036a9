//! Moves a live sale from the library of functions to the module, on another server or on the same one.
//!
//! The order of steps is what keeps units from being sold twice, whenever this program or a server dies:
//!
//! 1. *Begin*: the library changes the sale no more. From here on buyers wait.
//! 2. *Copy*: the sale is read, counted anew and compared with the library's own counters; the other server is shown
//!    that it can load it; orders that nobody has read yet go along, most of them before step 1.
//! 3. *Finish*: the library will never change it again. Until here the move may be taken back.
//! 4. *Land*: the module's value appears in its key, whole, in one step. On the same server this is one with step 3.
//!
//! The data in the library's keys stay as they were stopped, so every step may be done again by a later run, which
//! takes over: each run has a token that source and target compare before they change anything.
//!
//! [`library`] reads the source, [`payload`] makes what `RESTORE` takes, [`landing`] is the other server.

mod landing;
mod library;
mod payload;

use std::collections::HashMap;
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use futures_util::future::try_join_all;
use redis::{Cmd, Value};
use serde::Serialize;

use self::landing::{Ground, Landing};
use self::library::{Keys, Standing, command};
use super::deployment::{Deployment, checked, words};
use super::sale::{Book, Sale, existing, first_shard_keys};
use super::transfer::{Safety, with_wait};
use super::{ShardInfo, audit};
use crate::store::answer::{number, text};
use crate::store::nodes::{Dialect, Place};

/// Clocks that are farther apart would end holds too early or too late.
const CLOCKS_APART_MS: u64 = 2_000;

/// From where to where.
pub struct Route {
    /// Servers with the library.
    pub source: Deployment,
    /// Servers with the module; they may be the same.
    pub target: Deployment,
    /// What keys begin with, at both.
    pub prefix: String,
    /// Replicas of the source that must know that it has stopped.
    pub source_safety: Safety,
    /// Replicas of the target that must have the sale.
    pub target_safety: Safety,
}

/// What a move has done.
#[derive(Debug, Clone, Serialize)]
pub struct Moved {
    /// An earlier run had brought the whole sale already.
    pub was_there: bool,
    /// Source and target are the same server.
    pub in_place: bool,
    #[serde(flatten)]
    pub work: Work,
    /// The sale at the target.
    pub book: Book,
}

/// What one run has done; nothing if there was nothing to do.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Work {
    /// Holds, orders and remembered ids that were copied.
    pub records: usize,
    /// Entries of order streams that were copied.
    pub entries: usize,
    /// From the moment when the library was told to stop to the moment when the module could sell.
    pub pause_ms: u64,
}

/// One shard on its way.
struct Part<'a> {
    place: Place<'a>,
    key: String,
    landing: Landing<'a>,
    in_place: bool,
}

impl Route {
    /// Moves a sale, or finishes a move that broke off.
    ///
    /// # Errors
    /// It cannot be moved, and sells on where it is; or a server has failed in mid-move: the text says what to do.
    pub async fn migrate(&self, name: &str) -> anyhow::Result<Moved> {
        let sale = self.find(name).await?;
        landing::check_module(&self.target).await?;
        let parts = self.parts(&sale).await?;
        let in_place = parts.iter().any(|part| part.in_place);
        let mut waiting = Vec::new();
        for part in &parts {
            if !self.has_landed(part).await? {
                waiting.push(part);
            }
        }
        let was_there = waiting.is_empty();
        let work = if was_there {
            Work::default()
        } else {
            self.check_clocks(&waiting).await?;
            let whole = waiting.len() == parts.len();
            self.move_parts(name, &waiting, whole).await?
        };
        let report = audit::audit(&self.target, &sale).await?;
        ensure!(report.ok, "the sale is at the target, but its audit finds differences: {report:?}");
        Ok(Moved { was_there, in_place, work, book: Book::read(&self.target, &sale).await? })
    }

    /// Takes a move back that has not come to its end: the sale sells on where it was.
    ///
    /// # Errors
    /// There is none, or a part of the sale is at the target already.
    pub async fn take_back(&self, name: &str) -> anyhow::Result<()> {
        let sale = self.find(name).await?;
        let parts = self.parts(&sale).await?;
        let mut stopped = Vec::new();
        for part in &parts {
            ensure!(
                !self.has_landed(part).await?,
                "{} is at the target already, and may have sold there: run the move again to finish it",
                part.key
            );
            if library::standing(&self.source, part.place).await? != Some(Standing::Here) {
                stopped.push(part);
            }
        }
        ensure!(!stopped.is_empty(), "no move of `{name}` is under way: it is where it was");
        let token = token();
        for part in &stopped {
            self.begin(part, &token).await?;
        }
        self.undo(&stopped, &token).await
    }

    /// The sale at the source, whoever has it there.
    async fn find(&self, name: &str) -> anyhow::Result<Sale> {
        self.source.update_library().await?;
        let single = Sale::of(&self.prefix, name, 1);
        let base = single.place(0).key.to_vec();
        let mut keys = vec![base.clone()];
        keys.extend(existing(&self.source, first_shard_keys(&base)).await?);
        for key in keys {
            let place = Place { key: &key, shard: 0 };
            let dialect = match self.kind(place).await?.as_str() {
                "hash" => Dialect::Functions,
                "flashsale" => Dialect::Module,
                _ => continue,
            };
            let key_text = String::from_utf8_lossy(&key).into_owned();
            let reply = self.source.ask(place, &dialect.command("INFO", &key)).await;
            let info = ShardInfo::read(reply.with_context(|| key_text.clone())?)?;
            let sale = Sale::of(&self.prefix, name, info.shards);
            if info.shard == 0 && sale.place(0).key == key {
                return Ok(sale);
            }
            ensure!(
                key != base,
                "{key_text} is shard {} of {}: name the sale, not one of its keys",
                info.shard,
                info.shards
            );
        }
        bail!("there is no sale `{name}` at the source: no key `{}{name}`", self.prefix)
    }

    async fn kind(&self, place: Place<'_>) -> anyhow::Result<String> {
        let kind = self.source.ask(place, &command("TYPE", &[place.key])).await?;
        Ok(text(&kind).unwrap_or_default())
    }

    async fn parts<'a>(&'a self, sale: &'a Sale) -> anyhow::Result<Vec<Part<'a>>> {
        let mut servers = HashMap::new();
        let mut parts = Vec::new();
        for shard in 0..sale.shards() {
            let place = sale.place(shard);
            let source = run_id(&self.source, place, &mut servers).await?;
            let in_place = source == run_id(&self.target, place, &mut servers).await?;
            let landing = Landing::new(&self.target, place);
            parts.push(Part { place, key: sale.key_text(shard), landing, in_place });
        }
        let same = parts.iter().filter(|part| part.in_place).count();
        ensure!(
            same == 0 || same == parts.len(),
            "{same} of {} shards would stay on their server and the others would not: that is no move that this does",
            parts.len()
        );
        Ok(parts)
    }

    /// Whether the module has a part already.
    ///
    /// # Errors
    /// Somebody else's key is in the way, or the source has no such sale.
    async fn has_landed(&self, part: &Part<'_>) -> anyhow::Result<bool> {
        let kind = self.kind(part.place).await?;
        if part.in_place && kind == "flashsale" {
            return Ok(true);
        }
        ensure!(kind != "flashsale", "{} is the module's at the source already: there is nothing to move", part.key);
        let standing = library::standing(&self.source, part.place).await?;
        let standing = standing.with_context(|| format!("{} is missing at the source", part.key))?;
        if part.in_place {
            return Ok(false);
        }
        let orders = String::from_utf8_lossy(&Keys::of(part.place.key).orders).into_owned();
        match (part.landing.look().await?, standing) {
            (Ground::Free, _) => Ok(false),
            (Ground::Taken, Standing::Moved) => Ok(true),
            (Ground::Taken | Ground::TakenMeanwhile, _) => {
                bail!(
                    "the target has a key {} already, which is not this sale: remove it, or name another target",
                    part.key
                )
            }
            (Ground::StrangeStream, _) => bail!(
                "the target has an order stream {orders} of an earlier sale: deliver its orders and remove it, or name \
                 another target"
            ),
        }
    }

    async fn check_clocks(&self, parts: &[&Part<'_>]) -> anyhow::Result<()> {
        let Some(part) = parts.iter().find(|part| !part.in_place) else { return Ok(()) };
        let source = skew_ms(&self.source, part.place).await?;
        let target = skew_ms(&self.target, part.place).await?;
        let apart = source.abs_diff(target);
        ensure!(
            apart <= CLOCKS_APART_MS,
            "the clocks of source and target are {apart} ms apart: holds would end too early or too late. Set them first"
        );
        Ok(())
    }

    async fn move_parts(&self, name: &str, parts: &[&Part<'_>], whole: bool) -> anyhow::Result<Work> {
        let token = token();
        let (began, records, entries) = match self.copy_parts(parts, &token).await {
            Ok(copied) => copied,
            Err(error) => return Err(self.give_up(name, parts, whole, &token, error).await),
        };
        let again = || format!("`{name}` sells nowhere just now: run the same again to bring the move to its end");
        let elsewhere = || parts.iter().filter(|part| !part.in_place);
        try_join_all(elsewhere().map(|part| self.step(part, "FINISH", &token))).await.with_context(again)?;
        let land = |part: &&Part<'_>| part.landing.land(&token);
        let landing = elsewhere().map(|part| promise(&self.target, part.place, land(part), self.target_safety));
        try_join_all(landing).await.with_context(again)?;
        Ok(Work { records, entries, pause_ms: began.elapsed().as_millis() as u64 })
    }

    /// Stops the sale and copies it. On the same server it lands by that. When it was stopped, how many records and how
    /// many entries there were.
    async fn copy_parts(&self, parts: &[&Part<'_>], token: &str) -> anyhow::Result<(Instant, usize, usize)> {
        let mut aheads = Vec::new();
        for part in parts.iter().filter(|part| !part.in_place) {
            part.landing.prepare(token).await?;
            aheads.push(part.landing.copy_ahead(&self.source, token).await?);
        }
        let mut entries = aheads.iter().map(|ahead| ahead.entries).sum();
        let mut aheads = aheads.into_iter();
        let began = Instant::now();
        try_join_all(parts.iter().map(|part| self.begin(part, token))).await?;
        let mut payloads = Vec::with_capacity(parts.len());
        let mut records = 0;
        for part in parts {
            let copied = library::read(&self.source, part.place).await.with_context(|| part.key.clone())?;
            records += copied.records;
            payloads.push(payload::payload(&copied.sale));
        }
        for (part, payload) in parts.iter().zip(&payloads) {
            if part.in_place {
                let mut land = self.move_command(part, "LAND", token);
                promise(&self.source, part.place, land.arg(&payload[..]).clone(), self.source_safety).await?;
            } else if let Some(ahead) = aheads.next() {
                part.landing.rehearse(token, payload).await?;
                entries += part.landing.copy_rest(&self.source, token, ahead).await?;
            }
        }
        Ok((began, records, entries))
    }

    /// After a failure before the end: takes everything back if nothing has landed.
    async fn give_up(
        &self,
        name: &str,
        parts: &[&Part<'_>],
        whole: bool,
        token: &str,
        error: anyhow::Error,
    ) -> anyhow::Error {
        let mut may_go_back = whole;
        for part in parts {
            may_go_back &= matches!(self.has_landed(part).await, Ok(false))
                && matches!(
                    library::standing(&self.source, part.place).await,
                    Ok(Some(Standing::Here | Standing::Moving))
                );
        }
        let stopped = format!(
            "`{name}` stays stopped: run the same again to bring the move to its end, or with --back to take it back"
        );
        if !may_go_back {
            return error.context(stopped);
        }
        match self.undo(parts, token).await {
            Ok(()) => error.context(format!("`{name}` was not moved and sells on where it was")),
            Err(trouble) => error.context(format!("{stopped} ({trouble:#})")),
        }
    }

    /// Takes leave to land back, then lets the library go on.
    async fn undo(&self, parts: &[&Part<'_>], token: &str) -> anyhow::Result<()> {
        for part in parts {
            if !part.in_place {
                part.landing.revoke().await.with_context(|| part.key.clone())?;
            }
        }
        for part in parts {
            if library::standing(&self.source, part.place).await? != Some(Standing::Here) {
                // A failover that loses this leaves the sale stopped: that does no harm, and this may be repeated.
                self.source.ask(part.place, &self.move_command(part, "BACK", token)).await?;
                self.source.ask(part.place, &lease_script(part, GIVE_LEASE_BACK, "")).await?;
            }
        }
        Ok(())
    }

    async fn begin(&self, part: &Part<'_>, token: &str) -> anyhow::Result<()> {
        let place = part.place;
        let to = self.target.server_of(place).await.unwrap_or_else(|| "another server".to_owned());
        let to = if part.in_place { "the module".to_owned() } else { to };
        let mut begin = self.move_command(part, "BEGIN", token);
        promise(&self.source, place, begin.arg(to).clone(), self.source_safety).await?;
        if !part.in_place {
            // Relays of the source deliver nothing more: what is left in the stream goes along.
            self.source.ask(place, &lease_script(part, TAKE_LEASE, token)).await?;
        }
        Ok(())
    }

    async fn step(&self, part: &Part<'_>, step: &str, token: &str) -> anyhow::Result<()> {
        promise(&self.source, part.place, self.move_command(part, step, token), self.source_safety).await?;
        Ok(())
    }

    fn move_command(&self, part: &Part<'_>, step: &str, token: &str) -> Cmd {
        let mut command = Dialect::Functions.command("MOVE", part.place.key);
        command.arg(step).arg(token);
        command
    }
}

/// A relay that finds another owner's name in its lease delivers nothing.
const TAKE_LEASE: &str = "redis.call('SET', KEYS[1], 'migrate:' .. ARGV[1]) return 'OK'";
const GIVE_LEASE_BACK: &str = "local owner = redis.call('GET', KEYS[1]) \
    if owner and owner:sub(1, 8) == 'migrate:' then redis.call('DEL', KEYS[1]) end return 'OK'";

fn lease_script(part: &Part<'_>, script: &str, token: &str) -> Cmd {
    let lease = Keys::of(part.place.key).named("orders:relay");
    command("EVAL", &[script.as_bytes(), b"1", &lease, token.as_bytes()])
}

/// A command whose effect must outlive a failover of its server.
async fn promise(to: &Deployment, place: Place<'_>, command: Cmd, safety: Safety) -> anyhow::Result<Value> {
    let server = to.server_of(place).await.unwrap_or_default();
    let replies = to.ask_all(place, &with_wait(command, safety)).await?;
    let mut replies = replies.into_iter();
    let reply = checked(&server, replies.next().unwrap_or_default())?;
    let acknowledged = replies.next().and_then(|reply| number(&reply)).unwrap_or(0);
    ensure!(
        acknowledged >= u64::from(safety.replicas),
        "{acknowledged} of {} replicas of {server} have acknowledged it in time",
        safety.replicas
    );
    Ok(reply)
}

/// Tells one run of a server from all others.
async fn run_id(at: &Deployment, place: Place<'_>, known: &mut HashMap<u64, String>) -> anyhow::Result<String> {
    let topology = at.topology().await?;
    let node = topology.node_of(place).context("no server has the slot of a shard")?;
    if let Some(id) = known.get(&node.number) {
        return Ok(id.clone());
    }
    let info = at.ask_node(node, &words(&["INFO", "server"])).await?;
    let info = text(&info).unwrap_or_default();
    let id = info.lines().find_map(|line| line.strip_prefix("run_id:")).map(str::trim);
    let id = id.with_context(|| format!("{} does not tell its run_id", node.address))?.to_owned();
    known.insert(node.number, id.clone());
    Ok(id)
}

/// The clock of the server that has `place`, less our own: so it does not matter that two are asked one after the other.
async fn skew_ms(at: &Deployment, place: Place<'_>) -> anyhow::Result<i64> {
    let topology = at.topology().await?;
    let node = topology.node_of(place).context("no server has the slot of a shard")?;
    Ok(at.skew_ms(node).await?)
}

fn token() -> String {
    format!("{:016x}", rand::random::<u64>())
}
