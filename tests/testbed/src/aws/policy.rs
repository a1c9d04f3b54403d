//! Evaluates IAM policies: the subset of the language that Keyturn's users write.
//!
//! Strict: a policy with an element this file does not know is refused when it is set, never half understood.

use std::{borrow::Cow, collections::BTreeMap};

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::iam::Principal;

/// A parsed policy: identity policy, trust policy or resource policy.
#[derive(Debug, Clone, Default)]
pub(super) struct Policy {
    statements: Vec<Statement>,
}

#[derive(Debug, Clone)]
struct Statement {
    allow: bool,
    actions: Vec<String>,
    /// Empty in trust policies: the role itself is the resource.
    resources: Vec<String>,
    principals: Vec<PrincipalPattern>,
    conditions: Vec<Condition>,
}

#[derive(Debug, Clone)]
enum PrincipalPattern {
    Anyone,
    Aws(String),
    Federated(String),
    /// An AWS service: legal, and names nobody here.
    Service,
}

#[derive(Debug, Clone)]
struct Condition {
    operator: Operator,
    /// `…IfExists`: an absent key fulfils the condition.
    if_exists: bool,
    key: String,
    values: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Equals,
    NotEquals,
    EqualsIgnoreCase,
    Like,
    NotLike,
    Null,
}

/// What a policy says about one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    Allow,
    ImplicitDeny,
    ExplicitDeny,
}

/// How a statement names the one who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Naming {
    /// By its own ARN: enough inside one account.
    Direct,
    /// By its account: an identity policy must allow it too.
    Account,
}

/// The keys conditions and policy variables may ask for.
#[derive(Default)]
pub(super) struct Context<'a> {
    pub(super) principal: Option<&'a Principal>,
    pub(super) resource_tags: Option<&'a BTreeMap<String, String>>,
    pub(super) request_tags: Option<&'a BTreeMap<String, String>>,
    pub(super) extra: Vec<(String, String)>,
}

impl Context<'_> {
    fn get(&self, key: &str) -> Option<Cow<'_, str>> {
        let (prefix, name) = key.split_once('/').unwrap_or((key, ""));
        let tag = |tags: Option<&'_ BTreeMap<String, String>>| {
            tags.and_then(|t| t.get(name)).cloned().map(Cow::Owned)
        };
        match prefix.to_ascii_lowercase().as_str() {
            "aws:principaltag" => tag(self.principal.map(|p| &p.tags)),
            "aws:resourcetag" | "secretsmanager:resourcetag" => tag(self.resource_tags),
            "aws:requesttag" => tag(self.request_tags),
            "aws:principalarn" => self.principal.map(|p| Cow::Borrowed(p.owner_arn.as_ref())),
            "aws:principalaccount" => self.principal.map(|p| Cow::Borrowed(p.account.as_ref())),
            _ => self
                .extra
                .iter()
                .find(|(known, _)| known.eq_ignore_ascii_case(key))
                .map(|(_, value)| Cow::Borrowed(value.as_str())),
        }
    }

    /// Puts values in place of policy variables such as `${aws:PrincipalTag/team}`. `None`: a variable has no value, so
    /// the element that holds it matches nothing.
    fn substitute<'t>(&self, text: &'t str) -> Option<Cow<'t, str>> {
        if !text.contains("${") {
            return Some(Cow::Borrowed(text));
        }
        let (mut out, mut rest) = (String::new(), text);
        while let Some((before, after)) = rest.split_once("${") {
            let (key, tail) = after.split_once('}')?;
            out.push_str(before);
            match key {
                "*" | "?" | "$" => out.push_str(key),
                _ => out.push_str(&self.get(key)?),
            }
            rest = tail;
        }
        out.push_str(rest);
        Some(Cow::Owned(out))
    }
}

impl Policy {
    /// Parses an identity policy or a session policy.
    pub(super) fn identity(json: &str) -> anyhow::Result<Self> {
        let policy = Self::parse(json)?;
        for statement in &policy.statements {
            if statement.resources.is_empty() || !statement.principals.is_empty() {
                bail!("a statement of an identity policy needs Resource and takes no Principal");
            }
        }
        Ok(policy)
    }

    /// Parses a trust policy or a resource policy.
    pub(super) fn with_principals(json: &str) -> anyhow::Result<Self> {
        let policy = Self::parse(json)?;
        if policy.statements.iter().any(|s| s.principals.is_empty()) {
            bail!("a statement of a trust or resource policy needs a Principal");
        }
        Ok(policy)
    }

