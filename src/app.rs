//! The composition root: configuration in, a running service out.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use metrics_exporter_prometheus::PrometheusHandle;
use secrecy::ExposeSecret;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::base::clock::Clock;
use crate::base::vault::{KeyError, Vault};
use crate::config::{self, Config, Handoff, RemoteModel};
use crate::domain::message::AccountName;
use crate::engine::embed::EmbedWorker;
use crate::engine::generate::GenerateWorker;
use crate::gate::compliance::{AllowLists, Compliance};
use crate::http::{HandoffRules, HttpState, OperatorAccess, Pages};
use crate::ingest::read_synonyms;
use crate::model::dir::ModelDir;
use crate::model::encoder::BertEncoder;
use crate::model::generator::QwenGenerator;
use crate::model::manifest::{Manifest, ManifestError};
use crate::model::packed::prepare;
use crate::model::perplexity::Surprise;
use crate::model::remote::{Address, RemoteEmbedder, RemoteGenerator};
use crate::model::{Arithmetic, Embedder, Generator, ModelError, ModelIdentity, kernels_in_use};
use crate::ops::backup::{Site, restore};
use crate::ops::telemetry;
use crate::pipeline::accounts::Accounts;
use crate::pipeline::delivery::announce::OtherDesk;
use crate::pipeline::delivery::drain::{self, Drain};
use crate::pipeline::delivery::{Bell, Delivery, DeliveryParts};
use crate::pipeline::desk::{Desk, DeskParts, Limits};
use crate::pipeline::follower::Follower;
use crate::pipeline::generations::{GenerationDir, Generations};
use crate::pipeline::responder::{Parts, Responder};
use crate::pipeline::watch::Watch;
use crate::search::synonyms::Synonyms;
use crate::store::sqlite::SqliteStore;
use crate::store::sqlite::hold::{Hold, beside};
use crate::store::{Store, StoreError};

/// How often the service looks whether knowledge was changed or another generation published.
const FOLLOW: Duration = Duration::from_millis(250);
/// How often it looks whether the gate keeps its promise.
const WATCH: Duration = Duration::from_secs(60);

/// Everything below the socket; commands that need less open less.
pub struct App {
    pub config: Config,
    pub clock: Clock,
    pub models: Models,
}

/// The weights as the manifest describes them and where they lie.
pub struct Models {
    pub manifest: Manifest,
    pub dir: ModelDir,
}

impl Models {
    /// `dir` empty: the usual place.
    ///
    /// # Errors
    /// When the list of imported models there is damaged.
    pub fn at(dir: &Path) -> Result<Self, ManifestError> {
        let dir = if dir.as_os_str().is_empty() { ModelDir::resolve() } else { ModelDir::at(dir) };
        Ok(Self { manifest: Manifest::of_folder(dir.path())?, dir })
    }

    /// Where an installed model is and what it must be; opening it checks that it is.
    fn find(&self, name: &str) -> Result<(PathBuf, ModelIdentity), ModelError> {
        kernels_in_use().map_err(|e| ModelError::BadRequest(e.to_string()))?;
        let entry = self.manifest.get(name).map_err(|e| ModelError::BadRequest(e.to_string()))?;
        Ok((self.dir.installed(entry)?, entry.identity()))
    }

    /// Writes the packed form of installed models, which the first start would do otherwise.
    pub fn prepare(&self, names: impl IntoIterator<Item = String>) -> Result<(), ModelError> {
        for name in names {
            let (path, identity) = self.find(&name)?;
            prepare(&path, &identity)?;
        }
        Ok(())
    }

    pub fn open_embedder(&self, name: &str, arithmetic: Arithmetic) -> Result<Arc<EmbedWorker>> {
        let (path, identity) = self.find(name)?;
        let encoder = BertEncoder::open_for(arithmetic, &path, identity)?;
        let encoder: Arc<dyn Embedder> = Arc::new(encoder);
        Ok(Arc::new(EmbedWorker::start(encoder)?))
    }

