//! The contract as data: every command, reply, refusal and error, and the order of refusals, held against any
//! implementation that speaks the protocol.
//!
//! The cases are the text files in `tests/conformance/`; `tests/conformance/README.md` says how to read and
//! write them. [`script`] reads them, [`runner`] plays them, [`implementation`] says how an implementation is
//! started and called, and what it cannot do.

mod implementation;
mod pattern;
mod runner;
mod script;
pub(crate) mod words;

use flashsale_tests::{Server, artifacts};
use implementation::Implementation;
use std::path::PathBuf;

fn folder() -> PathBuf {
    artifacts::project().join("tests/conformance")
}

/// Plays one file on one server; every case of it, also after one has failed.
fn play(implementation: &Implementation, file: &str, server: Server) {
    let name = format!("{}.txt", file.replace('_', "-"));
    let text = std::fs::read_to_string(folder().join(&name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let script = script::parse(&name, &text).unwrap_or_else(|error| panic!("{error}"));
    runner::play(implementation, &script, server);
}

/// For each file: one test for each implementation and server.
macro_rules! files {
    ($($file:ident)+) => {
        const FILES: &[&str] = &[$(stringify!($file)),+];

        mod module {
            $(mod $file {
                use flashsale_tests::{Server, on_every_server};
                on_every_server!(conforms);
                fn conforms(server: Server) {
                    crate::conformance::play(&crate::conformance::implementation::MODULE, stringify!($file), server);
                }
            })+
        }

        mod functions {
            $(mod $file {
                use flashsale_tests::{Server, on_every_server};
                on_every_server!(conforms);
                fn conforms(server: Server) {
                    crate::conformance::play(&crate::conformance::implementation::FUNCTIONS, stringify!($file), server);
                }
            })+
        }
    };
}

files! {
    accept alter audit backlog block buyer confirm confirm_late confirm_partial create errors events expire
    extend expiry grant hold holds info limits mreserve names order order_of_refusals release replace reserve
    resp3 retain returns route shards state_channel stock stream switches throttle upto
}

#[test]
fn every_file_is_played() {
    let mut there: Vec<String> = std::fs::read_dir(folder())
        .expect("the folder of cases")
        .filter_map(|entry| Some(entry.ok()?.file_name().to_str()?.strip_suffix(".txt")?.replace('-', "_")))
        .collect();
    there.sort();
    let mut played = FILES.to_vec();
    played.sort_unstable();
    assert_eq!(there, played, "the list in tests/conformance.rs, and the files in tests/conformance");
}
