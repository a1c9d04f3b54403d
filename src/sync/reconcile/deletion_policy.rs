//! Secrets that AWS does not have, where the policy is to follow: what was deleted there goes here too, and what only seems
//! to be gone, such as a key with a typing error, takes nothing with it.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Secret;
use zeroize::Zeroizing;

use super::{Context, Ended, RECHECK_HELD, sooner, write::wipe};
use crate::{
    api::{ConditionType, DeletionPolicy, ExternalSecret, ObjectKey, Reason, names::annotation},
    aws,
    sync::{
        decide::{
            answers::Answer,
            comparison::inputs_of_source,
            record::{Origin, Record, Standing},
            references::{ReadRequest, Resolved},
        },
        entry::Entry,
        plan,
        resolve::{Refusal, fingerprint},
        status::{self, Draft, Verdict},
    },
};

/// A pass whose answers show something as gone.
#[derive(Clone, Copy)]
pub(super) struct Answered<'a> {
    pub(super) object: &'a ObjectKey,
    pub(super) entry: &'a Entry,
    pub(super) live: &'a ExternalSecret,
    pub(super) resolved: &'a Resolved,
    pub(super) needs: &'a [ReadRequest],
    pub(super) answers: &'a [Answer],
    /// What the Secret would hold.
    pub(super) data: &'a BTreeMap<String, Zeroizing<Vec<u8>>>,
}

/// A Secret that would lose something.
struct Losing {
    key: ObjectKey,
    /// It is the one that the ExternalSecret wants, and its own.
    wanted: bool,
    uid: String,
    record: Record,
}

impl Answered<'_> {
    /// Nothing of all that it needs is there.
    fn is_empty(&self) -> bool {
        self.answers
            .iter()
            .all(|answer| matches!(answer, Answer::Gone { .. }))
    }

    fn gone(&self) -> impl Iterator<Item = (&ReadRequest, bool)> {
        let each = self.needs.iter().zip(self.answers);
        each.filter_map(|(need, answer)| match answer {
            Answer::Gone { deleted } => Some((need, *deleted)),
            Answer::Value(_) => None,
        })
    }

    fn target(&self) -> ObjectKey {
        ObjectKey::new(self.object.namespace.clone(), self.entry.target(self.object))
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
            .spec
            .entries()
            .zip(self.answers)
            .filter(|(_, answer)| matches!(answer, Answer::Gone { .. }))
            .any(|(entry, _)| entry.secret_key.is_none_or(|name| self.data.contains_key(name)));
        let there: BTreeSet<&str> = self
            .needs
            .iter()
            .zip(self.answers)
            .filter(|(_, answer)| matches!(answer, Answer::Value(_)))
            .map(|(need, _)| need.hash.as_str())
            .collect();
        hidden && record.exceeds(&there)
    }

    /// Whether there is no Secret because what it was made from was deleted in AWS.
    fn was_deleted(&self) -> bool {
        let Some(status) = &self.live.status else {
            return false;
        };
        let said = status::condition(status, ConditionType::Ready)
            .is_some_and(|ready| ready.reason == Reason::Deleted.as_str());
        if said && status.observed_generation == Some(self.entry.generation) {
            return true;
        }
        // The process ended after it had deleted the Secret and before it said so.
        self.entry.needs.iter().all(|need| {
            let stage = need.selector.to_string();
            status.sources.iter().flatten().any(|source| {
                source.store == self.resolved.label && source.key == *need.key && source.stage == stage
            })
        })
    }
}

