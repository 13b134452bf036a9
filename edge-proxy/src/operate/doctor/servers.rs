//! Judges servers.

use super::probe::Probe;
use super::{Finding, Wishes};
use crate::store::nodes::Dialect;

/// Clocks may be apart by this much before anybody notices.
const SKEW_MS: u64 = 500;
/// So far apart, sales open and holds end at visibly wrong times.
const SKEW_WRONG_MS: u64 = 5_000;
/// A replica that was away for a moment catches up from this; a rush writes some 10 MB a second.
const BACKLOG_BYTES: u64 = 64 * 1024 * 1024;

/// Judges one server.
pub fn judge(probe: &Probe, wishes: &Wishes<'_>) -> Vec<Finding> {
    let mut findings = vec![version(probe, wishes), role(probe), flashsale(probe)];
    findings.extend(persistence(probe, wishes));
    findings.extend(memory(probe));
    findings.extend(replicas(probe, wishes));
    findings.extend(snapshots(probe));
    findings.extend(cluster(probe));
    findings.push(clock(probe));
    findings.push(latency(probe, wishes));
    if probe.settings.is_none() {
        findings.push(Finding::warn(
            "settings",
            &probe.address,
            "CONFIG GET is forbidden here: persistence and eviction could not be looked at",
            "look them up in the provider's console: appendonly yes, maxmemory-policy noeviction; or let this user \
             run CONFIG GET",
        ));
    }
    findings
}

/// Judges what servers have in common.
pub fn judge_together(probes: &[Probe]) -> Vec<Finding> {
    let Some(first) = probes.first() else { return Vec::new() };
    let mut findings = Vec::new();
    let kinds = |probe: &Probe| (probe.dialect, probe.module_version);
    if let Some(other) = probes.iter().find(|probe| kinds(probe) != kinds(first)) {
        findings.push(Finding::fail(
            "module",
            "all servers",
            format!("{} and {} do not have the same module", first.address, other.address),
            "load the same libflashsale.so everywhere: a replica or a moved slot needs it too",
        ));
    }
    let skews = probes.iter().map(|probe| probe.skew_ms);
    let apart = skews.clone().max().unwrap_or(0).abs_diff(skews.min().unwrap_or(0));
    if probes.len() > 1 && apart > SKEW_MS {
        findings.push(Finding::warn(
            "clocks",
            "all servers",
            format!("their clocks are {apart} ms apart: shards open and end holds at different times"),
            "run NTP (chrony) on every server",
        ));
    }
    findings
}

fn version(probe: &Probe, wishes: &Wishes<'_>) -> Finding {
    let (name, version) = probe.version();
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    let number = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let least = if name == "Valkey" { (7, 2) } else { (7, 0) };
    let found = format!("{name} {version}");
    if number < least {
        return Finding::fail(
            "version",
            &probe.address,
            found,
            format!("{name} {}.{} or later is needed", least.0, least.1),
        );
    }
    let wants_fsync = wishes.config.is_some_and(|config| config.relay.local_fsync);
    if wants_fsync && number < (7, 2) {
        return Finding::fail(
            "version",
            &probe.address,
            format!("{found} has no WAITAOF, which [relay] local_fsync needs"),
            "use Redis 7.2 or later, or set local_fsync = false",
        );
    }
    Finding::ok("version", &probe.address, found)
}

fn role(probe: &Probe) -> Finding {
    match probe.info.get("role").map(String::as_str) {
        Some("master") => Finding::ok("role", &probe.address, "takes writes"),
        _ => Finding::fail(
            "role",
            &probe.address,
            "is a replica and takes no writes",
            "name the primary, or use mode = \"sentinel\" or a cluster, which find it by themselves",
        ),
    }
}

fn flashsale(probe: &Probe) -> Finding {
    match (probe.dialect, probe.module_version) {
        (Some(Dialect::Module), Some(version)) => {
            Finding::ok("module", &probe.address, format!("the module, version {version}"))
        }
        (Some(Dialect::Module), None) => Finding::ok("module", &probe.address, "the module"),
        (Some(Dialect::Functions), _) => Finding::warn(
            "module",
            &probe.address,
            "the library of functions: several times slower than the module, without BLOCK and timers",
            "load libflashsale.so if this server may load modules (docs/managed-redis.md)",
        ),
        (None, _) => Finding::fail(
            "module",
            &probe.address,
            "neither the module nor the library",
            "loadmodule /path/libflashsale.so in redis.conf (docs/install.md)",
        ),
    }
}

