//! Values, versions and the limits of what may be written.

use aws_sdk_secretsmanager::{primitives::Blob, types::Tag};

use super::{ACCOUNT, REGION, bed, code, message};

const T1: &str = "00000000-0000-4000-8000-000000000001";
const T2: &str = "00000000-0000-4000-8000-000000000002";

#[tokio::test]
async fn a_created_secret_reads_back_by_name_arn_and_partial_arn() {
    let bed = bed();
    let created = bed
        .admin
        .create_secret()
        .name("prod/db")
        .secret_string("one")
        .client_request_token(T1)
        .send()
        .await
        .unwrap();
    let arn = created.arn().unwrap();
    assert_eq!(
        arn.len(),
        format!("arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:prod/db-XXXXXX").len()
    );
    let partial = arn.rsplit_once('-').unwrap().0;
    for id in ["prod/db", arn, partial] {
        let got = bed.admin.get_secret_value().secret_id(id).send().await.unwrap();
        assert_eq!(got.secret_string(), Some("one"), "{id}");
        assert_eq!(
            (got.arn(), got.name(), got.version_id()),
            (Some(arn), Some("prod/db"), Some(T1))
        );
        assert_eq!(got.version_stages(), ["AWSCURRENT"]);
    }
    let with_suffix = arn.rsplit_once(':').unwrap().1;
    let got = bed.admin.get_secret_value().secret_id(with_suffix).send().await;
    assert_eq!(
        code(&got),
        "ResourceNotFoundException",
        "a name with the suffix is not a name"
    );
    assert_eq!(message(&got), "Secrets Manager can't find the specified secret.");
}

#[tokio::test]
async fn a_partial_arn_of_a_name_that_ends_like_a_suffix_is_not_found() {
    let bed = bed();
    let arn = bed.create("prod/db-backup", "x");
    let partial = arn.rsplit_once('-').unwrap().0;
    assert_eq!(
        code(&bed.admin.get_secret_value().secret_id(partial).send().await),
        "ResourceNotFoundException"
    );
    assert_eq!(
        code(&bed.admin.get_secret_value().secret_id(&arn).send().await),
        "ok"
    );
    assert_eq!(
        code(
            &bed.admin
                .get_secret_value()
                .secret_id("prod/db-backup")
                .send()
                .await
        ),
        "ok"
    );
}

#[tokio::test]
async fn a_read_names_what_it_does_not_find() {
    let bed = bed();
    let arn = bed.create("a", "one");
    let v1 = bed.aws.stages(&arn).unwrap().remove("AWSCURRENT").unwrap();
    let v2 = bed.aws.put_secret_value(&arn, "two").unwrap();
    bed.aws.begin_rotation(&arn).unwrap();
    for (version, stage, expected, text) in [
        (None, None, "ok", ""),
        (None, Some("AWSPREVIOUS"), "ok", ""),
        (Some(v1.as_str()), None, "ok", ""),
        (Some(v1.as_str()), Some("AWSPREVIOUS"), "ok", ""),
        (
            Some(v1.as_str()),
            Some("AWSCURRENT"),
            "InvalidRequestException",
            "You provided a VersionStage that is not associated to the provided VersionId.",
        ),
        (
            Some(T1),
            None,
            "ResourceNotFoundException",
            "Secrets Manager can't find the specified secret value for VersionId: 00000000-0000-4000-8000-000000000001",
        ),
        (
            None,
            Some("NONE"),
            "ResourceNotFoundException",
            "Secrets Manager can't find the specified secret value for staging label: NONE",
        ),
        (
            None,
            Some("AWSPENDING"),
            "ResourceNotFoundException",
            "Secrets Manager can't find the specified secret value for staging label: AWSPENDING",
        ),
        (Some("short"), None, "ValidationException", "1 validation error"),
    ] {
        let got = bed
            .admin
            .get_secret_value()
            .secret_id("a")
            .set_version_id(version.map(Into::into))
            .set_version_stage(stage.map(Into::into))
            .send()
            .await;
        assert_eq!(code(&got), expected, "{version:?} {stage:?}");
        assert!(message(&got).starts_with(text), "{}", message(&got));
    }
    let described = bed.admin.describe_secret().secret_id("a").send().await.unwrap();
    let stages = described.version_ids_to_stages().unwrap();
    assert_eq!(stages.len(), 3, "the placeholder is there: {stages:?}");
    assert_eq!(stages[&v2], ["AWSCURRENT"]);
}

