use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::ports::free_ports;
use crate::process::Process;
use crate::{Client, Clock, Reply, Server, artifacts, wait_until};

/// How long a server may take to start, load its data, or follow its primary.
const PATIENCE: Duration = Duration::from_secs(30);

/// When the append-only file reaches the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppendFsync {
    Always,
    EverySecond,
    No,
}

/// What a server is started with. Made by [`RedisServer::builder`].
#[derive(Debug, Clone)]
pub struct RedisServerBuilder {
    server: Server,
    jemalloc: bool,
    module: Option<Vec<String>>,
    functions: bool,
    append_only: Option<AppendFsync>,
    cluster: bool,
    replica_of: Option<u16>,
    clock: Option<(PathBuf, PathBuf)>,
    arguments: Vec<String>,
}

impl RedisServerBuilder {
    /// Loads the module that was built with this test.
    pub fn module(self) -> Self {
        self.module_with(&[])
    }

    /// Loads the module with arguments.
    pub fn module_with(mut self, arguments: &[&str]) -> Self {
        self.module = Some(arguments.iter().map(|&word| word.to_owned()).collect());
        self
    }

    /// Loads the library of functions in place of the module; clients of this server then call it.
    pub fn functions(mut self) -> Self {
        self.functions = true;
        self
    }

    /// Starts the program with its own jemalloc.
    pub fn jemalloc(mut self) -> Self {
        self.jemalloc = true;
        self
    }

    /// Keeps an append-only file.
    pub fn append_only(mut self, fsync: AppendFsync) -> Self {
        self.append_only = Some(fsync);
        self
    }

    /// Starts as a node of a cluster; [`crate::Cluster`] makes whole ones.
    pub fn cluster(mut self) -> Self {
        self.cluster = true;
        self
    }

    /// Starts as a replica.
    pub fn replica_of(mut self, primary: &RedisServer) -> Self {
        self.replica_of = Some(primary.port());
        self
    }

    /// Takes the time of day from a clock that the test moves, and that must live as long as the server.
    pub fn clock(mut self, clock: &Clock) -> Self {
        self.clock = Some(clock.files());
        self
    }

    /// Any other setting: `.set("maxmemory", "10mb")`.
    pub fn set(mut self, setting: &str, value: &str) -> Self {
        self.arguments.push(format!("--{setting}"));
        self.arguments.extend(value.split(' ').map(str::to_owned));
        self
    }

    /// Starts it and waits until it serves, a replica until it has caught up.
    ///
    /// # Panics
    /// If the server is not on this machine or does not come up.
    #[track_caller]
    pub fn start(self) -> RedisServer {
        let dir = tempfile::Builder::new().prefix("flashsale-redis-").tempdir().expect("a temporary folder");
        // Another process may take the port between our look and the server's bind.
        for _ in 0..5 {
            let [port, bus_port] = free_ports();
            let mut process = self.spawn(dir.path(), port, bus_port);
            if wait_until_it_listens(&mut process, port) {
                let server = RedisServer { dir, port, bus_port, process, builder: self };
                server.wait_until_ready();
                if server.builder.functions && server.builder.replica_of.is_none() {
                    server.client().ok(&[b"FUNCTION".as_slice(), b"LOAD", &artifacts::library()]);
                }
                return server;
            }
            assert!(
                process.output().contains("Address already in use"),
                "{} did not start:\n{}",
                self.server.name(),
                process.output()
            );
        }
        panic!("five ports in turn were taken by others");
    }

    fn spawn(&self, dir: &Path, port: u16, bus_port: u16) -> Process {
        let program = if self.jemalloc { self.server.program_with_jemalloc() } else { self.server.program() };
        let program = program.unwrap_or_else(|| panic!("{} is not on this machine", self.server.name()));
        let mut command = Command::new(program);
        command
            .current_dir(dir)
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
            .args(["--daemonize", "no", "--save", ""])
            .args(["--enable-debug-command", "yes", "--enable-module-command", "yes"])
            // Replicas come and go in tests: no waiting for more of them, no long pauses.
            .args(["--repl-diskless-sync-delay", "0"]);
        if let Some(fsync) = self.append_only {
            let fsync = match fsync {
                AppendFsync::Always => "always",
                AppendFsync::EverySecond => "everysec",
                AppendFsync::No => "no",
            };
            command.args(["--appendonly", "yes", "--appendfsync", fsync]);
        }
        if self.cluster {
            command
                .args(["--cluster-enabled", "yes", "--cluster-node-timeout", "2000"])
                .args(["--cluster-port", &bus_port.to_string()]);
        }
        if let Some(primary) = self.replica_of {
            command.args(["--replicaof", "127.0.0.1", &primary.to_string()]);
        }
        if let Some((library, file)) = &self.clock {
            command.env("LD_PRELOAD", library).env("FLASHSALE_TEST_CLOCK", file);
        }
        command.args(&self.arguments);
        if let Some(arguments) = &self.module {
            command.arg("--loadmodule").arg(artifacts::module()).args(arguments);
        }
        let name = format!("{} on port {port}", self.server.name());
        Process::start(&name, command, &dir.join("server.log"))
            .unwrap_or_else(|error| panic!("{name} can't be run: {error}"))
    }
}

