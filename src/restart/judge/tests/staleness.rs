use jiff::{SignedDuration, Timestamp};

use crate::{
    api::{RestartStrategy, WorkloadKind},
    cluster::CALL_TIMEOUT,
    restart::{
        judge::{
            membership::Terms,
            staleness::{stale, told_by_template},
        },
        observed::model::{Pod, UpdateStrategy, Use},
        tests::{container, content, env, key, pod, restarted, workload},
        timing::CREATED_MARGIN,
    },
};

fn terms() -> Terms {
    Terms {
        wave: 0,
        strategy: RestartStrategy::Template,
        hot_reload: false,
        uses: true,
    }
}

fn is_stale(terms: Terms, uses: Option<Use>, pod: &Pod) -> bool {
    let mut workload = workload("api");
    workload.uses = uses.into_iter().collect();
    !stale(terms, &workload, &content("db", "t"), &[pod]).is_empty()
}

#[test]
fn a_pod_is_fresh_by_its_age_or_its_token() {
    for (created, token, expected) in [
        (-5000, None, true),
        (10, None, true),
        (11, None, false),
        (3, Some("t"), false),
        (-5000, Some("t"), false),
        (-5000, Some("older"), true),
    ] {
        let mut pod = pod("api", created);
        pod.tokens
            .extend(token.map(|token| ("hash-db".into(), token.into())));
        assert_eq!(
            is_stale(terms(), Some(env("db")), &pod),
            expected,
            "{created} {token:?}"
        );
    }
}

#[test]
fn what_does_not_live_is_not_stale() {
    let mut ending = pod("api", -1);
    ending.ending = true;
    let mut finished = pod("api", -1);
    finished.finished = true;
    for pod in [ending, finished] {
        assert!(!is_stale(terms(), Some(env("db")), &pod));
    }
}

#[test]
fn containers_acquit_an_old_pod_only_if_all_that_hold_the_secret_started_late() {
    let fixed = |names: &[&str], init| Use {
        fixed: names.iter().map(|name| (*name).into()).collect(),
        init,
        ..env("db")
    };
    let mounted = Use {
        fixed: Vec::new(),
        mounted: true,
        ..env("db")
    };
    let table = [
        (fixed(&["app"], false), 60, true),
        (fixed(&["app"], false), 61, false),
        (fixed(&["app", "side"], false), 61, true),
        (fixed(&["app", "gone"], false), 61, true),
        (fixed(&["app"], true), 61, true),
        // Any container may have read a mounted file.
        (mounted, 61, true),
    ];
    for (uses, started, expected) in table {
        let mut pod = pod("api", -5000);
        pod.containers = vec![restarted("app", started), restarted("side", -4000)];
        assert_eq!(
            is_stale(terms(), Some(uses.clone()), &pod),
            expected,
            "{uses:?} {started}"
        );
    }
    let mut all = pod("api", -5000);
    all.containers = vec![restarted("app", 61), restarted("side", 99)];
    let mounted = Use {
        mounted: true,
        ..env("db")
    };
    assert!(!is_stale(terms(), Some(mounted), &all));
    let mut waiting = pod("api", -5000);
    waiting.containers[0].started = None;
    assert!(is_stale(terms(), Some(env("db")), &waiting));
}

#[test]
fn a_clock_that_is_ahead_makes_no_pod_look_newer() {
    // Its first start is dated by the node: two minutes after the change, by a clock that is as much ahead.
    let mut first = pod("api", -5);
    first.containers = vec![container("app", 125)];
    assert!(is_stale(terms(), Some(env("db")), &first));
    for (started, ahead, expected) in [
        (100, 0, false),
        (100, 120, true),
        (180, 120, true),
        (181, 120, false),
    ] {
        let mut again = pod("api", -5000);
        again.containers = vec![restarted("app", started)];
        again.clock_ahead = SignedDuration::from_secs(ahead);
        assert_eq!(
            is_stale(terms(), Some(env("db")), &again),
            expected,
            "{started} {ahead}"
        );
    }
}

#[test]
fn who_reads_files_again_is_not_stale_by_a_mount() {
    let hot = Terms {
        hot_reload: true,
        ..terms()
    };
    let mounted = Use {
        fixed: Vec::new(),
        mounted: true,
        ..env("db")
    };
    assert!(!is_stale(hot, Some(mounted.clone()), &pod("api", -1)));
    assert!(is_stale(terms(), Some(mounted), &pod("api", -1)));
    assert!(is_stale(hot, Some(env("db")), &pod("api", -1)));
    // The template does not name the Secret: an annotation on the workload asks for the restart.
    assert!(is_stale(hot, None, &pod("api", -1)));
}

#[test]
fn a_template_tells_only_once_every_pod_is_of_it() {
    let deployment = key(WorkloadKind::Deployment, "api");
    let told = |workload: &crate::restart::observed::model::Workload| {
        told_by_template(&deployment, workload, &content("db", "t"))
    };
    assert!(!told(&workload("api")));
    let mut carries = workload("api");
    carries.stamps.tokens.insert("hash-db".into(), "t".into());
    assert!(told(&carries));
    for change in [
        |workload: &mut crate::restart::observed::model::Workload| workload.generation = 2,
        |workload: &mut crate::restart::observed::model::Workload| workload.controller.progress.total = 2,
        |workload: &mut crate::restart::observed::model::Workload| workload.controller.progress.updated = 0,
        |workload: &mut crate::restart::observed::model::Workload| {
            workload.controller.update = UpdateStrategy::OnDelete;
        },
        |workload: &mut crate::restart::observed::model::Workload| {
            workload.controller.update = UpdateStrategy::Rolling { partition: 1 }
        },
        |workload: &mut crate::restart::observed::model::Workload| {
            workload.controller.borrowed_template = true;
        },
    ] {
        let mut carries = carries.clone();
        change(&mut carries);
        assert!(!told(&carries), "{carries:?}");
    }
}

#[test]
fn the_end_of_time_is_no_end() {
    let mut content = content("db", "t");
    content.changed_at = Some(Timestamp::MAX);
    let pod = pod("api", 0);
    assert_eq!(stale(terms(), &workload("api"), &content, &[&pod]).len(), 1);
}

/// A Secret is written at most this long after the time of change that it names: pods made meanwhile got the old content.
#[test]
fn a_pod_made_while_a_change_was_on_its_way_counts_as_old() {
    let margin = std::time::Duration::try_from(CREATED_MARGIN).unwrap();
    assert_eq!(margin, CALL_TIMEOUT);
}
