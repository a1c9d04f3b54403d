//! STS (awsQuery): sessions of roles, for a web identity token or for another principal.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;

use super::{
    State,
    error::ApiError,
    iam::{Identity, Key, Principal, SessionRequest},
    jwt,
    policy::{Context, Decision, Naming, Policy},
    wire::{escape, form},
};

const WEB_IDENTITY: &str = "sts:AssumeRoleWithWebIdentity";
const ASSUME: &str = "sts:AssumeRole";
const TAG: &str = "sts:TagSession";

/// Longest session of a role that was assumed from a session, in seconds.
const MAX_CHAINED: u32 = 3600;
const MAX_TAGS: usize = 50;

/// The fields of a request.
pub(super) struct Fields(Vec<(String, String)>);

impl Fields {
    pub(super) fn parse(body: &[u8]) -> Self {
        Self(form(body))
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    /// The account of the role that is asked for.
    pub(super) fn account(&self) -> Option<&str> {
        self.get("RoleArn")?.split(':').nth(4)
    }

    fn need(&self, name: &str) -> Result<&str, ApiError> {
        self.get(name).ok_or_else(|| {
            invalid(format!(
                "1 validation error detected: Value null at '{name}' failed to satisfy constraint: Member must not \
                 be null"
            ))
        })
    }

    /// `Name.member.1`, `Name.member.2`, …
    fn list(&self, name: &str) -> Vec<&str> {
        (1..)
            .map_while(|n| self.get(&format!("{name}.member.{n}")))
            .collect()
    }

    fn tags(&self) -> Result<BTreeMap<String, String>, ApiError> {
        let mut tags = BTreeMap::new();
        for n in 1.. {
            let Some(key) = self.get(&format!("Tags.member.{n}.Key")) else {
                break;
            };
            let value = self.get(&format!("Tags.member.{n}.Value")).unwrap_or_default();
            if key.is_empty() || key.chars().count() > 128 || value.chars().count() > 256 {
                return Err(invalid(
                    "A session tag's key has 1 to 128 characters, its value at most 256.",
                ));
            }
            if tags.insert(key.to_owned(), value.to_owned()).is_some() {
                return Err(invalid("Duplicate session tag keys."));
            }
        }
        if tags.len() > MAX_TAGS {
            return Err(invalid("A session has at most 50 tags."));
        }
        Ok(tags)
    }
}

fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::new("ValidationError", message)
}

fn denied(message: impl Into<String>) -> ApiError {
    ApiError::with_status(403, "AccessDenied", message)
}

/// Works one action; the answer is the inside of its result element.
pub(super) fn work(
    state: &State,
    action: &str,
    fields: &Fields,
    principal: &Principal,
    now: Timestamp,
) -> Result<String, ApiError> {
    match action {
        "AssumeRoleWithWebIdentity" => with_web_identity(state, fields, now),
        "AssumeRole" => assume(state, fields, principal),
        "GetCallerIdentity" => Ok(format!(
            "<Arn>{}</Arn><UserId>{}</UserId><Account>{}</Account>",
            escape(&principal.arn),
            escape(&principal.user_id),
            principal.account
        )),
        _ => Err(ApiError::new(
            "InvalidAction",
            format!("Could not find operation {action} for version 2011-06-15"),
        )),
    }
}

/// What both ways of assuming a role have in common.
struct Asked<'a> {
    role_arn: &'a str,
    session_name: &'a str,
    seconds: Option<u32>,
    policy: Option<Policy>,
}

impl<'a> Asked<'a> {
    fn parse(fields: &'a Fields) -> Result<Self, ApiError> {
        let role_arn = fields.need("RoleArn")?;
        if !(20..=2048).contains(&role_arn.len()) || !role_arn.starts_with("arn:") {
            return Err(invalid(format!("{role_arn} is invalid")));
        }
        let session_name = fields.need("RoleSessionName")?;
        let allowed = |c: char| c.is_ascii_alphanumeric() || "_+=,.@-".contains(c);
        if !(2..=64).contains(&session_name.len()) || !session_name.chars().all(allowed) {
            return Err(invalid(
                "1 validation error detected: Value at 'roleSessionName' failed to satisfy constraint: Member must \
                 have length between 2 and 64 and satisfy regular expression pattern: [\\w+=,.@-]*",
            ));
        }
        let seconds = match fields.get("DurationSeconds") {
            None => None,
            Some(text) => Some(text.parse().ok().filter(|s| (900..=43_200).contains(s)).ok_or_else(|| {
                invalid(
                    "1 validation error detected: Value at 'durationSeconds' failed to satisfy constraint: Member \
                     must have value between 900 and 43200",
                )
            })?),
        };
        if fields.get("PolicyArns.member.1.arn").is_some() {
            return Err(invalid("Managed session policies are not emulated."));
        }
        let policy = match fields.get("Policy") {
            None => None,
            Some(json) if json.len() > 2048 => {
                return Err(ApiError::new(
                    "PackedPolicyTooLarge",
                    format!(
                        "The session policy has {} characters, 2048 are allowed.",
                        json.len()
                    ),
                ));
            }
            Some(json) => Some(Policy::identity(json).map_err(|_| {
                ApiError::new(
                    "MalformedPolicyDocument",
                    "The policy is not in the valid JSON format.",
                )
            })?),
        };
        Ok(Self {
            role_arn,
            session_name,
            seconds,
            policy,
        })
    }

    fn start(
        self,
        state: &State,
        role: &Identity,
        tags: BTreeMap<String, String>,
        transitive: BTreeMap<String, String>,
    ) -> Result<Arc<Key>, ApiError> {
        let seconds = self.seconds.unwrap_or(3600);
        if seconds > role.max_session {
            return Err(invalid(
                "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.",
            ));
        }
        let name = self.session_name.to_owned();
        Ok(state.iam.start_session(
            role,
            SessionRequest {
                name,
                seconds,
                tags,
                transitive,
                policy: self.policy,
            },
        ))
    }
}

