//! One connection to Redis that knows whether a command was sent.
//!
//! The client library's own reconnecting wrapper reports a lost connection in the same words whether the
//! command had left or not. The difference is that between "refused, try again" (503) and "it may have
//! happened" (202 `pending`), so the connection is kept, and replaced, here.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Pipeline, PushInfo, PushKind, RedisError, Value};

use super::StoreError;
use super::answer::server_error;
use super::breaker::{Breaker, Pass};
use crate::single_flight::SingleFlight;

/// A connection that has answered nothing for this long, while asked, is replaced.
const STALL: Duration = Duration::from_secs(1);

/// The times of a link.
#[derive(Debug, Clone, Copy)]
pub struct LinkTimes {
    pub connect: Duration,
    pub response: Duration,
    /// How long to refuse at once, and between probes, while the breaker is open.
    pub rest: Duration,
}

/// A multiplexed connection, opened when first used, on the runtime of the one who uses it.
pub struct Link {
    client: Client,
    times: LinkTimes,
    live: ArcSwapOption<Live>,
    connecting: SingleFlight<StoreError>,
    breaker: Arc<Breaker>,
}

/// A connection that was good when last used.
struct Live {
    connection: MultiplexedConnection,
    lost: Arc<AtomicBool>,
    born: Instant,
    /// When, in milliseconds after `born`, the last reply came.
    heard_ms: AtomicU64,
}

impl Live {
    fn heard(&self) {
        self.heard_ms.store(self.born.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    fn silent_for(&self) -> Duration {
        self.born.elapsed().saturating_sub(Duration::from_millis(self.heard_ms.load(Ordering::Relaxed)))
    }
}

impl Link {
    pub fn new(client: Client, times: LinkTimes, breaker: Arc<Breaker>) -> Self {
        Self { client, times, live: ArcSwapOption::empty(), connecting: SingleFlight::default(), breaker }
    }

    /// Sends commands in one write and gives their replies in order. A server's error is a
    /// [`Value::ServerError`].
    ///
    /// # Errors
    /// [`StoreError::Down`] if they were not sent, [`StoreError::Unknown`] if the answers are lost.
    pub async fn send_all(&self, commands: &Pipeline, count: usize) -> Result<Vec<Value>, StoreError> {
        let live = self.live().await?;
        let result = live.connection.clone().send_packed_commands(commands, 0, count).await;
        let replies = self.judge(&live, result)?;
        if replies.len() == count {
            Ok(replies)
        } else {
            Err(StoreError::Nonsense(format!("{} replies to {count} commands", replies.len())))
        }
    }

    fn judge<T>(&self, live: &Live, result: Result<T, RedisError>) -> Result<T, StoreError> {
        let error = match result {
            Ok(value) => {
                live.heard();
                self.breaker.answered();
                return Ok(value);
            }
            Err(error) => error,
        };
        if let Some(code) = error.code() {
            live.heard();
            self.breaker.answered();
            return Err(server_error(code, error.detail().unwrap_or_default()));
        }
        // One slow command is no reason to part; a connection from which nothing comes at all is.
        if !error.is_timeout() || live.silent_for() >= STALL {
            live.lost.store(true, Ordering::Relaxed);
        }
        self.breaker.unanswered();
        Err(StoreError::Unknown(error.to_string()))
    }

    async fn live(&self) -> Result<Arc<Live>, StoreError> {
        let pass = self.breaker.pass().ok_or_else(away)?;
        if let Some(live) = self.usable() {
            return Ok(live);
        }
        // Rare, and a large future.
        Box::pin(self.reconnected(pass)).await
    }

    async fn reconnected(&self, pass: Pass) -> Result<Arc<Live>, StoreError> {
        let connect = async {
            // It may have been found to be away since this one was let pass.
            if pass == Pass::Free && self.breaker.is_open() {
                return Err(away());
            }
            match self.connect().await {
                Ok(live) => {
                    let live = Arc::new(live);
                    self.live.store(Some(live.clone()));
                    self.breaker.answered();
                    Ok(live)
                }
                Err(error) => {
                    self.breaker.unreachable();
                    Err(StoreError::Down(error.to_string()))
                }
            }
        };
        self.connecting.get(|| self.usable(), connect).await
    }

    fn usable(&self) -> Option<Arc<Live>> {
        self.live.load_full().filter(|live| !live.lost.load(Ordering::Relaxed))
    }

    async fn connect(&self) -> Result<Live, RedisError> {
        let lost = Arc::new(AtomicBool::new(false));
        let mark = lost.clone();
        let on_push = move |push: PushInfo| -> Result<(), ()> {
            if push.kind == PushKind::Disconnection {
                mark.store(true, Ordering::Relaxed);
            }
            Ok(())
        };
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.times.connect))
            .set_response_timeout(Some(self.times.response))
            .set_push_sender(on_push);
        let connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        Ok(Live { connection, lost, born: Instant::now(), heard_ms: AtomicU64::new(0) })
    }
}

fn away() -> StoreError {
    StoreError::Down("it was away a moment ago".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_that_does_not_speak_tls_is_down() {
        let plain = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = plain.local_addr().unwrap();
        let answering = std::thread::spawn(move || {
            use std::io::{Read, Write};
            let (mut stream, _) = plain.accept().unwrap();
            let _ = stream.read(&mut [0; 64]);
            let _ = stream.write_all(b"-ERR this is no TLS\r\n");
        });
        let config = crate::config::RedisConfig { url: format!("rediss://{address}"), ..Default::default() };
        let times = LinkTimes {
            connect: Duration::from_millis(500),
            response: Duration::from_millis(500),
            rest: Duration::from_millis(50),
        };
        let link = Link::new(config.client().unwrap(), times, Arc::new(Breaker::new(20, times.rest)));
        assert!(matches!(link.send_all(redis::pipe().cmd("PING"), 1).await, Err(StoreError::Down(_))));
        answering.join().unwrap();
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_down_at_once() {
        let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let client = Client::open(format!("redis://{unused}/?protocol=resp3")).unwrap();
        let times = LinkTimes {
            connect: Duration::from_millis(500),
            response: Duration::from_millis(500),
            rest: Duration::from_millis(50),
        };
        let link = Link::new(client, times, Arc::new(Breaker::new(20, times.rest)));
        let started = Instant::now();
        for _ in 0..100 {
            assert!(matches!(link.send_all(redis::pipe().cmd("PING"), 1).await, Err(StoreError::Down(_))));
        }
        assert!(started.elapsed() < Duration::from_millis(500));
    }
}
