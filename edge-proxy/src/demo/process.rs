//! The servers that the demo starts, and their certain end.

use std::fs::File;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rand::RngExt;

/// How long a server may take to end by itself.
const PATIENCE: Duration = Duration::from_secs(3);

/// A server that ends with this value, and with the demo, whichever way that ends.
pub struct Process {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; what it prints goes to `NAME.log` in `folder`.
    ///
    /// Call it from the main thread: the kernel ends the child with the thread that started it.
    ///
    /// # Errors
    /// There is no such program.
    pub fn start(name: &'static str, mut command: Command, folder: &Path) -> anyhow::Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let out = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        // Ctrl-C in the terminal is the demo's business; it ends its servers in order.
        command.process_group(0);
        let parent = std::process::id();
        // SAFETY: the closure runs between fork and exec and makes only two system calls that are
        // async-signal-safe; it allocates nothing and takes no lock.
        unsafe {
            command.pre_exec(move || {
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                    return Err(std::io::Error::last_os_error());
                }
                // The demo may have died before the line above.
                if libc::getppid() as u32 != parent {
                    return Err(std::io::ErrorKind::NotConnected.into());
                }
                Ok(())
            });
        }
        let program = command.get_program().to_string_lossy().into_owned();
        let child = command.spawn();
        let child = child.with_context(|| format!("cannot start {name}: is `{program}` installed?"))?;
        Ok(Self { name, child, log })
    }

    /// Fails, with the end of its log, if the server has ended.
    ///
    /// # Errors
    /// It has.
    pub fn still_runs(&mut self) -> anyhow::Result<()> {
        let Some(status) = self.child.try_wait()? else {
            return Ok(());
        };
        bail!("{} has ended ({status}):\n{}", self.name, self.last_words())
    }

    /// The end of what it printed.
    pub fn last_words(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    fn end(&mut self) -> std::io::Result<()> {
        // SAFETY: kill takes no pointers, and the child is not reaped yet, so the number is still its own.
        unsafe { libc::kill(self.child.id() as libc::pid_t, libc::SIGTERM) };
        let asked_at = Instant::now();
        while self.child.try_wait()?.is_none() {
            if asked_at.elapsed() > PATIENCE {
                self.child.kill()?;
                self.child.wait()?;
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // Nobody could be told; the kernel ends it with this process.
            let _ = self.end();
        }
    }
}

/// A port of the loopback address that nobody uses now, below the range that the kernel gives to outgoing
/// connections: the crowd makes many of those.
///
/// # Errors
/// There is none.
pub fn free_port() -> anyhow::Result<u16> {
    let tried = (0..1_000).map(|_| rand::rng().random_range(12_000..32_000_u16));
    let mut free = tried.filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    free.next().context("no free port on 127.0.0.1")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_server_ends_with_its_guard() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut process = Process::start("sleeper", sh("exec sleep 60"), folder.path()).expect("started");
        process.still_runs().expect("runs");
        let pid = process.child.id();
        drop(process);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn an_early_end_shows_the_last_words() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut process = Process::start("loser", sh("echo no luck; exit 3"), folder.path()).expect("started");
        process.child.wait().expect("ended");
        let error = process.still_runs().expect_err("ended").to_string();
        assert!(error.contains("loser") && error.contains("no luck"), "{error}");
    }

    #[test]
    fn a_missing_program_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let missing = Process::start("redis", Command::new("/does/not/exist"), folder.path());
        let error = format!("{:#}", missing.err().expect("an error"));
        assert!(error.contains("/does/not/exist"), "{error}");
    }
}
