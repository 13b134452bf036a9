//! `flashsale sale`: makes, shows, restocks, stops and checks sales.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Subcommand, ValueEnum};
use serde::Serialize;

use super::connect::{Connect, Named, Target, runtime};
use super::units::{self, shown_duration, shown_time, table};
use crate::config::{Config, RedisBackend, RedisConfig};
use crate::operate::create::{self, Plan, Shards, Stock, When};
use crate::operate::leftovers::Mending;
use crate::operate::migrate::{Moved, Route};
use crate::operate::switch::{self, Switch};
use crate::operate::transfer::Safety;
use crate::operate::{Book, Deployment, Sale, audit, list, stock};

/// Make, show, restock, stop and check sales.
///
/// NAME is what buyers have in the URL, /flash/NAME; the keys begin with the prefix of the config (`sale:`). Every
/// command may be repeated, after a crash or at the same time by somebody else.
#[derive(clap::Args)]
pub struct Arguments {
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Subcommand)]
enum Action {
    Create(Create),
    /// List all sales
    List,
    /// Show one sale: settings, each SKU over all shards, each shard
    Show {
        /// Name of the sale
        name: String,
    },
    #[command(name = "stock", visible_alias = "restock")]
    Change(Change),
    /// Stop reserving for a while; confirm, release and extend go on
    Pause {
        /// Name of the sale
        name: String,
    },
    /// Go on after a pause
    Resume {
        /// Name of the sale
        name: String,
    },
    /// Stop reserving for good, and collect the units that are left in the first shard
    ///
    /// Units that are still held go back to their shards when the holds end: close once more to collect those too.
    Close {
        /// Name of the sale
        name: String,
    },
    Migrate(Migrate),
    /// Prove that no unit was made or lost: FLASH.AUDIT of each shard, and all of them together
    ///
    /// Each server looks at every hold and order of its shards and does nothing else meanwhile: not for the minute of
    /// the rush. Ends with 1 if anything differs.
    Audit {
        /// Name of the sale
        name: String,
    },
}

/// Make a sale and spread its stock over its shards.
///
/// If this breaks off, run the same again: shards that are there with the same settings stay as they are, missing ones
/// are made, and no unit is stocked twice. Times from now (+10m) are those of the first run. Shards that may be left
/// from an earlier sale of the same name are refused, with what to do about them.
#[derive(clap::Args)]
struct Create {
    /// Name of the sale, as buyers have it in the URL: /flash/NAME
    name: String,
    /// Stock: SKU=QUANTITY, or SKU=QUANTITY,LIMIT with the units of it that one buyer may have. Give it once per SKU
    #[arg(long, required = true, value_parser = units::stock, value_name = "SKU=QTY[,LIMIT]")]
    stock: Vec<Stock>,
    /// In how many keys: a number, or auto: one on a single server, else four for each server that takes writes
    #[arg(long, default_value = "1", value_parser = units::shards, value_name = "N|auto")]
    shards: Shards,
    /// Units that one buyer may have in the whole sale; 0: no limit
    #[arg(long, value_parser = clap::value_parser!(u32).range(0..=i64::from(i32::MAX)))]
    limit: Option<u32>,
    /// How long a hold lives, such as 5m
    #[arg(long, value_parser = units::duration)]
    hold: Option<u64>,
    /// Longest life of a hold with all its extensions, such as 1h
    #[arg(long, value_parser = units::duration)]
    maxhold: Option<u64>,
    /// When reserving begins: 2026-11-27T20:00:00+01:00, +10m, now, or unix milliseconds
    #[arg(long, value_parser = units::when, value_name = "TIME")]
    opens: Option<When>,
    /// When reserving ends, likewise
    #[arg(long, value_parser = units::when, value_name = "TIME")]
    closes: Option<When>,
    /// How long ids of ended holds are remembered, such as 1d
    #[arg(long, value_parser = units::duration)]
    retain: Option<u64>,
    /// Orders waiting in a shard's stream at which reserving stops
    #[arg(long)]
    backlog: Option<u64>,
    /// What the order stream holds
    #[arg(long)]
    events: Option<Events>,
    /// Make shards that are missing although others have sold already: an earlier run broke off, and buyers came
    #[arg(long)]
    mend: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Events {
    Orders,
    All,
    None,
}

/// Add or withdraw units, spread over the shards.
///
/// Without changes it shows the stock.
#[derive(clap::Args)]
struct Change {
    /// Name of the sale
    name: String,
    /// SKU=+5 adds five units, SKU=-5 withdraws five that nobody holds
    #[arg(value_parser = units::change, value_name = "SKU=+-QTY")]
    changes: Vec<(String, i64)>,
    /// Name of this change: sent again with the same name, nothing happens twice. Default: one that is made up and shown
    #[arg(long)]
    id: Option<String>,
}

/// Move live sales from the library of functions to the module.
///
/// The config, or --redis, names the servers where the library has them, --to those with the module; without --to it is
/// the same server, into which the module was loaded. Buyers wait while a sale is copied, and nothing is lost: holds,
/// orders, limits and the order stream go along. Until its last step a move that fails is taken back by itself; one
/// that was killed is finished by the same words, or taken back by --back. docs/managed-redis.md tells it step by step.
#[derive(clap::Args)]
struct Migrate {
    /// Names of the sales
    #[arg(required = true)]
    names: Vec<String>,
    /// Servers with the module, as --redis names servers. Default: where the sales are
    #[arg(long, value_name = "URLS", value_delimiter = ';')]
    to: Vec<String>,
    /// The config of the servers with the module, in place of --to
    #[arg(long, value_name = "FILE", conflicts_with = "to")]
    to_config: Option<PathBuf>,
    /// With --to: user of the servers' access control list
    #[arg(long, value_name = "USER", default_value = "")]
    to_user: String,
    /// With --to: file that holds the password
    #[arg(long, value_name = "FILE")]
    to_password_file: Option<PathBuf>,
    /// With --to: environment variable that holds the password
    #[arg(long, value_name = "VARIABLE")]
    to_password_env: Option<String>,
    /// Take a move back that broke off: the sale sells on where it was
    #[arg(long)]
    back: bool,
}

impl Migrate {
    fn named(&self) -> Named<'_> {
        Named {
            option: "--to",
            groups: &self.to,
            user: &self.to_user,
            password_file: &self.to_password_file,
            password_env: &self.to_password_env,
        }
    }