    pub fn open_generator(&self, name: &str) -> Result<QwenGenerator, ModelError> {
        let (path, identity) = self.find(name)?;
        QwenGenerator::open(&path, identity)
    }

    pub fn open_surprise(
        &self,
        name: &str,
        arithmetic: Arithmetic,
    ) -> Result<Surprise, ModelError> {
        let (path, identity) = self.find(name)?;
        Surprise::open(&path, &identity, arithmetic)
    }
}

impl App {
    pub fn new(config: Config) -> Result<Self, ManifestError> {
        let models = Models::at(&config.models.dir)?;
        Ok(Self { config, clock: Clock::System, models })
    }

    /// Store and index below this folder take the place of the configured ones.
    pub fn keep_state_in(&mut self, folder: &Path) {
        self.config.store.path = folder.join("huida.db");
        self.config.index.dir = folder.join("generations");
    }

    /// What backups are made of.
    pub fn site<'a>(&'a self, generations: &'a GenerationDir) -> Site<'a> {
        Site { store: &self.config.store.path, generations }
    }

    /// Ends a restore that was decided and killed before it was done.
    pub fn settle(&self) -> Result<()> {
        if restore::finish(self.site(&self.generation_dir()))? {
            tracing::warn!("a restore that was interrupted has been completed");
        }
        Ok(())
    }

    pub fn open_store(&self) -> Result<Arc<dyn Store>> {
        self.settle()?;
        Ok(Arc::new(SqliteStore::open(&self.config.store.path)?))
    }

    /// The right to serve: one process at a time has it for a store.
    pub fn sole(&self) -> Result<Hold, StoreError> {
        Hold::serving(&self.config.store.path)
    }

    /// `None`: what is masked is lost.
    pub fn vault(&self) -> Result<Option<Arc<Vault>>, KeyError> {
        let named = |file: &Path| !file.as_os_str().is_empty();
        let config::Vault { key_file, previous_key_file } = &self.config.vault;
        if !named(key_file) {
            return Ok(None);
        }
        let previous = Some(previous_key_file.as_path()).filter(|file| named(file));
        Ok(Some(Arc::new(Vault::load(key_file, previous)?)))
    }

    pub fn open_embedder(&self) -> Result<Arc<EmbedWorker>> {
        self.open_embedder_for(Arithmetic::AsStored)
    }

    pub fn open_embedder_for(&self, arithmetic: Arithmetic) -> Result<Arc<EmbedWorker>> {
        if let Some(remote) = &self.config.remote.embedder {
            if arithmetic == Arithmetic::Floats {
                bail!("the embedder is remote: its arithmetic is not ours to choose");
            }
            let embedder: Arc<dyn Embedder> =
                Arc::new(RemoteEmbedder::open(address("embedder", remote)?)?);
            return Ok(Arc::new(EmbedWorker::start(embedder)?));
        }
        self.models.open_embedder(&self.config.models.embedder, arithmetic)
    }

    pub fn generation_dir(&self) -> GenerationDir {
        GenerationDir::new(self.config.index.dir.clone(), self.config.index.keep_generations)
    }

    /// The operator's synonyms for the next build.
    pub fn synonyms(&self) -> Result<Synonyms> {
        let file = &self.config.index.synonyms;
        if file.as_os_str().is_empty() {
            return Ok(Synonyms::default());
        }
        read_synonyms(file).context("index.synonyms")
    }

    pub fn open_generations(&self, embedder: &EmbedWorker) -> Result<Arc<Generations>> {
        self.settle()?;
        let open = Generations::open(self.generation_dir(), embedder.identity().clone());
        Ok(Arc::new(open?))
    }

