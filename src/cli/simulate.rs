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
use tokio::task::JoinHandle;

use self::sides::Console;
use super::output;
use crate::app::App;
use crate::base::clock::Deadline;
use crate::base::id::SessionId;
use crate::domain::knowledge::Change;
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
use crate::store::{Import, Store};

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
    let (serving, variables) = serve_api(args, &part, Arc::clone(&api)).await?;
    let begun = app.clock.now();
    let mut stage = set_up(app, config, args, variables).await?;
    let called = (stage.url.as_str(), args.account.as_str());
    let driver = Arc::new(Driver::new(part.side, ledger, app.clock.clone(), called)?);
    if let Some(text) = &args.text {
        return one_message(&driver, args, text).await;
    }
    let store = Arc::clone(&stage.store);
    let account = AccountName(args.account.clone());
    let fates = move || store.fates(&account, begun);
    if let Some(file) = &args.scenario {
        let scenario = Scenario::read(file)?;
        let played = scenario::Stage { driver: &driver, api: &api, fates: &fates };
        let played = played.play(&scenario).await?;
        return tell(&played, played.clean(), [&played.failed, &played.findings.named], args.json);
    }
    let load = Load {
        rate: args.rate.unwrap_or(1.0).clamp(0.1, 1_000.0),
        lasting: Duration::try_from_secs_f64(args.minutes * 60.0).context("--minutes")?,
        drafted: args.drafted,
        seed: args.seed,
    };
    let entries = app.open_store()?.entries()?;
    let questions = Questions::of(&entries, args.seed)
        .context("the knowledge is too small to ask about: `huida kb import` first")?;
    let disturbance = match (args.chaos, args.flood) {
        (Some(count), _) => Disturbance::Chaos(count),
        (None, Some(rate)) => Disturbance::Flood(rate),
        (None, None) => Disturbance::None,
    };
    let run = Run {
        driver: &driver,
        load,
        questions: &questions,
        disturbance,
        child: stage.child.as_mut(),
        pid: args.pid,
        fates: &fates,
    };
    let report = run::run(run).await?;
    drop(serving);
    tell(&report, report.findings.clean(), [&report.findings.named, &Vec::new()], args.json)
}

/// The figures, and for people what went wrong in words.
fn tell(
    report: &impl Serialize,
    clean: bool,
    named: [&Vec<String>; 2],
    as_json: bool,
) -> Result<ExitCode> {
    output::report(report, as_json)?;
    for line in named.into_iter().flatten().filter(|_| !as_json) {
        output::line(line)?;
    }
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Serves the platform's API where the account looks for it. A service that is started here is told
/// by what comes back; one that runs already must have an address of this machine configured.
async fn serve_api(
    args: &PlayArgs,
    part: &sides::Part,
    api: Arc<Api>,
) -> Result<(Option<JoinHandle<()>>, Vec<(String, String)>)> {
    let Some(base) = &part.api else { return Ok((None, Vec::new())) };
    let (address, variables) = if args.starts() {
        let address = "127.0.0.1:0".to_owned();
        let name = args.account.to_uppercase();
        (address, vec![format!("HUIDA__ACCOUNTS__{name}__{}", base.key.to_uppercase())])
    } else {
        let Some(url) = base.url.as_deref().and_then(|url| own_machine(url).ok()) else {
            let key = base.key;
            output::note(&format!("{key} is elsewhere: what the service sends is not seen here"));
            return Ok((None, Vec::new()));
        };
        let host = url.host_str().unwrap_or_default();
        (format!("{host}:{}", url.port_or_known_default().unwrap_or(80)), Vec::new())
    };
    let listener = TcpListener::bind(&address).await.with_context(|| address.clone())?;
    let here = format!("http://{}{}", listener.local_addr()?, base.path);
    let variables = variables.into_iter().map(|name| (name, here.clone())).collect();
    let serving = tokio::spawn(api::serve(Arc::clone(&part.side), api, listener));
    Ok((Some(serving), variables))
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

/// Sends one text and tells what the customer saw, also of what came by the API a little later.
async fn one_message(driver: &Driver, args: &PlayArgs, text: &str) -> Result<ExitCode> {
    let now = driver.clock.now();
    let said = Said {
        customer: args.sender.clone(),
        id: args.msg_id.unwrap_or_else(|| fresh_id(now)),
        created: now / 1_000,
        what: What::Text(text.to_owned()),
    };
    let reply = match driver.tell(&said).await {
        Outcome::NotAccepted(reason) => bail!("{reason}: is `huida serve` running?"),
        Outcome::Accepted(Seen::Text(reply)) => Some(reply),
        Outcome::Accepted(Seen::Transferred) => None,
        Outcome::Accepted(Seen::Nothing) => sent_later(driver, &said.customer).await,
    };
    if args.json {
        output::json(&json!({ "status": 200, "reply": reply }))?;
    } else {
        output::line(reply.as_deref().unwrap_or("(acknowledged without a reply)"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What is sent to the customer while one would still be waiting.
async fn sent_later(driver: &Driver, customer: &str) -> Option<String> {
    let deadline = Deadline::after(Duration::from_secs(10));
    while !deadline.passed() {
        if let Some(text) = driver.ledger.seen_after(customer, 0).pop() {
            return Some(text);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    None
}

/// Time first, then something random, as platforms number messages.
fn fresh_id(now: i64) -> u64 {
    let random = SessionId::generate();
    let tail = u64::from_str_radix(random.as_str().get(27..).unwrap_or("0"), 16).unwrap_or(0);
    (now.unsigned_abs() << 20) | (tail & 0xF_FFFF)
}
