//! One order stream, from its first entry to the end of the relay: a session after the other.
//!
//! A session begins with a connection and the lease, and ends with the loss of either. What was taken by the
//! receiver stands in the [`Ledger`] and is acknowledged first thing in the next session; everything else that was
//! under way is still pending in the consumer group and is read again.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{RedisError, RedisResult};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{sleep, timeout};

use super::config::RelayConfig;
use super::courier::Courier;
use super::dispatch::Dispatcher;
use super::keeper::Keeper;
use super::lease::Lease;
use super::ledger::Ledger;
use super::link::{COMMAND_TIMEOUT, Links, SharedLink, command, connect, script};
use super::metrics::StreamMetrics;
use super::names::StreamNames;
use super::reader::{BLOCK, InFlight, Reader};
use super::safety::Safety;

/// How long to wait before looking again for a stream that is not there.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// How long to wait before connecting again.
const CONNECT_AGAIN: Duration = Duration::from_millis(500);

const MAKE_GROUP: &str = script!("return redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0')");

/// What the streams of one relay have in common.
pub struct Common {
    pub links: Links,
    pub config: RelayConfig,
    pub safety: Safety,
    pub courier: Arc<Courier>,
    /// This process's name in consumer groups and leases; no two relays have the same.
    pub consumer: String,
}

/// Why a session ended.
enum End {
    Shutdown,
    /// There is no stream (yet, or any more).
    NoStream,
    /// Neither is there a sale.
    NoSale,
    /// Another relay delivers the stream.
    NotOwner,
    Failed(RedisError),
    Panicked,
}

/// The relay of one order stream.
pub struct Stream {
    common: Arc<Common>,
    names: StreamNames,
    metrics: StreamMetrics,
    ledger: Ledger,
}

impl Stream {
    pub fn new(common: Arc<Common>, names: StreamNames) -> Self {
        Self { metrics: StreamMetrics::of(&names.label()), ledger: Ledger::default(), common, names }
    }

    /// Delivers until `shutdown` turns true. With `ends_with_sale` it also ends when neither the sale nor its
    /// stream is there any more.
    pub async fn run(self, ends_with_sale: bool, mut shutdown: watch::Receiver<bool>) {
        let mut trouble = false;
        loop {
            let end = self.connected_session(shutdown.clone()).await;
            self.metrics.owner.set(0);
            if matches!(end, End::NotOwner | End::NoSale) {
                // Another relay measures it, or there is nothing to measure.
                self.metrics.lag_entries.set(0);
                self.metrics.lag_seconds.set(0.0);
            }
            let failed = matches!(end, End::Failed(_) | End::Panicked);
            let pause = match end {
                End::Shutdown => return,
                End::NoSale if ends_with_sale => return,
                End::NoSale | End::NoStream => LOOK_AGAIN,
                End::NotOwner => self.common.config.lease().min(Duration::from_secs(3)) / 3,
                End::Failed(error) => {
                    if !trouble {
                        log::warn!("{}: {error}; trying again", self.names.label());
                    }
                    CONNECT_AGAIN.mul_f64(0.5 + rand::random::<f64>())
                }
                End::Panicked => CONNECT_AGAIN,
            };
            trouble = failed;
            tokio::select! {
                _ = shutdown.wait_for(|stop| *stop) => return,
                () = sleep(pause) => {}
            }
        }
    }

    async fn connected_session(&self, shutdown: watch::Receiver<bool>) -> End {
        let links = &self.common.links;
        let link = match links.of_key(&self.names.key, &self.names.orders).await {
            Ok(link) => link,
            Err(error) => return End::Failed(error),
        };
        let (control, generation) = match link.get().await {
            Ok(connected) => connected,
            Err(error) => {
                links.fleet.look_again();
                return End::Failed(error);
            }
        };
        match self.session(&link, control, shutdown).await {
            Ok(end) => end,
            Err(error) if is_missing(&error) => End::NoStream,
            Err(error) => {
                links.complain(&link, generation).await;
                End::Failed(error)
            }
        }
    }

