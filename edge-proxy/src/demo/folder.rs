//! The demo's temporary folder, which goes away however the demo ends.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::Context;

/// Waits until the demo is gone, then removes the folder. It is told by the end of its standard input, which comes
/// even when the demo is killed; a moment later the demo's servers are gone too and write nothing any more.
const SWEEP: &str = "cat >/dev/null; for _ in 1 2 3; do sleep 0.2; rm -rf -- \"$1\" && exit; done";

/// A folder under the system's temporary one.
pub struct Folder {
    path: PathBuf,
    sweeper: Child,
}

impl Folder {
    /// Makes the folder, readable by nobody else: secrets lie in it.
    ///
    /// # Errors
    /// There is no place to write, or no `sh`.
    pub fn new() -> anyhow::Result<Self> {
        let made = tempfile::Builder::new().prefix("flashsale-demo-").tempdir();
        let made = made.context("cannot make a temporary folder")?;
        let mut sweep = Command::new("sh");
        sweep.args(["-c", SWEEP, "sweep"]).arg(made.path());
        sweep.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        // Out of reach of the terminal's Ctrl-C.
        std::os::unix::process::CommandExt::process_group(&mut sweep, 0);
        let sweeper = sweep.spawn().context("cannot start `sh`")?;
        Ok(Self { path: made.keep(), sweeper })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file into it; gives back its path.
    ///
    /// # Errors
    /// The disk is full.
    pub fn write(&self, name: &str, content: &str) -> anyhow::Result<PathBuf> {
        let path = self.path.join(name);
        std::fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(self.sweeper.stdin.take());
        // Nobody could be told if this fails, and the sweeper goes on by itself.
        let _ = self.sweeper.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left() {
        let folder = Folder::new().expect("a folder");
        let file = folder.write("a", "b").expect("a file");
        let path = folder.path().to_path_buf();
        assert!(file.starts_with(&path) && file.exists());
        drop(folder);
        assert!(!path.exists());
    }
}
