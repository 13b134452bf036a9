//! Makes a sale over all its shards, each with its part of the stock.
//!
//! One shard is made and stocked in one step (MULTI). A crash between two shards is mended by the same call again:
//! shards that are there must have the settings asked for, and stock is added under an id that counts once. What may be
//! left from an earlier sale of the name is refused ([`leftovers`]).

use anyhow::{Context, bail, ensure};
use flashsale_core::bounds::{MAX_NAME_BYTES, MAX_QUANTITY, MAX_SHARDS};
use futures_util::future::try_join_all;
use redis::{Cmd, Value};

use super::deployment::{Deployment, checked, words};
use super::leftovers::{self, Mending};
use super::sale::Sale;
use super::stock::{Allocation, part, stocked};
use crate::store::info::ShardInfo;
use crate::store::nodes::Dialect;

/// Shards for each server that takes writes, with `--shards auto`: the sale can then spread evenly over up to four
/// times as many servers, should the cluster grow, and the busiest of them stays close to the mean.
pub const SHARDS_PER_SERVER: u32 = 4;

/// In how many shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shards {
    /// [`SHARDS_PER_SERVER`] for each server where there are several, else one.
    Auto,
    Number(u32),
}

/// A point in time, unix milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    At(u64),
    /// So long after now; when a creation is repeated, what the sale already has.
    After(u64),
}

/// Units of one SKU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stock {
    pub sku: String,
    pub quantity: u64,
    /// Units a buyer may have of it.
    pub limit: Option<u32>,
}

/// What to make. What is `None` is left to the server's defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub name: String,
    pub shards: Shards,
    pub stock: Vec<Stock>,
    pub limit: Option<u32>,
    pub hold_ms: Option<u64>,
    pub maxhold_ms: Option<u64>,
    pub retain_ms: Option<u64>,
    pub backlog: Option<u64>,
    pub events: Option<String>,
    pub opens: Option<When>,
    pub closes: Option<When>,
    /// What to make of a sale that is there in part.
    pub mending: Mending,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    pub sale: Sale,
    pub made: u32,
    /// Shards that were there already, as asked for.
    pub were_there: u32,
}

/// Makes the sale, or what is missing of it.
///
/// # Errors
/// The plan makes no sense, another sale of this name is there, or a server does not answer: repeat the call.
pub async fn create(deployment: &Deployment, prefix: &str, plan: &Plan, now_ms: u64) -> anyhow::Result<Created> {
    plan.check()?;
    let sale = choose(deployment, prefix, plan).await?;
    leftovers::refuse(deployment, &sale, format!("{prefix}{}", plan.name).as_bytes(), plan.mending).await?;
    let there = sale.infos(deployment).await?;
    let settings = Settings::of(plan, there.iter().flatten().next(), now_ms);
    for (shard, info) in (0..).zip(&there) {
        if let Some(info) = info {
            settings.compare(info).with_context(|| format!("{} is another sale", sale.key_text(shard)))?;
        }
    }
    let step = |shard: u32, edition: Option<u64>| {
        let sale = &sale;
        let is_there = there[shard as usize].is_some();
        let settings = Settings { edition, ..settings.clone() };
        async move { make(deployment, sale, shard, is_there, plan, &settings).await }
    };
    // The first one alone: it is what others find the sale by.
    step(0, edition(deployment, &sale, &there, now_ms)).await?;
    // Somebody else may have made it at the same time.
    let first = sale.info(deployment, 0).await?.map_or(0, |info| info.edition);
    let edition = Some(first).filter(|&edition| edition > 0);
    try_join_all((1..sale.shards()).map(|shard| step(shard, edition))).await?;
    let were_there = there.iter().flatten().count() as u32;
    Ok(Created { made: sale.shards() - were_there, were_there, sale })
}

/// What tells the shards of this sale from any that an earlier sale of the name may have left: of a sale that is there
/// in part its own, else the time. The library knows of no editions, and one key alone needs none.
fn edition(deployment: &Deployment, sale: &Sale, there: &[Option<ShardInfo>], now_ms: u64) -> Option<u64> {
    let is_needed = sale.shards() > 1 && deployment.dialect() == Dialect::Module;
    let edition = there.iter().flatten().next().map_or(now_ms, |info| info.edition);
    Some(edition).filter(|&edition| is_needed && edition > 0)
}

