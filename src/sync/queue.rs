//! The order of work: who is reconciled next, and when a failed object is tried again. Pure.
//!
//! Two classes, each round-robin by namespace, so that neither one busy tenant nor a storm of new objects delays the
//! others. An object is worked by one task at a time; what is asked of it meanwhile is remembered and done after.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use crate::api::ObjectKey;

/// Time since an arbitrary start of the process.
pub type Now = Duration;

/// How soon an object should be worked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// What follows by itself: a version that moved, a check that is due.
    Periodic,
    /// Somebody waits for it: a new or edited object, a drifted Secret, a refresh asked for.
    Urgent,
}

const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_mins(5);
/// A namespace may have so many times the places that are free.
const SHARE: usize = 3;
/// Alarms that no longer count and may be kept, besides as many as do count.
const SPENT: usize = 64;

/// Objects that wait, in the order in which they are worked.
#[derive(Debug)]
pub struct Queue {
    limit: usize,
    urgent: Lane,
    periodic: Lane,
    running: HashMap<ObjectKey, Running>,
    /// How many of each namespace; none is 0.
    running_of: HashMap<Arc<str>, usize>,
    running_urgent: usize,
    later: BinaryHeap<Reverse<(Now, ObjectKey, u64)>>,
    /// The one entry of `later` that counts for an object: earlier wishes win.
    alarms: HashMap<ObjectKey, (Now, u64)>,
    alarms_made: u64,
    failures: HashMap<ObjectKey, u32>,
    random: u64,
}

#[derive(Debug)]
struct Running {
    class: Class,
    again: Option<Class>,
}

/// One class: a line per namespace, and the namespaces in turn.
#[derive(Debug, Default)]
struct Lane {
    turns: VecDeque<Arc<str>>,
    lines: HashMap<Arc<str>, VecDeque<ObjectKey>>,
    waiting: HashSet<ObjectKey>,
}

impl Queue {
    /// A queue that lets `limit` objects be worked at once.
    pub fn new(limit: usize, seed: u64) -> Self {
        Self {
            limit,
            urgent: Lane::default(),
            periodic: Lane::default(),
            running: HashMap::new(),
            running_of: HashMap::new(),
            running_urgent: 0,
            later: BinaryHeap::new(),
            alarms: HashMap::new(),
            alarms_made: 0,
            failures: HashMap::new(),
            random: seed,
        }
    }

    /// Asks that `object` be worked. Asking twice is asking once, in the more urgent class.
    pub fn push(&mut self, object: ObjectKey, class: Class) {
        if let Some(running) = self.running.get_mut(&object) {
            running.again = running.again.max(Some(class));
            return;
        }
        self.alarms.remove(&object);
        match class {
            Class::Urgent => {
                self.periodic.remove(&object);
                self.urgent.push(object);
            }
            Class::Periodic if self.urgent.waiting.contains(&object) => {}
            Class::Periodic => self.periodic.push(object),
        }
    }

    /// Asks that `object` be worked at `at`, unless it is worked before.
    pub fn push_at(&mut self, object: ObjectKey, at: Now) {
        if self.urgent.waiting.contains(&object) || self.periodic.waiting.contains(&object) {
            return;
        }
        if self.alarms.get(&object).is_some_and(|(set, _)| *set <= at) {
            return;
        }
        self.alarms_made += 1;
        self.alarms.insert(object.clone(), (at, self.alarms_made));
        self.later.push(Reverse((at, object, self.alarms_made)));
        // What was asked again meanwhile would stay until its time, which may be a day away.
        if self.later.len() > 2 * self.alarms.len() + SPENT {
            let Self { later, alarms, .. } = self;
            later.retain(|Reverse((_, object, made))| {
                alarms.get(object).is_some_and(|(_, counts)| counts == made)
            });
        }
    }

