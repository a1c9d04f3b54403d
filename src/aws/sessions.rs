//! Where an identity's credentials come from: the operator's surroundings, a ServiceAccount's token, keys in a Secret,
//! and from each of them a chain of roles.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use aws_credential_types::{
    Credentials,
    provider::{ProvideCredentials, error::CredentialsError},
};
use aws_sdk_secretsmanager::{config::http::HttpResponse, error::SdkError};
use aws_sdk_sts::{
    operation::assume_role_with_web_identity::AssumeRoleWithWebIdentityError,
    types::{AssumedRoleUser, Credentials as Session},
};
use secrecy::{ExposeSecret, SecretString};

use super::{
    credentials::{CredentialCache, CredentialSet, Origin},
    error::{Cause, Class, account_of},
    identity::{Base, KeyRef, Role},
    kube_tokens::KubeTokenError,
    origins::{KubeObject, MadeFrom, Snapshot},
    remote::Proven,
};

/// Keys in Secrets are read again after this, and no longer used after twice this.
const STATIC: Duration = Duration::from_mins(5);
/// Own credentials that name no end are asked for again after this, as AWS's SDKs do.
const ENDLESS: Duration = Duration::from_mins(15);
/// A session of a role assumed by another role ends after an hour at the latest.
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/id_roles.html#iam-term-role-chaining>
const SESSION: i32 = 3600;

impl CredentialCache {
    /// Gets a new set, and says in `made_from` what of Kubernetes went into it.
    pub(super) async fn fetch(&self, made_from: &mut MadeFrom) -> Result<CredentialSet, Cause> {
        match &self.from {
            Origin::Base(Base::Own) => self.own().await,
            Origin::Base(Base::ServiceAccount {
                namespace,
                name,
                uid,
                audiences,
            }) => {
                self.service_account((namespace, name), uid.as_ref(), audiences, made_from)
                    .await
            }
            Origin::Base(Base::StaticKeys {
                access_key_id,
                secret_access_key,
                session_token,
                secrets: _,
            }) => {
                self.static_keys(
                    access_key_id,
                    secret_access_key,
                    session_token.as_ref(),
                    made_from,
                )
                .await
            }
            Origin::Role(parent, role) => self.assume(parent, role).await,
        }
    }

    async fn own(&self) -> Result<CredentialSet, Cause> {
        let credentials = self
            .caches
            .settings
            .own
            .provide_credentials()
            .await
            .map_err(|error| of_chain(&error))?;
        Ok(match credentials.expiry().map(|end| self.until(end)) {
            Some(life) => CredentialSet::session(credentials, life),
            None => CredentialSet::new(credentials, ENDLESS, None),
        })
    }

    async fn service_account(
        &self,
        (namespace, name): (&str, &str),
        uid: Option<&Arc<str>>,
        audiences: &[Arc<str>],
        made_from: &mut MadeFrom,
    ) -> Result<CredentialSet, Cause> {
        let object = KubeObject::ServiceAccount {
            namespace: namespace.into(),
            name: name.into(),
        };
        let facts = self
            .caches
            .tokens
            .service_account(namespace, name)
            .await
            .map_err(|error| of_kubernetes(error, &object, made_from))?;
        made_from.insert(object.clone(), Snapshot::ServiceAccount(facts.clone()));
        if uid.is_some_and(|uid| *uid != facts.uid) {
            let detail = format!("ServiceAccount {namespace}/{name} was deleted and made again");
            return Err(Cause::new(Class::Identity, detail));
        }
        let Some(role) = facts.role_arn else {
            let detail =
                format!("ServiceAccount {namespace}/{name} has no annotation eks.amazonaws.com/role-arn");
            return Err(Cause::new(Class::Identity, detail));
        };
        let own_audience = facts
            .audience
            .as_deref()
            .unwrap_or("sts.amazonaws.com")
            .to_owned();
        let mut wanted = vec![own_audience];
        for audience in audiences {
            if !wanted.iter().any(|known| **known == **audience) {
                wanted.push(audience.to_string());
            }
        }
        let token = self
            .caches
            .tokens
            .token(namespace, name, &wanted)
            .await
            .map_err(|error| of_kubernetes(error, &object, made_from))?;
        let call = self
            .caches
            .settings
            .sts(&self.region, None)
            .assume_role_with_web_identity()
            .role_arn(&*role)
            .role_session_name(&*self.session_name)
            .web_identity_token(token.token.expose_secret())
            .duration_seconds(SESSION)
            .send();
        let home: Vec<_> = account_of(&role).into_iter().collect();
        let answer = self
            .caches
            .sts(&self.caller, "AssumeRoleWithWebIdentity", &home, Box::pin(call))
            .await
            .map_err(|cause| {
                let detail = format!(
                    "ServiceAccount {namespace}/{name} may not assume {role}: {}. The trust policy of the role must allow \
                     the subject system:serviceaccount:{namespace}:{name} and the audience {}",
                    cause.detail,
                    wanted.join(" or ")
                );
                refine(cause, detail)
            })?;
        self.session(answer.credentials, answer.assumed_role_user)
    }