/// The shards that the plan means: of a sale that is there, its own number.
async fn choose(deployment: &Deployment, prefix: &str, plan: &Plan) -> anyhow::Result<Sale> {
    let there = Sale::find(deployment, prefix, &plan.name).await;
    match (plan.shards, there) {
        (Shards::Auto, Ok(sale)) => Ok(sale),
        (Shards::Number(number), Ok(sale)) => {
            ensure!(
                sale.shards() == number,
                "the sale `{}` is there, in {} shards and not in {number}: their number is fixed for its life. Take \
                 another name, or delete its keys first",
                plan.name,
                sale.shards()
            );
            Ok(sale)
        }
        (shards, Err(error)) => {
            // No such sale is what we want to hear; that nobody answers is not.
            if error.downcast_ref::<super::Trouble>().is_some() {
                return Err(error);
            }
            let topology = deployment.whole_topology().await?;
            let (servers, groups) = (topology.nodes.len() as u32, topology.parts.len() as u32);
            let number = match shards {
                Shards::Number(number) => number,
                // As many in each group.
                Shards::Auto if servers > 1 => (servers * SHARDS_PER_SERVER).next_multiple_of(groups.max(1)),
                Shards::Auto => 1,
            };
            Ok(Sale::of(prefix, &plan.name, number))
        }
    }
}

async fn make(
    deployment: &Deployment,
    sale: &Sale,
    shard: u32,
    is_there: bool,
    plan: &Plan,
    settings: &Settings,
) -> anyhow::Result<()> {
    let place = sale.place(shard);
    let mut steps = Vec::new();
    if !is_there {
        let mut create = deployment.flash("CREATE", place.key);
        settings.write(&mut create);
        if sale.shards() > 1 {
            create.arg("SHARD").arg(shard).arg(sale.shards());
        }
        if let Some(edition) = settings.edition {
            create.arg("EDITION").arg(edition);
        }
        steps.push(create);
    }
    for stock in &plan.stock {
        let allocation = Allocation {
            sku: stock.sku.as_bytes(),
            delta: part(stock.quantity, sale.shards(), shard) as i64,
            id: format!("create/{}", stock.sku).into_bytes(),
            limit: stock.limit,
        };
        steps.push(allocation.command(deployment, place.key));
    }
    let mut commands = vec![words(&["MULTI"])];
    commands.extend(steps.iter().cloned());
    commands.push(words(&["EXEC"]));
    let mut replies = deployment.ask_all(place, &commands).await?;
    let key = sale.key_text(shard);
    // A word that was refused when it was queued says more than the EXEC that was refused for it.
    let refused = replies.iter().position(|reply| matches!(reply, Value::ServerError(_)));
    let last = replies.len() - 1;
    let reply = checked(&key, replies.swap_remove(refused.unwrap_or(last)))?;
    let Value::Array(answers) = reply else { bail!("{key}: EXEC answered {reply:?}") };
    for (step, answer) in steps.iter().zip(answers) {
        // Another operator made the same shard at the same time.
        let exists = matches!(&answer, Value::ServerError(error) if error.code() == "EXISTS");
        if exists || answer == Value::Okay {
            continue;
        }
        stocked(&checked(&key, answer)?).with_context(|| {
            let word = step.args_iter().last();
            format!("{key}: the stock was given otherwise before (last word {word:?}): see `sale show`, `sale restock`")
        })?;
    }
    Ok(())
}

impl Plan {
    fn check(&self) -> anyhow::Result<()> {
        ensure!(!self.name.is_empty(), "the sale needs a name");
        ensure!(!self.name.contains(['{', '}']), "`{}`: the name of a sale has no braces", self.name);
        ensure!(!self.stock.is_empty(), "a sale without stock: give --stock SKU=QUANTITY at least once");
        let shards = match self.shards {
            Shards::Auto => 1,
            Shards::Number(number) => number,
        };
        ensure!((1..=MAX_SHARDS).contains(&shards), "--shards {shards}: a sale has 1 to {MAX_SHARDS}");
        let most = u64::from(MAX_QUANTITY) * u64::from(shards);
        for stock in &self.stock {
            let Stock { sku, quantity, .. } = stock;
            let longest = MAX_NAME_BYTES - "create/".len();
            ensure!(!sku.is_empty() && sku.len() <= longest, "--stock {sku}: a SKU has 1 to {longest} bytes");
            ensure!(*quantity <= most, "--stock {sku}={quantity}: at most {most} in {shards} shards");
            let same = self.stock.iter().filter(|other| other.sku == *sku).count();
            ensure!(same == 1, "--stock {sku}: named {same} times");
        }
        Ok(())
    }
}

