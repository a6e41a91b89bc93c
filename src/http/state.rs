//! What every handler may use; cheap to clone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use secrecy::SecretString;

use crate::base::clock::Clock;
use crate::channels::Channel;
use crate::engine::embed::EmbedWorker;
use crate::http::pages::Pages;
use crate::pipeline::desk::Desk;
use crate::pipeline::generations::Generations;
use crate::store::Store;

/// Who may see customers' conversations.
pub enum OperatorAccess {
    /// Callers on this machine that reached us under a loopback name.
    LoopbackOnly,
    /// Whoever presents this token.
    Token(SecretString),
}

#[derive(Clone)]
pub struct HttpState {
    pub desk: Arc<Desk>,
    pub store: Arc<dyn Store>,
    pub embedder: Arc<EmbedWorker>,
    pub generations: Arc<Generations>,
    /// By the account's name.
    pub channels: Arc<BTreeMap<String, Arc<dyn Channel>>>,
    pub operators: Arc<OperatorAccess>,
    pub metrics: PrometheusHandle,
    pub pages: Arc<Pages>,
    pub clock: Clock,
    /// From the first byte of a request to its reply.
    pub deadline: Duration,
}
