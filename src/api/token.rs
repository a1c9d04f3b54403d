//! Tokens: what annotations and the status tell of content without telling the content.
//!
//! A token is the first half of an HMAC-SHA256, as 32 hex digits. Without the key it neither lets a guess of the content
//! be checked nor shows that two Secrets hold the same.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use aws_lc_rs::{digest as sha2, hmac};
use k8s_openapi::ByteString;
use serde::Serialize;

use super::{ObjectKey, Selector, StoreKind};

/// How many bytes of an HMAC a token keeps: 128 bits, out of reach of any search.
const KEPT: usize = 16;

/// The key of all tokens of a cluster. AWS-LC wipes it from memory when it is dropped.
#[derive(Clone)]
pub struct TokenKey(hmac::Key);

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey")
    }
}

/// A keyed digest, as 32 hex digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Token(Box<str>);

impl Token {
    /// The hex digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first half as a number, to be kept of many where a chance hit would do no harm.
    pub fn short(&self) -> u64 {
        short(&self.0).unwrap_or_default()
    }
}

/// The first half of a token's text as a number; none for a text that is no token.
pub fn short(text: &str) -> Option<u64> {
    u64::from_str_radix(text.get(..16)?, 16).ok()
}

/// The scope and the rollout token in the annotation [`RESCOPED`](super::names::annotation::RESCOPED); none for any other
/// text.
pub fn rescoped(text: &str) -> Option<(&str, &str)> {
    text.split_once(' ')
        .filter(|(scope, rollout)| is_text(scope) && is_text(rollout))
}

/// Whether a text may be a token's, of this version or of another; what somebody else wrote may be anything.
pub fn is_text(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Token> for Box<str> {
    fn from(token: Token) -> Self {
        token.0
    }
}

impl From<Token> for String {
    fn from(token: Token) -> Self {
        token.0.into_string()
    }
}

impl TokenKey {
    /// From 32 random bytes.
    pub fn new(bytes: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    /// Of the whole content of a Secret.
    pub fn content(&self, secret: &ObjectKey, type_: &str, data: &BTreeMap<String, ByteString>) -> Token {
        let mut token = self.start("content", secret);
        token.part(type_.as_bytes());
        token.data(data);
        token.end()
    }

    /// Of what a Secret is made from besides values, in the order given.
    pub fn inputs<P: AsRef<[u8]>>(&self, secret: &ObjectKey, parts: impl IntoIterator<Item = P>) -> Token {
        let mut token = self.start("inputs", secret);
        for part in parts {
            token.part(part.as_ref());
        }
        token.end()
    }

    /// Of where a Secret was made from, in the order given.
    pub fn source<P: AsRef<[u8]>>(&self, secret: &ObjectKey, parts: impl IntoIterator<Item = P>) -> Token {
        let mut token = self.start("source", secret);
        for part in parts {
            token.part(part.as_ref());
        }
        token.end()
    }

    /// Of the content that pods must hold: all of it, or `keys`, whose change restarts them.
    pub fn rollout<K: AsRef<str>>(
        &self,
        secret: &ObjectKey,
        data: &BTreeMap<String, ByteString>,
        keys: &[K],
    ) -> Token {
        let mut token = self.start("rollout", secret);
        token.data(
            data.iter()
                .filter(|(key, _)| keys.is_empty() || keys.iter().any(|chosen| chosen.as_ref() == *key)),
        );
        token.end()
    }

    /// Of what rollouts are made with, this key and `keys`, in any order: those of different scopes cannot be compared.
    pub fn scope<K: AsRef<str>>(&self, secret: &ObjectKey, keys: &[K]) -> Token {
        let keys: BTreeSet<&str> = keys.iter().map(AsRef::as_ref).collect();
        let mut token = self.start("scope", secret);
        for key in keys {
            token.part(key.as_bytes());
        }
        token.end()
    }

    /// Of the user name in a credential.
    pub fn user(&self, secret: &ObjectKey, username: &str) -> Token {
        let mut token = self.start("user", secret);
        token.part(username.as_bytes());
        token.end()
    }

    fn start(&self, purpose: &str, secret: &ObjectKey) -> Hashing {
        let mut token = Hashing(hmac::Context::with_key(&self.0));
        token.part(purpose.as_bytes());
        token.part(secret.namespace.as_bytes());
        token.part(secret.name.as_bytes());
        token
    }
}

/// A token in the making. Each part is preceded by its length, so that no two lists of parts look alike.
struct Hashing(hmac::Context);

impl Hashing {
    fn part(&mut self, bytes: &[u8]) {
        self.0.update(&length(bytes));
        self.0.update(bytes);
    }

    fn data<'a>(&mut self, data: impl IntoIterator<Item = (&'a String, &'a ByteString)>) {
        for (key, ByteString(value)) in data {
            self.part(key.as_bytes());
            self.part(value);
        }
    }

    fn end(self) -> Token {
        Token(hex(self.0.sign().as_ref().iter().take(KEPT)).into_boxed_str())
    }
}

/// The key of a remote secret in `keyturn.dev/versions`: 16 hex digits of its store, its key and the stage or version
/// that is wanted, since one ExternalSecret may read two stages of one secret.
pub fn remote_hash(kind: StoreKind, store: &str, key: &str, selector: &Selector) -> String {
    digest([
        kind.as_str().as_bytes(),
        store.as_bytes(),
        key.as_bytes(),
        selector.to_string().as_bytes(),
    ])
}

/// What a set of texts that are no secrets is called, in the order given: 16 hex digits.
pub fn of_set<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    let mut hash = sha2::Context::new(&sha2::SHA256);
    for part in parts {
        hash.update(&length(part.as_bytes()));
        hash.update(part.as_bytes());
    }
    hex(hash.finish().as_ref().iter().take(8))
}