    fn parse(json: &str) -> anyhow::Result<Self> {
        let document: Value = serde_json::from_str(json).context("policy is not JSON")?;
        for key in document.as_object().context("policy is not an object")?.keys() {
            if !["Version", "Id", "Statement"].contains(&key.as_str()) {
                bail!("policy element {key} is not emulated");
            }
        }
        let statements = match document.get("Statement") {
            Some(Value::Array(list)) => list.iter().map(Statement::parse).collect::<anyhow::Result<_>>()?,
            Some(one @ Value::Object(_)) => vec![Statement::parse(one)?],
            _ => bail!("policy has no Statement"),
        };
        Ok(Self { statements })
    }

    /// What an identity policy says to `action` on `resource`.
    pub(super) fn decide(&self, action: &str, resource: &str, context: &Context<'_>) -> Decision {
        self.fold(|s| s.matches(action, Some(resource), context).then_some(()))
            .map_or_else(
                |denied| denied,
                |found| found.map_or(Decision::ImplicitDeny, |()| Decision::Allow),
            )
    }

    /// What a trust or resource policy says to `action` by `principal`, and how it names it.
    pub(super) fn decide_for(
        &self,
        action: &str,
        principal: &Principal,
        context: &Context<'_>,
    ) -> (Decision, Option<Naming>) {
        let found = self.fold(|s| {
            s.matches(action, None, context)
                .then(|| s.names(principal))
                .flatten()
        });
        match found {
            Err(denied) => (denied, None),
            Ok(None) => (Decision::ImplicitDeny, None),
            Ok(naming) => (Decision::Allow, naming),
        }
    }

    /// Whether a trust policy lets the federated provider `arn` assume the role.
    pub(super) fn trusts_provider(&self, action: &str, arn: &str, context: &Context<'_>) -> bool {
        let names = |s: &Statement| {
            s.principals.iter().any(|p| match p {
                PrincipalPattern::Anyone => !s.allow,
                PrincipalPattern::Federated(pattern) => pattern == arn,
                PrincipalPattern::Aws(_) | PrincipalPattern::Service => false,
            })
        };
        matches!(
            self.fold(|s| (s.matches(action, None, context) && names(s)).then_some(())),
            Ok(Some(()))
        )
    }

    /// The first answer of an allowing statement, preferring none over any deny.
    fn fold<T>(&self, matches: impl Fn(&Statement) -> Option<T>) -> Result<Option<T>, Decision> {
        let mut allowed = None;
        for statement in &self.statements {
            if let Some(answer) = matches(statement) {
                if !statement.allow {
                    return Err(Decision::ExplicitDeny);
                }
                allowed = allowed.or(Some(answer));
            }
        }
        Ok(allowed)
    }
}

impl Statement {
    fn parse(value: &Value) -> anyhow::Result<Self> {
        let object = value.as_object().context("a statement is not an object")?;
        let mut statement = Self {
            allow: true,
            actions: Vec::new(),
            resources: Vec::new(),
            principals: Vec::new(),
            conditions: Vec::new(),
        };
        for (key, value) in object {
            match key.as_str() {
                "Sid" => {}
                "Effect" => {
                    statement.allow = match value.as_str() {
                        Some("Allow") => true,
                        Some("Deny") => false,
                        _ => bail!("Effect is neither Allow nor Deny"),
                    }
                }
                "Action" => {
                    statement.actions = strings(value)?.iter().map(|a| a.to_ascii_lowercase()).collect();
                }
                "Resource" => statement.resources = strings(value)?,
                "Principal" => statement.principals = PrincipalPattern::parse(value)?,
                "Condition" => statement.conditions = Condition::parse(value)?,
                other => bail!("statement element {other} is not emulated"),
            }
        }
        if !object.contains_key("Effect") || statement.actions.is_empty() {
            bail!("a statement needs Effect and Action");
        }
        Ok(statement)
    }

    fn matches(&self, action: &str, resource: Option<&str>, context: &Context<'_>) -> bool {
        let action = action.to_ascii_lowercase();
        self.actions.iter().any(|pattern| like(pattern, &action))
            && resource.is_none_or(|resource| {
                self.resources.iter().any(|pattern| {
                    context
                        .substitute(pattern)
                        .is_some_and(|pattern| like(&pattern, resource))
                })
            })
            && self.conditions.iter().all(|condition| condition.holds(context))
    }