    async fn run(self, from: &Target, json: bool) -> anyhow::Result<()> {
        let library = RedisConfig { backend: RedisBackend::Functions, ..from.redis.clone() };
        let (redis, target_safety) = match &self.to_config {
            Some(path) => {
                let config = Config::load(path)?;
                (config.redis, Safety::of(&config.durability))
            }
            None if self.to.is_empty() => (from.redis.clone(), from.safety()),
            None => (self.named().config()?, from.safety()),
        };
        let module = RedisConfig { backend: RedisBackend::Module, ..redis };
        let route = Route {
            source: Deployment::open(&library, from.patience()).await?,
            target: Deployment::open(&module, from.patience()).await?,
            prefix: from.prefix().to_owned(),
            source_safety: from.safety(),
            target_safety,
        };
        for name in &self.names {
            if self.back {
                route.take_back(name).await?;
                println!("`{name}` was not moved and sells on where it was");
                continue;
            }
            let moved = route.migrate(name).await?;
            if json {
                println!("{}", serde_json::to_string_pretty(&moved)?);
            } else {
                print!("{}", migrated(&moved));
            }
        }
        Ok(())
    }
}

/// Runs `flashsale sale`.
///
/// # Errors
/// There is no such sale, a server does not answer, or an audit found differences.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let target = arguments.connect.target()?;
    runtime()?.block_on(async {
        if let Action::Migrate(migrate) = arguments.action {
            return migrate.run(&target, arguments.json).await;
        }
        let desk = Desk { deployment: target.open().await?, target, json: arguments.json };
        match arguments.action {
            Action::Create(create) => desk.create(create).await,
            Action::List => desk.list().await,
            Action::Show { name } => desk.show(&name).await,
            Action::Change(change) => desk.change(change).await,
            Action::Pause { name } => desk.switch(&name, Switch::Pause).await,
            Action::Resume { name } => desk.switch(&name, Switch::Resume).await,
            Action::Close { name } => desk.close(&name).await,
            Action::Audit { name } => desk.audit(&name).await,
            Action::Migrate(_) => Ok(()),
        }
    })
}

struct Desk {
    deployment: Deployment,
    target: Target,
    json: bool,
}

impl Desk {
    async fn find(&self, name: &str) -> anyhow::Result<Sale> {
        Sale::find(&self.deployment, self.target.prefix(), name).await
    }

    fn print<T: Serialize>(&self, value: &T, text: impl FnOnce() -> String) -> anyhow::Result<()> {
        if self.json {
            println!("{}", serde_json::to_string_pretty(value)?);
        } else {
            print!("{}", text());
        }
        Ok(())
    }

