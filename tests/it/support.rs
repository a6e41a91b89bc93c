//! A small shop on a temporary folder, with the real embedder, behind a real socket.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;

use huida::app::{App, Service};
use huida::base::clock::Clock;
use huida::channels::BodyFormat;
use huida::channels::wechat_mp::simulate::{
    OpenedReply, PushMode, Said, SimulatedMessage, SimulatedPush, Simulator, Stamp, Wire,
};
use huida::config::{Account, Config};
use huida::domain::knowledge::{Change, VersionedEntry};
use huida::gate::threshold::Promise;
use huida::ingest::read_entries;
use huida::model::pull::installed_or_pull;
use huida::pipeline::delivery::Bell;
use huida::pipeline::desk::Desk;
use huida::pipeline::embedding::Embedding;
use huida::pipeline::fit::{Material, build};
use huida::pipeline::generations::GenerationDir;
use huida::search::synonyms::Synonyms;
use huida::store::sqlite::SqliteStore;
use huida::store::{Import, Store};

pub(crate) const TOKEN: &str = "token-of-the-tests";
pub(crate) const APP_ID: &str = "wx0123456789abcdef";
pub(crate) const AES_KEY: &str = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG";

/// A running service; dropping it stops the server.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) desk: Arc<Desk>,
    pub(crate) bell: Arc<Bell>,
    pub(crate) simulator: Simulator,
    pub(crate) dir: tempfile::TempDir,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// The weights lie where [`installed_or_pull`] put them.
fn models_dir() -> PathBuf {
    installed_or_pull("e5-small").parent().unwrap().to_owned()
}

pub(crate) fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Entries of the demo about delivery, refunds, returns and invoices.
pub(crate) fn small_knowledge() -> Vec<VersionedEntry> {
    let topics = ["shop.delivery.", "shop.refund.", "shop.return.", "shop.invoice."];
    let all = read_entries(&repository().join("eval/sets/demo/kb.jsonl")).unwrap();
    let chosen = all.into_iter().filter(|e| topics.iter().any(|t| e.id.as_str().starts_with(t)));
    let mut chosen: Vec<_> = chosen.map(|entry| VersionedEntry { version: 1, entry }).collect();
    // As the store would give them.
    chosen.sort_by(|a, b| a.entry.id.cmp(&b.entry.id));
    chosen
}

/// Configuration text for state in `dir`.
pub(crate) fn configuration(dir: &Path) -> String {
    let (dir, models) = (dir.display(), models_dir());
    format!(
        "[store]\npath = \"{dir}/huida.db\"\n[index]\ndir = \"{dir}/generations\"\n\
         [models]\ndir = \"{}\"\ngenerator = \"\"\n[log]\nfilter = \"error\"\n\
         [reply]\npatience_ms = 4000\n\
         [accounts.main]\nplatform = \"wechat-mp\"\ntoken = \"{TOKEN}\"\napp_id = \"{APP_ID}\"\n\
         encoding_aes_key = \"{AES_KEY}\"\n",
        models.display()
    )
}

pub(crate) fn app(dir: &Path) -> App {
    let file = dir.join("huida.toml");
    std::fs::write(&file, configuration(dir)).unwrap();
    App::new(Config::load(Some(&file)).unwrap()).unwrap()
}

/// A text as its platform pushes it.
pub(crate) fn push_of(
    dir: &Path,
    accounts: &str,
    sender: &str,
    msg_id: u64,
    text: &str,
) -> SimulatedPush {
    let file = dir.join("platform.toml");
    std::fs::write(&file, configuration(dir) + accounts).unwrap();
    let config = Config::load(Some(&file)).unwrap();
    let Account::WechatMp(account) = &config.accounts["main"] else { panic!("no 公众号") };
    let simulator = Simulator::new(account, "gh_test".into()).unwrap();
    let now = Clock::System.now() / 1000;
    let what = Said::Text { content: text.into(), msg_id };
    let message = SimulatedMessage { sender: sender.into(), created: now, what };
    let wire = Wire { mode: PushMode::Safe, format: BodyFormat::Xml };
    simulator.push(&message, wire, &Stamp::fresh(now).unwrap()).unwrap()
}

/// One question of as many customers.
pub(crate) fn pushes(dir: &Path, accounts: &str, customers: u64) -> Vec<SimulatedPush> {
    let push = |n| push_of(dir, accounts, &format!("customer-{n}"), 70 + n, "退款一般几天能到账");
    (0..customers).map(push).collect()
}

