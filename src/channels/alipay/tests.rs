//! The channel as a whole.
pub(super) const APP_KEY: &str = include_str!("../../../tests/fixtures/alipay/app_private.pem");
pub(super) const APP_PUBLIC_KEY: &str =
    include_str!("../../../tests/fixtures/alipay/app_public.pem");
