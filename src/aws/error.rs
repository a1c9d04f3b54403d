//! What went wrong in a call to AWS, in classes that say how to go on and in words that say what to do.

use std::{borrow::Cow, error::Error as StdError, fmt, sync::Arc};

use aws_sdk_secretsmanager::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
};

use super::trust::distrust;
use crate::api::{Selector, arn::is_arn, reason::Reason};

/// What was attempted, on which object, and why it failed. The text is a sentence for a condition: no value, no request
/// id, no time, nothing that differs between two attempts.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// A value was to be read.
    #[error("Cannot read secret {key} ({selector}){}. {cause}. {}.", cause.place, self.advice())]
    Read {
        /// The secret's key as given.
        key: Arc<str>,
        /// The version that was wanted.
        selector: Selector,
        /// Whether it is what failed: by a call for it alone, or in a batch that answered for others.
        alone: bool,
        /// Why.
        cause: Cause,
    },
    /// Values were to be read in a batch, and the call as such failed.
    #[error("Cannot read {count} secrets in one batch{}. {cause}. {}.", cause.place, self.advice())]
    Batch {
        /// How many.
        count: usize,
        /// Why.
        cause: Cause,
    },
    /// A secret was to be described.
    #[error("Cannot describe secret {key}{}. {cause}. {}.", cause.place, self.advice())]
    Describe {
        /// The secret's key as given.
        key: Arc<str>,
        /// Why.
        cause: Cause,
    },
    /// Secrets were to be listed.
    #[error("Cannot list secrets{}. {cause}. {}.", cause.place, self.advice())]
    List {
        /// Why.
        cause: Cause,
    },
    /// An identity was to be proved.
    #[error("Cannot authenticate to AWS as {identity}. {cause}. {}.", self.advice())]
    Prove {
        /// The identity in words.
        identity: Arc<str>,
        /// Why.
        cause: Cause,
    },
}

impl Error {
    /// A version with this stage cannot be read, since no version carries it. As AWS answers a read of it.
    pub fn stage_not_found(key: Arc<str>, selector: Selector) -> Self {
        let cause = Cause {
            class: Class::StageNotFound,
            code: Some("ResourceNotFoundException".into()),
            detail: NO_VERSION.into(),
            place: Place::default(),
        };
        Self::Read {
            key,
            selector,
            alone: true,
            cause,
        }
    }

    /// Why it failed.
    pub fn cause(&self) -> &Cause {
        match self {
            Self::Read { cause, .. }
            | Self::Batch { cause, .. }
            | Self::Describe { cause, .. }
            | Self::List { cause }
            | Self::Prove { cause, .. } => cause,
        }
    }

    /// What to do about it.
    fn advice(&self) -> Cow<'static, str> {
        let advice = match (self, self.class()) {
            (Self::Batch { .. } | Self::List { .. }, Class::AccessDenied) => {
                "Allow the action in the IAM policy of the identity"
            }
            (Self::Read { key, .. } | Self::Describe { key, .. }, Class::AccessDenied) if is_arn(key) => {
                return format!("{DENIED}. {PARTIAL_ARN}").into();
            }
            (_, class) => class.advice(),
        };
        advice.into()
    }

    /// How it failed, which says how to go on.
    pub fn class(&self) -> Class {
        self.cause().class
    }

    /// What a condition calls it.
    pub fn reason(&self) -> Reason {
        match self.class() {
            Class::Throttled => Reason::Throttled,
            Class::Unavailable | Class::Untrusted => Reason::ProviderUnavailable,
            Class::NotFound => Reason::SecretNotFound,
            Class::StageNotFound => Reason::StageNotFound,
            Class::MarkedForDeletion => Reason::MarkedForDeletion,
            Class::AccessDenied => Reason::AccessDenied,
            Class::KeyAccessDenied => Reason::KeyAccessDenied,
            Class::Identity => Reason::IdentityError,
            Class::Invalid => Reason::InvalidSpec,
        }
    }
}

