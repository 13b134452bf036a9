//! The one config file of the program (TOML; unknown keys are refused).
//!
//! Each stage of the funnel keeps its own section beside its code; this file puts them together.
//! `default.toml` is the documented form of the defaults, printed by `flashsale serve --print-config`,
//! and a test holds the two against each other.

use std::path::Path;

use anyhow::Context;
use serde::Deserialize;

use crate::balancer::config::BalancerConfig;
use crate::funnel::admission::AdmissionConfig;
use crate::funnel::challenges::ChallengeConfig;
use crate::funnel::known::KnownConfig;
use crate::funnel::lanes::LanesConfig;
use crate::funnel::leases::SharedRatesConfig;
use crate::funnel::levels::LevelsConfig;
use crate::funnel::lists::ListsConfig;
use crate::funnel::rates::RatesConfig;
use crate::funnel::tickets::TicketsConfig;
use crate::funnel::tokens::TokensConfig;
use crate::relay::config::RelayConfig;
use crate::sale::SaleConfig;
use crate::trace::config::TracingConfig;

mod cache;
pub mod change;
mod listen;
mod nearest;
mod redis;
mod redis_groups;
pub mod secret;
mod shop;

pub use self::cache::{CacheConfig, CacheRule};
pub use self::listen::{AccessLogConfig, ListenConfig, TlsConfig, millis};
pub use self::redis::{DurabilityConfig, RedisBackend, RedisConfig, RedisMode, SaleEntry, client_at};
pub use self::redis_groups::RedisGroup;
pub use self::shop::{Balance, ShopConfig};

/// The documented default config.
pub const DEFAULT: &str = concat!(include_str!("default.toml"), "\n", include_str!("../relay/default.toml"));

/// Everything that can be set.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub listen: ListenConfig,
    pub shop: ShopConfig,
    pub cache: CacheConfig,
    pub redis: RedisConfig,
    pub durability: DurabilityConfig,
    pub sales: Vec<SaleEntry>,
    pub sale: SaleConfig,
    pub lists: ListsConfig,
    pub rates: RatesConfig,
    pub shared_rates: SharedRatesConfig,
    pub levels: LevelsConfig,
    pub known: KnownConfig,
    pub tokens: TokensConfig,
    pub tickets: TicketsConfig,
    pub challenges: Vec<ChallengeConfig>,
    pub admission: AdmissionConfig,
    pub lanes: LanesConfig,
    pub access_log: AccessLogConfig,
    pub tracing: TracingConfig,
    pub relay: RelayConfig,
    pub balancer: BalancerConfig,
}

impl Config {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// The file cannot be read, is not TOML, has an unknown key, or a value makes no sense.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        Self::parse(&read(path)?).with_context(|| format!("config {}", path.display()))
    }

    /// Reads and checks a config from its text.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let config: Self = toml::from_str(text).map_err(|error| match nearest::hint(error.message()) {
            Some(hint) => anyhow::Error::from(error).context(hint),
            None => error.into(),
        })?;
        config.validate()?;
        Ok(config)
    }

    fn validate(&self) -> anyhow::Result<()> {
        self.listen.validate()?;
        self.shop.validate()?;
        self.cache.validate()?;
        self.redis.check()?;
        self.durability.validate()?;
        self.sales.iter().try_for_each(SaleEntry::validate)?;
        self.sale.validate()?;
        self.lists.validate()?;
        self.rates.validate()?;
        self.shared_rates.validate()?;
        self.levels.validate()?;
        self.admission.validate()?;
        self.lanes.validate()?;
        self.known.validate()?;
        self.tokens.validate()?;
        self.balancer.validate()?;
        self.tickets.validate()?;
        self.challenges.iter().try_for_each(ChallengeConfig::validate)?;
        self.access_log.validate()?;
        self.tracing.validate()
    }
}

