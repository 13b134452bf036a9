//! Pauses, resumes and closes all shards of a sale; closing also collects what is left.

use anyhow::bail;
use serde::Serialize;

use super::deployment::{Deployment, checked};
use super::sale::{Book, Sale};
use super::transfer::{self, Safety};

/// What can be switched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    Pause,
    Resume,
    Close,
}

impl Switch {
    fn command(self) -> &'static str {
        match self {
            Self::Pause => "PAUSE",
            Self::Resume => "RESUME",
            Self::Close => "CLOSE",
        }
    }
}

/// Switches every shard, all at about the same time.
///
/// # Errors
/// Some shards could not be switched: which, and why. The others are; repeat the call.
pub async fn switch(deployment: &Deployment, sale: &Sale, switch: Switch) -> anyhow::Result<()> {
    let mut failed = Vec::new();
    for (shard, reply) in (0..).zip(sale.ask_each(deployment, switch.command()).await) {
        if let Err(trouble) = reply.and_then(|reply| checked(&sale.key_text(shard), reply)) {
            failed.push(format!("{}: {trouble}", sale.key_text(shard)));
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    let (word, count) = (switch.command(), failed.len());
    bail!("{word} failed on {count} of {} shards, repeat it:\n  {}", sale.shards(), failed.join("\n  "))
}

/// What closing has collected.
#[derive(Debug, Clone, Serialize)]
pub struct Closed {
    /// The shard to which the units that were left have gone.
    pub collected_in: String,
    /// Units that came there from other shards, by SKU.
    pub collected: Vec<(String, u64)>,
    /// Units granted that too few replicas have acknowledged yet.
    pub waiting: u64,
    /// The sale afterwards. Units still held go back to their shards when their holds end: close once more.
    pub book: Book,
}

/// Closes a sale for good and brings the units that nobody has to shard 0.
///
/// # Errors
/// As [`switch`], or a server does not answer: repeat it.
pub async fn close(deployment: &Deployment, sale: &Sale, safety: Safety) -> anyhow::Result<Closed> {
    switch(deployment, sale, Switch::Close).await?;
    let (mut collected, mut waiting) = (Vec::new(), 0);
    if sale.shards() > 1 {
        let book = Book::read(deployment, sale).await?;
        for name in book.skus.keys() {
            let gathered = transfer::gather(deployment, sale, name, 0, u64::MAX, safety).await?;
            collected.push((String::from_utf8_lossy(name).into_owned(), gathered.units));
            waiting += gathered.waiting;
        }
    }
    let book = Book::read(deployment, sale).await?;
    Ok(Closed { collected_in: sale.key_text(0), collected, waiting, book })
}
