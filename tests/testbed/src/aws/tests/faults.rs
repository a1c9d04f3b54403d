//! Faults over the wire, and the record of calls.

use std::time::{Duration, Instant};

use super::{
    super::{AwsEmulator, Fault, Match, Options, Staleness},
    ACCOUNT, bed, code,
};

#[tokio::test]
async fn latency_delays_only_the_calls_it_names() {
    let bed = bed();
    bed.create("a", "x");
    bed.aws.add_fault(
        Match::all().operation("GetSecretValue"),
        Fault::latency(Duration::from_millis(80)),
    );
    let started = Instant::now();
    bed.admin.get_secret_value().secret_id("a").send().await.unwrap();
    assert!(started.elapsed() >= Duration::from_millis(80));
    let line = bed.aws.calls();
    assert_eq!(line.count("GetSecretValue"), 1);
}

#[tokio::test]
async fn throttling_and_server_errors_look_like_awss() {
    let bed = bed();
    bed.create("a", "x");
    let get = || bed.admin.get_secret_value().secret_id("a").send();
    let quota = bed.aws.add_fault(Match::all(), Fault::Quota { per_second: 1.0 });
    assert_eq!(code(&get().await), "ok");
    let throttled = get().await;
    assert_eq!(code(&throttled), "ThrottlingException");
    assert_eq!(
        throttled.unwrap_err().raw_response().unwrap().status().as_u16(),
        400
    );
    bed.aws.remove_fault(quota);
    bed.aws.add_fault(Match::all().secret("a"), Fault::server_error());
    let failed = get().await;
    assert_eq!(code(&failed), "InternalServiceError");
    assert_eq!(failed.unwrap_err().raw_response().unwrap().status().as_u16(), 500);
    assert_eq!(
        code(&bed.admin.describe_secret().secret_id("b").send().await),
        "ResourceNotFoundException"
    );
    bed.aws.clear_faults();
    assert_eq!(code(&get().await), "ok");

    let keys = bed
        .aws
        .create_user(&format!("arn:aws:iam::{ACCOUNT}:user/u"), &[])
        .unwrap();
    let who = || super::sts(&bed.aws, Some(&keys)).get_caller_identity().send();
    for (fault, expected) in [
        (Fault::Throttle { probability: 1.0 }, "Throttling"),
        (
            Fault::error(400, "IDPCommunicationError"),
            "IDPCommunicationError",
        ),
    ] {
        let id = bed.aws.add_fault(Match::all().account(ACCOUNT), fault);
        assert_eq!(code(&who().await), expected);
        bed.aws.remove_fault(id);
    }
    assert_eq!(code(&who().await), "ok");
}

#[tokio::test]
async fn a_reset_connection_and_a_hanging_call_leave_no_answer() {
    let bed = bed();
    bed.create("a", "x");
    let get = || bed.admin.get_secret_value().secret_id("a").send();
    let reset = bed.aws.add_fault(Match::all(), Fault::Reset { probability: 1.0 });
    let error = get().await.unwrap_err();
    assert!(error.as_service_error().is_none(), "no answer came: {error:?}");
    bed.aws.remove_fault(reset);
    assert_eq!(code(&get().await), "ok");

    let hang = bed.aws.add_fault(Match::all(), Fault::Hang { probability: 1.0 });
    assert!(
        tokio::time::timeout(Duration::from_millis(100), get())
            .await
            .is_err()
    );
    bed.aws.remove_fault(hang);
    assert_eq!(code(&get().await), "ok");

    bed.aws.set_unreachable(true);
    assert!(get().await.unwrap_err().as_service_error().is_none());
    bed.aws.set_unreachable(false);
    assert_eq!(code(&get().await), "ok");
    let errors = bed.aws.calls().errors();
    assert_eq!(
        errors[&("GetSecretValue".to_owned(), "ConnectionReset".to_owned())],
        1
    );
    assert_eq!(errors[&("GetSecretValue".to_owned(), "NoAnswer".to_owned())], 1);
}

#[tokio::test]
async fn single_ids_of_a_batch_fail() {
    let bed = bed();
    bed.create("a", "x");
    bed.create("b", "x");
    bed.aws.add_fault(
        Match::all().secret("b"),
        Fault::BatchErrors {
            code: "InternalServiceError".into(),
            probability: 1.0,
        },
    );
    let got = bed
        .admin
        .batch_get_secret_value()
        .secret_id_list("a")
        .secret_id_list("b")
        .send()
        .await
        .unwrap();
    assert_eq!(got.secret_values().len(), 1);
    assert_eq!(got.errors()[0].secret_id(), Some("b"));
    assert_eq!(got.errors()[0].error_code(), Some("InternalServiceError"));
}

#[tokio::test]
async fn one_id_breaks_every_batch_with_it_and_no_other() {
    let bed = bed();
    for name in ["a", "b", "c"] {
        bed.create(name, "x");
    }
    bed.aws.add_fault(
        Match::all().operation("BatchGetSecretValue").secret("b"),
        Fault::server_error(),
    );
    let batch = |ids: [&str; 2]| {
        let ids = ids.map(str::to_owned).to_vec();
        let batch = bed.admin.batch_get_secret_value();
        batch.set_secret_id_list(Some(ids)).send()
    };
    assert_eq!(code(&batch(["a", "b"]).await), "InternalServiceError");
    assert_eq!(code(&batch(["a", "c"]).await), "ok");
    assert_eq!(
        code(&bed.admin.get_secret_value().secret_id("b").send().await),
        "ok"
    );
}

