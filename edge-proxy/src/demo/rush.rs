//! Lets the crowd loose and shows how far it is.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::{interval, sleep};

use super::client::{Answer, Browser};
use super::crowd::{Buyer, Manner, Then, buyer};
use super::stage::{SALE, SKU, Stage, unix_now};
use super::tally::{Ending, Tally, ToldOrder};
use super::{HOLD, Plan};

/// How often a request whose outcome is open is sent again.
const REPEATS: u32 = 30;
/// How many requests a script fires.
const SCRIPT_SHOTS: u32 = 30;
/// How long the patient come back.
const PATIENCE: Duration = Duration::from_secs(15);

/// Sends the whole crowd; gives back how long it took from the opening.
///
/// # Errors
/// A server has ended.
pub async fn run(plan: &Plan, stage: &mut Stage, tally: &Arc<Tally>, opens_at: u64) -> anyhow::Result<Duration> {
    let browser = Arc::new(Browser::new(&stage.public, SALE, SKU, plan.concurrency, Arc::clone(tally))?);
    let mut crowd = JoinSet::new();
    for number in 0..plan.buyers {
        let buyer = buyer(number, plan.seed);
        let visit = Visit {
            token: stage.token(&buyer.name)?,
            buyer,
            browser: Arc::clone(&browser),
            tally: Arc::clone(tally),
            opens_at,
        };
        crowd.spawn(async move {
            let ending = visit.run().await;
            visit.tally.ending(&ending);
        });
    }
    let show = Show::new(plan);
    let mut tick = interval(Duration::from_millis(100));
    loop {
        tokio::select! {
            biased;
            ended = crowd.join_next() => match ended {
                Some(ended) => ended?,
                None => break,
            },
            _ = tick.tick() => {
                show.update(tally);
                stage.still_stands()?;
            }
        }
    }
    show.end(tally);
    Ok(unix_now().saturating_sub(Duration::from_millis(opens_at)))
}

/// One buyer's evening.
struct Visit {
    buyer: Buyer,
    token: String,
    browser: Arc<Browser>,
    tally: Arc<Tally>,
    opens_at: u64,
}

impl Visit {
    async fn run(&self) -> Ending {
        if self.buyer.looks {
            for page in ["/", "/products/sneaker"] {
                if let Err(error) = self.browser.look(&self.buyer, page).await {
                    return Ending::Failed(error);
                }
            }
        }
        if self.buyer.manner == Manner::Early {
            self.reserve(1, "early").await;
        }
        let opens_in = Duration::from_millis(self.opens_at).saturating_sub(unix_now());
        sleep(opens_in).await;
        let answer = match self.buyer.manner {
            Manner::Greedy => self.reserve(2, "greedy").await,
            Manner::Script => self.shoot().await,
            Manner::Patient => self.wait_for_one().await,
            Manner::Ordinary | Manner::Early => self.reserve(1, "once").await,
        };
        match answer {
            Answer::Done(hold) => self.go_on(&hold).await,
            Answer::Later(word) | Answer::Refused(word) => Ending::Refused(word),
            Answer::Failed(why) => Ending::Failed(why),
        }
    }

    /// Asks for a hold until the outcome is known; doublers ask twice at once and must be told the same.
    async fn reserve(&self, quantity: u32, round: &str) -> Answer {
        let key = format!("{}-{round}", self.buyer.name);
        for _ in 0..REPEATS {
            let answer = if self.buyer.doubles {
                self.reserve_twice(quantity, &key).await
            } else {
                self.browser.reserve(&self.buyer, &self.token, quantity, &key).await
            };
            match answer {
                // The outcome is open: the same key finds it out.
                Answer::Later(_) | Answer::Failed(_) => {
                    self.tally.repeats.fetch_add(1, Ordering::Relaxed);
                    sleep(Duration::from_millis(300)).await;
                }
                known => return known,
            }
        }
        Answer::Failed("no outcome after many repeats".to_owned())
    }

    async fn reserve_twice(&self, quantity: u32, key: &str) -> Answer {
        self.tally.repeats.fetch_add(1, Ordering::Relaxed);
        let (one, other) = tokio::join!(
            self.browser.reserve(&self.buyer, &self.token, quantity, key),
            self.browser.reserve(&self.buyer, &self.token, quantity, key),
        );
        match (one, other) {
            (Answer::Done(one), Answer::Done(other)) => {
                if one["hold"] != other["hold"] {
                    let what = format!("one key, two holds: {} and {}", one["hold"], other["hold"]);
                    self.tally.contradiction(what);
                }
                Answer::Done(one)
            }
            (Answer::Done(hold), _) | (_, Answer::Done(hold)) => Answer::Done(hold),
            (Answer::Later(word), _) | (_, Answer::Later(word)) => Answer::Later(word),
            (one, _) => one,
        }
    }

