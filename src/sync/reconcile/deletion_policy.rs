//! Secrets that AWS does not have, where the policy is to follow: what was deleted there goes here too, and what only seems
//! to be gone, such as a key with a typing error, takes nothing with it.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Secret;

use super::{
    outcome::Stop,
    pass::{Live, Pass},
    timing::RECHECK_HELD,
    write::wipe,
};
use crate::{
    api::{ConditionType, DeletionPolicy, ObjectKey, Reason, names::annotation},
    objects::{
        RefreshDigest, controller,
        status::{self, Verdict},
    },
    sync::{
        decide::{
            answers::Answer,
            comparison::{Comparison, inputs_of_source},
            record::{Origin, Record, Standing},
            references::ReadRequest,
        },
        plan::{self, Data},
        resolve::{Refusal, fingerprint},
    },
};

/// A pass whose answers show something as gone.
#[derive(Clone, Copy)]
pub(super) struct Missing<'a> {
    pub(super) live: &'a Live,
    pub(super) comparison: &'a Comparison,
    pub(super) answers: &'a [Answer],
    /// What the Secret would hold.
    pub(super) data: &'a Data,
}

/// A Secret that would lose something.
struct Losing {
    key: ObjectKey,
    /// It is the one that the ExternalSecret wants, and its own.
    wanted: bool,
    uid: String,
    record: Record,
}

/// What a look at the target found.
enum Found {
    Nothing,
    /// Neither ours nor to be adopted: nothing of it goes, and the plan says why.
    Foreign,
    /// What it would lose, if anything.
    Ours(Vec<Losing>),
}

impl<'a> Missing<'a> {
    /// Nothing of all that it needs is there.
    pub(super) fn is_all(&self) -> bool {
        self.answers.iter().all(Answer::is_gone)
    }

    fn is_deleted(&self) -> bool {
        self.is_all() && self.live.entry.spec.deletion == DeletionPolicy::Delete
    }

    fn needs(&self) -> &'a [ReadRequest] {
        &self.comparison.resolved.needs
    }

    /// What is gone, and whether it is marked for deletion.
    fn gone(&self) -> impl Iterator<Item = (&'a ReadRequest, bool)> + use<'a> {
        let each = self.needs().iter().zip(self.answers);
        each.filter_map(|(need, answer)| match answer {
            Answer::Gone { deleted } => Some((need, *deleted)),
            Answer::Value(_) => None,
        })
    }

    /// Whether `secret` would lose something if it came to hold what is wanted now.
    fn loses(&self, secret: &Secret, record: &Record) -> bool {
        let held = secret.data.iter().flatten();
        if held.into_iter().any(|(name, _)| !self.data.contains_key(name)) {
            return true;
        }
        // What is gone may have given keys that another entry gives now: only the record tells.
        let hidden = self
            .live
            .object
            .spec
            .entries()
            .zip(self.answers)
            .filter(|(_, answer)| answer.is_gone())
            .any(|(entry, _)| entry.secret_key.is_none_or(|name| self.data.contains_key(name)));
        let there: BTreeSet<&str> = self
            .needs()
            .iter()
            .zip(self.answers)
            .filter(|(_, answer)| !answer.is_gone())
            .map(|(need, _)| need.hash.as_str())
            .collect();
        hidden && record.exceeds(&there)
    }

    /// Whether there is no Secret because what it was made from was deleted in AWS.
    fn was_deleted(&self) -> bool {
        let Some(status) = &self.live.object.status else {
            return false;
        };
        let said = status::condition(status, ConditionType::Ready)
            .is_some_and(|ready| ready.reason == Reason::Deleted.as_str());
        let entry = &self.live.entry;
        if said && status.observed_generation == Some(entry.generation) {
            return true;
        }
        // The process ended after it had deleted the Secret and before it said so.
        let label = &self.comparison.resolved.label;
        entry.spec.needs.iter().all(|need| {
            let stage = need.selector.to_string();
            status
                .sources
                .iter()
                .flatten()
                .any(|source| source.store == *label && source.key == *need.key && source.stage == stage)
        })
    }
}

impl Losing {
    fn new(key: &ObjectKey, wanted: bool, secret: Secret, record: Record) -> Self {
        Self {
            key: key.clone(),
            wanted,
            uid: secret.metadata.uid.unwrap_or_default(),
            record,
        }
    }
}

