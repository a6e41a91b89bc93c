//! Builds the bodies of passive replies.

use serde_json::json;

use crate::channels::wechat::envelope::cdata;
use crate::channels::{BodyFormat, ReplyAddress};

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