fn persistence(probe: &Probe, wishes: &Wishes<'_>) -> Option<Finding> {
    let (check, about) = ("persistence", probe.address.as_str());
    let replicas = wishes.durability.replicas;
    Some(match (probe.setting("appendonly")?, probe.setting("appendfsync")?, probe.setting("save")?) {
        ("no", _, "") => Finding::fail(
            check,
            about,
            "nothing is written to disk: a restart loses every hold and order",
            "CONFIG SET appendonly yes, and in redis.conf too",
        ),
        ("no", _, save) => Finding::fail(
            check,
            about,
            format!("only snapshots (save {save}): a crash loses the orders of minutes"),
            "CONFIG SET appendonly yes, and in redis.conf too",
        ),
        (_, "always", _) => Finding::ok(check, about, "append-only file, fsync always: a crash loses nothing"),
        (_, fsync, _) if replicas > 0 => Finding::ok(
            check,
            about,
            format!("append-only file, fsync {fsync}; orders are promised when {replicas} replicas have them"),
        ),
        (_, fsync, _) => Finding::warn(
            check,
            about,
            format!("append-only file, fsync {fsync}: a crash loses the orders of the last second or more"),
            "CONFIG SET appendfsync always, or [durability] replicas = 1 with a replica on another machine",
        ),
    })
}

fn memory(probe: &Probe) -> Vec<Finding> {
    let mut findings = Vec::new();
    let most: u64 = probe.setting("maxmemory").and_then(|most| most.parse().ok()).unwrap_or(0);
    match probe.setting("maxmemory-policy") {
        Some("noeviction") | None => {}
        Some(policy) if policy.starts_with("allkeys") => findings.push(Finding::fail(
            "eviction",
            &probe.address,
            format!("maxmemory-policy {policy}: with full memory the server deletes a whole sale"),
            "CONFIG SET maxmemory-policy noeviction, and in redis.conf too",
        )),
        Some(policy) => findings.push(Finding::warn(
            "eviction",
            &probe.address,
            format!("maxmemory-policy {policy}: deletes rate limits, and sales if somebody gave them an expiry"),
            "CONFIG SET maxmemory-policy noeviction",
        )),
    }
    if findings.is_empty() && probe.settings.is_some() {
        findings.push(Finding::ok("eviction", &probe.address, "maxmemory-policy noeviction"));
    }
    let used = probe.count("used_memory").unwrap_or(0);
    if most > 0 && used > most / 5 * 4 {
        findings.push(Finding::warn(
            "memory",
            &probe.address,
            format!("{} of {} MB are used", used >> 20, most >> 20),
            "raise maxmemory: a full server refuses new holds (a million holds take about 100 MB)",
        ));
    }
    findings
}

fn replicas(probe: &Probe, wishes: &Wishes<'_>) -> Vec<Finding> {
    let (check, about) = ("replicas", probe.address.as_str());
    let (wanted, online) = (wishes.durability.replicas as usize, probe.online_replicas());
    let mut findings = Vec::new();
    findings.push(if online < wanted {
        Finding::fail(
            check,
            about,
            format!("{online} follow, [durability] asks for {wanted}: no order would ever be confirmed, only pending"),
            "start replicas, or lower [durability] replicas",
        )
    } else if wanted > 0 {
        Finding::ok(check, about, format!("{online} follow, {wanted} must have an order before it is promised"))
    } else if online > 0 {
        Finding::warn(
            check,
            about,
            format!("{online} follow, but orders are promised without them: a failover loses the latest"),
            "set [durability] replicas = 1",
        )
    } else {
        Finding::warn(check, about, "none: when this server goes, its sales stop", "give it a replica")
    });
    if online == wanted && wanted > 0 {
        findings.push(Finding::warn(
            check,
            about,
            "none to spare: when one goes, confirmations answer pending",
            format!("run {} replicas", wanted + 1),
        ));
    }
    let least: usize = probe.setting("min-replicas-to-write").and_then(|least| least.parse().ok()).unwrap_or(0);
    if wanted > 0 && probe.settings.is_some() && least == 0 {
        findings.push(Finding::warn(
            "min-replicas",
            about,
            "min-replicas-to-write 0: a primary that is cut off goes on handing out holds that will be lost",
            "CONFIG SET min-replicas-to-write 1",
        ));
    }
    let backlog: Option<u64> = probe.setting("repl-backlog-size").and_then(|size| size.parse().ok());
    if let Some(backlog) = backlog.filter(|&backlog| online > 0 && backlog < BACKLOG_BYTES) {
        findings.push(Finding::warn(
            check,
            about,
            format!("repl-backlog-size {} MB: a replica that is away for a moment must copy everything", backlog >> 20),
            "CONFIG SET repl-backlog-size 64mb",
        ));
    }
    findings
}

