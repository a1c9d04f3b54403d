//! Batches and listings.

use std::collections::BTreeSet;

use aws_sdk_secretsmanager::types::{Filter, FilterNameStringType, SortByType, SortOrderType};

use super::{ACCOUNT, Bed, REGION, bed, code};

fn filter(key: &str, values: &[&str]) -> Filter {
    let values = values.iter().map(|v| (*v).to_owned()).collect();
    Filter::builder()
        .key(FilterNameStringType::from(key))
        .set_values(Some(values))
        .build()
}

async fn names(bed: &Bed, filters: &[Filter]) -> Vec<String> {
    let page = bed
        .admin
        .list_secrets()
        .set_filters(Some(filters.to_vec()))
        .send()
        .await
        .unwrap();
    page.secret_list()
        .iter()
        .map(|s| s.name().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn a_batch_reads_twenty_and_reports_each_failure_by_its_id() {
    let bed = bed();
    let ids: Vec<String> = (0..21)
        .map(|n| bed.create(&format!("s{n}"), &format!("v{n}")))
        .collect();
    let batch = |ids: &[String]| {
        bed.admin
            .batch_get_secret_value()
            .set_secret_id_list(Some(ids.to_vec()))
            .send()
    };
    assert_eq!(code(&batch(&ids).await), "ValidationException");
    let got = batch(&ids[..20]).await.unwrap();
    let values: Vec<_> = got
        .secret_values()
        .iter()
        .map(|v| v.secret_string().unwrap())
        .collect();
    assert_eq!(values, (0..20).map(|n| format!("v{n}")).collect::<Vec<_>>());

    let mixed = [
        "s0".to_owned(),
        "missing".to_owned(),
        format!("arn:aws:secretsmanager:{REGION}:444455556666:secret:x-AbCdEf"),
    ];
    let got = batch(&mixed).await.unwrap();
    assert_eq!(got.secret_values().len(), 1);
    let errors: Vec<_> = got
        .errors()
        .iter()
        .map(|e| (e.secret_id().unwrap(), e.error_code().unwrap()))
        .collect();
    assert_eq!(
        errors,
        [
            (mixed[1].as_str(), "ResourceNotFoundException"),
            (mixed[2].as_str(), "ResourceNotFoundException")
        ]
    );
}

#[tokio::test]
async fn a_batch_takes_either_ids_or_filters() {
    let bed = bed();
    bed.create("a", "x");
    let batch = || bed.admin.batch_get_secret_value();
    for (request, expected) in [
        (batch(), "InvalidParameterException"),
        (
            batch().secret_id_list("a").filters(filter("name", &["a"])),
            "InvalidParameterException",
        ),
        (
            batch().secret_id_list("a").max_results(5),
            "InvalidParameterException",
        ),
        (
            batch().filters(filter("name", &["a"])).max_results(21),
            "ValidationException",
        ),
        (batch().filters(filter("name", &["a"])).max_results(20), "ok"),
    ] {
        assert_eq!(code(&request.send().await), expected);
    }
}

#[tokio::test]
async fn a_batch_with_filters_pages_by_twenty() {
    let bed = bed();
    for n in 0..45 {
        bed.create(&format!("s{n:02}"), "x");
    }
    let (mut token, mut pages) = (None, Vec::new());
    loop {
        let got = bed
            .admin
            .batch_get_secret_value()
            .filters(filter("name", &["s"]))
            .set_next_token(token)
            .send()
            .await
            .unwrap();
        pages.push(got.secret_values().len());
        token = got.next_token().map(ToOwned::to_owned);
        if token.is_none() {
            break;
        }
    }
    assert_eq!(pages, [20, 20, 5]);
}

#[tokio::test]
async fn a_listing_pages_through_everything_once_in_each_order() {
    let bed = bed();
    for n in 0..250 {
        bed.create(&format!("s{:03}", (n * 7) % 250), "x");
    }
    for sort in [
        None,
        Some(SortByType::Name),
        Some(SortByType::CreatedDate),
        Some(SortByType::LastChangedDate),
    ] {
        for order in [SortOrderType::Asc, SortOrderType::Desc] {
            let (mut token, mut pages, mut names) = (None, Vec::new(), Vec::new());
            loop {
                let got = bed
                    .admin
                    .list_secrets()
                    .set_sort_by(sort.clone())
                    .sort_order(order.clone())
                    .max_results(100)
                    .set_next_token(token)
                    .send()
                    .await
                    .unwrap();
                pages.push(got.secret_list().len());
                names.extend(got.secret_list().iter().map(|s| s.name().unwrap().to_owned()));
                token = got.next_token().map(ToOwned::to_owned);
                if token.is_none() {
                    break;
                }
            }
            assert_eq!(pages, [100, 100, 50], "{sort:?} {order:?}");
            assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), 250);
            if sort == Some(SortByType::Name) {
                let mut sorted = names.clone();
                sorted.sort();
                if order == SortOrderType::Desc {
                    sorted.reverse();
                }
                assert_eq!(names, sorted);
            }
        }
    }
}

