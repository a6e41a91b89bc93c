//! Pages of 微信客服: none panics, and one that is taken can be gone on from.

#![no_main]

use std::sync::LazyLock;

use huida_fuzz::channels::wechat_kf::{WechatKf, WechatKfConfig};
use huida_fuzz::channels::{ApiResponse, Channel, Item};
use huida_fuzz::domain::message::AccountName;
use libfuzzer_sys::fuzz_target;

static CHANNEL: LazyLock<WechatKf> = LazyLock::new(|| {
    let config = WechatKfConfig {
        token: "token-of-the-fuzzer".into(),
        corp_id: "ww0123456789abcdef".into(),
        encoding_aes_key: "A".repeat(43).into(),
        previous_encoding_aes_key: None,
        secret: "s".into(),
        api_base: None,
        replay_window_s: None,
        text_bytes: None,
    };
    WechatKf::new(AccountName("kf".into()), &config).unwrap()
});

fuzz_target!(|body: &[u8]| {
    let response = ApiResponse { status: 200, body: body.to_vec() };
    let pull = CHANNEL.pull().unwrap();
    let Ok(page) = pull.read_page(&response) else { return };
    assert!(!page.has_more || !page.next_cursor.is_empty());
    for item in page.items {
        let Item::Push(push) = item else { continue };
        assert!(!push.inbound.sender.is_empty() && push.target.thread.is_some());
    }
});
