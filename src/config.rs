//! Configuration: the commented default compiled in, then a file, then `HUIDA__SECTION__KEY`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use secrecy::SecretString;
use serde::Deserialize;

use crate::base::clock::TimeOfDay;
use crate::channels::alipay::{Alipay, AlipayConfig};
use crate::channels::douyin::{Douyin, DouyinConfig};
use crate::channels::webhook::{Webhook, WebhookConfig};
use crate::channels::wechat_kf::{WechatKf, WechatKfConfig};
use crate::channels::wechat_mini::WechatMini;
use crate::channels::wechat_mp::{WechatMp, WechatMpConfig};
use crate::channels::wechat_shop::{WechatShop, WechatShopConfig};
use crate::channels::wecom::{Wecom, WecomConfig};
use crate::channels::{self, Channel};
use crate::domain::message::AccountName;
use crate::model::remote;
use crate::pipeline::desk;

/// `config/default.toml`, every key with a comment.
pub const DEFAULT_TOML: &str = include_str!("../config/default.toml");
/// Read from the working folder when no `--config` is given and it exists.
pub const DEFAULT_FILE: &str = "huida.toml";

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("configuration: {0}")]
    Invalid(String),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub server: Server,
    pub store: Store,
    pub vault: Vault,
    pub index: Index,
    pub models: Models,
    pub gate: Gate,
    pub train: Train,
    pub reply: Reply,
    pub handoff: Handoff,
    pub compliance: Compliance,
    pub log: Log,
    #[serde(default)]
    pub remote: Remote,
    #[serde(default)]
    pub accounts: BTreeMap<String, Account>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    pub listen: SocketAddr,
    /// Empty: operator pages answer loopback callers only.
    pub operator_token: SecretString,
    pub max_concurrent_turns: usize,
    pub max_waiting_turns: usize,
    pub shutdown_grace_ms: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Store {
    pub path: PathBuf,
}