    /// What a script does: many requests at once, each with a key of its own.
    async fn shoot(&self) -> Answer {
        let keys: Vec<_> = (0..SCRIPT_SHOTS).map(|shot| format!("{}-shot-{shot}", self.buyer.name)).collect();
        let shots = keys.iter().map(|key| self.browser.reserve(&self.buyer, &self.token, 1, key));
        let mut answers = futures_util::future::join_all(shots).await;
        let hits = answers.iter().filter(|answer| matches!(answer, Answer::Done(_))).count();
        if hits > 1 {
            self.tally.contradiction(format!("{} holds for {}, the limit is 1", hits, self.buyer.name));
        }
        let hit = answers.iter().position(|answer| matches!(answer, Answer::Done(_)));
        answers.swap_remove(hit.unwrap_or(0))
    }

    /// Comes back while others hold what is left: some of them will not pay.
    async fn wait_for_one(&self) -> Answer {
        let began = Instant::now();
        let mut round = 0;
        loop {
            round += 1;
            let answer = self.reserve(1, &format!("round-{round}")).await;
            let others_hold_it = matches!(&answer, Answer::Refused(word) if word == "all-held");
            if !others_hold_it || began.elapsed() > PATIENCE {
                return answer;
            }
            sleep(Duration::from_millis(700).mul_f64(0.5 + rand::random::<f64>())).await;
        }
    }

    async fn go_on(&self, told: &Value) -> Ending {
        let Some(hold) = told["hold"].as_str() else {
            return Ending::Failed("a hold without an id".to_owned());
        };
        self.tally.holds.fetch_add(1, Ordering::Relaxed);
        match self.buyer.then {
            Then::Pays => self.pay(hold).await,
            Then::GivesBack => match self.browser.release(&self.buyer, &self.token, hold).await {
                Answer::Done(_) => Ending::GaveBack,
                // The hold ends by itself, so nothing is lost.
                other => Ending::Failed(format!("giving back: {other:?}")),
            },
            Then::Forgets => {
                sleep(HOLD).await;
                Ending::NeverPaid
            }
        }
    }

    async fn pay(&self, hold: &str) -> Ending {
        let times = if self.buyer.doubles { 2 } else { 1 };
        let mut first = None;
        let mut repeats = 0;
        while first.is_none() || repeats < times {
            repeats += 1;
            if repeats > 1 {
                self.tally.repeats.fetch_add(1, Ordering::Relaxed);
            }
            match self.browser.confirm(&self.buyer, &self.token, hold).await {
                Answer::Done(told) => {
                    let known = first.get_or_insert_with(|| told.clone());
                    if known["no"] != told["no"] {
                        let what = format!("hold {hold} is order {} and {}", known["no"], told["no"]);
                        self.tally.contradiction(what);
                    }
                }
                Answer::Later(_) | Answer::Failed(_) if repeats < REPEATS => {
                    sleep(Duration::from_millis(300)).await;
                }
                Answer::Refused(_) if first.is_some() => break,
                Answer::Refused(word) if word == "rate-limited" && repeats < REPEATS => {
                    sleep(Duration::from_secs(1)).await;
                }
                Answer::Refused(word) => return Ending::Refused(word),
                other => return Ending::Failed(format!("paying: {other:?}")),
            }
        }
        let no = first.and_then(|told| told["no"].as_u64());
        let Some(no) = no else {
            return Ending::Failed("an order without a number".to_owned());
        };
        self.tally.order(ToldOrder { buyer: self.buyer.name.clone(), hold: hold.to_owned(), no });
        Ending::Ordered
    }
}

/// A bar on a terminal, a line now and then elsewhere.
struct Show {
    bar: Option<ProgressBar>,
    buyers: u32,
    said_at: std::cell::Cell<Instant>,
}

impl Show {
    fn new(plan: &Plan) -> Self {
        let style = ProgressStyle::with_template("{bar:40.green/black} {pos}/{len} buyers  {msg}  {elapsed}");
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(plan.buyers.into());
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        Self { bar, buyers: plan.buyers, said_at: Instant::now().into() }
    }

    fn update(&self, tally: &Tally) {
        let done = tally.buyers_done.load(Ordering::Relaxed);
        let holds = tally.holds.load(Ordering::Relaxed);
        let counts = format!("{holds} holds, {} orders", tally.order_count());
        match &self.bar {
            Some(bar) => {
                bar.set_position(done);
                bar.set_message(counts);
            }
            None if self.said_at.get().elapsed() > Duration::from_secs(2) => {
                self.said_at.set(Instant::now());
                println!("{done} of {} buyers, {counts}", self.buyers);
            }
            None => {}
        }
    }

    fn end(&self, tally: &Tally) {
        self.update(tally);
        if let Some(bar) = &self.bar {
            bar.finish();
        }
    }
}