impl Pass<'_> {
    /// Whether what is gone may take with it what was made from it. If not, the Secret stays as it is.
    ///
    /// It may if the Secret records that it was made from just these references through just this source, and if Describe
    /// has shown them as gone twice, a minute apart.
    pub(super) async fn follow_gone(&self, missing: Missing<'_>) -> Result<(), Stop> {
        let target = &missing.comparison.target;
        let losing = match self.find_losing(missing).await? {
            Found::Foreign => return Ok(()),
            Found::Nothing if missing.is_all() => {
                // The status may not have said so yet: it takes turns.
                let deleted = || self.context.deletions().time_of(self.object).is_some();
                if missing.is_deleted() && (missing.was_deleted() || deleted()) {
                    return Ok(());
                }
                let gone: Vec<_> = missing.gone().collect();
                return Err(self.keep(Place::new(missing, &gone, None).refusal(target)));
            }
            Found::Nothing => self.find_former(missing).await?,
            Found::Ours(losing) => {
                let former = self.find_former(missing).await?;
                losing.into_iter().chain(former).collect()
            }
        };
        let Some(first) = losing.first() else {
            self.context.deletions().withdraw(self.object);
            return Ok(());
        };
        let usable = &missing.comparison.resolved.usable;
        let proven = self.context.provider.aws.prove(usable.id).await;
        let account = proven.map_err(|error| self.unproven(&error))?.account;
        let mut made = Vec::new();
        for losing in &losing {
            made.extend(self.find_made(missing, losing, &account)?);
        }
        let confirmed = self.context.provider.tracking.tell(|tracker, now| {
            let mut confirmed = true;
            // All of them are asked for, whatever the first says.
            for need in &made {
                confirmed &= tracker.confirm_gone(now, need.source, &need.key);
            }
            confirmed
        });
        if confirmed {
            self.may_delete().await?;
        }
        let token = self.deletion_token(missing, &first.uid, &made);
        self.hold_deletion(missing, &account, token, confirmed)?;
        if confirmed {
            Ok(())
        } else {
            Err(Stop::Unchanged(Some(RECHECK_HELD)))
        }
    }

    /// What the Secret was made from of what is gone. An error if it does not know all of it.
    fn find_made<'m>(
        &self,
        missing: Missing<'m>,
        losing: &Losing,
        account: &str,
    ) -> Result<Vec<&'m ReadRequest>, Stop> {
        let Losing {
            key, wanted, record, ..
        } = losing;
        let identity = &missing.comparison.resolved.usable.source.identity;
        let known = self.is_of(missing, key, record, account);
        let standing = |need: &ReadRequest| {
            if known && record.tells_account(identity, &need.key) {
                record.standing(&need.hash)
            } else {
                Standing::Unknown
            }
        };
        let unknown: Vec<_> = missing
            .gone()
            .filter(|(need, _)| standing(need) == Standing::Unknown)
            .collect();
        if !unknown.is_empty() {
            let place = Place::new(missing, &unknown, Some(account));
            return Err(if *wanted {
                self.keep(Verdict::holds(Reason::Retained, place.retained(self.object, key)))
            } else {
                self.keep(place.refusal(key))
            });
        }
        let gone = missing.gone().map(|(need, _)| need);
        Ok(gone.filter(|need| standing(need) == Standing::Made).collect())
    }

    /// The target, if it would lose something.
    async fn find_losing(&self, missing: Missing<'_>) -> Result<Found, Stop> {
        let target = &missing.comparison.target;
        let Some(mut secret) = self.find_secret(target).await? else {
            return Ok(Found::Nothing);
        };
        let adopted = missing.live.object.spec.adopt_existing()
            && secret
                .metadata
                .annotations
                .as_ref()
                .and_then(|all| all.get(annotation::ADOPT))
                .is_some_and(|name| **name == *self.object.name);
        let ours = plan::is_ours(self.object, &self.entry.uid, &target.name, &secret);
        let record = Record::of(&secret);
        let deletes = missing.is_deleted();
        let loses = deletes || missing.loses(&secret, &record);
        wipe(&mut secret);
        let taken_over = adopted && !deletes;
        if !ours && !taken_over {
            return Ok(Found::Foreign);
        }
        let losing = Losing::new(target, ours, secret, record);
        Ok(Found::Ours(loses.then_some(losing).into_iter().collect()))
    }

    /// The Secret of the former name, which goes when the one of the new name is written, if that holds less.
    async fn find_former(&self, missing: Missing<'_>) -> Result<Vec<Losing>, Stop> {
        let target = &missing.comparison.target;
        let Some(former) = missing.live.former(&target.name) else {
            return Ok(Vec::new());
        };
        let key = ObjectKey::new(target.namespace.clone(), former.name);
        let Some(mut secret) = self.find_secret(&key).await? else {
            return Ok(Vec::new());
        };
        let goes = controller(&secret).is_some_and(|controller| controller.uid == *self.entry.uid);
        let record = Record::of(&secret);
        let loses = goes && missing.loses(&secret, &record);
        wipe(&mut secret);
        let losing = Losing::new(&key, false, secret, record);
        Ok(loses.then_some(losing).into_iter().collect())
    }

    /// Whether the Secret was made through the source that shows something as gone.
    fn is_of(&self, missing: Missing<'_>, secret: &ObjectKey, record: &Record, account: &str) -> bool {
        let (key, entry) = (&self.context.key, &missing.live.entry);
        let resolved = &missing.comparison.resolved;
        let source = fingerprint(&resolved.usable.source, "");
        let origin = Origin {
            key,
            secret,
            source: &source,
            account,
        };
        // By ARN alone nothing depends on the account of the identity.
        let by_arn = Origin {
            account: "",
            ..origin
        };
        let inputs: Vec<String> = [
            Some(entry.annotations.refresh),
            Some(RefreshDigest::NONE),
            self.recall().refresh.answered,
        ]
        .into_iter()
        .flatten()
        .filter_map(|asked| inputs_of_source(key, entry, asked, secret, resolved))
        .collect();
        record.is_of(&[origin, by_arn], &inputs)
    }

    /// What is gone is not what the Secret was made from, or there is no Secret: it is reported, and all stays.
    fn keep(&self, ready: impl Into<Stop>) -> Stop {
        self.context.deletions().withdraw(self.object);
        ready.into()
    }
}

