//! Finds sales by a pattern of their keys.

use flashsale_core::sharding::has_stream_in_its_slot as has_orders_of_its_own;
use redis::RedisResult;
use redis::aio::MultiplexedConnection;

use super::link::{bytes, command, items, unexpected};
use crate::store::nodes::Dialect;

/// All keys of sales that match, by `SCAN`: only keys of the module's own type, or those that the library takes for
/// its own, so that no stream of anybody else is ever read or trimmed.
pub async fn discover(
    connection: &mut MultiplexedConnection,
    pattern: &str,
    dialect: Dialect,
) -> RedisResult<Vec<Vec<u8>>> {
    let mut cursor = b"0".to_vec();
    let mut found = Vec::new();
    loop {
        let mut scan = command(&["SCAN"]);
        scan.arg(&cursor).arg("MATCH").arg(pattern);
        scan.arg("COUNT").arg(1_000).arg("TYPE").arg(dialect.key_type());
        let mut answer = items(scan.query_async(connection).await?)?.into_iter();
        let next = answer.next().and_then(bytes);
        cursor = next.ok_or_else(|| unexpected("SCAN answers a cursor"))?;
        let keys = items(answer.next().unwrap_or_default())?;
        for key in keys.into_iter().filter_map(bytes) {
            if dialect == Dialect::Module || is_the_librarys(connection, &key).await? {
                found.push(key);
            }
        }
        if cursor == b"0" {
            return Ok(found);
        }
    }
}

/// Whether a hash is a sale: it has the record of one, and the library can read it.
async fn is_the_librarys(connection: &mut MultiplexedConnection, key: &[u8]) -> RedisResult<bool> {
    if !Dialect::Functions.may_be_sale(key) || !has_orders_of_its_own(key) {
        return Ok(false);
    }
    let mut record = command(&["HEXISTS"]);
    if !record.arg(key).arg("sale").query_async::<bool>(connection).await? {
        return Ok(false);
    }
    match Dialect::Functions.command("INFO", key).query_async::<redis::Value>(connection).await {
        Ok(_) => Ok(true),
        // The library's own answer to a key that is none of its own.
        Err(error) if error.code().is_some() => Ok(false),
        Err(error) => Err(error),
    }
}

/// The pattern of all keys that begin with `prefix`.
pub fn prefix_pattern(prefix: &str) -> String {
    let special = |sign| matches!(sign, '*' | '?' | '[' | ']' | '\\' | '^');
    let mut pattern = String::new();
    for sign in prefix.chars() {
        if special(sign) {
            pattern.push('\\');
        }
        pattern.push(sign);
    }
    pattern + "*"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_taken_literally() {
        assert_eq!(prefix_pattern("sale:"), "sale:*");
        assert_eq!(prefix_pattern("a*b[c]"), r"a\*b\[c\]*");
        assert_eq!(prefix_pattern(""), "*");
    }
}
