//! Deletions of many at once: held until a person confirms them.

use std::{
    sync::{MutexGuard, PoisonError},
    time::Duration,
};

use super::{Context, deletion_policy::Missing, outcome::Stop, pass::Pass};
use crate::{
    api::{ConditionType, ExternalSecret, ObjectKey, Reason, names::annotation, token},
    objects::status::Verdict,
    sync::{
        decide::references::ReadRequest,
        deletions::{Confirmed, Decision, DeletionTarget, Deletions, Moment, Place, WINDOW},
        queue::Class,
        stores::Stores,
    },
};

impl Context {
    pub(super) fn deletions(&self) -> MutexGuard<'_, Deletions> {
        self.deletions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What an earlier process deleted a moment ago counts with what this one deletes.
    pub fn recall_deletions(&self) {
        let (now, time) = (self.clock.now(), self.view.time.now().as_second());
        let mut deletions = self.deletions();
        self.view.objects.for_each(|object, indexed| {
            let Some(entry) = indexed.entry() else { return };
            let Some(at) = entry.status.said.deleted_at() else {
                return;
            };
            let age = u64::try_from(time.saturating_sub(at)).unwrap_or_default();
            let Ok(store) = self.stores.meant(entry.spec.store.as_ref()) else {
                return;
            };
            if age < WINDOW.as_secs() {
                let at_process = now.saturating_sub(Duration::from_secs(age));
                deletions.recall(object, &Stores::key(&store, &object.namespace), at_process, at);
            }
        });
    }

    /// Looks for confirmations of deletions that are held, then tells people of those that are still.
    pub fn show_deletions(&self) {
        let stores = self.deletions().stores();
        for store in stores {
            self.confirm_deletions(&store);
        }
        let (shown, held) = {
            let mut deletions = self.deletions();
            (deletions.show(self.clock.now()), deletions.held())
        };
        self.metrics
            .deletions_held
            .set(i64::try_from(held).unwrap_or(i64::MAX));
        for shown in shown {
            tracing::warn!(store = %shown.store, held = shown.held, "deletions are held until a person confirms them");
            self.stores.tell_held(&shown);
        }
    }

    /// Follows the annotation by which a person confirms what is held of a store.
    pub fn confirm_deletions(&self, store: &ObjectKey) {
        let Some(token) = self.stores.confirmed(store) else {
            return;
        };
        let now = self.clock.now();
        let confirmed = self.deletions().confirm_store(now, store, &token);
        match confirmed {
            Confirmed::Nothing => {}
            // It was used before.
            Confirmed::All(objects) if objects.is_empty() => {}
            Confirmed::All(objects) => {
                tracing::info!(%store, objects = objects.len(), "held deletions were confirmed");
                for object in objects {
                    self.work.push(object, Class::Urgent);
                }
            }
            Confirmed::Wrong { current } => self.stores.tell_wrong(store, &token, &current),
        }
    }
}

impl Pass<'_> {
    /// Names a deletion of what is made from `made`. Another one of the same gets another token: the Secret is another one, or
    /// something was deleted since.
    pub(super) fn deletion_token(&self, missing: Missing<'_>, secret: &str, made: &[&ReadRequest]) -> String {
        let status = missing.live.object.status.as_ref();
        let last = status.and_then(|status| status.deleted_at.as_ref());
        let last = last.map_or(0, |at| at.0.as_second()).to_string();
        let mut parts: Vec<&str> = made.iter().map(|need| need.hash.as_str()).collect();
        parts.sort_unstable();
        parts.dedup();
        parts.extend([&*self.entry.uid, secret, &last]);
        token::of_set(parts)
    }

    /// Holds the deletion of that name if so much is gone at once that a person has to confirm it, or else lets it go. While AWS
    /// has yet to confirm that it is gone, the deletion is only counted.
    pub(super) fn hold_deletion(
        &self,
        missing: Missing<'_>,
        account: &str,
        token: String,
        confirmed: bool,
    ) -> Result<(), Stop> {
        let Self { context, object, .. } = self;
        let (live, entry) = (&missing.live.object, &missing.live.entry);
        let store = context.stores.meant(entry.spec.store.as_ref());
        let store = Stores::key(&store.map_err(|_| Stop::Retry)?, &object.namespace);
        let place = Place {
            account: account.into(),
            region: missing.comparison.resolved.usable.source.region.clone(),
        };
        let now = context.clock.now();
        let moment = Moment {
            now,
            time: context.view.time.now().as_second(),
        };
        let held = entry.status.reasons.of_condition(ConditionType::Ready) == Some(Reason::DeletionHeld);
        let text = {
            let mut deletions = context.deletions();
            let target = DeletionTarget {
                store: &store,
                place: Some(&place),
                exists: true,
            };
            deletions.see(now, object, target);
            if !confirmed {
                deletions.expect(now, object, &token);
                return Ok(());
            }
            if deletions.decide(moment, object, &token, held) == Decision::Go {
                return Ok(());
            }
            // Only an answer to what the status asked for counts: any other has been there since before. An earlier process may
            // have asked for another token than the first.
            let asks = |text: &str| asks_for(live, text);
            if held {
                deletions.resume(object, asks);
            }
            if let Some(answer) = entry.annotations.confirmed.as_deref()
                && deletions.text(object).as_deref() == Some(answer)
            {
                if !held || !asks(answer) {
                    deletions.reject(object);
                } else if deletions.confirm(now, object, answer)
                    && deletions.decide(moment, object, &token, held) == Decision::Go
                {
                    return Ok(());
                }
            }
            deletions.text(object).unwrap_or(token)
        };
        let message = held_message(object, missing, &text);
        Err(Verdict::holds(Reason::DeletionHeld, message).into())
    }
}

/// Whether the status asks for this token.
fn asks_for(live: &ExternalSecret, token: &str) -> bool {
    let conditions = live.status.iter().flat_map(|status| &status.conditions).flatten();
    let mut ready = conditions.filter(|condition| condition.type_ == ConditionType::Ready.as_str());
    let answer = answer_of(token);
    ready.any(|condition| condition.message.contains(&answer))
}

/// How the command ends that the status asks for.
fn answer_of(token: &str) -> String {
    format!("{}={token}`", annotation::CONFIRM_DELETION)
}

fn held_message(object: &ObjectKey, missing: Missing<'_>, token: &str) -> String {
    let (entry, comparison) = (&missing.live.entry, missing.comparison);
    let name = annotation::CONFIRM_DELETION;
    let wrong = match &entry.annotations.confirmed {
        Some(wrong) => {
            let short: String = wrong.chars().take(32).collect();
            format!(" Annotation {name} has the token {short}, which confirms another deletion.")
        }
        None => String::new(),
    };
    format!(
        "What Kubernetes Secret {} was made from is gone from AWS, but so much is gone at once that it may be a mistake: the \
         deletion is held and the Secret is kept.{wrong} Restore the secrets in AWS. If the deletion is meant, run `kubectl \
         annotate externalsecrets.keyturn.dev {} --namespace {} --overwrite {}, or confirm all that is held of \
         {} with the token of its event DeletionHeld",
        comparison.target.name,
        object.name,
        object.namespace,
        answer_of(token),
        comparison.resolved.label,
    )
}
