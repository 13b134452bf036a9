//! The server's cluster and replication API, in safe clothes. Like [`crate::server`]: main thread, callbacks only.

use crate::server::{Ctx, ServerString, api};
use flashsale_core::acks::Replication;
use redis_module::raw;
use std::ffi::{c_char, c_int};

/// Bytes of a node's id.
const ID_BYTES: usize = raw::REDISMODULE_NODE_ID_LEN as usize;

/// The name of a node of the cluster: 40 hexadecimal digits.
pub(crate) type NodeId = [u8; ID_BYTES];

/// Kind of our messages; the server adds the module's name to it.
const MESSAGES: u8 = 1;

/// A callback for messages of other nodes.
pub(crate) type Receiver = unsafe extern "C" fn(*mut raw::RedisModuleCtx, *const c_char, u8, *const u8, u32);

/// Has the server call for each message of this module that arrives on the bus.
pub(crate) fn receive_messages(ctx: Ctx<'_>, receiver: Receiver) {
    // SAFETY: the context is that of OnLoad.
    unsafe { api!(RedisModule_RegisterClusterMessageReceiver)(ctx.raw(), MESSAGES, Some(receiver)) };
}

/// Sender and content of a message.
///
/// # Safety
/// The arguments are those of a [`Receiver`] that is running.
pub(crate) unsafe fn received<'m>(sender: *const c_char, content: *const u8, len: u32) -> (NodeId, &'m [u8]) {
    // SAFETY: ids have 40 bytes and no end mark.
    unsafe { (id_at(sender), std::slice::from_raw_parts(content, len as usize)) }
}

/// # Safety
/// There is a node's id at `id`.
unsafe fn id_at(id: *const c_char) -> NodeId {
    let mut bytes = [0; ID_BYTES];
    // SAFETY: both are at least as long.
    unsafe { std::ptr::copy_nonoverlapping(id.cast::<u8>(), bytes.as_mut_ptr(), ID_BYTES) };
    bytes
}

/// An id as the API takes it: some servers look for its end.
fn with_end(id: &NodeId) -> [u8; ID_BYTES + 1] {
    let mut bytes = [0; ID_BYTES + 1];
    bytes[..ID_BYTES].copy_from_slice(id);
    bytes
}

/// Puts a message into the queue for a node. `false` if there is no such node; what was queued may still be lost.
pub(crate) fn send(ctx: Ctx<'_>, to: &NodeId, message: &[u8]) -> bool {
    let to = with_end(to);
    // SAFETY: id and message are copied.
    let status = unsafe {
        let (start, len) = (message.as_ptr().cast::<c_char>(), message.len() as u32);
        api!(RedisModule_SendClusterMessage)(ctx.raw(), to.as_ptr().cast::<c_char>(), MESSAGES, start, len)
    };
    status == raw::REDISMODULE_OK as c_int
}

/// This node, if it is one of a cluster.
pub(crate) fn my_id() -> Option<NodeId> {
    // SAFETY: the id is the server's own; null outside of clusters.
    unsafe {
        let id = api!(RedisModule_GetMyClusterID)();
        (!id.is_null()).then(|| id_at(id))
    }
}

/// The other primaries of the cluster that are not known to have failed.
pub(crate) fn other_primaries(ctx: Ctx<'_>) -> Vec<NodeId> {
    let mut count = 0;
    // SAFETY: the list is the server's until it is freed; what is left out is null, which the API allows.
    unsafe {
        let list = api!(RedisModule_GetClusterNodesList)(ctx.raw(), &mut count);
        if list.is_null() {
            return Vec::new();
        }
        let ids: Vec<NodeId> = (0..count).map(|at| id_at(*list.add(at))).collect();
        api!(RedisModule_FreeClusterNodesList)(list);
        ids.into_iter().filter(|id| is_other_primary(ctx, id)).collect()
    }
}

