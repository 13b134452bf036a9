//! How the operator's commands find the servers: what their options have in common.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::runtime::{Builder, Runtime};

use crate::config::{Config, DurabilityConfig, RedisConfig, RedisGroup};
use crate::operate::transfer::Safety;
use crate::operate::{Deployment, Patience};

/// The config that is taken where none is named.
const DEFAULT_CONFIG: &str = "edge.toml";

#[derive(clap::Args)]
#[command(next_help_heading = "Which servers")]
pub struct Connect {
    /// The config file: its [redis] and [durability] count. Default: edge.toml, if it is here
    #[arg(long, global = true, env = "FLASHSALE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Servers instead of a config: redis://host:port, several with commas between. Any node of a cluster will do. Given
    /// again (or after a semicolon): another cluster or server, over all of which the shards are spread in this order
    #[arg(long, global = true, env = "FLASHSALE_REDIS", value_name = "URLS", value_delimiter = ';')]
    redis: Vec<String>,
    /// With --redis: user of the servers' access control list
    #[arg(long, global = true, value_name = "USER", default_value = "")]
    redis_user: String,
    /// With --redis: file that holds the password
    #[arg(long, global = true, value_name = "FILE")]
    redis_password_file: Option<PathBuf>,
    /// With --redis: environment variable that holds the password
    #[arg(long, global = true, value_name = "VARIABLE")]
    redis_password_env: Option<String>,
    /// What keys of sales begin with; default: key_prefix of the config, else "sale:"
    #[arg(long, global = true)]
    prefix: Option<String>,
    /// Replicas that must have a grant before another shard is told of it; default: [durability] of the config, else 0
    #[arg(long, global = true)]
    replicas: Option<u32>,
    /// Longest time in seconds to wait for an answer, tries included
    #[arg(
        long,
        global = true,
        env = "FLASHSALE_TIMEOUT",
        value_name = "SECONDS",
        default_value_t = 10,
        value_parser = clap::value_parser!(u64).range(1..=3_600)
    )]
    timeout: u64,
}

/// What the options lead to.
pub struct Target {
    pub redis: RedisConfig,
    pub durability: DurabilityConfig,
    /// The whole config, where there is one.
    pub config: Option<Config>,
    timeout: Duration,
}

impl Connect {
    /// Reads the config, or what stands in its place.
    ///
    /// # Errors
    /// There is none, or it is wrong.
    pub fn target(&self) -> anyhow::Result<Target> {
        let config = match (&self.config, self.redis.is_empty()) {
            (_, false) => None,
            (Some(path), true) => Some(Config::load(path)?),
            (None, true) if Path::new(DEFAULT_CONFIG).exists() => Some(Config::load(Path::new(DEFAULT_CONFIG))?),
            (None, true) => bail!(
                "which servers? Name the config with --config edge.toml, or servers with --redis redis://host:6379"
            ),
        };
        let mut redis = match &config {
            Some(config) => config.redis.clone(),
            None => self.named().config()?,
        };
        let mut durability = config.as_ref().map(|config| config.durability.clone()).unwrap_or_default();
        redis.key_prefix = self.prefix.clone().unwrap_or(redis.key_prefix);
        durability.replicas = self.replicas.unwrap_or(durability.replicas);
        Ok(Target { redis, durability, config, timeout: Duration::from_secs(self.timeout) })
    }

    fn named(&self) -> Named<'_> {
        Named {
            option: "--redis",
            groups: &self.redis,
            user: &self.redis_user,
            password_file: &self.redis_password_file,
            password_env: &self.redis_password_env,
        }
    }
}

/// Servers that options name in place of a config.
pub struct Named<'a> {
    /// The option that names them.
    pub option: &'static str,
    /// Addresses with commas between; of each group of servers that know each other.
    pub groups: &'a [String],
    pub user: &'a str,
    pub password_file: &'a Option<PathBuf>,
    pub password_env: &'a Option<String>,
}

impl Named<'_> {
    /// What a config would say of them.
    ///
    /// # Errors
    /// An address is none, or there is no such file or variable.
    pub fn config(&self) -> anyhow::Result<RedisConfig> {
        let mut config = RedisConfig {
            username: self.user.to_owned(),
            password_file: self.password_file.clone(),
            password_env: self.password_env.clone(),
            ..RedisConfig::default()
        };
        let addresses = |group: &str| group.split(',').map(|url| url.trim().to_owned()).collect::<Vec<_>>();
        match self.groups {
            [all] => config.urls = addresses(all),
            groups => {
                let group = |group: &String| RedisGroup { urls: addresses(group), ..RedisGroup::default() };
                config.groups = groups.iter().map(group).collect();
            }
        }
        config.check().context(self.option)?;
        Ok(config)
    }
}

impl Target {
    /// Finds the servers.
    ///
    /// # Errors
    /// None answers.
    pub async fn open(&self) -> anyhow::Result<Deployment> {
        Deployment::open(&self.redis, self.patience()).await
    }

    pub fn patience(&self) -> Patience {
        // One answer may take most of the time: an audit looks at every hold. A WAIT must fit in too.
        let wait = Duration::from_millis(self.durability.timeout_ms);
        Patience { once: (self.timeout / 3).max(wait + Duration::from_millis(500)), in_all: self.timeout }
    }

    pub fn safety(&self) -> Safety {
        Safety::of(&self.durability)
    }

    pub fn prefix(&self) -> &str {
        &self.redis.key_prefix
    }
}

/// A runtime for a command that ends soon: one thread, so one connection to each server.
///
/// # Errors
/// The system has no more of what it takes.
pub fn runtime() -> anyhow::Result<Runtime> {
    Ok(Builder::new_current_thread().enable_all().build()?)
}