fn with_web_identity(state: &State, fields: &Fields, now: Timestamp) -> Result<String, ApiError> {
    let asked = Asked::parse(fields)?;
    let token = fields.need("WebIdentityToken")?;
    if !(4..=20_000).contains(&token.len()) {
        return Err(invalid(
            "1 validation error detected: Value at 'webIdentityToken' failed to satisfy constraint: Member must have \
             length between 4 and 20000",
        ));
    }
    let issuer = jwt::issuer(token)?;
    let provider = state
        .providers
        .read()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .get(&issuer)
        .cloned()
        .ok_or_else(|| {
            ApiError::new(
                "InvalidIdentityToken",
                format!("No OpenIDConnect provider found in your account for {issuer}"),
            )
        })?;
    let claims = jwt::verify(token, &provider, now)?;
    let refused = || denied(format!("Not authorized to perform {WEB_IDENTITY}"));
    let role = state.iam.identity(asked.role_arn).ok_or_else(refused)?;
    let trust = role.trust.as_ref().ok_or_else(refused)?;
    let host = claims.issuer.trim_start_matches("https://");
    let provider_arn = format!("arn:aws:iam::{}:oidc-provider/{host}", role.account);
    let context = Context {
        extra: vec![
            (format!("{host}:sub"), claims.subject.clone()),
            (format!("{host}:aud"), claims.audience.clone()),
            ("sts:RoleSessionName".to_owned(), asked.session_name.to_owned()),
        ],
        ..Context::default()
    };
    if !trust.trusts_provider(WEB_IDENTITY, &provider_arn, &context) {
        return Err(refused());
    }
    let key = asked.start(state, &role, BTreeMap::new(), BTreeMap::new())?;
    Ok(format!(
        "{}<SubjectFromWebIdentityToken>{}</SubjectFromWebIdentityToken><Audience>{}</Audience>\
         <Provider>{provider_arn}</Provider>",
        session(&key),
        escape(&claims.subject),
        escape(&claims.audience),
    ))
}

fn assume(state: &State, fields: &Fields, caller: &Principal) -> Result<String, ApiError> {
    let asked = Asked::parse(fields)?;
    let tags = fields.tags()?;
    let external_id = fields.get("ExternalId");
    if external_id.is_some_and(|id| !(2..=1224).contains(&id.len())) {
        return Err(invalid(
            "1 validation error detected: Value at 'externalId' failed to satisfy constraint: Member must have length \
             between 2 and 1224",
        ));
    }
    if caller.session_name.is_some() && asked.seconds.is_some_and(|seconds| seconds > MAX_CHAINED) {
        return Err(invalid(
            "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining.",
        ));
    }
    if tags.keys().any(|key| caller.transitive.contains_key(key)) {
        return Err(invalid(
            "One of the specified transitive tag keys can't be set because it conflicts with a transitive tag key \
             from the calling session.",
        ));
    }
    let extra = [
        ("sts:ExternalId", external_id),
        ("sts:RoleSessionName", Some(asked.session_name)),
    ];
    let context = Context {
        principal: Some(caller),
        request_tags: Some(&tags),
        extra: extra
            .into_iter()
            .filter_map(|(k, v)| Some((k.to_owned(), v?.to_owned())))
            .collect(),
        ..Context::default()
    };
    let role = state
        .iam
        .identity(asked.role_arn)
        .filter(|role| role.trust.is_some());
    let mut actions = vec![ASSUME];
    if !tags.is_empty() {
        actions.push(TAG);
    }
    for action in actions {
        if !role
            .as_deref()
            .is_some_and(|role| may(state, action, role, caller, &context))
        {
            return Err(denied(format!(
                "User: {} is not authorized to perform: {action} on resource: {}",
                caller.arn, asked.role_arn
            )));
        }
    }
    let role = role.ok_or_else(|| denied("Access denied"))?;
    let mut transitive = caller.transitive.clone();
    for key in fields.list("TransitiveTagKeys") {
        let value = tags.get(key).ok_or_else(|| {
            invalid("The specified transitive tag key must be included in the requested tags.")
        })?;
        transitive.insert(key.to_owned(), value.clone());
    }
    let mut all = caller.transitive.clone();
    all.extend(tags);
    Ok(session(&*asked.start(state, &role, all, transitive)?))
}

/// A role of the same account needs only to name the caller; everything else needs the caller's policies too.
fn may(state: &State, action: &str, role: &Identity, caller: &Principal, context: &Context<'_>) -> bool {
    let Some(trust) = &role.trust else { return false };
    let identity = state.iam.decide(action, &role.arn, context);
    match trust.decide_for(action, caller, context) {
        (Decision::Allow, Some(Naming::Direct)) if role.account == caller.account => {
            identity != Decision::ExplicitDeny
        }
        (Decision::Allow, _) => identity == Decision::Allow,
        _ => false,
    }
}

fn session(key: &Key) -> String {
    format!(
        "<Credentials><AccessKeyId>{}</AccessKeyId><SecretAccessKey>{}</SecretAccessKey><SessionToken>{}</SessionToken>\
         <Expiration>{}</Expiration></Credentials><AssumedRoleUser><Arn>{}</Arn><AssumedRoleId>{}</AssumedRoleId>\
         </AssumedRoleUser>",
        key.id,
        escape(&key.secret),
        escape(key.token.as_deref().unwrap_or_default()),
        key.expires.unwrap_or_default().strftime("%Y-%m-%dT%H:%M:%SZ"),
        escape(&key.principal.arn),
        escape(&key.principal.user_id),
    )
}
