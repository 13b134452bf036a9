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
use crate::config::{ListenConfig, millis};

/// Requests of one HTTP/2 connection at a time.
const STREAMS_MAX: u32 = 100;

/// Pingora's proxy, with our own times from the first byte on: by itself it waits 60 seconds for each read.
pub struct Door {
    proxy: Arc<HttpProxy<Edge>>,
    read_timeout: Duration,
    write_timeout: Duration,
    keepalive_s: u64,
    options: HttpServerOptions,
    header_bytes_max: u32,
}

impl Door {
    pub fn new(proxy: HttpProxy<Edge>, config: &ListenConfig) -> Self {
        let mut options = proxy.server_options.clone().unwrap_or_default();
        options.h2_idle_timeout = Some(Duration::from_secs(config.keepalive_s.max(1)));
        Self {
            proxy: Arc::new(proxy),
            read_timeout: millis(config.read_timeout_ms),
            write_timeout: millis(config.write_timeout_ms),
            keepalive_s: config.keepalive_s,
            options,
            header_bytes_max: config.header_bytes_max.try_into().unwrap_or(u32::MAX),
        }
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
        session.set_read_timeout(Some(self.read_timeout));
        session.set_write_timeout(Some(self.write_timeout));
        if session.get_keepalive().is_some() && !*shutdown.borrow() {
            session.set_keepalive((self.keepalive_s > 0).then_some(self.keepalive_s));
        }
        self.proxy.process_new_http(session, shutdown).await
    }

    fn h2_options(&self) -> Option<H2Options> {
        let mut options = default_h2_options();
        options.max_header_list_size(self.header_bytes_max);
        // Streams that a client opens and resets at once cost more than they seem to.
        options.max_concurrent_streams(STREAMS_MAX);
        Some(options)
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        Some(&self.options)
    }

    async fn http_cleanup(&self) {
        self.proxy.http_cleanup().await;
    }
}
