//! `simulate`: plays a platform against a service on this machine.

mod sides;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::json;
use tokio::net::TcpListener;

use self::sides::Console;
use super::output;
use crate::app::App;
use crate::base::clock::{Deadline, UnixMs};
use crate::base::id::SessionId;
use crate::domain::knowledge::{Change, VersionedEntry};
use crate::domain::message::AccountName;
use crate::simulate::api::{self, Api, Temper};
use crate::simulate::child::{Child, Start};
use crate::simulate::driver::{Driver, Outcome, own_machine};
use crate::simulate::ledger::Ledger;
use crate::simulate::load::Load;
use crate::simulate::questions::Questions;
use crate::simulate::run::{self, Disturbance, Run};
use crate::simulate::scenario::{self, Scenario};
use crate::simulate::wechat_mp::Mode;
use crate::simulate::{Said, Seen, What};
use crate::store::sqlite::SqliteStore;
use crate::store::{Fate, Import, Store, StoreError};

#[derive(Subcommand)]
pub(super) enum SimulateCommand {
    /// 公众号.
    WechatMp(PlayArgs),
    /// 小程序客服.
    Mini(PlayArgs),
    /// 企业微信, an app's callback.
    Wecom(PlayArgs),
    /// 微信客服.
    Kf(PlayArgs),
    /// 微信小店 and 视频号.
    Shop(PlayArgs),
    /// 支付宝 生活号.
    Alipay(PlayArgs),
    /// 抖音.
    Douyin(PlayArgs),
    /// A system of your own, on signed JSON.
    Webhook(PlayArgs),
}

impl SimulateCommand {
    /// The word in the account's table, and what is to be played.
    fn parts(&self) -> (&'static str, &PlayArgs) {
        match self {
            Self::WechatMp(args) => ("wechat-mp", args),
            Self::Mini(args) => ("wechat-mini", args),
            Self::Wecom(args) => ("wecom", args),
            Self::Kf(args) => ("wechat-kf", args),
            Self::Shop(args) => ("wechat-shop", args),
            Self::Alipay(args) => ("alipay", args),
            Self::Douyin(args) => ("douyin", args),
            Self::Webhook(args) => ("webhook", args),
        }
    }
}

#[derive(Args)]
#[command(after_help = "Examples (the account and its secrets come from the configuration):
  huida simulate wechat-mp --account main \"多久发货\"
  huida simulate wechat-mp --account main --rate 50 --minutes 3 --start
  huida simulate wechat-mp --account main --rate 50 --minutes 3 --chaos 60 --api-errors 0.2
  huida simulate wechat-mp --account main --rate 50 --minutes 1 --flood 2000 --start
  huida simulate wechat-mp --account main --start --scenario tests/fixtures/scenarios/answers.toml")]
pub(super) struct PlayArgs {
    /// One message; without it, load or a scenario.
    #[arg(required_unless_present_any = ["rate", "scenario"])]
    text: Option<String>,
    /// A [accounts.…] table of the configuration.
    #[arg(long)]
    account: String,
    /// Where the service listens; this machine only.
    #[arg(long, default_value = "http://127.0.0.1:8788")]
    url: String,
    /// How the console of a WeChat account is set: plain, compatible or safe.
    #[arg(long, default_value = "safe", value_parser = |w: &str| Mode::parse(w).ok_or("plain, compatible or safe"))]
    mode: Mode,
    /// Alipay's own private key, PEM: its public half is the account's alipay_public_key.
    #[arg(long, value_name = "FILE")]
    alipay_key: Option<PathBuf>,
    /// The customer's id on the platform; another one is another customer.
    #[arg(long, default_value = "openid-simulated")]
    sender: String,
    /// The platform's message id; the same one again is a retry. Without it, a new message.
    #[arg(long)]
    msg_id: Option<u64>,
    /// Play the steps of a file; what does not come as it expects fails the run.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["text", "rate"])]
    scenario: Option<PathBuf>,
    /// Load: messages a second.
    #[arg(long)]
    rate: Option<f64>,
    #[arg(long, default_value_t = 0.25)]
    minutes: f64,
    /// Share of the load that asks for two things at once, as the generator answers.
    #[arg(long, default_value_t = 0.1)]
    drafted: f32,
    /// Start a service for the run, on a copy of the configured knowledge and an empty inbox.
    #[arg(long)]
    start: bool,
    /// The program that --start starts; without it, this one.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Kill the service so many times at random moments of the load; implies --start.
    #[arg(long, value_name = "N", conflicts_with = "flood")]
    chaos: Option<usize>,
    /// So many bad callbacks a second in the second half of the load.
    #[arg(long, value_name = "PER_SECOND")]
    flood: Option<f64>,
    /// Share of the service's sends that the platform's API fails.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    api_errors: f32,
    /// Seconds for which the platform's tokens are good.
    #[arg(long, default_value_t = 7_200)]
    token_seconds: u64,
    /// The service's process, whose memory is told; known where it is started here.
    #[arg(long)]
    pid: Option<u32>,
    /// Repeats who asks what when, and where the service is killed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[arg(long)]
    json: bool,
}

