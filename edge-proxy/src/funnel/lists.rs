//! Stages `list` and `buyer-list`: who is never let in, and who is never held up.
//!
//! Lists stand in the config or in files, a line each: a network (`203.0.113.0/24`), an address, or `buyer:ID`;
//! what follows a `#` is for people. Files are read again when they change. Who is allowed skips the limits and
//! the queue, never the identity; where both lists fit, the allow list counts.

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail, ensure};
use arc_swap::ArcSwap;
use bytes::Bytes;
use ipnet::IpNet;
use prefix_trie::joint::JointPrefixSet;
use serde::Deserialize;

use super::stage::{Check, Mode, Stage, Verdict, now};
use super::visit::{Caller, Visit};
use crate::background::{self, Task};
use crate::http::problem::{Problem, Refusal};
use crate::http::routes::NAME_BYTES_MAX;
use crate::metrics;

/// The `[lists]` section.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListsConfig {
    pub mode: Mode,
    /// Lines as in the files.
    pub deny: Vec<String>,
    pub allow: Vec<String>,
    pub deny_file: Option<PathBuf>,
    pub allow_file: Option<PathBuf>,
    /// How often the files are looked at.
    pub refresh_s: u64,
}

impl Default for ListsConfig {
    fn default() -> Self {
        Self {
            mode: Mode::Enforce,
            deny: Vec::new(),
            allow: Vec::new(),
            deny_file: None,
            allow_file: None,
            refresh_s: 5,
        }
    }
}

impl ListsConfig {
    pub fn validate(&self) -> anyhow::Result<()> {
        ensure!(self.refresh_s > 0, "[lists] refresh_s must be at least 1");
        self.read().map(drop)
    }

    fn read(&self) -> anyhow::Result<Lists> {
        Ok(Lists {
            deny: List::read("deny", &self.deny, self.deny_file.as_deref())?,
            allow: List::read("allow", &self.allow, self.allow_file.as_deref())?,
        })
    }

    fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.deny_file.iter().chain(&self.allow_file)
    }

    fn is_empty(&self) -> bool {
        self.deny.is_empty() && self.allow.is_empty() && self.files().next().is_none()
    }
}

/// One list.
#[derive(Default)]
struct List {
    networks: JointPrefixSet<IpNet>,
    buyers: HashSet<Bytes>,
}

impl List {
    fn read(name: &str, lines: &[String], file: Option<&Path>) -> anyhow::Result<Self> {
        let mut list = Self::default();
        for line in lines {
            list.add(line).with_context(|| format!("[lists] {name}"))?;
        }
        if let Some(file) = file {
            let place = || format!("[lists] {name}_file {}", file.display());
            let text = std::fs::read_to_string(file).with_context(place)?;
            for (number, line) in text.lines().enumerate() {
                list.add(line).with_context(|| format!("{} line {}", place(), number + 1))?;
            }
        }
        Ok(list)
    }

    fn add(&mut self, line: &str) -> anyhow::Result<()> {
        let entry = line.split('#').next().unwrap_or_default().trim();
        if entry.is_empty() {
            return Ok(());
        }
        if let Some(buyer) = entry.strip_prefix("buyer:") {
            ensure!((1..=NAME_BYTES_MAX).contains(&buyer.len()), "`{entry}`: a buyer's id has 1 to 128 bytes");
            self.buyers.insert(Bytes::copy_from_slice(buyer.as_bytes()));
        } else if let Ok(network) = entry.parse::<IpNet>() {
            self.networks.insert(network.trunc());
        } else if let Ok(address) = entry.parse::<IpAddr>() {
            self.networks.insert(IpNet::from(address.to_canonical()));
        } else {
            bail!("`{entry}` is no network, no address and no `buyer:ID`");
        }
        Ok(())
    }

    fn has_address(&self, address: IpAddr) -> bool {
        self.networks.get_lpm(&IpNet::from(address.to_canonical())).is_some()
    }
}

/// Both lists.
#[derive(Default)]
struct Lists {
    deny: List,
    allow: List,
}

/// The lists as they are now, for both stages.
pub struct Watched {
    mode: Mode,
    lists: Arc<ArcSwap<Lists>>,
    _reading: Option<Task>,
}

impl Watched {
    /// # Errors
    /// A file cannot be read, or has a line that means nothing.
    pub fn new(config: &ListsConfig) -> anyhow::Result<Arc<Self>> {
        let lists = Arc::new(ArcSwap::from_pointee(config.read()?));
        let watches = config.mode != Mode::Off && config.files().next().is_some();
        let reading = watches.then(|| background::spawn(keep_fresh(config.clone(), lists.clone())));
        let mode = if config.is_empty() { Mode::Off } else { config.mode };
        Ok(Arc::new(Self { mode, lists, _reading: reading }))
    }
}

/// What tells that a file is another than before.
type Mark = Option<(SystemTime, u64)>;

fn marks(config: &ListsConfig) -> Vec<Mark> {
    let mark = |path: &PathBuf| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    };
    config.files().map(mark).collect()
}

