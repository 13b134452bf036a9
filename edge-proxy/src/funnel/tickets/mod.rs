//! Stage `ticket`: tickets of a sale, given out for an identity token and shown instead of it.
//!
//! `POST /flash/{sale}/ticket` costs a token and, if the sale asks for one, a challenge; the ticket that it
//! gives costs a microsecond to check. Its id is the hold's id: shown twice, it finds the same hold. So it is
//! what the hidden addresses of older systems were, and needs no memory: every proxy with the same key
//! takes it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use http::HeaderName;
use rand::RngExt;
use serde::Deserialize;
use serde_json::json;

use super::challenges::{Applicant, Challenges};
use super::known::Known;
use super::stage::{Check, Mode, Stage, Verdict, now};
use super::visit::{Caller, Visit};
use crate::http::problem::{Problem, Refusal};
use crate::http::reply::Reply;
use crate::http::routes::Call;
use crate::sale::refusals::Refusals;
use crate::store::Answer;

mod seal;

use seal::{Seal, TicketKeyConfig};

/// The header that carries a ticket.
pub const HEADER: HeaderName = HeaderName::from_static("flash-ticket");

/// Whether reserving takes a ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TicketsMode {
    /// There are no tickets.
    #[default]
    Off,
    /// A ticket or an identity token.
    Optional,
    /// Only a ticket.
    Required,
}

/// The `[tickets]` section.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TicketsConfig {
    pub mode: TicketsMode,
    /// How long a ticket is good, from when it was given out or the sale opens.
    pub ttl_s: u64,
    /// How long before the opening tickets are given out.
    pub early_s: u64,
    /// The first signs, all verify.
    pub keys: Vec<TicketKeyConfig>,
}

impl Default for TicketsConfig {
    fn default() -> Self {
        Self { mode: TicketsMode::Off, ttl_s: 600, early_s: 900, keys: Vec::new() }
    }
}

/// A hold that has ended is remembered for a day (RETAIN): a ticket must not outlive that.
const TTL_S_MAX: u64 = 43_200;

impl TicketsConfig {
    pub fn validate(&self) -> anyhow::Result<()> {
        ensure!((1..=TTL_S_MAX).contains(&self.ttl_s), "[tickets] ttl_s: {} is not in 1 to {TTL_S_MAX}", self.ttl_s);
        if self.mode != TicketsMode::Off || !self.keys.is_empty() {
            Seal::new(&self.keys)?;
        }
        Ok(())
    }
}

/// A request for a ticket, when it has passed the funnel.
pub struct Request<'a> {
    pub sale: &'a [u8],
    /// Of the sale in Redis.
    pub key: &'a [u8],
    pub caller: &'a Caller,
    pub address: IpAddr,
    pub now_ms: u64,
    /// The solution of the sale's challenge.
    pub challenge: Option<&'a str>,
}

/// Gives tickets out and takes them.
pub struct Tickets {
    mode: TicketsMode,
    ttl: Duration,
    early: Duration,
    seal: Option<Seal>,
    challenges: Challenges,
    known: Arc<Known>,
    refusals: Arc<Refusals>,
}

impl Tickets {
    /// # Errors
    /// A key cannot be read.
    pub fn new(
        config: &TicketsConfig,
        challenges: Challenges,
        known: Arc<Known>,
        refusals: Arc<Refusals>,
    ) -> anyhow::Result<Self> {
        let seal = match config.mode {
            TicketsMode::Off => None,
            _ => Some(Seal::new(&config.keys)?),
        };
        Ok(Self {
            mode: config.mode,
            ttl: Duration::from_secs(config.ttl_s),
            early: Duration::from_secs(config.early_s),
            seal,
            challenges,
            known,
            refusals,
        })
    }

    /// Gives a buyer a ticket.
    ///
    /// # Errors
    /// There are no tickets, the caller is no buyer, the sale opens much later, or its challenge is not solved.
    pub async fn issue(&self, request: &Request<'_>) -> Result<Reply, Refusal> {
        let Request { sale, key, caller, address, now_ms, challenge } = *request;
        let seal = self.seal.as_ref().ok_or_else(no_tickets)?;
        let Caller::Buyer(buyer) = caller else {
            return Err(Problem::Token.because("A ticket is a buyer's: send the buyer's token."));
        };
        let picture = self
            .known
            .picture_or_stale(key)
            .await
            .map_err(|error| self.refusals.of_error(&error, Call::Status, None))?;
        // By this machine's clock, like the ticket's own time.
        let opens_ms = self.known.here_ms(picture.sale.opens_at_ms);
        if opens_ms > now_ms + self.early.as_millis() as u64 {
            return Err(self.refusals.of_answer(&Answer::NotOpen { opens_at_ms: picture.sale.opens_at_ms }));
        }
        self.challenges.demand(&Applicant { sale, buyer, address, now_ms }, challenge).await?;
        let expires_ms = now_ms.max(opens_ms) + self.ttl.as_millis() as u64;
        let ticket = seal.write(sale, buyer, expires_ms, rand::rng().random());
        Ok(Reply::json(200, "ticket", &json!({"ticket": ticket, "expires_at": expires_ms})))
    }

    fn show(&self, seal: &Seal, visit: &mut Visit<'_>) -> Result<(), Refusal> {
        let mut values = visit.headers.get_all(HEADER).iter();
        let Some(value) = values.next() else {
            return match self.mode {
                TicketsMode::Required => {
                    Err(refused("This sale takes tickets only: fetch one by POST /flash/{sale}/ticket."))
                }
                _ => Ok(()),
            };
        };
        if values.next().is_some() {
            return Err(refused("Two tickets came in one request; send one."));
        }
        let ticket = seal.read(value.as_bytes(), &visit.route.sale, visit.now_ms).map_err(refused)?;
        visit.caller = Caller::Buyer(ticket.buyer);
        visit.ticket = Some(ticket.hold);
        Ok(())
    }
}

fn no_tickets() -> Refusal {
    Problem::NoRoute.because("There are no tickets here: send the shop's token to .../holds.")
}

fn refused(why: &'static str) -> Refusal {
    Problem::Ticket.because(why)
}

/// Stage `ticket`.
pub struct TicketStage(pub Arc<Tickets>);

impl Stage for TicketStage {
    fn name(&self) -> &'static str {
        "ticket"
    }

    fn mode(&self) -> Mode {
        if self.0.seal.is_some() { Mode::Enforce } else { Mode::Off }
    }

    fn check<'a>(&'a self, visit: &'a mut Visit<'_>) -> Check<'a> {
        now(self.judge(visit))
    }
}

impl TicketStage {
    fn judge(&self, visit: &mut Visit<'_>) -> Verdict {
        match &self.0.seal {
            Some(seal) if visit.route.call.takes_stock() => self.0.show(seal, visit),
            _ => Ok(()),
        }
    }
}
