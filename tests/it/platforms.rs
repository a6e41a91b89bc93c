//! Every channel against the platform's side of it, over real sockets.

use std::sync::Arc;
use std::time::Duration;

use huida::base::clock::Clock;
use huida::domain::message::AccountName;
use huida::simulate::Side;
use huida::simulate::api::{Api, Temper, serve};
use huida::simulate::driver::Driver;
use huida::simulate::flood;
use huida::simulate::ledger::Ledger;
use huida::simulate::load::Load;
use huida::simulate::questions::Questions;
use huida::simulate::run::{self, Disturbance, Run};
use huida::simulate::scenario::{Played, Scenario, Stage};
use huida::simulate::wechat_mp::{self, Kind, Mode, WechatMp};
use huida::simulate::{alipay, douyin, webhook, wechat_kf, wechat_shop, wecom};
use huida::store::Fate;
use tokio::net::TcpListener;

use crate::support::{AES_KEY, APP_ID, Running, TOKEN, repository, small_knowledge, start_with};

/// The platform, its API on a port of its own, and the service that sends there.
struct OnStage {
    running: Running,
    driver: Arc<Driver>,
    api: Arc<Api>,
    begun: i64,
    account: &'static str,
}

/// `table` gets the address of the API and gives the account's table.
async fn stage(
    account: &'static str,
    side: impl FnOnce(Arc<Api>) -> Arc<dyn Side>,
    table: impl FnOnce(&str) -> String,
) -> OnStage {
    // Installed once per process; a second call only says that it is there.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let ledger = Arc::new(Ledger::default());
    let api = Arc::new(Api::new(Arc::clone(&ledger), Clock::System, Temper::default()));
    let side = side(Arc::clone(&api));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let table = table(&format!("http://{}", listener.local_addr().unwrap()));
    tokio::spawn(serve(Arc::clone(&side), Arc::clone(&api), listener));
    let begun = Clock::System.now();
    let running = tokio::task::block_in_place(|| start_with(&table));
    let service = running.url("");
    let driver = Driver::new(side, ledger, Clock::System, (&service, account)).unwrap();
    OnStage { running, driver: Arc::new(driver), api, begun, account }
}

impl OnStage {
    fn fates(&self) -> Vec<Fate> {
        self.running.store.fates(&AccountName(self.account.into()), self.begun).unwrap()
    }

    async fn scenario(&self, name: &str) -> Played {
        let file = repository().join(format!("tests/fixtures/scenarios/{name}.toml"));
        let scenario = Scenario::read(&file).unwrap();
        let fates = || Ok(self.fates());
        let stage = Stage { driver: &self.driver, api: &self.api, fates: &fates };
        stage.play(&scenario).await.unwrap()
    }
}

fn official(kind: Kind, mode: Mode) -> impl FnOnce(Arc<Api>) -> Arc<dyn Side> {
    move |api| Arc::new(WechatMp::new(official_settings(kind, mode), api).unwrap())
}

fn official_settings(kind: Kind, mode: Mode) -> wechat_mp::Settings {
    wechat_mp::Settings {
        kind,
        mode,
        token: TOKEN.into(),
        app_id: APP_ID.into(),
        app_secret: None,
        encoding_aes_key: Some(AES_KEY.into()),
    }
}

