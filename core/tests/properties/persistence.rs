//! A sale that was saved and loaded is the same sale, and goes on as the same.

use crate::steps::story;
use crate::world::{OTHER_SEED, World, cases, digest, same, snapshot};
use flashsale_core::Sale;
use flashsale_core::snapshot::Loader;
use proptest::prelude::*;

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn a_loaded_sale_is_equal_and_goes_on_alike(story in story(80), saved_at in any::<prop::sample::Index>()) {
        let (profile, steps) = story;
        let mut world = World::new(&profile);
        let saved_at = saved_at.index(steps.len());
        for (at, step) in steps.iter().enumerate() {
            if at == saved_at {
                let loaded = load(&snapshot(&world.sale), at % 2 == 0);
                same!("the loaded digest", digest(&loaded), digest(&world.sale));
                same!("its audit", loaded.audit(), Vec::<String>::new());
                world.replica = std::mem::replace(&mut world.sale, loaded);
            }
            let _answer = world.run(step)?;
            if at >= saved_at {
                // The sale that was saved follows as a replica of the loaded one.
                world.replicate(step)?;
                same!("the digests", digest(&world.sale), digest(&world.replica));
            }
        }
        world.compare_views()?;
        world.audit()?;
    }
}

fn load(chunks: &[Vec<u8>], in_small_steps: bool) -> Sale {
    let mut loader = Loader::new(&chunks[0], OTHER_SEED).expect("a header that was just written");
    if in_small_steps {
        loader = loader.in_small_steps();
    }
    for chunk in &chunks[1..] {
        assert!(!loader.is_complete());
        loader.push(chunk).expect("a chunk that was just written");
    }
    loader.finish().expect("a whole snapshot")
}
