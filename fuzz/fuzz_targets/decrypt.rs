//! Encrypted texts: none panics, and one that opens was framed and padded as it must be.

#![no_main]

use std::sync::LazyLock;

use huida_fuzz::channels::wechat::crypto::AesKey;
use libfuzzer_sys::fuzz_target;

static KEY: LazyLock<AesKey> = LazyLock::new(|| AesKey::parse(&"A".repeat(43).into()).unwrap());

fuzz_target!(|input: &[u8]| {
    let Some((&kind, rest)) = input.split_first() else { return };
    if kind % 2 == 0 {
        // As it would come in.
        let Ok(text) = std::str::from_utf8(rest) else { return };
        if let Ok(message) = KEY.decrypt(text, "wxba5fad812f8e6fb9") {
            assert!(message.len() < text.len());
        }
    } else {
        // What we encrypt, we read.
        let sealed = KEY.encrypt(rest, "wx1", [kind; 16]);
        assert_eq!(KEY.decrypt(&sealed, "wx1").as_deref(), Ok(rest));
        assert!(KEY.decrypt(&sealed, "wx2").is_err());
    }
});
