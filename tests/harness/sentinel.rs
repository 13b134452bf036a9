use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::process::Process;
use crate::{Client, RedisServer, free_port, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

/// One Sentinel that is sure of itself: it needs no other to fail its primary over.
pub struct Sentinel {
    port: u16,
    _process: Process,
    _dir: TempDir,
}

impl Sentinel {
    /// Watches a primary with a replica, and calls it `name`.
    #[track_caller]
    pub fn watch(primary: &RedisServer, name: &str) -> Sentinel {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let port = free_port();
        let config = format!(
            "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor {name} 127.0.0.1 {} 1\n\
             sentinel down-after-milliseconds {name} 500\nsentinel failover-timeout {name} 4000\n",
            dir.path().display(),
            primary.port()
        );
        let file = dir.path().join("sentinel.conf");
        std::fs::write(&file, config).expect("the folder can be written");
        let mut command = Command::new("redis-server");
        command.arg(&file).arg("--sentinel");
        let process = Process::start("a Sentinel", command, &dir.path().join("log")).expect("redis-server");
        let sentinel = Sentinel { port, _process: process, _dir: dir };
        wait_until("the Sentinel knows the replica", PATIENCE, || {
            let client = Client::connect(port);
            client.is_ok_and(|mut client| client.call(&["SENTINEL", "REPLICAS", name]).to_string().contains("slave"))
        });
        sentinel
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}
