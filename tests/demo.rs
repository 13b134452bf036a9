//! `flashsale demo` proves its point, and leaves nothing behind however it ends.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use flashsale_tests::process::Process;
use flashsale_tests::{artifacts, wait_until};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);

/// A demo whose temporary files go to a folder of the test's.
struct Demo {
    process: Process,
    temporary: TempDir,
    _log: TempDir,
}

impl Demo {
    fn start(arguments: &[&str]) -> Demo {
        let (temporary, log) = (folder(), folder());
        let mut command = Command::new(artifacts::flashsale());
        command.arg("demo").arg("--module").arg(artifacts::module()).args(arguments);
        command.env("TMPDIR", temporary.path());
        let process = Process::start("flashsale demo", command, &log.path().join("demo.log"));
        Demo { process: process.expect("flashsale demo runs"), temporary, _log: log }
    }

    /// Waits for the end; gives back whether it was a good one.
    #[track_caller]
    fn ends_well(&mut self) -> bool {
        let mut status = None;
        wait_until("the demo ends", PATIENCE, || {
            status = self.process.exited();
            status.is_some()
        });
        status.is_some_and(|status| status.success())
    }

    /// The number in the row of the table that begins so.
    #[track_caller]
    fn row(&self, name: &str) -> u64 {
        let output = self.process.output();
        let row = output.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        row.unwrap_or_else(|| panic!("no row `{name}` in:\n{output}"))
    }

    #[track_caller]
    fn nothing_is_left(&self, servers: &[u32]) {
        wait_until("every server has ended", PATIENCE, || !servers.iter().any(|server| runs(*server)));
        wait_until("the temporary folder is empty", PATIENCE, || {
            std::fs::read_dir(self.temporary.path()).is_ok_and(|mut entries| entries.next().is_none())
        });
    }

    /// The servers that it has started: redis-server, the shop, the proxy.
    #[track_caller]
    fn servers(&self) -> Vec<u32> {
        let mut servers = Vec::new();
        wait_until("the buyers come", PATIENCE, || self.process.output().contains("buyers come"));
        for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
            let process = entry.file_name().to_string_lossy().parse();
            if let Ok(process) = process
                && parent(process) == Some(self.process.pid())
            {
                servers.push(process);
            }
        }
        assert!(servers.len() >= 3, "{servers:?}");
        servers
    }
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// Whether the process is there and no zombie.
fn runs(process: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{process}/stat"));
    status.is_ok_and(|status| !status.contains(") Z "))
}

fn parent(process: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name before it may hold blanks; it ends with the last bracket.
    status.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

#[test]
fn ends_with_a_proof_though_the_shop_stumbles() {
    let arguments = ["--buyers", "1500", "--units", "40", "--fail-share", "0.2", "--forget-share", "0.2"];
    let mut demo = Demo::start(&arguments);
    let well = demo.ends_well();
    assert!(well, "{}", demo.process.output());
    assert_eq!(demo.row("buyers"), 1_500);
    assert_eq!(demo.row("oversold"), 0);
    let orders = demo.row("orders");
    assert!(orders > 0 && orders + demo.row("units left") == 40, "{}", demo.process.output());
    assert_eq!(demo.row("orders the shop received"), orders);
    assert!(demo.row("holds") >= orders);
    assert!(!demo.process.output().contains("FAIL"), "{}", demo.process.output());
    demo.nothing_is_left(&[]);
}

#[test]
fn an_interrupted_demo_leaves_nothing() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let mut demo = Demo::start(&["--buyers", "50000"]);
        let servers = demo.servers();
        demo.process.signal(signal);
        assert!(!demo.ends_well());
        demo.nothing_is_left(&servers);
    }
}

#[test]
fn a_killed_demo_leaves_nothing() {
    let mut demo = Demo::start(&["--buyers", "50000"]);
    let servers = demo.servers();
    demo.process.kill_9();
    demo.nothing_is_left(&servers);
}

#[test]
fn keeps_running_when_asked_and_says_what_to_try() {
    let mut demo = Demo::start(&["--buyers", "100", "--units", "5", "--keep"]);
    let servers = demo.servers();
    wait_until("it says what to try", PATIENCE, || demo.process.output().contains("until Ctrl-C"));
    assert!(servers.iter().all(|server| runs(*server)));
    demo.process.signal(libc::SIGINT);
    assert!(demo.ends_well(), "{}", demo.process.output());
    demo.nothing_is_left(&servers);
}

#[test]
fn says_what_is_missing() {
    let run = |arguments: &[&str]| {
        let output = Command::new(artifacts::flashsale()).arg("demo").args(arguments).output();
        let output = output.expect("flashsale runs");
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let no_module = run(&["--module", "/no/such/module.so"]);
    assert!(no_module.contains("/no/such/module.so"), "{no_module}");
    let module = artifacts::module();
    let module = Path::new(&module).to_str().expect("a path in UTF-8");
    let no_server = run(&["--module", module, "--redis-server", "/no/such/redis-server"]);
    assert!(no_server.contains("/no/such/redis-server") && no_server.contains("installed"), "{no_server}");
    let no_buyers = run(&["--buyers", "0"]);
    assert!(no_buyers.contains("buyers"), "{no_buyers}");
}
