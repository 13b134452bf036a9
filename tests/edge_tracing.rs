//! Tracing: one trace from the client through the proxy to the stock and the shop, and no secret in it.

use std::time::Duration;

use flashsale_tests::http::Http;
use flashsale_tests::shop::Shop;
use flashsale_tests::{Collector, Proxy, ProxyBuilder, RedisServer, Seen, free_port, wait_until};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);
/// A client's trace and its span in it.
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CLIENT: &str = "b7ad6b7169203331";

fn redis_with_sale() -> RedisServer {
    RedisServer::with_sale("FLASH.CREATE sale:s ITEMS shirt 10")
}

fn traced(collector: &Collector, sample: &str) -> ProxyBuilder {
    Proxy::builder()
        .set("tracing.endpoint", &format!("{:?}", collector.endpoint()))
        .set("tracing.sample", sample)
        .set("access_log.sample", "1.0")
}

/// The one span of that name.
#[track_caller]
fn only<'a>(spans: &'a [Seen], name: &str) -> &'a Seen {
    let named: Vec<&Seen> = spans.iter().filter(|span| span.name == name).collect();
    assert_eq!(named.len(), 1, "{name} in {spans:#?}");
    named[0]
}

fn logged(log: &str, path: &str) -> Value {
    let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.rfind(|line| line["path"] == path).unwrap_or_else(|| panic!("no {path} in {log}"))
}

#[test]
fn a_request_its_commands_and_the_shop_are_one_trace_without_a_secret() {
    let (redis, shop, collector) = (redis_with_sale(), Shop::start(), Collector::start());
    let mut proxy = traced(&collector, "1.0")
        .redis(&redis)
        .upstream(&shop.address())
        .set("listen.trusted_proxies", "[\"127.0.0.0/8\"]")
        .set("tracing.service_name", "\"the edge\"")
        .start();
    let http = Http::new();
    let bearer = proxy.bearer("buyer-ann");
    let parent = format!("00-{TRACE}-{CLIENT}-01");
    let headers = [
        ("authorization", bearer.as_str()),
        ("traceparent", parent.as_str()),
        ("tracestate", "vendor=opaque"),
        ("idempotency-key", "h1"),
    ];
    assert_eq!(http.request("POST", &proxy.url("/flash/s/holds?sku=shirt&qty=1"), &headers, b"").status, 201);
    let confirm = br#"{"ref":"payment-17"}"#;
    assert_eq!(http.request("POST", &proxy.url("/flash/s/holds/h1/confirm"), &headers, confirm).status, 200);
    assert_eq!(http.request("GET", &proxy.url("/page?password=hunter2"), &headers, b"").status, 200);
    assert_eq!(http.request("POST", &proxy.url("/flash/s/holds?sku=shirt"), &headers[1..], b"").status, 401);
    // What has not left yet leaves at the end.
    proxy.stop();

    let spans = collector.spans();
    assert!(spans.iter().all(|span| span.trace == TRACE && span.resource["service.name"] == "the edge"), "{spans:#?}");
    let confirmed = only(&spans, "POST /flash/{sale}/holds/{id}/confirm");
    assert_eq!((confirmed.parent.as_str(), confirmed.kind, confirmed.failed), (CLIENT, 2, false));
    assert_eq!(confirmed.attributes["http.response.status_code"], "200");
    assert_eq!(confirmed.attributes["flashsale.outcome"], "confirmed");
    for command in ["FLASH.HOLD", "FLASH.CONFIRM"] {
        let span = only(&spans, command);
        assert_eq!((&span.parent, span.kind), (&confirmed.id, 3), "{span:#?}");
        assert_eq!(span.attributes["db.system.name"], "redis");
    }
    let reserves: Vec<&Seen> = spans.iter().filter(|span| span.name == "POST /flash/{sale}/holds").collect();
    let status = |span: &&Seen| span.attributes["http.response.status_code"].clone();
    let reserved = reserves.iter().find(|span| status(span) == "201").expect("the one that got a hold");
    let refused = reserves.iter().find(|span| status(span) == "401").expect("the one without a token");
    assert_eq!(refused.attributes["flashsale.outcome"], "token");
    assert_eq!(only(&spans, "FLASH.RESERVE").parent, reserved.id);
    assert!(!spans.iter().any(|span| span.parent == refused.id && span.name != "FLASH.INFO"), "{spans:#?}");

    let page: Vec<&Seen> = spans.iter().filter(|span| span.name == "GET").collect();
    let served = page.iter().find(|span| span.kind == 2).expect("the proxy's own span of the page");
    let asked = page.iter().find(|span| span.kind == 3).expect("the span of the shop's server");
    assert_eq!((&asked.parent, served.parent.as_str()), (&served.id, CLIENT));
    assert_eq!(format!("{}:{}", asked.attributes["server.address"], asked.attributes["server.port"]), shop.address());
    let at_shop = &shop.requests_to("/page")[0].headers;
    assert_eq!(at_shop["traceparent"], format!("00-{TRACE}-{}-01", asked.id));
    assert_eq!(at_shop["tracestate"], "vendor=opaque");
    assert_eq!(logged(&proxy.log(), "/page")["trace_id"], TRACE);

    let told = format!("{spans:?}");
    let token = bearer.trim_start_matches("Bearer ");
    for secret in [token, "buyer-ann", "payment-17", "hunter2"] {
        assert!(!told.contains(secret), "{secret} stands in a span: {told}");
    }
}

