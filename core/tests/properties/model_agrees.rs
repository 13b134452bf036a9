//! The sale answers as the naive model does, and looks as the model does.

use crate::steps::story;
use crate::world::{World, cases};
use proptest::prelude::*;

proptest! {
    #![proptest_config(cases(3_000))]

    #[test]
    fn every_outcome_is_the_models(story in story(100)) {
        let (profile, steps) = story;
        let mut world = World::new(&profile);
        for step in &steps {
            let _answer = world.run(step)?;
        }
        world.audit()?;
    }

    #[test]
    fn every_view_is_the_models(story in story(30), later in 0_u64..200) {
        let (profile, steps) = story;
        let mut world = World::new(&profile);
        for step in &steps {
            let _answer = world.run(step)?;
            world.compare_views()?;
            // What has fallen due since is seen as expired, though nothing was written.
            world.server_ms += later;
            world.compare_views()?;
            world.server_ms -= later;
        }
    }
}
