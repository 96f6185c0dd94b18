//! Requests flow in, the newest snapshot flows out: as Prometheus text, as JSON, as a map. Reads only, so a
//! stranger who reaches the port can learn the report and nothing else, and change nothing.

use super::guests::Guests;
use super::{Published, metrics};
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Router, serve};
use prometheus_client::registry::Registry;
use serde_json::json;
use std::future::Future;
use std::sync::Arc;
use tokio::net::TcpListener;

/// The live map: one page that asks for the report, and nothing from anywhere else.
const PAGE: &str = include_str!("page.html");

/// The page may run and style itself and ask this agent, no one else.
const PAGE_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; \
     frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
);

#[derive(Clone, Debug)]
struct Shared {
    published: Arc<Published>,
    registry: Arc<Registry>,
}

/// Serves until `stop` is done and the requests under way are answered.
///
/// # Errors
/// When the listener breaks.
pub async fn serve_until(
    listener: TcpListener,
    published: Arc<Published>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    serve(Guests::of(listener), router(published)).with_graceful_shutdown(stop).await
}

/// The routes.
pub fn router(published: Arc<Published>) -> Router {
    let registry = Arc::new(metrics::registry(Arc::clone(&published)));
    Router::new()
        .route("/", get(page))
        .route("/metrics", get(prometheus))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/api/v1/report", get(report))
        .fallback(|| async {
            (
                StatusCode::NOT_FOUND,
                "no such page; there are /, /metrics, /healthz, /readyz and /api/v1/report\n",
            )
        })
        .with_state(Shared { published, registry })
}

async fn page() -> impl IntoResponse {
    ([(header::CONTENT_SECURITY_POLICY, PAGE_POLICY)], Html(PAGE))
}

async fn prometheus(State(shared): State<Shared>) -> Response {
    match metrics::encode(&shared.registry) {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "metrics could not be written\n").into_response(),
    }
}

async fn ready(State(shared): State<Shared>) -> Response {
    match shared.published.latest() {
        Some(_) => "ready\n".into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, "the first step has not closed yet\n").into_response(),
    }
}

async fn report(State(shared): State<Shared>) -> Response {
    match shared.published.latest() {
        Some(snapshot) => ([(header::CACHE_CONTROL, "no-store")], Json(&snapshot.report)).into_response(),
        None => {
            let body = json!({ "error": "the first step has not closed yet; ask again in a few seconds" });
            (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "1")], Json(body)).into_response()
        }
    }
}