#[test]
fn a_strangers_trace_is_thrown_away_and_what_is_not_sampled_is_not_sent() {
    let (redis, shop, collector) = (redis_with_sale(), Shop::start(), Collector::start());
    let mut proxy = traced(&collector, "0.0").redis(&redis).upstream(&shop.address()).start();
    let http = Http::new();
    let parent = format!("00-{TRACE}-{CLIENT}-01");
    let headers = [("traceparent", parent.as_str()), ("tracestate", "vendor=opaque")];
    assert_eq!(http.request("GET", &proxy.url("/page"), &headers, b"").status, 200);
    assert_eq!(http.get(&proxy.url("/flash/s")).status, 200);
    proxy.stop();
    let at_shop = &shop.requests_to("/page")[0].headers;
    let trace = logged(&proxy.log(), "/page")["trace_id"].as_str().expect("a trace").to_owned();
    let told = &at_shop["traceparent"];
    assert!(trace != TRACE && told.starts_with(&format!("00-{trace}-")) && told.ends_with("-00"), "{told}");
    assert!(!at_shop.contains_key("tracestate"), "{at_shop:?}");
    assert!(collector.spans().is_empty(), "{:?}", collector.spans());
}

#[test]
fn without_tracing_a_trace_passes_by_untouched() {
    let (redis, shop) = (redis_with_sale(), Shop::start());
    let proxy = Proxy::builder().redis(&redis).upstream(&shop.address()).set("access_log.sample", "1.0").start();
    let parent = format!("00-{TRACE}-{CLIENT}-01");
    let headers = [("traceparent", parent.as_str()), ("tracestate", "vendor=opaque")];
    assert_eq!(Http::new().request("GET", &proxy.url("/page"), &headers, b"").status, 200);
    let at_shop = &shop.requests_to("/page")[0].headers;
    assert_eq!((at_shop["traceparent"].as_str(), at_shop["tracestate"].as_str()), (parent.as_str(), "vendor=opaque"));
    wait_until("the log line is there", PATIENCE, || proxy.log().contains("\"/page\""));
    assert_eq!(logged(&proxy.log(), "/page").get("trace_id"), None);
}

#[test]
fn a_tracing_system_that_is_away_holds_nobody_up_and_another_is_taken_over_by_a_reload() {
    let (redis, collector) = (redis_with_sale(), Collector::start());
    let nobody = format!("\"http://127.0.0.1:{}\"", free_port());
    let mut proxy = traced(&collector, "1.0").redis(&redis).set("tracing.endpoint", &nobody).start();
    let http = Http::new();
    let counted = |proxy: &Proxy| proxy.metrics().contains("flashsale_trace_exports_total{outcome=\"error\"}");
    assert_eq!(http.get(&proxy.url("/flash/s")).status, 200);
    wait_until("the failure is counted", PATIENCE, || counted(&proxy));
    let warnings = |proxy: &Proxy| proxy.log().matches("spans do not reach").count();
    assert_eq!(warnings(&proxy), 1, "{}", proxy.log());

    proxy.rewrite(|builder| builder.set("tracing.endpoint", &format!("{:?}", collector.endpoint())));
    assert_eq!(http.request("POST", &proxy.admin_url("/api/reload"), &[], b"").status, 200);
    assert_eq!(http.get(&proxy.url("/flash/s")).status, 200);
    wait_until("spans come to the other", PATIENCE, || {
        collector.spans().iter().any(|span| span.name == "GET /flash/{sale}")
    });
}