fn passed(played: &Played) {
    assert!(played.clean(), "{:?} {:?}", played.failed, played.findings);
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_that_cannot_send_answer_in_the_callback() {
    for mode in [Mode::Plain, Mode::Compatible, Mode::Safe] {
        let stage = stage("main", official(Kind::Official, mode), |_| String::new()).await;
        passed(&stage.scenario("answers").await);
    }
    let mini = stage("mini", official(Kind::MiniProgram, Mode::Safe), |_| {
        format!(
            "[accounts.mini]\nplatform = \"wechat-mini\"\ntoken = \"{TOKEN}\"\n\
             app_id = \"{APP_ID}\"\nencoding_aes_key = \"{AES_KEY}\"\n"
        )
    });
    let mini = mini.await;
    let played = mini.scenario("answers").await;
    // 小程序 take no reply in the callback and this account cannot send: people see the messages.
    assert!(played.findings.faults == 0 && played.findings.duplicated == 0, "{played:?}");
    let fates = mini.fates();
    let with_a_person = |fate: &Fate| fate.decided.as_ref().is_some_and(|d| d.for_person);
    assert!(fates.len() == 3 && fates.iter().all(with_a_person), "{fates:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_of_wecom_answers_in_the_callback() {
    let settings = wecom::Settings {
        token: TOKEN.into(),
        corp_id: "ww0123456789".into(),
        agent_id: 1_000_002,
        encoding_aes_key: AES_KEY.into(),
        secret: None,
    };
    let side = |api| -> Arc<dyn Side> { Arc::new(wecom::Wecom::new(settings, api).unwrap()) };
    let table = |_: &str| {
        format!(
            "[accounts.corp]\nplatform = \"wecom\"\ntoken = \"{TOKEN}\"\n\
             corp_id = \"ww0123456789\"\nagent_id = 1000002\nencoding_aes_key = \"{AES_KEY}\"\n"
        )
    };
    passed(&stage("corp", side, table).await.scenario("answers").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_system_of_ones_own_is_answered_in_signed_json() {
    let secret = "secret-of-sixteen-or-more";
    let side = |api| -> Arc<dyn Side> { Arc::new(webhook::Webhook::new(&secret.into(), api)) };
    let table =
        |_: &str| format!("[accounts.own]\nplatform = \"webhook\"\nsecret = \"{secret}\"\n");
    passed(&stage("own", side, table).await.scenario("answers").await);
}

/// Answers come, and come once where the platform's API fails in passing: `failing` plays that.
async fn sends(stage: &OnStage, failing: &str) {
    for scenario in ["answers", failing] {
        let played = stage.scenario(scenario).await;
        assert!(played.clean(), "{scenario}: {:?} {:?}", played.failed, played.findings);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_kf_are_fetched_and_answered() {
    let settings = wechat_kf::Settings {
        token: TOKEN.into(),
        corp_id: "ww0123456789".into(),
        encoding_aes_key: AES_KEY.into(),
        secret: "kf-secret".into(),
    };
    let side =
        |api| -> Arc<dyn Side> { Arc::new(wechat_kf::WechatKf::new(settings, api).unwrap()) };
    let table = |api: &str| {
        format!(
            "[accounts.kf]\nplatform = \"wechat-kf\"\ntoken = \"{TOKEN}\"\n\
             corp_id = \"ww0123456789\"\nencoding_aes_key = \"{AES_KEY}\"\n\
             secret = \"kf-secret\"\napi_base = \"{api}\"\n"
        )
    };
    sends(&stage("kf", side, table).await, "mishaps").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shop_is_answered_through_its_api() {
    let settings = wechat_shop::Settings {
        token: TOKEN.into(),
        app_id: APP_ID.into(),
        app_secret: "shop-secret".into(),
        encoding_aes_key: AES_KEY.into(),
    };
    let side =
        |api| -> Arc<dyn Side> { Arc::new(wechat_shop::WechatShop::new(settings, api).unwrap()) };
    let table = |api: &str| {
        format!(
            "[accounts.shop]\nplatform = \"wechat-shop\"\ntoken = \"{TOKEN}\"\n\
             app_id = \"{APP_ID}\"\nencoding_aes_key = \"{AES_KEY}\"\n\
             app_secret = \"shop-secret\"\napi_base = \"{api}\"\n"
        )
    };
    sends(&stage("shop", side, table).await, "mishaps").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn douyin_is_answered_through_its_api() {
    let settings = douyin::Settings {
        client_key: "key".into(),
        client_secret: "douyin-secret".into(),
        open_id: "owner".into(),
    };
    let side = |api| -> Arc<dyn Side> { Arc::new(douyin::Douyin::new(settings, api)) };
    let table = |api: &str| {
        format!(
            "[accounts.dy]\nplatform = \"douyin\"\nclient_key = \"key\"\n\
             client_secret = \"douyin-secret\"\nopen_id = \"owner\"\n\
             refresh_token = \"refresh\"\napi_base = \"{api}\"\n"
        )
    };
    let stage = stage("dy", side, table).await;
    sends(&stage, "mishaps").await;
    // The refresh token ended soon: it was renewed, and kept where the next start finds it.
    let kept = std::fs::read_to_string(stage.running.dir.path().join("huida.db.renewed")).unwrap();
    assert!(kept.contains("renewed-refresh"), "{kept}");
}

#[tokio::test(flavor = "multi_thread")]
async fn alipay_is_answered_through_its_gateway() {
    let key = |name: &str| {
        let file = repository().join(format!("tests/fixtures/alipay/{name}.pem"));
        std::fs::read_to_string(file).unwrap()
    };
    let settings = alipay::Settings {
        app_id: "2021000000000000".into(),
        private_key: key("app_private").into(),
        platform_key: key("platform_private").into(),
    };
    let side = |api| -> Arc<dyn Side> { Arc::new(alipay::Alipay::new(&settings, api).unwrap()) };
    let table = |api: &str| {
        format!(
            "[accounts.ali]\nplatform = \"alipay\"\napp_id = \"2021000000000000\"\n\
             private_key = '''\n{}'''\nalipay_public_key = '''\n{}'''\n\
             gateway = \"{api}/gateway.do\"\n",
            key("app_private"),
            key("platform_public")
        )
    };
    sends(&stage("ali", side, table).await, "doubts").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn under_load_and_flood_nothing_is_lost_and_nothing_forged_is_taken() {
    let stage = stage("main", official(Kind::Official, Mode::Safe), |_| String::new()).await;
    let questions = Questions::of(&small_knowledge(), 1).unwrap();
    let lasting = Duration::from_secs(4);
    let load = Load { rate: 10.0, lasting, drafted: 0.1, seed: 1 };
    let fates = || Ok(stage.fates());
    let run = Run {
        driver: &stage.driver,
        load,
        questions: &questions,
        disturbance: Disturbance::Flood(50.0),
        child: None,
        pid: Some(std::process::id()),
        fates: &fates,
    };
    let report = run::run(run).await.unwrap();
    assert!(report.findings.clean(), "{:?}", report.findings);
    assert!(report.findings.accepted >= 20, "{:?}", report.findings);
    let flood::Flooded { sent, refused, taken, .. } = report.flood.unwrap().bad;
    assert!(sent >= 50 && refused >= sent * 9 / 10 && taken == 0, "{:?}", report.flood);
    assert!(report.rss_end_mb.is_some_and(|mb| mb > 1.0));
}

/// What the console of each mode checks before it uses an address.
#[tokio::test(flavor = "multi_thread")]
async fn the_address_check_is_answered() {
    let api = Arc::new(Api::new(Arc::default(), Clock::System, Temper::default()));
    let settings = official_settings(Kind::Official, Mode::Plain);
    let side = WechatMp::new(settings, api).unwrap();
    let running = tokio::task::block_in_place(|| start_with(""));
    let (query, echo) = side.url_check(Clock::System.now() / 1_000).unwrap();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = running.url(&format!("/channels/wechat-mp/main?{query}"));
    assert_eq!(client.get(url).send().await.unwrap().text().await.unwrap(), echo);
}
