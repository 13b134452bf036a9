//! What can be held against the contract: how it is started, how it is called, what it can do.

use flashsale_tests::{Client, RedisServer, Server, artifacts};

/// An implementation of the contract's commands.
pub struct Implementation {
    /// What people call it.
    pub name: &'static str,
    /// What it can do of that which not every implementation can; files and cases say what they need.
    pub capabilities: &'static [&'static str],
    form: Form,
}

/// How commands are sent.
#[derive(Clone, Copy)]
enum Form {
    /// `FLASH.RESERVE key ...`
    Module,
    /// `FCALL flash_reserve 1 key ...`
    Functions,
}

/// The native module.
pub const MODULE: Implementation =
    Implementation { name: "module", capabilities: &["block", "throttle", "timer"], form: Form::Module };

/// The library of Redis Functions. It cannot wait, and has no timer.
pub const FUNCTIONS: Implementation =
    Implementation { name: "functions", capabilities: &["throttle"], form: Form::Functions };

impl Implementation {
    /// Starts a server with it; `None`, said aloud, if it is not part of this project yet.
    pub fn start(&self, server: Server) -> Option<RedisServer> {
        let builder = RedisServer::builder(server);
        match self.form {
            Form::Module => Some(builder.module().start()),
            Form::Functions => {
                let path = artifacts::project().join("lua/flashsale.lua");
                let Ok(library) = std::fs::read(&path) else {
                    eprintln!("SKIPPED: {} is not there", path.display());
                    return None;
                };
                let redis = builder.start();
                redis.client().ok(&[b"FUNCTION".as_slice(), b"LOAD", &library]);
                Some(redis)
            }
        }
    }

    /// The words to send for a command of the contract, such as `RESERVE key ...`.
    pub fn call(&self, words: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let Some((command, arguments)) = words.split_first() else { return Vec::new() };
        let mut call: Vec<Vec<u8>> = Vec::with_capacity(words.len() + 2);
        match self.form {
            Form::Module => call.push([b"FLASH.", command.as_slice()].concat()),
            Form::Functions => {
                let keyless = arguments.is_empty() || [b"SHARDS", b"ROUTE".as_slice()].contains(&command.as_slice());
                call.push(b"FCALL".to_vec());
                call.push([b"flash_", command.to_ascii_lowercase().as_slice()].concat());
                call.push(if keyless { b"0".to_vec() } else { b"1".to_vec() });
            }
        }
        call.extend_from_slice(arguments);
        call
    }

    /// What of the needs it cannot do.
    pub fn lacks<'n>(&self, needs: &'n [String]) -> Option<&'n str> {
        needs.iter().map(String::as_str).find(|need| !self.capabilities.contains(need))
    }
}

/// A connection, for RESP3 if the file says so.
pub fn connect(redis: &RedisServer, resp3: bool) -> Client {
    let client = redis.client();
    if resp3 { client.resp3() } else { client }
}

#[test]
fn each_form_has_its_words() {
    let words = |line: &str| -> Vec<Vec<u8>> { line.split(' ').map(|word| word.as_bytes().to_vec()).collect() };
    assert_eq!(MODULE.call(&words("HOLD sale h1")), words("FLASH.HOLD sale h1"));
    assert_eq!(FUNCTIONS.call(&words("HOLD sale h1")), words("FCALL flash_hold 1 sale h1"));
    assert_eq!(FUNCTIONS.call(&words("ROUTE sale 3 ann")), words("FCALL flash_route 0 sale 3 ann"));
    assert_eq!(FUNCTIONS.call(&words("HOLD")), words("FCALL flash_hold 0"));
}