async fn keep_fresh(config: ListsConfig, lists: Arc<ArcSwap<Lists>>) {
    // What changed between the first reading and now is read again.
    let mut seen = Vec::new();
    loop {
        let now = marks(&config);
        if now != seen {
            match config.read() {
                Ok(fresh) => {
                    lists.store(Arc::new(fresh));
                    metrics::LIST_REFRESHES.with_label_values(&["ok"]).inc();
                }
                Err(error) => {
                    log::warn!("a list cannot be used, the last ones stay: {error:#}");
                    metrics::LIST_REFRESHES.with_label_values(&["error"]).inc();
                }
            }
            seen = now;
        }
        tokio::time::sleep(Duration::from_secs(config.refresh_s)).await;
    }
}

fn denied() -> Refusal {
    Problem::Denied.into()
}

/// Stage `list`: addresses.
pub struct AddressList(pub Arc<Watched>);

impl Stage for AddressList {
    fn name(&self) -> &'static str {
        "list"
    }

    fn mode(&self) -> Mode {
        self.0.mode
    }

    fn check<'a>(&'a self, visit: &'a mut Visit<'_>) -> Check<'a> {
        now(self.judge(visit))
    }
}

impl AddressList {
    fn judge(&self, visit: &mut Visit<'_>) -> Verdict {
        let lists = self.0.lists.load();
        if lists.allow.has_address(visit.address) {
            visit.favoured = true;
            return Ok(());
        }
        if lists.deny.has_address(visit.address) { Err(denied()) } else { Ok(()) }
    }
}

/// Stage `buyer-list`: buyers, once they are known.
pub struct BuyerList(pub Arc<Watched>);

impl Stage for BuyerList {
    fn name(&self) -> &'static str {
        "buyer-list"
    }

    fn mode(&self) -> Mode {
        self.0.mode
    }

    fn check<'a>(&'a self, visit: &'a mut Visit<'_>) -> Check<'a> {
        now(self.judge(visit))
    }
}

impl BuyerList {
    fn judge(&self, visit: &mut Visit<'_>) -> Verdict {
        let Caller::Buyer(buyer) = &visit.caller else {
            return Ok(());
        };
        let lists = self.0.lists.load();
        if lists.allow.buyers.contains(buyer) {
            visit.favoured = true;
            return Ok(());
        }
        if lists.deny.buyers.contains(buyer) { Err(denied()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::visit::tests::{request, visit};
    use super::*;

    fn watched(deny: &[&str], allow: &[&str]) -> Arc<Watched> {
        let lines = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect();
        let config = ListsConfig { deny: lines(deny), allow: lines(allow), ..ListsConfig::default() };
        config.validate().unwrap();
        Watched::new(&config).unwrap()
    }

    /// `None` if the address is denied, else whether it is favoured.
    async fn address(lists: &Arc<Watched>, address: &str) -> Option<bool> {
        let request = request("GET", "/flash/s", &[]);
        let mut visit = visit(&request);
        visit.address = address.parse().unwrap();
        AddressList(lists.clone()).check(&mut visit).await.ok().map(|()| visit.favoured)
    }

    #[tokio::test]
    async fn networks_and_addresses_are_denied_and_allowed() {
        let lists =
            watched(&["198.51.100.0/24 # bots", "2001:db8::/32", "192.0.2.7"], &["198.51.100.9", "", "# nobody"]);
        for (text, expected) in [
            ("198.51.100.1", None),
            ("::ffff:198.51.100.1", None),
            ("198.51.100.9", Some(true)),
            ("198.51.101.1", Some(false)),
            ("192.0.2.7", None),
            ("192.0.2.8", Some(false)),
            ("2001:db8:ffff::1", None),
            ("2001:db9::1", Some(false)),
        ] {
            assert_eq!(address(&lists, text).await, expected, "{text}");
        }
    }

    #[tokio::test]
    async fn buyers_are_denied_and_allowed() {
        let lists = watched(&["buyer:eve", "buyer:vip"], &["buyer:vip"]);
        let request = request("POST", "/flash/s/holds?sku=S", &[]);
        for (caller, expected) in [
            (Caller::Buyer(Bytes::from_static(b"eve")), None),
            (Caller::Buyer(Bytes::from_static(b"vip")), Some(true)),
            (Caller::Buyer(Bytes::from_static(b"anna")), Some(false)),
            (Caller::Shop, Some(false)),
        ] {
            let mut visit = visit(&request);
            visit.caller = caller;
            let passed = BuyerList(lists.clone()).check(&mut visit).await.ok();
            assert_eq!(passed.map(|()| visit.favoured), expected, "{:?}", visit.caller);
        }
    }

    #[test]
    fn lines_that_mean_nothing_are_named() {
        let error = |line: &str| {
            let config = ListsConfig { deny: vec![line.to_owned()], ..ListsConfig::default() };
            format!("{:#}", config.validate().unwrap_err())
        };
        assert!(error("example.com").contains("example.com"));
        assert!(error("10.0.0.0/33").contains("10.0.0.0/33"));
        assert!(error("buyer:").contains("1 to 128"));
        let missing = ListsConfig { deny_file: Some("/does/not/exist".into()), ..ListsConfig::default() };
        assert!(format!("{:#}", missing.validate().unwrap_err()).contains("/does/not/exist"));
    }

    #[test]
    fn empty_lists_are_not_looked_at() {
        assert_eq!(watched(&[], &[]).mode, Mode::Off);
    }
}
