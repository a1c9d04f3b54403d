//! Keys of a Secret.

use std::borrow::Cow;

/// The longest key, as the API server has it (DNS-1123 subdomain length).
const LONGEST: usize = 253;

/// Whether the API server takes the key.
pub(super) fn is_valid(key: &str) -> bool {
    (1..=LONGEST).contains(&key.len())
        && key
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        && key != "."
        && !key.starts_with("..")
}

/// `conversionStrategy: Default`: what is neither letter, digit, nor one of `-._` becomes `_`.
pub(super) fn convert(key: &str) -> Cow<'_, str> {
    let stays = |char: char| char.is_alphanumeric() || "-._".contains(char);
    if key.chars().all(stays) {
        return Cow::Borrowed(key);
    }
    Cow::Owned(
        key.chars()
            .map(|char| if stays(char) { char } else { '_' })
            .collect(),
    )
}
