//! `flashsale demo`: a whole sale on one machine.
//!
//! [`stage`] starts the servers ([`process`], in a [`folder`] that goes away), [`crowd`] invents the buyers,
//! [`rush`] lets them loose through their [`client`] and counts what they are told ([`tally`]), [`proof`] compares that with Redis and with
//! the shop, [`report`] prints it.

pub(crate) mod client;
pub(crate) mod crowd;
mod folder;
mod process;
mod proof;
mod report;
mod rush;
mod stage;
pub(crate) mod tally;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{bail, ensure};
use tokio::signal::unix::{SignalKind, signal};

use self::proof::Proof;
use self::stage::{SALE_KEY, SKU, Stage, unix_now};
use self::tally::Tally;

/// How long a hold lives: short, so that those who never pay give way within the demo.
const HOLD: Duration = Duration::from_secs(3);
/// From the making of the sale to its opening.
const UNTIL_OPEN: Duration = Duration::from_millis(1_500);

/// What the demo is asked to do.
#[derive(Debug, Clone)]
pub struct Plan {
    pub buyers: u32,
    pub units: u32,
    /// Requests under way at once.
    pub concurrency: u32,
    pub keep: bool,
    pub module: Option<PathBuf>,
    pub redis_server: PathBuf,
    pub fail_share: f64,
    pub forget_share: f64,
    pub seed: u64,
}

/// Runs the demo; everything it started has ended when it returns.
///
/// # Errors
/// A server does not come up, somebody pressed Ctrl-C, or a unit was oversold, lost or doubled.
pub async fn run(plan: &Plan) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let interrupted = async {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
            _ = hang_up.recv() => {}
        }
    };
    // Only one side runs on: dropping the other one ends every server that it has started.
    tokio::select! {
        outcome = perform(plan) => outcome,
        () = interrupted => {
            if plan.keep {
                println!("\nstopped");
                return Ok(());
            }
            bail!("interrupted")
        }
    }
}

async fn perform(plan: &Plan) -> anyhow::Result<()> {
    let mut stage = Stage::set(plan).await?;
    let opens_at = open_sale(plan, &stage).await?;
    println!("a sale of {} units at {}/flash/demo; {} buyers come\n", plan.units, stage.public, plan.buyers);
    let tally = Arc::new(Tally::default());
    let lasted = rush::run(plan, &mut stage, &tally, opens_at).await?;
    let proof = Proof::collect(plan, &stage, &tally).await;
    // A server that ended explains a failed proof better than the proof does.
    stage.still_stands()?;
    let proof = proof?;
    report::print(plan, &tally, &proof, lasted);
    if plan.keep {
        lengthen_holds(&stage).await?;
        report::what_to_try(&stage)?;
        std::future::pending::<()>().await;
    }
    ensure!(proof.holds(), "the proof failed");
    Ok(())
}

/// Makes the sale; gives back when it opens, in unix milliseconds.
async fn open_sale(plan: &Plan, stage: &Stage) -> anyhow::Result<u64> {
    let opens_at = (unix_now() + UNTIL_OPEN).as_millis() as u64;
    let mut create = redis::cmd("FLASH.CREATE");
    create.arg(SALE_KEY).arg("LIMIT").arg(1);
    create.arg("HOLD").arg(HOLD.as_millis() as u64);
    create.arg("OPENS").arg(opens_at);
    create.arg("ITEMS").arg(SKU).arg(plan.units);
    create.exec_async(&mut stage.redis()).await?;
    Ok(opens_at)
}

/// Whoever tries things by hand needs more than a moment between reserving and paying.
async fn lengthen_holds(stage: &Stage) -> anyhow::Result<()> {
    let mut alter = redis::cmd("FLASH.ALTER");
    alter.arg(SALE_KEY).arg("HOLD").arg(300_000);
    Ok(alter.exec_async(&mut stage.redis()).await?)
}
