//! The watches of a process: which kinds, where, in which order.

use std::{borrow::Cow, sync::Arc, time::Duration};

use futures::future::{BoxFuture, join, join_all};
use kube::Resource as _;
use tokio::{
    sync::{oneshot, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    Change, Changes, Control, Demand, Index, NamespaceEntry, Project, SecretEntry, control::Controls,
    coverage::Coverage, follow::Follower, namespaces::Namespaces, secrets::Secrets,
};
use crate::{
    api::{ObjectKey, TokenKey},
    cluster::{client::Cluster, metrics::WatchAges},
};

/// How often it is looked whether a kind that may be absent has come.
const ABSENT: Duration = Duration::from_mins(1);

/// The same, after nothing was found out.
const UNKNOWN: Duration = Duration::from_secs(5);

/// Which namespaces are watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All, and kinds without namespaces.
    Cluster,
    /// These only, and no kind without namespaces: no cluster role is needed.
    Namespaces(Vec<Arc<str>>),
}

/// The watches of a process, before they run. They list in the order in which they were added.
pub struct Watches {
    cluster: Cluster,
    scope: Scope,
    changes: Changes,
    silence: Duration,
    listing: watch::Sender<Listing>,
    starts: Vec<(Cow<'static, str>, Start)>,
}

type Start = Box<dyn FnOnce(oneshot::Sender<()>) -> BoxFuture<'static, ()> + Send>;

/// How far the first lists are.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Listing {
    /// None has begun.
    Waiting,
    /// That of this kind is under way: the kinds are listed one after another.
    Kind(Cow<'static, str>),
    /// Every index holds its first complete list.
    Complete,
}

/// Tells how far the first lists are.
#[derive(Clone, Debug)]
pub struct FirstLists(watch::Receiver<Listing>);

/// How long a replica without its first lists leaves the Lease to others.
const ELECTION_DELAY: Duration = Duration::from_mins(2);

impl FirstLists {
    /// Returns true once every index holds its first complete list; false if the watches ended before.
    pub async fn complete(&mut self) -> bool {
        self.0
            .wait_for(|listing| *listing == Listing::Complete)
            .await
            .is_ok()
    }

    /// Returns when this replica may take part in the election: with its first lists it can work at once. A list that is
    /// forbidden or never ends must not leave the cluster without a leader, so it waits for two minutes at most.
    pub async fn before_election(mut self) {
        if timeout(ELECTION_DELAY, self.complete()).await.is_err() {
            let listing = self.0.borrow().clone();
            let kind = match &listing {
                Listing::Kind(kind) => kind,
                Listing::Waiting | Listing::Complete => "",
            };
            tracing::warn!(
                kind,
                "the first list of this kind has not ended after 2 minutes; this replica takes part in the election without it, and works once it has it"
            );
        }
    }
}

/// A watch panicked, which ends the process: an index that no longer moves must not be acted on.
#[derive(Debug, thiserror::Error)]
#[error("a watch ended")]
pub struct WatchEnded;

impl Watches {
    /// None yet. Each is opened again after `silence` without a word, which bookmarks end otherwise.
    pub fn new(cluster: Cluster, scope: Scope, changes: Changes, silence: Duration) -> Self {
        Self {
            cluster,
            scope,
            changes,
            silence,
            listing: watch::Sender::new(Listing::Waiting),
            starts: Vec::new(),
        }
    }

    /// When the watches were last heard of.
    pub fn ages(&self) -> WatchAges {
        self.cluster.metrics.watches.clone()
    }

    /// Adds the Namespaces. Empty for ever where only some namespaces are watched.
    pub fn namespaces(&mut self) -> Arc<Index<NamespaceEntry>> {
        self.watch(Namespaces)
    }

    /// Adds the Secrets with our label; `key` makes the tokens of their content.
    pub fn secrets(&mut self, key: TokenKey) -> Arc<Index<SecretEntry>> {
        self.watch(Secrets(key))
    }

    /// Adds the ConfigMap by which people hold everything up, in the operator's namespace.
    pub fn control(&mut self, operator_namespace: &str) -> Arc<Index<Control>> {
        self.follow(Controls, vec![operator_namespace.into()], None)
    }

    /// Adds a kind.
    pub fn watch<P: Project>(&mut self, project: P) -> Arc<Index<P::Entry>> {
        let namespaces = self.places::<P>();
        self.follow(project, namespaces, None)
    }

