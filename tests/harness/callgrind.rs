//! Counting instructions of a whole server with callgrind: the same on every machine and every day.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::process::Process;
use crate::{Client, Clock, Server, artifacts, free_port};

/// A Redis 7.0 with the module under callgrind.
pub struct CountedServer {
    valgrind: Process,
    port: u16,
    dir: TempDir,
}

impl CountedServer {
    /// Starts it, with more settings as redis-server takes them on its command line, and with the test's clock if
    /// there is one.
    ///
    /// # Panics
    /// If valgrind or Redis 7.0 are not here, or the server does not come up.
    #[track_caller]
    pub fn start(settings: &[&str], clock: Option<&Clock>) -> CountedServer {
        let dir = tempfile::tempdir().expect("a temporary folder");
        for _ in 0..5 {
            let port = free_port();
            let mut valgrind = spawn(dir.path(), port, settings, clock);
            for _ in 0..600 {
                if Client::connect(port).is_ok_and(|mut client| client.try_call(&["PING"]).is_ok()) {
                    return CountedServer { valgrind, port, dir };
                }
                if valgrind.exited().is_some() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        panic!("redis-server did not start under valgrind");
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// A new connection.
    #[track_caller]
    pub fn client(&self) -> Client {
        Client::connect(self.port).expect("the server listens")
    }

    /// Forgets what was counted.
    pub fn zero(&self) {
        control(&self.valgrind, "--zero");
    }

    /// Instructions since [`CountedServer::zero`]. The server is gone then.
    pub fn instructions(mut self) -> u64 {
        control(&self.valgrind, "--dump");
        let pid = self.valgrind.pid();
        self.valgrind.kill_9();
        let dump = self.dir.path().join(format!("callgrind.out.{pid}.1"));
        let dump = std::fs::read_to_string(dump).expect("callgrind's dump");
        let total = dump.lines().find_map(|line| line.strip_prefix("totals: ").or(line.strip_prefix("summary: ")));
        total.expect("a dump has a total").trim().parse().expect("a number")
    }
}

fn spawn(dir: &Path, port: u16, settings: &[&str], clock: Option<&Clock>) -> Process {
    let server = Server::Redis70.program().expect("Redis 7.0 is here");
    let mut command = Command::new("valgrind");
    command
        .current_dir(dir)
        .args(["--tool=callgrind", "--callgrind-out-file=callgrind.out.%p"])
        .arg(&server)
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
        // As little as can be happens beside the commands.
        .args(["--hz", "1", "--dynamic-hz", "no", "--repl-diskless-sync-delay", "0"])
        // Its memory's own thread spins where a clock stands behind the real one.
        .args(["--jemalloc-bg-thread", "no"])
        .args(settings)
        .arg("--loadmodule")
        .arg(artifacts::module());
    if let Some(clock) = clock {
        command.envs(clock.environment());
    }
    Process::start("valgrind", command, &dir.join("log")).expect("valgrind runs")
}

fn control(valgrind: &Process, what: &str) {
    let status = Command::new("callgrind_control")
        .arg(what)
        .arg(valgrind.pid().to_string())
        .output()
        .expect("callgrind_control comes with valgrind");
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
}
