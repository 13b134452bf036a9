//! Bytes that are taken for a snapshot make a sale that adds up, and that is saved and loaded again as it is.
//!
//! The bytes are chunks, each after two bytes that tell its length, the first chunk being the header.

#![no_main]

use flashsale_core::Sale;
use flashsale_core::snapshot::Loader;
use libfuzzer_sys::fuzz_target;

const SEED: [u64; 2] = [1, 2];

fn load<'a>(mut chunks: impl Iterator<Item = &'a [u8]>) -> Option<Sale> {
    let mut loader = Loader::new(chunks.next()?, SEED).ok()?;
    for chunk in chunks {
        loader.push(chunk).ok()?;
    }
    loader.finish().ok()
}

fn saved(sale: &Sale) -> Vec<Vec<u8>> {
    let mut chunks = Vec::new();
    sale.snapshot(|chunk| chunks.push(chunk.to_vec()));
    chunks
}

/// Equal for equal sales, whatever the order of their slots.
fn digest(sale: &Sale) -> Vec<Vec<u8>> {
    let mut parts = Vec::new();
    sale.digest_parts(|part| parts.push(part.to_vec()));
    parts.sort();
    parts
}

fuzz_target!(|bytes: &[u8]| {
    let mut rest = bytes;
    let mut chunks = Vec::new();
    while let [low, high, behind @ ..] = rest {
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(behind.len());
        let (chunk, after) = behind.split_at(length);
        chunks.push(chunk);
        rest = after;
    }
    // The end is given: what happens without it is soon found out.
    chunks.push(&[]);
    let Some(sale) = load(chunks.into_iter()) else { return };
    assert_eq!(sale.audit(), Vec::<String>::new());
    let now_ms = sale.clock_ms();
    let _looked_at = (sale.view(now_ms), sale.hold_views(0, 1_000, now_ms), sale.sku_views(now_ms).count());
    let again = saved(&sale);
    let again = load(again.iter().map(Vec::as_slice)).expect("what was saved loads");
    assert_eq!(digest(&again), digest(&sale));
});
