//! The bound channel accounts, by name.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::channels::Channel;
use crate::domain::message::{AccountName, Platform};

#[derive(Clone, Default)]
pub struct Accounts(Arc<BTreeMap<AccountName, Arc<dyn Channel>>>);

impl FromIterator<Arc<dyn Channel>> for Accounts {
    fn from_iter<I: IntoIterator<Item = Arc<dyn Channel>>>(channels: I) -> Self {
        Self(Arc::new(channels.into_iter().map(|c| (c.account().clone(), c)).collect()))
    }
}

impl Accounts {
    pub fn get(&self, name: &AccountName) -> Option<&Arc<dyn Channel>> {
        self.0.get(name)
    }

    /// The account of that name if it is bound to that platform.
    pub fn on(&self, platform: &str, name: &str) -> Option<&Arc<dyn Channel>> {
        let channel = self.0.get(&AccountName(name.to_owned()))?;
        (channel.platform().as_str() == platform).then_some(channel)
    }

    pub fn all(&self) -> impl Iterator<Item = &Arc<dyn Channel>> {
        self.0.values()
    }
}

/// The platform repeats a callback that got no answer, five and ten seconds after the first.
pub fn asks_again(platform: Platform) -> bool {
    match platform {
        Platform::WechatMp | Platform::WechatMini | Platform::Wecom => true,
        Platform::WechatKf
        | Platform::WechatShop
        | Platform::Alipay
        | Platform::Douyin
        | Platform::Webhook
        | Platform::Web
        | Platform::Cli => false,
    }
}

/// The customer can be shown a menu in the answer to a callback, and nothing can be sent later.
pub fn links(channel: &dyn Channel) -> bool {
    channel.platform() == Platform::WechatMp && !channel.abilities().send
}