/// Eight bytes of a SHA-256 of parts that are no secrets, as 16 hex digits.
pub(super) fn digest<const N: usize>(parts: [&[u8]; N]) -> String {
    let mut hash = sha2::Context::new(&sha2::SHA256);
    for part in parts {
        hash.update(&length(part));
        hash.update(part);
    }
    hex(hash.finish().as_ref().iter().take(8))
}

fn length(bytes: &[u8]) -> [u8; 8] {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes()
}

fn hex<'a>(bytes: impl Iterator<Item = &'a u8>) -> String {
    bytes
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|nibble| char::from_digit(nibble.into(), 16))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> TokenKey {
        TokenKey::new(&[7; 32])
    }

    fn data(pairs: &[(&str, &str)]) -> BTreeMap<String, ByteString> {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec())))
            .collect()
    }

    #[test]
    fn tokens_are_32_hex_digits_and_repeat() {
        let secret = ObjectKey::new("shop", "db");
        let token = key().content(&secret, "Opaque", &data(&[("a", "1")]));
        assert_eq!(token.as_str().len(), 32);
        assert!(
            token
                .as_str()
                .bytes()
                .all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase())
        );
        assert_eq!(token, key().content(&secret, "Opaque", &data(&[("a", "1")])));
    }

    #[test]
    fn what_cannot_be_a_token_is_known() {
        let long = "a".repeat(65);
        for (text, is_one) in [
            (&"0".repeat(32)[..], true),
            ("v2.0123", true),
            ("", false),
            ("two words", false),
            ("line\n", false),
            ("\u{e9}", false),
            (&long, false),
        ] {
            assert_eq!(is_text(text), is_one, "{text:?}");
        }
    }

    #[test]
    fn whatever_differs_gives_another_token() {
        let (shop, other) = (ObjectKey::new("shop", "db"), ObjectKey::new("other", "db"));
        let one = data(&[("a", "1")]);
        let tokens = [
            key().content(&shop, "Opaque", &one),
            key().content(&other, "Opaque", &one),
            key().content(&ObjectKey::new("shop", "db2"), "Opaque", &one),
            key().content(&ObjectKey::new("shopd", "b"), "Opaque", &one),
            key().content(&shop, "kubernetes.io/tls", &one),
            key().content(&shop, "Opaque", &data(&[("a", "2")])),
            key().content(&shop, "Opaque", &data(&[("a1", "")])),
            key().content(&shop, "Opaque", &data(&[("a", "1"), ("b", "")])),
            key().content(&shop, "Opaque", &data(&[])),
            key().rollout::<&str>(&shop, &one, &[]),
            key().rollout(&shop, &one, &["b"]),
            key().scope::<&str>(&shop, &[]),
            key().scope(&shop, &["a"]),
            key().scope(&shop, &["a", "b"]),
            key().scope(&other, &["a"]),
            key().user(&shop, "1"),
            key().inputs(&shop, ["a", "1"]),
            key().inputs(&shop, ["a1"]),
            key().source(&shop, ["a", "1"]),
            key().source(&shop, ["a1"]),
            TokenKey::new(&[8; 32]).content(&shop, "Opaque", &one),
        ];
        for (i, a) in tokens.iter().enumerate() {
            for (j, b) in tokens.iter().enumerate() {
                assert_eq!(i == j, a == b, "{i} {j}");
            }
        }
    }

    #[test]
    fn a_rollout_speaks_of_the_chosen_keys_only() {
        let secret = ObjectKey::new("shop", "db");
        let (old, new) = (data(&[("a", "1"), ("b", "1")]), data(&[("a", "1"), ("b", "2")]));
        let rollout = |data, keys: &[&str]| key().rollout(&secret, data, keys);
        assert_eq!(rollout(&old, &["a"]), rollout(&new, &["a"]));
        assert_ne!(rollout(&old, &["b"]), rollout(&new, &["b"]));
        assert_ne!(rollout(&old, &[]), rollout(&new, &[]));
        assert_eq!(rollout(&old, &["b", "a"]), rollout(&old, &[]));
        // In which order and how often keys are named says nothing.
        let scope = |keys: &[&str]| key().scope(&secret, keys);
        assert_eq!(scope(&["a", "b"]), scope(&["b", "a", "b"]));
        assert_eq!(short(scope(&["a"]).as_str()), Some(scope(&["a"]).short()));
        assert_eq!((short("db"), short("0123456789abcdeg")), (None, None));
    }

    /// Secrets and pods carry these from version to version: a token made another way reads every value again, or restarts
    /// every workload.
    #[test]
    fn tokens_are_those_that_earlier_versions_wrote() {
        let secret = ObjectKey::new("shop", "db");
        let both = data(&[("password", "hunter2"), ("username", "shop")]);
        let written = |token: Token| String::from(token);
        for (token, earlier) in [
            (
                key().content(&secret, "Opaque", &both),
                "8e5ea33f9057137cf0e0a1f436a170b7",
            ),
            (
                key().content(&secret, "Opaque", &data(&[])),
                "b4733c3e2442ccd7f2607ffde7e1af91",
            ),
            (
                key().content(&secret, "kubernetes.io/tls", &both),
                "1fec45d124d69955b461354e821fb04b",
            ),
            (
                key().rollout::<&str>(&secret, &both, &[]),
                "8e9a85535b59425774be38c08701083d",
            ),
            (
                key().rollout(&secret, &both, &["password"]),
                "8d290d103298688f32a8fc913e65a013",
            ),
            (
                key().rollout(&secret, &both, &["absent"]),
                "3f2cce877f00835ee91aef30cbdd9175",
            ),
            (
                key().scope::<&str>(&secret, &[]),
                "1110bb5874f09b76bbc14b971e8856be",
            ),
            (
                key().scope(&secret, &["username", "password"]),
                "50c4a31d5420d62c9584951a6d27e65f",
            ),
            (key().user(&secret, "shop"), "f240fc41a3feb7f02804bfdce26f942c"),
            (
                key().inputs(&secret, ["one", "", "two"]),
                "abf30cd87a8a8968c21e893851c6f9b1",
            ),
        ] {
            assert_eq!(written(token), earlier);
        }
    }

    #[test]
    fn remotes_are_called_what_earlier_versions_called_them() {
        for (kind, store, key, version, earlier) in [
            (StoreKind::SecretStore, "aws", "prod/db", None, "e93c8093dab4f540"),
            (
                StoreKind::ClusterSecretStore,
                "aws",
                "prod/db",
                None,
                "6e3ff57465189081",
            ),
            (
                StoreKind::SecretStore,
                "aws",
                "prod/db",
                Some("AWSCURRENT"),
                "e93c8093dab4f540",
            ),
            (
                StoreKind::SecretStore,
                "aws",
                "prod/db",
                Some("AWSPREVIOUS"),
                "2030b79966807104",
            ),
            (
                StoreKind::SecretStore,
                "aws",
                "arn:aws:secretsmanager:eu-central-1:111122223333:secret:prod/db-AbCdEf",
                Some("uuid/0e4e9c8a-5d6f-4d0c-9f53-2f3a5b0c7d11"),
                "272b8d5ea10d205a",
            ),
        ] {
            assert_eq!(remote_hash(kind, store, key, &Selector::parse(version)), earlier);
        }
    }

    #[test]
    fn the_key_prints_nothing() {
        assert_eq!(
            format!("{:?}", TokenKey::new(b"0123456789abcdef0123456789abcdef")),
            "TokenKey"
        );
    }

    #[test]
    fn remotes_are_told_apart_by_store_key_and_stage() {
        let current = Selector::parse(None);
        let hash = remote_hash(StoreKind::SecretStore, "aws", "prod/db", &current);
        assert_eq!(hash.len(), 16);
        for other in [
            remote_hash(StoreKind::ClusterSecretStore, "aws", "prod/db", &current),
            remote_hash(StoreKind::SecretStore, "awsp", "rod/db", &current),
            remote_hash(StoreKind::SecretStore, "aws", "prod/db2", &current),
            remote_hash(
                StoreKind::SecretStore,
                "aws",
                "prod/db",
                &Selector::parse(Some("AWSPREVIOUS")),
            ),
        ] {
            assert_ne!(hash, other);
        }
    }
}
