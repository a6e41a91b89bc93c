//! 客服消息: what 公众号 and 小程序 send outside of an answer (`/cgi-bin/message/custom/send`).

use serde_json::{Value, json};

use super::api;
use crate::channels::{ApiRequest, TextLimit, Token, Unsupported};
use crate::domain::outgoing::{Menu, Outgoing, Target};

/// Where and how an account sends.
#[derive(Clone, Copy, Debug)]
pub(in crate::channels) struct Desk<'a> {
    pub(in crate::channels) api_base: &'a str,
    pub(in crate::channels) typing_path: &'static str,
    /// The platform shows `msgmenu`.
    pub(in crate::channels) menu: bool,
    pub(in crate::channels) text: TextLimit,
}

impl Desk<'_> {
    pub(in crate::channels) fn send(
        &self,
        to: &Target,
        what: &Outgoing,
        token: &Token,
    ) -> Result<ApiRequest, Unsupported> {
        if let Some(words) = what.words() {
            let url = api::url(self.api_base, SEND, token);
            return Ok(ApiRequest::post_json(url, &self.text(to, words)?));
        }
        let (path, body) = match what {
            Outgoing::Menu(menu) if self.menu => (SEND, self.menu(to, menu)),
            Outgoing::Text(_) | Outgoing::Menu(_) => return Err(Unsupported("no menus")),
            Outgoing::Typing { on } => {
                let command = if *on { "Typing" } else { "CancelTyping" };
                (self.typing_path, json!({ "touser": to.customer, "command": command }))
            }
            Outgoing::OnEvent { .. } => return Err(Unsupported("events bring no code")),
            Outgoing::Transfer => return Err(Unsupported("only in the answer to a callback")),
        };
        Ok(ApiRequest::post_json(api::url(self.api_base, path, token), &body))
    }

    fn text(&self, to: &Target, text: &str) -> Result<Value, Unsupported> {
        let content = self.text.fit(text).ok_or(Unsupported("an empty text"))?;
        Ok(json!({ "touser": to.customer, "msgtype": "text", "text": { "content": content } }))
    }

    fn menu(&self, to: &Target, menu: &Menu) -> Value {
        let items = menu.items.iter().map(|item| json!({ "id": item.id, "content": item.text }));
        json!({
            "touser": to.customer,
            "msgtype": "msgmenu",
            "msgmenu": {
                "head_content": self.text.fit(&menu.head).unwrap_or_default(),
                "list": items.collect::<Vec<_>>(),
                "tail_content": self.text.fit(&menu.tail).unwrap_or_default(),
            },
        })
    }
}

const SEND: &str = "/cgi-bin/message/custom/send";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::outgoing::MenuItem;

    const DESK: Desk<'_> = Desk {
        api_base: "https://api.example",
        typing_path: "/cgi-bin/message/custom/typing",
        menu: true,
        text: TextLimit::Bytes(2_048),
    };

    fn sent(desk: Desk<'_>, what: &Outgoing) -> Result<(String, Value), Unsupported> {
        let request = desk.send(&Target::customer("o1"), what, &Token::new("T", 1))?;
        let text = String::from_utf8(request.body).unwrap();
        assert!(!text.contains("\\u"), "{text}");
        Ok((request.url, serde_json::from_str(&text).unwrap()))
    }

    #[test]
    fn bodies_are_as_documented() {
        let (url, body) = sent(DESK, &Outgoing::Text("你好“呀”".into())).unwrap();
        assert_eq!(url, "https://api.example/cgi-bin/message/custom/send?access_token=T");
        assert_eq!(
            body,
            json!({ "touser": "o1", "msgtype": "text", "text": { "content": "你好“呀”" } })
        );
        let items = vec![
            MenuItem { id: "101".into(), text: "满意".into() },
            MenuItem { id: "102".into(), text: "不满意".into() },
        ];
        let menu = Menu { head: "您满意吗？".into(), items, tail: "谢谢".into() };
        let (_, body) = sent(DESK, &Outgoing::Menu(menu.clone())).unwrap();
        assert_eq!(
            body,
            json!({ "touser": "o1", "msgtype": "msgmenu", "msgmenu": {
                "head_content": "您满意吗？",
                "list": [{ "id": "101", "content": "满意" }, { "id": "102", "content": "不满意" }],
                "tail_content": "谢谢",
            } })
        );
        let (url, body) = sent(DESK, &Outgoing::Typing { on: true }).unwrap();
        assert_eq!(url, "https://api.example/cgi-bin/message/custom/typing?access_token=T");
        assert_eq!(body, json!({ "touser": "o1", "command": "Typing" }));
        let (_, body) = sent(DESK, &Outgoing::Typing { on: false }).unwrap();
        assert_eq!(body["command"], "CancelTyping");

        let without = Desk { menu: false, ..DESK };
        assert!(sent(without, &Outgoing::Menu(menu)).is_err());
        let (_, body) = sent(without, &Outgoing::Menu(Menu::text("只是话"))).unwrap();
        assert_eq!(body["text"]["content"], "只是话");
        assert!(sent(DESK, &Outgoing::Text(" ".into())).is_err());
        assert!(sent(DESK, &Outgoing::Transfer).is_err());
    }

    #[test]
    fn a_long_text_is_cut_to_the_limit() {
        let (_, body) = sent(DESK, &Outgoing::Text("这是一句话。".repeat(300))).unwrap();
        let content = body["text"]["content"].as_str().unwrap();
        assert!(content.len() <= 2_048 && content.ends_with("。…"));
    }
}
