//! FLASH.RELEASE: frees a hold; an unknown id is remembered.

use super::{Access, Arg, Definition, Metadata};
use crate::execute::{Call, Fault};
use flashsale_core::Command;
use flashsale_core::protocol::args;

pub(super) struct Release;

impl Definition for Release {
    const METADATA: Metadata = Metadata {
        name: c"FLASH.RELEASE",
        flags: c"write fast",
        access: Access::Update,
        arity: -3,
        summary: c"Frees a hold; an unknown id is remembered, so that a late RESERVE of it is refused",
        complexity: c"O(N) with N the number of SKUs",
        args: &[Arg::key(), Arg::text(c"id"), Arg::text(c"text").after(c"REASON").optional()],
    };

    fn call(call: &mut Call<'_, '_>) -> Result<(), Fault> {
        let parsed = args::release(call.words)?;
        call.run(&Command::Release(parsed))
    }
}
