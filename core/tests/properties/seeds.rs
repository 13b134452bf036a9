//! What the fuzzer begins with (`fuzz/seeds`): every target has something, and it is what the target reads. Seeds that
//! are refused at their first byte would leave the fuzzer to guess the format.

use crate::garbage::load_whatever_it_is;
use flashsale_core::effect::read_log;
use flashsale_core::gossip;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn in_folder(folder: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz").join(folder);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let paths = entries.map(|entry| entry.expect("an entry").path()).filter(|path| path.is_file());
    let named = |path: &Path| path.file_stem().expect("a name").to_string_lossy().into_owned();
    paths.map(|path| (named(&path), fs::read(&path).expect("a file"))).collect()
}

/// As `effects` and `snapshot` take their bytes apart: parts, each after two bytes that tell its length.
fn parts(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut parts = Vec::new();
    while let [low, high, behind @ ..] = bytes {
        let (part, after) = behind.split_at(usize::from(u16::from_le_bytes([*low, *high])));
        parts.push(part.to_vec());
        bytes = after;
    }
    parts
}

#[test]
fn every_target_has_seeds() {
    let targets = in_folder("fuzz_targets");
    assert!(!targets.is_empty());
    for (target, _) in targets {
        assert!(!in_folder(&format!("seeds/{target}")).is_empty(), "no seeds for {target}");
    }
}

#[test]
fn seeds_of_snapshots_are_sales() {
    for (name, bytes) in in_folder("seeds/snapshot") {
        let chunks = [parts(&bytes), vec![Vec::new()]].concat();
        assert!(load_whatever_it_is(&chunks).expect("it adds up").is_some(), "{name}");
    }
}

#[test]
fn seeds_of_effects_are_logs() {
    for (name, bytes) in in_folder("seeds/effects") {
        for log in parts(&bytes) {
            let log = read_log(&log).map(drop);
            assert!(log.is_ok(), "{name}: {log:?}");
        }
    }
}

#[test]
fn seeds_of_gossip_hold_every_letter() {
    let mut kinds = BTreeSet::new();
    let mut editions = BTreeSet::new();
    for (name, bytes) in in_folder("seeds/gossip") {
        let (_, letters) = gossip::read(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        kinds.extend(letters.iter().map(|letter| format!("{:?}", std::mem::discriminant(&letter.word))));
        editions.extend(letters.iter().map(|letter| letter.edition != 0));
    }
    assert_eq!((kinds.len(), editions.len()), (6, 2));
}
