//! The bound channel accounts, by name.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::channels::Channel;
use crate::domain::message::AccountName;

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