    async fn create(&self, create: Create) -> anyhow::Result<()> {
        let plan = Plan {
            name: create.name,
            shards: create.shards,
            stock: create.stock,
            limit: create.limit,
            hold_ms: create.hold,
            maxhold_ms: create.maxhold,
            retain_ms: create.retain,
            backlog: create.backlog,
            events: create.events.map(|events| {
                let word = match events {
                    Events::Orders => "ORDERS",
                    Events::All => "ALL",
                    Events::None => "NONE",
                };
                word.to_owned()
            }),
            opens: create.opens,
            closes: create.closes,
            mending: if create.mend { Mending::InUse } else { Mending::Untouched },
        };
        let created = create::create(&self.deployment, self.target.prefix(), &plan, now_ms()).await?;
        let book = Book::read(&self.deployment, &created.sale).await?;
        self.print(&book, || {
            let was = match created.were_there {
                0 => String::new(),
                were => format!(", {were} were there"),
            };
            format!("made {}{was}\n\n{}", counted(created.made, "shard"), show(&book))
        })
    }

    async fn list(&self) -> anyhow::Result<()> {
        let lines = list::list(&self.deployment, self.target.prefix()).await?;
        self.print(&lines, || {
            if lines.is_empty() {
                return format!("no sale: no key begins with `{}`\n", self.target.prefix());
            }
            let rows: Vec<Vec<String>> = lines.iter().map(list_row).collect();
            let heading =
                ["name", "state", "opens", "shards", "stocked", "available", "held", "sold", "in transit", "orders"];
            table(&heading, &rows)
        })
    }

    async fn show(&self, name: &str) -> anyhow::Result<()> {
        let book = Book::read(&self.deployment, &self.find(name).await?).await?;
        self.print(&book, || show(&book))
    }

    async fn change(&self, change: Change) -> anyhow::Result<()> {
        let sale = self.find(&change.name).await?;
        let id = change.id.unwrap_or_else(|| format!("cli-{}-{:08x}", now_ms(), rand::random::<u32>()));
        let mut done = Vec::new();
        for (sku, delta) in &change.changes {
            if !self.json {
                eprintln!("{sku}: {delta:+} units, id {id}");
            }
            // One id may name several SKUs: they are told apart in each shard.
            let own = format!("{id}/{sku}");
            let own = if change.changes.len() == 1 { &id } else { &own };
            done.push(stock::restock(&self.deployment, &sale, sku, *delta, own, self.target.safety()).await?);
        }
        let book = Book::read(&self.deployment, &sale).await?;
        if self.json {
            return self.print(&serde_json::json!({ "changes": done, "sale": book }), String::new);
        }
        self.print(&book, || stock_table(&book))
    }

    async fn switch(&self, name: &str, to: Switch) -> anyhow::Result<()> {
        let sale = self.find(name).await?;
        switch::switch(&self.deployment, &sale, to).await?;
        let book = Book::read(&self.deployment, &sale).await?;
        self.print(&book, || format!("`{}` is {} in all {}\n", book.name, book.state, counted(sale.shards(), "shard")))
    }

    async fn close(&self, name: &str) -> anyhow::Result<()> {
        let closed = switch::close(&self.deployment, &self.find(name).await?, self.target.safety()).await?;
        self.print(&closed, || {
            let mut text = format!("`{}` is closed\n", closed.book.name);
            for (sku, units) in closed.collected.iter().filter(|(_, units)| *units > 0) {
                text += &format!("{sku}: {units} units collected in {}\n", closed.collected_in);
            }
            if closed.waiting > 0 {
                text += &format!(
                    "{} units wait for replicas to acknowledge that they left: close once more\n",
                    closed.waiting
                );
            }
            let held: u64 = closed.book.skus.values().map(|sku| sku.held).sum();
            if held > 0 && closed.book.shards.len() > 1 {
                text += &format!("{held} units are still held: close once more when those holds have ended\n");
            }
            text + "\n" + &stock_table(&closed.book)
        })
    }

