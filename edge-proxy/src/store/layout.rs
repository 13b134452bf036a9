//! Which keys a sale lives in. The contract's section 3: `NAME`, or `NAME{TAG}` for each of n shards. Which of them
//! it is is found out once, by asking for shard 0 of every n up to [`PROBED_SHARDS_MAX`].

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use flashsale_core::sharding::{home_shard, shard_key};
use moka::sync::Cache;
use redis::Value;

use super::StoreError;
use super::answer;
use super::fleet::Fleet;
use super::info::ShardInfo;
use super::nodes::Place;
use crate::config::SaleEntry;
use crate::recent::{Owner, Recent};
use crate::single_flight::SingleFlight;

/// Most shards of a sale that is found without being configured.
pub const PROBED_SHARDS_MAX: u32 = 64;

/// How long a name that is no sale is not asked for again.
const UNKNOWN: Duration = Duration::from_secs(1);
/// Most names remembered.
const NAMES_MAX: u64 = 20_000;
/// Forget a name that nobody has asked for in this time.
const IDLE: Duration = Duration::from_secs(600);

/// The keys of one sale.
#[derive(Debug, PartialEq, Eq)]
pub struct Layout {
    keys: Vec<Bytes>,
}

impl Layout {
    /// The sale `sale` (its key, or what the keys of its shards begin with) in so many keys.
    pub fn new(sale: &[u8], shards: u32) -> Self {
        let keys = match shards {
            0 | 1 => vec![Bytes::copy_from_slice(sale)],
            shards => (0..shards).map(|shard| shard_key(sale, shard, shards).into()).collect(),
        };
        Self { keys }
    }

    pub fn shards(&self) -> u32 {
        self.keys.len() as u32
    }

    /// Where the buyer's holds are.
    pub fn home(&self, buyer: &[u8]) -> Place<'_> {
        self.place(home_shard(buyer, self.shards()))
    }

    /// # Panics
    /// If there is no such shard.
    pub fn place(&self, shard: u32) -> Place<'_> {
        Place { key: &self.keys[shard as usize], shard }
    }

    pub fn places(&self) -> impl Iterator<Item = Place<'_>> {
        self.keys.iter().zip(0..).map(|(key, shard)| Place { key, shard })
    }
}

/// The sale that a key belongs to: what stands before a decimal hash tag at the end, if there is one.
pub fn sale_of_key(key: &[u8]) -> &[u8] {
    let name = || {
        let inner = key.strip_suffix(b"}")?;
        let open = inner.iter().position(|byte| *byte == b'{')?;
        let tag = &inner[open + 1..];
        (open > 0 && !tag.is_empty() && tag.iter().all(u8::is_ascii_digit)).then_some(&key[..open])
    };
    name().unwrap_or(key)
}

/// The layouts that are known.
pub struct Layouts {
    fleet: Arc<Fleet>,
    configured: HashMap<Bytes, Arc<Layout>>,
    names: Cache<Bytes, Arc<Name>>,
    owner: Owner,
}

thread_local! {
    static RECENT: Recent<Arc<Name>> = const { Recent::new() };
}

/// What is known of one name.
#[derive(Default)]
struct Name {
    found: ArcSwapOption<Found>,
    probing: SingleFlight<StoreError>,
}

struct Found {
    /// `None`: no such sale.
    layout: Option<Arc<Layout>>,
    at: Instant,
}

impl Layouts {
    /// `sales` are those of the config; their keys begin with `prefix`.
    pub fn new(fleet: Arc<Fleet>, sales: &[SaleEntry], prefix: &[u8]) -> Self {
        let entry = |entry: &SaleEntry| {
            let sale = [prefix, entry.name.as_bytes()].concat();
            let layout = Arc::new(Layout::new(&sale, entry.shards));
            (Bytes::from(sale), layout)
        };
        Self {
            fleet,
            configured: sales.iter().map(entry).collect(),
            names: Cache::builder().max_capacity(NAMES_MAX).time_to_idle(IDLE).build(),
            owner: Owner::new(),
        }
    }

    /// The keys of `sale`.
    ///
    /// # Errors
    /// [`StoreError::NoSale`], or the servers cannot be asked.
    pub async fn of(&self, sale: &[u8]) -> Result<Arc<Layout>, StoreError> {
        match self.at_hand(sale) {
            Some(known) => known,
            // Rare, and a large future.
            None => Box::pin(self.find(sale)).await,
        }
    }

    /// The same, if nobody need be asked.
    fn at_hand(&self, sale: &[u8]) -> Option<Result<Arc<Layout>, StoreError>> {
        // Nearly always there are none.
        if !self.configured.is_empty()
            && let Some(layout) = self.configured.get(sale)
        {
            return Some(Ok(Arc::clone(layout)));
        }
        RECENT.with(|recent| recent.get(self.owner, sale, || self.names.get(sale)))?.known()
    }