    fn names(&self, principal: &Principal) -> Option<Naming> {
        let direct = |pattern: &str| pattern == &*principal.arn || pattern == &*principal.owner_arn;
        let mut naming = None;
        for pattern in &self.principals {
            match pattern {
                PrincipalPattern::Anyone => return Some(Naming::Direct),
                PrincipalPattern::Aws(pattern) if direct(pattern) => return Some(Naming::Direct),
                PrincipalPattern::Aws(pattern)
                    if *pattern == *principal.account
                        || *pattern == format!("arn:aws:iam::{}:root", principal.account) =>
                {
                    naming = Some(Naming::Account);
                }
                PrincipalPattern::Aws(_) | PrincipalPattern::Federated(_) | PrincipalPattern::Service => {}
            }
        }
        naming
    }
}

impl PrincipalPattern {
    fn parse(value: &Value) -> anyhow::Result<Vec<Self>> {
        if value == "*" {
            return Ok(vec![Self::Anyone]);
        }
        let mut patterns = Vec::new();
        for (kind, value) in value
            .as_object()
            .context("Principal is neither \"*\" nor an object")?
        {
            for text in strings(value)? {
                patterns.push(match (kind.as_str(), text.as_str()) {
                    ("AWS", "*") => Self::Anyone,
                    ("AWS", _) => Self::Aws(text),
                    ("Federated", _) => Self::Federated(text),
                    ("Service", _) => Self::Service,
                    (other, _) => bail!("principal type {other} is not emulated"),
                });
            }
        }
        Ok(patterns)
    }
}

impl Condition {
    fn parse(value: &Value) -> anyhow::Result<Vec<Self>> {
        let mut conditions = Vec::new();
        for (name, keys) in value.as_object().context("Condition is not an object")? {
            let plain = name.strip_prefix("ForAnyValue:").unwrap_or(name);
            let (plain, if_exists) = plain
                .strip_suffix("IfExists")
                .map_or((plain, false), |p| (p, true));
            let operator = match plain {
                "StringEquals" | "ArnEquals" => Operator::Equals,
                "StringNotEquals" => Operator::NotEquals,
                "StringEqualsIgnoreCase" => Operator::EqualsIgnoreCase,
                "StringLike" | "ArnLike" => Operator::Like,
                "StringNotLike" => Operator::NotLike,
                "Null" => Operator::Null,
                other => bail!("condition operator {other} is not emulated"),
            };
            for (key, value) in keys.as_object().context("a condition is not an object")? {
                conditions.push(Self {
                    operator,
                    if_exists,
                    key: key.clone(),
                    values: strings(value)?,
                });
            }
        }
        Ok(conditions)
    }

    fn holds(&self, context: &Context<'_>) -> bool {
        let actual = context.get(&self.key);
        if self.operator == Operator::Null {
            return self.values.iter().any(|v| (v == "true") == actual.is_none());
        }
        let Some(actual) = actual else {
            return self.if_exists || matches!(self.operator, Operator::NotEquals | Operator::NotLike);
        };
        let mut values = self.values.iter().filter_map(|v| context.substitute(v));
        match self.operator {
            Operator::Equals => values.any(|v| v == actual),
            Operator::NotEquals => values.all(|v| v != actual),
            Operator::EqualsIgnoreCase => values.any(|v| v.eq_ignore_ascii_case(&actual)),
            Operator::Like => values.any(|v| like(&v, &actual)),
            Operator::NotLike => !values.any(|v| like(&v, &actual)),
            Operator::Null => false,
        }
    }
}

fn strings(value: &Value) -> anyhow::Result<Vec<String>> {
    let one = |value: &Value| match value {
        Value::String(text) => Ok(text.clone()),
        Value::Bool(truth) => Ok(truth.to_string()),
        _ => bail!("expected a string in the policy"),
    };
    match value {
        Value::Array(list) => list.iter().map(one).collect(),
        other => Ok(vec![one(other)?]),
    }
}