    /// The next object to work, if a place is free. It stays reserved until [`Queue::done`].
    ///
    /// Urgent work goes first but leaves half of the places to periodic work where that waits. A namespace has at most so many
    /// places that a third as many are left free: whatever holds its objects up, others find a place.
    pub fn pop(&mut self, now: Now) -> Option<(ObjectKey, Class)> {
        self.ring(now);
        if self.running.len() >= self.limit {
            return None;
        }
        let urgent_may = self.running_urgent < self.limit.div_ceil(2) || self.periodic.waiting.is_empty();
        let classes = if urgent_may {
            [Class::Urgent, Class::Periodic]
        } else {
            [Class::Periodic, Class::Urgent]
        };
        let (object, class) = classes
            .into_iter()
            .find_map(|class| Some((self.pop_of(class)?, class)))?;
        self.running_urgent += usize::from(class == Class::Urgent);
        *self.running_of.entry(object.namespace.clone()).or_default() += 1;
        self.alarms.remove(&object);
        self.running
            .insert(object.clone(), Running { class, again: None });
        Some((object, class))
    }

    /// The work on `object` ended: gives its place back and queues what was asked meanwhile.
    pub fn done(&mut self, object: &ObjectKey) {
        let Some(running) = self.running.remove(object) else {
            return;
        };
        self.running_urgent -= usize::from(running.class == Class::Urgent);
        if let Some(count) = self.running_of.get_mut(&object.namespace) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.running_of.remove(&object.namespace);
            }
        }
        if let Some(class) = running.again {
            self.push(object.clone(), class);
        }
    }

    /// The next of a class whose namespace may have a further place.
    fn pop_of(&mut self, class: Class) -> Option<ObjectKey> {
        let Self {
            limit,
            urgent,
            periodic,
            running,
            running_of,
            ..
        } = self;
        let lane = match class {
            Class::Urgent => urgent,
            Class::Periodic => periodic,
        };
        let free = limit.saturating_sub(running.len());
        lane.pop(|namespace| running_of.get(namespace).copied().unwrap_or_default() < SHARE * free)
    }

    /// How long to wait after another failure of `object`: 1 s, doubled up to 5 min, each cut by up to a half at random.
    pub fn backoff(&mut self, object: &ObjectKey) -> Duration {
        let failures = self.failures.entry(object.clone()).or_insert(0);
        let doubled = FIRST_BACKOFF.saturating_mul(1_u32 << (*failures).min(9));
        *failures = failures.saturating_add(1);
        let longest = doubled.min(LONGEST_BACKOFF);
        // splitmix64: small, and the same in every run of a test.
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let per_mille = u32::try_from((z ^ (z >> 31)) % 501).unwrap_or(0);
        longest.saturating_sub(longest * per_mille / 1000)
    }

    /// Forgets the failures of `object`: it worked, was changed, or is gone.
    pub fn forgive(&mut self, object: &ObjectKey) {
        self.failures.remove(object);
    }

    /// When [`Queue::pop`] may have more than now: the next alarm. Later than the last `pop`, which rings what is due.
    pub fn next_alarm(&mut self) -> Option<Now> {
        while let Some(Reverse((at, object, made))) = self.later.peek() {
            if self.alarms.get(object).is_some_and(|(_, counts)| counts == made) {
                return Some(*at);
            }
            self.later.pop();
        }
        None
    }

    /// How many objects wait, by class.
    pub fn waiting(&self) -> (usize, usize) {
        (self.urgent.waiting.len(), self.periodic.waiting.len())
    }

    /// How many objects are worked.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Turns alarms that are due into periodic work.
    fn ring(&mut self, now: Now) {
        while self.next_alarm().is_some_and(|at| at <= now) {
            let Some(Reverse((_, object, _))) = self.later.pop() else {
                return;
            };
            self.alarms.remove(&object);
            self.push(object, Class::Periodic);
        }
    }
}

impl Lane {
    fn push(&mut self, object: ObjectKey) {
        if !self.waiting.insert(object.clone()) {
            return;
        }
        let line = self.lines.entry(object.namespace.clone()).or_default();
        if line.is_empty() {
            self.turns.push_back(object.namespace.clone());
        }
        line.push_back(object);
    }