    /// Loads in the background; `None` when no generator is configured.
    pub fn start_composer(&self) -> Result<Option<Arc<GenerateWorker>>> {
        if let Some(remote) = &self.config.remote.generator {
            let generator = RemoteGenerator::open(address("generator", remote)?)?;
            return Ok(Some(Arc::new(GenerateWorker::start(move || Ok(generator))?)));
        }
        let name = self.config.models.generator.clone();
        if name.is_empty() {
            return Ok(None);
        }
        let entry = self.models.manifest.get(&name)?;
        if !self.models.dir.has(entry) {
            tracing::warn!(
                model = name,
                "the generator is not installed (`huida models pull`); nothing will be composed"
            );
            return Ok(None);
        }
        let models =
            Models { manifest: self.models.manifest.clone(), dir: self.models.dir.clone() };
        Ok(Some(Arc::new(GenerateWorker::start(move || models.open_generator(&name))?)))
    }

    /// The rule packs with what this installation allows.
    pub fn compliance(&self) -> Result<Compliance> {
        let allowed = &self.config.compliance;
        Ok(Compliance::standard(AllowLists {
            service_numbers: allowed.service_numbers.clone(),
            link_hosts: allowed.link_hosts.clone(),
        })?)
    }

    pub fn responder(
        &self,
        store: Arc<dyn Store>,
        embedder: Arc<EmbedWorker>,
        generations: Arc<Generations>,
    ) -> Result<Responder> {
        Ok(Responder::new(Parts {
            embedder,
            composer: self.start_composer()?,
            generations,
            compliance: self.compliance()?,
            store,
            clock: self.clock.clone(),
            draft_chars: self.config.reply.draft_chars,
            compose_within: Duration::from_millis(self.config.reply.compose_ms),
        }))
    }

    /// Opens the configured generator, or asks the remote one; its name, or `None` without one.
    pub fn check_generator(&self) -> Result<Option<String>> {
        if let Some(remote) = &self.config.remote.generator {
            let generator = RemoteGenerator::open(address("generator", remote)?)?;
            generator.check()?;
            return Ok(Some(format!("{} at {}", remote.model, remote.base_url)));
        }
        if self.config.models.generator.is_empty() {
            return Ok(None);
        }
        let generator = self.models.open_generator(&self.config.models.generator)?;
        Ok(Some(generator.identity().name.clone()))
    }

    pub fn follower(
        &self,
        store: &Arc<dyn Store>,
        embedder: &Arc<EmbedWorker>,
        generations: &Arc<Generations>,
    ) -> Follower {
        Follower::new(Arc::clone(store), Arc::clone(embedder), Arc::clone(generations))
    }

    /// The desk with everything behind it.
    pub fn desk(&self) -> Result<Service> {
        let vault = self.vault()?;
        let store = self.open_store()?;
        let embedder = self.open_embedder()?;
        let generations = self.open_generations(&embedder)?;
        let responder = self.responder(store.clone(), embedder.clone(), generations.clone())?;
        let accounts = self.accounts()?;
        let bell = Arc::new(Bell::default());
        let desk = Arc::new(Desk::start(DeskParts {
            store: store.clone(),
            responder,
            clock: self.clock.clone(),
            limits: self.limits(),
            accounts: accounts.clone(),
            bell: bell.clone(),
            vault: vault.clone(),
        })?);
        let follower = self.follower(&store, &embedder, &generations);
        if let Err(error) = follower.look() {
            tracing::warn!(%error, "the knowledge serves as it was built");
        }
        let follower = Arc::new(follower);
        Ok(Service { store, embedder, generations, desk, accounts, bell, vault, follower })
    }

    /// The configured channels, each with its secrets in place.
    pub fn accounts(&self) -> Result<Accounts> {
        let opened = self.config.accounts.iter().map(|(name, account)| {
            account.open(AccountName(name.clone())).with_context(|| format!("accounts.{name}"))
        });
        opened.collect()
    }

    fn limits(&self) -> Limits {
        let Config { server, reply, handoff, .. } = &self.config;
        Limits {
            turns: server.max_concurrent_turns,
            waiting: server.max_waiting_turns,
            context_age: minutes(reply.context_minutes),
            late: Duration::from_millis(reply.late_ms),
            patience: Duration::from_millis(reply.patience_ms),
            fragment: Duration::from_millis(reply.fragment_ms),
            kept: minutes(reply.kept_minutes),
            wait_for_person: minutes(handoff.expected_wait_minutes),
            handoff: handoff.desk,
            session: minutes(handoff.session_minutes),
        }
    }

