//! Child processes that never outlive the test.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

/// A process that is killed when this is dropped, and by the kernel if the test process dies first.
///
/// What it prints goes to a log file, whose end is shown if the test panics.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts `command`, with no input, all it prints going to `log`.
    pub fn start(name: &str, mut command: Command, log: &Path) -> io::Result<Process> {
        let out = File::options().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        Ok(Process { child: spawn_on_lasting_thread(command)?, name: name.to_owned(), log: log.to_owned() })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Kills it with no chance to write anything more, as a crash would.
    pub fn kill_9(&mut self) {
        let _already_gone = self.child.kill();
        self.child.wait().expect("a killed child ends");
    }

    /// Asks it to end (SIGTERM) and waits; kills it after `patience`.
    pub fn stop(&mut self, patience: Duration) {
        self.signal(libc::SIGTERM);
        let asked = Instant::now();
        while self.exited().is_none() && asked.elapsed() < patience {
            std::thread::sleep(Duration::from_millis(2));
        }
        self.kill_9();
    }

    /// Sends a signal, for example `SIGSTOP` to hang it.
    pub fn signal(&mut self, signal: i32) {
        if self.exited().is_none() {
            // SAFETY: kill() touches no memory; the child is not reaped yet, so its pid is still its own.
            unsafe { libc::kill(self.pid() as i32, signal) };
        }
    }

    /// All it has printed so far.
    pub fn output(&self) -> String {
        std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill_9();
        if std::thread::panicking() {
            let output = self.output();
            let lines: Vec<&str> = output.lines().collect();
            let tail = &lines[lines.len().saturating_sub(40)..];
            eprintln!("--- end of the log of {}:\n{}\n---", self.name, tail.join("\n"));
        }
    }
}

type Job = (Command, Sender<io::Result<Child>>);

/// Spawns from a thread that lives as long as the process.
///
/// "Parent death" means to the kernel that the *thread* which spawned the child ends. A test may start
/// a server from a helper thread, so all children come from one thread that never ends.
fn spawn_on_lasting_thread(mut command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<Mutex<Sender<Job>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (jobs, inbox) = channel::<Job>();
        std::thread::spawn(move || {
            for (mut command, answer) in inbox {
                let _test_gone = answer.send(command.spawn());
            }
        });
        Mutex::new(jobs)
    });

    let parent = std::process::id() as i32;
    // SAFETY: between fork and exec only async-signal-safe calls are made: prctl, getppid, and _exit.
    unsafe {
        command.pre_exec(move || {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            if libc::getppid() != parent {
                libc::_exit(1);
            }
            Ok(())
        });
    }
    let (answer, child) = channel();
    spawner
        .lock()
        .expect("the spawner's lock is never held over a panic")
        .send((command, answer))
        .expect("the spawner lives as long as the process");
    child.recv().expect("the spawner answers every job")
}