fn snapshots(probe: &Probe) -> Option<Finding> {
    let stops = probe.setting("stop-writes-on-bgsave-error")? == "yes" && !probe.setting("save")?.is_empty();
    let failed = probe.info.get("rdb_last_bgsave_status").is_some_and(|status| status != "ok");
    match (stops, failed) {
        (true, true) => Some(Finding::fail(
            "snapshots",
            &probe.address,
            "the last snapshot failed, and stop-writes-on-bgsave-error is on: nothing is sold",
            "free disk and memory, then BGSAVE; or CONFIG SET stop-writes-on-bgsave-error no",
        )),
        (true, false) => Some(Finding::warn(
            "snapshots",
            &probe.address,
            "stop-writes-on-bgsave-error is on: a full disk stops the sale",
            "CONFIG SET stop-writes-on-bgsave-error no, and watch rdb_last_bgsave_status",
        )),
        (false, true) => {
            Some(Finding::warn("snapshots", &probe.address, "the last snapshot failed", "look at the log"))
        }
        (false, false) => None,
    }
}

fn cluster(probe: &Probe) -> Vec<Finding> {
    let Some(about) = &probe.cluster else { return Vec::new() };
    let field = |name: &str| about.get(name).map(String::as_str).unwrap_or_default();
    let slots = field("cluster_slots_ok");
    let mut findings = Vec::new();
    findings.push(if field("cluster_state") == "ok" && slots == "16384" {
        let found = format!("state ok, all slots served by {} primaries", field("cluster_size"));
        Finding::ok("cluster", &probe.address, found)
    } else {
        Finding::fail(
            "cluster",
            &probe.address,
            format!("state {}, {slots} of 16384 slots are served", field("cluster_state")),
            "redis-cli --cluster check HOST:PORT shows what is missing",
        )
    });
    if probe.setting("cluster-require-full-coverage") == Some("yes") {
        findings.push(Finding::warn(
            "cluster",
            &probe.address,
            "cluster-require-full-coverage yes: when one primary and its replicas go, all shards stop selling",
            "CONFIG SET cluster-require-full-coverage no",
        ));
    }
    findings
}

fn clock(probe: &Probe) -> Finding {
    let skew = probe.skew_ms.unsigned_abs();
    let way = if probe.skew_ms < 0 { "behind" } else { "ahead of" };
    let found = format!("{skew} ms {way} this machine");
    let advice = "run NTP (chrony) on both";
    match skew {
        _ if skew > SKEW_WRONG_MS => Finding::fail("clocks", &probe.address, found, advice),
        _ if skew > SKEW_MS => Finding::warn("clocks", &probe.address, found, advice),
        _ => Finding::ok("clocks", &probe.address, found),
    }
}

