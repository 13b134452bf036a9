//! The last stage of the funnel: the calls of a sale, carried out by the stock.

use std::sync::Arc;
use std::time::Instant;

use anyhow::ensure;
use bytes::Bytes;
use rand::RngExt;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::config::RedisConfig;
use crate::funnel::known::Known;
use crate::funnel::visit::Caller;
use crate::http::input::{Input, Item};
use crate::http::problem::{Problem, Refusal};
use crate::http::reply::{Reply, Shown, shown};
use crate::http::routes::Call;
use crate::store::{Answer, Called, Command, HoldView, SaleStore};

pub mod channel;
pub mod picture;
pub mod refusals;
pub mod sweep;

use picture::Picture;
use refusals::Refusals;

/// The `[sale]` section.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SaleConfig {
    /// So many units or fewer are "few".
    pub few_at: u64,
    /// 425, or 403 where a browser or proxy in between retries a 425 at once.
    pub not_open_status: u16,
}

impl Default for SaleConfig {
    fn default() -> Self {
        Self { few_at: 10, not_open_status: 425 }
    }
}

impl SaleConfig {
    pub fn validate(&self) -> anyhow::Result<()> {
        ensure!(
            matches!(self.not_open_status, 403 | 425),
            "[sale] not_open_status: {} is neither 425 nor 403",
            self.not_open_status
        );
        Ok(())
    }
}

/// A call that has passed the funnel.
#[derive(Debug)]
pub struct Order {
    pub call: Call,
    pub sale: Bytes,
    pub key: Vec<u8>,
    /// The hold named in the path.
    pub hold: Bytes,
    pub caller: Caller,
    pub input: Input,
    /// The id that `Idempotency-Key` asks for.
    pub wanted_id: Option<Bytes>,
    /// When the request came, unix milliseconds by this machine's clock.
    pub now_ms: u64,
    /// When it had passed the funnel.
    pub asked_at: Instant,
}

/// Carries calls out.
pub struct Counter {
    store: Arc<dyn SaleStore>,
    known: Arc<Known>,
    refusals: Arc<Refusals>,
    few_at: u64,
    timeout_ms: u64,
}

/// What hold a sale gives if it cannot be asked how long (the contract's default).
const HOLD_MS_DEFAULT: u64 = 300_000;

impl Counter {
    pub fn new(
        store: Arc<dyn SaleStore>,
        known: Arc<Known>,
        refusals: Arc<Refusals>,
        sale: &SaleConfig,
        redis: &RedisConfig,
    ) -> Self {
        Self { store, known, refusals, few_at: sale.few_at, timeout_ms: redis.timeout_ms }
    }

    /// Carries out `order`.
    ///
    /// # Errors
    /// The refusal to answer with.
    pub async fn serve(&self, order: Order) -> Result<Reply, Refusal> {
        match order.call {
            Call::Status => self.status(&order).await,
            // Given out before the counter, by whoever has the keys.
            Call::Ticket => Err(Problem::NoRoute.into()),
            Call::Reserve => self.reserve(order).await,
            Call::Order => self.order(order).await,
            Call::Show => self.show(&order).await,
            Call::Release => self.release(&order).await,
            Call::Extend => self.extend(&order).await,
            Call::Confirm => self.confirm(order).await,
        }
    }

    async fn status(&self, order: &Order) -> Result<Reply, Refusal> {
        let picture = self
            .known
            .picture_or_stale(&order.key)
            .await
            .map_err(|error| self.refusals.of_error(&error, order.call, None))?;
        let server_ms = self.known.server_ms(order.now_ms);
        let body = window(&order.sale, &picture, server_ms, self.few_at);
        Ok(Reply::json(200, "ok", &body).cached("public, max-age=1"))
    }

    async fn reserve(&self, mut order: Order) -> Result<Reply, Refusal> {
        let command = Command::Reserve {
            id: order.wanted_id.clone(),
            buyer: buyer(&order)?,
            items: wanted(&mut order)?,
            meta: order.input.meta.take(),
            not_after_ms: self.known.server_ms(order.now_ms) + self.timeout_ms,
        };
        let called = self.call(&order, &command).await?;
        match &called.answer {
            Answer::Reserved { id, deadline_ms, repeated } => {
                let (status, word) = if *repeated { (200, "repeated") } else { (201, "reserved") };
                let items = command.items().iter().map(ItemShown::of).collect();
                Ok(Reply::json(status, word, &HoldShown { deadline: *deadline_ms, hold: Shown(id), items }))
            }
            // The same request again, after the hold has become an order.
            Answer::Confirmed { id, order_no } if order.wanted_id.is_some() => Ok(ordered(id, *order_no)),
            refused => Err(self.refuse(&order.key, command.items(), order.now_ms, order.asked_at, refused).await),
        }
    }

