//! What the server is told of a command: flags, keys, arity, and its documentation.

use crate::server::{Ctx, api};
use redis_module::raw;
use std::ffi::{CStr, CString, c_int};
use std::ptr::{null, null_mut};

/// What a command does to its key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Looks at it.
    Read,
    /// Changes what is in it.
    Update,
    /// Puts something into it.
    Insert,
    /// The first word is no key.
    NoKey,
}

/// One argument for `COMMAND DOCS`.
#[derive(Clone, Copy)]
pub(super) struct Arg {
    name: &'static CStr,
    kind: raw::RedisModuleCommandArgType,
    token: Option<&'static CStr>,
    flags: u32,
    parts: &'static [Arg],
}

impl Arg {
    const fn new(name: &'static CStr, kind: raw::RedisModuleCommandArgType) -> Self {
        Self { name, kind, token: None, flags: raw::REDISMODULE_CMD_ARG_NONE, parts: &[] }
    }

    pub const fn key() -> Self {
        Self::new(c"key", raw::RedisModuleCommandArgType_REDISMODULE_ARG_TYPE_KEY)
    }

    pub const fn text(name: &'static CStr) -> Self {
        Self::new(name, raw::RedisModuleCommandArgType_REDISMODULE_ARG_TYPE_STRING)
    }

    pub const fn integer(name: &'static CStr) -> Self {
        Self::new(name, raw::RedisModuleCommandArgType_REDISMODULE_ARG_TYPE_INTEGER)
    }

    pub const fn flag(name: &'static CStr, token: &'static CStr) -> Self {
        Self::new(name, raw::RedisModuleCommandArgType_REDISMODULE_ARG_TYPE_PURE_TOKEN).after(token)
    }

    pub const fn group(name: &'static CStr, parts: &'static [Arg]) -> Self {
        let mut arg = Self::new(name, raw::RedisModuleCommandArgType_REDISMODULE_ARG_TYPE_BLOCK);
        arg.parts = parts;
        arg
    }

    pub const fn one_of(name: &'static CStr, choices: &'static [Arg]) -> Self {
        let mut arg = Self::new(name, raw::RedisModuleCommandArgType_REDISMODULE_ARG_TYPE_ONEOF);
        arg.parts = choices;
        arg
    }

    /// Comes after this word.
    pub const fn after(mut self, token: &'static CStr) -> Self {
        self.token = Some(token);
        self
    }

    pub const fn optional(mut self) -> Self {
        self.flags |= raw::REDISMODULE_CMD_ARG_OPTIONAL;
        self
    }

    pub const fn multiple(mut self) -> Self {
        self.flags |= raw::REDISMODULE_CMD_ARG_MULTIPLE;
        self
    }
}

/// `ITEMS sku qty [sku qty ...]`
pub(super) const ITEMS: Arg =
    Arg::group(c"item", &[Arg::text(c"sku"), Arg::integer(c"qty")]).after(c"ITEMS").multiple();

/// All that the server is told.
pub(super) struct Metadata {
    pub name: &'static CStr,
    /// As for `RedisModule_CreateCommand`.
    pub flags: &'static CStr,
    pub access: Access,
    /// Words with the command; negative: at least so many.
    pub arity: c_int,
    pub summary: &'static CStr,
    pub complexity: &'static CStr,
    pub args: &'static [Arg],
}

pub(super) fn register(ctx: Ctx<'_>, metadata: &Metadata, entry: CommandEntry) -> bool {
    let (first, last, step) = if metadata.access == Access::NoKey { (0, 0, 0) } else { (1, 1, 1) };
    let (name, flags) = (metadata.name.as_ptr(), metadata.flags.as_ptr());
    // SAFETY: the context is that of OnLoad, the names are C strings.
    let created = unsafe { api!(RedisModule_CreateCommand)(ctx.raw(), name, Some(entry), flags, first, last, step) };
    created == raw::REDISMODULE_OK as c_int && describe(ctx, metadata) && categorise(ctx, metadata)
}

/// The category of all commands of the module.
const CATEGORY: &CStr = c"flashsale";

/// Makes the module's own ACL category, where the server has such.
pub(super) fn add_category(ctx: Ctx<'_>) {
    // SAFETY: a pointer of the API, set at load; Redis 7.0 and Valkey 8.0 lack it. The context is that of OnLoad.
    unsafe {
        if let Some(add) = raw::RedisModule_AddACLCategory
            && add(ctx.raw(), CATEGORY.as_ptr()) != raw::REDISMODULE_OK as c_int
        {
            ctx.warn("flashsale: the server refuses the ACL category @flashsale");
        }
    }
}

/// ACL categories, where the server lets a module choose them.
fn categorise(ctx: Ctx<'_>, metadata: &Metadata) -> bool {
    // SAFETY: pointers of the API, set at load; Redis 7.0 lacks the second.
    let (get, set) = unsafe { (raw::RedisModule_GetCommand, raw::RedisModule_SetCommandACLCategories) };
    let (Some(get), Some(set)) = (get, set) else { return true };
    let flags = metadata.flags.to_bytes().split(|&byte| byte == b' ');
    let has = |flag: &[u8]| flags.clone().any(|word| word == flag);
    let use_of_data = if has(b"write") { "write" } else { "read" };
    let speed = if has(b"fast") { "fast" } else { "slow" };
    // SAFETY: as above.
    let own = unsafe { raw::RedisModule_AddACLCategory }.map_or("", |_| " flashsale");
    let Ok(categories) = CString::new(format!("{use_of_data} {speed}{own}")) else { return false };
    // SAFETY: the context is that of OnLoad; the server copies what it keeps.
    unsafe {
        let command = get(ctx.raw(), metadata.name.as_ptr());
        !command.is_null() && set(command, categories.as_ptr()) == raw::REDISMODULE_OK as c_int
    }
}

