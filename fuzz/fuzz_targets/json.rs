//! JSON inside of genuine callbacks of a shop, a bot and Douyin: none panics.

#![no_main]

use std::sync::LazyLock;

use huida_fuzz::channels::douyin::{Douyin, DouyinConfig};
use huida_fuzz::channels::wechat::crypto::AesKey;
use huida_fuzz::channels::wechat::signature;
use huida_fuzz::channels::wechat_shop::{WechatShop, WechatShopConfig};
use huida_fuzz::channels::wecom::{Wecom, WecomConfig};
use huida_fuzz::channels::{Callback, Channel, Item, Received};
use huida_fuzz::domain::message::AccountName;
use libfuzzer_sys::fuzz_target;
use sha1::{Digest, Sha1};

const TOKEN: &str = "token-of-the-fuzzer";
const KEY: &str = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG";
const APP: &str = "wx0123456789abcdef";

struct Channels {
    key: AesKey,
    shop: WechatShop,
    bot: Wecom,
    douyin: Douyin,
}

static CHANNELS: LazyLock<Channels> = LazyLock::new(|| {
    let shop = WechatShopConfig {
        token: TOKEN.into(),
        app_id: APP.into(),
        encoding_aes_key: KEY.into(),
        previous_encoding_aes_key: None,
        app_secret: "s".into(),
        api_base: None,
        replay_window_s: None,
        text_bytes: None,
    };
    let bot = WecomConfig {
        token: TOKEN.into(),
        corp_id: String::new(),
        agent_id: None,
        encoding_aes_key: KEY.into(),
        previous_encoding_aes_key: None,
        secret: None,
        api_base: None,
        replay_window_s: None,
        text_bytes: None,
    };
    let douyin = DouyinConfig {
        client_key: "abc".into(),
        client_secret: "s".into(),
        open_id: "our-open-id".into(),
        refresh_token: None,
        api_base: None,
        send_path: None,
    };
    let name = || AccountName("a".into());
    Channels {
        key: AesKey::parse(&KEY.into()).unwrap(),
        shop: WechatShop::new(name(), &shop).unwrap(),
        bot: Wecom::new(name(), &bot).unwrap(),
        douyin: Douyin::new(name(), &douyin).unwrap(),
    }
});

fn check(channel: &dyn Channel, query: &str, headers: &[(&str, &str)], body: &[u8]) {
    let callback = Callback { query, headers, body, received_at: 1_790_000_000_000 };
    let Ok(Received::Items(items)) = channel.receive(&callback) else { return };
    for item in items {
        let Item::Push(push) = item else { continue };
        assert!(!push.inbound.sender.is_empty() && !push.inbound.dedupe_key.is_empty());
        assert_eq!(push.inbound.sender, push.target.customer);
    }
}

fn check_sealed(channel: &dyn Channel, receiver: &str, message: &[u8]) {
    let encrypt = CHANNELS.key.encrypt(message, receiver, [7; 16]);
    let signature = signature::sign(&[TOKEN, "1790000000", "n", &encrypt]);
    let query =
        format!("timestamp=1790000000&nonce=n&encrypt_type=aes&msg_signature={signature}");
    check(channel, &query, &[], format!("{{\"Encrypt\":\"{encrypt}\"}}").as_bytes());
}

fuzz_target!(|message: &[u8]| {
    let Channels { key: _, shop, bot, douyin } = &*CHANNELS;
    check_sealed(shop, APP, message);
    check_sealed(bot, "", message);
    let digest = Sha1::digest([b"s", message].concat());
    let signature: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    check(douyin, "", &[("x-douyin-signature", &signature)], message);
});