    /// The refusal to tell. A shard that is empty does not know whether others are: the picture of all of them does.
    async fn refuse(&self, key: &[u8], items: &[Item], now_ms: u64, asked_at: Instant, answer: &Answer) -> Refusal {
        if let [item] = items {
            self.known.refused(key, item, answer, asked_at);
        }
        if matches!(answer, Answer::Empty { .. })
            && let Ok(picture) = self.known.picture(key).await
            && let Err(refusal) = self.known.judge(&picture, items, now_ms, &self.refusals)
        {
            return refusal;
        }
        self.refusals.of_answer(answer)
    }

    async fn order(&self, mut order: Order) -> Result<Reply, Refusal> {
        let command = Command::Order {
            // An order whose answer is lost must have a name to ask for it by.
            id: order.wanted_id.clone().unwrap_or_else(random_id),
            buyer: buyer(&order)?,
            items: wanted(&mut order)?,
            reference: order.input.reference.take(),
            meta: order.input.meta.take(),
        };
        let called = self.call(&order, &command).await?;
        if matches!(called.answer, Answer::Empty { .. } | Answer::AllHeld { .. } | Answer::SoldOut { .. }) {
            return Err(self.refuse(&order.key, command.items(), order.now_ms, order.asked_at, &called.answer).await);
        }
        self.promise(&order.key, called)
    }

    async fn confirm(&self, order: Order) -> Result<Reply, Refusal> {
        self.check_owner(&order).await?;
        let command = Command::Confirm {
            id: order.hold.clone(),
            buyer: order.caller.buyer().cloned(),
            reference: order.input.reference.clone(),
            meta: order.input.meta.clone(),
        };
        let called = self.call(&order, &command).await?;
        self.promise(&order.key, called)
    }

    /// An order is only told when it is safe.
    fn promise(&self, key: &[u8], called: Called) -> Result<Reply, Refusal> {
        if matches!(called.answer, Answer::Confirmed { .. }) {
            self.known.confirmed(key);
        }
        match &called.answer {
            Answer::Confirmed { id, order_no } if called.safe => Ok(ordered(id, *order_no)),
            Answer::Confirmed { id, .. } => Err(refusals::not_safe_yet(id)),
            refused => Err(self.refusals.of_answer(refused)),
        }
    }

    async fn show(&self, order: &Order) -> Result<Reply, Refusal> {
        let hold = self.find(order).await?.ok_or(Problem::NotFound)?;
        may_see(&order.caller, &hold)?;
        let mut body = hold_json(&hold);
        if order.caller == Caller::Shop {
            body["buyer"] = shown(&hold.buyer).into();
        }
        Ok(Reply::json(200, "ok", &body))
    }

    async fn release(&self, order: &Order) -> Result<Reply, Refusal> {
        // An unknown id may be released too: a RESERVE that is still on its way is then refused.
        self.check_owner_if_known(order).await?;
        let (id, buyer) = (order.hold.clone(), order.caller.buyer().cloned());
        let called = self.call(order, &Command::Release { id, buyer }).await?;
        match &called.answer {
            Answer::Released => {
                self.known.released(&order.key);
                Ok(Reply::no_content("released"))
            }
            ended => Err(self.refusals.of_answer(ended)),
        }
    }

    async fn extend(&self, order: &Order) -> Result<Reply, Refusal> {
        self.check_owner(order).await?;
        let by_ms = match order.input.extend_ms {
            Some(ms) => ms,
            None => match self.known.picture(&order.key).await {
                Ok(picture) if picture.sale.hold_ms > 0 => picture.sale.hold_ms,
                _ => HOLD_MS_DEFAULT,
            },
        };
        let (id, buyer) = (order.hold.clone(), order.caller.buyer().cloned());
        let called = self.call(order, &Command::Extend { id, buyer, by_ms }).await?;
        match &called.answer {
            Answer::Extended { id, deadline_ms } => {
                let body = json!({"hold": shown(id), "deadline": deadline_ms});
                Ok(Reply::json(200, "extended", &body))
            }
            ended => Err(self.refusals.of_answer(ended)),
        }
    }

