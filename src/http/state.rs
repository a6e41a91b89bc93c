//! What every handler may use; cheap to clone.

use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use secrecy::SecretString;

use crate::base::clock::Clock;
use crate::base::vault::Vault;
use crate::engine::embed::EmbedWorker;
use crate::http::pages::Pages;
use crate::http::refusals::Refusals;
use crate::pipeline::accounts::Accounts;
use crate::pipeline::delivery::Bell;
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

/// What holds when people take conversations over.
#[derive(Clone, Debug)]
pub struct HandoffRules {
    /// How long a claim lasts that is not prolonged by a reply.
    pub claim: Duration,
    /// Customers are asked how it was.
    pub survey: bool,
    /// A window that closes sooner is warned of.
    pub closing: Duration,
}

#[derive(Clone)]
pub struct HttpState {
    pub desk: Arc<Desk>,
    pub store: Arc<dyn Store>,
    pub embedder: Arc<EmbedWorker>,
    pub generations: Arc<Generations>,
    pub accounts: Accounts,
    pub bell: Arc<Bell>,
    /// Opens what was masked; `None`: nothing is kept.
    pub vault: Option<Arc<Vault>>,
    pub handoff: HandoffRules,
    pub operators: Arc<OperatorAccess>,
    pub metrics: PrometheusHandle,
    pub pages: Arc<Pages>,
    pub refusals: Arc<Refusals>,
    pub clock: Clock,
    /// From the first byte of a request to its reply.
    pub deadline: Duration,
}
