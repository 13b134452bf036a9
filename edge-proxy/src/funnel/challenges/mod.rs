//! What a sale may ask for before it gives a ticket: proof of work on board, or somebody else's verdict.
//!
//! A challenge makes a thousand tickets cost a thousand times as much as one. It is asked for once, at the
//! ticket; the hot route knows nothing of it. A solved one can be used once: what was used is remembered for
//! as long as it would be good, in bounded memory, and when that is full nobody gets in rather than twice. What was
//! solved on board is remembered in Redis too, for all proxies; providers see to that themselves.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use aws_lc_rs::digest::{SHA256, digest};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::stage::Mode;
use crate::config::{millis, secret};
use crate::http::problem::{Problem, Refusal};
use crate::metrics;
use crate::store::SaleStore;

mod pow;
mod siteverify;
mod used;

pub use used::Used;

use pow::ProofOfWork;
use siteverify::Siteverify;

/// Whose challenge it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Proof of work by the ALTCHA protocol, made and checked here.
    Altcha,
    Turnstile,
    Hcaptcha,
    Recaptcha,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Altcha => "altcha",
            Kind::Turnstile => "turnstile",
            Kind::Hcaptcha => "hcaptcha",
            Kind::Recaptcha => "recaptcha",
        }
    }
}

/// One of `[[challenges]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChallengeConfig {
    /// Names of sales; a star at the end stands for any rest. The first challenge that fits a sale counts.
    #[serde(default = "all_sales")]
    pub sales: Vec<String>,
    pub kind: Kind,
    #[serde(default)]
    pub mode: Mode,
    /// Of `altcha`: any secret of 32 bytes or more, the same on every proxy. Of others: the provider's.
    #[serde(default)]
    pub secret_file: Option<PathBuf>,
    #[serde(default)]
    pub secret_env: Option<String>,
    /// `altcha`: rounds of PBKDF2 in one try: what checking costs us, and each try costs them.
    #[serde(default = "cost")]
    pub cost: u32,
    /// `altcha`: hexadecimal zeros that a solution begins with: it takes about 16 to this power tries.
    #[serde(default = "zeros")]
    pub zeros: usize,
    /// How long a challenge may take to be solved.
    #[serde(default = "ttl_s")]
    pub ttl_s: u64,
    /// The others: what the page is given to show the challenge.
    #[serde(default)]
    pub sitekey: String,
    /// The others: where solutions are verified; empty: the provider's own address.
    #[serde(default)]
    pub url: String,
    #[serde(default = "timeout_ms")]
    pub timeout_ms: u64,
    /// The others: what the provider must have seen it solved for; empty: any.
    #[serde(default)]
    pub hostname: String,
    /// `recaptcha`: the least score that is let in.
    #[serde(default)]
    pub score_min: f64,
    /// Let buyers in while the provider does not answer; of `altcha`, while Redis cannot say whether a solution was used
    /// at another proxy.
    #[serde(default)]
    pub open_when_down: bool,
}

fn all_sales() -> Vec<String> {
    vec!["*".to_owned()]
}

fn cost() -> u32 {
    100
}

fn zeros() -> usize {
    3
}

fn ttl_s() -> u64 {
    300
}

fn timeout_ms() -> u64 {
    3000
}

impl ChallengeConfig {
    /// # Errors
    /// A value is out of range or the secret cannot be read.
    pub fn validate(&self) -> anyhow::Result<()> {
        let name = format!("[[challenges]] {}", self.kind.name());
        ensure!((1..=1_000_000).contains(&self.cost), "{name}: cost {} is not in 1 to 1000000", self.cost);
        ensure!((1..=8).contains(&self.zeros), "{name}: zeros {} is not in 1 to 8", self.zeros);
        ensure!((1..=86_400).contains(&self.ttl_s), "{name}: ttl_s {} is not in 1 to 86400", self.ttl_s);
        ensure!(self.timeout_ms > 0, "{name}: timeout_ms must be at least 1");
        ensure!((0.0..=1.0).contains(&self.score_min), "{name}: score_min {} is not in 0 to 1", self.score_min);
        self.solver().map(drop)
    }

    fn secret(&self) -> anyhow::Result<SecretString> {
        let name = format!("[[challenges]] {} secret", self.kind.name());
        secret::read(&name, self.secret_file.as_deref(), self.secret_env.as_deref())?
            .with_context(|| format!("{name}: set secret_file or secret_env"))
    }

    fn solver(&self) -> anyhow::Result<Solver> {
        let secret = self.secret()?;
        Ok(match self.kind {
            Kind::Altcha => {
                let length = secret.expose_secret().len();
                ensure!(length >= 32, "[[challenges]] altcha: a secret of {length} bytes can be guessed; use 32");
                Solver::Work(ProofOfWork { secret, cost: self.cost, zeros: self.zeros, ttl_s: self.ttl_s })
            }
            _ => Solver::Site(Siteverify::new(self, secret)?),
        })
    }

    fn concerns(&self, sale: &[u8]) -> bool {
        self.sales.iter().any(|name| match name.strip_suffix('*') {
            Some(beginning) => sale.starts_with(beginning.as_bytes()),
            None => sale == name.as_bytes(),
        })
    }
}

enum Solver {
    Work(ProofOfWork),
    Site(Siteverify),
}

/// How a solution was found to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Solved,
    /// Of another sale or buyer, not ours, or not solved.
    Wrong,
    Expired,
    /// It was used before.
    Used,
    /// The provider, or Redis, does not answer.
    Down,
    /// Too many are being verified, or remembered.
    Busy,
}