/// How a call failed, and so how to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Too many requests; passes by itself.
    Throttled,
    /// No answer, or one that says that AWS is not well; passes by itself.
    Unavailable,
    /// Whoever answers shows a certificate that is not trusted: a person must act, and may do so where nobody tells us.
    Untrusted,
    /// The secret does not exist.
    NotFound,
    /// The secret exists, but no version with a value carries the stage or id.
    StageNotFound,
    /// The secret is marked for deletion.
    MarkedForDeletion,
    /// IAM or the secret's policy denies it.
    AccessDenied,
    /// The KMS key is denied or disabled.
    KeyAccessDenied,
    /// The identity's credentials cannot be had, or are refused.
    Identity,
    /// AWS calls the request wrong.
    Invalid,
}

impl Class {
    /// Whether the same call later may succeed though nothing changes that this process could see.
    pub fn is_transient(self) -> bool {
        matches!(self, Self::Throttled | Self::Unavailable | Self::Untrusted)
    }

    fn advice(self) -> &'static str {
        match self {
            Self::Throttled => {
                "Keyturn retries by itself. If the error stays, reduce the load on this account's quota"
            }
            Self::Unavailable => {
                "Keyturn retries by itself. If the error stays, check the region, the network and the proxy on the way"
            }
            Self::Untrusted => {
                "Correct the endpoint, the proxy on the way, or the certificate authorities in the file that AWS_CA_BUNDLE \
                 names. Keyturn retries by itself"
            }
            Self::NotFound => "Create the secret, or correct the key, the region or the account of the role",
            Self::StageNotFound => {
                "Correct the version of the entry, or store a value with this staging label"
            }
            Self::MarkedForDeletion => "Restore the secret, or remove the reference to it",
            Self::AccessDenied => DENIED,
            Self::KeyAccessDenied => "Enable the KMS key, and allow kms:Decrypt on it to this identity",
            Self::Identity => "Correct the identity of the store",
            Self::Invalid => "Correct the reference",
        }
    }
}

const DENIED: &str = "Either the key or the region is wrong (AWS also denies access to secrets that do not exist), or the IAM \
                      policy of the identity or the policy of the secret does not allow it";

/// AWS takes the end of a partial ARN for its own suffix where it looks like one, and denies what then does not exist.
const PARTIAL_ARN: &str = "If the ARN lacks the suffix that AWS adds (a hyphen and six characters) and the name itself ends in \
                           a hyphen and six characters, use the whole ARN or the name";

/// Where a call was made; nothing for one that was not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The region.
    pub region: Option<Arc<str>>,
    /// The account of the identity.
    pub account: Option<Arc<str>>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { region, account } = self;
        if let Some(region) = region {
            write!(f, " in region {region}")?;
        }
        match account {
            Some(account) if region.is_some() => write!(f, " of account {account}"),
            _ => Ok(()),
        }
    }
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{}", prefix(.code.as_deref()), capital(.detail))]
pub struct Cause {
    /// The class.
    pub class: Class,
    /// AWS's code, if AWS answered.
    pub code: Option<Arc<str>>,
    /// In words, AWS's own where they help.
    pub detail: Arc<str>,
    /// Where it was made.
    pub place: Place,
}

/// What is said of an endpoint that cannot be connected to, until it is named.
const UNREACHABLE: &str = "AWS cannot be reached";

/// What is said of a stage or version that is not there.
const NO_VERSION: &str = "no version with a value carries this stage or id";

/// The text with a capital letter at its start.
fn capital(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|letter| letter.to_ascii_uppercase());
    first.into_iter().chain(letters).collect()
}

fn prefix(code: Option<&str>) -> String {
    code.map(|code| format!("{code}: ")).unwrap_or_default()
}

impl Cause {
    /// A cause of our own finding.
    pub(super) fn new(class: Class, detail: impl Into<Arc<str>>) -> Self {
        Self {
            class,
            code: None,
            detail: detail.into(),
            place: Place::default(),
        }
    }

    /// Of a call that was made there, to this endpoint.
    pub(super) fn at(mut self, place: Place, endpoint: &str) -> Self {
        if self.code.is_none() && &*self.detail == UNREACHABLE {
            self.detail = format!("the endpoint {endpoint} cannot be reached").into();
        }
        self.place = place;
        self
    }