impl Context {
    /// Whether what is gone may take with it what was made from it. `Err` ends the pass, and the Secret stays as it is.
    ///
    /// It may if the Secret records that it was made from just these references through just this source, and if Describe
    /// has shown them as gone twice, a minute apart.
    pub(super) async fn follow_gone(&self, pass: Answered<'_>) -> Result<(), Ended> {
        let Answered {
            object, entry, live, ..
        } = pass;
        let deletes = pass.is_empty() && entry.deletion == DeletionPolicy::Delete;
        let target = pass.target();
        let found = self.find_losing(pass, &target, deletes).await?;
        let losing = match found {
            Found::Foreign => return Ok(()),
            Found::Nothing if pass.is_empty() => {
                // The status may not have said so yet: it takes turns.
                if deletes && (pass.was_deleted() || self.deletions().time_of(object).is_some()) {
                    return Ok(());
                }
                let gone: Vec<_> = pass.gone().collect();
                return Err(self.refuse_gone(pass, &gone, &target, false, None).await);
            }
            Found::Nothing => self.find_former(pass).await?,
            Found::Ours(losing) => losing.into_iter().chain(self.find_former(pass).await?).collect(),
        };
        let Some(first) = losing.first() else {
            self.deletions().withdraw(object);
            return Ok(());
        };
        let account = match self.aws.prove(pass.resolved.usable.id).await {
            Ok(proven) => proven.account,
            Err(error) => return Err(self.unproven(object, entry, Some(live), &error).await),
        };
        let identity = &pass.resolved.usable.source.identity;
        let mut made = Vec::new();
        for Losing {
            key, wanted, record, ..
        } in &losing
        {
            let known = self.is_of(pass, key, record, &account);
            let standing = |need: &ReadRequest| {
                if known && record.tells_account(identity, &need.key) {
                    record.standing(&need.hash)
                } else {
                    Standing::Unknown
                }
            };
            let unknown: Vec<_> = pass
                .gone()
                .filter(|(need, _)| standing(need) == Standing::Unknown)
                .collect();
            if !unknown.is_empty() {
                return Err(self
                    .refuse_gone(pass, &unknown, key, *wanted, Some(&account))
                    .await);
            }
            made.extend(
                pass.gone()
                    .map(|(need, _)| need)
                    .filter(|need| standing(need) == Standing::Made),
            );
        }
        let confirmed = self.tracking.tell(|tracker, now| {
            let mut confirmed = true;
            // All of them are asked for, whatever the first says.
            for need in &made {
                confirmed &= tracker.confirm_gone(now, need.source, &need.key);
            }
            confirmed
        });
        if confirmed {
            self.may_delete(object).await?;
        }
        self.limit(pass, &first.uid, &made, &account, confirmed).await?;
        if confirmed {
            Ok(())
        } else {
            Err(self.say_current(object, entry, Ended::Again(RECHECK_HELD)).await)
        }
    }

    /// Says that the account of the store's identity could not be found out.
    pub(super) async fn unproven(
        &self,
        object: &ObjectKey,
        entry: &Entry,
        live: Option<&ExternalSecret>,
        error: &aws::Error,
    ) -> Ended {
        let refusal = Refusal::new(error.reason(), error.to_string());
        if error.class().is_transient() {
            return self.defer(object, entry, refusal).await;
        }
        sooner(
            self.refuse(object, entry, live, refusal).await,
            Self::recheck(entry),
        )
    }

    /// The target, if it would lose something.
    async fn find_losing(
        &self,
        pass: Answered<'_>,
        target: &ObjectKey,
        deletes: bool,
    ) -> Result<Found, Ended> {
        let Some(mut secret) = self.find_for(pass, target).await? else {
            return Ok(Found::Nothing);
        };
        let adopted = pass.live.spec.adopt_existing()
            && secret
                .metadata
                .annotations
                .as_ref()
                .and_then(|all| all.get(annotation::ADOPT))
                .is_some_and(|name| **name == *pass.object.name);
        let ours = plan::is_ours(pass.object, &pass.entry.uid, &target.name, &secret);
        let record = Record::of(&secret);
        let uid = secret.metadata.uid.clone().unwrap_or_default();
        let loses = deletes || pass.loses(&secret, &record);
        wipe(&mut secret);
        let taken_over = adopted && !deletes;
        if !ours && !taken_over {
            return Ok(Found::Foreign);
        }
        let losing = Losing {
            key: target.clone(),
            wanted: ours,
            uid,
            record,
        };
        Ok(Found::Ours(loses.then_some(losing).into_iter().collect()))
    }

