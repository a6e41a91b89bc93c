//! Builds the bodies of passive replies.

use serde_json::json;

use crate::channels::wechat::envelope::cdata;
use crate::channels::{BodyFormat, ReplyAddress, TextLimit, form};
use crate::domain::outgoing::Menu;

/// A text message from us to the customer, both taken from the push.
pub(in crate::channels) fn text_message(
    address: &ReplyAddress,
    text: &str,
    now_seconds: i64,
) -> String {
    match address.format {
        BodyFormat::Xml => {
            xml(address, now_seconds, "text", &format!("<Content>{}</Content>", cdata(text)))
        }
        BodyFormat::Json => json!({
            "ToUserName": address.customer,
            "FromUserName": address.us,
            "CreateTime": now_seconds,
            "MsgType": "text",
            "Content": text,
        })
        .to_string(),
    }
}

/// Gives the customer to the platform's own desk. It works in answer to messages, not to events.
pub(in crate::channels) fn transfer(address: &ReplyAddress, now_seconds: i64) -> String {
    const TYPE: &str = "transfer_customer_service";
    match address.format {
        BodyFormat::Xml => xml(address, now_seconds, TYPE, ""),
        BodyFormat::Json => json!({
            "ToUserName": address.customer,
            "FromUserName": address.us,
            "CreateTime": now_seconds,
            "MsgType": TYPE,
        })
        .to_string(),
    }
}

fn xml(address: &ReplyAddress, now_seconds: i64, kind: &str, rest: &str) -> String {
    format!(
        "<xml><ToUserName>{}</ToUserName><FromUserName>{}</FromUserName>\
         <CreateTime>{now_seconds}</CreateTime><MsgType><![CDATA[{kind}]]></MsgType>{rest}</xml>",
        cdata(&address.customer),
        cdata(&address.us),
    )
}

/// A menu as a text: a link for each item, whose tap comes back as the item's words with its id. For
/// accounts that cannot send menus; practice of other projects, not documented by the platform. The
/// head gives way if all of it is too long; `None` if nothing is left to show.
pub(in crate::channels) fn menu_text(menu: &Menu, limit: TextLimit) -> Option<String> {
    let links: String = menu
        .items
        .iter()
        .map(|item| {
            let query =
                form::encode([("msgmenucontent", item.text.as_str()), ("msgmenuid", &item.id)]);
            let shown = item.text.replace('<', "＜");
            format!("\n<a href=\"weixin://bizmsgmenu?{query}\">{shown}</a>")
        })
        .collect();
    let tail = if menu.tail.is_empty() { String::new() } else { format!("\n{}", menu.tail) };
    let rest = format!("{links}{tail}");
    let room = match limit {
        TextLimit::Bytes(most) => TextLimit::Bytes(most.saturating_sub(rest.len())),
        TextLimit::Characters(most) => {
            TextLimit::Characters(most.saturating_sub(rest.chars().count()))
        }
    };
    let text = format!("{}{rest}", room.fit(&menu.head).unwrap_or_default());
    // Links that fill the message by themselves cannot be cut without breaking one.
    if !limit.holds(&text) {
        return limit.fit(&menu.head);
    }
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::outgoing::MenuItem;

    #[test]
    fn a_menu_becomes_links() {
        let items = vec![
            MenuItem { id: "f&1".into(), text: "查看 答复".into() },
            MenuItem { id: "2".into(), text: "<b>".into() },
        ];
        let menu = Menu { head: "请稍候。".into(), items, tail: "谢谢".into() };
        let limit = TextLimit::Bytes(2_048);
        assert_eq!(
            menu_text(&menu, limit).unwrap(),
            "请稍候。\n<a href=\"weixin://bizmsgmenu?msgmenucontent=%E6%9F%A5%E7%9C%8B%20%E7%AD%94\
             %E5%A4%8D&msgmenuid=f%261\">查看 答复</a>\n<a href=\"weixin://bizmsgmenu?\
             msgmenucontent=%3Cb%3E&msgmenuid=2\">＜b></a>\n谢谢"
        );
        let long = Menu { head: "这是一句话。".repeat(300), ..menu.clone() };
        let cut = menu_text(&long, limit).unwrap();
        assert!(cut.len() <= 2_048 && cut.ends_with("</a>\n谢谢") && cut.contains("。…\n<a "));
        assert_eq!(menu_text(&menu, TextLimit::Bytes(64)).unwrap(), "请稍候。");
        assert_eq!(menu_text(&Menu::text("只是话"), limit).unwrap(), "只是话");
        assert_eq!(menu_text(&Menu::text(" "), limit), None);
    }
}