    /// From the code and text of an answer. `home` are the accounts that the reader of the message knows anyway.
    pub(super) fn answered(code: &str, text: &str, home: &[&str], classify: Classify) -> Self {
        let class = classify(code, text).unwrap_or_else(|| classify_common(code, text));
        let detail: Arc<str> = match class {
            Class::Throttled => "too many requests".into(),
            Class::Unavailable | Class::Untrusted => "AWS has a failure of its own".into(),
            Class::NotFound => "there is no such secret".into(),
            Class::StageNotFound => NO_VERSION.into(),
            Class::MarkedForDeletion => "the secret is marked for deletion".into(),
            Class::AccessDenied | Class::KeyAccessDenied | Class::Identity | Class::Invalid => {
                shown(code, text, home)
            }
        };
        Self {
            class,
            code: Some(presentable_code(code)),
            detail,
            place: Place::default(),
        }
    }

    /// From what the SDK says of a call to a service.
    pub(super) fn of<E>(error: &SdkError<E, HttpResponse>, home: &[&str], classify: Classify) -> Self
    where
        E: ProvideErrorMetadata + StdError + 'static,
    {
        match error {
            SdkError::ServiceError(answer) => match answer.err().code() {
                Some(code) => {
                    let text = answer.err().message().unwrap_or_default();
                    let cause = Self::answered(code, text, home, classify);
                    // An unknown code is our fault only if AWS says so by the status; the status decides nothing else.
                    if cause.class == Class::Invalid && answer.raw().status().is_server_error() {
                        return Self {
                            class: Class::Unavailable,
                            detail: "AWS has a failure of its own".into(),
                            ..cause
                        };
                    }
                    cause
                }
                // No code: something between us and AWS has answered.
                None => Self::new(
                    Class::Unavailable,
                    format!(
                        "an answer with HTTP status {} that is not AWS's",
                        answer.raw().status().as_u16()
                    ),
                ),
            },
            SdkError::TimeoutError(_) => Self::new(Class::Unavailable, "AWS did not answer in time"),
            SdkError::ResponseError(_) => Self::new(Class::Unavailable, "AWS's answer could not be read"),
            SdkError::DispatchFailure(failure) => {
                if let Some(cause) = own(error) {
                    return cause;
                }
                if let Some(detail) = distrust(error) {
                    return Self::new(Class::Untrusted, detail);
                }
                let detail = if failure.is_timeout() {
                    "AWS did not answer in time"
                } else {
                    UNREACHABLE
                };
                Self::new(Class::Unavailable, detail)
            }
            SdkError::ConstructionFailure(_) => {
                own(error).unwrap_or_else(|| Self::new(Class::Invalid, "the request could not be made"))
            }
            _ => Self::new(Class::Unavailable, "the call failed in an unknown way"),
        }
    }

    /// From what the SDK says of a call to STS: what is no trouble of the network is one of the identity.
    pub(super) fn of_sts<E>(error: &SdkError<E, HttpResponse>, home: &[&str]) -> Self
    where
        E: ProvideErrorMetadata + StdError + 'static,
    {
        let cause = Self::of(error, home, |_, _| None);
        if cause.class.is_transient() || cause.code.is_none() {
            return cause;
        }
        let text = match error {
            SdkError::ServiceError(answer) => answer.err().message().unwrap_or_default(),
            _ => "",
        };
        Self {
            class: Class::Identity,
            detail: shown(cause.code.as_deref().unwrap_or_default(), text, home),
            ..cause
        }
    }
}

/// The cause that a credentials provider of ours has put into an error of the SDK.
fn own(error: &(dyn StdError + 'static)) -> Option<Cause> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(cause) = error.downcast_ref::<Cause>() {
            return Some(cause.clone());
        }
        next = error.source();
    }
    None
}

/// The class that a service gives an answer with this code and text; none of codes that all services share.
pub(super) type Classify = fn(code: &str, text: &str) -> Option<Class>;