#[tokio::test]
async fn a_page_goes_on_where_the_last_one_ended_though_that_secret_is_gone() {
    let bed = bed();
    let arns: Vec<_> = (0..4).map(|n| bed.create(&format!("s{n}"), "x")).collect();
    let first = bed.admin.list_secrets().max_results(2).send().await.unwrap();
    bed.aws.force_delete_secret(&arns[1]).unwrap();
    let second = bed
        .admin
        .list_secrets()
        .max_results(2)
        .set_next_token(first.next_token().map(Into::into))
        .send()
        .await
        .unwrap();
    let names: Vec<_> = second.secret_list().iter().map(|s| s.name().unwrap()).collect();
    assert_eq!(names, ["s2", "s3"]);
}

#[tokio::test]
async fn a_listing_refuses_what_is_out_of_range() {
    let bed = bed();
    (0..3).for_each(|n| drop(bed.create(&format!("s{n}"), "x")));
    let list = || bed.admin.list_secrets();
    let token = list()
        .max_results(1)
        .send()
        .await
        .unwrap()
        .next_token()
        .unwrap()
        .to_owned();
    for (request, expected) in [
        (list().max_results(0), "ValidationException"),
        (list().max_results(101), "ValidationException"),
        (list().max_results(100), "ok"),
        (list().next_token("nonsense"), "InvalidNextTokenException"),
        (list().next_token(&token), "ok"),
        (
            list().next_token(&token).filters(filter("name", &["s"])),
            "InvalidNextTokenException",
        ),
        (list().filters(filter("color", &["s"])), "ValidationException"),
        (list().filters(filter("name", &["s"; 11])), "ValidationException"),
        (
            list().set_filters(Some(vec![filter("name", &["s"]); 11])),
            "ValidationException",
        ),
    ] {
        assert_eq!(code(&request.send().await), expected);
    }
}

#[tokio::test]
async fn filters_match_as_documented() {
    let bed = bed();
    let a = bed.create("prod/db", "x");
    let b = bed.create("prod/api", "x");
    bed.create("Dev/db", "x");
    bed.aws.set_description(&a, "Main database").unwrap();
    bed.aws.tag_secret(&a, "team", "blue").unwrap();
    bed.aws.tag_secret(&b, "team", "Red").unwrap();
    for (filters, expected) in [
        (vec![filter("name", &["prod/"])], vec!["prod/db", "prod/api"]),
        (vec![filter("name", &["dev"])], vec![]),
        (vec![filter("name", &["db"])], vec![]),
        (vec![filter("name", &["!prod/"])], vec!["Dev/db"]),
        (
            vec![filter("name", &["Dev", "prod/a"])],
            vec!["prod/api", "Dev/db"],
        ),
        (vec![filter("description", &["main"])], vec!["prod/db"]),
        (vec![filter("tag-key", &["te"])], vec!["prod/db", "prod/api"]),
        (vec![filter("tag-value", &["red"])], vec![]),
        (
            vec![filter("tag-key", &["team"]), filter("tag-value", &["Red"])],
            vec!["prod/api"],
        ),
        (vec![filter("all", &["DB"])], vec!["prod/db", "Dev/db"]),
        (vec![filter("all", &["database blue"])], vec!["prod/db"]),
    ] {
        assert_eq!(names(&bed, &filters).await, expected, "{filters:?}");
    }
}

#[tokio::test]
async fn a_deleted_secret_is_listed_only_on_demand() {
    let bed = bed();
    let arn = bed.create("a", "x");
    bed.aws.delete_secret(&arn).unwrap();
    assert!(names(&bed, &[]).await.is_empty());
    let page = bed
        .admin
        .list_secrets()
        .include_planned_deletion(true)
        .send()
        .await
        .unwrap();
    assert!(page.secret_list()[0].deleted_date().is_some());
}

#[tokio::test]
async fn a_listing_shows_stages_and_keeps_to_its_account_and_region() {
    let bed = bed();
    let arn = bed.create("a", "x");
    bed.aws.create_secret(ACCOUNT, "us-east-1", "b", "x").unwrap();
    bed.aws.create_secret(super::OTHER, REGION, "c", "x").unwrap();
    let page = bed.admin.list_secrets().send().await.unwrap();
    assert_eq!(page.secret_list().len(), 1);
    let entry = &page.secret_list()[0];
    assert_eq!(entry.arn(), Some(arn.as_str()));
    let current = bed.aws.stages(&arn).unwrap()["AWSCURRENT"].clone();
    assert_eq!(
        entry.secret_versions_to_stages().unwrap()[&current],
        ["AWSCURRENT"]
    );
}