/// The text of the file at `path`.
///
/// # Errors
/// It cannot be read.
pub fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read the config {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_printed_config_says_what_the_defaults_are() {
        let printed = Config::parse(DEFAULT).unwrap();
        assert_eq!(format!("{printed:#?}"), format!("{:#?}", Config::default()));
    }

    #[test]
    fn the_documentation_has_every_key() {
        let documentation = include_str!("../../../docs/edge.md");
        for line in include_str!("default.toml").lines() {
            let line = line.trim_start_matches("# ").trim();
            let Some((key, _)) = line.split_once(" = ") else {
                continue;
            };
            if key.chars().all(|c| c.is_ascii_lowercase() || c == '_') {
                assert!(documentation.contains(&format!("`{key}`")), "docs/edge.md does not explain `{key}`");
            }
        }
    }

    /// Every key that a section takes, by asking for one that it does not.
    fn keys_of(section: &str) -> Vec<String> {
        let error = toml::from_str::<Config>(&format!("{section}\nno_such_key = 1")).unwrap_err();
        let known = error.message().split_once("expected").unwrap_or_else(|| panic!("{section}: {error}")).1;
        known.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    }

    #[test]
    fn the_printed_config_and_the_documentation_have_every_key_of_every_section() {
        let documentation = concat!(include_str!("../../../docs/edge.md"), include_str!("../../../docs/relay.md"));
        let sections = keys_of("");
        assert!(sections.len() >= 10, "{sections:?}");
        for section in sections {
            for key in keys_of(&format!("[{section}]")) {
                let printed = DEFAULT.lines().any(|line| {
                    let line = line.trim_start_matches("# ");
                    line.starts_with(&format!("{key} = ")) || line.contains(&format!("[{section}.{key}]"))
                });
                assert!(printed, "--print-config lacks {section}.{key}");
                let table = documentation.contains(&format!("[{section}.{key}]"))
                    || documentation.contains(&format!("[[{section}.{key}]]"));
                assert!(table || documentation.contains(&format!("`{key}`")), "docs lack {section}.{key}");
            }
        }
    }

    #[test]
    fn an_empty_file_is_the_default() {
        Config::parse("").unwrap();
    }

    #[test]
    fn mistakes_are_refused_and_named() {
        for (text, word) in [
            ("lissten = 1", "lissten"),
            ("[listen]\npublik = 1", "publik"),
            ("[listen]\npublik = 1", "did you mean `public`?"),
            ("[raets]\nmode = \"off\"", "did you mean `rates`?"),
            ("[shop]\nbalance = \"random\"", "least_connections"),
            ("[listen]\npublic = \"nowhere\"", "public"),
            ("[listen]\nread_timeout_ms = 0", "read_timeout_ms"),
            ("[listen]\nproxy_protocol = true", "trusted_proxies"),
            ("[listen]\nheader_bytes_max = 10", "header_bytes_max"),
            ("[listen]\nheaders_max = 1000", "headers_max"),
            ("[listen]\nheader_timeout_ms = 0", "header_timeout_ms"),
            ("[listen]\nbody_timeout_ms = 0", "body_timeout_ms"),
            ("[listen.tls]\naddress = \"0.0.0.0:1\"\ncertificate_file = \"x\"", "key_file"),
            ("[listen]\ntrusted_proxies = [\"10.0.0.0/99\"]", "trusted_proxies"),
            ("[shop]\nupstreams = [\"shop\"]", "shop"),
            ("[shop]\nupstreams = [\"shop:99999\"]", "99999"),
            ("[shop]\ntls = true", "sni"),
            ("[shop]\nserver_key_env = \"FLASHSALE_NO_SUCH_VARIABLE\"", "FLASHSALE_NO_SUCH_VARIABLE"),
            ("[[cache.rules]]\npath = \"p\"\nseconds = 1", "slash"),
            ("[[cache.rules]]\npath = \"/p\"\nseconds = 0", "seconds"),
            ("[redis]\nurl = \"http://x\"", "url"),
            ("[redis]\ntimeout_ms = -1", "timeout_ms"),
            ("[redis]\nkey_prefix = \"{a}\"", "braces"),
            ("[redis]\nmode = \"ring\"", "ring"),
            ("[redis]\nbackend = \"lua\"", "lua"),
            ("[redis]\nurl = \"redis://a\"\nurls = [\"redis://b\"]", "both"),
            ("[redis]\nurls = [\"redis://a\", \"b\"]", "not a Redis URL"),
            ("[redis]\ntls_cert_file = \"/x\"", "tls_key_file"),
            ("[redis]\ntls_ca_file = \"/does/not/exist\"", "tls_ca_file"),
            ("[[sales]]\nname = \"s\"\nshards = 0", "shards"),
            ("[[sales]]\nname = \"s{1}\"\nshards = 2", "braces"),
            ("[durability]\nreplicas = 1\ntimeout_ms = 0", "timeout_ms"),
            ("[sale]\nnot_open_status = 200", "not_open_status"),
            ("[rates]\nmode = \"perhaps\"", "perhaps"),
            ("[tokens]\nmode = \"off\"", "mode"),
            ("[lists]\ndeny = [\"nobody\"]", "nobody"),
            ("[shared_rates]\nlease_ms = 1", "lease_ms"),
            ("[levels]\ndrop = [0.5, 0.4, 0.9]", "drop"),
            ("[admission]\nfactor = 0.0", "factor"),
            ("[lanes]\nmin = 0", "min"),
            ("[tickets]\nmode = \"required\"", "[[tickets.keys]]"),
            ("[tickets]\nttl_s = 0", "ttl_s"),
            ("[[challenges]]\nkind = \"altcha\"", "secret_file"),
            ("[access_log]\nsample = 2.0", "sample"),
            ("[tracing]\nsample = 2.0", "sample"),
            ("[tracing]\nendpoint = \"localhost:4318\"", "endpoint"),
            ("[tracing]\nparent_from = \"me\"", "trusted_proxies"),
            ("[balancer]\nevery_ms = 0", "every_ms"),
            ("[balancer]\nmode = \"perhaps\"", "perhaps"),
            ("listen", "TOML"),
        ] {
            let error = format!("{:#}", Config::parse(text).expect_err(text));
            assert!(error.contains(word), "{text:?} gave: {error}");
        }
    }
}