impl PlayArgs {
    fn starts(&self) -> bool {
        self.start || self.chaos.is_some()
    }
}

pub(super) fn run(app: &App, config: Option<&Path>, command: &SimulateCommand) -> Result<ExitCode> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(play(app, config, command))
}

/// The service that is called: one that runs already, or one of our own on a state of its own.
struct Stage {
    url: String,
    child: Option<Child>,
    store: Arc<dyn Store>,
    /// Removed with everything in it at the end.
    _state: Option<tempfile::TempDir>,
}

/// What all ways to play share.
struct Play<'a> {
    args: &'a PlayArgs,
    driver: Arc<Driver>,
    api: Arc<Api>,
    stage: Stage,
    /// Messages before it are of another run.
    begun: UnixMs,
}

async fn play(app: &App, config: Option<&Path>, command: &SimulateCommand) -> Result<ExitCode> {
    let (platform, args) = command.parts();
    let ledger = Arc::new(Ledger::default());
    let temper = Temper {
        errors: args.api_errors,
        token_life: Duration::from_secs(args.token_seconds),
        seed: args.seed,
    };
    let api = Arc::new(Api::new(Arc::clone(&ledger), app.clock.clone(), temper));
    let account = app.config.accounts.get(&args.account);
    let account = account.with_context(|| format!("no [accounts.{}]", args.account))?;
    let console = Console { mode: args.mode, alipay_key: &args.alipay_key };
    let part = sides::of(account, &console, &api)?;
    if part.side.word() != platform {
        bail!("accounts.{} is of another platform: {}", args.account, part.side.word());
    }
    let variables = serve_api(args, &part, Arc::clone(&api)).await?;
    let begun = app.clock.now();
    let stage = set_up(app, config, args, variables).await?;
    let called = (stage.url.as_str(), args.account.as_str());
    let driver = Arc::new(Driver::new(part.side, ledger, app.clock.clone(), called)?);
    let play = Play { args, driver, api, stage, begun };
    match (&args.text, &args.scenario) {
        (Some(text), _) => play.one_message(text).await,
        (None, Some(file)) => play.scenario(file).await,
        (None, None) => play.load(&app.open_store()?.entries()?).await,
    }
}