/// Generations of the small knowledge, built once; the gate calibrates itself.
pub(crate) fn built() -> &'static Path {
    static BUILT: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    static ONE_BUILDER: Mutex<()> = Mutex::new(());
    let _guard = ONE_BUILDER.lock().unwrap();
    let (_, root) = BUILT.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let app = app(dir.path());
        let embedder = app.open_embedder().unwrap();
        let root = dir.path().join("generations");
        let building = GenerationDir::new(root.clone(), 1).begin(&Clock::System).unwrap();
        let material = Material {
            entries: &small_knowledge(),
            synonyms: &Synonyms::default(),
            train: &[],
            calibrate: &[],
            pairs: &[],
            promise: Promise::default(),
            now: Clock::System.now(),
        };
        let mut embedding = Embedding::new(&embedder, Vec::new());
        build(building.path(), material, &mut embedding, &mut |_| ()).unwrap();
        building.publish().unwrap();
        (dir, root)
    });
    root
}

pub(crate) fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for item in std::fs::read_dir(from).unwrap() {
        let path = item.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_dir(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}

/// State in a fresh folder: the small knowledge stored, its generation published.
pub(crate) fn prepared() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    copy_dir(built(), &dir.path().join("generations"));
    let entries: Vec<_> = small_knowledge().into_iter().map(|v| v.entry).collect();
    let store = SqliteStore::open(&dir.path().join("huida.db")).unwrap();
    store.import_entries(&Import::of(entries, Change::by("test", "test")), 1).unwrap();
    dir
}

pub(crate) fn start() -> Running {
    start_at(Clock::System)
}

/// A service that reads its time from `clock`.
pub(crate) fn start_at(clock: Clock) -> Running {
    start_in(prepared(), clock, "")
}

/// A service with more accounts.
pub(crate) fn start_with(accounts: &str) -> Running {
    start_in(prepared(), Clock::System, accounts)
}

/// A service on the state in a folder.
pub(crate) fn start_in(dir: tempfile::TempDir, clock: Clock, accounts: &str) -> Running {
    let file = dir.path().join("huida.toml");
    std::fs::write(&file, configuration(dir.path()) + accounts).unwrap();
    let app = App { clock, ..App::new(Config::load(Some(&file)).unwrap()).unwrap() };
    let Account::WechatMp(account) = &app.config.accounts["main"] else { panic!("no 公众号") };
    let simulator = Simulator::new(account, "gh_test".into()).unwrap();
    let sole = app.sole().unwrap();
    let service: Service = app.desk().unwrap();
    let (store, desk) = (service.store.clone(), service.desk.clone());
    let bell = service.bell.clone();
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let (tell, told) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            tell.send(listener.local_addr().unwrap()).unwrap();
            let shutdown = async { stopped.await.unwrap_or(()) };
            app.serve(service, sole, listener, shutdown).await.unwrap();
        });
    });
    let address = told.recv().unwrap();
    let (stop, thread) = (Some(stop), Some(thread));
    let running = Running { address, store, desk, bell, simulator, dir, stop, thread };
    // It is answered once delivery has decided about what an earlier process left.
    client().get(running.url("/healthz")).send().unwrap();
    running
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // The server may have ended by itself after a failed test.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Running {
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.dir.path().join("huida.db")
    }

    /// A signed push of one text and what came back.
    pub(crate) fn push(&self, mode: PushMode, sender: &str, msg_id: u64, text: &str) -> Answer {
        let now = Clock::System.now() / 1000;
        let what = Said::Text { content: text.to_owned(), msg_id };
        let message = SimulatedMessage { sender: sender.to_owned(), created: now, what };
        let wire = Wire { mode, format: BodyFormat::Xml };
        let push = self.simulator.push(&message, wire, &Stamp::fresh(now).unwrap()).unwrap();
        self.post(&push.query.to_query_string(), push.body)
    }

    pub(crate) fn post(&self, query: &str, body: Vec<u8>) -> Answer {
        let url = self.url(&format!("/channels/wechat-mp/main?{query}"));
        let response = client().post(url).body(body).send().unwrap();
        let status = response.status().as_u16();
        Answer { status, body: response.bytes().unwrap().to_vec() }
    }

    pub(crate) fn reply(&self, answer: &Answer) -> String {
        assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
        match self.simulator.open_reply(&answer.body).unwrap() {
            OpenedReply::Text { content, .. } => content,
            OpenedReply::Acknowledged => panic!("acknowledged without a reply"),
        }
    }

    /// True when the store holds no message at all.
    pub(crate) fn nothing_stored(&self) -> bool {
        self.store.recent_traces(1).unwrap().is_empty()
            && self.store.unfinished().unwrap().is_empty()
    }
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

pub(crate) fn client() -> reqwest::blocking::Client {
    // Installed once per process; a second call only says that it is there.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::blocking::Client::builder().no_proxy().build().unwrap()
}