    async fn session(
        &self,
        link: &SharedLink,
        mut control: MultiplexedConnection,
        mut shutdown: watch::Receiver<bool>,
    ) -> RedisResult<End> {
        if !self.has_group(&mut control).await? {
            let sale: bool = command(&["EXISTS"]).arg(&self.names.key).query_async(&mut control).await?;
            return Ok(if sale { End::NoStream } else { End::NoSale });
        }
        let lease = Arc::new(Lease::new(&self.names.lease, &self.common.consumer, self.common.config.lease()));
        if !lease.take(&mut control).await? {
            return Ok(End::NotOwner);
        }
        log::info!("{}: delivering", self.names.label());
        self.metrics.owner.set(1);
        self.write_down_all(&mut control).await?;

        let (stop, stopped) = watch::channel(false);
        let (feed, arrivals) = mpsc::channel(1);
        let dispatcher = Dispatcher {
            names: &self.names,
            courier: &self.common.courier,
            lease: &lease,
            ledger: &self.ledger,
            metrics: &self.metrics,
            stop: stopped,
        };
        let mut delivering = std::pin::pin!(dispatcher.run(arrivals));
        let end = tokio::select! {
            end = self.read_and_keep(link, &lease, feed, &control) => end,
            _ = &mut delivering => return Ok(End::Panicked),
            _ = shutdown.wait_for(|stop| *stop) => Ok(End::Shutdown),
        };
        stop.send_replace(true);
        if delivering.await.is_err() {
            return Ok(End::Panicked);
        }
        if matches!(end, Ok(End::Shutdown)) {
            let farewell = async {
                self.write_down_all(&mut control).await?;
                lease.give_back(&mut control).await
            };
            if !matches!(timeout(COMMAND_TIMEOUT, farewell).await, Ok(Ok(()))) {
                log::warn!("{}: could not say good-bye to Redis", self.names.label());
            }
        }
        end
    }

    /// Makes the consumer group if there is a stream. The group starts at the stream's first entry.
    async fn has_group(&self, control: &mut MultiplexedConnection) -> RedisResult<bool> {
        let stream: bool = command(&["EXISTS"]).arg(&self.names.orders).query_async(control).await?;
        if !stream {
            return Ok(false);
        }
        let mut create = command(&["EVAL", MAKE_GROUP, "1"]);
        create.arg(&self.names.orders).arg(&self.common.config.group);
        match create.exec_async(control).await {
            Err(error) if error.code() != Some("BUSYGROUP") => Err(error),
            _ => Ok(true),
        }
    }

    async fn read_and_keep(
        &self,
        link: &SharedLink,
        lease: &Lease,
        feed: mpsc::Sender<Vec<super::reader::Arrival>>,
        control: &MultiplexedConnection,
    ) -> RedisResult<End> {
        let config = &self.common.config;
        let in_flight = InFlight::default();
        let reader = Reader {
            names: &self.names,
            group: &config.group,
            consumer: &self.common.consumer,
            safety: self.common.safety,
            lease,
            metrics: &self.metrics,
            in_flight: &in_flight,
            room: Arc::new(Semaphore::new(config.max_in_flight.min(Semaphore::MAX_PERMITS))),
            feed,
            stray_after: config.lease() * 2,
        };
        let keeper = Keeper {
            names: &self.names,
            group: &config.group,
            lease,
            metrics: &self.metrics,
            renew_every: config.lease() / 3,
            survey_every: Duration::from_millis(config.trim_ms),
            trims: config.trim,
        };
        let longest_block = BLOCK.max(self.common.safety.timeout);
        let mut blocking = connect(&link.client, longest_block).await?;
        tokio::select! {
            end = reader.run(&mut blocking) => end.map(|_| End::NotOwner),
            end = keeper.run(control.clone()) => end.map(|()| End::NotOwner),
            error = self.write_down_forever(&in_flight, control.clone()) => Err(error),
        }
    }

    async fn write_down_forever(&self, in_flight: &InFlight, mut control: MultiplexedConnection) -> RedisError {
        let group = &self.common.config.group;
        loop {
            self.ledger.has_open().await;
            match self.ledger.write_down(&self.names, group, &mut control).await {
                Ok(settled) => in_flight.remove(&settled),
                Err(error) => return error,
            }
        }
    }

    async fn write_down_all(&self, control: &mut MultiplexedConnection) -> RedisResult<()> {
        let group = &self.common.config.group;
        while !self.ledger.write_down(&self.names, group, control).await?.is_empty() {}
        Ok(())
    }
}

/// The stream or its group went away while it was used.
fn is_missing(error: &RedisError) -> bool {
    error.code() == Some("NOGROUP") || error.detail().is_some_and(|detail| detail.contains("no such key"))
}
