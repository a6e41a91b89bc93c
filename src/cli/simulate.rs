//! `simulate`: plays a platform against a service on this machine.

use std::net::ToSocketAddrs;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use serde_json::json;

use super::output;
use crate::app::App;
use crate::base::id::SessionId;
use crate::channels::BodyFormat;
use crate::channels::wechat_mp::simulate::{
    OpenedReply, PushMode, Said, SimulatedMessage, Simulator, Stamp, Wire,
};
use crate::config::Account;

#[derive(Subcommand)]
pub(super) enum SimulateCommand {
    /// Send one text as a 公众号 would, and open the passive reply.
    WechatMp(WechatMpArgs),
}

#[derive(Args)]
#[command(after_help = "Example (the account and its secrets come from the configuration):
  huida simulate wechat-mp --account main --mode safe \"多久发货\"")]
pub(super) struct WechatMpArgs {
    text: String,
    /// A [accounts.…] table of the configuration.
    #[arg(long)]
    account: String,
    /// Where the service listens; loopback only.
    #[arg(long, default_value = "http://127.0.0.1:8788")]
    url: String,
    /// How the platform's console is set: plain, compatible or safe.
    #[arg(long, default_value = "safe", value_parser = |w: &str| PushMode::parse(w).ok_or("plain, compatible or safe"))]
    mode: PushMode,
    /// The customer's OpenID; another one is another customer.
    #[arg(long, default_value = "openid-simulated")]
    sender: String,
    /// The platform's message id; the same one again is a retry. Without it, a new message.
    #[arg(long)]
    msg_id: Option<u64>,
    #[arg(long)]
    json: bool,
}

pub(super) fn run(app: &App, command: &SimulateCommand) -> Result<()> {
    let SimulateCommand::WechatMp(args) = command;
    let Some(Account::WechatMp(account)) = app.config.accounts.get(&args.account) else {
        bail!("the configuration has no [accounts.{}]", args.account);
    };
    let address = format!("{}/channels/wechat-mp/{}", args.url.trim_end_matches('/'), args.account);
    let url = reqwest::Url::parse(&address).with_context(|| address.clone())?;
    require_loopback(&url)?;
    let now = app.clock.now();
    let simulator = Simulator::new(account, "gh_simulated".into())?;
    let message = SimulatedMessage {
        sender: args.sender.clone(),
        created: now / 1000,
        what: Said::Text {
            content: args.text.clone(),
            msg_id: args.msg_id.unwrap_or_else(|| fresh_id(now)),
        },
    };
    let wire = Wire { mode: args.mode, format: BodyFormat::Xml };
    let push = simulator.push(&message, wire, &Stamp::fresh(now / 1000)?)?;
    let mut url = url;
    url.set_query(Some(&push.query.to_query_string()));
    let client = reqwest::blocking::Client::builder().no_proxy().build()?;
    let response = client
        .post(url)
        .header("content-type", push.content_type)
        .body(push.body)
        .send()
        .context("the service does not answer: is `huida serve` running?")?;
    let status = response.status();
    let body = response.bytes()?;
    if !status.is_success() {
        bail!("{status}: {}", String::from_utf8_lossy(&body));
    }
    let reply = match simulator.open_reply(&body)? {
        OpenedReply::Acknowledged => None,
        OpenedReply::Text { content, .. } => Some(content),
    };
    if args.json {
        return output::json(&json!({ "status": status.as_u16(), "reply": reply }));
    }
    output::line(reply.as_deref().unwrap_or("(acknowledged without a reply)"))
}

/// Signed messages with made-up senders must not reach a machine that is not ours.
fn require_loopback(url: &reqwest::Url) -> Result<()> {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let port = url.port_or_known_default().unwrap_or(80);
    let mut addresses = (host, port).to_socket_addrs().with_context(|| host.to_owned())?;
    if addresses.all(|a| a.ip().is_loopback()) {
        return Ok(());
    }
    bail!("{host} is not this machine: the simulator talks to loopback addresses only");
}

/// Time first, then something random, as platforms number messages.
fn fresh_id(now: i64) -> u64 {
    let random = SessionId::generate();
    let tail = u64::from_str_radix(random.as_str().get(27..).unwrap_or("0"), 16).unwrap_or(0);
    (now.unsigned_abs() << 20) | (tail & 0xF_FFFF)
}
