//! Reads a page of `kf/sync_msg`: every kind of item, and kept what is not known.

use serde_json::Value;

use crate::channels::json::{id, text, text_at};
use crate::channels::{
    ApiFailure, Colleague, FailureClass, Item, Page, Push, SessionChange, SessionState, Undelivered,
};
use crate::domain::message::{AccountName, Content, Inbound, Platform};
use crate::domain::outgoing::Target;

/// The platform's own limit, bytes.
const CURSOR_BYTES: usize = 64;

/// `origin`: whoever said it. 3 is the customer, 4 the system.
const SERVICER: u64 = 5;

/// A page that lacks its list, or says that there is more and not where, is broken: to go on from
/// it would skip or repeat messages.
pub(super) fn read(answer: &Value, account: &AccountName) -> Result<Page, ApiFailure> {
    let has_more = match answer.get("has_more") {
        None => false,
        Some(more) => more.as_u64().ok_or(ApiFailure::BROKEN)? != 0,
    };
    let next_cursor = text(answer, "next_cursor").unwrap_or_default();
    if next_cursor.len() > CURSOR_BYTES || (has_more && next_cursor.is_empty()) {
        return Err(ApiFailure::BROKEN);
    }
    let items = match answer.get("msg_list") {
        None | Some(Value::Null) => Vec::new(),
        Some(list) => {
            let list = list.as_array().ok_or(ApiFailure::BROKEN)?;
            list.iter().map(|item| read_item(item, account)).collect()
        }
    };
    Ok(Page { items, next_cursor: next_cursor.to_owned(), has_more })
}

fn read_item(item: &Value, account: &AccountName) -> Item {
    let Some(header) = Header::read(item) else {
        return Item::Notice("an item without id, type or desk".to_owned());
    };
    if header.kind == "event" {
        return event(&header, item.get("event").unwrap_or(&Value::Null), account);
    }
    let Some(target) = header.target(item) else {
        return Item::Notice(format!("{} of nobody", header.kind));
    };
    let content = content(item, header.kind);
    if item.get("origin").and_then(Value::as_u64) == Some(SERVICER) {
        let servicer = id(item, "servicer_userid");
        let (dedupe_key, at) = (header.dedupe_key(), header.sent_at());
        return Item::Colleague(Colleague { dedupe_key, at, target, servicer, content });
    }
    header.push(target, content, account)
}

/// What every item has.
struct Header<'a> {
    msg_id: String,
    desk: String,
    kind: &'a str,
    seconds: i64,
}

impl<'a> Header<'a> {
    fn read(item: &'a Value) -> Option<Self> {
        let desk = id(item, "open_kfid")
            .or_else(|| item.get("event").and_then(|event| id(event, "open_kfid")))?;
        Some(Self {
            msg_id: id(item, "msgid")?,
            desk,
            kind: text(item, "msgtype")?,
            seconds: item.get("send_time").and_then(Value::as_i64).unwrap_or_default(),
        })
    }

    fn dedupe_key(&self) -> String {
        format!("msg:{}", self.msg_id)
    }

    fn sent_at(&self) -> i64 {
        self.seconds.saturating_mul(1_000)
    }

    /// `object`: the item, or an event inside of it.
    fn target(&self, object: &Value) -> Option<Target> {
        let customer = id(object, "external_userid")?;
        Some(Target { thread: Some(self.desk.clone()), ..Target::customer(customer) })
    }

    fn push(&self, target: Target, content: Content, account: &AccountName) -> Item {
        let inbound = Inbound {
            platform: Platform::WechatKf,
            account: account.clone(),
            sender: target.customer.clone(),
            dedupe_key: self.dedupe_key(),
            sent_at: self.sent_at(),
            content,
        };
        Item::Push(Push { inbound, target, reply_address: None })
    }
}

fn event(header: &Header<'_>, event: &Value, account: &AccountName) -> Item {
    let name = text(event, "event_type").unwrap_or("event");
    let Some(target) = header.target(event) else {
        let status = event.get("status").map(Value::to_string).unwrap_or_default();
        let servicer = text(event, "servicer_userid").unwrap_or_default();
        return Item::Notice(format!("{name} {servicer} {status}").trim_end().to_owned());
    };
    let told = |key: Option<String>| Content::Event { name: name.to_owned(), key };
    match name {
        "enter_session" => {
            let from = id(event, "scene_param").or_else(|| id(event, "scene"));
            let target = Target { code: id(event, "welcome_code"), ..target };
            header.push(target, told(from), account)
        }
        "msg_send_fail" => match id(event, "fail_msgid") {
            Some(key) => Item::Undelivered(Undelivered { key, target, failure: failure(event) }),
            None => Item::Notice("msg_send_fail without fail_msgid".to_owned()),
        },
        "session_status_change" => match session(event) {
            Some(now) => Item::Session(SessionChange {
                dedupe_key: header.dedupe_key(),
                at: header.sent_at(),
                target: Target { code: id(event, "msg_code"), ..target },
                now,
                servicer: id(event, "new_servicer_userid"),
            }),
            None => header.push(target, told(None), account),
        },
        "user_recall_msg" => header.push(target, told(id(event, "recall_msgid")), account),
        _ => header.push(target, told(None), account),
    }
}

/// `change_type`: taken from the pool, passed on, ended, opened again.
fn session(event: &Value) -> Option<SessionState> {
    match event.get("change_type")?.as_u64()? {
        1 | 2 | 4 => Some(SessionState::Person),
        3 => Some(SessionState::Ended),
        _ => None,
    }
}

/// `fail_type`; what is not listed, and what a person has to look at, is given up.
fn failure(event: &Value) -> ApiFailure {
    let code = event.get("fail_type").and_then(Value::as_i64).unwrap_or_default();
    let class = match code {
        4 => FailureClass::WindowClosed,
        5 => FailureClass::WrongState,
        6 => FailureClass::QuotaUsed,
        _ => FailureClass::GiveUp,
    };
    ApiFailure { class, code }
}

fn content(item: &Value, kind: &str) -> Content {
    let part = |name: &str| text_at(item, &[kind, name]).map(str::to_owned);
    let attachment =
        |what: &str, reference| Content::Attachment { what: what.to_owned(), reference };
    let unknown = || Content::Unknown { what: kind.to_owned() };
    match kind {
        "text" => match (part("content"), part("menu_id").filter(|id| !id.is_empty())) {
            (Some(text), None) => Content::Text(text),
            (Some(text), Some(id)) => Content::Choice { id, text },
            (None, _) => unknown(),
        },
        "image" | "voice" | "video" | "file" => attachment(kind, part("media_id")),
        "location" => attachment(kind, place(item)),
        "link" => attachment(kind, part("url")),
        "business_card" => attachment(kind, part("userid")),
        "miniprogram" => attachment(kind, part("pagepath")),
        "channels_shop_product" => attachment("product", part("product_id")),
        "channels_shop_order" => attachment("order", part("order_id")),
        "merged_msg" | "channels" => attachment(kind, part("title")),
        "meeting" | "schedule" | "note" => attachment(kind, None),
        "msgmenu" => match part("head_content") {
            Some(head) => Content::Text(head),
            None => unknown(),
        },
        _ => unknown(),
    }
}

/// `23.134521,113.358803 name address`, latitude first.
fn place(item: &Value) -> Option<String> {
    let location = item.get("location")?;
    let (x, y) = (location.get("latitude")?.as_f64()?, location.get("longitude")?.as_f64()?);
    let name = text(location, "name").unwrap_or_default();
    let address = text(location, "address").unwrap_or_default();
    Some(format!("{x},{y} {name} {address}").trim_end().to_owned())
}