/// What was looked for, and where.
struct Place<'a> {
    keys: Vec<&'a str>,
    /// Marked for deletion, rather than not there.
    deleted: bool,
    region: &'a str,
    account: Option<&'a str>,
    store: &'a str,
}

impl<'a> Place<'a> {
    /// Where `gone` was looked for, and in which account if that is known.
    fn new(missing: Missing<'a>, gone: &[(&'a ReadRequest, bool)], account: Option<&'a str>) -> Self {
        let resolved = &missing.comparison.resolved;
        Self {
            keys: gone.iter().map(|(need, _)| &*need.key).collect(),
            deleted: gone.first().is_some_and(|(_, deleted)| *deleted),
            region: &resolved.usable.source.region,
            account,
            store: &resolved.label,
        }
    }

    fn facts(&self) -> String {
        let first = self.keys.first().copied().unwrap_or_default();
        let others = match self.keys.len() {
            0 | 1 => String::new(),
            all => format!(" (and {} more)", all - 1),
        };
        let state = if self.deleted {
            "is marked for deletion"
        } else {
            "does not exist"
        };
        let account = self
            .account
            .map_or(String::new(), |account| format!(", account {account}"));
        format!(
            "Secret {first}{others} {state} in AWS (region {}{account}).",
            self.region
        )
    }

    /// What `Ready` says where nothing is known to have been made from it.
    fn refusal(&self, secret: &ObjectKey) -> Refusal {
        let reason = if self.deleted {
            Reason::MarkedForDeletion
        } else {
            Reason::SecretNotFound
        };
        Refusal::new(reason, self.missing(secret, self.account.is_some()))
    }

    fn retained(&self, object: &ObjectKey, secret: &ObjectKey) -> String {
        format!(
            "{} Kubernetes Secret {name} was not made from it, or through another source, so it is kept as it is: this may \
             be a mistake in the key, or in the prefix, role or region of {store}. Correct the ExternalSecret or {store}. If \
             the deletion is meant, remove the entry from the ExternalSecret, or run `kubectl delete externalsecrets.keyturn.dev {} \
             --namespace {}`",
            self.facts(),
            object.name,
            object.namespace,
            name = secret.name,
            store = self.store,
        )
    }

    fn missing(&self, secret: &ObjectKey, kept: bool) -> String {
        let state = if kept {
            format!("Kubernetes Secret {} is kept as it is", secret.name)
        } else {
            format!("Kubernetes Secret {} does not exist", secret.name)
        };
        format!(
            "{} {state}. Create the secret in AWS, correct the key, or correct the prefix, role or region of {}",
            self.facts(),
            self.store
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_names_what_is_gone_where_and_what_to_do() {
        let place = Place {
            keys: vec!["app/db", "app/other"],
            deleted: false,
            region: "eu-central-1",
            account: Some("111122223333"),
            store: "SecretStore/aws",
        };
        let (object, secret) = (
            ObjectKey::new("shop", "db"),
            ObjectKey::new("shop", "db-credentials"),
        );
        let retained = place.retained(&object, &secret);
        for part in [
            "Secret app/db (and 1 more) does not exist in AWS (region eu-central-1, account 111122223333).",
            "Kubernetes Secret db-credentials",
            "SecretStore/aws",
            "kubectl delete externalsecrets.keyturn.dev db --namespace shop",
        ] {
            assert!(retained.contains(part), "{part}: {retained}");
        }
        let marked = Place {
            keys: vec!["app/db"],
            deleted: true,
            account: None,
            ..place
        };
        let missing = marked.missing(&secret, false);
        assert!(
            missing.contains("app/db is marked for deletion in AWS (region eu-central-1)."),
            "{missing}"
        );
        assert!(missing.contains("does not exist. Create"), "{missing}");
    }
}
