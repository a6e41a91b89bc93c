//! Fetching: where a callback only says that messages lie ready, page by page until none is left.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use super::{Delivery, Shared, backoff};
use crate::base::clock::UnixMs;
use crate::channels::{Channel, FailureClass, Item, Page, Push, Ready, SessionState, Undelivered};
use crate::domain::decision::Reason;
use crate::domain::message::AccountName;
use crate::pipeline::accounts::Accounts;
use crate::pipeline::delivery::quota::occasion;
use crate::pipeline::desk::Desk;
use crate::store::outbox::{Cursor, Page as TakenPage};
use crate::store::{Arrival, StoreError};

/// How often it is looked for callbacks that were not followed up.
const LOOK: Duration = Duration::from_millis(50);

/// A thread that fetches; it uses the tokens of the delivery and ends it.
pub struct Drain {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Drain {
    /// # Errors
    /// When the system gives no thread.
    pub fn start(delivery: &Delivery, desk: Arc<Desk>) -> std::io::Result<Self> {
        let shared = delivery.shared();
        let (name, fetching) = ("drain".to_owned(), Arc::clone(&shared));
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(move || Fetching { shared: fetching, desk, failed: HashMap::new() }.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        self.shared.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Fetching {
    shared: Arc<Shared>,
    desk: Arc<Desk>,
    /// Failures in a row and when to try again, by account and thread.
    failed: HashMap<(AccountName, String), (u32, UnixMs)>,
}

impl Fetching {
    fn run(mut self) {
        // While nothing ran here callbacks found nobody.
        if let Err(error) = self.shared.parts.store.want_all() {
            tracing::error!(%error, "threads cannot be asked for again");
        }
        while !self.shared.stopped() {
            match self.shared.parts.store.to_fetch() {
                Ok(wanted) => wanted.into_iter().for_each(|cursor| self.follow(cursor)),
                Err(error) => tracing::error!(%error, "cursors cannot be read"),
            }
            std::thread::sleep(LOOK);
        }
    }

    /// All pages of one thread, or as many as go well.
    fn follow(&mut self, mut cursor: Cursor) {
        let key = (cursor.account.clone(), cursor.thread.clone());
        let now = self.shared.now();
        if self.failed.get(&key).is_some_and(|(_, again)| now < *again) {
            return;
        }
        // What waits there is not lost: the platform keeps three days.
        while !self.shared.stopped() && self.desk.has_room_for_a_page() {
            match self.page(&cursor) {
                Ok(None) => {
                    self.failed.remove(&key);
                    return;
                }
                Ok(Some(next)) => cursor.cursor = next,
                Err(reason) => {
                    let tries = self.failed.get(&key).map_or(1, |(tries, _)| tries + 1);
                    // Never given up: messages lie there.
                    let again = backoff::next(tries.min(9), self.shared.now(), u64::from(tries));
                    tracing::warn!(account = %key.0, reason, tries, "messages cannot be fetched");
                    self.failed.insert(key, (tries, again.unwrap_or(now)));
                    return;
                }
            }
        }
    }

    /// Takes one page; where the next one begins, if there is one.
    fn page(&self, cursor: &Cursor) -> Result<Option<String>, String> {
        let shared = &self.shared;
        let channel = shared.parts.accounts.get(&cursor.account).ok_or("no such account")?;
        let pull = channel.pull().ok_or("the platform has nothing to fetch")?;
        let token = shared.tokens.get(channel.as_ref(), &shared.api).map_err(|e| e.to_string())?;
        let token = token.ok_or("no token")?;
        let permit = Some(cursor.token.clone()).filter(|token| !token.is_empty());
        let ready = |permit| Ready { thread: cursor.thread.clone(), permit };
        let fetch = |ready: &Ready, token| {
            let request = pull.fetch(ready, &cursor.cursor, token);
            shared.api.call(&request).map_err(|e| e.to_string())
        };
        let mut page = pull.read_page(&fetch(&ready(permit.clone()), &token)?);
        if page.is_err() && permit.is_some() {
            // A callback's permit is good for ten minutes; without one the platform limits how often.
            page = pull.read_page(&fetch(&ready(None), &token)?);
        }
        if let Err(failure) = &page
            && failure.class == FailureClass::RefreshToken
        {
            let renewed = shared.tokens.renew(channel.as_ref(), &shared.api, &token);
            let renewed = renewed.map_err(|e| e.to_string())?.ok_or("no token")?;
            page = pull.read_page(&fetch(&ready(permit), &renewed)?);
        }
        let page = page.map_err(|e| e.to_string())?;
        self.take(channel.as_ref(), cursor, page).map_err(|e| e.to_string())
    }

    fn take(
        &self,
        channel: &dyn Channel,
        cursor: &Cursor,
        page: Page,
    ) -> Result<Option<String>, StoreError> {
        let more = page.has_more;
        let next = page.next_cursor.clone();
        let session = self.shared.parts.session;
        let Sorted { page: taken, originals } =
            sort(channel, page.items, session, self.shared.now());
        let complete = (!more).then_some(cursor.wanted);
        // What is worked on is what came: what is stored is masked.
        let messages = originals.iter().map(|arrival| self.desk.stored(arrival)).collect();
        let taken = TakenPage { messages, next: next.clone(), complete, ..taken };
        let store = &self.shared.parts.store;
        let accepted =
            store.take_page(&cursor.account, &cursor.thread, &taken, self.shared.now())?;
        // In their order.
        let accepted = accepted.into_iter().zip(originals);
        self.desk.take_up(accepted.map(|((_, accepted), original)| (original, accepted)).collect());
        Ok(more.then_some(next))
    }
}

/// A page for the store that has no messages yet, and these as they came.
pub struct Sorted {
    pub page: TakenPage,
    pub originals: Vec<Arrival>,
}

/// What happened on an account, sorted by what is done about it.
pub fn sort(channel: &dyn Channel, items: Vec<Item>, session: Duration, now: UnixMs) -> Sorted {
    let mut sorted = Sorted { page: TakenPage::default(), originals: Vec::new() };
    let until = now.saturating_add(i64::try_from(session.as_millis()).unwrap_or(i64::MAX));
    for item in items {
        match item {
            Item::Push(push) => sorted.originals.push(arrival(channel, push)),
            Item::Undelivered(Undelivered { key, failure, .. }) => {
                sorted.page.failures.push((key, why(failure.class)));
            }
            Item::Session(change) => {
                let at_desk = match change.now {
                    SessionState::Waiting | SessionState::Person => Some(until),
                    SessionState::Unhandled | SessionState::Assistant | SessionState::Ended => None,
                };
                sorted.page.sessions.push((change.target.customer, at_desk));
            }
            // Somebody speaks there: the bot does not.
            Item::Colleague(colleague) => {
                sorted.page.sessions.push((colleague.target.customer, Some(until)));
            }
            Item::Notice(what) => {
                tracing::info!(account = %channel.account(), what, "notice of the platform");
            }
        }
    }
    sorted
}

/// A customer's message with what a reply needs.
pub fn arrival(channel: &dyn Channel, push: Push) -> Arrival {
    let Push { inbound, target, reply_address: _ } = push;
    let occasion = channel.scene(&inbound.content).map(occasion);
    Arrival { inbound, target: Some(target), occasion, sealed: None }
}

fn why(class: FailureClass) -> Reason {
    match class {
        FailureClass::WindowClosed => Reason::WindowClosed,
        FailureClass::QuotaUsed => Reason::QuotaUsed,
        FailureClass::Retry
        | FailureClass::Unclear
        | FailureClass::RefreshToken
        | FailureClass::WrongState
        | FailureClass::GiveUp => Reason::SendFailed,
    }
}

/// Accounts whose messages are fetched.
pub fn fetches(accounts: &Accounts) -> bool {
    accounts.all().any(|channel| channel.pull().is_some())
}
