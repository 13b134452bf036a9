//! Takes requests: how long a client may dawdle between and within them.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream};
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::{H2Options, default_h2_options};
use pingora::proxy::HttpProxy;
use pingora::server::ShutdownWatch;

use super::edge::Edge;
use super::header_clock::HeaderClock;
use super::live::Current;
use crate::config::millis;

/// How long a connection that was taken just before the end may take to send its request.
pub const LAST_WORDS: Duration = Duration::from_millis(300);

/// Requests of one HTTP/2 connection at a time.
const STREAMS_MAX: u32 = 100;

/// Pingora's proxy, with our own times from the first byte on: by itself it waits 60 seconds for each read.
pub struct Door {
    proxy: Arc<HttpProxy<Edge>>,
    live: Current,
    options: HttpServerOptions,
}

impl Door {
    pub fn new(proxy: HttpProxy<Edge>, live: Current) -> Self {
        let mut options = proxy.server_options.clone().unwrap_or_default();
        options.h2_idle_timeout = Some(Duration::from_secs(live.load().config.listen.keepalive_s.max(1)));
        Self { proxy: Arc::new(proxy), live, options }
    }
}

#[async_trait]
impl HttpServerApp for Door {
    async fn process_new_http(
        self: &Arc<Self>,
        mut session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        if session.as_http1().is_some()
            && let Some(clock) = session.digest().and_then(HeaderClock::of)
        {
            clock.start();
        }
        let (read, write, keepalive_s) = {
            let live = self.live.load();
            let config = &live.config.listen;
            (millis(config.read_timeout_ms), millis(config.write_timeout_ms), config.keepalive_s)
        };
        session.set_read_timeout(Some(read));
        session.set_write_timeout(Some(write));
        if session.get_keepalive().is_some() && !*shutdown.borrow() {
            session.set_keepalive((keepalive_s > 0).then_some(keepalive_s));
        }
        self.proxy.process_new_http(session, shutdown).await
    }

    fn h2_options(&self) -> Option<H2Options> {
        let mut options = default_h2_options();
        let most = self.live.load().config.listen.header_bytes_max;
        options.max_header_list_size(most.try_into().unwrap_or(u32::MAX));
        // Streams that a client opens and resets at once cost more than they seem to.
        options.max_concurrent_streams(STREAMS_MAX);
        Some(options)
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        Some(&self.options)
    }

    /// Nobody is let in any more. Who came last has not been heard yet: a moment more for its request.
    async fn http_cleanup(&self) {
        tokio::time::sleep(LAST_WORDS).await;
        self.proxy.http_cleanup().await;
    }
}
