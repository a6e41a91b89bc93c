//! Configuration: the commented default compiled in, then a file, then `HUIDA__SECTION__KEY`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use figment::Figment;
use figment::providers::{Env, Format, Toml};
use secrecy::SecretString;
use serde::Deserialize;

use crate::channels::wechat_mp::WechatMpConfig;

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
    pub index: Index,
    pub models: Models,
    pub gate: Gate,
    pub reply: Reply,
    pub log: Log,
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
    pub shutdown_grace_ms: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Store {
    pub path: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Index {
    pub dir: PathBuf,
    pub keep_generations: usize,
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

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gate {
    pub alpha: f64,
    pub confidence: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reply {
    pub deadline_ms: u64,
    pub draft_chars: usize,
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
}

impl Config {
    /// `file`: given by the operator, must exist; else [`DEFAULT_FILE`] if it is there.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        let config: Self =
            layers(file)?.extract().map_err(|e| ConfigError::Invalid(e.to_string()))?;
        config.validate()?;
        Ok(config)
    }

    /// What [`Config::load`] would read, as TOML, with every secret replaced.
    pub fn effective(file: Option<&Path>) -> Result<String, ConfigError> {
        Self::load(file)?;
        let invalid = |e: &dyn std::fmt::Display| ConfigError::Invalid(e.to_string());
        let mut table: toml::Table = layers(file)?.extract().map_err(|e| invalid(&e))?;
        redact(&mut table);
        toml::to_string_pretty(&table).map_err(|e| invalid(&e))
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
        let positive = [
            ("server.max_concurrent_turns", self.server.max_concurrent_turns),
            ("index.keep_generations", self.index.keep_generations),
            ("reply.draft_chars", self.reply.draft_chars),
        ];
        for (name, value) in positive {
            if value == 0 {
                return Err(ConfigError::Invalid(format!("{name} must be at least 1")));
            }
        }
        if !(100..=4_800).contains(&self.reply.deadline_ms) {
            let reason = "reply.deadline_ms must lie between 100 and 4800: WeChat cuts at 5000";
            return Err(ConfigError::Invalid(reason.into()));
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

fn layers(file: Option<&Path>) -> Result<Figment, ConfigError> {
    let base = Figment::from(Toml::string(DEFAULT_TOML));
    let with_file = match file {
        Some(path) if !path.is_file() => {
            return Err(ConfigError::Invalid(format!("{} does not exist", path.display())));
        }
        Some(path) => base.merge(Toml::file_exact(path)),
        None if Path::new(DEFAULT_FILE).is_file() => base.merge(Toml::file_exact(DEFAULT_FILE)),
        None => base,
    };
    Ok(with_file.merge(Env::prefixed("HUIDA__").split("__")))
}

/// Key names whose values are secrets.
const SECRET_KEYS: [&str; 4] =
    ["operator_token", "token", "encoding_aes_key", "previous_encoding_aes_key"];

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
        let Account::WechatMp(account) = &config.accounts["mp"];
        assert_eq!(account.token.expose_secret(), "t0ken");
        assert!(!format!("{config:?}").contains("t0ken"));
        for (text, word) in [
            ("[gate]\nalpha = 2.0", "gate.alpha"),
            ("[gate]\nalfa = 0.1", "alfa"),
            ("[reply]\ndeadline_ms = 9000", "deadline_ms"),
            ("[accounts.\"a b\"]\nplatform = \"wechat-mp\"\ntoken = \"t\"\napp_id = \"w\"", "a b"),
        ] {
            let error = load(text).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        assert!(Config::load(Some(Path::new("/nowhere.toml"))).is_err());
    }
}