    /// The Secret of the former name, which goes when the one of the new name is written, if that holds less.
    async fn find_former(&self, pass: Answered<'_>) -> Result<Vec<Losing>, Ended> {
        let target = pass.target();
        let Some(former) = plan::Recorded::of(pass.live).filter(|recorded| *recorded.name != *target.name)
        else {
            return Ok(Vec::new());
        };
        let key = ObjectKey::new(target.namespace.clone(), former.name);
        let Some(mut secret) = self.find_for(pass, &key).await? else {
            return Ok(Vec::new());
        };
        let goes = plan::controller(&secret).is_some_and(|controller| controller.uid == *pass.entry.uid);
        let record = Record::of(&secret);
        let uid = secret.metadata.uid.clone().unwrap_or_default();
        let loses = goes && pass.loses(&secret, &record);
        wipe(&mut secret);
        let losing = Losing {
            key,
            wanted: false,
            uid,
            record,
        };
        Ok(loses.then_some(losing).into_iter().collect())
    }

    async fn find_for(&self, pass: Answered<'_>, key: &ObjectKey) -> Result<Option<Secret>, Ended> {
        match self.writer.cluster().find::<Secret>(key).await {
            Ok(found) => Ok(found),
            Err(error) => Err(self
                .kubernetes_failed(pass.object, pass.entry, Some(pass.live), &error)
                .await),
        }
    }

    /// Whether the Secret was made through the source that shows something as gone.
    fn is_of(&self, pass: Answered<'_>, secret: &ObjectKey, record: &Record, account: &str) -> bool {
        let Answered {
            object,
            entry,
            resolved,
            ..
        } = pass;
        let source = fingerprint(&resolved.usable.source, "");
        let origin = Origin {
            key: &self.key,
            secret,
            source: &source,
            account,
        };
        // By ARN alone nothing depends on the account of the identity.
        let by_arn = Origin {
            account: "",
            ..origin
        };
        let answered = self.recall(object).answered;
        let inputs: Vec<String> = [Some(entry.asked), Some(0), answered]
            .into_iter()
            .flatten()
            .filter_map(|asked| inputs_of_source(&self.key, entry, asked, secret, resolved))
            .collect();
        record.is_of(&[origin, by_arn], &inputs)
    }

    /// What is gone is not what `secret` was made from, or there is no Secret: it is said, and all stays.
    async fn refuse_gone(
        &self,
        pass: Answered<'_>,
        gone: &[(&ReadRequest, bool)],
        secret: &ObjectKey,
        usable: bool,
        account: Option<&str>,
    ) -> Ended {
        let Answered {
            object, entry, live, ..
        } = pass;
        let keys: Vec<&str> = gone.iter().map(|(need, _)| &*need.key).collect();
        let deleted = gone.first().is_some_and(|(_, deleted)| *deleted);
        let place = Place {
            keys: &keys,
            deleted,
            region: &pass.resolved.usable.source.region,
            account,
            store: &pass.resolved.label,
        };
        self.deletions().withdraw(object);
        let verdict = if usable {
            Verdict::holds(Reason::Retained, place.retained(object, secret))
        } else {
            let reason = if deleted {
                Reason::MarkedForDeletion
            } else {
                Reason::SecretNotFound
            };
            Verdict::fails(reason, place.missing(secret, account.is_some()))
        };
        let draft = Draft {
            generation: Some(entry.generation),
            ready: Some(verdict),
            current: Some(self.current(object, entry)),
            ..Draft::default()
        };
        self.say(object, entry, draft, Some(live), Ended::Well).await
    }
}

/// What a look at the target found.
enum Found {
    Nothing,
    /// Neither ours nor to be adopted: nothing of it goes, and the plan says why.
    Foreign,
    /// What it would lose, if anything.
    Ours(Vec<Losing>),
}

/// What was looked for, and where.
struct Place<'a> {
    keys: &'a [&'a str],
    /// Marked for deletion, rather than not there.
    deleted: bool,
    region: &'a str,
    account: Option<&'a str>,
    store: &'a str,
}

impl Place<'_> {
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
            keys: &["app/db", "app/other"],
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
            keys: &["app/db"],
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