    async fn assume(&self, parent: &Self, role: &Role) -> Result<CredentialSet, Cause> {
        let with = parent.held().await?;
        let call = self
            .caches
            .settings
            .sts(&self.region, Some(with.credentials.clone()))
            .assume_role()
            .role_arn(&*role.arn)
            .role_session_name(&*self.session_name)
            .set_external_id(role.external_id.as_deref().map(Into::into))
            .duration_seconds(SESSION)
            .send();
        let account = with.account();
        let home: Vec<_> = account_of(&role.arn)
            .into_iter()
            .chain(account.as_deref())
            .collect();
        let answer = self
            .caches
            .sts(&self.caller, "AssumeRole", &home, Box::pin(call))
            .await;
        let answer = answer.map_err(|cause| {
            if matches!(cause.code.as_deref(), Some(code) if code != "AccessDenied")
                && cause.class == Class::Identity
            {
                parent.refused(&with);
            }
            if cause.class == Class::Identity {
                self.look_soon();
            }
            let detail = format!("{} may not assume {}: {}", parent.name, role.arn, cause.detail);
            refine(cause, detail)
        })?;
        self.session(answer.credentials, answer.assumed_role_user)
    }

    async fn static_keys(
        &self,
        id: &KeyRef,
        secret: &KeyRef,
        token: Option<&KeyRef>,
        made_from: &mut MadeFrom,
    ) -> Result<CredentialSet, Cause> {
        let id = self.key(id, made_from).await?;
        let secret = self.key(secret, made_from).await?;
        let token = match token {
            Some(token) => Some(self.key(token, made_from).await?),
            None => None,
        };
        // A value pasted with a line end is an invalid header, and would be quoted in an error.
        let mut credentials = Credentials::builder()
            .access_key_id(id.expose_secret().trim())
            .secret_access_key(secret.expose_secret().trim())
            .provider_name("secretRef");
        credentials.set_session_token(token.map(|token| token.expose_secret().trim().to_owned()));
        Ok(CredentialSet::new(credentials.build(), STATIC, Some(2 * STATIC)))
    }

    async fn key(&self, of: &KeyRef, made_from: &mut MadeFrom) -> Result<SecretString, Cause> {
        let KeyRef { namespace, name, key } = of;
        let object = KubeObject::secret(of);
        let read = self
            .caches
            .tokens
            .secret_key(namespace, name, key)
            .await
            .map_err(|error| of_kubernetes(error, &object, made_from))?;
        // If the Secret changed between two of its keys, the first version counts: the next look finds another one.
        made_from.entry(object).or_insert(Snapshot::Secret(read.version));
        Ok(read.value)
    }

    fn session(
        &self,
        session: Option<Session>,
        user: Option<AssumedRoleUser>,
    ) -> Result<CredentialSet, Cause> {
        let Some((session, user)) = session.zip(user) else {
            return Err(Cause::new(Class::Unavailable, "STS gave no session"));
        };
        let ends = SystemTime::try_from(*session.expiration())
            .map_err(|_| Cause::new(Class::Unavailable, "STS gave a session whose end is no time"))?;
        let account = account_of(user.arn()).unwrap_or_default();
        let credentials = Credentials::builder()
            .access_key_id(session.access_key_id())
            .secret_access_key(session.secret_access_key())
            .session_token(session.session_token())
            .expiry(ends)
            .account_id(account)
            .provider_name("sts")
            .build();
        let proven = Proven {
            account: account.into(),
            arn: user.arn().into(),
        };
        let held = CredentialSet::session(credentials, self.until(ends));
        Ok(held.proved(proven))
    }