/// A running server in a folder of its own; both are gone when this is dropped.
#[derive(Debug)]
pub struct RedisServer {
    process: Process,
    builder: RedisServerBuilder,
    port: u16,
    bus_port: u16,
    dir: TempDir,
}

impl RedisServer {
    /// Redis 7.0 with the module, and the sale that a `FLASH.CREATE` of words without spaces makes.
    #[track_caller]
    pub fn with_sale(create: &str) -> RedisServer {
        let redis = RedisServer::builder(Server::Redis70).module().start();
        redis.client().ok(&create.split(' ').collect::<Vec<_>>());
        redis
    }

    /// A server with no module, no persistence, `DEBUG` and `MODULE` allowed, to be added to.
    pub fn builder(server: Server) -> RedisServerBuilder {
        RedisServerBuilder {
            server,
            jemalloc: false,
            module: None,
            functions: false,
            append_only: None,
            cluster: false,
            replica_of: None,
            clock: None,
            arguments: Vec::new(),
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The port of the cluster bus.
    pub fn bus_port(&self) -> u16 {
        self.bus_port
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// `redis://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The server's working folder, with its RDB and AOF.
    pub fn dir(&self) -> PathBuf {
        self.dir.path().to_owned()
    }

    /// All it has logged.
    pub fn log(&self) -> String {
        self.process.output()
    }

    /// A new connection.
    #[track_caller]
    pub fn client(&self) -> Client {
        match Client::connect(self.port) {
            Ok(client) if self.builder.functions => client.to_functions(),
            Ok(client) => client,
            Err(error) => panic!("{} on port {}: {error}", self.builder.server.name(), self.port),
        }
    }

    /// Whether it is still running; a module that crashes takes the server along.
    pub fn is_alive(&mut self) -> bool {
        self.process.exited().is_none()
    }

    /// Kills it as a power cut would kill it.
    pub fn kill_9(&mut self) {
        self.process.kill_9();
    }

    /// Asks it to end, as an operator would; it saves what it is set to save.
    pub fn stop(&mut self) {
        self.process.stop(PATIENCE);
    }

    /// Sends a signal: `SIGSTOP` and `SIGCONT` make it hang and go on.
    pub fn signal(&mut self, signal: i32) {
        self.process.signal(signal);
    }

    /// Starts it again on the same port and data, after [`RedisServer::kill_9`] or [`RedisServer::stop`].
    ///
    /// # Panics
    /// If it does not come up, for example because it refuses its own data.
    #[track_caller]
    pub fn restart(&mut self) {
        self.process = self.builder.spawn(self.dir.path(), self.port, self.bus_port);
        assert!(
            wait_until_it_listens(&mut self.process, self.port),
            "{} did not start again:\n{}",
            self.builder.server.name(),
            self.log()
        );
        self.wait_until_ready();
    }

    /// One field of `INFO`, if the server has it.
    #[track_caller]
    pub fn info(&self, field: &str) -> Option<String> {
        let info = self.client().ok(&["INFO", "everything"]).text();
        info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).map(|value| value.trim().to_owned())
    }

    /// `DEBUG DIGEST`: equal for servers that hold equal data.
    #[track_caller]
    pub fn digest(&self) -> String {
        self.client().ok(&["DEBUG", "DIGEST"]).text()
    }

    /// Waits until this replica holds all that its primary has written so far.
    #[track_caller]
    pub fn wait_for_primary(&self, primary: &RedisServer) {
        let offset = |server: &RedisServer, field: &str| -> Option<u64> {
            server.info(field).and_then(|offset| offset.parse().ok())
        };
        let written = offset(primary, "master_repl_offset").expect("a primary has an offset");
        wait_until("the replica has what its primary wrote", PATIENCE, || {
            self.info("master_link_status").as_deref() == Some("up")
                && offset(self, "slave_repl_offset").is_some_and(|read| read >= written)
        });
    }

    #[track_caller]
    fn wait_until_ready(&self) {
        let mut client = self.client();
        wait_until("the server has loaded its data", PATIENCE, || {
            client.call(&["PING"]) == Reply::Status("PONG".into())
        });
        if self.builder.replica_of.is_some() {
            wait_until("the replica has its first copy", PATIENCE, || {
                self.info("master_link_status").as_deref() == Some("up")
            });
        }
    }
}

/// Whether the server accepts connections before it exits.
fn wait_until_it_listens(process: &mut Process, port: u16) -> bool {
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        if process.exited().is_some() {
            return false;
        }
        if Client::connect(port).is_ok_and(|mut client| client.try_call(&["PING"]).is_ok()) {
            return process.exited().is_none();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}