impl Verdict {
    fn name(self) -> &'static str {
        match self {
            Verdict::Solved => "solved",
            Verdict::Wrong => "wrong",
            Verdict::Expired => "expired",
            Verdict::Used => "used",
            Verdict::Down => "down",
            Verdict::Busy => "busy",
        }
    }
}

/// What the keys of solutions that were used begin with. They go away when the challenge would have ended.
const KEY_PREFIX: &[u8] = b"solved:";

/// The challenges of all sales.
pub struct Challenges {
    rules: Vec<(ChallengeConfig, Solver)>,
    used: Arc<Used>,
    store: Arc<dyn SaleStore>,
    /// The longest life of a challenge.
    life: Duration,
}

/// Whom a challenge is for.
pub struct Applicant<'a> {
    pub sale: &'a [u8],
    pub buyer: &'a [u8],
    pub address: IpAddr,
    pub now_ms: u64,
}

impl Applicant<'_> {
    /// What a challenge is bound to, as a hash: the buyer's id is nobody's business.
    fn binding(&self) -> String {
        let mut text = (self.sale.len() as u64).to_be_bytes().to_vec();
        text.extend_from_slice(self.sale);
        text.extend_from_slice(self.buyer);
        hex(&digest(&SHA256, &text).as_ref()[..16])
    }
}

impl Challenges {
    /// # Errors
    /// A secret cannot be read or a URL is malformed.
    pub fn new(configs: &[ChallengeConfig], used: Arc<Used>, store: Arc<dyn SaleStore>) -> anyhow::Result<Self> {
        let rules: Vec<_> =
            configs.iter().map(|config| Ok((config.clone(), config.solver()?))).collect::<anyhow::Result<_>>()?;
        let longest_s = configs.iter().map(|config| config.ttl_s).max().unwrap_or(1);
        Ok(Self { rules, used, store, life: Duration::from_secs(longest_s) })
    }

    /// Lets an applicant through who has solved the sale's challenge, if it has one.
    ///
    /// # Errors
    /// `challenge`, with what to solve, or that it cannot be verified now.
    pub async fn demand(&self, applicant: &Applicant<'_>, response: Option<&str>) -> Result<(), Refusal> {
        let Some((config, solver)) = self.rules.iter().find(|(config, _)| config.concerns(applicant.sale)) else {
            return Ok(());
        };
        if config.mode == Mode::Off {
            return Ok(());
        }
        let kind = config.kind.name();
        let verdict = match response {
            None => None,
            Some(response) => Some(self.judge(solver, applicant, response).await),
        };
        metrics::CHALLENGES.with_label_values(&[kind, verdict.map_or("asked", Verdict::name)]).inc();
        let problem = match verdict {
            Some(Verdict::Solved) => return Ok(()),
            Some(Verdict::Down) if config.open_when_down => return Ok(()),
            Some(Verdict::Down | Verdict::Busy) => {
                Problem::Overloaded.because("The challenge cannot be verified at the moment; send it again.")
            }
            Some(Verdict::Used) => Problem::Challenge.because("This solution was used before; solve this one."),
            Some(Verdict::Expired) => Problem::Challenge.because("The challenge has expired; solve this one."),
            Some(Verdict::Wrong) => Problem::Challenge.because("This is no solution of this buyer's challenge."),
            None => Problem::Challenge.because("Solve this and send it as {\"challenge\":\"...\"}."),
        };
        if config.mode == Mode::Shadow {
            metrics::SHADOWED.with_label_values(&["challenge", problem.problem.word()]).inc();
            return Ok(());
        }
        match problem.problem {
            Problem::Challenge => ask(problem, config, solver, applicant),
            _ => Err(problem),
        }
    }

    /// Uses a solution here first, which costs nothing, and then at all proxies.
    async fn use_everywhere(&self, name: &[u8; 16]) -> Verdict {
        match self.used.take(name, self.life) {
            Verdict::Solved => {}
            taken => return taken,
        }
        let key = [KEY_PREFIX, hex(name).as_bytes()].concat();
        match self.store.once(&key, self.life).await {
            Ok(true) => Verdict::Solved,
            Ok(false) => Verdict::Used,
            Err(error) => {
                log::debug!("a solution cannot be written down: {error}");
                // It may be sent again. If it was written down all the same, it counts as used then.
                self.used.give_back(name);
                Verdict::Down
            }
        }
    }

    async fn judge(&self, solver: &Solver, applicant: &Applicant<'_>, response: &str) -> Verdict {
        match solver {
            Solver::Work(work) => match work.verify(response, &applicant.binding()) {
                Ok(name) => self.use_everywhere(&name).await,
                Err(verdict) => verdict,
            },
            Solver::Site(site) => {
                let name = used::name(response.as_bytes());
                match self.used.take(&name, self.life) {
                    Verdict::Solved => {}
                    taken => return taken,
                }
                let verdict = site.verify(response, applicant.address).await;
                if matches!(verdict, Verdict::Down | Verdict::Busy) {
                    // The provider has not seen it: it may be sent again.
                    self.used.give_back(&name);
                }
                verdict
            }
        }
    }
}

/// The refusal that says what to solve.
fn ask(problem: Refusal, config: &ChallengeConfig, solver: &Solver, applicant: &Applicant<'_>) -> Result<(), Refusal> {
    let problem = problem.with("kind", config.kind.name());
    Err(match solver {
        Solver::Site(_) => problem.with("sitekey", config.sitekey.as_str()),
        Solver::Work(work) => match work.create(&applicant.binding(), applicant.now_ms) {
            Ok(challenge) => problem.with("challenge", challenge),
            Err(error) => {
                log::error!("no challenge can be made: {error}");
                Problem::Internal.into()
            }
        },
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a provider answers, as far as it matters.
fn members(body: &[u8]) -> Option<Map<String, Value>> {
    serde_json::from_slice(body).ok()
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
