//! Plain pushes: none panics, and what is taken has a sender and a key.

#![no_main]

use std::sync::LazyLock;

use huida_fuzz::channels::wechat::{PushConfig, signature};
use huida_fuzz::channels::wechat_mp::WechatMp;
use huida_fuzz::channels::{Callback, Channel, Item, Received};
use huida_fuzz::domain::message::AccountName;
use libfuzzer_sys::fuzz_target;

const TOKEN: &str = "token-of-the-fuzzer";

static CHANNEL: LazyLock<(WechatMp, String)> = LazyLock::new(|| {
    let config = PushConfig {
        token: TOKEN.into(),
        app_id: "wx0123456789abcdef".into(),
        encoding_aes_key: None,
        previous_encoding_aes_key: None,
        require_encryption: false,
        app_secret: None,
        api_base: None,
        replay_window_s: None,
        text_bytes: None,
    };
    let signature = signature::sign(&[TOKEN, "1790000000", "n"]);
    let query = format!("timestamp=1790000000&nonce=n&signature={signature}");
    (WechatMp::new(AccountName("mp".into()), &config).unwrap(), query)
});

fuzz_target!(|body: &[u8]| {
    let (channel, query) = &*CHANNEL;
    let callback = Callback { query, headers: &[], body, received_at: 1_790_000_000_000 };
    let Ok(Received::Items(items)) = channel.receive(&callback) else { return };
    for item in items {
        let Item::Push(push) = item else { continue };
        assert!(!push.inbound.sender.is_empty() && !push.inbound.dedupe_key.is_empty());
        assert_eq!(push.inbound.sender, push.target.customer);
    }
});
