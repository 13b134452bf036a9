//! `[[redis.groups]]`: a deployment that is more than one cluster, group of Sentinels or server.

use std::path::PathBuf;

use anyhow::{Context, bail, ensure};
use serde::Deserialize;

use super::redis::{RedisConfig, RedisMode};

/// Servers that belong together: one Redis Cluster, what one group of Sentinels watches, or one server. Shard i of a
/// sale lives in group i modulo their number. What is left out is as in `[redis]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RedisGroup {
    pub mode: Option<RedisMode>,
    pub url: Option<String>,
    /// Several addresses, in place of `url`: Sentinels, or nodes of a cluster.
    pub urls: Vec<String>,
    pub username: Option<String>,
    pub password_file: Option<PathBuf>,
    pub password_env: Option<String>,
    pub sentinel_master: Option<String>,
}

impl RedisConfig {
    /// The config of each group by itself, in their order; without groups the one that this is.
    pub fn by_group(&self) -> Vec<RedisConfig> {
        if self.groups.is_empty() {
            return vec![self.clone()];
        }
        self.groups.iter().map(|group| group.within(self)).collect()
    }

    /// What makes no sense about the groups.
    pub(super) fn validate_groups(&self) -> anyhow::Result<()> {
        if self.groups.is_empty() {
            return Ok(());
        }
        if !self.urls.is_empty() || self.url != Self::default().url {
            bail!(
                "[redis] url or urls, and groups are both set: with [[redis.groups]] every address stands in a group"
            );
        }
        let groups = self.by_group();
        for (number, (group, config)) in (1..).zip(self.groups.iter().zip(&groups)) {
            group.validate(config).with_context(|| format!("[[redis.groups]], number {number}"))?;
        }
        for (number, group) in (1..).zip(&groups) {
            for (other_number, other) in (1..number).zip(&groups) {
                // The same Sentinels may watch several primaries.
                let are_watched = group.sentinel_master != other.sentinel_master;
                let shared = group.addresses().iter().find(|address| other.addresses().contains(address));
                if let Some(address) = shared.filter(|_| !are_watched) {
                    bail!(
                        "[[redis.groups]]: {address} stands in groups {other_number} and {number}: each group is a \
                         cluster, a group of Sentinels or a server of its own"
                    );
                }
            }
        }
        Ok(())
    }
}

impl RedisGroup {
    fn within(&self, all: &RedisConfig) -> RedisConfig {
        let mut config = RedisConfig { groups: Vec::new(), urls: self.urls.clone(), ..all.clone() };
        config.mode = self.mode.unwrap_or(all.mode);
        if let Some(url) = &self.url {
            config.url.clone_from(url);
        }
        if let Some(username) = &self.username {
            config.username.clone_from(username);
        }
        if self.password_file.is_some() || self.password_env.is_some() {
            (config.password_file, config.password_env) = (self.password_file.clone(), self.password_env.clone());
        }
        if let Some(master) = &self.sentinel_master {
            config.sentinel_master.clone_from(master);
        }
        config
    }

    fn validate(&self, config: &RedisConfig) -> anyhow::Result<()> {
        match (&self.url, self.urls.len()) {
            (None, 0) => bail!("it has neither url nor urls"),
            (Some(_), 1..) => bail!("url and urls are both set: leave one out"),
            _ => {}
        }
        ensure!(
            config.mode != RedisMode::Standalone || config.addresses().len() == 1,
            "mode is standalone, and there are {} addresses: give each server a group of its own",
            config.addresses().len()
        );
        config.check()
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, RedisMode};

    fn error_of(text: &str) -> String {
        format!("{:#}", Config::parse(text).expect_err(text))
    }

    #[test]
    fn a_group_has_what_is_its_own_and_the_rest_of_all() {
        let config = Config::parse(
            "[redis]\ntimeout_ms = 70\nusername = 'edge'\nmode = 'cluster'\n\
             [[redis.groups]]\nurls = ['redis://a:1', 'redis://a:2']\n\
             [[redis.groups]]\nmode = 'standalone'\nurl = 'redis://b:1'\nusername = 'other'",
        )
        .unwrap();
        let groups = config.redis.by_group();
        let of = |index: usize| {
            let group = &groups[index];
            (group.mode, group.addresses().join(" "), group.username.as_str(), group.timeout_ms)
        };
        assert_eq!(of(0), (RedisMode::Cluster, "redis://a:1 redis://a:2".to_owned(), "edge", 70));
        assert_eq!(of(1), (RedisMode::Standalone, "redis://b:1".to_owned(), "other", 70));
        assert_eq!(Config::default().redis.by_group().len(), 1);
    }

    #[test]
    fn groups_that_contradict_are_refused_with_what_to_do() {
        for (text, word) in [
            ("[redis]\nurl = 'redis://a:1'\n[[redis.groups]]\nurl = 'redis://b:1'", "every address stands in a group"),
            ("[redis]\nurls = ['redis://a:1']\n[[redis.groups]]\nurl = 'redis://b:1'", "stands in a group"),
            ("[[redis.groups]]\nmode = 'cluster'", "number 1: it has neither url nor urls"),
            ("[[redis.groups]]\nurl = 'redis://a:1'\nurls = ['redis://b:1']", "leave one out"),
            ("[[redis.groups]]\nurl = 'redis://a:1'\n[[redis.groups]]\nurl = 'redis://a:1'", "in groups 1 and 2"),
            (
                "[[redis.groups]]\nurl = 'redis://c:1'\n[[redis.groups]]\nmode = 'standalone'\n\
                 urls = ['redis://a:1', 'redis://b:1']",
                "number 2: mode is standalone, and there are 2 addresses",
            ),
            ("[[redis.groups]]\nurl = 'nonsense'", "number 1: [redis] url: `nonsense`"),
            ("[[redis.groups]]\nurls_ = ['redis://a:1']", "unknown field `urls_`"),
        ] {
            let error = error_of(text);
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn sentinels_may_watch_several_groups() {
        let two = |second: &str| {
            format!(
                "[redis]\nmode = 'sentinel'\n[[redis.groups]]\nurls = ['redis://s:1']\n\
                 [[redis.groups]]\nurls = ['redis://s:1']\nsentinel_master = '{second}'"
            )
        };
        Config::parse(&two("other")).unwrap();
        assert!(error_of(&two("mymaster")).contains("in groups 1 and 2"));
    }
}