    async fn audit(&self, name: &str) -> anyhow::Result<()> {
        let report = audit::audit(&self.deployment, &self.find(name).await?).await?;
        self.print(&report, || audit_text(&report))?;
        anyhow::ensure!(report.ok, "the audit of `{name}` found differences");
        Ok(())
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

fn counted(number: u32, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

fn list_row(line: &list::Line) -> Vec<String> {
    let shards = match line.missing {
        0 => line.shards.to_string(),
        missing => format!("{} ({missing} missing)", line.shards),
    };
    let numbers = [line.stocked, line.available, line.held, line.sold, line.in_transit, line.orders];
    let words = [line.name.clone(), line.state.clone(), shown_time(line.opens_at), shards];
    words.into_iter().chain(numbers.map(|number| number.to_string())).collect()
}

/// A move for people.
fn migrated(moved: &Moved) -> String {
    let Moved { was_there, in_place, work, book } = moved;
    let to = if *in_place { "the module on the same server" } else { "the target" };
    let what = if *was_there {
        format!("`{}` is at {to} already\n", book.name)
    } else {
        format!(
            "`{}` was moved to {to}: {} holds, orders and remembered ids, {} entries of its order stream; it stood still for \
             {} ms\n",
            book.name, work.records, work.entries, work.pause_ms
        )
    };
    let next = match in_place {
        true => "its audit is clean; proxies with `backend = \"auto\"` find it by themselves\n",
        false => "its audit is clean; now point the proxies there, then remove the old keys (docs/managed-redis.md)\n",
    };
    what + next + "\n" + &stock_table(book)
}

/// A sale for people.
fn show(book: &Book) -> String {
    let limit = match book.limit {
        0 => "no limit per buyer".to_owned(),
        limit => format!("limit {limit} per buyer"),
    };
    let mut text = format!(
        "`{}` is {}: {}, {limit}, holds live {} (at most {})\nopens {}, closes {}; {} orders, {} live holds\n\n",
        book.name,
        book.state,
        counted(book.shards.len() as u32, "shard"),
        shown_duration(book.hold_ms),
        shown_duration(book.maxhold_ms),
        shown_time(book.opens_at),
        shown_time(book.closes_at),
        book.orders,
        book.holds,
    );
    for line in book.missing() {
        text +=
            &format!("shard {} ({}) is MISSING: repeat the `sale create` that made this sale\n", line.shard, line.key);
    }
    text + &stock_table(book) + "\n" + &shard_table(book)
}

fn stock_table(book: &Book) -> String {
    let row = |(name, sku): (&bytes::Bytes, &crate::operate::sale::SkuSum)| {
        let numbers = [sku.stocked, sku.available, sku.held, sku.sold, sku.in_transit, sku.limit];
        let name = String::from_utf8_lossy(name).into_owned();
        std::iter::once(name).chain(numbers.map(|number| number.to_string())).collect()
    };
    let rows: Vec<Vec<String>> = book.skus.iter().map(row).collect();
    table(&["SKU", "stocked", "available", "held", "sold", "in transit", "limit"], &rows)
}

fn shard_table(book: &Book) -> String {
    let row = |line: &crate::operate::sale::ShardLine| {
        let server = line.server.clone().unwrap_or_else(|| "nobody".to_owned());
        let mut row = vec![line.shard.to_string(), line.key.clone(), server];
        match &line.info {
            None => row.extend(std::iter::repeat_n("-".to_owned(), 7)),
            Some(info) => {
                let total = |pick: fn(&crate::operate::SkuInfo) -> u64| info.skus.values().map(pick).sum::<u64>();
                let numbers = [
                    total(|sku| sku.available),
                    total(|sku| sku.held),
                    total(|sku| sku.sold),
                    total(|sku| sku.granted),
                    total(|sku| sku.accepted),
                    info.orders,
                ];
                row.push(info.state.clone());
                row.extend(numbers.map(|number| number.to_string()));
            }
        }
        row
    };
    let rows: Vec<Vec<String>> = book.shards.iter().map(row).collect();
    let heading = ["shard", "key", "server", "state", "available", "held", "sold", "granted", "accepted", "orders"];
    table(&heading, &rows)
}

fn audit_text(report: &audit::Report) -> String {
    let mut text = String::new();
    for shard in &report.shards {
        match shard.differences.as_slice() {
            [] => text += &format!("{}  ok\n", shard.key),
            differences => text += &format!("{}  DIFFERS\n  {}\n", shard.key, differences.join("\n  ")),
        }
    }
    for sku in &report.skus {
        let sum = &sku.sum;
        let about = if report.moving { " (units were moving: about)" } else { "" };
        text += &format!(
            "{}: {} stocked = {} available + {} held + {} sold + {} in transit{about}\n",
            sku.sku, sum.stocked, sum.available, sum.held, sum.sold, sum.in_transit
        );
        sku.differences.iter().for_each(|difference| text += &format!("  DIFFERS: {difference}\n"));
    }
    text + if report.ok { "nothing was made or lost\n" } else { "" }
}
