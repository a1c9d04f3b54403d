//! The user name in a value, to tell rotations that change the user from those that change the password.

use serde::Deserialize;
use zeroize::Zeroizing;

/// The JSON key `username`, as AWS's own rotations name it; `None` where the value has none.
/// <https://docs.aws.amazon.com/secretsmanager/latest/userguide/reference_secret_json_structure.html>
pub fn username(payload: &[u8]) -> Option<Zeroizing<String>> {
    #[derive(Deserialize)]
    struct Credential {
        username: String,
    }
    // serde takes an array for a struct too: its first element would be the name.
    let is_object = payload.trim_ascii_start().starts_with(b"{");
    is_object
        .then(|| serde_json::from_slice::<Credential>(payload).ok())
        .flatten()
        .map(|credential| Zeroizing::new(credential.username))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_key_username_of_an_object_is_a_user_name() {
        let cases: [(&str, Option<&str>); 6] = [
            (r#"{"username":"app","password":"x"}"#, Some("app")),
            (r#"{"password":"x"}"#, None),
            (r#"{"username":7}"#, None),
            (r#"["username"]"#, None),
            ("username", None),
            ("", None),
        ];
        for (payload, expected) in cases {
            let name = username(payload.as_bytes());
            assert_eq!(name.as_ref().map(|name| name.as_str()), expected, "{payload}");
        }
    }
}