fn latency(probe: &Probe, wishes: &Wishes<'_>) -> Finding {
    let ms = |at: usize| probe.pings.get(at).map_or(0.0, |ping| ping.as_secs_f64() * 1_000.0);
    let (median, longest) = (ms(probe.pings.len() / 2), ms(probe.pings.len().saturating_sub(1)));
    let found = format!("{median:.1} ms there and back (median of {}), {longest:.1} ms at most", probe.pings.len());
    let timeout = wishes.timeout_ms as f64;
    if longest > timeout {
        let advice = format!("requests time out after {timeout} ms: raise [redis] timeout_ms, or come nearer");
        return Finding::fail("latency", &probe.address, found, advice);
    }
    if median > 5.0 || longest > timeout / 2.0 {
        let advice = "put the proxies into the same data centre; look for slow commands with SLOWLOG GET";
        return Finding::warn("latency", &probe.address, found, advice);
    }
    Finding::ok("latency", &probe.address, found)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::config::DurabilityConfig;
    use crate::operate::doctor::Level;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    /// A server of which nothing is to be said.
    fn sound() -> Probe {
        Probe {
            address: "a:1".to_owned(),
            info: map(&[
                ("redis_version", "7.2.4"),
                ("role", "master"),
                ("slave0", "ip=b,port=2,state=online,offset=1,lag=0"),
                ("slave1", "ip=c,port=2,state=online,offset=1,lag=0"),
                ("slave_expires_tracked_keys", "0"),
                ("rdb_last_bgsave_status", "ok"),
            ]),
            settings: Some(map(&[
                ("appendonly", "yes"),
                ("appendfsync", "always"),
                ("save", ""),
                ("maxmemory", "0"),
                ("maxmemory-policy", "noeviction"),
                ("min-replicas-to-write", "1"),
                ("stop-writes-on-bgsave-error", "yes"),
                ("repl-backlog-size", "104857600"),
                ("cluster-require-full-coverage", "no"),
            ])),
            cluster: Some(map(&[("cluster_state", "ok"), ("cluster_slots_ok", "16384"), ("cluster_size", "3")])),
            dialect: Some(Dialect::Module),
            module_version: Some(100),
            skew_ms: 3,
            pings: vec![Duration::from_micros(300); 20],
        }
    }

    fn wishes(replicas: u32) -> Wishes<'static> {
        let durability = DurabilityConfig { replicas, ..DurabilityConfig::default() };
        Wishes { durability, config: None, timeout_ms: 500 }
    }

    /// The checks that are not ok.
    fn complaints(probe: &Probe, replicas: u32) -> Vec<(&'static str, Level)> {
        let findings = judge(probe, &wishes(replicas));
        for finding in &findings {
            assert_eq!(finding.level == Level::Ok, finding.advice.is_empty(), "{finding:?}");
        }
        findings.iter().filter(|found| found.level > Level::Ok).map(|found| (found.check, found.level)).collect()
    }

    #[test]
    fn a_sound_server_has_no_complaints() {
        assert_eq!(complaints(&sound(), 1), []);
    }

    #[test]
    fn each_ill_is_found() {
        let info = |name: &str, value: &str| {
            let mut probe = sound();
            probe.info.insert(name.to_owned(), value.to_owned());
            probe
        };
        let setting = |pairs: &[(&str, &str)]| {
            let mut probe = sound();
            probe.settings.as_mut().unwrap().extend(map(pairs));
            probe
        };
        let cases = [
            (info("redis_version", "6.2.1"), "version", Level::Fail),
            (info("valkey_version", "7.0.0"), "version", Level::Fail),
            (info("role", "slave"), "role", Level::Fail),
            (info("slave1", "ip=c,port=2,state=wait_bgsave"), "replicas", Level::Warn),
            (setting(&[("appendonly", "no")]), "persistence", Level::Fail),
            (
                setting(&[("appendonly", "no"), ("save", "3600 1"), ("stop-writes-on-bgsave-error", "no")]),
                "persistence",
                Level::Fail,
            ),
            (setting(&[("maxmemory-policy", "allkeys-lru")]), "eviction", Level::Fail),
            (setting(&[("maxmemory-policy", "volatile-ttl")]), "eviction", Level::Warn),
            (setting(&[("min-replicas-to-write", "0")]), "min-replicas", Level::Warn),
            (setting(&[("save", "3600 1")]), "snapshots", Level::Warn),
            (setting(&[("repl-backlog-size", "1048576")]), "replicas", Level::Warn),
            (setting(&[("cluster-require-full-coverage", "yes")]), "cluster", Level::Warn),
            (Probe { dialect: None, ..sound() }, "module", Level::Fail),
            (Probe { dialect: Some(Dialect::Functions), ..sound() }, "module", Level::Warn),
            (Probe { skew_ms: -700, ..sound() }, "clocks", Level::Warn),
            (Probe { skew_ms: 70_000, ..sound() }, "clocks", Level::Fail),
            (Probe { pings: vec![Duration::from_millis(20)], ..sound() }, "latency", Level::Warn),
            (Probe { pings: vec![Duration::from_millis(900)], ..sound() }, "latency", Level::Fail),
            (Probe { settings: None, ..sound() }, "settings", Level::Warn),
            (Probe { cluster: Some(map(&[("cluster_state", "fail")])), ..sound() }, "cluster", Level::Fail),
        ];
        for (probe, check, level) in cases {
            assert_eq!(complaints(&probe, 1), [(check, level)]);
        }
    }

    #[test]
    fn what_is_promised_must_be_kept() {
        assert_eq!(complaints(&sound(), 3), [("replicas", Level::Fail)]);
        assert_eq!(complaints(&sound(), 0), [("replicas", Level::Warn)]);
        let mut everysec = sound();
        everysec.settings.as_mut().unwrap().insert("appendfsync".to_owned(), "everysec".to_owned());
        assert_eq!(complaints(&everysec, 1), []);
        assert_eq!(complaints(&everysec, 0), [("persistence", Level::Warn), ("replicas", Level::Warn)]);
    }

    #[test]
    fn servers_must_be_alike() {
        assert_eq!(judge_together(&[sound(), sound()]), []);
        let other = Probe { module_version: Some(101), ..sound() };
        assert_eq!(judge_together(&[sound(), other])[0].check, "module");
        let late = Probe { skew_ms: -900, ..sound() };
        assert_eq!(judge_together(&[sound(), late])[0].check, "clocks");
    }
}