#[tokio::test]
async fn a_binary_value_stays_binary() {
    let bed = bed();
    let bytes = [0_u8, 159, 146, 150];
    bed.admin
        .create_secret()
        .name("bin")
        .secret_binary(Blob::new(bytes))
        .send()
        .await
        .unwrap();
    let got = bed
        .admin
        .get_secret_value()
        .secret_id("bin")
        .send()
        .await
        .unwrap();
    assert_eq!(got.secret_binary().unwrap().as_ref(), bytes);
    assert_eq!(got.secret_string(), None);
    let batch = bed
        .admin
        .batch_get_secret_value()
        .secret_id_list("bin")
        .send()
        .await
        .unwrap();
    assert_eq!(batch.secret_values()[0].secret_binary().unwrap().as_ref(), bytes);
}

#[tokio::test]
async fn a_name_outside_the_rules_is_refused() {
    let bed = bed();
    let (long, longest) = ("x".repeat(513), "x".repeat(512));
    for (name, expected) in [
        ("ok/with_+=.@-9", "ok"),
        (longest.as_str(), "ok"),
        (long.as_str(), "ValidationException"),
        ("", "ValidationException"),
        ("with space", "ValidationException"),
        ("umlaut-ä", "ValidationException"),
        ("colon:", "ValidationException"),
    ] {
        let got = bed
            .admin
            .create_secret()
            .name(name)
            .secret_string("x")
            .send()
            .await;
        assert_eq!(code(&got), expected, "{name}");
    }
}

#[tokio::test]
async fn a_value_outside_the_rules_is_refused() {
    let bed = bed();
    bed.create("a", "x");
    for (text, binary, expected) in [
        (Some(65_536), None, "ok"),
        (None, Some(65_536), "ok"),
        (Some(65_537), None, "ValidationException"),
        (None, Some(65_537), "ValidationException"),
        (Some(0), None, "ValidationException"),
        (Some(1), Some(1), "InvalidParameterException"),
        (None, None, "InvalidRequestException"),
    ] {
        let got = bed
            .admin
            .put_secret_value()
            .secret_id("a")
            .set_secret_string(text.map(|n| "s".repeat(n)))
            .set_secret_binary(binary.map(|n| Blob::new(vec![7; n])))
            .send()
            .await;
        assert_eq!(code(&got), expected, "{text:?} {binary:?}");
    }
}

#[tokio::test]
async fn writes_are_idempotent_by_their_token() {
    let bed = bed();
    let create = |value: &str, token: &str| {
        bed.admin
            .create_secret()
            .name("a")
            .secret_string(value)
            .client_request_token(token)
            .send()
    };
    assert_eq!(code(&create("one", T1).await), "ok");
    assert_eq!(code(&create("one", T1).await), "ok");
    assert_eq!(code(&create("two", T1).await), "ResourceExistsException");
    assert_eq!(code(&create("one", T2).await), "ResourceExistsException");
    let put = |value: &str, token: &str| {
        bed.admin
            .put_secret_value()
            .secret_id("a")
            .secret_string(value)
            .client_request_token(token)
            .send()
    };
    assert_eq!(put("two", T2).await.unwrap().version_stages(), ["AWSCURRENT"]);
    assert_eq!(code(&put("two", T2).await), "ok");
    assert_eq!(code(&put("three", T2).await), "ResourceExistsException");
    let described = bed.admin.describe_secret().secret_id("a").send().await.unwrap();
    assert_eq!(described.version_ids_to_stages().unwrap()[T1], ["AWSPREVIOUS"]);
    assert_eq!(code(&put("x", "short").await), "ValidationException");
}

#[tokio::test]
async fn labels_and_tags_have_limits() {
    let bed = bed();
    bed.create("a", "x");
    let labels = |n: usize| (0..n).map(|n| format!("L{n}")).collect::<Vec<_>>();
    let put = |n| {
        bed.admin
            .put_secret_value()
            .secret_id("a")
            .secret_string("y")
            .set_version_stages(Some(labels(n)))
            .send()
    };
    assert_eq!(code(&put(20).await), "ok");
    assert_eq!(code(&put(21).await), "ValidationException");
    let tag = |n: usize| {
        let tags = (0..n)
            .map(|n| Tag::builder().key(format!("k{n}")).value("v").build())
            .collect();
        bed.admin
            .tag_resource()
            .secret_id("a")
            .set_tags(Some(tags))
            .send()
    };
    assert_eq!(code(&tag(51).await), "InvalidParameterException");
    assert_eq!(code(&tag(50).await), "ok");
    bed.admin
        .untag_resource()
        .secret_id("a")
        .tag_keys("k0")
        .send()
        .await
        .unwrap();
    assert_eq!(
        bed.admin
            .describe_secret()
            .secret_id("a")
            .send()
            .await
            .unwrap()
            .tags()
            .len(),
        49
    );
}