/// The class of an answer with this code and text. The HTTP status is not asked: AWS denies with 400 and 403.
fn classify_common(code: &str, text: &str) -> Class {
    match code {
        "Throttling"
        | "ThrottlingException"
        | "ThrottledException"
        | "RequestThrottled"
        | "RequestThrottledException"
        | "TooManyRequestsException"
        | "RequestLimitExceeded"
        | "LimitExceededException"
        | "BandwidthLimitExceeded"
        | "ProvisionedThroughputExceededException"
        | "SlowDown" => Class::Throttled,
        "InternalServiceError"
        | "InternalServiceErrorException"
        | "InternalFailure"
        | "InternalServerError"
        | "InternalError"
        | "ServiceUnavailable"
        | "ServiceUnavailableException"
        | "RequestTimeout"
        | "RequestTimeoutException"
        | "PriorRequestNotComplete"
        | "TransactionInProgressException"
        | "IDPCommunicationError" => Class::Unavailable,
        "AccessDeniedException" | "AccessDenied" if is_about_a_key(text) => Class::KeyAccessDenied,
        "AccessDeniedException" | "AccessDenied" => Class::AccessDenied,
        "UnrecognizedClientException"
        | "InvalidSignatureException"
        | "SignatureDoesNotMatch"
        | "ExpiredTokenException"
        | "ExpiredToken"
        | "InvalidClientTokenId"
        | "InvalidAccessKeyId"
        | "InvalidIdentityToken"
        | "InvalidToken"
        | "RequestExpired"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException"
        | "IncompleteSignature"
        | "IncompleteSignatureException"
        | "OptInRequired" => Class::Identity,
        _ => Class::Invalid,
    }
}

/// "Access to KMS is not allowed", "... is not authorized to perform: kms:Decrypt on ...". No name of a secret, role or
/// session can hold a colon or a blank.
fn is_about_a_key(text: &str) -> bool {
    text.contains(" KMS ") || text.contains(" kms:")
}

/// What may be shown of a refusal. Where AWS cannot make sense of a signature it quotes the header or the whole request,
/// and with it what a store's author has named as an access key or session token: any value of the namespace.
fn shown(code: &str, text: &str, home: &[&str]) -> Arc<str> {
    match code {
        "InvalidSignatureException"
        | "SignatureDoesNotMatch"
        | "IncompleteSignature"
        | "IncompleteSignatureException"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException" => {
            "AWS cannot verify the signature that these credentials make".into()
        }
        _ => presentable(text, home).into(),
    }
}

/// Longest text of AWS that is shown.
const TEXT: usize = 400;

/// AWS's text without request ids, encoded messages and accounts that do not concern the reader, on one line, cut.
fn presentable(text: &str, home: &[&str]) -> String {
    let ends = [
        " (Service:",
        "Request ID:",
        "RequestID:",
        "request id:",
        "Encoded authorization failure message:",
        // Of a signature, whatever the code.
        "AWS4-HMAC-SHA256",
        "Credential=",
        "Canonical String",
        "String-to-Sign",
        "x-amz-security-token",
    ];
    let end = ends
        .iter()
        .filter_map(|end| text.find(end))
        .min()
        .unwrap_or(text.len());
    let text = text.get(..end).unwrap_or_default();
    let words = text.split_whitespace().map(|word| at_home(word, home));
    let text = words.collect::<Vec<_>>().join(" ");
    let text = text.trim_end_matches(['.', '(', ' ', ';']);
    if text.is_empty() {
        return "AWS gives no reason".into();
    }
    match text.char_indices().nth(TEXT) {
        Some((at, _)) => format!("{}...", text.get(..at).unwrap_or_default()),
        None => text.into(),
    }
}

/// The word, unless it is an ARN of an account that is not ours: whose policies stand in the way is not ours to tell.
fn at_home<'a>(word: &'a str, home: &[&str]) -> Cow<'a, str> {
    let mut parts = word.split(':');
    let is_arn = parts.next().is_some_and(|start| start.ends_with("arn"));
    match parts.nth(3) {
        Some(account) if is_arn && !account.is_empty() && account != "aws" && !home.contains(&account) => {
            "(an ARN of another account)".into()
        }
        _ => word.into(),
    }
}

/// A code as a word, whatever was sent as one.
fn presentable_code(code: &str) -> Arc<str> {
    let code: String = code
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .take(64)
        .collect();
    code.into()
}