/// The settings of every shard, times made absolute.
#[derive(Clone)]
struct Settings {
    fields: Vec<(&'static str, &'static str, u64)>,
    events: Option<String>,
    edition: Option<u64>,
}

impl Settings {
    fn of(plan: &Plan, there: Option<&ShardInfo>, now_ms: u64) -> Self {
        let time = |when: Option<When>, known: fn(&ShardInfo) -> u64| {
            when.map(|when| match when {
                When::At(at_ms) => at_ms,
                When::After(ms) => there.map_or(now_ms + ms, known),
            })
        };
        let given = [
            ("LIMIT", "limit", plan.limit.map(u64::from)),
            ("HOLD", "hold_ms", plan.hold_ms),
            ("MAXHOLD", "maxhold_ms", plan.maxhold_ms),
            ("RETAIN", "retain_ms", plan.retain_ms),
            ("BACKLOG", "backlog", plan.backlog),
            ("OPENS", "opens_at", time(plan.opens, |info| info.opens_at)),
            ("CLOSES", "closes_at", time(plan.closes, |info| info.closes_at)),
        ];
        let fields = given.into_iter().filter_map(|(word, name, value)| Some((word, name, value?))).collect();
        Self { fields, events: plan.events.clone(), edition: None }
    }

    fn write(&self, create: &mut Cmd) {
        for (word, _, value) in &self.fields {
            create.arg(word).arg(value);
        }
        if let Some(events) = &self.events {
            create.arg("EVENTS").arg(events);
        }
    }

    /// Whether a shard that is there has the settings that were given.
    fn compare(&self, info: &ShardInfo) -> anyhow::Result<()> {
        for &(_, name, asked) in &self.fields {
            let has = match name {
                "limit" => info.limit,
                "hold_ms" => info.hold_ms,
                "maxhold_ms" => info.maxhold_ms,
                "retain_ms" => info.retain_ms,
                "backlog" => info.backlog,
                "opens_at" => info.opens_at,
                _ => info.closes_at,
            };
            ensure!(has == asked, "its {name} is {has} and not {asked}: FLASH.ALTER changes a live sale");
        }
        if let Some(events) = &self.events {
            ensure!(info.events.eq_ignore_ascii_case(events), "its events are {} and not {events}", info.events);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan {
            name: "42".to_owned(),
            shards: Shards::Number(2),
            stock: vec![Stock { sku: "tee".to_owned(), quantity: 5, limit: None }],
            limit: Some(2),
            hold_ms: None,
            maxhold_ms: None,
            retain_ms: None,
            backlog: None,
            events: None,
            opens: Some(When::After(1_000)),
            closes: None,
            mending: Mending::Untouched,
        }
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let stock = |sku: &str, quantity| Stock { sku: sku.to_owned(), quantity, limit: None };
        let two = || vec![stock("tee", 1), stock("tee", 2)];
        for (plan, word) in [
            (Plan { name: String::new(), ..plan() }, "name"),
            (Plan { name: "a{1}".to_owned(), ..plan() }, "braces"),
            (Plan { stock: Vec::new(), ..plan() }, "--stock"),
            (Plan { stock: two(), ..plan() }, "2 times"),
            (Plan { stock: vec![stock("", 1)], ..plan() }, "SKU"),
            (Plan { stock: vec![stock("tee", u64::MAX)], ..plan() }, "at most"),
            (Plan { shards: Shards::Number(0), ..plan() }, "--shards 0"),
            (Plan { shards: Shards::Number(16_385), ..plan() }, "16384"),
        ] {
            let error = format!("{:#}", plan.check().expect_err(word));
            assert!(error.contains(word), "{error}");
        }
        plan().check().unwrap();
    }

    #[test]
    fn a_repeat_takes_the_times_that_are_there_and_nothing_else() {
        let there = ShardInfo { limit: 2, opens_at: 7_000, ..ShardInfo::default() };
        Settings::of(&plan(), Some(&there), 9_000).compare(&there).unwrap();
        let other = ShardInfo { limit: 3, ..there.clone() };
        let error = Settings::of(&plan(), Some(&other), 9_000).compare(&other).unwrap_err().to_string();
        assert!(error.contains("limit is 3 and not 2"), "{error}");
        let absolute = Plan { opens: Some(When::At(8_000)), ..plan() };
        assert!(Settings::of(&absolute, Some(&there), 9_000).compare(&there).is_err());
    }
}