#[tokio::test]
async fn a_deleted_secret_is_marked_restored_or_gone_and_comes_back_as_another() {
    let bed = bed();
    let arn = bed.create("a", "x");
    for (days, force, expected) in [
        (Some(6), None, "InvalidParameterException"),
        (Some(31), None, "InvalidParameterException"),
        (Some(7), Some(true), "InvalidParameterException"),
        (Some(7), None, "ok"),
        (None, None, "InvalidRequestException"),
    ] {
        let got = bed
            .admin
            .delete_secret()
            .secret_id("a")
            .set_recovery_window_in_days(days)
            .set_force_delete_without_recovery(force)
            .send()
            .await;
        assert_eq!(code(&got), expected, "{days:?} {force:?}");
    }
    let got = bed.admin.get_secret_value().secret_id("a").send().await;
    assert_eq!(code(&got), "InvalidRequestException");
    assert_eq!(
        message(&got),
        "You can't perform this operation on the secret because it was marked for deletion."
    );
    assert_eq!(
        code(
            &bed.admin
                .put_secret_value()
                .secret_id("a")
                .secret_string("y")
                .send()
                .await
        ),
        "InvalidRequestException"
    );
    assert_eq!(
        code(&bed.admin.create_secret().name("a").send().await),
        "InvalidRequestException"
    );
    assert!(
        bed.admin
            .describe_secret()
            .secret_id("a")
            .send()
            .await
            .unwrap()
            .deleted_date()
            .is_some()
    );
    let batch = bed
        .admin
        .batch_get_secret_value()
        .secret_id_list("a")
        .send()
        .await
        .unwrap();
    assert_eq!(batch.errors()[0].error_code(), Some("InvalidRequestException"));

    bed.admin.restore_secret().secret_id("a").send().await.unwrap();
    assert_eq!(
        code(&bed.admin.get_secret_value().secret_id("a").send().await),
        "ok"
    );

    for _ in 0..2 {
        let forced = bed
            .admin
            .delete_secret()
            .secret_id("a")
            .force_delete_without_recovery(true)
            .send()
            .await;
        assert_eq!(code(&forced), "ok", "forcing what is gone succeeds too");
    }
    assert_eq!(
        code(&bed.admin.describe_secret().secret_id("a").send().await),
        "ResourceNotFoundException"
    );
    let again = bed.create("a", "y");
    assert_ne!(again, arn);
    assert_eq!(
        code(&bed.admin.get_secret_value().secret_id(&arn).send().await),
        "ResourceNotFoundException"
    );
    assert_eq!(
        bed.admin
            .get_secret_value()
            .secret_id("a")
            .send()
            .await
            .unwrap()
            .secret_string(),
        Some("y")
    );
}

#[tokio::test]
async fn a_secret_without_a_value_has_no_version() {
    let bed = bed();
    let created = bed.admin.create_secret().name("a").send().await.unwrap();
    assert_eq!(created.version_id(), None);
    let described = bed.admin.describe_secret().secret_id("a").send().await.unwrap();
    assert!(described.version_ids_to_stages().is_none());
    let got = bed.admin.get_secret_value().secret_id("a").send().await;
    assert_eq!(
        message(&got),
        "Secrets Manager can't find the specified secret value for staging label: AWSCURRENT"
    );
}

#[tokio::test]
async fn a_label_is_moved_over_the_wire_as_aws_demands() {
    let bed = bed();
    let arn = bed.create("a", "one");
    let v1 = bed.aws.stages(&arn).unwrap()["AWSCURRENT"].clone();
    let v2 = bed.aws.put_secret_value(&arn, "two").unwrap();
    let refused = bed
        .admin
        .update_secret_version_stage()
        .secret_id("a")
        .version_stage("AWSCURRENT")
        .move_to_version_id(&v1)
        .send()
        .await;
    assert_eq!(code(&refused), "InvalidParameterException");
    bed.admin
        .update_secret_version_stage()
        .secret_id("a")
        .version_stage("AWSCURRENT")
        .move_to_version_id(&v1)
        .remove_from_version_id(&v2)
        .send()
        .await
        .unwrap();
    assert_eq!(bed.aws.stages(&arn).unwrap()["AWSPREVIOUS"], v2);
    assert_eq!(
        bed.admin
            .get_secret_value()
            .secret_id("a")
            .send()
            .await
            .unwrap()
            .secret_string(),
        Some("one")
    );
}

