//! Ids and buyers come from strangers who can read this code. What they do not know is the seed: so no choice of
//! names may fill one group of the index more than others, or make look-ups compare many names.

use super::index::{GROUP_FULL, Index};
use super::store::HoldStore;

/// 32 times the groups at first, all of them split as often: sizes of groups can be compared.
const IDS: u32 = 5 * 184 * 32;
/// As random as the module draws them.
const SEEDS: [[u64; 2]; 4] = [
    [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344],
    [0xa409_3822_299f_31d0, 0x082e_fa98_ec4e_6c89],
    [0x4528_21e6_38d0_1377, 0xbe54_66cf_34e9_0c6c],
    [0xc0ac_29b7_c97c_50dd, 0x3f84_d5b5_b547_0917],
];
/// A seed that the attacker knows, of another process.
const KNOWN: [u64; 2] = [0x9216_d5d9_8979_fb1b, 0xd131_0ba6_98df_b5ac];

/// Stores the first half of the names, then looks all of them up.
fn assert_balanced(what: &str, names: &[Vec<u8>]) {
    for seed in SEEDS {
        let keyed = HoldStore::new(seed);
        let hash_of = |slot: u32| keyed.hash(&names[slot as usize]);
        let mut index = Index::default();
        (0..IDS).for_each(|slot| index.insert(hash_of(slot), slot, hash_of));

        let fullest = index.fullest_group();
        assert!(fullest <= GROUP_FULL, "{what}: {fullest} names in a group, where no more should fit");

        let mut hashes: Vec<u64> = (0..IDS).map(hash_of).collect();
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), IDS as usize, "{what}: names with equal hashes");

        let (mut of_known, mut of_unknown, mut most) = (0, 0, 0);
        for wanted in 0..2 * IDS {
            let mut comparisons = 0_u32;
            let found = index.find(hash_of(wanted), |slot| {
                comparisons += 1;
                slot == wanted
            });
            assert_eq!(found, (wanted < IDS).then_some(wanted), "{what}");
            *if wanted < IDS { &mut of_known } else { &mut of_unknown } += comparisons;
            most = most.max(comparisons);
        }
        // One that is needed, and the chance that one of the few others that are probed has the same 7 bits.
        let [of_known, of_unknown] = [of_known, of_unknown].map(|sum| f64::from(sum) / f64::from(IDS));
        assert!(of_known < 1.5 && of_unknown < 0.5, "{what}: {of_known} and {of_unknown} comparisons on average");
        assert!(most <= 12, "{what}: {most} comparisons");
    }
}

fn assert_family(what: &str, name: impl Fn(u32) -> Vec<u8>) {
    assert_balanced(what, &(0..2 * IDS).map(name).collect::<Vec<_>>());
}

#[test]
fn counters_are_spread() {
    assert_family("decimal numbers", |n| n.to_string().into_bytes());
    assert_family("decimal numbers of one length", |n| format!("cart-{n:019}").into_bytes());
    assert_family("4 bytes, little end first", |n| n.to_le_bytes().to_vec());
    assert_family("8 bytes, big end first", |n| u64::from(n).to_be_bytes().to_vec());
    assert_family("the highest bits of 16 bytes", |n| (u128::from(n) << 108).to_le_bytes().to_vec());
    assert_family("multiples of 2^40", |n| (u64::from(n) << 40).to_le_bytes().to_vec());
}

#[test]
fn names_that_differ_in_two_bits_are_spread() {
    for length in [16, 24, 64, 128] {
        let bits = length * 8;
        let pairs = (0..bits).flat_map(|high| (0..high).map(move |low| (low, high)));
        // The shorter names have fewer pairs: the others differ in a third bit.
        let triples =
            (0..bits).flat_map(|high| (0..high).flat_map(move |mid| (0..mid).map(move |low| (low, mid, high))));
        let flips = pairs.map(|(low, high)| vec![low, high]);
        let flips = flips.chain(triples.map(|(low, mid, high)| vec![low, mid, high]));
        let names = flips.take(2 * IDS as usize).map(|flips| {
            let mut name = vec![0; length];
            flips.into_iter().for_each(|bit| name[bit / 8] ^= 1 << (bit % 8));
            name
        });
        assert_balanced(&format!("bits of {length} bytes"), &names.collect::<Vec<_>>());
    }
}

#[test]
fn equal_beginnings_middles_and_ends_are_spread() {
    for length in [9, 16, 17, 24, 33, 64, 65, 100, 128] {
        for at in [0, (length - 4) / 2, length - 4] {
            assert_family(&format!("{length} bytes that differ at {at}"), |n| {
                let mut name = vec![b'x'; length];
                name[at..at + 4].copy_from_slice(&n.to_le_bytes());
                name
            });
        }
    }
}

#[test]
fn many_lengths_are_spread() {
    assert_family("the same byte over and over", |n| {
        let (length, [first, other, ..]) = (2 + n as usize % 127, (n / 127).to_le_bytes());
        let mut name = vec![other; length];
        name[0] = first;
        name
    });
    assert_family("zeros before a number", |n| format!("{:0>1$}:{2}", "", n as usize % 120, n / 120).into_bytes());
}

#[test]
fn names_that_collide_under_another_seed_are_spread() {
    let known = HoldStore::new(KNOWN);
    // A factor that is zero makes the product zero, whatever the other is. It takes the seed to find it.
    let zero = KNOWN[0].rotate_right(16).to_le_bytes();
    let equal: Vec<_> = (0..2 * IDS).map(|n| [zero, u64::from(n).to_le_bytes()].concat()).collect();
    let hash = known.hash(&equal[0]);
    assert!(equal.iter().all(|name| known.hash(name) == hash), "an attacker who knows the seed succeeds");
    assert_balanced("names of one hash", &equal);

    let one_group = (0_u64..).map(|n| n.to_string().into_bytes()).filter(|name| known.hash(name) >> 24 & 63 == 0);
    assert_balanced("names of one group", &one_group.take(2 * IDS as usize).collect::<Vec<_>>());
}
