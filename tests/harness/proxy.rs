use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::artifacts;
use crate::http::Http;
use crate::ports::free_port;
use crate::process::Process;

const PATIENCE: Duration = Duration::from_secs(30);

/// Where a proxy listens, and its folder; handed to whoever writes its config file.
#[derive(Debug, Clone)]
pub struct Addresses {
    /// `127.0.0.1:PORT` of the public listener.
    pub public: String,
    /// `127.0.0.1:PORT` of the admin listener.
    pub admin: String,
    /// A folder that lives as long as the proxy: for key files and the like.
    pub dir: PathBuf,
}

/// A running `flashsale serve` with a config file of its own.
#[derive(Debug)]
pub struct Proxy {
    process: Process,
    addresses: Addresses,
    _dir: TempDir,
}

impl Proxy {
    /// Writes the config that `config` makes for free ports, starts `flashsale serve` with it, and waits
    /// until `/healthz` answers 200.
    ///
    /// # Panics
    /// If it does not come up; its log is in the message.
    #[track_caller]
    pub fn start(config: impl Fn(&Addresses) -> String) -> Proxy {
        let dir = tempfile::Builder::new()
            .prefix("flashsale-edge-")
            .tempdir()
            .expect("a temporary folder");
        // Another process may take a port between our look and the proxy's bind.
        for _ in 0..5 {
            let addresses = Addresses {
                public: format!("127.0.0.1:{}", free_port()),
                admin: format!("127.0.0.1:{}", free_port()),
                dir: dir.path().to_owned(),
            };
            let mut process = spawn(&addresses, &config(&addresses));
            if becomes_healthy(&mut process, &addresses) {
                return Proxy {
                    process,
                    addresses,
                    _dir: dir,
                };
            }
            assert!(
                process.output().contains("Address already in use"),
                "flashsale serve did not start:\n{}",
                process.output()
            );
        }
        panic!("five pairs of ports in turn were taken by others");
    }

    /// `http://127.0.0.1:PORT/path` on the public listener; `path` begins with a slash.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addresses.public)
    }

    /// The same on the admin listener.
    pub fn admin_url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addresses.admin)
    }

    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// All it has logged.
    pub fn log(&self) -> String {
        self.process.output()
    }

    pub fn is_alive(&mut self) -> bool {
        self.process.exited().is_none()
    }

    pub fn kill_9(&mut self) {
        self.process.kill_9();
    }

    /// Asks it to end, as an operator would.
    pub fn stop(&mut self) {
        self.process.stop(PATIENCE);
    }

    /// Sends a signal: `SIGHUP` reloads, `SIGSTOP` hangs it.
    pub fn signal(&mut self, signal: i32) {
        self.process.signal(signal);
    }
}

fn spawn(addresses: &Addresses, config: &str) -> Process {
    let file = addresses.dir.join("edge.toml");
    std::fs::write(&file, config).expect("the temporary folder can be written");
    let mut command = Command::new(artifacts::flashsale());
    command
        .current_dir(&addresses.dir)
        .arg("serve")
        .arg("--config")
        .arg(file);
    Process::start("flashsale serve", command, &addresses.dir.join("edge.log"))
        .unwrap_or_else(|error| panic!("flashsale serve can't be run: {error}"))
}

/// Whether `/healthz` answers 200 before the proxy exits.
fn becomes_healthy(process: &mut Process, addresses: &Addresses) -> bool {
    let http = Http::new();
    let url = format!("http://{}/healthz", addresses.admin);
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        if process.exited().is_some() {
            return false;
        }
        if http
            .try_request("GET", &url, &[], b"")
            .is_ok_and(|answer| answer.status == 200)
        {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}
