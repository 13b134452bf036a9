//! FLASH.EXPIRE: ends due holds now.

use super::{Access, Arg, Definition, Metadata};
use crate::execute::{Call, Fault};
use flashsale_core::protocol::args;

pub(super) struct Expire;

impl Definition for Expire {
    const METADATA: Metadata = Metadata {
        name: c"FLASH.EXPIRE",
        flags: c"write",
        access: Access::Update,
        arity: -2,
        summary: c"Ends due holds now, and tells how many",
        complexity: c"O(N) with N the number of holds ended",
        args: &[Arg::key(), Arg::integer(c"n").after(c"COUNT").optional()],
    };

    fn call(call: &mut Call<'_, '_>) -> Result<(), Fault> {
        let most = args::expire(call.words)?;
        call.expire(most)
    }
}