    async fn find(&self, sale: &[u8]) -> Result<Arc<Layout>, StoreError> {
        let name = match self.names.get(sale) {
            Some(name) => name,
            None => self.names.get_with(Bytes::copy_from_slice(sale), Arc::default),
        };
        let ask = async {
            let layout = match self.probe(sale).await {
                Ok(layout) => Some(Arc::new(layout)),
                Err(StoreError::NoSale) => None,
                Err(error) => return Err(error),
            };
            name.found.store(Some(Arc::new(Found { layout: layout.clone(), at: Instant::now() })));
            Ok(layout.ok_or(StoreError::NoSale))
        };
        name.probing.get(|| name.known(), ask).await?
    }

    /// The keys of `sale`, if they are known without asking.
    pub fn known(&self, sale: &[u8]) -> Option<Arc<Layout>> {
        self.at_hand(sale)?.ok()
    }

    /// The sale is not where it was found: for a moment it counts as unknown, then it is looked for again.
    pub fn forget(&self, sale: &[u8]) {
        RECENT.with(Recent::forget);
        if let Some(name) = self.names.get(sale) {
            name.found.store(Some(Arc::new(Found { layout: None, at: Instant::now() })));
        }
    }

    async fn probe(&self, sale: &[u8]) -> Result<Layout, StoreError> {
        // Names with braces are never sharded.
        let most = if sale.contains(&b'{') || sale.contains(&b'}') { 1 } else { PROBED_SHARDS_MAX };
        let layouts: Vec<(u32, Vec<u8>)> = (1..=most)
            .map(|shards| (shards, if shards == 1 { sale.to_vec() } else { shard_key(sale, 0, shards) }))
            .collect();
        let calls: Vec<_> = layouts
            .iter()
            .map(|(_, key)| (Place { key, shard: 0 }, redis::cmd("EXISTS").arg(key).to_owned()))
            .collect();
        let mut trouble = StoreError::NoSale;
        for ((shards, key), reply) in layouts.iter().zip(self.fleet.send_each(&calls).await) {
            match reply.and_then(answer::checked) {
                Ok(Value::Int(0)) => {}
                Ok(_) if *shards == 1 => return Ok(Layout::new(sale, 1)),
                Ok(_) => match self.is_one_of(key, *shards).await {
                    Ok(true) => return Ok(Layout::new(sale, *shards)),
                    Ok(false) => {}
                    Err(error) => trouble = error,
                },
                Err(error) => trouble = error,
            }
        }
        Err(trouble)
    }

    /// Whether the key is a shard of a sale in so many shards: a key of one number may be that of another too.
    async fn is_one_of(&self, key: &[u8], shards: u32) -> Result<bool, StoreError> {
        let dialect = self.fleet.topology().await?.dialect;
        let info = dialect.command("INFO", key);
        let reply = self.fleet.send(Place { key, shard: 0 }, &[info]).await?.pop().unwrap_or(Value::Nil);
        match ShardInfo::read(reply) {
            Ok(info) => Ok(info.shards == shards),
            Err(StoreError::NoSale) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Name {
    fn known(&self) -> Option<Result<Arc<Layout>, StoreError>> {
        let found = self.found.load_full()?;
        match &found.layout {
            Some(layout) => Some(Ok(Arc::clone(layout))),
            None if found.at.elapsed() < UNKNOWN => Some(Err(StoreError::NoSale)),
            None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sale_has_a_key_for_each_shard_and_a_buyer_a_home() {
        assert_eq!(Layout::new(b"sale:1", 1).home(b"ann"), Place { key: b"sale:1", shard: 0 });
        let layout = Layout::new(b"sale:1", 3);
        assert_eq!(layout.places().count(), 3);
        for buyer in [&b"ann"[..], b"bob", b"\xff"] {
            let home = layout.home(buyer);
            assert_eq!(home, layout.place(home_shard(buyer, 3)));
            assert_eq!(sale_of_key(home.key), b"sale:1");
        }
    }

    #[test]
    fn the_sale_of_a_key_is_what_stands_before_its_tag() {
        for (key, sale) in [
            (&b"sale:1{12}"[..], &b"sale:1"[..]),
            (b"sale:1", b"sale:1"),
            (b"{12}", b"{12}"),
            (b"sale{}", b"sale{}"),
            (b"sale{x}", b"sale{x}"),
            (b"sale{1}:holds", b"sale{1}:holds"),
        ] {
            assert_eq!(sale_of_key(key), sale);
        }
    }
}
