//! Metrics and health over HTTP, for machines that watch.

use std::future::Future;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::registry::Registry as Prometheus;
use tokio::net::TcpListener;

use crate::answer::Context;

struct Shared {
    context: Context,
    metrics: Prometheus,
}

/// Serves until `stopped`.
pub async fn serve(
    listener: TcpListener,
    context: Context,
    stopped: impl Future<Output = ()> + Send + 'static,
) {
    let metrics = crate::metrics::registry(context.clone());
    let app = Router::new()
        .route("/metrics", get(metrics_text))
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .with_state(Arc::new(Shared { context, metrics }));
    if let Err(error) = axum::serve(listener, app).with_graceful_shutdown(stopped).await {
        tracing::error!(%error, "the admin listener failed");
    }
}

async fn metrics_text(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], crate::metrics::text(&shared.metrics))
}

fn json(status: StatusCode, body: serde_json::Value) -> impl IntoResponse {
    (status, [(header::CONTENT_TYPE, "application/json")], format!("{body}\n"))
}

/// The process answers: that is all it says.
async fn live() -> impl IntoResponse {
    json(StatusCode::OK, serde_json::json!({"status": "live"}))
}

/// 200 while any bucket takes appends, with what is wrong; 503 when none does.
async fn ready(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    let status = shared.context.database.status();
    let (code, word) = match status.is_ready() {
        true => (StatusCode::OK, "ready"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "not ready"),
    };
    json(code, serde_json::json!({"status": word, "degraded": status.degraded()}))
}