    fn operators(&self) -> Result<OperatorAccess> {
        let token = &self.config.server.operator_token;
        if !token.expose_secret().is_empty() {
            return Ok(OperatorAccess::Token(token.clone()));
        }
        if !self.config.server.listen.ip().is_loopback() {
            bail!("server.listen is not a loopback address: set server.operator_token as well");
        }
        Ok(OperatorAccess::LoopbackOnly)
    }

    fn other_desk(&self) -> Result<Option<OtherDesk>> {
        let Handoff { webhook_url, webhook_secret, .. } = &self.config.handoff;
        if webhook_url.is_empty() {
            return Ok(None);
        }
        let desk = OtherDesk::new(webhook_url, webhook_secret).context("handoff")?;
        Ok(Some(desk))
    }

    /// Starts what sends and, where an account needs it, what fetches.
    fn deliver(&self, service: &Service) -> Result<(Delivery, Option<Drain>)> {
        let delivery = Delivery::start(DeliveryParts {
            store: service.store.clone(),
            accounts: service.accounts.clone(),
            clock: self.clock.clone(),
            bell: service.bell.clone(),
            session: self.limits().session,
            renewals: beside(&self.config.store.path, ".renewed"),
            other_desk: self.other_desk()?,
        })?;
        let fetches = drain::fetches(&service.accounts);
        let drain = fetches.then(|| Drain::start(&delivery, service.desk.clone())).transpose()?;
        Ok((delivery, drain))
    }

