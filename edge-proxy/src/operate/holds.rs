//! Lists the holds and orders of a sale.

use redis::Value;
use serde::Serialize;

use super::deployment::{Deployment, Trouble};
use super::sale::Sale;
use crate::store::answer;

/// How many holds one call looks at.
const PAGE: u32 = 500;

/// Which holds to list.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// `held`, `confirmed`, `released` or `expired`; `None`: all.
    pub state: Option<&'static str>,
    pub buyer: Option<String>,
    /// Most holds to list; `None`: all.
    pub most: Option<usize>,
}

/// A hold, an order, or an id that is remembered. Times are unix milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hold {
    pub shard: u32,
    pub id: String,
    pub buyer: String,
    pub state: String,
    pub items: Vec<(String, u32)>,
    pub began: u64,
    pub deadline: u64,
    /// 0: it is no order.
    pub order_no: u64,
    pub reference: Option<String>,
    pub meta: Option<String>,
}

/// Hands the wanted holds to `each`, page by page, while the sale goes on: what is there all the time comes at least
/// once. Tells whether that was all.
///
/// # Errors
/// A server does not answer, or `each` fails.
pub async fn list(
    deployment: &Deployment,
    sale: &Sale,
    wanted: &Wanted,
    mut each: impl FnMut(Hold) -> anyhow::Result<()>,
) -> anyhow::Result<bool> {
    let shards = match &wanted.buyer {
        Some(buyer) => {
            let home = sale.home_of(buyer.as_bytes()).shard;
            home..home + 1
        }
        None => 0..sale.shards(),
    };
    let mut listed = 0;
    for shard in shards {
        let mut cursor = 0;
        loop {
            let (next, holds) = page(deployment, sale, shard, cursor, wanted.state).await?;
            for hold in holds.into_iter().filter(|hold| wanted.buyer.as_ref().is_none_or(|buyer| hold.buyer == *buyer))
            {
                if wanted.most.is_some_and(|most| listed >= most) {
                    return Ok(false);
                }
                listed += 1;
                each(hold)?;
            }
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
    }
    Ok(true)
}

async fn page(
    deployment: &Deployment,
    sale: &Sale,
    shard: u32,
    cursor: u64,
    state: Option<&str>,
) -> anyhow::Result<(u64, Vec<Hold>)> {
    let place = sale.place(shard);
    let mut command = deployment.flash("HOLDS", place.key);
    command.arg(cursor);
    if let Some(state) = state {
        command.arg("STATE").arg(state);
    }
    command.arg("COUNT").arg(PAGE);
    let reply = deployment.ask(place, &command).await?;
    let strange = |what: String| Trouble::Strange { server: sale.key_text(shard), what };
    let parts = match reply {
        Value::Array(parts) => <[Value; 2]>::try_from(parts).ok(),
        _ => None,
    };
    let Some([next, Value::Array(rows)]) = parts else {
        return Err(strange("no cursor and holds to a HOLDS".to_owned()).into());
    };
    let next = answer::number(&next).ok_or_else(|| strange("no cursor to a HOLDS".to_owned()))?;
    let mut holds = Vec::with_capacity(rows.len());
    for row in rows {
        let view = answer::hold(row)?.ok_or_else(|| strange("an empty hold".to_owned()))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        holds.push(Hold {
            shard,
            id: text(&view.id),
            buyer: text(&view.buyer),
            state: view.state,
            items: view.items.iter().map(|item| (text(&item.sku), item.quantity)).collect(),
            began: view.began_ms,
            deadline: view.deadline_ms,
            order_no: view.order_no,
            reference: view.reference,
            meta: view.meta,
        });
    }
    Ok((next, holds))
}
