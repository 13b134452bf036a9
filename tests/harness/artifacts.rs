//! Where the things under test are: the module, the `flashsale` program, the files of the project.

use std::env;
use std::path::{Path, PathBuf};

/// The built module: `FLASHSALE_MODULE`, or `libflashsale.so` beside the running test.
pub fn module() -> PathBuf {
    built("FLASHSALE_MODULE", "libflashsale.so")
}

/// The module with faults on demand (its feature `fault-injection`): `FLASHSALE_FAULTY_MODULE`, or
/// `libflashsale-faulty.so` beside the running test.
pub fn faulty_module() -> PathBuf {
    built("FLASHSALE_FAULTY_MODULE", "libflashsale-faulty.so")
}

/// The built edge program: `FLASHSALE_BIN`, or `flashsale` beside the running test.
pub fn flashsale() -> PathBuf {
    built("FLASHSALE_BIN", "flashsale")
}

/// Pingora with nothing in it (an example of the edge): `FLASHSALE_BARE`, or `examples/bare`.
pub fn bare() -> PathBuf {
    built("FLASHSALE_BARE", "examples/bare")
}

/// The project's folder.
pub fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests lie in the project")
}

/// A Python interpreter that has redis-py: `FLASHSALE_PYTHON`, or the first that has it.
pub fn python_with_redis() -> PathBuf {
    let script = project().join("scripts/python-with-redis.sh");
    let found = std::process::Command::new(&script)
        .output()
        .unwrap_or_else(|error| panic!("{} did not run: {error}", script.display()));
    assert!(found.status.success(), "no Python with redis-py here: run `make test`, or install python3-redis");
    PathBuf::from(String::from_utf8_lossy(&found.stdout).trim())
}

/// The `node_modules` folder that has ioredis; `None`, with a word why, where it is not, unless CI runs the tests.
pub fn node_modules() -> Option<PathBuf> {
    let script = project().join("scripts/node-with-ioredis.sh");
    let found = std::process::Command::new(&script)
        .output()
        .unwrap_or_else(|error| panic!("{} did not run: {error}", script.display()));
    if found.status.success() {
        return Some(PathBuf::from(String::from_utf8_lossy(&found.stdout).trim()));
    }
    let why = String::from_utf8_lossy(&found.stderr);
    assert!(env::var_os("CI").is_none(), "CI must test with Node.js: {why}");
    eprintln!("SKIPPED: {why}");
    None
}

/// `cargo test` builds the tests into `target/PROFILE/deps` and what they start into `target/PROFILE`.
fn built(variable: &str, file: &str) -> PathBuf {
    if let Some(path) = env::var_os(variable) {
        let path = PathBuf::from(path);
        assert!(path.exists(), "{variable} names {}, which is not there", path.display());
        return path;
    }
    let test = env::current_exe().expect("a running test has a path");
    let profile_dir = test
        .ancestors()
        .find(|dir| dir.join("deps").is_dir() && dir.join(".fingerprint").is_dir())
        .unwrap_or_else(|| panic!("{} lies in no target folder of cargo", test.display()));
    let path = profile_dir.join(file);
    assert!(
        path.exists(),
        "{} is not there: run `make test`, or `cargo build --workspace` first (or set {variable})",
        path.display()
    );
    path
}

/// The text of `lua/flashsale.lua`.
///
/// # Panics
/// If it cannot be read.
pub fn library() -> Vec<u8> {
    let path = project().join("lua/flashsale.lua");
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