/// The account in an ARN.
pub(super) fn account_of(arn: &str) -> Option<&str> {
    if !is_arn(arn) {
        return None;
    }
    arn.split(':').nth(4).filter(|account| !account.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aws::secrets_manager::classify;

    const DENIED: &str = "User: arn:aws:sts::111122223333:assumed-role/shop/keyturn-kms is not authorized to perform: \
                          secretsmanager:GetSecretValue on resource: prod/kms because no identity-based policy allows \
                          the secretsmanager:GetSecretValue action";

    #[test]
    fn no_text_about_a_signature_quotes_what_was_taken_for_a_key() {
        for (code, text) in [
            (
                "IncompleteSignature",
                "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term, got \
                 'can/ary-7781/20261123/eu-central-1/sts/aws4_request'",
            ),
            (
                "IncompleteSignatureException",
                "'canary-7781/20261123/eu-central-1' not a valid key=value pair (missing equal-sign) in Authorization \
                 header: 'AWS4-HMAC-SHA256 Credential=x canary-7781/20261123'.",
            ),
            (
                "SignatureDoesNotMatch",
                "The request signature we calculated does not match the signature you provided. The Canonical String for \
                 this request should have been 'POST / host:sts x-amz-security-token:canary-7781'",
            ),
            (
                "SomethingNew",
                "Authorization=AWS4-HMAC-SHA256 Credential=canary-7781/20261123",
            ),
        ] {
            let cause = Cause::answered(code, text, &[], classify);
            let shown = shown(code, text, &[]);
            assert!(
                !format!("{cause} {cause:?} {shown}").contains("ary-7781"),
                "{cause} {shown}"
            );
        }
    }

    #[test]
    fn codes_and_texts_make_classes() {
        let cases = [
            ("ThrottlingException", "Rate exceeded", Class::Throttled),
            ("TooManyRequestsException", "", Class::Throttled),
            ("LimitExceededException", "", Class::Throttled),
            (
                "InternalServiceError",
                "An error occurred on the server side.",
                Class::Unavailable,
            ),
            ("ServiceUnavailable", "", Class::Unavailable),
            ("IDPCommunicationError", "", Class::Unavailable),
            (
                "ResourceNotFoundException",
                "Secrets Manager can't find the specified secret.",
                Class::NotFound,
            ),
            (
                "ResourceNotFoundException",
                "Secrets Manager can\u{2019}t find the specified secret value for staging label: AWSPENDING",
                Class::StageNotFound,
            ),
            (
                "ResourceNotFoundException",
                "Secrets Manager can't find the specified secret value for VersionId: 0b5e9c1e",
                Class::StageNotFound,
            ),
            (
                "InvalidRequestException",
                "You can't perform this operation on the secret because it was marked for deletion.",
                Class::MarkedForDeletion,
            ),
            (
                "InvalidRequestException",
                "You tried to perform the operation on a secret that's currently marked deleted.",
                Class::MarkedForDeletion,
            ),
            (
                "InvalidRequestException",
                "You provided a VersionStage that is not associated",
                Class::Invalid,
            ),
            ("InvalidParameterException", "", Class::Invalid),
            ("ValidationException", "", Class::Invalid),
            ("DecryptionFailure", "", Class::KeyAccessDenied),
            (
                "AccessDeniedException",
                "Access to KMS is not allowed",
                Class::KeyAccessDenied,
            ),
            (
                "AccessDeniedException",
                "User: x is not authorized to perform: kms:Decrypt on resource: y",
                Class::KeyAccessDenied,
            ),
            ("AccessDeniedException", DENIED, Class::AccessDenied),
            ("UnrecognizedClientException", "", Class::Identity),
            ("InvalidSignatureException", "", Class::Identity),
            ("ExpiredTokenException", "", Class::Identity),
            ("InvalidClientTokenId", "", Class::Identity),
            ("SomethingNew", "", Class::Invalid),
        ];
        for (code, text, class) in cases {
            assert_eq!(
                Cause::answered(code, text, &[], classify).class,
                class,
                "{code}: {text}"
            );
        }
    }

    #[test]
    fn a_message_says_what_was_tried_why_it_failed_and_what_to_do() {
        let cause = Cause::answered("AccessDeniedException", DENIED, &["111122223333"], classify);
        let error = Error::Read {
            key: "prod/kms".into(),
            selector: Selector::parse(None),
            alone: true,
            cause: cause.at(
                Place {
                    region: Some("eu-central-1".into()),
                    account: Some("111122223333".into()),
                },
                "",
            ),
        };
        assert_eq!(
            error.to_string(),
            format!(
                "Cannot read secret prod/kms (AWSCURRENT) in region eu-central-1 of account 111122223333. \
                 AccessDeniedException: {DENIED}. Either the key or the region is wrong (AWS also denies access to secrets \
                 that do not exist), or the IAM policy of the identity or the policy of the secret does not allow it."
            )
        );
    }

    fn denied(key: &str) -> Error {
        Error::Read {
            key: key.into(),
            selector: Selector::parse(None),
            alone: true,
            cause: Cause::answered("AccessDeniedException", DENIED, &[], classify),
        }
    }

    #[test]
    fn a_denied_arn_is_told_of_the_suffix_that_aws_takes_a_name_for() {
        let partial = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:prod/db-backup";
        assert!(
            denied(partial)
                .to_string()
                .contains("use the whole ARN or the name")
        );
        assert!(!denied("prod/db-backup").to_string().contains("ARN lacks"));
    }

    #[test]
    fn an_endpoint_that_cannot_be_reached_is_named() {
        let cause = Cause::new(Class::Unavailable, UNREACHABLE);
        let place = Place {
            region: Some("eu-centrl-1".into()),
            account: None,
        };
        let cause = cause.at(place, "https://secretsmanager.eu-centrl-1.amazonaws.com");
        assert_eq!(
            Error::List { cause }.to_string(),
            "Cannot list secrets in region eu-centrl-1. The endpoint https://secretsmanager.eu-centrl-1.amazonaws.com cannot \
             be reached. Keyturn retries by itself. If the error stays, check the region, the network and the proxy on the \
             way."
        );
    }

    #[test]
    fn a_list_or_batch_that_is_denied_says_nothing_of_keys() {
        let cause = || Cause::answered("AccessDeniedException", DENIED, &[], classify);
        for error in [
            Error::List { cause: cause() },
            Error::Batch {
                count: 3,
                cause: cause(),
            },
        ] {
            let text = error.to_string();
            assert!(
                !text.contains("the key") && text.contains("Allow the action"),
                "{text}"
            );
        }
    }

    #[test]
    fn two_attempts_say_the_same() {
        for (one, two) in [
            (
                "Denied. (Service: SecretsManager, Status Code: 400, Request ID: 1-2)",
                "Denied. (Service: S, Request ID: 3)",
            ),
            ("Denied (Request ID: 1)", "Denied (Request ID: 2)"),
            (
                "Denied. Encoded authorization failure message: abc",
                "Denied. Encoded authorization failure message: x",
            ),
        ] {
            assert_eq!(presentable(one, &[]), presentable(two, &[]));
            assert_eq!(presentable(one, &[]), "Denied");
        }
    }

    #[test]
    fn accounts_of_others_and_long_texts_are_not_shown() {
        let text = "with an explicit deny in a service control policy: arn:aws:organizations::999988887777:policy/o-1/p-2";
        let shown = presentable(text, &["111122223333"]);
        assert!(
            shown.ends_with("(an ARN of another account)") && !shown.contains("999988887777"),
            "{shown}"
        );
        let long = "ä".repeat(2 * TEXT);
        assert_eq!(presentable(&long, &[]).chars().count(), TEXT + 3);
        assert_eq!(presentable("", &[]), "AWS gives no reason");
        assert_eq!(&*presentable_code("Bad\nCode: x"), "BadCodex");
    }

    #[test]
    fn accounts_are_found_in_arns_only() {
        assert_eq!(
            account_of("arn:aws:secretsmanager:eu-central-1:111122223333:secret:a-AbCdEf"),
            Some("111122223333")
        );
        assert_eq!(account_of("arn:aws-cn:iam::1:role/x"), Some("1"));
        assert_eq!(account_of("prod/db"), None);
        assert_eq!(account_of("arn:aws:s3:::bucket"), None);
    }
}
