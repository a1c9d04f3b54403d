//! Names and ARNs of secrets: `arn:PARTITION:secretsmanager:REGION:ACCOUNT:secret:NAME-XXXXXX`.

/// An ARN's parts that tell where a secret lies and how it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Arn<'a> {
    pub(super) region: &'a str,
    pub(super) account: &'a str,
    /// The name, with AWS's six characters behind it unless the ARN is a partial one. Which, only AWS knows.
    pub(super) resource: &'a str,
}

impl<'a> Arn<'a> {
    pub(super) fn parse(key: &'a str) -> Option<Self> {
        let mut parts = key.strip_prefix("arn:")?.splitn(6, ':').skip(2);
        let (region, account, kind, resource) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        (kind == "secret").then_some(Self {
            region,
            account,
            resource,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arn_shows_where_a_secret_lies() {
        let arn = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:prod/db-AbCdEf";
        let expected = Arn {
            region: "eu-central-1",
            account: "111122223333",
            resource: "prod/db-AbCdEf",
        };
        assert_eq!(Arn::parse(arn), Some(expected));
        for other in [
            "prod/db",
            "arn:aws:s3:::bucket",
            "arn:",
            "arn:aws:secretsmanager:r:a:policy:x",
        ] {
            assert_eq!(Arn::parse(other), None, "{other}");
        }
    }
}
