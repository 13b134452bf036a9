//! Pingora with nothing of ours in it: what `make bench-edge` measures the edge against.
//!
//! ```text
//! bare answer 127.0.0.1:8080                    answers 200 to everything
//! bare proxy  127.0.0.1:8080 127.0.0.1:3000     passes everything on
//! ```
//! One worker thread, as the edge has in the benchmark.

use async_trait::async_trait;
use bytes::Bytes;
use http::Response;
use pingora::apps::http_app::ServeHttp;
use pingora::prelude::HttpPeer;
use pingora::protocols::http::ServerSession;
use pingora::proxy::{ProxyHttp, Session, http_proxy_service};
use pingora::server::Server;
use pingora::server::configuration::ServerConf;
use pingora::services::listening::Service;

struct Answer;

#[async_trait]
impl ServeHttp for Answer {
    async fn response(&self, _: &mut ServerSession) -> Response<Vec<u8>> {
        let mut response = Response::new(b"ok\n".to_vec());
        response.headers_mut().insert("Content-Length", http::HeaderValue::from_static("3"));
        response
    }
}

struct Pass {
    upstream: String,
}

#[async_trait]
impl ProxyHttp for Pass {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _: &mut Session, (): &mut ()) -> pingora::Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(&self.upstream, false, String::new())))
    }

    async fn request_body_filter(
        &self,
        _: &mut Session,
        _: &mut Option<Bytes>,
        _: bool,
        (): &mut (),
    ) -> pingora::Result<()> {
        Ok(())
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let conf = ServerConf { threads: 1, work_stealing: false, ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["answer", address] => {
            let mut service = Service::new("answer".to_owned(), Answer);
            service.add_tcp(address);
            server.add_service(service);
        }
        ["proxy", address, upstream] => {
            let mut service = http_proxy_service(&server.configuration, Pass { upstream: upstream.to_owned() });
            service.add_tcp(address);
            server.add_service(service);
        }
        _ => {
            eprintln!("usage: bare answer ADDRESS | bare proxy ADDRESS UPSTREAM");
            std::process::exit(2);
        }
    }
    server.run_forever();
}
