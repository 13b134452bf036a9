use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::{artifacts, unix_ms};

/// A time of day that stands still until a test moves it, for servers started with
/// [`crate::RedisServerBuilder::clock`]. So two of them see the same time, to the millisecond.
///
/// It works by a small library that is preloaded into the server, built here with the machine's C compiler.
#[derive(Debug)]
pub struct Clock {
    file: File,
    dir: TempDir,
    now_ms: u64,
}

impl Clock {
    /// A clock that stands at the machine's time.
    ///
    /// # Panics
    /// If there is no C compiler, which building the project needs as well.
    #[track_caller]
    pub fn new() -> Clock {
        let dir = tempfile::Builder::new().prefix("flashsale-clock-").tempdir().expect("a temporary folder");
        let source = artifacts::project().join("tests/harness/clock.c");
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-O2", "-o"])
            .arg(dir.path().join("clock.so"))
            .arg(&source)
            .output()
            .unwrap_or_else(|error| panic!("cc did not run: {error}"));
        assert!(built.status.success(), "{}: {}", source.display(), String::from_utf8_lossy(&built.stderr));
        let file = File::options().create_new(true).write(true).open(dir.path().join("clock")).expect("a new file");
        let mut clock = Clock { file, dir, now_ms: 0 };
        clock.set(unix_ms());
        clock
    }

    /// The time, unix ms.
    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// Moves the time.
    pub fn set(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        let us = (now_ms * 1000) as i64;
        self.file.write_all_at(&us.to_ne_bytes(), 0).expect("the clock's file can be written");
    }

    /// Lets time pass.
    pub fn advance(&mut self, ms: u64) {
        self.set(self.now_ms + ms);
    }

    /// What a server's environment must have to take its time from this clock.
    pub fn environment(&self) -> [(&'static str, PathBuf); 2] {
        let (library, file) = self.files();
        [("LD_PRELOAD", library), ("FLASHSALE_TEST_CLOCK", file)]
    }

    /// The library to preload, and the file with the time.
    pub(crate) fn files(&self) -> (PathBuf, PathBuf) {
        let path = |name: &str| -> PathBuf { Path::new(self.dir.path()).join(name) };
        (path("clock.so"), path("clock"))
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}
