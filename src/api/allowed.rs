//! Which keys a store lets a namespace read: `allowedKeys`.
//!
//! Checked twice: on the key before AWS is asked, and on the name in AWS's answer before a value reaches anyone, since a
//! partial ARN may mean another secret than it seems to.

use super::{
    arn::{self, SecretArn},
    glob,
};

/// Where a store reads: what keys without region and account refer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Home<'a> {
    /// The store's region.
    pub region: &'a str,
    /// The account of the store's identity, once AWS told it.
    pub account: Option<&'a str>,
}

/// The `allowedKeys` of a store for one namespace.
#[derive(Clone, Copy, Debug)]
pub struct AllowedKeys<'a> {
    patterns: Option<&'a [String]>,
    namespace: &'a str,
}

/// A pattern that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "spec.allowedKeys[{0}] has braces around text other than `namespace`, or more than 16 stars: correct the pattern"
)]
pub struct BadPattern(pub usize);

impl<'a> AllowedKeys<'a> {
    /// Checks the patterns of a store; none at all allow everything, an empty list nothing.
    pub fn new(patterns: Option<&'a [String]>, namespace: &'a str) -> Result<Self, BadPattern> {
        let bad = patterns
            .into_iter()
            .flatten()
            .position(|pattern| !glob::is_valid(pattern));
        match bad {
            Some(index) => Err(BadPattern(index)),
            None => Ok(Self { patterns, namespace }),
        }
    }

    /// Whether every key is allowed.
    pub fn is_unlimited(&self) -> bool {
        self.patterns.is_none()
    }

    /// Whether AWS may be asked for `key`: the whole key with the store's prefix, a name or an ARN.
    pub fn allows(&self, key: &str, home: Home<'_>) -> bool {
        let Some(patterns) = self.patterns else {
            return true;
        };
        if !arn::is_arn(key) {
            return patterns
                .iter()
                .any(|pattern| !arn::is_arn(pattern) && self.matches(pattern, key));
        }
        let Some(parsed) = SecretArn::parse(key) else {
            return false;
        };
        let at_home = parsed.region == home.region && Some(parsed.account) == home.account;
        patterns.iter().any(|pattern| {
            if arn::is_arn(pattern) {
                self.matches_arn(pattern, key)
            } else {
                at_home && parsed.names().any(|name| self.matches(pattern, name))
            }
        })
    }

    /// Whether the secret that AWS answered with, by its name and whole ARN, may be passed on.
    pub fn allows_answer(&self, name: &str, arn: &str, home: Home<'_>) -> bool {
        let Some(patterns) = self.patterns else {
            return true;
        };
        let Some(parsed) = SecretArn::parse(arn) else {
            return false;
        };
        // While the account is unknown only names can have been asked for, and names mean the own account.
        let at_home =
            parsed.region == home.region && home.account.is_none_or(|account| account == parsed.account);
        patterns.iter().any(|pattern| {
            if arn::is_arn(pattern) {
                self.matches_arn(pattern, arn)
            } else {
                at_home && self.matches(pattern, name)
            }
        })
    }

    fn matches(&self, pattern: &str, key: &str) -> bool {
        glob::matches(pattern, self.namespace, key)
    }

    /// A pattern of whole ARNs speaks of any account and region that it names.
    fn matches_arn(&self, pattern: &str, arn: &str) -> bool {
        self.matches(pattern, arn) || arn::without_suffix(arn).is_some_and(|arn| self.matches(pattern, arn))
    }
}

#[cfg(test)]
mod tests {
    use super::{glob::MOST_STARS, *};