    /// Serves on `listener` until `shutdown`; everything in work then ends within the grace period.
    /// `_sole`: [`App::sole`], taken before the service is opened.
    pub async fn serve(
        &self,
        service: Service,
        _sole: Hold,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> Result<()> {
        let deadline = Duration::from_millis(self.config.reply.deadline_ms);
        let state = HttpState {
            desk: service.desk.clone(),
            store: service.store.clone(),
            embedder: service.embedder.clone(),
            generations: service.generations.clone(),
            accounts: service.accounts.clone(),
            bell: service.bell.clone(),
            vault: service.vault.clone(),
            handoff: HandoffRules {
                claim: minutes(self.config.handoff.claim_minutes),
                survey: self.config.handoff.survey,
                closing: minutes(self.config.handoff.closing_minutes),
            },
            operators: Arc::new(self.operators()?),
            metrics: telemetry::metrics()?,
            refusals: Arc::default(),
            pages: Arc::new(Pages::new()?),
            clock: self.clock.clone(),
            deadline,
        };
        let (upkeep, desk) = (state.metrics.clone(), service.desk.clone());
        tokio::task::spawn_blocking(move || desk.rehearse()).await?;
        // It waits for the store, and its HTTP client brings a runtime of its own.
        let (delivery, drain) = tokio::task::block_in_place(|| self.deliver(&service))?;
        let upkeeper = tokio::spawn(look_after(service.desk.clone(), service.store.clone()));
        service.generations.grow();
        let (follower, generations) = (service.follower.clone(), service.generations.clone());
        let follow = tokio::spawn(follow_knowledge(follower, generations.clone()));
        let keeping = tokio::spawn(keep_metrics(upkeep));
        let watch = Watch::new(service.store.clone(), generations, self.clock.clone());
        let watching = tokio::spawn(watch_gate(Arc::new(watch)));
        let grace = Duration::from_millis(self.config.server.shutdown_grace_ms);
        crate::http::run(listener, state, shutdown, grace).await;
        follow.abort();
        watching.abort();
        upkeeper.abort();
        keeping.abort();
        // What is under way ends; what waits is in the store.
        tokio::task::spawn_blocking(move || drop((drain, delivery))).await?;
        tracing::info!("stopped");
        Ok(())
    }
}

fn minutes(minutes: u64) -> Duration {
    Duration::from_secs(minutes.saturating_mul(60))
}

/// How often work is looked for that a fault left undone.
const LOOK_AFTER: Duration = Duration::from_secs(15);

/// Takes up at once what an earlier run left, and from time to time what a fault did; tells the
/// metrics how much waits.
async fn look_after(desk: Arc<Desk>, store: Arc<dyn Store>) {
    loop {
        let (desk, store) = (desk.clone(), store.clone());
        let looked = tokio::task::spawn_blocking(move || {
            let recovered = desk.recover()?;
            let (counts, cases) = (store.outbox_counts()?, store.waiting()?.0);
            metrics::gauge!("huida_outbox_waiting").set(counts.waiting as f64);
            metrics::gauge!("huida_outbox_handed").set(counts.handed as f64);
            metrics::gauge!("huida_work_open").set(counts.work as f64);
            metrics::gauge!("huida_cases_open").set(cases as f64);
            Ok::<_, StoreError>(recovered)
        });
        match looked.await {
            Ok(Ok(0)) => {}
            Ok(Ok(recovered)) => tracing::warn!(recovered, "unfinished messages were taken up"),
            Ok(Err(error)) => tracing::error!(%error, "unfinished messages cannot be read"),
            Err(error) => tracing::error!(%error, "looking after unfinished messages failed"),
        }
        tokio::time::sleep(LOOK_AFTER).await;
    }
}

/// What a table `remote.…` of the configuration names, with its key.
fn address(which: &str, remote: &RemoteModel) -> Result<Address> {
    Address::new(&remote.base_url, &remote.model, &remote.api_key_env)
        .map_err(|reason| anyhow::anyhow!("remote.{which}: {reason}"))
}

/// What answers messages, opened.
pub struct Service {
    pub store: Arc<dyn Store>,
    pub embedder: Arc<EmbedWorker>,
    pub generations: Arc<Generations>,
    pub desk: Arc<Desk>,
    pub accounts: Accounts,
    pub bell: Arc<Bell>,
    pub vault: Option<Arc<Vault>>,
    pub follower: Arc<Follower>,
}

/// Without a scraper, samples would pile up.
async fn keep_metrics(metrics: PrometheusHandle) {
    loop {
        tokio::time::sleep(FOLLOW).await;
        metrics.run_upkeep();
    }
}

async fn follow_knowledge(follower: Arc<Follower>, generations: Arc<Generations>) {
    // The fault of the last look; to tell it at every look would fill the log.
    let mut told = None;
    loop {
        tokio::time::sleep(FOLLOW).await;
        let looking = follower.clone();
        let looked = tokio::task::spawn_blocking(move || looking.look().map_err(|e| e.to_string()));
        let looked = looked.await.unwrap_or_else(|error| Err(error.to_string()));
        let generation = || generations.current().id();
        match &looked {
            Ok(true) => tracing::info!(generation = generation(), "knowledge switched"),
            Ok(false) => {}
            Err(error) if told.as_ref() == Some(error) => {}
            Err(error) => {
                let generation = generation();
                tracing::error!(error, generation, "new knowledge cannot be taken in");
            }
        }
        // After a look that went well the same fault is news again.
        told = looked.err();
    }
}

async fn watch_gate(watch: Arc<Watch>) {
    loop {
        tokio::time::sleep(WATCH).await;
        let looking = watch.clone();
        match tokio::task::spawn_blocking(move || looking.look()).await {
            Ok(Ok(None)) => {}
            Ok(Ok(Some(alarm))) => {
                metrics::counter!("huida_gate_tightened_total").increment(1);
                tracing::warn!(?alarm, "the gate lets out less from now on; label recent messages");
            }
            Ok(Err(error)) => tracing::error!(%error, "the gate cannot be watched"),
            Err(error) => tracing::error!(%error, "watching the gate failed"),
        }
    }
}

/// Resolves on SIGINT or SIGTERM, heard from the call on: a service that is just starting ends as
/// well as another.
///
/// # Errors
/// When the system does not tell of signals; must be called on a runtime.
pub fn interrupted() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminated = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminated.recv() => {}
            _ = interrupted.recv() => {}
        }
    })
}