fn is_other_primary(ctx: Ctx<'_>, id: &NodeId) -> bool {
    // Longer than any address, and than an id.
    let (mut address, mut primary) = ([0_u8; 128], [0_u8; 128]);
    let (mut port, mut flags) = (0, 0);
    let id = with_end(id);
    // SAFETY: the buffers are longer than what the server writes.
    let status = unsafe {
        let id = id.as_ptr().cast::<c_char>();
        let (address, primary) = (address.as_mut_ptr().cast::<c_char>(), primary.as_mut_ptr().cast::<c_char>());
        api!(RedisModule_GetClusterNodeInfo)(ctx.raw(), id, address, primary, &mut port, &mut flags)
    };
    let has = |flag: u32| flags & flag as c_int != 0;
    status == raw::REDISMODULE_OK as c_int
        && has(raw::REDISMODULE_NODE_MASTER)
        && !has(raw::REDISMODULE_NODE_MYSELF)
        && !has(raw::REDISMODULE_NODE_FAIL)
}

/// Whether the key is here, its slot is this node's, and the cluster is well.
pub(crate) fn owns(ctx: Ctx<'_>, key: ServerString<'_>) -> bool {
    exists(ctx, key) == Some(1)
}

/// Whether the key, if it exists, is on another node: its slot is another one's, or on its way to or from here.
pub(crate) fn is_elsewhere(ctx: Ctx<'_>, key: ServerString<'_>) -> bool {
    // A client that has sent ASKING lends its privilege to what the module calls: so this is asked in a context of its
    // own, which has no client.
    // SAFETY: the context is used here alone, on the main thread, and freed.
    unsafe {
        let own = api!(RedisModule_GetDetachedThreadSafeContext)(ctx.raw());
        let found = exists(Ctx::from_raw(own), key);
        api!(RedisModule_FreeThreadSafeContext)(own);
        found.is_none()
    }
}

/// Opening a key asks for no slot; a command that a module calls is refused as a client's would be: then `None`.
fn exists(ctx: Ctx<'_>, key: ServerString<'_>) -> Option<i64> {
    // SAFETY: the format names a string of the server; the reply is freed.
    unsafe {
        let reply = api!(RedisModule_Call)(ctx.raw(), c"EXISTS".as_ptr(), c"s".as_ptr(), key.raw());
        if reply.is_null() {
            return None;
        }
        let is_number = api!(RedisModule_CallReplyType)(reply) == raw::REDISMODULE_REPLY_INTEGER as c_int;
        let count = is_number.then(|| api!(RedisModule_CallReplyInteger)(reply));
        api!(RedisModule_FreeCallReply)(reply);
        count
    }
}

/// What the replicas of this primary have. `None` on a replica.
pub(crate) fn replication(ctx: Ctx<'_>) -> Option<Replication> {
    // SAFETY: replies are checked for null and for their type, and freed; parts live as long as the whole.
    unsafe {
        let reply = api!(RedisModule_Call)(ctx.raw(), c"ROLE".as_ptr(), c"".as_ptr());
        if reply.is_null() {
            return None;
        }
        let part = |of: *mut raw::RedisModuleCallReply, at: usize| api!(RedisModule_CallReplyArrayElement)(of, at);
        let kind = |of: *mut raw::RedisModuleCallReply| api!(RedisModule_CallReplyType)(of);
        let (array, number) = (raw::REDISMODULE_REPLY_ARRAY as c_int, raw::REDISMODULE_REPLY_INTEGER as c_int);
        let mut found = None;
        if kind(reply) == array && crate::server::text_of(part(reply, 0)) == Some(b"master") {
            let (offset, replicas) = (part(reply, 1), part(reply, 2));
            if !offset.is_null() && kind(offset) == number && !replicas.is_null() && kind(replicas) == array {
                let acknowledged = (0..api!(RedisModule_CallReplyLength)(replicas)).map(|at| {
                    let text = crate::server::text_of(part(part(replicas, at), 2));
                    text.and_then(|text| str::from_utf8(text).ok()?.parse().ok()).unwrap_or(0)
                });
                let offset = api!(RedisModule_CallReplyInteger)(offset) as u64;
                found = Some(Replication { offset, acknowledged: acknowledged.collect() });
            }
        }
        api!(RedisModule_FreeCallReply)(reply);
        found
    }
}

/// Asks every replica to acknowledge at once what it has; they do so once a second anyway.
pub(crate) fn ask_for_acknowledgements(ctx: Ctx<'_>) {
    // SAFETY: the format names C strings, and keeps the command out of the append-only file.
    unsafe {
        let (name, format) = (c"REPLCONF".as_ptr(), c"ccA".as_ptr());
        api!(RedisModule_Replicate)(ctx.raw(), name, format, c"GETACK".as_ptr(), c"*".as_ptr());
    }
}