    /// The first of the namespaces in turn that may have a place.
    fn pop(&mut self, may: impl Fn(&str) -> bool) -> Option<ObjectKey> {
        for _ in 0..self.turns.len() {
            let namespace = self.turns.pop_front()?;
            if !may(&namespace) {
                self.turns.push_back(namespace);
                continue;
            }
            let Some(line) = self.lines.get_mut(&namespace) else {
                continue;
            };
            // What moved to the other class is still in line, but no longer waits here.
            let next = loop {
                match line.pop_front() {
                    Some(object) if self.waiting.remove(&object) => break Some(object),
                    Some(_) => {}
                    None => break None,
                }
            };
            if line.is_empty() {
                self.lines.remove(&namespace);
            } else {
                self.turns.push_back(namespace);
            }
            if next.is_some() {
                return next;
            }
        }
        None
    }

    fn remove(&mut self, object: &ObjectKey) {
        self.waiting.remove(object);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(namespace: &str, name: &str) -> ObjectKey {
        ObjectKey::new(namespace, name)
    }

    fn drain(queue: &mut Queue) -> Vec<String> {
        let mut names = Vec::new();
        while let Some((object, _)) = queue.pop(Now::ZERO) {
            queue.done(&object);
            names.push(object.to_string());
        }
        names
    }

    #[test]
    fn namespaces_take_turns() {
        let mut queue = Queue::new(8, 1);
        for name in ["a", "b", "c"] {
            queue.push(key("busy", name), Class::Urgent);
        }
        queue.push(key("quiet", "x"), Class::Urgent);
        assert_eq!(drain(&mut queue), ["busy/a", "quiet/x", "busy/b", "busy/c"]);
    }

    #[test]
    fn an_object_is_worked_by_one_task_and_once_more_when_asked_meanwhile() {
        let mut queue = Queue::new(8, 1);
        queue.push(key("n", "a"), Class::Periodic);
        queue.push(key("n", "a"), Class::Periodic);
        let (object, _) = queue.pop(Now::ZERO).unwrap();
        queue.push(object.clone(), Class::Periodic);
        queue.push(object.clone(), Class::Urgent);
        assert_eq!(queue.pop(Now::ZERO), None);
        queue.done(&object);
        assert_eq!(queue.pop(Now::ZERO), Some((object.clone(), Class::Urgent)));
        queue.done(&object);
        assert_eq!(queue.pop(Now::ZERO), None);
    }

    #[test]
    fn urgent_work_leaves_half_of_the_places_to_periodic_work() {
        let mut queue = Queue::new(4, 1);
        for i in 0..8 {
            queue.push(key(&format!("n{i}"), "urgent"), Class::Urgent);
        }
        for i in 0..8 {
            queue.push(key(&format!("n{i}"), "periodic"), Class::Periodic);
        }
        let classes: Vec<_> = std::iter::from_fn(|| queue.pop(Now::ZERO))
            .map(|(_, class)| class)
            .collect();
        assert_eq!(
            classes,
            [Class::Urgent, Class::Urgent, Class::Periodic, Class::Periodic]
        );
    }

    #[test]
    fn urgent_work_takes_every_place_when_nothing_else_waits() {
        let mut queue = Queue::new(4, 1);
        for i in 0..8 {
            queue.push(key(&format!("n{i}"), "urgent"), Class::Urgent);
        }
        assert_eq!(std::iter::from_fn(|| queue.pop(Now::ZERO)).count(), 4);
    }

    #[test]
    fn a_more_urgent_wish_moves_an_object_up() {
        let mut queue = Queue::new(8, 1);
        queue.push(key("n", "a"), Class::Periodic);
        queue.push(key("n", "a"), Class::Urgent);
        assert_eq!(queue.waiting(), (1, 0));
        assert_eq!(drain(&mut queue), ["n/a"]);
        queue.push(key("n", "a"), Class::Periodic);
        assert_eq!(drain(&mut queue), ["n/a"]);
    }

    #[test]
    fn the_earliest_alarm_counts_and_rings_once() {
        let mut queue = Queue::new(8, 1);
        queue.push_at(key("n", "a"), Duration::from_secs(9));
        queue.push_at(key("n", "a"), Duration::from_secs(5));
        queue.push_at(key("n", "a"), Duration::from_secs(7));
        assert_eq!(queue.next_alarm(), Some(Duration::from_secs(5)));
        assert_eq!(queue.pop(Duration::from_secs(4)), None);
        let (object, class) = queue.pop(Duration::from_secs(5)).unwrap();
        assert_eq!(class, Class::Periodic);
        queue.done(&object);
        assert_eq!(queue.pop(Duration::from_secs(20)), None);
        assert_eq!(queue.next_alarm(), None);
    }

    #[test]
    fn an_alarm_that_is_due_is_rung_though_every_place_is_taken() {
        let mut queue = Queue::new(1, 1);
        queue.push(key("n", "a"), Class::Urgent);
        assert!(queue.pop(Now::ZERO).is_some());
        queue.push_at(key("n", "b"), Duration::from_secs(5));
        assert_eq!(queue.pop(Duration::from_secs(5)), None);
        assert_eq!(queue.next_alarm(), None);
        assert_eq!(queue.waiting(), (0, 1));
    }

    #[test]
    fn alarms_set_over_and_over_take_no_more_memory() {
        let mut queue = Queue::new(8, 1);
        for i in 0..10_000 {
            queue.push_at(key("n", "a"), Duration::from_secs(86_400 + i));
            queue.push(key("n", "a"), Class::Periodic);
            let (object, _) = queue.pop(Now::ZERO).unwrap();
            queue.done(&object);
        }
        queue.push_at(key("n", "a"), Duration::from_secs(7));
        assert!(queue.later.len() <= 2 * SPENT, "{}", queue.later.len());
        assert_eq!(queue.next_alarm(), Some(Duration::from_secs(7)));
    }

    #[test]
    fn an_alarm_of_a_running_object_rings_after_it() {
        let mut queue = Queue::new(8, 1);
        queue.push(key("n", "a"), Class::Urgent);
        let (object, _) = queue.pop(Now::ZERO).unwrap();
        queue.push_at(object.clone(), Duration::from_secs(5));
        assert_eq!(queue.pop(Duration::from_secs(6)), None);
        queue.done(&object);
        assert_eq!(queue.pop(Duration::from_secs(6)), Some((object, Class::Periodic)));
    }

    #[test]
    fn back_off_doubles_up_to_five_minutes_and_is_forgiven() {
        let mut queue = Queue::new(8, 1);
        let object = key("n", "a");
        let mut longest = Duration::from_secs(1);
        for _ in 0..12 {
            let wait = queue.backoff(&object);
            assert!(wait <= longest && wait >= longest / 2, "{wait:?} of {longest:?}");
            longest = (longest * 2).min(LONGEST_BACKOFF);
        }
        queue.forgive(&object);
        assert!(queue.backoff(&object) <= Duration::from_secs(1));
    }

    #[test]
    fn two_namespaces_whose_work_hangs_leave_places_to_the_others() {
        let mut queue = Queue::new(384, 1);
        for n in 0..1000 {
            queue.push(key("a", &n.to_string()), Class::Urgent);
            queue.push(key("a", &format!("p{n}")), Class::Periodic);
        }
        let mut running = 0;
        while queue.pop(Now::ZERO).is_some() {
            running += 1;
        }
        assert_eq!(running, 288, "one alone has three quarters");
        for n in 0..1000 {
            queue.push(key("b", &n.to_string()), Class::Urgent);
        }
        while queue.pop(Now::ZERO).is_some() {
            running += 1;
        }
        assert_eq!(running, 288 + 72, "the next three quarters of the rest");
        for n in 0..10 {
            queue.push(key("victim", &n.to_string()), Class::Urgent);
        }
        for n in 0..10 {
            let next = queue.pop(Now::ZERO).map(|(object, _)| object);
            assert_eq!(next, Some(key("victim", &n.to_string())));
        }
        // What ends gives its place back, in turn.
        queue.done(&key("a", "0"));
        assert_eq!(queue.pop(Now::ZERO), None, "both have more than their share");
    }
}