    /// Adds a kind of which only the objects in the namespaces of `demand` are kept. Add it after the index that demands
    /// it: then its first list already brings what is demanded.
    pub fn watch_on_demand<P: Project>(&mut self, project: P, demand: &Demand) -> Arc<Index<P::Entry>> {
        let namespaces = self.places::<P>();
        self.follow(project, namespaces, Some(demand))
    }

    /// Adds such a kind that the cluster may not have. It is looked for now and every minute; its absence is nobody's fault,
    /// and the first lists of the others do not wait for it. What is returned becomes true once it is known to be absent
    /// or was listed.
    pub fn optional<P: Project>(
        &mut self,
        project: P,
        demand: &Demand,
    ) -> (Arc<Index<P::Entry>>, watch::Receiver<bool>) {
        let namespaces = self.places::<P>();
        let (index, followers) = self.followers(project, namespaces, Some(demand), true);
        let cluster = self.cluster.clone();
        let (known, is_known) = watch::channel(false);
        self.starts.push((
            P::Kind::kind(&()),
            Box::new(move |listed| {
                // The receiver is gone when the process is ending.
                let _ = listed.send(());
                Box::pin(async move {
                    loop {
                        let wait = match cluster.serves::<P::Kind>().await {
                            Some(true) => {
                                while_served(&followers, &known).await;
                                ABSENT
                            }
                            Some(false) => {
                                known.send_replace(true);
                                ABSENT
                            }
                            None => UNKNOWN,
                        };
                        sleep(wait).await;
                    }
                })
            }),
        ));
        (index, is_known)
    }

    fn places<P: Project>(&self) -> Vec<Arc<str>> {
        match &self.scope {
            Scope::Cluster => vec![Arc::from("")],
            Scope::Namespaces(_) if P::CLUSTER_WIDE => Vec::new(),
            Scope::Namespaces(namespaces) => namespaces.clone(),
        }
    }

    fn follow<P: Project>(
        &mut self,
        project: P,
        namespaces: Vec<Arc<str>>,
        demand: Option<&Demand>,
    ) -> Arc<Index<P::Entry>> {
        let (index, followers) = self.followers(project, namespaces, demand, false);
        for follower in followers {
            let start = |listed| async move { follower.run(Some(listed)).await };
            self.starts.push((
                P::Kind::kind(&()),
                Box::new(move |listed| Box::pin(start(listed))),
            ));
        }
        index
    }

    fn followers<P: Project>(
        &self,
        project: P,
        namespaces: Vec<Arc<str>>,
        demand: Option<&Demand>,
        may_be_absent: bool,
    ) -> (Arc<Index<P::Entry>>, Vec<Follower<P>>) {
        let coverage = match demand {
            Some(_) => Coverage::demanded(),
            None => Coverage::Everywhere,
        };
        let index = Arc::new(Index::new(P::demands, coverage));
        let project = Arc::new(project);
        let follower = |namespace| Follower {
            cluster: self.cluster.clone(),
            project: Arc::clone(&project),
            index: Arc::clone(&index),
            changes: self.changes.clone(),
            place: ObjectKey::new(namespace, ""),
            demand: demand.cloned(),
            may_be_absent,
            silence: self.silence,
        };
        let followers = namespaces.into_iter().map(follower).collect();
        (index, followers)
    }

    /// How far the first lists are.
    pub fn first_lists(&self) -> FirstLists {
        FirstLists(self.listing.subscribe())
    }

    /// Lists one kind after another, then follows all. Ends only if one of them panicked.
    pub async fn run(self) -> WatchEnded {
        let mut followers = JoinSet::new();
        for (kind, start) in self.starts {
            self.listing.send_replace(Listing::Kind(kind));
            let (listed, first_list) = oneshot::channel();
            followers.spawn(start(listed));
            if first_list.await.is_err() {
                return WatchEnded;
            }
        }
        self.listing.send_replace(Listing::Complete);
        self.changes.push(Change::Ready);
        if followers.is_empty() {
            return std::future::pending().await;
        }
        followers.join_next().await;
        WatchEnded
    }
}

/// Follows a kind until it is gone everywhere.
async fn while_served<P: Project>(followers: &[Follower<P>], known: &watch::Sender<bool>) {
    let (runs, lists): (Vec<_>, Vec<_>) = followers
        .iter()
        .map(|follower| {
            let (listed, list) = oneshot::channel();
            (follower.run(Some(listed)), list)
        })
        .unzip();
    let all_listed = async {
        // An error is a kind that went away before it was listed: that is known, too.
        join_all(lists).await;
        known.send_replace(true);
    };
    join(join_all(runs), all_listed).await;
}
