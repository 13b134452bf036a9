//! The admin listener: metrics, health, sales as JSON, and the reload of the config.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use pingora::server::ShutdownWatch;
use pingora::services::background::BackgroundService;
use serde_json::{Map, Value, json};
use tokio::net::{TcpListener, TcpStream};

use super::live::Current;
use super::reload::Reloader;
use crate::funnel::levels::LEVEL_MAX;
use crate::http::openapi;
use crate::http::problem::{Problem, Refusal};
use crate::http::reply::{Reply, shown};
use crate::metrics;
use crate::store::{SaleStore, SaleView, SkuView, StoreError};

/// Most sales in one list.
const LIST_MAX: usize = 1000;

/// How often a new process looks whether the old one has left the admin address.
const HANDOVER_LOOK: Duration = Duration::from_millis(100);

/// What the admin listener shows.
pub struct Desk {
    pub store: Arc<dyn SaleStore>,
    pub live: Current,
    pub reloader: Arc<Reloader>,
    pub key_prefix: Vec<u8>,
}

/// The listener as a service of the process.
pub struct Admin {
    pub address: SocketAddr,
    /// The public listener: the admin one opens after it, so that whoever finds it well finds both.
    pub public: SocketAddr,
    /// Whether another process has the address for some seconds more.
    pub taken_over: bool,
    pub desk: Arc<Desk>,
}

/// The routes of the admin listener.
pub fn router(desk: Arc<Desk>) -> Router {
    Router::new()
        .route("/metrics", get(metrics_text))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/openapi.json", get(|| async { ([(header::CONTENT_TYPE, "application/json")], openapi::DOCUMENT) }))
        .route("/api/level", get(level).put(set_level))
        .route("/api/reload", post(reload))
        .route("/api/sales", get(list))
        .route("/api/sales/{name}", get(show))
        .with_state(desk)
}

#[async_trait]
impl BackgroundService for Admin {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        tokio::select! {
            () = accepts(self.public) => {}
            _ = shutdown.changed() => return,
        }
        let listener = loop {
            let error = match TcpListener::bind(self.address).await {
                Ok(listener) => break listener,
                Err(error) => error,
            };
            if self.taken_over && error.kind() == std::io::ErrorKind::AddrInUse {
                tokio::select! {
                    () = tokio::time::sleep(HANDOVER_LOOK) => {}
                    _ = shutdown.changed() => return,
                }
            } else {
                log::error!("the admin listener cannot have {}: {error}", self.address);
                return;
            }
        };
        log::info!("admin listener on {}", self.address);
        let stop = async move {
            let _ = shutdown.wait_for(|stop| *stop).await;
        };
        if let Err(error) = axum::serve(listener, router(self.desk.clone())).with_graceful_shutdown(stop).await {
            log::error!("the admin listener has ended: {error}");
        }
    }
}

/// Returns when somebody listens at `address`.
async fn accepts(address: SocketAddr) {
    let mut address = address;
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    while TcpStream::connect(address).await.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn metrics_text() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], metrics::text())
}

