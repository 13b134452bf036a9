//! Any words are a command or an error that can be shown: one line, of bounded length.
//!
//! Words are separated by line feeds, so that the seeds can be read.

#![no_main]

use flashsale_core::protocol::{args, throttle};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let words: Vec<&[u8]> = bytes.split(|&byte| byte == b'\n').collect();
    let texts = [
        args::create(&words).map(drop),
        args::alter(&words).map(drop),
        args::stock(&words).map(drop),
        args::reserve(&words).map(drop),
        args::mreserve(&words).map(drop),
        args::order(&words).map(drop),
        args::confirm(&words).map(drop),
        args::release(&words).map(drop),
        args::extend(&words).map(drop),
        args::returned(&words).map(drop),
        args::expire(&words).map(drop),
        args::grant(&words).map(drop),
        args::accept(&words).map(drop),
        args::holds(&words).map(drop),
        args::single_name(&words, "id").map(drop),
        args::nothing(&words),
        args::shard_count(&words).map(drop),
        args::route(&words).map(drop),
        throttle::throttle(&words).map(drop),
    ]
    .map(|parsed| parsed.err().map(|error| error.to_string()));
    for text in texts.into_iter().flatten() {
        assert!(!text.is_empty() && text.len() < 400 && !text.contains(['\r', '\n']), "{text:?}");
    }
});
