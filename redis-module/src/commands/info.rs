//! FLASH.INFO: settings and counters.

use super::{Access, Arg, Definition, Metadata};
use crate::execute::{Call, Fault};
use flashsale_core::protocol::{args, reply};

pub(super) struct Info;

impl Definition for Info {
    const METADATA: Metadata = Metadata {
        name: c"FLASH.INFO",
        flags: c"readonly",
        access: Access::Read,
        arity: 2,
        summary: c"Settings and counters of a sale",
        complexity: c"O(N) with N the number of SKUs",
        args: &[Arg::key()],
    };

    fn call(call: &mut Call<'_, '_>) -> Result<(), Fault> {
        args::nothing(call.words)?;
        call.read_counted(reply::info)
    }
}