async fn ready(State(desk): State<Arc<Desk>>) -> Response {
    let redis = desk.store.ping().await;
    let shop = desk.live.load().shop.is_well();
    let status = match (&redis, shop) {
        (Ok(()), None | Some(true)) => StatusCode::OK,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    let body = json!({
        "ready": status == StatusCode::OK,
        "redis": redis.map_or_else(|error| error.to_string(), |()| "ok".to_owned()),
        "shop": match shop {
            None => "none configured",
            Some(true) => "ok",
            Some(false) => "no server is well",
        },
    });
    (status, Json(body)).into_response()
}

/// Takes over the config file; 409 and the reason if it is wrong.
async fn reload(State(desk): State<Arc<Desk>>) -> Response {
    let reloader = desk.reloader.clone();
    let outcome = tokio::task::spawn_blocking(move || reloader.reload()).await;
    match outcome {
        Ok(Ok(report)) => {
            report.tell();
            Json(report).into_response()
        }
        Ok(Err(error)) => (StatusCode::CONFLICT, Json(json!({"error": format!("{error:#}")}))).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// The level of degradation: what it is, and whether an operator has set it.
async fn level(State(desk): State<Arc<Desk>>) -> Json<Value> {
    let live = desk.live.load();
    let levels = &live.levels;
    Json(json!({
        "level": levels.level(),
        "by_hand": levels.by_hand().is_some(),
        "auto": levels.is_auto(),
        "drop": levels.share(),
    }))
}

/// Sets it: `{"level":2}` by hand, `{"level":null}` gives it back to the measuring.
async fn set_level(State(desk): State<Arc<Desk>>, Json(wanted): Json<Value>) -> Response {
    let level = match wanted.get("level") {
        Some(Value::Null) => None,
        Some(level) if level.as_u64().is_some_and(|level| level <= LEVEL_MAX.into()) => level.as_u64(),
        _ => {
            let problem = Problem::BadRequest.because(format!("Send {{\"level\":0}} to {LEVEL_MAX}, or null."));
            return Failure::Problem(problem).into_response();
        }
    };
    desk.live.load().levels.set(level.map(|level| level as u8));
    log::warn!("an operator set level {level:?}");
    self::level(State(desk)).await.into_response()
}

async fn list(State(desk): State<Arc<Desk>>) -> Result<Json<Value>, Failure> {
    let mut sales = Vec::new();
    for key in desk.store.keys(&desk.key_prefix, LIST_MAX).await? {
        match desk.store.sale(&key).await {
            Ok((sale, _)) => sales.push(sale_json(desk.name_of(&key), &sale)),
            // Other things may live under the prefix, and a sale may end while we look.
            Err(StoreError::NoSale) => {}
            Err(error) => return Err(error.into()),
        }
    }
    sales.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
    Ok(Json(json!({"sales": sales})))
}

async fn show(State(desk): State<Arc<Desk>>, Path(name): Path<String>) -> Result<Json<Value>, Failure> {
    let key = [&desk.key_prefix[..], name.as_bytes()].concat();
    let (sale, _) = desk.store.sale(&key).await?;
    Ok(Json(sale_json(name.as_bytes(), &sale)))
}

impl Desk {
    fn name_of<'a>(&self, key: &'a Bytes) -> &'a [u8] {
        key.strip_prefix(&self.key_prefix[..]).unwrap_or(key)
    }
}

fn sale_json(name: &[u8], sale: &SaleView) -> Value {
    let skus: Map<String, Value> = sale.skus.iter().map(|(sku, view)| (shown(sku), sku_json(view))).collect();
    json!({
        "name": shown(name),
        "state": sale.state,
        "limit": sale.limit,
        "hold_ms": sale.hold_ms,
        "maxhold_ms": sale.maxhold_ms,
        "opens_at": sale.opens_at_ms,
        "closes_at": sale.closes_at_ms,
        "shard": sale.shard,
        "shards": sale.shards,
        "holds": sale.holds,
        "orders": sale.orders,
        "buyers": sale.buyers,
        "next_deadline": sale.next_deadline_ms,
        "expiry_lag_ms": sale.expiry_lag_ms,
        "skus": skus,
    })
}

fn sku_json(view: &SkuView) -> Value {
    json!({
        "stocked": view.stocked,
        "available": view.available,
        "held": view.held,
        "sold": view.sold,
        "granted": view.granted,
        "accepted": view.accepted,
        "limit": view.limit,
    })
}

/// A failure of the stock as a problem document.
enum Failure {
    Store(StoreError),
    Problem(Refusal),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let refusal: Refusal = match self {
            Failure::Problem(refusal) => refusal,
            Failure::Store(StoreError::NoSale) => Problem::NoSale.into(),
            Failure::Store(error) => Problem::RedisDown.because(error.to_string()),
        };
        let reply = Reply::from(refusal);
        let status = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, [(header::CONTENT_TYPE, reply.content_type)], reply.body).into_response()
    }
}
