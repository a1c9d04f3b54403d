//! ARNs of secrets in AWS Secrets Manager.
//!
//! `arn:<partition>:secretsmanager:<region>:<account>:secret:<name>-<six characters>`. The suffix is AWS's, to tell a secret
//! from an earlier one of the same name. AWS also takes the ARN without it, and then a name that itself ends in a hyphen
//! and six characters cannot be told from a name with a suffix: only the answer says which one was meant.

/// An ARN of a secret, complete or without its suffix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SecretArn<'a> {
    /// `aws`, `aws-cn`, `aws-us-gov`.
    pub partition: &'a str,
    /// The region.
    pub region: &'a str,
    /// The twelve digits of the account.
    pub account: &'a str,
    /// The name as it stands in the ARN: with the suffix, if there is one.
    pub resource: &'a str,
}

/// Whether `key` is meant as an ARN. No secret's name contains a colon.
pub fn is_arn(key: &str) -> bool {
    key.starts_with("arn:")
}

impl<'a> SecretArn<'a> {
    /// Reads an ARN; `None` if it is not one of a secret.
    pub fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.splitn(7, ':');
        let mut next = || parts.next().filter(|part| !part.is_empty());
        let ("arn", partition, "secretsmanager", region, account, "secret", resource) =
            (next()?, next()?, next()?, next()?, next()?, next()?, next()?)
        else {
            return None;
        };
        let account_ok = account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit());
        (account_ok && !resource.contains(':')).then_some(Self {
            partition,
            region,
            account,
            resource,
        })
    }

    /// The name without what looks like a suffix; `None` if nothing does.
    pub fn without_suffix(&self) -> Option<&'a str> {
        without_suffix(self.resource)
    }

    /// The names that AWS may take the ARN for: as it stands, and without what looks like a suffix.
    pub fn names(&self) -> impl Iterator<Item = &'a str> {
        std::iter::once(self.resource).chain(self.without_suffix())
    }
}

/// `text` without a hyphen and six letters or digits at its end; `None` if it has none, or nothing before.
pub fn without_suffix(text: &str) -> Option<&str> {
    let (name, suffix) = text.rsplit_once('-')?;
    let looks_so = suffix.len() == 6 && suffix.bytes().all(|byte| byte.is_ascii_alphanumeric());
    (looks_so && !name.is_empty()).then_some(name)
}

/// The account of an IAM role's ARN.
pub fn account_of_role(role: &str) -> Option<&str> {
    let mut parts = role.splitn(6, ':');
    let ("arn", _, "iam", "", account, resource) = (
        parts.next()?,
        parts.next()?,
        parts.next()?,
        parts.next()?,
        parts.next()?,
        parts.next()?,
    ) else {
        return None;
    };
    resource.starts_with("role/").then_some(account)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_with_and_without_what_looks_like_a_suffix() {
        for (resource, names) in [
            ("prod/db-AbC123", vec!["prod/db-AbC123", "prod/db"]),
            ("prod/db", vec!["prod/db"]),
            // The trap: the name ends in a hyphen and six characters itself.
            ("prod/db-secret", vec!["prod/db-secret", "prod/db"]),
            (
                "prod/db-secret-AbC123",
                vec!["prod/db-secret-AbC123", "prod/db-secret"],
            ),
            ("db-12345", vec!["db-12345"]),
            ("db-1234567", vec!["db-1234567"]),
            ("db-12_456", vec!["db-12_456"]),
            ("-AbC123", vec!["-AbC123"]),
        ] {
            let text = format!("arn:aws:secretsmanager:eu-central-1:111122223333:secret:{resource}");
            let arn = SecretArn::parse(&text).unwrap();
            assert_eq!(
                (arn.partition, arn.region, arn.account),
                ("aws", "eu-central-1", "111122223333")
            );
            assert_eq!(arn.names().collect::<Vec<_>>(), names, "{resource}");
        }
    }

    #[test]
    fn what_is_no_secrets_arn_is_none() {
        for text in [
            "",
            "arn:",
            "prod/db",
            "arn:aws:secretsmanager:eu-central-1:111122223333:secret:",
            "arn:aws:secretsmanager:eu-central-1:111122223333:secret",
            "arn:aws:secretsmanager:eu-central-1:111122223333:other:db",
            "arn:aws:ssm:eu-central-1:111122223333:secret:db",
            "arn:aws:secretsmanager::111122223333:secret:db",
            "arn:aws:secretsmanager:eu-central-1::secret:db",
            "arn:aws:secretsmanager:eu-central-1:11112222333:secret:db",
            "arn:aws:secretsmanager:eu-central-1:11112222333x:secret:db",
            "arn:aws:secretsmanager:eu-central-1:111122223333:secret:db:extra",
            "ARN:aws:secretsmanager:eu-central-1:111122223333:secret:db",
        ] {
            assert_eq!(SecretArn::parse(text), None, "{text}");
        }
    }

    #[test]
    fn roles_tell_their_account() {
        assert_eq!(
            account_of_role("arn:aws:iam::111122223333:role/path/read"),
            Some("111122223333")
        );
        for text in [
            "",
            "role/read",
            "arn:aws:iam::111122223333:user/x",
            "arn:aws:sts::111122223333:role/x",
        ] {
            assert_eq!(account_of_role(text), None, "{text}");
        }
    }

    #[test]
    fn only_six_letters_or_digits_are_a_suffix() {
        assert_eq!(without_suffix("prod/db-AbCdE1"), Some("prod/db"));
        for name in ["prod/db", "prod-database", "-AbCdEf", "a-12345_"] {
            assert_eq!(without_suffix(name), None, "{name}");
        }
    }
}
