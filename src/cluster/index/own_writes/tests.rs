//! What an index holds of objects that this process writes, whatever the order of answers, events and lists.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::core::v1::Secret;
use kube::core::ObjectMeta;
use proptest::prelude::*;

use super::{
    super::{Index, Indexed, SecretEntry, coverage::Taken, version::Version},
    LATE,
};
use crate::api::{ObjectKey, TokenKey, names::annotation};

const NAMES: [&str; 3] = ["a", "b", "c"];

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("shop", name)
}

/// A Secret at a version, by a writer.
fn entry(name: &str, version: &str, writer: &str) -> SecretEntry {
    let secret = Secret {
        metadata: ObjectMeta {
            uid: Some("u1".to_owned()),
            resource_version: Some(version.to_owned()),
            annotations: Some(BTreeMap::from([(
                annotation::INPUTS.to_owned(),
                writer.to_owned(),
            )])),
            ..ObjectMeta::default()
        },
        ..Secret::default()
    };
    SecretEntry::of(&TokenKey::new(&[7; 32]), &key(name), secret)
}

fn version(number: usize) -> Version {
    Version::of(&number.to_string())
}

/// The version of an object and its writer.
type State = (usize, &'static str);

const OURS: &str = "ours";
const THEIRS: &str = "theirs";

/// An index that is followed by hand.
struct Followed {
    index: Index<SecretEntry>,
    epoch: u32,
}

impl Followed {
    /// Everything is known up to version 10; there is nothing.
    fn new() -> Self {
        let followed = Self::listing();
        followed.end(10);
        followed
    }

    fn listing() -> Self {
        let index = Index::default();
        let epoch = index.begin("");
        Self { index, epoch }
    }

    fn begin(&mut self) {
        self.epoch = self.index.begin("");
    }

    fn end(&self, listed: usize) -> Vec<String> {
        let changed = self.index.sweep("", self.epoch, version(listed));
        changed.iter().map(|key| key.name.to_string()).collect()
    }

    /// An event of the watch, or an object of the list.
    fn shows(&self, name: &str, object: Option<&'static str>, number: usize) -> Taken {
        let object = object.map(|writer| Indexed::Entry(entry(name, &number.to_string(), writer).into()));
        self.index.take(&key(name), object, version(number), self.epoch)
    }

    /// Whether the object is there by now.
    fn wrote(&self, name: &str, number: usize) -> bool {
        self.index
            .wrote(&key(name), entry(name, &number.to_string(), OURS))
    }

    fn held(&self, name: &str) -> Option<State> {
        let held = self.index.get(&key(name))?;
        let entry = held.entry()?;
        let ours = entry.inputs.as_deref() == Some(OURS);
        Some((
            entry.resource_version.parse().unwrap(),
            if ours { OURS } else { THEIRS },
        ))
    }

    fn waits(&self) -> usize {
        self.index.read().writes.writes.len()
    }
}

#[test]
fn our_own_write_is_held_at_once_and_shown_later_and_never_goes_back() {
    let followed = Followed::new();
    assert_eq!(followed.shows("a", Some(THEIRS), 11), Taken::Changed);
    assert!(followed.wrote("a", 14));
    assert_eq!(followed.held("a"), Some((14, OURS)));
    // What others wrote before us comes late.
    assert_eq!(followed.shows("a", Some(THEIRS), 12), Taken::Nothing);
    assert_eq!(followed.shows("a", None, 13), Taken::Nothing);
    assert_eq!(followed.held("a"), Some((14, OURS)));
    assert_eq!(followed.shows("a", Some(OURS), 14), Taken::Shown);
    assert_eq!((followed.held("a"), followed.waits()), (Some((14, OURS)), 0));
}

#[test]
fn what_others_do_after_our_write_is_a_change_however_soon_it_comes() {
    for shown in [false, true] {
        for (theirs, held) in [(Some(THEIRS), Some((12, THEIRS))), (None, None)] {
            let followed = Followed::new();
            assert!(followed.wrote("a", 11));
            if shown {
                assert_eq!(followed.shows("a", Some(OURS), 11), Taken::Shown);
            }
            assert_eq!(followed.shows("a", theirs, 12), Taken::Changed);
            assert_eq!((followed.held("a"), followed.waits()), (held, 0));
        }
    }
    // Deleted and made again.
    let followed = Followed::new();
    assert!(followed.wrote("a", 11));
    assert_eq!(followed.shows("a", Some(OURS), 11), Taken::Shown);
    assert_eq!(followed.shows("a", None, 12), Taken::Changed);
    assert_eq!(followed.shows("a", Some(THEIRS), 13), Taken::Changed);
}

#[test]
fn an_answer_that_comes_after_the_watch_has_passed_it_changes_nothing() {
    for theirs in [Some(THEIRS), None] {
        let followed = Followed::new();
        assert_eq!(followed.shows("a", Some(OURS), 11), Taken::Changed);
        let held = theirs.map(|theirs| (12, theirs));
        assert_eq!(followed.shows("a", theirs, 12), Taken::Changed);
        assert_eq!(followed.wrote("a", 11), theirs.is_some());
        assert_eq!((followed.held("a"), followed.waits()), (held, 0));
    }
    // Answers of two writes change places.
    let followed = Followed::new();
    assert!(followed.wrote("a", 12));
    assert!(followed.wrote("a", 11));
    assert_eq!(followed.held("a"), Some((12, OURS)));
}

#[test]
fn a_secret_that_was_deleted_before_the_index_ever_held_it_is_told_by_the_answer() {
    let mut followed = Followed::new();
    followed.begin();
    // Made at 12 and deleted at 13: neither the watch nor the list has brought it.
    assert!(followed.end(20).is_empty());
    assert!(!followed.wrote("a", 12));
    assert_eq!((followed.held("a"), followed.waits()), (None, 0));
}

#[test]
fn a_write_whose_answer_was_lost_is_a_change_like_any_other() {
    let followed = Followed::new();
    assert_eq!(followed.shows("a", Some(OURS), 11), Taken::Changed);
}

#[test]
fn a_list_includes_what_was_answered_before_it_began() {
    let mut followed = Followed::new();
    assert!(followed.wrote("a", 11));
    assert!(followed.wrote("b", 12));
    assert!(followed.wrote("c", 13));
    followed.begin();
    // A stream begins with what a cache has, which may be older.
    assert_eq!(followed.shows("a", Some(THEIRS), 10), Taken::Nothing);
    assert_eq!(followed.held("a"), Some((11, OURS)));
    assert_eq!(followed.shows("a", Some(OURS), 11), Taken::Shown);
    assert_eq!(followed.shows("b", Some(THEIRS), 14), Taken::Changed);
    // The third was deleted.
    assert_eq!(followed.end(15), ["c"]);
    assert_eq!(followed.held("a"), Some((11, OURS)));
    assert_eq!(followed.held("b"), Some((14, THEIRS)));
    assert_eq!((followed.held("c"), followed.waits()), (None, 0));
}

#[test]
fn a_write_that_is_younger_than_the_list_outlives_it() {
    let mut followed = Followed::new();
    assert_eq!(followed.shows("a", Some(THEIRS), 11), Taken::Changed);
    followed.begin();
    // The list, as of 20, has an older one, before and after the answer; and none of the third, which we just made.
    assert_eq!(followed.shows("a", Some(THEIRS), 11), Taken::Nothing);
    assert!(followed.wrote("a", 21));
    assert!(followed.wrote("b", 22));
    assert_eq!(followed.shows("b", Some(THEIRS), 12), Taken::Nothing);
    assert!(followed.wrote("c", 23));
    assert!(followed.end(20).is_empty());
    for (name, number) in [("a", 21), ("b", 22), ("c", 23)] {
        assert_eq!(followed.held(name), Some((number, OURS)));
        assert_eq!(followed.shows(name, Some(OURS), number), Taken::Shown);
    }
    assert_eq!(followed.waits(), 0);
}

#[test]
fn a_write_that_the_list_includes_does_not_outlive_it() {
    let mut followed = Followed::new();
    followed.begin();
    // Of a list of pages as of 20, the first page is older than our answers.
    assert_eq!(followed.shows("a", Some(THEIRS), 15), Taken::Changed);
    assert!(followed.wrote("a", 12));
    assert_eq!(followed.held("a"), Some((15, THEIRS)));
    // Another one deleted the Secret that we made.
    assert!(followed.wrote("b", 13));
    assert_eq!(followed.end(20), ["b"]);
    assert_eq!((followed.held("b"), followed.waits()), (None, 0));
}

#[test]
fn after_a_restore_of_etcd_a_list_replaces_everything_whatever_the_numbers() {
    let mut followed = Followed::new();
    for (name, number) in [("a", 31), ("b", 32), ("c", 33)] {
        assert!(followed.wrote(name, number));
    }
    followed.begin();
    assert_eq!(followed.shows("a", Some(THEIRS), 5), Taken::Nothing);
    // Written after the restore.
    assert!(followed.wrote("c", 8));
    assert_eq!(followed.shows("c", Some(OURS), 8), Taken::Nothing);
    let mut changed = followed.end(8);
    changed.sort();
    assert_eq!(changed, NAMES);
    assert_eq!(followed.held("a"), Some((5, THEIRS)));
    assert_eq!(followed.held("b"), None);
    assert_eq!((followed.held("c"), followed.waits()), (Some((8, OURS)), 0));
}

#[test]
fn a_write_that_the_watch_never_shows_is_forgotten_with_the_next_bookmark() {
    let followed = Followed::new();
    assert!(followed.wrote("a", 12));
    assert!(followed.index.reach("", version(11)).is_empty());
    assert_eq!(followed.held("a"), Some((12, OURS)));
    // As if a webhook had removed our label.
    assert_eq!(followed.index.reach("", version(12)), [key("a")]);
    assert_eq!((followed.held("a"), followed.waits()), (None, 0));
}

#[test]
fn versions_that_are_no_numbers_leave_the_last_word_to_the_watch() {
    let followed = Followed::new();
    assert!(!followed.index.wrote(&key("a"), entry("a", "opaque", OURS)));
    let followed = Followed::listing();
    followed.index.sweep("", followed.epoch, Version::of("opaque"));
    assert!(!followed.wrote("a", 11));
}

#[test]
fn namespaces_that_are_followed_apart_have_versions_of_their_own() {
    let index: Index<SecretEntry> = Index::default();
    for namespace in ["bank", "shop"] {
        let epoch = index.begin(namespace);
        index.sweep(namespace, epoch, version(10));
    }
    let bank = ObjectKey::new("bank", "a");
    let epoch = index.begin("bank");
    // The other one is listed meanwhile.
    let other = index.begin("shop");
    index.sweep("shop", other, version(10));
    assert!(index.wrote(&key("a"), entry("a", "11", OURS)));
    assert!(index.wrote(&bank, entry("a", "12", OURS)));
    assert!(index.sweep("bank", epoch, version(11)).is_empty());
    assert_eq!(index.reach("shop", version(20)), [key("a")]);
    assert!(index.get(&bank).is_some());
    assert_eq!(index.reach("bank", version(20)), [bank]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_lags_is_reported_once_until_it_has_caught_up() {
    let followed = Followed::new();
    let lag = || followed.index.write().writes.lag(tokio::time::Instant::now());
    for round in 0..2 {
        let number = 11 + round * 10;
        assert!(followed.wrote("a", number));
        tokio::time::advance(LATE.saturating_sub(Duration::from_secs(1))).await;
        assert!(followed.wrote("b", number + 1));
        assert_eq!(lag(), None);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(lag(), Some(LATE));
        tokio::time::advance(LATE).await;
        assert_eq!(lag(), None, "it was reported");
        followed.shows("a", Some(OURS), number);
        followed.shows("b", Some(OURS), number + 1);
        assert_eq!(followed.waits(), 0);
    }
}

/// What happens next.
#[derive(Clone, Debug)]
enum Act {
    /// Another one writes an object, or deletes it.
    Theirs(usize, bool),
    /// We write an object, unless we wait for an answer of it.
    Ours(usize),
    /// Our write is answered, or the answer is lost.
    Answer(usize, bool),
    /// The watch brings the next event, or the list its next object.
    Deliver,
    Bookmark,
    /// Everything is listed again; a stream begins with a state that is older by so many versions.
    Relist(usize),
    /// Etcd goes back by so many versions, and everything is listed again.
    Restore(usize),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let name = 0..NAMES.len();
    let act = prop_oneof![
        4 => (name.clone(), any::<bool>()).prop_map(|(name, exists)| Act::Theirs(name, exists)),
        6 => name.clone().prop_map(Act::Ours),
        6 => (name, prop::bool::weighted(0.8)).prop_map(|(name, well)| Act::Answer(name, well)),
        12 => Just(Act::Deliver),
        2 => Just(Act::Bookmark),
        1 => (0..4_usize).prop_map(Act::Relist),
        1 => (0..4_usize).prop_map(Act::Restore),
    ];
    prop::collection::vec(act, 0..120)
}

type Objects = BTreeMap<&'static str, State>;

/// An API server, a follower of it by hand, and one that writes and looks at what changed.
struct World {
    followed: Followed,
    /// The state at each version, and the object that it changed.
    history: Vec<(Objects, &'static str)>,
    /// The version up to which the watch or the stream came.
    watched: usize,
    /// What the list that is under way brings first, and its version.
    list: Option<(Vec<(&'static str, State)>, usize)>,
    /// Our writes that were not answered yet.
    pending: BTreeMap<&'static str, usize>,
    /// The versions that the index must not fall behind, unless the object was deleted later.
    floors: BTreeMap<&'static str, usize>,
    /// What we believe of each object, and what we were told has changed since.
    believed: Objects,
    told: Vec<String>,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            followed: Followed::listing(),
            history: vec![(Objects::new(), "")],
            watched: 0,
            list: None,
            pending: BTreeMap::new(),
            floors: BTreeMap::new(),
            believed: Objects::new(),
            told: Vec::new(),
        };
        world.relist(0);
        world
    }

    fn now(&self) -> usize {
        self.history.len() - 1
    }

    fn change(&mut self, name: &'static str, writer: Option<&'static str>) {
        let mut state = self.history[self.now()].0.clone();
        match writer {
            Some(writer) => drop(state.insert(name, (self.now() + 1, writer))),
            None if state.remove(name).is_none() => return,
            None => {}
        }
        self.history.push((state, name));
    }

    fn relist(&mut self, older: usize) {
        // What was shown already may be older in the list for a moment.
        let watched = self.watched;
        self.floors.retain(|_, floor| *floor > watched);
        self.watched = self.now().saturating_sub(older);
        let items = self.history[self.watched].0.clone().into_iter().collect();
        self.list = Some((items, self.now()));
        self.followed.begin();
    }

    fn show(&mut self, name: &'static str, object: Option<State>, number: usize) {
        let taken = self
            .followed
            .shows(name, object.map(|(_, writer)| writer), number);
        if taken == Taken::Changed {
            self.told.push(name.to_owned());
        }
    }

    fn deliver(&mut self) {
        if let Some((items, listed)) = &mut self.list {
            let listed = *listed;
            if let Some((name, (number, writer))) = items.pop() {
                return self.show(name, Some((number, writer)), number);
            }
            if self.watched == listed {
                self.list = None;
                return self.told.extend(self.followed.end(listed));
            }
        }
        if self.watched < self.now() {
            self.watched += 1;
            let (state, name) = &self.history[self.watched];
            let (object, name) = (state.get(name).copied(), *name);
            self.show(name, object, self.watched);
        }
    }

    /// We look at what we were told of, but not while we write it.
    fn look(&mut self) {
        for name in NAMES {
            let told = self.told.iter().any(|told| told == name);
            if told && !self.pending.contains_key(name) {
                self.told.retain(|told| told != name);
                match self.followed.held(name) {
                    Some(state) => self.believed.insert(name, state),
                    None => self.believed.remove(name),
                };
            }
        }
    }

    fn act(&mut self, act: &Act) {
        match *act {
            Act::Theirs(name, exists) => self.change(NAMES[name], exists.then_some(THEIRS)),
            Act::Ours(name) => {
                let name = NAMES[name];
                if !self.pending.contains_key(name) {
                    self.change(name, Some(OURS));
                    self.pending.insert(name, self.now());
                }
            }
            Act::Answer(name, well) => {
                let name = NAMES[name];
                if let Some(number) = self.pending.remove(name)
                    && well
                {
                    let shown = self.followed.held(name).is_some_and(|(held, _)| held >= number);
                    if !self.followed.wrote(name, number) {
                        self.told.push(name.to_owned());
                    }
                    self.believed.insert(name, (number, OURS));
                    if !shown {
                        self.floors.insert(name, number);
                    }
                }
            }
            Act::Deliver => self.deliver(),
            Act::Bookmark if self.list.is_none() => {
                let unseen = self.followed.index.reach("", version(self.watched));
                assert!(unseen.is_empty(), "the watch shows all that we write: {unseen:?}");
            }
            Act::Bookmark => {}
            Act::Relist(older) => self.relist(older),
            Act::Restore(lost) => {
                self.history.truncate(self.now().saturating_sub(lost) + 1);
                // No answer outlives the server that gave it.
                self.pending.clear();
                self.floors.clear();
                self.relist(0);
                // The numbers are given again, to others.
                self.change(NAMES[0], Some(THEIRS));
            }
        }
        self.look();
    }

    fn assert_not_behind(&self) {
        for (name, floor) in &self.floors {
            let held = self.followed.held(name).map(|(version, _)| version);
            let newest = &self.history[*floor..];
            let was_deleted = newest.iter().any(|(state, _)| !state.contains_key(name));
            assert!(
                held.map_or(was_deleted, |held| held >= *floor),
                "{name} is {held:?} after we wrote {floor}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_change_of_others_is_missed_and_none_of_ours_is_taken_back(acts in acts()) {
        let mut world = World::new();
        for act in &acts {
            world.act(act);
            world.assert_not_behind();
        }
        for name in 0..NAMES.len() {
            world.act(&Act::Answer(name, true));
        }
        while world.list.is_some() || world.watched < world.now() {
            world.act(&Act::Deliver);
            world.assert_not_behind();
        }
        let expected = &world.history[world.now()].0;
        let held: Objects = NAMES
            .iter()
            .filter_map(|name| Some((*name, world.followed.held(name)?)))
            .collect();
        prop_assert_eq!(&held, expected);
        prop_assert_eq!(&world.believed, expected);
        prop_assert_eq!(world.followed.waits(), 0);
    }
}
