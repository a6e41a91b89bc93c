//! Regular expressions that stand in the code, compiled at their first use.

/// `pattern!(NAME = "…")`: a static [`regex::Regex`].
macro_rules! pattern {
    ($name:ident = $pattern:expr) => {
        static $name: std::sync::LazyLock<regex::Regex> = std::sync::LazyLock::new(|| {
            regex::Regex::new($pattern).expect("a constant expression")
        });
    };
}

pub(crate) use pattern;
