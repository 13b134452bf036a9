//! FLASH.PAUSE, FLASH.RESUME and FLASH.CLOSE: reserving stops for a while, goes on, or stops for good.
//! Confirming, releasing and extending go on in every case.

use super::{Access, Arg, Definition, Metadata};
use crate::execute::{Call, Fault};
use flashsale_core::Command;
use flashsale_core::protocol::args;
use std::ffi::CStr;

const fn metadata(name: &'static CStr, summary: &'static CStr) -> Metadata {
    Metadata {
        name,
        flags: c"write fast",
        access: Access::Update,
        arity: 2,
        summary,
        complexity: c"O(1)",
        args: const { &[Arg::key()] },
    }
}

fn switch<'c>(call: &mut Call<'c, '_>, command: &Command<'c>) -> Result<(), Fault> {
    args::nothing(call.words)?;
    call.run(command)
}

pub(super) struct Pause;

impl Definition for Pause {
    const METADATA: Metadata = metadata(c"FLASH.PAUSE", c"Stops reserving for a while");

    fn call(call: &mut Call<'_, '_>) -> Result<(), Fault> {
        switch(call, &Command::Pause)
    }
}

pub(super) struct Resume;

impl Definition for Resume {
    const METADATA: Metadata = metadata(c"FLASH.RESUME", c"Lets reserving go on after a pause");

    fn call(call: &mut Call<'_, '_>) -> Result<(), Fault> {
        switch(call, &Command::Resume)
    }
}

pub(super) struct Close;

impl Definition for Close {
    const METADATA: Metadata = metadata(c"FLASH.CLOSE", c"Stops reserving for good");

    fn call(call: &mut Call<'_, '_>) -> Result<(), Fault> {
        switch(call, &Command::Close)
    }
}