    async fn call(&self, order: &Order, command: &Command) -> Result<Called, Refusal> {
        self.store.call(&order.key, command).await.map_err(|error| {
            log::debug!("{} of {}: {error}", command.name(), shown(&order.key));
            let id = command.id().map(|id| &id[..]);
            self.refusals.of_error(&error, order.call, id)
        })
    }

    async fn find(&self, order: &Order) -> Result<Option<HoldView>, Refusal> {
        self.store
            .hold(&order.key, &order.hold, order.caller.buyer().map(|buyer| &buyer[..]))
            .await
            .map_err(|error| self.refusals.of_error(&error, Call::Show, Some(&order.hold)))
    }

    async fn check_owner(&self, order: &Order) -> Result<(), Refusal> {
        if order.caller == Caller::Shop {
            return Ok(());
        }
        let hold = self.find(order).await?.ok_or(Problem::NotFound)?;
        may_see(&order.caller, &hold)
    }

    async fn check_owner_if_known(&self, order: &Order) -> Result<(), Refusal> {
        if order.caller == Caller::Shop {
            return Ok(());
        }
        match self.find(order).await? {
            Some(hold) => may_see(&order.caller, &hold),
            None => Ok(()),
        }
    }
}

fn may_see(caller: &Caller, hold: &HoldView) -> Result<(), Refusal> {
    match caller {
        Caller::Shop => Ok(()),
        Caller::Buyer(buyer) if *buyer == hold.buyer => Ok(()),
        // An id released before it was reserved has nobody.
        Caller::Buyer(_) if hold.buyer.is_empty() => Ok(()),
        Caller::Buyer(_) => Err(Problem::NotYours.into()),
        Caller::Unknown => Err(Problem::Token.into()),
    }
}

fn buyer(order: &Order) -> Result<Bytes, Refusal> {
    match &order.caller {
        Caller::Buyer(buyer) => Ok(buyer.clone()),
        Caller::Shop => Err(Problem::Token.because("Units are set aside for a buyer: send the buyer's token.")),
        Caller::Unknown => Err(Problem::Token.into()),
    }
}

/// Takes what is wanted out of the order.
fn wanted(order: &mut Order) -> Result<Vec<Item>, Refusal> {
    if order.input.items.is_empty() {
        return Err(Problem::BadRequest
            .because(r#"Say what is wanted: `?sku=S&qty=1` with no body, or {"items":[{"sku":"S","qty":1}]}"#));
    }
    Ok(std::mem::take(&mut order.input.items))
}

/// 128 random bits: nobody can guess another's, and no two are equal.
fn random_id() -> Bytes {
    Bytes::from(format!("{:032x}", rand::rng().random::<u128>()))
}

fn ordered(id: &[u8], order_no: u64) -> Reply {
    Reply::json(200, "confirmed", &json!({"order": shown(id), "no": order_no}))
}

/// A hold as the answer to its reservation shows it. Written as it stands, because a rush asks for nothing as often.
#[derive(Serialize)]
struct HoldShown<'a> {
    deadline: u64,
    hold: Shown<'a>,
    items: Vec<ItemShown<'a>>,
}

#[derive(Serialize)]
struct ItemShown<'a> {
    qty: u32,
    sku: Shown<'a>,
}

impl<'a> ItemShown<'a> {
    fn of(item: &'a Item) -> Self {
        Self { qty: item.quantity, sku: Shown(&item.sku) }
    }
}

fn hold_json(hold: &HoldView) -> Value {
    let mut body = json!({
        "hold": shown(&hold.id),
        "state": hold.state,
        "items": hold.items.iter().map(ItemShown::of).collect::<Vec<_>>(),
        "began": hold.began_ms,
        "deadline": hold.deadline_ms,
    });
    if hold.order_no > 0 {
        body["no"] = hold.order_no.into();
    }
    if let Some(reference) = &hold.reference {
        body["ref"] = reference.as_str().into();
    }
    if let Some(meta) = &hold.meta {
        body["meta"] = meta.as_str().into();
    }
    body
}

/// What everybody may see of a sale.
fn window(sale: &[u8], picture: &Picture, server_ms: u64, few_at: u64) -> Value {
    let time = |ms: u64| if ms == 0 { Value::Null } else { ms.into() };
    let skus: Map<String, Value> =
        picture.supplies(few_at).map(|(sku, supply)| (shown(sku), supply.name().into())).collect();
    json!({
        "sale": shown(sale),
        "state": picture.state(server_ms).name(),
        "opens_at": time(picture.sale.opens_at_ms),
        "closes_at": time(picture.sale.closes_at_ms),
        "server_time": server_ms,
        "skus": skus,
    })
}