#[tokio::test]
async fn a_lagging_list_and_stale_reads_serve_the_former_state_until_released() {
    let bed = bed();
    let arn = bed.create("a", "one");
    let v1 = bed.aws.stages(&arn).unwrap()["AWSCURRENT"].clone();
    let lag = bed.aws.add_fault(
        Match::all().operation("ListSecrets"),
        Fault::stale(Staleness::Frozen),
    );
    let stale = bed.aws.add_fault(
        Match::all().operation("*GetSecretValue"),
        Fault::stale(Staleness::Frozen),
    );
    let v2 = bed.aws.put_secret_value(&arn, "two").unwrap();
    bed.create("b", "x");

    let list = async || {
        let page = bed.admin.list_secrets().send().await.unwrap();
        page.secret_list()
            .iter()
            .map(|s| {
                (
                    s.name().unwrap().to_owned(),
                    s.secret_versions_to_stages().unwrap().clone(),
                )
            })
            .collect::<Vec<_>>()
    };
    let get = async || {
        bed.admin
            .get_secret_value()
            .secret_id("a")
            .send()
            .await
            .unwrap()
            .version_id()
            .unwrap()
            .to_owned()
    };
    let batch = async || {
        let got = bed
            .admin
            .batch_get_secret_value()
            .secret_id_list("a")
            .send()
            .await
            .unwrap();
        got.secret_values()[0].version_id().unwrap().to_owned()
    };
    let listed = list().await;
    assert_eq!(listed.len(), 1, "b is not seen yet");
    assert_eq!(listed[0].1[&v1], ["AWSCURRENT"]);
    assert_eq!((get().await, batch().await), (v1.clone(), v1.clone()));
    let pinned = bed
        .admin
        .get_secret_value()
        .secret_id("a")
        .version_id(&v2)
        .send()
        .await;
    assert_eq!(code(&pinned), "ResourceNotFoundException");
    let described = bed.admin.describe_secret().secret_id("a").send().await.unwrap();
    assert_eq!(
        described.version_ids_to_stages().unwrap()[&v2],
        ["AWSCURRENT"],
        "Describe is no part of the rules"
    );

    bed.aws.remove_fault(stale);
    assert_eq!((get().await, batch().await), (v2.clone(), v2));
    bed.aws.remove_fault(lag);
    assert_eq!(list().await.len(), 2);
}

#[tokio::test]
async fn a_state_of_some_time_ago_catches_up_by_itself() {
    let bed = bed();
    let arn = bed.create("a", "one");
    let lag = Duration::from_millis(50);
    bed.aws
        .add_fault(Match::all(), Fault::stale(Staleness::Behind(lag)));
    let deadline = Instant::now() + Duration::from_secs(10);
    let wait_for = async |version: &str| {
        loop {
            let got = bed.admin.get_secret_value().secret_id("a").send().await;
            if got.is_ok_and(|got| got.version_id() == Some(version)) {
                return Instant::now();
            }
            assert!(Instant::now() < deadline, "it never caught up");
        }
    };
    wait_for(&bed.aws.stages(&arn).unwrap()["AWSCURRENT"]).await;
    let put = Instant::now();
    let v2 = bed.aws.put_secret_value(&arn, "two").unwrap();
    assert!(wait_for(&v2).await.duration_since(put) >= lag);
}

#[tokio::test]
async fn every_call_leaves_a_line_with_who_what_and_how_it_ended() {
    let bed = bed();
    let arn = bed.create("a", "x");
    bed.create("b", "x");
    let mark = bed.aws.mark();
    bed.admin.get_secret_value().secret_id("a").send().await.unwrap();
    let _ = bed.admin.get_secret_value().secret_id("missing").send().await;
    bed.admin
        .batch_get_secret_value()
        .secret_id_list("a")
        .secret_id_list("b")
        .secret_id_list("missing")
        .send()
        .await
        .unwrap();
    let calls = bed.aws.calls_since(mark);
    assert_eq!(calls.count("GetSecretValue"), 2);
    assert_eq!(calls.count("BatchGetSecretValue"), 1);
    assert_eq!(calls.connections(), 1, "the connection is reused");
    assert_eq!(calls.values_read().len(), 3, "a twice and b once");
    let admin = format!("arn:aws:iam::{ACCOUNT}:user/admin");
    assert_eq!(
        calls
            .readers_of(&arn)
            .into_iter()
            .map(|r| r.to_string())
            .collect::<Vec<_>>(),
        [admin.as_str()]
    );
    let first = &calls.0[0];
    assert_eq!(
        (&*first.principal, first.resource.as_deref()),
        (admin.as_str(), Some(arn.as_str()))
    );
    assert_eq!((&*first.account, first.region.as_str()), (ACCOUNT, super::REGION));
    assert!(first.user_agent.contains("aws-sdk-rust"), "{}", first.user_agent);
    assert_eq!(calls.0[1].error.as_deref(), Some("ResourceNotFoundException"));
    assert_eq!(calls.0.len(), 6, "two calls, a batch, and its three secrets");
    assert!(!format!("{calls:?}").contains("secret_string"));
}

#[tokio::test]
async fn dropping_the_emulator_closes_its_port() {
    let aws = AwsEmulator::start(Options::default()).unwrap();
    let address = aws.url().trim_start_matches("http://").to_owned();
    assert!(tokio::net::TcpStream::connect(&address).await.is_ok());
    drop(aws);
    let deadline = Instant::now() + Duration::from_secs(5);
    while tokio::net::TcpStream::connect(&address).await.is_ok() {
        assert!(Instant::now() < deadline, "the port is still open");
        tokio::task::yield_now().await;
    }
}
