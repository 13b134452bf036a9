//! FLASH.AUDIT: recomputes every counter and compares.

use super::{Access, Arg, Definition, Metadata};
use crate::execute::{Call, Fault};
use flashsale_core::protocol::{args, reply};

pub(super) struct Audit;

impl Definition for Audit {
    const METADATA: Metadata = Metadata {
        name: c"FLASH.AUDIT",
        flags: c"readonly",
        access: Access::Read,
        arity: 2,
        summary: c"Recomputes every counter from the holds and compares",
        complexity: c"O(N) with N the number of holds and orders",
        args: &[Arg::key()],
    };

    fn call(call: &mut Call<'_, '_>) -> Result<(), Fault> {
        args::nothing(call.words)?;
        call.read(|ctx, sale, _| reply::audit(ctx, &sale.audit()))
    }
}
