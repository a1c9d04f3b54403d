//! Policy documents in the shapes that users write most.

use serde_json::json;

/// An identity policy that allows `actions` on `resources`.
pub fn allow(actions: &[&str], resources: &[&str]) -> String {
    json!({
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": actions, "Resource": resources}],
    })
    .to_string()
}

/// A trust policy for one `ServiceAccount` of a cluster (IRSA): the role's account must know the issuer, which any
/// account here does. `subject` may hold wildcards.
pub fn trust_service_account(account: &str, issuer: &str, subject: &str) -> String {
    let provider = issuer.trim_start_matches("https://");
    json!({
        "Version": "2012-10-17",
        "Statement": [{
            "Effect": "Allow",
            "Principal": {"Federated": format!("arn:aws:iam::{account}:oidc-provider/{provider}")},
            "Action": "sts:AssumeRoleWithWebIdentity",
            "Condition": {
                "StringEquals": {format!("{provider}:aud"): "sts.amazonaws.com"},
                "StringLike": {format!("{provider}:sub"): subject},
            },
        }],
    })
    .to_string()
}

/// A trust policy for a user, role, or a whole account (`arn:aws:iam::ACCOUNT:root`). With tags allowed, and the
/// external id demanded if given.
pub fn trust_principal(arn: &str, external_id: Option<&str>) -> String {
    let condition =
        external_id.map_or_else(|| json!({}), |id| json!({"StringEquals": {"sts:ExternalId": id}}));
    json!({
        "Version": "2012-10-17",
        "Statement": [{
            "Effect": "Allow",
            "Principal": {"AWS": arn},
            "Action": ["sts:AssumeRole", "sts:TagSession"],
            "Condition": condition,
        }],
    })
    .to_string()
}

/// A resource policy that lets a principal of another account read a secret.
pub fn share_with(arn: &str) -> String {
    json!({
        "Version": "2012-10-17",
        "Statement": [{
            "Effect": "Allow",
            "Principal": {"AWS": arn},
            "Action": ["secretsmanager:GetSecretValue", "secretsmanager:DescribeSecret"],
            "Resource": "*",
        }],
    })
    .to_string()
}
