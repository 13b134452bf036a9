//! What a reload may change, and what needs a new process.

use toml::{Table, Value};

/// Keys, or beginnings of keys, that a running process takes over. All else waits for the next start.
const LIVE: &[&str] = &[
    "access_log.",
    "admission.",
    "balancer.",
    "cache.",
    "challenges",
    "durability.",
    "known.",
    "lanes.",
    "levels.",
    "listen.body_bytes_max",
    "listen.body_rate_min",
    "listen.body_timeout_ms",
    "listen.connections_max",
    "listen.connections_per_address",
    "listen.header_bytes_max",
    "listen.header_timeout_ms",
    "listen.headers_max",
    "listen.keepalive_s",
    "listen.proxy_protocol",
    "listen.read_timeout_ms",
    "listen.tls.certificate_file",
    "listen.tls.key_file",
    "listen.trusted_proxies",
    "listen.write_timeout_ms",
    "lists.",
    "rates.",
    "redis.",
    "relay.",
    "sale.",
    "sales",
    "shared_rates.",
    "shop.",
    "tickets.",
    "tokens.",
    "tracing.",
];

/// Of those, keys that are read once.
const FIXED: &[&str] =
    &["known.sales_max", "redis.key_prefix", "redis.sweep_ms", "shop.ca_file", "shop.idle_max", "shop.tries"];

/// Whether a reload takes over a new value of `key`, such as `rates.mode`.
pub fn is_live(key: &str) -> bool {
    let in_list = LIVE.iter().any(|live| if live.ends_with('.') { key.starts_with(live) } else { key == *live });
    in_list && !FIXED.contains(&key)
}

/// The keys in which two configs differ, in order. A list is one value.
pub fn changed_keys(old: &Table, new: &Table) -> Vec<String> {
    let mut keys = Vec::new();
    collect("", old, new, &mut keys);
    keys
}

fn collect(prefix: &str, old: &Table, new: &Table, keys: &mut Vec<String>) {
    let empty = Table::new();
    let names: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    for name in names {
        let key = format!("{prefix}{name}");
        match (old.get(name), new.get(name)) {
            (Some(Value::Table(old)), Some(Value::Table(new))) => collect(&format!("{key}."), old, new, keys),
            (Some(Value::Table(old)), None) => collect(&format!("{key}."), old, &empty, keys),
            (None, Some(Value::Table(new))) => collect(&format!("{key}."), &empty, new, keys),
            (old, new) if old != new => keys.push(key),
            _ => {}
        }
    }
}

/// `new` with the value that `old` has for each of `keys`.
pub fn keep(old: &Table, mut new: Table, keys: &[String]) -> Table {
    for key in keys {
        let path: Vec<&str> = key.split('.').collect();
        set(&mut new, &path, find(old, &path));
    }
    new
}

fn find(table: &Table, path: &[&str]) -> Option<Value> {
    let (first, rest) = path.split_first()?;
    match (table.get(*first)?, rest) {
        (value, []) => Some(value.clone()),
        (Value::Table(inner), rest) => find(inner, rest),
        _ => None,
    }
}

fn set(table: &mut Table, path: &[&str], value: Option<Value>) {
    match path {
        [] => {}
        [name] => {
            match value {
                Some(value) => table.insert((*name).to_owned(), value),
                None => table.remove(*name),
            };
        }
        [first, rest @ ..] => {
            let inner = table.entry((*first).to_owned()).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(inner) = inner {
                set(inner, rest, value);
                if inner.is_empty() {
                    table.remove(*first);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> Table {
        text.parse().unwrap()
    }

    #[test]
    fn differences_are_found_key_by_key() {
        let old = table("rates.mode = \"off\"\nredis.url = \"a\"\nlisten.trusted_proxies = [\"a\"]\nsale.few_at = 1");
        let new = table(
            "rates.mode = \"shadow\"\nredis.url = \"b\"\nlisten.trusted_proxies = [\"b\"]\n[sale]\nfew_at = 1\n[listen.tls]\nkey_file = \"x\"",
        );
        assert_eq!(
            changed_keys(&old, &new),
            ["listen.tls.key_file", "listen.trusted_proxies", "rates.mode", "redis.url"]
        );
        assert!(changed_keys(&old, &old).is_empty());
    }

    #[test]
    fn what_cannot_change_stays_as_it_was() {
        let old = table("redis.key_prefix = \"a\"\nrates.mode = \"off\"");
        let new = table(
            "rates.mode = \"shadow\"\n[redis]\nurl = \"b\"\nkey_prefix = \"b\"\n[listen]\npublic = \"c\"\n[shop]\ntries = 1",
        );
        let kept: Vec<String> = changed_keys(&old, &new).into_iter().filter(|key| !is_live(key)).collect();
        assert_eq!(kept, ["listen.public", "redis.key_prefix", "shop.tries"]);
        let merged = table("redis.url = \"b\"\nredis.key_prefix = \"a\"\nrates.mode = \"shadow\"");
        assert_eq!(keep(&old, new, &kept), merged);
    }

    #[test]
    fn the_lists_name_keys_that_exist() {
        for key in LIVE.iter().chain(FIXED) {
            let Some((section, name)) = key.split_once('.') else {
                assert!(super::super::DEFAULT.contains(&format!("[[{key}]]")), "{key}");
                continue;
            };
            assert!(super::super::DEFAULT.contains(&format!("[{section}]")), "{key}");
            let name = name.rsplit('.').next().unwrap();
            assert!(name.is_empty() || super::super::DEFAULT.contains(&format!("{name} = ")), "{key}");
        }
    }
}