/// Matches IAM's wildcards: `*` any run of characters, `?` exactly one.
pub(super) fn like(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // Where to resume after the last `*`: that star's place, and the text it has eaten so far.
    let mut star = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == b'?' || text.get(t) == Some(c) => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, eaten)) => {
                    star = Some((at, eaten + 1));
                    p = at + 1;
                    t = eaten + 1;
                }
                None => return false,
            },
        }
    }
    pattern.get(p..).unwrap_or_default().iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_match_as_in_iam() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("secretsmanager:get*", "secretsmanager:getsecretvalue", true),
            ("a:prod/db-??????", "a:prod/db-AbCdEf", true),
            ("a:prod/db-??????", "a:prod/db-AbCdE", false),
            ("a:prod/db-??????", "a:prod/db-other-AbCdEf", false),
            ("a:prod/db*", "a:prod/db-other-AbCdEf", true),
            ("*b*c", "abxbc", true),
            ("*b*c", "abxb", false),
            ("", "a", false),
        ] {
            assert_eq!(like(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn an_element_that_is_not_known_is_refused() {
        for statement in [
            r#"{"Effect":"Allow","NotAction":"a:b","Resource":"*"}"#,
            r#"{"Effect":"Allow","Action":"a:b","Resource":"*","Condition":{"IpAddress":{"aws:SourceIp":"::1"}}}"#,
            r#"{"Effect":"Maybe","Action":"a:b","Resource":"*"}"#,
            r#"{"Action":"a:b","Resource":"*"}"#,
            r#"{"Effect":"Allow","Action":"a:b"}"#,
        ] {
            assert!(
                Policy::identity(&format!(r#"{{"Statement":[{statement}]}}"#)).is_err(),
                "{statement}"
            );
        }
    }

    #[test]
    fn conditions_see_tags_variables_and_absence() {
        let tags = BTreeMap::from([("team".to_owned(), "a".to_owned())]);
        let principal = Principal {
            tags: tags.clone(),
            ..Principal::default()
        };
        let context = Context {
            principal: Some(&principal),
            resource_tags: Some(&tags),
            ..Context::default()
        };
        for (condition, expected) in [
            (
                r#"{"StringEquals":{"secretsmanager:ResourceTag/team":"a"}}"#,
                true,
            ),
            (
                r#"{"StringEquals":{"secretsmanager:ResourceTag/team":"A"}}"#,
                false,
            ),
            (r#"{"StringEqualsIgnoreCase":{"aws:ResourceTag/team":"A"}}"#, true),
            (
                r#"{"StringEquals":{"aws:ResourceTag/team":"${aws:PrincipalTag/team}"}}"#,
                true,
            ),
            (
                r#"{"StringEquals":{"aws:ResourceTag/team":"${aws:PrincipalTag/none}"}}"#,
                false,
            ),
            (r#"{"StringEquals":{"aws:ResourceTag/none":"a"}}"#, false),
            (r#"{"StringEqualsIfExists":{"aws:ResourceTag/none":"a"}}"#, true),
            (r#"{"StringNotEquals":{"aws:ResourceTag/team":["a","b"]}}"#, false),
            (r#"{"StringNotEquals":{"aws:ResourceTag/none":"a"}}"#, true),
            (r#"{"StringLike":{"aws:PrincipalTag/team":["x","?"]}}"#, true),
            (r#"{"StringNotLike":{"aws:PrincipalTag/team":"*"}}"#, false),
            (r#"{"Null":{"aws:PrincipalTag/team":"true"}}"#, false),
            (r#"{"Null":{"aws:PrincipalTag/none":"true"}}"#, true),
        ] {
            let json = format!(
                r#"{{"Statement":{{"Effect":"Allow","Action":"a:*","Resource":"*","Condition":{condition}}}}}"#
            );
            let decision = Policy::identity(&json).unwrap().decide("a:Get", "r", &context);
            assert_eq!(decision == Decision::Allow, expected, "{condition}");
        }
    }

    #[test]
    fn a_deny_beats_any_allow() {
        let policy = Policy::identity(
            r#"{"Statement":[
                {"Effect":"Allow","Action":"secretsmanager:*","Resource":"*"},
                {"Effect":"Deny","Action":"secretsmanager:GetSecretValue","Resource":"arn:x/*"}]}"#,
        )
        .unwrap();
        let decide = |action, resource| policy.decide(action, resource, &Context::default());
        assert_eq!(decide("secretsmanager:GetSecretValue", "arn:y"), Decision::Allow);
        assert_eq!(
            decide("secretsmanager:getsecretvalue", "arn:x/1"),
            Decision::ExplicitDeny
        );
        assert_eq!(decide("sts:AssumeRole", "arn:y"), Decision::ImplicitDeny);
    }
}