impl Play<'_> {
    async fn scenario(self, file: &Path) -> Result<ExitCode> {
        let scenario = Scenario::read(file)?;
        let fates = fates(&self.stage.store, &self.args.account, self.begun);
        let stage = scenario::Stage { driver: &self.driver, api: &self.api, fates: &fates };
        let played = stage.play(&scenario).await?;
        let named = [played.failed.as_slice(), played.findings.named.as_slice()].concat();
        tell(&played, played.clean(), &named, self.args.json)
    }

    async fn load(mut self, knowledge: &[VersionedEntry]) -> Result<ExitCode> {
        let args = self.args;
        let load = Load {
            rate: args.rate.unwrap_or(1.0).clamp(0.1, 1_000.0),
            lasting: Duration::try_from_secs_f64(args.minutes * 60.0).context("--minutes")?,
            drafted: args.drafted,
            seed: args.seed,
        };
        let questions = Questions::of(knowledge, args.seed)
            .context("the knowledge is too small to ask about: `huida kb import` first")?;
        let disturbance = match (args.chaos, args.flood) {
            (Some(count), _) => Disturbance::Chaos(count),
            (None, Some(rate)) => Disturbance::Flood(rate),
            (None, None) => Disturbance::None,
        };
        let fates = fates(&self.stage.store, &args.account, self.begun);
        let run = Run {
            driver: &self.driver,
            load,
            questions: &questions,
            disturbance,
            child: self.stage.child.as_mut(),
            pid: args.pid,
            fates: &fates,
        };
        let report = run::run(run).await?;
        tell(&report, report.findings.clean(), &report.findings.named, args.json)
    }

    /// Sends one text and tells what the customer saw, also of what came by the API a little later.
    async fn one_message(self, text: &str) -> Result<ExitCode> {
        let (args, now) = (self.args, self.driver.clock.now());
        let said = Said {
            customer: args.sender.clone(),
            id: args.msg_id.unwrap_or_else(|| fresh_id(now)),
            created: now / 1_000,
            what: What::Text(text.to_owned()),
        };
        let reply = match self.driver.tell(&said).await {
            Outcome::NotAccepted(reason) => bail!("{reason}: is `huida serve` running?"),
            Outcome::Accepted(Seen::Text(reply)) => Some(reply),
            Outcome::Accepted(Seen::Transferred) => None,
            Outcome::Accepted(Seen::Nothing) => self.sent_later(&said.customer).await,
        };
        if args.json {
            output::json(&json!({ "status": 200, "reply": reply }))?;
        } else {
            output::line(reply.as_deref().unwrap_or("(acknowledged without a reply)"))?;
        }
        Ok(ExitCode::SUCCESS)
    }

    /// What is sent to the customer while one would still be waiting.
    async fn sent_later(&self, customer: &str) -> Option<String> {
        let deadline = Deadline::after(Duration::from_secs(10));
        while !deadline.passed() {
            if let Some(text) = self.driver.ledger.seen_after(customer, 0).pop() {
                return Some(text);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        None
    }
}

/// Reads what the store holds of this run.
fn fates(
    store: &Arc<dyn Store>,
    account: &str,
    since: UnixMs,
) -> impl Fn() -> Result<Vec<Fate>, StoreError> + Sync + use<> {
    let (store, account) = (Arc::clone(store), AccountName(account.to_owned()));
    move || store.fates(&account, since)
}

/// The figures, and for people what went wrong in words.
fn tell(report: &impl Serialize, clean: bool, named: &[String], as_json: bool) -> Result<ExitCode> {
    output::report(report, as_json)?;
    for line in named.iter().filter(|_| !as_json) {
        output::line(line)?;
    }
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Serves the platform's API where the account looks for it. What comes back tells a service that is
/// started here; one that runs already must have an address of this machine configured.
async fn serve_api(
    args: &PlayArgs,
    part: &sides::Part,
    api: Arc<Api>,
) -> Result<Vec<(String, String)>> {
    let Some(base) = &part.api else { return Ok(Vec::new()) };
    let address = if args.starts() {
        "127.0.0.1:0".to_owned()
    } else {
        let Some(url) = base.url.as_deref().and_then(|url| own_machine(url).ok()) else {
            let key = base.key;
            output::note(&format!("{key} is elsewhere: what the service sends is not seen here"));
            return Ok(Vec::new());
        };
        let host = url.host_str().unwrap_or_default();
        format!("{host}:{}", url.port_or_known_default().unwrap_or(80))
    };
    let listener = TcpListener::bind(&address).await.with_context(|| address.clone())?;
    let here = format!("http://{}{}", listener.local_addr()?, base.path);
    // It ends with this process.
    tokio::spawn(api::serve(Arc::clone(&part.side), api, listener));
    let variable = format!("HUIDA__ACCOUNTS__{}__{}", args.account, base.key).to_uppercase();
    Ok(vec![(variable, here)])
}

async fn set_up(
    app: &App,
    config: Option<&Path>,
    args: &PlayArgs,
    api: Vec<(String, String)>,
) -> Result<Stage> {
    if !args.starts() {
        let store = app.open_store()?;
        return Ok(Stage { url: args.url.clone(), child: None, store, _state: None });
    }
    if args.account.chars().any(char::is_uppercase) {
        bail!(
            "accounts.{}: only names in lower case can be set for a started service",
            args.account
        );
    }
    let state = tempfile::tempdir()?;
    let store = copied_state(app, state.path())?;
    let path = |name: &str| state.path().join(name).display().to_string();
    let state_of = [
        ("HUIDA__STORE__PATH".to_owned(), path("huida.db")),
        ("HUIDA__INDEX__DIR".to_owned(), path("generations")),
    ];
    let variables = state_of.into_iter().chain(api).collect();
    let config = config.map(|file| vec!["--config".to_owned(), file.display().to_string()]);
    let start = Start {
        binary: args.binary.clone().map_or_else(std::env::current_exe, Ok)?,
        arguments: config.unwrap_or_default(),
        variables,
        // Not in the state: it is wanted after a run that failed.
        log: std::env::temp_dir().join(format!("huida-simulate-{}.log", std::process::id())),
    };
    output::note(&format!("the service's log: {}", start.log.display()));
    let child = Child::start(start).await?;
    Ok(Stage { url: child.url(), child: Some(child), store, _state: Some(state) })
}

/// The knowledge that is served, in a store of its own: customers that are made up must not come
/// among the real ones.
fn copied_state(app: &App, folder: &Path) -> Result<Arc<dyn Store>> {
    let entries = app.open_store()?.entries()?.into_iter().map(|v| v.entry).collect();
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&folder.join("huida.db"))?);
    let change = Change::by("simulate", "simulate");
    store.import_entries(&Import::of(entries, change), app.clock.now())?;
    copy_folder(&app.config.index.dir, &folder.join("generations"))?;
    Ok(store)
}

fn copy_folder(from: &Path, to: &PathBuf) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for item in std::fs::read_dir(from).with_context(|| from.display().to_string())? {
        let (path, name) = item.map(|item| (item.path(), item.file_name()))?;
        if path.is_dir() {
            copy_folder(&path, &to.join(name))?;
        } else {
            std::fs::copy(&path, to.join(name))?;
        }
    }
    Ok(())
}

/// Time first, then something random, as platforms number messages.
fn fresh_id(now: i64) -> u64 {
    let random = SessionId::generate();
    let tail = u64::from_str_radix(random.as_str().get(27..).unwrap_or("0"), 16).unwrap_or(0);
    (now.unsigned_abs() << 20) | (tail & 0xF_FFFF)
}