    const HOME: Home<'static> = Home {
        region: "eu-central-1",
        account: Some("111122223333"),
    };

    fn allows(pattern: &str, key: &str) -> bool {
        AllowedKeys::new(Some(&[pattern.to_owned()]), "shop")
            .unwrap()
            .allows(key, HOME)
    }

    fn arn(resource: &str) -> String {
        format!("arn:aws:secretsmanager:eu-central-1:111122223333:secret:{resource}")
    }

    #[test]
    fn a_star_stops_at_a_slash_and_two_do_not() {
        for (pattern, key, allowed) in [
            ("prod/db", "prod/db", true),
            ("prod/db", "prod/db2", false),
            ("prod/db", "xprod/db", false),
            ("prod/db", "PROD/db", false),
            ("prod/*", "prod/db", true),
            ("prod/*", "prod/", true),
            ("prod/*", "prod/a/b", false),
            ("prod/**", "prod/a/b", true),
            ("prod-**", "prod-a/b", true),
            ("**", "a/b", true),
            ("*", "a/b", false),
            ("a/**/z", "a/z", false),
            ("a/**/z", "a/b/c/z", true),
            ("k8s/{namespace}/**", "k8s/shop/db", true),
            ("k8s/{namespace}/**", "k8s/shop2/db", false),
            ("k8s/{namespace}/**", "k8s/other/shop/db", false),
            ("{namespace}-*", "shop-db", true),
        ] {
            assert_eq!(allows(pattern, key), allowed, "{pattern} {key}");
        }
    }

    #[test]
    fn hostile_keys_do_not_pass() {
        for (pattern, key) in [
            // Names are no paths: nothing is resolved.
            ("k8s/shop/*", "k8s/shop/../other/db"),
            ("k8s/shop/*", "k8s/shop//db"),
            // Nothing but stars and the namespace has a meaning.
            ("a.c", "abc"),
            ("a?c", "abc"),
            ("[ab]", "a"),
            ("a|b", "a"),
            ("a\\*", "a*"),
            // What follows a line end is part of the key.
            ("prod/db", "prod/db\n"),
            ("prod/*", "prod/a\n/b"),
            // A name pattern is for the store's own account and region.
            (
                "**",
                "arn:aws:secretsmanager:eu-central-1:999900001111:secret:db-AbC123",
            ),
            (
                "**",
                "arn:aws:secretsmanager:us-east-1:111122223333:secret:db-AbC123",
            ),
            ("**", "arn:aws:ssm:eu-central-1:111122223333:parameter/db"),
            ("**", "arn:whatever"),
            (
                "**",
                "arn:aws:secretsmanager:eu-central-1:111122223333:secret:a:b",
            ),
            (
                "k8s/shop/**",
                "arn:aws:secretsmanager:eu-central-1:111122223333:secret:other/db-AbC123",
            ),
            ("k8s/shop/**", "k8s/sho"),
            // An ARN pattern is not for names.
            ("arn:**", "db"),
            (
                "arn:aws:secretsmanager:eu-central-1:999900001111:secret:db",
                &arn("db"),
            ),
        ] {
            assert!(!allows(pattern, key), "{pattern} {key:?}");
        }
    }

    #[test]
    fn arns_count_by_name_with_and_without_suffix() {
        for (pattern, key) in [
            ("prod/db", arn("prod/db-AbC123")),
            ("prod/db", arn("prod/db")),
            ("prod/db-secret", arn("prod/db-secret")),
            ("prod/*", arn("prod/db-AbC123")),
            (
                "arn:aws:secretsmanager:eu-central-1:111122223333:secret:prod/db",
                arn("prod/db-AbC123"),
            ),
            ("arn:aws:secretsmanager:*:999900001111:secret:**", {
                "arn:aws:secretsmanager:us-east-1:999900001111:secret:a/b-AbC123".to_owned()
            }),
        ] {
            assert!(allows(pattern, &key), "{pattern} {key}");
        }
    }

    #[test]
    fn the_answer_decides_what_a_partial_arn_meant() {
        let patterns = ["prod/db".to_owned()];
        let keys = AllowedKeys::new(Some(&patterns), "shop").unwrap();
        // Asked for by an ARN without suffix that looks like one of prod/db with suffix.
        assert!(keys.allows(&arn("prod/db-secret"), HOME));
        assert!(!keys.allows_answer("prod/db-secret", &arn("prod/db-secret-AbC123"), HOME));
        assert!(keys.allows_answer("prod/db", &arn("prod/db-secret"), HOME));
        let abroad = "arn:aws:secretsmanager:eu-central-1:999900001111:secret:prod/db-AbC123";
        assert!(!keys.allows_answer("prod/db", abroad, HOME));
        assert!(!keys.allows_answer("prod/db", "nonsense", HOME));
    }

    #[test]
    fn an_unknown_account_lets_names_pass_and_no_arns() {
        let home = Home {
            account: None,
            ..HOME
        };
        let patterns = ["**".to_owned()];
        let keys = AllowedKeys::new(Some(&patterns), "shop").unwrap();
        assert!(keys.allows("db", home));
        assert!(keys.allows_answer("db", &arn("db-AbC123"), home));
        assert!(!keys.allows(&arn("db"), home));
    }

    #[test]
    fn letters_beyond_ascii_are_letters() {
        assert!(allows("pr\u{f6}d/*", "pr\u{f6}d/d\u{e4}"));
        assert!(!allows("pr\u{f6}d/*", "pr\u{e4}d/db"));
        assert!(!allows("*", "\u{f6}/b"));
    }

    #[test]
    fn a_pattern_has_few_stars() {
        let most = "*a".repeat(MOST_STARS);
        assert!(allows(&most, &"xa".repeat(MOST_STARS)));
        for pattern in ["*a".repeat(MOST_STARS + 1), "**".repeat(MOST_STARS + 1)] {
            let patterns = [pattern];
            let refused = AllowedKeys::new(Some(&patterns), "shop");
            assert_eq!(refused.unwrap_err(), BadPattern(0));
        }
    }

    #[test]
    fn no_list_allows_everything_and_an_empty_one_nothing() {
        let keys = |patterns| AllowedKeys::new(patterns, "shop").unwrap();
        assert!(keys(None).allows("anything", HOME));
        assert!(keys(None).allows_answer("anything", &arn("anything-AbC123"), HOME));
        assert!(!keys(Some(&[])).allows("anything", HOME));
    }

    #[test]
    fn a_namespace_is_text_and_unknown_braces_are_refused() {
        let patterns = ["{namespace}/x".to_owned()];
        let keys = AllowedKeys::new(Some(&patterns), "a.b*").unwrap();
        assert!(keys.allows("a.b*/x", HOME));
        assert!(!keys.allows("aXbY/x", HOME));
        for pattern in ["{name}", "{Namespace}/x", "{", "a}", "{a,b}"] {
            let patterns = ["ok".to_owned(), pattern.to_owned()];
            assert_eq!(
                AllowedKeys::new(Some(&patterns), "shop").unwrap_err(),
                BadPattern(1),
                "{pattern}"
            );
        }
    }
}