type CommandEntry = unsafe extern "C" fn(*mut raw::RedisModuleCtx, *mut *mut raw::RedisModuleString, c_int) -> c_int;

/// Key specification and documentation, where the server knows them.
fn describe(ctx: Ctx<'_>, metadata: &Metadata) -> bool {
    // SAFETY: pointers of the API, set at load; a server without these calls leaves them null.
    let (Some(get), Some(set)) = (unsafe { raw::RedisModule_GetCommand }, unsafe { raw::RedisModule_SetCommandInfo })
    else {
        return true;
    };
    let mut key_specs = key_specs(metadata.access);
    let mut args = Args::default();
    let info = raw::RedisModuleCommandInfo {
        version: &VERSION.0,
        summary: metadata.summary.as_ptr(),
        complexity: metadata.complexity.as_ptr(),
        since: c"0.1.0".as_ptr(),
        history: null_mut(),
        tips: null(),
        arity: metadata.arity,
        key_specs: if metadata.access == Access::NoKey { null_mut() } else { key_specs.as_mut_ptr() },
        args: args.lay_out(metadata.args),
    };
    // SAFETY: the server copies all that `info` leads to, which lives until the end of this function.
    unsafe {
        let command = get(ctx.raw(), metadata.name.as_ptr());
        !command.is_null() && set(command, &info) == raw::REDISMODULE_OK as c_int
    }
}

struct InfoVersion(raw::RedisModuleCommandInfoVersion);

// SAFETY: plain numbers, never written.
unsafe impl Sync for InfoVersion {}

/// The sizes of the structures that this file was compiled with.
static VERSION: InfoVersion = InfoVersion(raw::RedisModuleCommandInfoVersion {
    version: 1,
    sizeof_historyentry: size_of::<raw::RedisModuleCommandHistoryEntry>(),
    sizeof_keyspec: size_of::<raw::RedisModuleCommandKeySpec>(),
    sizeof_arg: size_of::<raw::RedisModuleCommandArg>(),
});

fn key_specs(access: Access) -> [raw::RedisModuleCommandKeySpec; 2] {
    let flags = match access {
        Access::Read => raw::REDISMODULE_CMD_KEY_RO | raw::REDISMODULE_CMD_KEY_ACCESS,
        Access::Update => {
            raw::REDISMODULE_CMD_KEY_RW | raw::REDISMODULE_CMD_KEY_ACCESS | raw::REDISMODULE_CMD_KEY_UPDATE
        }
        Access::Insert => raw::REDISMODULE_CMD_KEY_OW | raw::REDISMODULE_CMD_KEY_INSERT,
        Access::NoKey => 0,
    };
    // SAFETY: all zero ends the list, and is the start of a specification.
    let mut specs: [raw::RedisModuleCommandKeySpec; 2] = unsafe { std::mem::zeroed() };
    specs[0].flags = flags.into();
    specs[0].begin_search_type = raw::RedisModuleKeySpecBeginSearchType_REDISMODULE_KSPEC_BS_INDEX;
    specs[0].bs.index.pos = 1;
    specs[0].find_keys_type = raw::RedisModuleKeySpecFindKeysType_REDISMODULE_KSPEC_FK_RANGE;
    specs[0].fk.range = raw::RedisModuleCommandKeySpec__bindgen_ty_2__bindgen_ty_1 { lastkey: 0, keystep: 1, limit: 0 };
    specs
}

/// Keeps the arrays that the server's structure points into.
#[derive(Default)]
struct Args {
    arrays: Vec<Box<[raw::RedisModuleCommandArg]>>,
}

impl Args {
    /// An array that ends with an all-zero element.
    fn lay_out(&mut self, args: &[Arg]) -> *mut raw::RedisModuleCommandArg {
        if args.is_empty() {
            return null_mut();
        }
        // SAFETY: all zero is the end of the list, and null pointers leave fields out.
        let end: raw::RedisModuleCommandArg = unsafe { std::mem::zeroed() };
        let mut array: Vec<_> = args.iter().map(|arg| self.lay_out_one(arg, end)).collect();
        array.push(end);
        self.arrays.push(array.into_boxed_slice());
        self.arrays.last_mut().map_or(null_mut(), |array| array.as_mut_ptr())
    }

    fn lay_out_one(&mut self, arg: &Arg, empty: raw::RedisModuleCommandArg) -> raw::RedisModuleCommandArg {
        let is_key = arg.kind == raw::RedisModuleCommandArgType_REDISMODULE_ARG_TYPE_KEY;
        raw::RedisModuleCommandArg {
            name: arg.name.as_ptr(),
            type_: arg.kind,
            key_spec_index: if is_key { 0 } else { -1 },
            token: arg.token.map_or(null(), CStr::as_ptr),
            flags: arg.flags as c_int,
            subargs: self.lay_out(arg.parts),
            ..empty
        }
    }
}