/// Keys by the names of their files: no key stands in a configuration.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vault {
    /// Empty: what is masked is lost.
    pub key_file: PathBuf,
    /// Empty: none.
    pub previous_key_file: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Index {
    pub dir: PathBuf,
    pub keep_generations: usize,
    /// Empty: none.
    pub synonyms: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Models {
    /// Empty: `HUIDA_MODELS`, the checkout's `models/`, or the user's cache folder.
    pub dir: PathBuf,
    pub embedder: String,
    /// Empty: no generator; several pieces of evidence then always go to a person.
    pub generator: String,
}

/// Models behind an OpenAI-compatible service, in place of local ones.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remote {
    pub embedder: Option<RemoteModel>,
    pub generator: Option<RemoteModel>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoteModel {
    /// Ends before `/embeddings` and `/chat/completions`.
    pub base_url: String,
    pub model: String,
    /// The environment variable that holds the key; empty: none is sent.
    #[serde(default)]
    pub api_key_env: String,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gate {
    pub alpha: f64,
    pub confidence: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Train {
    daily_at: String,
}

impl Train {
    /// When the service trains by itself; `None`: never.
    pub fn daily_at(&self) -> Result<Option<TimeOfDay>, ConfigError> {
        if self.daily_at.is_empty() {
            return Ok(None);
        }
        let time = TimeOfDay::parse(&self.daily_at);
        let reason = || format!("train.daily_at must be as \"03:00\", is {:?}", self.daily_at);
        time.map(Some).ok_or_else(|| ConfigError::Invalid(reason()))
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reply {
    pub deadline_ms: u64,
    pub late_ms: u64,
    pub patience_ms: u64,
    pub fragment_ms: u64,
    pub compose_ms: u64,
    pub kept_minutes: u64,
    pub draft_chars: usize,
    pub context_minutes: u64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Handoff {
    pub desk: desk::Handoff,
    pub claim_minutes: u64,
    pub session_minutes: u64,
    pub expected_wait_minutes: u64,
    pub closing_minutes: u64,
    pub survey: bool,
    /// Empty: no other desk is told.
    pub webhook_url: String,
    pub webhook_secret: SecretString,
}

/// What the rules over outgoing text let through.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Compliance {
    pub service_numbers: Vec<String>,
    pub link_hosts: Vec<String>,
}

impl Compliance {
    fn validate(&self) -> Result<(), ConfigError> {
        for number in &self.service_numbers {
            let digits = number.chars().filter(char::is_ascii_digit).count();
            let plain = number.chars().all(|c| c.is_ascii_digit() || "+- ()".contains(c));
            if !plain || !(3..=20).contains(&digits) {
                let reason =
                    format!("compliance.service_numbers: {number:?} is no telephone number");
                return Err(ConfigError::Invalid(reason));
            }
        }
        for host in &self.link_hosts {
            let labels = host.split('.').collect::<Vec<_>>();
            let plain = |label: &&str| {
                !label.is_empty() && label.chars().all(|c| c.is_alphanumeric() || c == '-')
            };
            // A whole ending of the net would let nearly every link through.
            if labels.len() < 2 || !labels.iter().all(plain) {
                let reason = format!(
                    "compliance.link_hosts: {host:?} is no host such as example.com, without https:// \
                     and path"
                );
                return Err(ConfigError::Invalid(reason));
            }
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    pub filter: String,
    pub format: LogFormat,
}

/// One bound channel account.
#[derive(Debug, Deserialize)]
#[serde(tag = "platform")]
pub enum Account {
    #[serde(rename = "wechat-mp")]
    WechatMp(WechatMpConfig),
    #[serde(rename = "wechat-mini")]
    WechatMini(WechatMpConfig),
    #[serde(rename = "wecom")]
    Wecom(WecomConfig),
    #[serde(rename = "wechat-kf")]
    WechatKf(WechatKfConfig),
    #[serde(rename = "wechat-shop")]
    WechatShop(WechatShopConfig),
    #[serde(rename = "alipay")]
    Alipay(AlipayConfig),
    #[serde(rename = "douyin")]
    Douyin(DouyinConfig),
    #[serde(rename = "webhook")]
    Webhook(WebhookConfig),
}

impl Account {
    /// # Errors
    /// Names the setting that cannot work.
    pub fn open(&self, name: AccountName) -> Result<Arc<dyn Channel>, channels::ConfigError> {
        Ok(match self {
            Self::WechatMp(config) => Arc::new(WechatMp::new(name, config)?),
            Self::WechatMini(config) => Arc::new(WechatMini::new(name, config)?),
            Self::Wecom(config) => Arc::new(Wecom::new(name, config)?),
            Self::WechatKf(config) => Arc::new(WechatKf::new(name, config)?),
            Self::WechatShop(config) => Arc::new(WechatShop::new(name, config)?),
            Self::Alipay(config) => Arc::new(Alipay::new(name, config)?),
            Self::Douyin(config) => Arc::new(Douyin::new(name, config)?),
            Self::Webhook(config) => Arc::new(Webhook::new(name, config)?),
        })
    }
}

impl Config {
    /// `file`: given by the operator, must exist; else [`DEFAULT_FILE`] if it is there.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        Self::read(layers(file, environment())?)
    }

    /// What [`Config::load`] would read, as TOML, with every secret replaced.
    pub fn effective(file: Option<&Path>) -> Result<String, ConfigError> {
        let mut table = layers(file, environment())?;
        Self::read(table.clone())?;
        redact(&mut table);
        toml::to_string_pretty(&table).map_err(|e| ConfigError::Invalid(e.to_string()))
    }

    fn read(table: toml::Table) -> Result<Self, ConfigError> {
        let invalid = |e: toml::de::Error| ConfigError::Invalid(on_one_line(&e.to_string()));
        let config: Self = table.try_into().map_err(invalid)?;
        config.validate()?;
        Ok(config)
    }

    fn validate(&self) -> Result<(), ConfigError> {
        let open_unit = |name: &str, value: f64| {
            if value > 0.0 && value < 1.0 {
                return Ok(());
            }
            Err(ConfigError::Invalid(format!("{name} must lie between 0 and 1, is {value}")))
        };
        open_unit("gate.alpha", self.gate.alpha)?;
        open_unit("gate.confidence", self.gate.confidence)?;
        self.train.daily_at()?;
        let Vault { key_file, previous_key_file } = &self.vault;
        if key_file.as_os_str().is_empty() && !previous_key_file.as_os_str().is_empty() {
            let reason = "vault.previous_key_file needs vault.key_file, which seals from now on";
            return Err(ConfigError::Invalid(reason.into()));
        }
        let positive = [
            ("server.max_concurrent_turns", self.server.max_concurrent_turns),
            ("server.max_waiting_turns", self.server.max_waiting_turns),
            ("index.keep_generations", self.index.keep_generations),
            ("reply.draft_chars", self.reply.draft_chars),
        ];
        for (name, value) in positive {
            if value == 0 {
                return Err(ConfigError::Invalid(format!("{name} must be at least 1")));
            }
        }
        // Every character of a unit is judged over the whole vocabulary.
        if self.reply.draft_chars > 1_000 {
            let reason = "reply.draft_chars must be at most 1000: longer replies are for documents";
            return Err(ConfigError::Invalid(reason.into()));
        }
        if !(100..=4_800).contains(&self.reply.deadline_ms) {
            let reason = "reply.deadline_ms must lie between 100 and 4800: WeChat cuts at 5000";
            return Err(ConfigError::Invalid(reason.into()));
        }
        if self.reply.fragment_ms > 3_000 {
            let reason = "reply.fragment_ms must be at most 3000: customers wait for so long";
            return Err(ConfigError::Invalid(reason.into()));
        }
        if self.reply.patience_ms > self.reply.deadline_ms {
            let reason = "reply.patience_ms must not be more than reply.deadline_ms";
            return Err(ConfigError::Invalid(reason.into()));
        }
        for (name, ms) in
            [("reply.late_ms", self.reply.late_ms), ("reply.compose_ms", self.reply.compose_ms)]
        {
            if !(1_000..=120_000).contains(&ms) {
                let reason = format!("{name} must lie between 1000 and 120000, is {ms}");
                return Err(ConfigError::Invalid(reason));
            }
        }
        for (name, minutes) in [
            ("handoff.claim_minutes", self.handoff.claim_minutes),
            ("handoff.session_minutes", self.handoff.session_minutes),
            ("handoff.expected_wait_minutes", self.handoff.expected_wait_minutes),
            ("reply.kept_minutes", self.reply.kept_minutes),
        ] {
            if !(1..=10_080).contains(&minutes) {
                let reason = format!("{name} must lie between 1 and 10080, a week");
                return Err(ConfigError::Invalid(reason));
            }
        }
        self.compliance.validate()?;
        let remote = [("embedder", &self.remote.embedder), ("generator", &self.remote.generator)];
        for (name, model) in remote {
            let Some(model) = model else { continue };
            remote::check_url(&model.base_url, !model.api_key_env.is_empty())
                .map_err(|reason| ConfigError::Invalid(format!("remote.{name}.{reason}")))?;
        }
        for name in self.accounts.keys() {
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
                let reason = format!("accounts.{name}: a name has 1 to 64 of a-z 0-9 - _");
                return Err(ConfigError::Invalid(reason));
            }
        }
        Ok(())
    }
}

/// What begins so in the environment is configuration.
const PREFIX: &str = "HUIDA__";

/// Names and values below [`PREFIX`], without it.
fn environment() -> Vec<(String, String)> {
    let variables = std::env::vars_os().filter_map(|(name, value)| {
        let name = name.to_str()?.strip_prefix(PREFIX)?.to_lowercase();
        Some((name, value.into_string().ok()?))
    });
    variables.collect()
}

fn layers(
    file: Option<&Path>,
    environment: Vec<(String, String)>,
) -> Result<toml::Table, ConfigError> {
    let defaults = parse(DEFAULT_TOML, "config/default.toml")?;
    let mut table = defaults.clone();
    let found = Some(Path::new(DEFAULT_FILE)).filter(|path| path.is_file());
    if let Some(path) = file.or(found) {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|e| ConfigError::Invalid(format!("{name}: {e}")))?;
        merge(&mut table, parse(&text, &name)?);
    }
    for (name, value) in environment {
        merge(&mut table, nested(&name, value, &defaults));
    }
    secrets_are_text(&table, "")?;
    Ok(table)
}

/// An error names the line and does not quote it: a secret may stand there.
fn parse(text: &str, name: &str) -> Result<toml::Table, ConfigError> {
    toml::from_str(text).map_err(|e: toml::de::Error| {
        let before = e.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        ConfigError::Invalid(format!("{name}:{line}: {}", on_one_line(e.message())))
    })
}

fn on_one_line(text: &str) -> String {
    text.trim().replace('\n', " ")
}

fn merge(base: &mut toml::Table, over: toml::Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(toml::Value::Table(base)), toml::Value::Table(over)) => merge(base, over),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

/// `a__b` with a value, as a table inside a table. It is read as what the default at this place is;
/// where there is none, it is text: a token of digits is no number. A list has commas in it.
fn nested(name: &str, value: String, defaults: &toml::Table) -> toml::Table {
    match name.split_once("__") {
        Some((table, rest)) => {
            let none = toml::Table::new();
            let below = defaults.get(table).and_then(toml::Value::as_table).unwrap_or(&none);
            let inner = nested(rest, value, below);
            toml::Table::from_iter([(table.to_owned(), toml::Value::Table(inner))])
        }
        None => toml::Table::from_iter([(name.to_owned(), typed(name, value, defaults.get(name)))]),
    }
}

/// The keys without a default that are no text.
const SWITCH: &str = "require_encryption";
const NUMBERS: [&str; 3] = ["replay_window_s", "text_bytes", "window_s"];

fn typed(name: &str, value: String, default: Option<&toml::Value>) -> toml::Value {
    let read = match default {
        Some(toml::Value::Integer(_)) => value.parse().ok().map(toml::Value::Integer),
        Some(toml::Value::Float(_)) => value.parse().ok().map(toml::Value::Float),
        Some(toml::Value::Boolean(_)) => value.parse().ok().map(toml::Value::Boolean),
        Some(toml::Value::Array(_)) => {
            let parts = value.split(',').map(str::trim).filter(|part| !part.is_empty());
            let parts = parts.map(|part| toml::Value::String(part.to_owned()));
            Some(toml::Value::Array(parts.collect()))
        }
        None if name == SWITCH => value.parse().ok().map(toml::Value::Boolean),
        None if NUMBERS.contains(&name) => value.parse().ok().map(toml::Value::Integer),
        Some(toml::Value::String(_) | toml::Value::Datetime(_) | toml::Value::Table(_)) | None => {
            None
        }
    };
    read.unwrap_or(toml::Value::String(value))
}

/// Key names whose values are secrets.
const SECRET_KEYS: [&str; 10] = [
    "operator_token",
    "webhook_secret",
    "token",
    "encoding_aes_key",
    "previous_encoding_aes_key",
    "app_secret",
    "secret",
    "private_key",
    "client_secret",
    "refresh_token",
];

/// Checked here because a general complaint about a wrong type would quote the value.
fn secrets_are_text(table: &toml::Table, path: &str) -> Result<(), ConfigError> {
    for (key, value) in table {
        if let toml::Value::Table(inner) = value {
            secrets_are_text(inner, &format!("{path}{key}."))?;
        } else if SECRET_KEYS.contains(&key.as_str()) && !value.is_str() {
            return Err(ConfigError::Invalid(format!("{path}{key} must be text in quotes")));
        }
    }
    Ok(())
}

fn redact(table: &mut toml::Table) {
    for (key, value) in table.iter_mut() {
        match value {
            toml::Value::Table(inner) => redact(inner),
            toml::Value::String(text)
                if SECRET_KEYS.contains(&key.as_str()) && !text.is_empty() =>
            {
                *text = "[redacted]".into();
            }
            toml::Value::String(_)
            | toml::Value::Integer(_)
            | toml::Value::Float(_)
            | toml::Value::Boolean(_)
            | toml::Value::Datetime(_)
            | toml::Value::Array(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;

    fn load(text: &str) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("huida.toml");
        std::fs::write(&path, text).unwrap();
        Config::load(Some(&path))
    }

    #[test]
    fn the_default_stands_alone_and_binds_to_loopback() {
        let config = load("").unwrap();
        assert!(config.server.listen.ip().is_loopback());
        assert!(config.accounts.is_empty());
        assert!((config.gate.alpha - 0.03).abs() < 1e-12);
    }

    #[test]
    fn a_file_overrides_and_mistakes_are_named() {
        let text = "[accounts.mp]\nplatform = \"wechat-mp\"\ntoken = \"t0ken\"\napp_id = \"wx1\"\n";
        let config = load(text).unwrap();
        let Account::WechatMp(account) = &config.accounts["mp"] else { panic!("another platform") };
        assert_eq!(account.token.expose_secret(), "t0ken");
        assert!(!format!("{config:?}").contains("t0ken"));
        for (text, word) in [
            ("[gate]\nalpha = 2.0", "gate.alpha"),
            ("[gate]\nalfa = 0.1", "alfa"),
            ("[train]\ndaily_at = \"3am\"", "train.daily_at"),
            ("[reply]\ndeadline_ms = 9000", "deadline_ms"),
            ("[vault]\nprevious_key_file = \"old.key\"", "vault.key_file"),
            ("[compliance]\nlink_hosts = [\"https://example.com/\"]", "without https://"),
            ("[compliance]\nlink_hosts = [\"com\"]", "link_hosts"),
            ("[compliance]\nservice_numbers = [\"客服\"]", "service_numbers"),
            ("[accounts.\"a b\"]\nplatform = \"wechat-mp\"\ntoken = \"t\"\napp_id = \"w\"", "a b"),
        ] {
            let error = load(text).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        assert!(Config::load(Some(Path::new("/nowhere.toml"))).is_err());
    }

    const ACCOUNT: &str = "[accounts.mp]\nplatform = \"wechat-mp\"\napp_id = \"wx1\"\n";

    fn with_environment(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("huida.toml");
        std::fs::write(&path, ACCOUNT).unwrap();
        let variables = variables.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
        Config::read(layers(Some(&path), variables.collect())?)
    }

    #[test]
    fn what_is_text_stays_text_in_the_environment() {
        let config = with_environment(&[
            ("accounts__mp__token", "123456"),
            ("accounts__mp__encoding_aes_key", "true"),
            ("accounts__mp__app_id", "1e5"),
            ("accounts__mp__require_encryption", "true"),
            ("server__operator_token", "[7]"),
            ("server__max_concurrent_turns", "3"),
            ("server__listen", "127.0.0.1:9"),
            ("gate__alpha", "0.25"),
            ("store__path", "2026"),
            ("compliance__link_hosts", "example.com, example.cn"),
        ])
        .unwrap();
        let Account::WechatMp(account) = &config.accounts["mp"] else { panic!("another platform") };
        assert_eq!(account.token.expose_secret(), "123456");
        assert_eq!(account.encoding_aes_key.as_ref().unwrap().expose_secret(), "true");
        assert_eq!((account.app_id.as_str(), account.require_encryption), ("1e5", true));
        assert_eq!(config.server.operator_token.expose_secret(), "[7]");
        assert_eq!((config.server.max_concurrent_turns, config.server.listen.port()), (3, 9));
        assert!((config.gate.alpha - 0.25).abs() < 1e-12);
        assert_eq!(config.store.path, Path::new("2026"));
        assert_eq!(config.compliance.link_hosts, ["example.com", "example.cn"]);
        let wrong = [("accounts__mp__token", "7"), ("server__max_concurrent_turns", "many")];
        let refused = with_environment(&wrong).unwrap_err();
        assert!(refused.to_string().contains("server.max_concurrent_turns"), "{refused}");
    }

    #[test]
    fn no_complaint_quotes_a_secret() {
        for secret in ["987654", "[987654]", "987654.5", "\"987654", "987654x", "\"\\q987654\""] {
            for table in ["[server]\noperator_token", "[accounts.mp]\nencoding_aes_key"] {
                let error = load(&format!("{table} = {secret}\n")).unwrap_err().to_string();
                assert!(!error.contains("987654"), "{error}");
                assert!(
                    error.contains("_token") || error.contains("_key") || error.contains(":2:")
                );
            }
            let account = format!("{ACCOUNT}token = {secret}\n");
            let error = load(&account).unwrap_err().to_string();
            assert!(!error.contains("987654"), "{error}");
        }
        let unknown = [("accounts__mp__tokn", "987654"), ("accounts__mp__token", "987654")];
        let error = with_environment(&unknown).unwrap_err().to_string();
        assert!(error.contains("tokn") && !error.contains("987654"), "{error}");
    }
}
