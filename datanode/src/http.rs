//! HTTP: `/health` and `/metrics`.

use std::sync::{Arc, Weak};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::sync::watch;

use crate::namenode_link::Registration;
use crate::transfer::Shared;

/// Answer of a datanode that has ended.
const STOPPING: (StatusCode, &str) = (StatusCode::SERVICE_UNAVAILABLE, "stopping\n");

/// Weak, since connections may outlive the datanode.
#[derive(Clone)]
struct Pages {
    shared: Weak<Shared>,
    registration: watch::Receiver<Registration>,
}

/// The pages of a datanode.
pub fn router(shared: &Arc<Shared>, registration: watch::Receiver<Registration>) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .with_state(Pages { shared: Arc::downgrade(shared), registration })
}

/// 200 while registered with at least one good volume, else 503; one line says why.
async fn health(State(pages): State<Pages>) -> (StatusCode, &'static str) {
    let Some(shared) = pages.shared.upgrade() else { return STOPPING };
    if shared.dataset.volumes().iter().all(|v| v.is_failed()) {
        return (StatusCode::SERVICE_UNAVAILABLE, "all volumes failed\n");
    }
    match *pages.registration.borrow() {
        Registration::Done(_) => (StatusCode::OK, "ok\n"),
        Registration::Wanted => (StatusCode::SERVICE_UNAVAILABLE, "not registered with the namenode\n"),
        Registration::Refused => (StatusCode::SERVICE_UNAVAILABLE, "refused by the namenode\n"),
    }
}

async fn metrics(State(pages): State<Pages>) -> Result<String, (StatusCode, &'static str)> {
    pages.shared.upgrade().map(|shared| shared.metrics.render()).ok_or(STOPPING)
}