    fn until(&self, end: SystemTime) -> Duration {
        end.duration_since(self.caches.settings.now()).unwrap_or_default()
    }
}

/// Says in a refusal who wanted what.
fn refine(cause: Cause, detail: String) -> Cause {
    if cause.class == Class::Identity {
        Cause {
            detail: detail.into(),
            ..cause
        }
    } else {
        cause
    }
}

/// Why `object` gave no credentials. What the object itself does not show, such as a token that is refused, differs from
/// whatever the next look sees, which then has it tried again.
fn of_kubernetes(error: KubeTokenError, object: &KubeObject, made_from: &mut MadeFrom) -> Cause {
    let class = match error {
        KubeTokenError::Unavailable(_) => Class::Unavailable,
        KubeTokenError::NotFound(_) | KubeTokenError::Forbidden(_) | KubeTokenError::Invalid(_) => {
            Class::Identity
        }
    };
    let cause = Cause::new(class, error.to_string());
    if let Some(refused) = Snapshot::refused(error) {
        made_from.insert(object.clone(), refused);
    }
    cause
}

/// The default chain's error. It may quote files, so only its kind is told, and what STS says.
fn of_chain(error: &CredentialsError) -> Cause {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(inner) = next {
        if let Some(sts) = inner.downcast_ref::<SdkError<AssumeRoleWithWebIdentityError, HttpResponse>>() {
            return Cause::of_sts(sts, &[]);
        }
        if let Some(file) = inner.downcast_ref::<std::io::Error>()
            && file.kind() == std::io::ErrorKind::NotFound
        {
            let detail = "a file that the operator's environment names for its credentials does not exist";
            return Cause::new(Class::Identity, detail);
        }
        next = inner.source();
    }
    let (class, detail) = match error {
        CredentialsError::CredentialsNotLoaded(_) => (
            Class::Identity,
            "the operator has no credentials of its own: neither its environment, nor IRSA, nor Pod Identity gives any",
        ),
        CredentialsError::InvalidConfiguration(_) => (
            Class::Identity,
            "the operator's environment describes its credentials in a way that cannot be used",
        ),
        CredentialsError::ProviderTimedOut(_) => (
            Class::Unavailable,
            "the operator's own credentials did not come in time",
        ),
        _ => (Class::Unavailable, "the operator's own credentials cannot be got"),
    };
    Cause::new(class, detail)
}

#[cfg(test)]
mod tests {
    use aws_sdk_sts::{config::http::HttpResponse, error::ErrorMetadata};
    use aws_smithy_types::body::SdkBody;

    use super::*;

    fn sts(code: &str) -> CredentialsError {
        let metadata = ErrorMetadata::builder().code(code).message("canary").build();
        let error = AssumeRoleWithWebIdentityError::generic(metadata);
        let status = aws_smithy_runtime_api::http::StatusCode::try_from(400).unwrap();
        let answer = HttpResponse::new(status, SdkBody::empty());
        CredentialsError::provider_error(SdkError::service_error(error, answer))
    }

    #[test]
    fn errors_of_the_own_identity_are_told_apart() {
        let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
        let cases = [
            (sts("AccessDenied"), Class::Identity),
            (sts("InvalidIdentityToken"), Class::Identity),
            (sts("Throttling"), Class::Throttled),
            (sts("IDPCommunicationError"), Class::Unavailable),
            (CredentialsError::provider_error(missing), Class::Identity),
            (CredentialsError::not_loaded_no_source(), Class::Identity),
            (CredentialsError::invalid_configuration("canary"), Class::Identity),
            (
                CredentialsError::provider_timed_out(Duration::from_secs(1)),
                Class::Unavailable,
            ),
            (
                CredentialsError::provider_error("connection reset"),
                Class::Unavailable,
            ),
        ];
        for (error, class) in cases {
            assert_eq!(of_chain(&error).class, class, "{error:?}");
        }
        let unusable = of_chain(&CredentialsError::invalid_configuration("canary"));
        assert!(
            !unusable.to_string().contains("canary"),
            "a profile's text is not shown: {unusable}"
        );
    }
}