#[tokio::test]
async fn a_rotation_goes_through_its_four_steps() {
    let bed = bed();
    let arn = bed.create("a", "one");
    let refused = bed.admin.rotate_secret().secret_id("a").send().await;
    assert_eq!(
        code(&refused),
        "InvalidRequestException",
        "no function to rotate with"
    );
    let lambda = format!("arn:aws:lambda:{REGION}:{ACCOUNT}:function:rotate");
    bed.admin
        .rotate_secret()
        .secret_id("a")
        .rotation_lambda_arn(&lambda)
        .client_request_token(T2)
        .send()
        .await
        .unwrap();
    let again = bed.admin.rotate_secret().secret_id("a").send().await;
    assert_eq!(code(&again), "InvalidRequestException", "one rotation at a time");

    let rotation = bed.aws.rotation(&arn).unwrap().unwrap();
    assert_eq!(rotation.version_id(), T2);
    assert!(rotation.set_secret().is_err(), "there is no value yet");
    rotation.create_secret("two").unwrap();
    let read = async |stage: &str| {
        let got = bed
            .admin
            .get_secret_value()
            .secret_id("a")
            .version_stage(stage)
            .send()
            .await;
        got.map(|g| g.secret_string().unwrap().to_owned())
            .map_err(|e| code::<(), _>(&Err(e)))
    };
    assert_eq!(read("AWSCURRENT").await, Ok("one".to_owned()));
    assert_eq!(read("AWSPENDING").await, Ok("two".to_owned()));
    rotation.set_secret().unwrap();
    rotation.test_secret().unwrap();
    rotation.finish_secret().unwrap();
    assert_eq!(read("AWSCURRENT").await, Ok("two".to_owned()));
    assert_eq!(read("AWSPREVIOUS").await, Ok("one".to_owned()));
    assert_eq!(
        read("AWSPENDING").await,
        Err("ResourceNotFoundException".to_owned())
    );
    let described = bed.admin.describe_secret().secret_id("a").send().await.unwrap();
    assert!(described.last_rotated_date().is_some() && described.rotation_enabled() == Some(true));
    assert!(bed.aws.rotation(&arn).unwrap().is_none());
}

#[test]
fn a_rotation_is_abandoned_by_a_put() {
    let bed = bed();
    let arn = bed.create("a", "one");
    let rotation = bed.aws.begin_rotation(&arn).unwrap();
    rotation.create_secret("two").unwrap();
    let manual = bed.aws.put_secret_value(&arn, "manual").unwrap();
    assert!(rotation.finish_secret().is_err());
    let stages = bed.aws.stages(&arn).unwrap();
    assert_eq!(stages["AWSCURRENT"], manual);
    assert_eq!(stages["AWSPENDING"], rotation.version_id());
}

#[tokio::test]
async fn metadata_moves_the_date_of_change_but_no_version() {
    let bed = bed();
    bed.create("a", "one");
    let before = bed.admin.describe_secret().secret_id("a").send().await.unwrap();
    bed.admin
        .update_secret()
        .secret_id("a")
        .description("new")
        .send()
        .await
        .unwrap();
    let after = bed.admin.describe_secret().secret_id("a").send().await.unwrap();
    assert_eq!(before.version_ids_to_stages(), after.version_ids_to_stages());
    assert_eq!(after.description(), Some("new"));
    assert!(after.last_changed_date() >= before.last_changed_date());
}

#[tokio::test]
async fn deprecated_versions_are_listed_only_on_demand() {
    let bed = bed();
    let arn = bed.create("a", "one");
    for value in ["two", "three"] {
        bed.aws.put_secret_value(&arn, value).unwrap();
    }
    bed.aws.begin_rotation(&arn).unwrap();
    let list = async |deprecated| {
        let got = bed
            .admin
            .list_secret_version_ids()
            .secret_id("a")
            .include_deprecated(deprecated)
            .send()
            .await;
        got.unwrap().versions().len()
    };
    assert_eq!(list(false).await, 2, "the placeholder holds no value");
    assert_eq!(list(true).await, 3);
}
