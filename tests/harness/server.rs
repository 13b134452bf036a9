use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use crate::artifacts;

/// The server versions that the module must work on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    Redis70,
    Redis80,
    Valkey81,
}

impl Server {
    pub const ALL: [Server; 3] = [Server::Redis70, Server::Redis80, Server::Valkey81];

    /// Those that are on this machine; `scripts/other-servers.sh` brings the rest.
    pub fn all_available() -> Vec<Server> {
        let mut available = Server::ALL.to_vec();
        available.retain(|server| server.program().is_some());
        available
    }

    /// How people call it.
    pub fn name(self) -> &'static str {
        match self {
            Server::Redis70 => "redis-7.0",
            Server::Redis80 => "redis-8.0",
            Server::Valkey81 => "valkey-8.1",
        }
    }

    /// The program that starts it, if it is on this machine.
    pub fn program(self) -> Option<PathBuf> {
        let brought = artifacts::project().join(".tools/servers").join(self.name());
        if brought.exists() {
            Some(brought)
        } else if self == Server::Redis70 && machines_redis_is_7_0() {
            Some(PathBuf::from("redis-server"))
        } else {
            None
        }
    }

    /// The program that was built with its own jemalloc, as Debian's are not, if it is on this machine.
    pub fn program_with_jemalloc(self) -> Option<PathBuf> {
        let built = artifacts::project().join(".tools/servers/own-jemalloc").join(self.name());
        built.exists().then_some(built)
    }

    /// Runs a test on this server, or says clearly that it was skipped.
    ///
    /// # Panics
    /// If the server is not here although `FLASHSALE_ALL_SERVERS` demands it, as it does in CI.
    pub fn run_if_here(self, test: fn(Server)) {
        if is_here(self.program(), self.name(), "scripts/other-servers.sh") {
            test(self);
        }
    }

    /// Whether this server is here with its own jemalloc; if not, says clearly that a test is skipped.
    ///
    /// # Panics
    /// As [`Server::run_if_here`].
    pub fn is_here_with_jemalloc(self) -> bool {
        let what = format!("{} with its own jemalloc", self.name());
        is_here(self.program_with_jemalloc(), &what, "scripts/servers-with-jemalloc.sh")
    }
}

fn is_here(program: Option<PathBuf>, what: &str, script: &str) -> bool {
    if program.is_none() {
        let demanded = std::env::var_os("FLASHSALE_ALL_SERVERS").is_some();
        assert!(!demanded, "{what} is not on this machine");
        eprintln!("SKIPPED: {what} is not on this machine; {script} brings it");
    }
    program.is_some()
}

fn machines_redis_is_7_0() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        Command::new("redis-server")
            .arg("--version")
            .output()
            .is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("v=7.0."))
    })
}
