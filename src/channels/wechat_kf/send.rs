//! What 微信客服 sends: `kf/send_msg`, and `kf/send_msg_on_event` by an event's code.

use serde_json::{Value, json};

use crate::channels::{TextLimit, Unsupported};
use crate::domain::outgoing::{IdempotencyKey, Menu, Outgoing, Target};

/// Head and tail of a menu, bytes.
const MENU_TEXT: TextLimit = TextLimit::Bytes(1_024);
/// One item's words, bytes.
const ITEM_TEXT: TextLimit = TextLimit::Bytes(128);
const ITEM_ID_BYTES: usize = 64;
const ITEMS: usize = 10;

/// Path and body.
pub(super) fn message(
    to: &Target,
    what: &Outgoing,
    key: &IdempotencyKey,
    limit: TextLimit,
) -> Result<(&'static str, Value), Unsupported> {
    let (path, mut body) = match what {
        Outgoing::Text(text) => ("/cgi-bin/kf/send_msg", self::text(text, limit)?),
        Outgoing::Menu(menu) => ("/cgi-bin/kf/send_msg", self::menu(menu, limit)?),
        Outgoing::OnEvent { code, menu } => {
            let mut body = self::menu(menu, limit)?;
            body["code"] = code.as_str().into();
            body["msgid"] = key.as_str().into();
            return Ok(("/cgi-bin/kf/send_msg_on_event", body));
        }
        Outgoing::Typing { .. } => return Err(Unsupported("nobody is shown writing")),
        Outgoing::Transfer => return Err(Unsupported("not a message")),
    };
    body["touser"] = to.customer.as_str().into();
    body["open_kfid"] = desk(to)?.into();
    body["msgid"] = key.as_str().into();
    Ok((path, body))
}

/// The `open_kfid` that the customer wrote to.
pub(super) fn desk(of: &Target) -> Result<&str, Unsupported> {
    of.thread.as_deref().ok_or(Unsupported("the desk (open_kfid) is not known"))
}

fn text(text: &str, limit: TextLimit) -> Result<Value, Unsupported> {
    let content = limit.fit(text).ok_or(Unsupported("an empty text"))?;
    Ok(json!({ "msgtype": "text", "text": { "content": content } }))
}

fn menu(menu: &Menu, limit: TextLimit) -> Result<Value, Unsupported> {
    if menu.items.is_empty() {
        return text(&menu.head, limit);
    }
    if menu.items.len() > ITEMS {
        return Err(Unsupported("more than ten choices"));
    }
    let mut items = Vec::with_capacity(menu.items.len());
    for item in &menu.items {
        if item.id.len() > ITEM_ID_BYTES {
            return Err(Unsupported("a choice's id is longer than 64 bytes"));
        }
        let content = ITEM_TEXT.fit(&item.text).ok_or(Unsupported("an empty choice"))?;
        items.push(json!({ "type": "click", "click": { "id": item.id, "content": content } }));
    }
    let mut body = json!({ "msgtype": "msgmenu", "msgmenu": { "list": items } });
    for (name, text) in [("head_content", &menu.head), ("tail_content", &menu.tail)] {
        if let Some(text) = MENU_TEXT.fit(text) {
            body["msgmenu"][name] = text.into();
        }
    }
    Ok(body)
}
