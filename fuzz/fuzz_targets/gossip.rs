//! Whatever arrives on the cluster bus is read or refused, and what was read can be written again.

#![no_main]

use flashsale_core::gossip::{MAX_MESSAGE_BYTES, Packer, read};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok((now_ms, letters)) = read(bytes) else { return };
    let mut packer = Packer::new(now_ms);
    letters.iter().for_each(|letter| packer.push(letter));
    let messages = packer.finish();
    let again: Vec<_> =
        messages.iter().flat_map(|message| read(message).expect("what was written can be read").1).collect();
    assert!(messages.iter().all(|message| message.len() <= MAX_MESSAGE_BYTES));
    assert_eq!(again, letters);
});
