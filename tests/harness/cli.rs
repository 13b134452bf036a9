//! The `flashsale` program as an operator runs it.

use std::process::Command;

use serde_json::Value;

use crate::artifacts;

/// How a run ended.
#[derive(Debug)]
pub struct Ran {
    /// The exit code; -1 if it was killed.
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    /// Both outputs, where it ended with 0.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}\n{}", self.out, self.err);
        self.out
    }

    /// The output as JSON, where it ended with 0.
    #[track_caller]
    pub fn json(self) -> Value {
        let out = self.ok();
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error} in {out}"))
    }

    /// The error, where it ended with another code than 0.
    #[track_caller]
    pub fn failed(self) -> String {
        assert_ne!(self.code, 0, "{}", self.out);
        self.err
    }
}

/// Runs the program with these words, in a folder without a config, and waits for its end.
///
/// # Panics
/// If it cannot be run.
#[track_caller]
pub fn flashsale(words: &[&str]) -> Ran {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut command = Command::new(artifacts::flashsale());
    command.current_dir(folder.path()).args(words);
    command.env_remove("FLASHSALE_CONFIG").env_remove("FLASHSALE_REDIS");
    // On a machine that is busy with other tests a server may be slow, and is not away.
    command.env("FLASHSALE_TIMEOUT", "60");
    let output = command.output().expect("the program runs");
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
