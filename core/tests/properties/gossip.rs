//! Letters survive their journey; whatever else arrives is refused.

use crate::world::cases;
use flashsale_core::balance::{Counters, Need, Shelf};
use flashsale_core::gossip::{Letter, MAX_MESSAGE_BYTES, Packer, Word, read};
use proptest::prelude::*;

#[derive(Clone, Debug)]
struct Draft {
    sale: Vec<u8>,
    shards: u32,
    edition: u64,
    sku: Vec<u8>,
    kind: u8,
    numbers: [u64; 7],
}

impl Draft {
    fn letter(&self) -> Letter<'_> {
        let [a, b, c, d, e, f, g] = self.numbers;
        let (sku, shards) = (&self.sku[..], self.shards);
        let (donor, receiver) = ((a % u64::from(shards)) as u32, (b % u64::from(shards)) as u32);
        let need = Need { pace: c, wanting: d };
        let word = match self.kind {
            0 => {
                let counters = Counters { available: b, held: e, granted: f, accepted: g };
                Word::News { shard: donor, sku, counters, need }
            }
            1 => Word::Ask { donor, sku, asker: Shelf { shard: receiver, available: e, need }, qty: f, after: g },
            2 => Word::Total { donor, receiver, sku, total: c },
            3 => Word::Nothing { donor, receiver, sku },
            4 => Word::Accepted { donor, receiver, sku, total: c },
            _ => Word::Inquiry { shard: donor },
        };
        Letter { sale: &self.sale, shards, edition: self.edition, word }
    }
}

fn drafts() -> impl Strategy<Value = Vec<Draft>> {
    let sale = prop_oneof![3 => Just(b"sale".to_vec()), 1 => proptest::collection::vec(any::<u8>(), 0..512)];
    let sku = proptest::collection::vec(any::<u8>(), 1..128);
    let numbers = proptest::array::uniform7(prop_oneof![0..5_u64, any::<u64>()]);
    let edition = prop_oneof![Just(0), Just(7), 1..100_000_000_000_000_u64];
    let draft = (sale, 2..=16_384_u32, edition, sku, 0..6_u8, numbers);
    let draft = draft.prop_map(|(sale, shards, edition, sku, kind, numbers)| Draft {
        sale,
        shards,
        edition,
        sku,
        kind,
        numbers,
    });
    proptest::collection::vec(draft, 0..60)
}

fn packed(drafts: &[Draft], now_ms: u64) -> Vec<Vec<u8>> {
    let mut packer = Packer::new(now_ms);
    drafts.iter().for_each(|draft| packer.push(&draft.letter()));
    packer.finish()
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn letters_survive_in_small_messages(drafts in drafts(), now_ms in 0..100_000_000_000_000_u64) {
        let messages = packed(&drafts, now_ms);
        let mut letters = Vec::new();
        for message in &messages {
            prop_assert!(!message.is_empty() && message.len() <= MAX_MESSAGE_BYTES);
            let (sent_ms, some) = read(message).unwrap();
            prop_assert_eq!(sent_ms, now_ms);
            prop_assert!(!some.is_empty());
            letters.extend(some);
        }
        let written: Vec<Letter<'_>> = drafts.iter().map(Draft::letter).collect();
        prop_assert_eq!(letters, written);
    }

    /// Garbage and damaged messages are refused or read as other letters, which still name shards of their sale.
    #[test]
    fn garbage_is_refused(drafts in drafts(), at in any::<prop::sample::Index>(), byte in any::<u8>(), noise in any::<Vec<u8>>()) {
        let _ = read(&noise);
        for mut message in packed(&drafts, 1) {
            let at = at.index(message.len());
            prop_assert!(read(&message[..at]).is_err() || at > 0);
            message[at] = byte;
            for letter in read(&message).map_or(Vec::new(), |read| read.1) {
                let (donor, receiver) = match letter.word {
                    Word::News { shard, .. } | Word::Inquiry { shard } => (shard, shard),
                    Word::Ask { donor, asker, .. } => (donor, asker.shard),
                    Word::Total { donor, receiver, .. }
                    | Word::Nothing { donor, receiver, .. }
                    | Word::Accepted { donor, receiver, .. } => (donor, receiver),
                };
                prop_assert!(donor < letter.shards && receiver < letter.shards);
            }
        }
    }
}
