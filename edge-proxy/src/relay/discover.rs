//! Finds sales by a pattern of their keys.

use redis::RedisResult;
use redis::aio::MultiplexedConnection;

use super::link::{bytes, command, items, unexpected};

/// The type name of a sale, as `TYPE` answers it.
const SALE_TYPE: &str = "flashsale";

/// All keys of sales that match, by `SCAN`: only keys of the module's own type, so that no stream of anybody else is
/// ever read or trimmed.
pub async fn discover(connection: &mut MultiplexedConnection, pattern: &str) -> RedisResult<Vec<Vec<u8>>> {
    let mut cursor = b"0".to_vec();
    let mut found = Vec::new();
    loop {
        let mut scan = command(&["SCAN"]);
        scan.arg(&cursor).arg("MATCH").arg(pattern);
        scan.arg("COUNT").arg(1_000).arg("TYPE").arg(SALE_TYPE);
        let mut answer = items(scan.query_async(connection).await?)?.into_iter();
        let next = answer.next().and_then(bytes);
        cursor = next.ok_or_else(|| unexpected("SCAN answers a cursor"))?;
        let keys = items(answer.next().unwrap_or_default())?;
        found.extend(keys.into_iter().filter_map(bytes));
        if cursor == b"0" {
            return Ok(found);
        }
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
