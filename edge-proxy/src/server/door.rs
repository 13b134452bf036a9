//! Takes connections: how long a client may dawdle. Caps on connections and on whole headers belong here.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream};
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::H2Options;
use pingora::proxy::HttpProxy;
use pingora::server::ShutdownWatch;

use super::edge::Edge;
use crate::config::{ListenConfig, millis};

/// Pingora's proxy, with our own times from the first byte on: by itself it waits 60 seconds for each read.
pub struct Door {
    proxy: Arc<HttpProxy<Edge>>,
    read_timeout: Duration,
    write_timeout: Duration,
    keepalive_s: u64,
}

impl Door {
    pub fn new(proxy: HttpProxy<Edge>, config: &ListenConfig) -> Self {
        Self {
            proxy: Arc::new(proxy),
            read_timeout: millis(config.read_timeout_ms),
            write_timeout: millis(config.write_timeout_ms),
            keepalive_s: config.keepalive_s,
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
        session.set_read_timeout(Some(self.read_timeout));
        session.set_write_timeout(Some(self.write_timeout));
        if session.get_keepalive().is_some() && !*shutdown.borrow() {
            session.set_keepalive((self.keepalive_s > 0).then_some(self.keepalive_s));
        }
        self.proxy.process_new_http(session, shutdown).await
    }

    fn h2_options(&self) -> Option<H2Options> {
        self.proxy.h2_options()
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        self.proxy.server_options()
    }

    async fn http_cleanup(&self) {
        self.proxy.http_cleanup().await;
    }
}
