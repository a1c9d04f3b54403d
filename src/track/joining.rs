//! Names, partial ARNs and full ARNs that mean one secret are one.

use std::sync::Arc;

use crate::{
    api::{
        VersionId,
        arn::{is_arn, without_suffix},
    },
    track::{
        Cause, Want,
        remote::RemoteId,
        source::{Context, Source},
    },
};

impl Source {
    /// An answer for the secret has shown its ARN and name: joins what means the same, and parts what does no longer,
    /// since a secret made anew has another ARN. Gives the secret that remains.
    pub(super) fn join(
        &mut self,
        id: RemoteId,
        arn: &Arc<str>,
        name: &Arc<str>,
        context: &mut Context<'_>,
    ) -> RemoteId {
        // Of a name that ends in a hyphen and six characters the partial ARN is a whole one to AWS, of another secret.
        let partial = without_suffix(arn).filter(|partial| without_suffix(partial).is_none());
        let means = |key: &str| !is_arn(key) || key == &**arn || Some(key) == partial;
        let Some(remote) = self.remotes.get(&id) else {
            return id;
        };
        let strange: Vec<_> = remote
            .aliases
            .iter()
            .filter(|alias| !means(alias))
            .cloned()
            .collect();
        for alias in strange {
            self.part(id, &alias, context);
        }
        let own = !self.is_foreign(arn);
        let mut joined = id;
        let names = [own.then_some(&**name), Some(&**arn), partial];
        for key in names.into_iter().flatten() {
            if let Some(other) = self.names.get(key).copied().filter(|other| *other != joined) {
                joined = self.merge(joined, other, context);
            }
        }
        if let Some(remote) = self.remotes.get_mut(&joined)
            && own
            && !self.names.contains_key(name)
        {
            remote.aliases.push(name.clone());
            self.names.insert(name.clone(), joined);
        }
        joined
    }

    /// Makes the key a secret of its own again.
    fn part(&mut self, id: RemoteId, key: &Arc<str>, context: &mut Context<'_>) {
        self.names.remove(key);
        let Some(remote) = self.remotes.get_mut(&id) else {
            return;
        };
        remote.aliases.retain(|alias| alias != key);
        let subscribers = remote.subscribers.clone();
        for object in subscribers {
            let Some(known) = context.objects.get(object) else {
                continue;
            };
            let here = known.wants.iter().filter(|want| want.source == self.id);
            let wants: Vec<_> = here.clone().filter(|want| want.key == *key).cloned().collect();
            let stays = here.clone().any(|want| self.names.get(&want.key) == Some(&id));
            for want in &wants {
                let want = Want {
                    source: self.id,
                    key: key.clone(),
                    selector: want.selector.clone(),
                    recorded: None::<VersionId>,
                };
                self.want(context.now, object, want, false);
            }
            if !wants.is_empty()
                && !stays
                && let Some(remote) = self.remotes.get_mut(&id)
            {
                remote.subscribers.retain(|subscriber| *subscriber != object);
            }
        }
        if let Some(parted) = self
            .names
            .get(key)
            .and_then(|parted| self.remotes.get_mut(parted))
        {
            parted.urgent = Some(context.now);
        }
        self.dirty.insert(id);
        if self
            .remotes
            .get(&id)
            .is_some_and(|remote| remote.subscribers.is_empty())
        {
            self.forget(id);
        }
    }

    /// Makes two secrets one, asked for by name if one of them is.
    fn merge(&mut self, one: RemoteId, other: RemoteId, context: &mut Context<'_>) -> RemoteId {
        let by_name = self.remotes.get(&other).is_some_and(|other| !is_arn(&other.key));
        let (stays, goes) = if by_name { (other, one) } else { (one, other) };
        let Some(gone) = self.take(goes) else { return stays };
        let Some(remote) = self.remotes.get_mut(&stays) else {
            return stays;
        };
        for key in gone.aliases.into_iter().chain([gone.key]) {
            self.names.insert(key.clone(), stays);
            remote.aliases.push(key);
        }
        for subscriber in gone.subscribers {
            if !remote.subscribers.contains(&subscriber) {
                remote.subscribers.push(subscriber);
            }
        }
        let mut news = false;
        for view in gone.views {
            let selector = view.selector.clone();
            news |= remote.view_mut(&selector).join(context.now, view);
        }
        remote.checked = remote.checked.min(gone.checked);
        remote.hint = remote.hint.take().or(gone.hint);
        let urgent = [remote.urgent, gone.urgent, gone.asked.map(|_| context.now)];
        remote.urgent = urgent.into_iter().flatten().min();
        if let Some(mut waiting) = self.waiting.remove(&goes) {
            self.waiting.entry(stays).or_default().append(&mut waiting);
        }
        self.dirty.insert(stays);
        if news {
            self.wake(stays, Cause::Changed, context, |_| true);
        }
        stays
    }
}
