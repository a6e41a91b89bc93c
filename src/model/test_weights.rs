//! Where tests find weights: the folder in `HUIDA_MODELS`, else `~/.cache/huida/models`.

use std::path::PathBuf;

/// The 0.5B generator; panics with what to do when it is not there.
pub(crate) fn generator() -> PathBuf {
    let home = || std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".cache/huida/models"));
    let folder = std::env::var_os("HUIDA_MODELS").map(PathBuf::from).or_else(home).unwrap();
    let path = folder.join("qwen2.5-coder-0.5b-instruct-q4_k_m.gguf");
    assert!(path.is_file(), "no weights at {}: pull them or set HUIDA_MODELS", path.display());
    path
}
